"""/auth: who may use it, how often, and with what bodies."""

from __future__ import annotations

import json

import pytest

from kontract.core import limits
from support.api import check_error
from support.auth import Auth, credentials, later
from support.sessions import ENVIRONMENT, OWNER, SECRET, token

pytestmark = pytest.mark.asyncio(loop_scope="module")

# --- throttles -------------------------------------------------------------------------------------------------------


async def attempt(auth: Auth, name: str, client: str) -> int:
    response = await auth.post("login", credentials(name, "not the password"), client=client)
    if response.status == 429:
        assert 1 <= int(response.headers["Retry-After"]) <= limits.LOGIN_WINDOW_SECONDS
        check_error(response, 429, "RATE_LIMITED")
    return response.status


async def test_attempts_from_one_address_for_one_account(auth, monkeypatch):
    """At the limit they are still looked at; beyond it not even hashed, until the window has passed."""
    monkeypatch.setattr(limits, "LOGINS_PER_PAIR", 3)
    await auth.ok("register", credentials("pair"))
    auth.crypto.asked.clear()
    assert [await attempt(auth, "pair", "198.51.100.1") for _ in range(5)] == [401, 401, 401, 429, 429]
    assert len(auth.crypto.asked) == 3
    right = await auth.post("login", credentials("pair"), client="198.51.100.1")
    assert right.status == 429, "also with the right password"
    assert await attempt(auth, " PAIR ", "198.51.100.1") == 429, "however the name is written"
    assert await attempt(auth, "pair-2", "198.51.100.1") == 401, "another account from the same address"
    assert await attempt(auth, "pair", "198.51.100.2") == 401, "the same account from another address"
    await later(auth, limits.LOGIN_WINDOW_SECONDS - 5)
    assert await attempt(auth, "pair", "198.51.100.1") == 429
    await later(auth, 6)
    assert (await auth.post("login", credentials("pair"), client="198.51.100.1")).status == 200


async def test_attempts_for_one_account_from_everywhere(auth, monkeypatch):
    """A stranger needs many addresses to try, and then others are not kept from other accounts."""
    monkeypatch.setattr(limits, "LOGINS_PER_ACCOUNT", 4)
    addresses = [f"203.0.113.{n}" for n in range(6)]
    assert [await attempt(auth, "wanted", address) for address in addresses] == [401] * 4 + [429] * 2
    assert await attempt(auth, "wanted", "") == 429, "where the platform knows no address, too"
    assert await attempt(auth, "not-wanted", addresses[0]) == 401


async def test_attempts_from_one_address_for_all_accounts(auth, monkeypatch):
    """And once it is over its limit, an address does not make the gateway remember the names that it thinks of."""
    monkeypatch.setattr(limits, "LOGINS_PER_ADDRESS", 3)
    assert [await attempt(auth, f"guess-{n}", "192.0.2.1") for n in range(4)] == [401, 401, 401, 429]
    kept = auth.api.platform._shared["__system"]._rows.count()
    assert [await attempt(auth, f"more-{n}", "192.0.2.1") for n in range(20)] == [429] * 20
    assert auth.api.platform._shared["__system"]._rows.count() == kept
    assert await attempt(auth, "guess-9", "192.0.2.2") == 401


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        ("2001:db8:1:2::1", "2001:db8:1:2:ffff:ffff:ffff:ffff", True),
        ("2001:db8:1:3::1", "2001:DB8:1:3:0:0:0:2", True),
        ("2001:db8:1:4::1", "2001:db8:1:5::1", False),
        ("::ffff:192.0.2.77", "192.0.2.77", True),
        ("::ffff:192.0.2.78", "192.0.2.79", False),
        ("not an address", "192.0.2.80", False),
    ],
)
async def test_who_counts_as_one_address(auth, monkeypatch, first, second, same):
    """A subscriber of IPv6 has 64 bits of addresses for the asking; a mapped address is the one that is mapped."""
    monkeypatch.setattr(limits, "LOGINS_PER_ADDRESS", 1)
    assert await attempt(auth, "someone", first) == 401
    assert await attempt(auth, "someone-else", second) == (429 if same else 401)


async def test_signing_up_is_throttled_by_address(auth, monkeypatch):
    """All three ways together; without an address there is nothing to count by."""
    monkeypatch.setattr(limits, "SIGN_UPS_PER_ADDRESS", 3)
    made = await auth.ok("anonymous", client="192.0.2.100")
    await auth.ok("register", credentials("signs-up"), client="192.0.2.100")
    await auth.ok("link", credentials("signs-up-2"), made["token"], client="192.0.2.100")
    other = await auth.ok("anonymous", client="192.0.2.101")
    auth.crypto.asked.clear()
    await auth.fails(429, "RATE_LIMITED", "anonymous", client="192.0.2.100")
    await auth.fails(429, "RATE_LIMITED", "register", credentials("signs-up-3"), client="192.0.2.100")
    await auth.fails(429, "RATE_LIMITED", "link", credentials("signs-up-3"), other["token"], client="192.0.2.100")
    assert auth.crypto.asked == []
    for _ in range(5):
        await auth.ok("anonymous")


# --- who may, and with what ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sign_up", "owner", "open_ways"),
    [
        ("anonymous register", OWNER, {"anonymous", "register"}),
        ("anonymous,register", OWNER, {"anonymous", "register"}),
        ("anonymous", OWNER, {"anonymous"}),
        ("register", OWNER, {"register"}),
        ("", OWNER, set()),
        (None, OWNER, set()),
        ("anonymous register", "", set()),
        ("anonymous register", None, set()),
    ],
)
async def test_signing_up_is_open_where_the_deployment_says_so(auth, make, sign_up, owner, open_ways):
    """Closed by default. Whoever has a token or an account goes on, whatever is closed for others."""
    made = await auth.ok("register", credentials(f"closed-{hash((sign_up, owner))}"))
    environment = {"KONTRACT_SECRET": SECRET, "KONTRACT_SIGN_UP": sign_up, "KONTRACT_OWNER": owner}
    auth.api.platform.environment = {name: value for name, value in environment.items() if value is not None}
    try:
        here = Auth(make(platform=auth.api.platform), auth.crypto)
        name = f"opened-{hash((sign_up, owner))}"
        guest = token(anonymous=True, user=name)
        for way, body, bearer in [("anonymous", None, None), ("register", credentials(name), None),
                                  ("link", credentials(f"{name}-2"), guest)]:  # fmt: skip
            response = await here.post(way, body, bearer)
            needs = "register" if way == "link" else way
            if needs in open_ways:
                assert response.status in (200, 201), response.body
            else:
                assert "ask whoever runs this for a token" in check_error(response, 403, "FORBIDDEN")["message"]
        assert (await here.post("login", credentials(f"closed-{hash((sign_up, owner))}"))).status == 200
        await here.ok("refresh", {"refresh_token": made["refresh_token"]})
        everybody = await here.call(None, "for_everybody")
        assert everybody.status == (200 if owner else 401)
        if owner:
            assert json.loads(everybody.body)["result"] == [OWNER, "public", "", True]
    finally:
        auth.api.platform.environment = ENVIRONMENT


@pytest.mark.parametrize("way", ["register", "login", "link", "refresh"])
@pytest.mark.parametrize(
    "body",
    [
        b"", b"null", b"[]", b'"text"', b"5", b"{}", b"{", b"\xff", b"\xef\xbb\xbf{}", b"[" * 100_000,
        b'{"name": {"a": ' * 20_000, b'{"name": NaN}', b'{"name": 1' + b"0" * 5000 + b"}",
        b"[]" * 33 + b'"' + b'\\"' * 500_000, b'{"name": "\\ud800", "password": "xxxxxxxxxxxx"}',
        b'{"name": "a", "password": "xxxxxxxxxxxx", "owner": "tenant-2"}', b'{"refresh_token": "x", "owner": "t"}',
        b'{"name": "a", "name": "b", "password": "xxxxxxxxxxxx"}', b'{"refresh_token": "x", "refresh_token": "y"}',
        b'{"name": "a", "n\\u0061me": "b", "password": "xxxxxxxxxxxx"}',
        b'{"name": "a"}', b'{"password": "xxxxxxxxxxxx"}', b'{"Name": "a", "Password": "xxxxxxxxxxxx"}',
        b'[["name", "a"], ["password", "xxxxxxxxxxxx"]]', b"name=a&password=xxxxxxxxxxxx",
    ],
    ids=lambda body: f"{len(body)} {body[:40].decode(errors='replace')}",
)  # fmt: skip
async def test_bodies_that_are_wrong(auth, way, body):
    """400 and what is expected, whatever was sent; nothing is hashed."""
    bearer = token(anonymous=True) if way == "link" else None
    message = await auth.fails(400, "INVALID_REQUEST", way, body, bearer)
    assert len(message) < 400
    assert auth.crypto.asked == []


async def test_a_body_that_is_too_large(auth):
    """At the limit it is read, one byte more is not."""
    start = b'{"name": "a", "password": "'
    for size, status in ((limits.BODY_BYTES, 400), (limits.BODY_BYTES + 1, 413)):
        body = start + b"x" * (size - len(start) - 2) + b'"}'
        assert (await auth.post("register", body)).status == status


@pytest.mark.parametrize("way", ["anonymous", "register", "login", "link", "refresh", "logout", "me"])
async def test_methods(auth, way):
    """One each; the others are told which."""
    allowed = "GET" if way == "me" else "POST"
    for method in {"GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "get", "X"} - {allowed}:
        response = await auth.post(way, method=method)
        assert (response.status, response.headers["Allow"]) == (405, f"{allowed}, OPTIONS")


@pytest.mark.parametrize("path", ["", "nothing", "login/", "/login", "Login", "login%00", "../rpc/x", "__users"])
async def test_there_is_nothing_else(auth, path):
    """404 with the names of what there is."""
    assert "anonymous, register, login" in await auth.fails(404, "NOT_FOUND", path)


async def test_the_tables_of_accounts_are_out_of_reach(auth):
    """Not even a function of the application sees them: they belong to an owner that no token names."""

    made = await auth.ok("anonymous")
    for name in ("__users", "__sessions"):
        pointer = await auth.api.sql.fetchval("SELECT owner FROM storage WHERE id = $1", name)
        assert pointer == "__system"
    response = await auth.call(token(owner="__system"), "read_notes")
    check_error(response, 401, "UNAUTHORIZED")
    assert await auth.is_alive(made["token"])
