"""/auth: how a session begins, goes on and ends, in one process over a real PostgreSQL."""

from __future__ import annotations

import asyncio
import json

import pytest

from kontract.coordination.shell import CoordinatorShell
from kontract.core import limits
from kontract.core.security import passwords
from kontract.server.crypto import NativeCrypto
from kontract.server.database import AsyncpgDatabase
from support.api import check_error
from support.auth import EVERY_WAY, PASSWORD, Auth, claims, credentials, later, ran
from support.sessions import OWNER, token

pytestmark = pytest.mark.asyncio(loop_scope="module")

# --- beginning -------------------------------------------------------------------------------------------------------


async def test_an_anonymous_session(auth):
    """A new user each time, without an account, for the tenant of the deployment."""
    first, second = await auth.ok("anonymous"), await auth.ok("anonymous", {"owner": "tenant-9"})
    assert set(first) == {"token", "expires_in", "refresh_token", "owner", "user"}
    assert (first["owner"], second["owner"], first["expires_in"]) == (OWNER, OWNER, limits.ACCESS_SECONDS)
    assert first["user"] != second["user"]
    me = json.loads((await auth.post("me", bearer=first["token"], method="GET")).body)
    assert me == {
        "owner": OWNER, "user": first["user"], "anonymous": True, "ugroups": [], "perm": 7,
        "sid": claims(first["token"])["sid"], "expires_at": claims(first["token"])["exp"],
    }  # fmt: skip
    assert await auth.is_alive(first["token"])
    assert first["user"] not in [row["user"] for row in await auth.rows("sessions")], "it costs no row"


async def test_registering_and_logging_in(auth):
    """With the real hash: the password opens the account, from then on in sessions of their own."""
    auth.api.platform.crypto = NativeCrypto()
    try:
        made = await auth.ok("register", credentials("ann"))
        again = await auth.ok("login", credentials("ann"))
        await auth.fails(401, "UNAUTHORIZED", "login", credentials("ann", PASSWORD + "!"))
    finally:
        auth.api.platform.crypto = auth.crypto
    assert made["user"] == again["user"]
    assert claims(made["token"])["sid"] != claims(again["token"])["sid"]
    assert claims(made["token"])["anon"] is False
    row = next(row for row in await auth.rows("users") if row["id"] == "ann")
    assert row["password"].startswith("$scrypt$ln=15,r=8,p=3$")
    assert PASSWORD not in str(row)


@pytest.mark.parametrize(
    ("written", "kept"),
    [
        ("Bob@Example.COM", "bob@example.com"),
        ("  carol  ", "carol"),
        ("\tdave\n", "dave"),
        ("x", "x"),
        ("0", "0"),
        ("e" * limits.NAME_LENGTH, "e" * limits.NAME_LENGTH),
        ("\u212aelvin", "kelvin"),  # the sign for kelvin, whose small letter is an ordinary k
        ("a.b_c@d+e-f", "a.b_c@d+e-f"),
    ],
)
async def test_a_name_is_one_name_however_it_is_written(auth, written, kept):
    """Whoever registers it again, or logs in, may write it in either way."""
    made = await auth.ok("register", credentials(written))
    assert kept in [row["id"] for row in await auth.rows("users")]
    for name in {written, kept, kept.upper()}:
        message = await auth.fails(409, "ALREADY_EXISTS", "register", credentials(name))
        assert message == f"the name {kept!r} is taken"
        assert (await auth.ok("login", credentials(name)))["user"] == made["user"]


@pytest.mark.parametrize(
    "name",
    [
        "", " ", "a b", ".a", "-a", "_a", "@", "a/b", "a\x00b", "ä", "a\u200b", "\uff41",
        "e" * (limits.NAME_LENGTH + 1),
        "<script>", "a'--", "a\r\nb", "İ", 5, None, ["a"], {"a": 1}, True,
    ],
)  # fmt: skip
async def test_names_that_are_none(auth, name):
    """400 and what a name is; the password's hash is not even begun."""
    message = await auth.fails(400, "INVALID_REQUEST", "register", {"name": name, "password": PASSWORD})
    assert "name" in message
    assert auth.crypto.asked == []


@pytest.mark.parametrize(
    ("password", "good"),
    [
        ("x" * (limits.PASSWORD_LEAST - 1), False),
        ("x" * limits.PASSWORD_LEAST, True),
        ("x" * limits.PASSWORD_BYTES, True),
        ("x" * (limits.PASSWORD_BYTES + 1), False),
        ("é" * (limits.PASSWORD_BYTES // 2), True),
        ("é" * (limits.PASSWORD_BYTES // 2 + 1), False),
        ("a\u0301" * 50_000, False),
        ("", False),
        (1234567890, False),
        (None, False),
    ],
)
async def test_the_lengths_of_a_password(auth, password, good):
    """At the limits it is taken, beyond them refused with a sentence that does not repeat it."""
    name = f"length-{abs(hash(str(password)))}"
    if good:
        await auth.ok("register", {"name": name, "password": password})
        await auth.ok("login", {"name": name, "password": password})
    else:
        assert "password" in await auth.fails(400, "INVALID_REQUEST", "register", {"name": name, "password": password})


async def test_one_name_is_given_once_whoever_asks_at_the_same_time(auth):
    """Five at once: one account, four refusals, and the account is the winner's."""
    answers = await asyncio.gather(
        *[auth.post("register", credentials("race", f"password number {n}")) for n in range(5)]
    )
    assert sorted(answer.status for answer in answers) == [201, 409, 409, 409, 409]
    winner = [answer.status for answer in answers].index(201)
    made = await auth.ok("login", credentials("race", f"password number {winner}"))
    assert made["user"] == json.loads(answers[winner].body)["user"]
    assert [row["id"] for row in await auth.rows("users")].count("race") == 1


async def test_logging_in_says_and_costs_the_same_whatever_is_wrong(auth):
    """The whole body, the headers, and one derivation with the parameters of today."""
    await auth.ok("register", credentials("eve"))
    said, cost = set(), set()
    attempts = [
        ("eve", "another password"), ("eve", ""), ("eve", "x" * 5000), ("nobody", PASSWORD), ("nobody", ""),
        ("", PASSWORD), ("no such name/", PASSWORD), ("a\x00b", PASSWORD), ("x" * 5000, PASSWORD),
        ("ä" * 300, PASSWORD),
        ("eve/127.0.0.1", PASSWORD),
    ]  # fmt: skip
    for name, password in attempts:
        auth.crypto.asked.clear()
        response = await auth.post("login", credentials(name, password))
        body = check_error(response, 401, "UNAUTHORIZED")
        del body["request_id"]
        headers = {k: v for k, v in response.headers.items() if k not in ("X-Request-Id", "Server-Timing")}
        said.add((json.dumps(body), json.dumps(headers)))
        cost.add(tuple(auth.crypto.asked))
    assert len(said) == 1
    assert cost == {((1 << passwords.LOG_N, passwords.R, passwords.P, passwords.HASH_BYTES),)}


# --- an anonymous user gets an account -------------------------------------------------------------------------------


async def test_linking_keeps_the_user_and_its_rows(auth):
    """The old session ends with it: there is one session fewer that nobody remembers."""
    before = await auth.ok("anonymous")
    await auth.result(before["token"], "write_note", "mine")
    after = await auth.ok("link", credentials("linked"), before["token"])
    assert (after["user"], after["owner"]) == (before["user"], before["owner"])
    assert await auth.result(after["token"], "read_notes") == ["mine"]
    assert not await auth.is_alive(before["token"])
    await auth.fails(401, "UNAUTHORIZED", "refresh", {"refresh_token": before["refresh_token"]})
    assert await auth.result((await auth.ok("login", credentials("linked")))["token"], "read_notes") == ["mine"]
    me = json.loads((await auth.post("me", bearer=after["token"], method="GET")).body)
    assert me["anonymous"] is False


async def test_one_session_becomes_one_account(auth):
    """One after the other, and five at the same time."""
    first = await auth.ok("anonymous")
    await auth.ok("link", credentials("once-a"), first["token"])
    await auth.fails(401, "UNAUTHORIZED", "link", credentials("once-b"), first["token"])
    second = await auth.ok("anonymous")
    answers = await asyncio.gather(*[auth.post("link", credentials(f"at-once-{n}"), second["token"]) for n in range(5)])
    assert sorted(answer.status for answer in answers) == [200, 401, 401, 401, 401]
    users = [row["user"] for row in await auth.rows("users")]
    assert (users.count(first["user"]), users.count(second["user"])) == (1, 1)
    assert "once-b" not in [row["id"] for row in await auth.rows("users")]


async def test_who_cannot_be_linked(auth):
    """A taken name leaves the session as it was; accounts, ended sessions and strangers have nothing to link."""
    await auth.ok("register", credentials("taken"))
    before = await auth.ok("anonymous")
    await auth.fails(409, "ALREADY_EXISTS", "link", credentials("taken"), before["token"])
    assert await auth.is_alive(before["token"])
    await auth.fails(400, "INVALID_REQUEST", "link", credentials("short", "short"), before["token"])
    account = await auth.ok("login", credentials("taken"))
    await auth.fails(403, "FORBIDDEN", "link", credentials("second"), account["token"])
    await auth.fails(401, "UNAUTHORIZED", "link", credentials("second"))
    await auth.fails(401, "UNAUTHORIZED", "link", credentials("second"), before["refresh_token"])
    await auth.post("logout", bearer=before["token"])
    await auth.fails(401, "UNAUTHORIZED", "link", credentials("second"), before["token"])
    assert "second" not in [row["id"] for row in await auth.rows("users")]


async def test_a_linked_user_stays_in_its_tenant(auth):
    """The account is of the tenant that the token names, not of the one that strangers join."""
    made = await auth.ok("link", credentials("elsewhere"), token(owner="tenant-2", user="guest", anonymous=True))
    assert (made["owner"], made["user"]) == ("tenant-2", "guest")
    assert (await auth.ok("login", credentials("elsewhere")))["owner"] == "tenant-2"


# --- going on --------------------------------------------------------------------------------------------------------


HOME = "192.0.2.8"


async def renew(auth: Auth, refresh: str, client: str = "") -> dict:
    return await auth.ok("refresh", {"refresh_token": refresh}, client=client)


async def test_each_refresh_gives_the_next_token(auth):
    """The same session and the same person, for as long as somebody comes back within 30 days."""
    made = await auth.ok("register", credentials("stays"))
    for n in range(1, 5):
        await later(auth, limits.REFRESH_SECONDS - 60)
        made = await renew(auth, made["refresh_token"])
        assert claims(made["refresh_token"])["gen"] == n
        assert await auth.is_alive(made["token"])
    assert claims(made["token"])["anon"] is False
    await later(auth, limits.REFRESH_SECONDS)
    await auth.fails(401, "UNAUTHORIZED", "refresh", {"refresh_token": made["refresh_token"]})
    anonymous = await auth.ok("anonymous")
    assert claims((await renew(auth, anonymous["refresh_token"]))["token"])["anon"] is True


async def test_the_token_before_the_newest_has_a_minute(auth):
    """Its answer may have been lost on the way; both answers lead on."""
    made = await auth.ok("anonymous")
    first = await renew(auth, made["refresh_token"], HOME)
    await later(auth, limits.REFRESH_GRACE_MS / 1000 - 5)
    again = await renew(auth, made["refresh_token"], HOME)
    assert claims(first["refresh_token"])["gen"] == claims(again["refresh_token"])["gen"] == 1
    await renew(auth, again["refresh_token"], "192.0.2.44")
    assert await auth.is_alive(first["token"])


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        (HOME, "192.0.2.9", False),
        (HOME, "", False),
        ("", "", False),
        ("2001:db8:1:2::1", "2001:db8:1:2:3::1", True),
        ("2001:db8:1:2::1", "2001:db8:1:3::1", False),
        ("::ffff:192.0.2.8", HOME, True),
    ],
)
async def test_within_the_minute_another_address_is_somebody_else(auth, first, second, same):
    """Whoever has stolen a refresh token cannot use it beside its owner: both sessions are over, and both notice."""
    made = await auth.ok("anonymous")
    mine = await renew(auth, made["refresh_token"], first)
    response = await auth.post("refresh", {"refresh_token": made["refresh_token"]}, client=second)
    assert response.status == (200 if same else 401)
    assert await auth.is_alive(mine["token"]) is same
    kept = await auth.post("refresh", {"refresh_token": mine["refresh_token"]}, client=first)
    assert kept.status == (200 if same else 401)


async def test_no_address_is_kept_as_it_is(auth):
    """Neither with a session nor with an account: digests, and other ones for each of them."""
    one, two = await auth.ok("anonymous"), await auth.ok("anonymous")
    for made in (one, two):
        await renew(auth, made["refresh_token"], HOME)
    await auth.ok("register", credentials("placed-1"), client=HOME)
    await auth.ok("register", credentials("placed-2"), client=HOME)
    sids = {claims(made["token"])["sid"] for made in (one, two)}
    places = [row["place"] for row in await auth.rows("sessions") if row["id"] in sids]
    places += [place for row in await auth.rows("users") if row["id"].startswith("placed-") for place in row["places"]]
    assert len(set(places)) == 4
    assert all(len(place) == 32 and "192" not in place for place in places)


async def test_two_refreshes_at_once_are_one(auth):
    """Two tabs of one browser do not end each other's session."""
    made = await auth.ok("anonymous")
    answers = await asyncio.gather(*[renew(auth, made["refresh_token"], HOME) for _ in range(4)])
    assert {claims(answer["refresh_token"])["gen"] for answer in answers} == {1}
    assert await auth.is_alive(answers[0]["token"])


@pytest.mark.parametrize("how", ["after the minute", "two before the newest", "twice after the minute"])
async def test_a_token_that_is_used_again_ends_the_session_everywhere(auth, make, how):
    """Somebody else has it, too, and nobody knows who of the two it is: access tokens on all nodes end with it."""
    other = make(platform=auth.api.platform)
    other.platform.log = lambda level, event, **fields: auth.api.log.append({"event": event, **fields})
    made = await auth.ok("anonymous")
    newest = await renew(auth, made["refresh_token"])
    if how == "two before the newest":
        newest = await renew(auth, newest["refresh_token"])
    else:
        await later(auth, limits.REFRESH_GRACE_MS / 1000 + 1)
    assert await auth.is_alive(newest["token"], [auth.api, other])
    for _ in range(2 if how.startswith("twice") else 1):
        await auth.fails(401, "UNAUTHORIZED", "refresh", {"refresh_token": made["refresh_token"]})
    assert not await auth.is_alive(newest["token"], [auth.api, other])
    assert not await auth.is_alive(made["token"], [auth.api, other])
    await auth.fails(401, "UNAUTHORIZED", "refresh", {"refresh_token": newest["refresh_token"]})
    assert await auth.is_alive((await auth.ok("anonymous"))["token"])


async def test_groups_come_with_the_next_token_and_a_deleted_account_gets_none(auth):
    """An operator who changes an account need not wait for a login."""
    made = await auth.ok("register", credentials("member"))
    await auth.api.sql.execute(
        """UPDATE tbl_users_c41d7a SET data = data || '{"ugroups": ["admin"]}' WHERE id = 'member'"""
    )
    made = await renew(auth, made["refresh_token"])
    assert claims(made["token"])["ugroups"] == ["admin"]
    assert claims((await auth.ok("login", credentials("member")))["token"])["ugroups"] == ["admin"]
    await auth.api.sql.execute("DELETE FROM tbl_users_c41d7a WHERE id = 'member'")
    await auth.fails(401, "UNAUTHORIZED", "refresh", {"refresh_token": made["refresh_token"]})
    assert not await auth.is_alive(made["token"]), "and the session is over"


@pytest.mark.parametrize("what", ["", "x", "a.b.c", 5, None])
async def test_what_refreshes_nothing(auth, what):
    """Texts that are no refresh token, and what is no text."""
    expected = (401, "UNAUTHORIZED") if isinstance(what, str) else (400, "INVALID_REQUEST")
    await auth.fails(*expected, "refresh", {"refresh_token": what})
    made = await auth.ok("anonymous")
    await auth.fails(401, "UNAUTHORIZED", "refresh", {"refresh_token": made["token"]})


# --- ending ----------------------------------------------------------------------------------------------------------


async def test_after_logging_out_nothing_is_answered_anywhere(auth, make):
    """Reading, writing, writing blindly, functions without storage, middleware that answers, on every node."""
    other = make(platform=auth.api.platform)
    other.platform.log = lambda level, event, **fields: auth.api.log.append({"event": event, **fields})
    await auth.ok("register", credentials("leaves"))
    here, there = await auth.ok("login", credentials("leaves")), await auth.ok("login", credentials("leaves"))
    renewed = await renew(auth, here["refresh_token"])
    before = await auth.api.sql.fetchval("SELECT count(*) FROM tbl_notes")
    ran.clear()
    assert (await auth.post("logout", bearer=here["token"])).status == 204
    for made in (here["token"], renewed["token"]):
        assert not await auth.is_alive(made, [other, auth.api])
    for refresh in (here["refresh_token"], renewed["refresh_token"]):
        await auth.fails(401, "UNAUTHORIZED", "refresh", {"refresh_token": refresh})
    assert ran == [], "what was planned for after the commit is not done either"
    assert await auth.api.sql.fetchval("SELECT count(*) FROM tbl_notes") == before
    assert (await auth.post("logout", bearer=here["token"])).status == 204, "again is no mistake"
    assert await auth.is_alive(there["token"], [other, auth.api]), "other sessions of the same user go on"
    await auth.fails(401, "UNAUTHORIZED", "logout")
    await auth.fails(401, "UNAUTHORIZED", "logout", bearer=there["refresh_token"])


async def test_the_answer_to_an_ended_session_is_that_to_a_forged_one(auth):
    """Nobody learns that it was good once."""
    made = await auth.ok("anonymous")
    await auth.post("logout", bearer=made["token"])
    bodies = set()
    for bearer in (made["token"], made["token"][:-3] + "abc"):
        for function, *args in EVERY_WAY:
            response = await auth.call(bearer, function, *args)
            body = check_error(response, 401, "UNAUTHORIZED")
            del body["request_id"]
            bodies.add((json.dumps(body), response.headers["WWW-Authenticate"]))
    assert len(bodies) == 1


class Away:
    """The database does not answer while ``away``."""

    def __init__(self, auth: Auth) -> None:
        self.platform = auth.api.platform

    def __enter__(self) -> None:
        self.open = self.platform.open_database
        self.platform.open_database = lambda: AsyncpgDatabase("postgresql://nobody@127.0.0.1:1/nothing")

    def __exit__(self, *_: object) -> None:
        self.platform.open_database = self.open


def restart(auth: Auth, owner: str) -> None:
    """A new coordinator on the journal of the old one."""
    platform = auth.api.platform
    old = platform._shells[owner]
    platform._shells[owner] = CoordinatorShell(
        owner, old._journal, platform.open_database, platform.clock, platform.log
    )


async def test_logging_out_survives_a_restart_of_the_coordinator(auth):
    """It is journalled; and a coordinator that cannot start lets nobody in on trust."""
    made, other = await auth.ok("anonymous"), await auth.ok("anonymous")
    await auth.post("logout", bearer=made["token"])
    restart(auth, OWNER)
    assert not await auth.is_alive(made["token"])
    assert await auth.is_alive(other["token"])


async def test_a_coordinator_that_cannot_start_lets_nobody_in(auth):
    """A function without storage, and /auth/me: 503 instead of an answer for a session that may have ended."""
    made = await auth.ok("anonymous")
    owner = auth.api.platform._shells.pop(OWNER)
    try:
        with Away(auth):
            for function in ("without_storage", "answered_outside"):
                check_error(await auth.call(made["token"], function), 503, "UNAVAILABLE")
            await auth.fails(503, "UNAVAILABLE", "me", bearer=made["token"], method="GET")
            await auth.fails(503, "UNAVAILABLE", "logout", bearer=made["token"])
    finally:
        auth.api.platform._shells[OWNER] = owner
    assert await auth.is_alive(made["token"])


async def test_a_database_that_is_away_is_not_a_wrong_password(auth):
    """503 for everything that needs it, with the right password and with a wrong one."""
    made = await auth.ok("register", credentials("patient"))
    anonymous = await auth.ok("anonymous")
    with Away(auth):
        for password in (PASSWORD, "not the password"):
            await auth.fails(503, "UNAVAILABLE", "login", credentials("patient", password))
        await auth.fails(503, "UNAVAILABLE", "register", credentials("patient-2"))
        await auth.fails(503, "UNAVAILABLE", "refresh", {"refresh_token": made["refresh_token"]})
        await auth.fails(503, "UNAVAILABLE", "link", credentials("patient-3"), anonymous["token"])
        await auth.ok("anonymous")
    assert (await auth.ok("login", credentials("patient")))["user"] == made["user"]
    await renew(auth, made["refresh_token"])
    assert await auth.is_alive(made["token"])
