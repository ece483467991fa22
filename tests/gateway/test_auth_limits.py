"""/auth: who may use it, how often, and with what bodies."""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
from itertools import count, islice

import pytest

from kontract.core import limits
from kontract.core.shared.state import SharedRequest, SharedValue
from kontract.gateway.counters import LocalCounters
from kontract.ports import CoordinatorUnavailableError
from kontract.server.shared_tikv import BUCKET, create_tikv_adapter
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
    monkeypatch.setattr(limits, "LOGINS_PER_ACCOUNT_FRESH", 3)
    addresses = [f"203.0.113.{n}" for n in range(9)]
    assert [await attempt(auth, "wanted", address) for address in addresses[:4]] == [401] * 4
    assert [await attempt(auth, "wanted", address) for address in addresses[:4]] == [429] * 4, "they had their turn"
    assert [await attempt(auth, "wanted", address) for address in addresses[4:]] == [401] * 3 + [429] * 2
    assert await attempt(auth, "wanted", "") == 429, "where the platform knows no address, too"
    assert await attempt(auth, "not-wanted", addresses[0]) == 401


async def wrong_logins(auth: Auth, name: str) -> list[int]:
    """A hundred and ten of them, from eleven networks."""
    return [await attempt(auth, name, f"203.0.{n % 11}.9") for n in range(110)]


async def test_strangers_do_not_lock_an_account_for_its_owner(auth):
    """Neither where it has logged in before, nor in a new place; each stranger has no more than it had."""
    await auth.ok("register", credentials("locked"), client="198.51.100.20")
    assert (await wrong_logins(auth, "locked")).count(401) == limits.LOGINS_PER_ACCOUNT
    assert await attempt(auth, "locked", "203.0.3.9") == 429
    assert (await auth.post("login", credentials("locked"), client="198.51.100.20")).status == 200
    assert (await auth.post("login", credentials("locked"), client="2001:db8:77::1")).status == 200, "a new place"
    assert (await auth.post("login", credentials("locked"), client="2001:db8:77::2")).status == 200, "known since then"


async def test_a_known_address_is_not_locked_out_by_its_neighbours(auth, monkeypatch):
    """A school has one address: whoever uses up its attempts does not keep those out who have logged in from it."""
    monkeypatch.setattr(limits, "LOGINS_PER_ADDRESS", 5)
    school = "198.51.100.30"
    await auth.ok("register", credentials("teacher"), client=school)
    await auth.ok("register", credentials("pupil"), client="198.51.100.31")
    assert [await attempt(auth, f"noise-{n}", school) for n in range(7)] == [401] * 5 + [429] * 2
    assert (await auth.post("login", credentials("teacher"), client=school)).status == 200
    assert (await auth.post("login", credentials("pupil"), client=school)).status == 429


async def test_a_known_address_has_no_more_attempts_than_others(auth, monkeypatch):
    """Being known is worth a budget of one's own, not a free hand for whoever sits there."""
    monkeypatch.setattr(limits, "LOGINS_PER_PAIR", 4)
    monkeypatch.setattr(limits, "LOGINS_PER_ACCOUNT", 2)
    await auth.ok("register", credentials("shared-home"), client="198.51.100.40")
    assert [await attempt(auth, "shared-home", "198.51.100.40") for _ in range(6)] == [401] * 4 + [429] * 2


async def test_an_account_remembers_so_many_places(auth, monkeypatch):
    """The newest ones; a place where only wrong passwords came from is none."""
    monkeypatch.setattr(limits, "KNOWN_PLACES", 2)
    await auth.ok("register", credentials("travels"), client="198.51.100.50")
    first = next(row["places"] for row in await auth.rows("users") if row["id"] == "travels")
    await attempt(auth, "travels", "198.51.100.51")
    for client in ("198.51.100.52", "198.51.100.53", "198.51.100.52"):
        await auth.ok("login", credentials("travels"), client=client)
    places = next(row["places"] for row in await auth.rows("users") if row["id"] == "travels")
    assert len(places) == len(set(places)) == 2
    assert first[0] not in places


async def test_a_linked_session_counts_by_itself(auth, monkeypatch):
    """Strangers behind the same address cannot use up what somebody else's session may try."""
    monkeypatch.setattr(limits, "LINKS_PER_SESSION", 2)
    monkeypatch.setattr(limits, "SIGN_UPS_PER_ADDRESS", 3)
    await auth.ok("register", credentials("link-taken"), client="198.51.100.60")
    one, two = [await auth.ok("anonymous", client="198.51.100.61") for _ in range(2)]
    for _ in range(2):
        await auth.fails(409, "ALREADY_EXISTS", "link", credentials("link-taken"), one["token"], client="198.51.100.61")
    message = await auth.fails(429, "RATE_LIMITED", "link", credentials("link-1"), one["token"], client="198.51.100.61")
    assert "one session may try 2 names in 15 minutes" in message
    await auth.ok("link", credentials("link-2"), two["token"], client="198.51.100.61")


async def test_attempts_from_one_address_for_all_accounts(auth, monkeypatch):
    """And once it is over its limit, an address does not make the gateway remember the names that it thinks of."""
    monkeypatch.setattr(limits, "LOGINS_PER_ADDRESS", 3)
    assert [await attempt(auth, f"guess-{n}", "192.0.2.1") for n in range(4)] == [401, 401, 401, 429]
    kept = auth.api.platform._shared["__system"]._counters._rows.size()
    assert [await attempt(auth, f"more-{n}", "192.0.2.1") for n in range(20)] == [429] * 20
    assert auth.api.platform._shared["__system"]._counters._rows.size() == kept
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
    """Each way by itself, with limit and time in the answer; without an address there is nothing to count by."""
    monkeypatch.setattr(limits, "SIGN_UPS_PER_ADDRESS", 3)
    for n in range(3):
        await auth.ok("anonymous", client="192.0.2.100")
        await auth.ok("register", credentials(f"signs-up-{n}"), client="192.0.2.100")
    await auth.ok("anonymous", client="192.0.2.101")
    auth.crypto.asked.clear()
    message = await auth.fails(429, "RATE_LIMITED", "anonymous", client="192.0.2.100")
    assert re.fullmatch(
        r"one address may have 3 new anonymous sessions in 15 minutes; wait \d+ s before you try again", message
    )
    await auth.fails(429, "RATE_LIMITED", "register", credentials("signs-up-4"), client="192.0.2.100")
    assert auth.crypto.asked == []
    for _ in range(5):
        await auth.ok("anonymous")


async def test_local_development_has_no_limit_of_sign_ups(auth, make, monkeypatch):
    """Everybody has one address there, and tests make hundreds of sessions; logins are limited as elsewhere."""
    monkeypatch.setattr(limits, "SIGN_UPS_PER_ADDRESS", 1)
    monkeypatch.setattr(limits, "LOGINS_PER_PAIR", 1)
    platform = auth.api.platform
    platform.environment = ENVIRONMENT | {"KONTRACT_SHOW_ERRORS": "1"}
    try:
        here = Auth(make(platform=platform), auth.crypto)
        for n in range(4):
            await here.ok("anonymous", client="127.0.0.1")
            await here.ok("register", credentials(f"locally-{n}"), client="127.0.0.1")
        assert [await attempt(here, "locally-9", "127.0.0.1") for _ in range(2)] == [401, 429]
    finally:
        platform.environment = ENVIRONMENT


# --- counters that push each other out -------------------------------------------------------------------------------


class OneNode:
    """TiKV for one process: the four methods that users have to bring."""

    def __init__(self) -> None:
        self.values: dict[str, str] = {}

    async def get(self, key: str) -> str | None:
        return self.values.get(key)

    async def put(self, key: str, value: str) -> None:
        self.values[key] = value

    async def delete(self, key: str) -> None:
        self.values.pop(key, None)

    async def scan(self, prefix: str, limit: int) -> list:
        raise NotImplementedError


def reckoned(name: str, address: str) -> int:
    """The bucket that a pair would be counted in, as far as somebody outside can know."""
    whose = hashlib.sha256(name.encode()).hexdigest()[:32]
    digest = hashlib.sha256(f"auth/login-pair/{whose}/{address}".encode()).digest()
    return int.from_bytes(digest[:8], "big") % (limits.SHARED_COUNTERS // BUCKET)


async def test_nobody_can_have_a_counter_pushed_out(auth, monkeypatch):
    """In TiKV eight counters share a key, and one more pushes the lowest out: which ones meet there is a secret."""
    shared, _ = create_tikv_adapter(OneNode(), clock=auth.api.platform.clock)
    monkeypatch.setattr(auth.api.platform, "shared", shared.for_owner)
    address = "198.51.100.60"
    there = (f"meets-{n}" for n in count() if reckoned(f"meets-{n}", address) == reckoned("victim", address))
    for name in islice(there, BUCKET):
        assert [await attempt(auth, name, address) for _ in range(2)] == [401, 401]
    said = []
    for name in islice(there, limits.LOGINS_PER_PAIR + 2):
        said.append(await attempt(auth, "victim", address))
        await attempt(auth, name, address)
    assert said == [401] * limits.LOGINS_PER_PAIR + [429, 429]


# --- counters that cannot be reached ---------------------------------------------------------------------------------


class NoCounters:
    """A shared state that does not answer, or not in time."""

    def __init__(self, error: Exception | None) -> None:
        self.error = error

    async def shared(self, request: SharedRequest) -> SharedValue:
        if self.error is not None:
            raise self.error
        await asyncio.sleep(60)
        raise AssertionError


@pytest.mark.parametrize("error", [CoordinatorUnavailableError("away"), None])
async def test_a_throttle_that_cannot_count_counts_by_itself(auth, monkeypatch, error):
    """It neither locks everybody out nor lets everybody in, and says so once in the log."""
    monkeypatch.setattr(limits, "LOGINS_PER_PAIR", 3)
    monkeypatch.setattr(limits, "COUNT_MS", 20)
    name, platform = f"counted-here-{error is None}", auth.api.platform
    await auth.ok("register", credentials(name))
    platform.clock.later_ms += limits.COUNT_WARNING_MS * (1 + (error is None))
    shared, platform.shared = platform.shared, lambda owner: NoCounters(error)
    said: list[str] = []
    log = platform.log
    monkeypatch.setattr(platform, "log", lambda level, event, **more: said.append(event) or log(level, event, **more))
    try:
        assert (await auth.post("login", credentials(name), client="192.0.2.150")).status == 200
        wrong = [await attempt(auth, name, "192.0.2.151") for _ in range(5)]
        assert wrong == [401, 401, 401, 429, 429]
        await auth.ok("anonymous", client="192.0.2.152")
    finally:
        platform.shared = shared
    assert said.count("limits_counted_locally") == 1
    assert await attempt(auth, name, "192.0.2.151") == 401, "the shared counters have not seen them"


async def test_what_a_process_counts_by_itself_is_bounded(monkeypatch, auth):
    """It forgets the lowest, like the shared counters."""
    monkeypatch.setattr(limits, "LOCAL_COUNTERS", 10)
    local = LocalCounters()
    error = CoordinatorUnavailableError("away")
    for _ in range(5):
        local.count("high", 60_000, auth.api.platform, error)
    for n in range(50):
        local.count(f"k{n}", 60_000, auth.api.platform, error)
    assert local._counters._rows.size() <= 10
    assert local.count("high", 60_000, auth.api.platform, error)[0] == 6


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
                assert "ask the operator for a token" in check_error(response, 403, "FORBIDDEN")["message"]
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
