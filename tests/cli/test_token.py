"""`kontract token`: what it makes is accepted, and what nobody would accept it does not make."""

from __future__ import annotations

import time

import pytest

from kontract.cli.main import main
from kontract.core import limits
from kontract.core.model.perms import ALL, NAMES
from kontract.core.security import keys
from kontract.gateway.tokens import Kind, Tokens
from support.sessions import SECRET

pytestmark = pytest.mark.usefixtures("secret")


@pytest.fixture
def secret(monkeypatch):
    monkeypatch.setenv("KONTRACT_SECRET", SECRET)


def read(token):
    return Tokens(keys.ring(bytes.fromhex(SECRET))).read(token, Kind.ACCESS, time.time_ns() // 1_000_000)


def made(capsys, *arguments):
    """The session of the token that it prints."""
    assert main(["token", *arguments]) == 0
    return read(capsys.readouterr().out.strip())


def refused(capsys, *arguments):
    """The sentence with which it refuses; no token is printed."""
    assert main(["token", *arguments]) == 1
    told = capsys.readouterr()
    assert told.out == ""
    return told.err


def groups(count, name="group-{}"):
    return [argument for number in range(count) for argument in ("--group", name.format(number))]


def test_a_token_says_what_it_was_asked_to(capsys):
    """Tenant, user, groups, rights and time, each as given; without any of them the developer of tenant-1."""
    claims = made(
        capsys, "--owner", "t2", "--user", "ann", "--group", "a", "--group", "b", "--perm", "R__", "--hours", "2"
    )
    assert (claims.owner, claims.sub, claims.ugroups, claims.perm) == ("t2", "ann", ["a", "b"], NAMES["R__"])
    assert claims.exp - claims.iat == 7200
    claims = made(capsys)
    assert (claims.owner, claims.sub, claims.ugroups, claims.perm) == ("tenant-1", "developer", [], ALL)


def test_it_shows_what_a_token_says(capsys):
    """--read names everything that counts, and does not take a token of another secret."""
    assert main(["token", "--group", "admin", "--perm", "R__"]) == 0
    token = capsys.readouterr().out.strip()
    assert main(["token", "--read", token]) == 0
    said = capsys.readouterr().out
    assert "access token of user 'developer' of tenant 'tenant-1'; groups: admin; may do R__" in said
    signed, _, signature = token.rpartition(".")
    forged = f"{signed}.{'B' if signature[0] == 'A' else 'A'}{signature[1:]}"
    assert "not valid here" in refused(capsys, "--read", forged)


def test_as_many_groups_as_an_account_may_have(capsys):
    """32 go, a repeated one counts once; 33 do not, and a sentence says so."""
    claims = made(capsys, *groups(limits.GROUPS), *groups(1))
    assert len(claims.ugroups) == limits.GROUPS
    said = refused(capsys, *groups(limits.GROUPS + 1))
    assert f"at most {limits.GROUPS} groups" in said
    assert f"but got {limits.GROUPS + 1}" in said
    assert "with non-empty names" in refused(capsys, "--group", "")


@pytest.mark.parametrize("arguments", [["--user", "x" * 4096], groups(limits.GROUPS, "x" * 120 + "{}")])
def test_a_token_that_no_server_reads_is_not_made(capsys, arguments):
    """Longer than TOKEN_BYTES: whoever got it would be told that it is not valid, and not why."""
    said = refused(capsys, *arguments)
    assert f"servers accept {limits.TOKEN_BYTES} at most" in said


def test_the_longest_token_that_is_made_is_read(capsys):
    """The bound is the server's own, to the character."""
    longest = 0
    for length in range(2700, 3000, 3):
        if main(["token", "--user", "x" * length]) == 0:
            token = capsys.readouterr().out.strip()
            assert read(token).sub == "x" * length
            longest = max(longest, len(token))
    assert limits.TOKEN_BYTES - 4 <= longest <= limits.TOKEN_BYTES


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--owner", "__system"], "is not a valid tenant"),
        (["--user", ""], "needs a user"),
        (["--hours", "0"], "0 to 8784 hours"),
        (["--hours", "9000"], "0 to 8784 hours"),
    ],
)
def test_what_makes_no_sense_is_refused(capsys, arguments, says):
    """With a sentence, and without a token."""
    assert says in refused(capsys, *arguments)
