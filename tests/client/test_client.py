"""Calls: from an attribute to a transaction and back, over a real gateway and a real database."""

from __future__ import annotations

import asyncio
import inspect
from copy import copy
from datetime import date

import pytest
from msgspec import Struct

from kontract import (
    ConflictError,
    Context,
    DeadlineExceededError,
    ForbiddenError,
    HttpError,
    HttpResp,
    InternalError,
    InvalidRequestError,
    NotFoundError,
    PayloadTooLargeError,
    PermissionDeniedError,
    RateLimitedError,
    UnauthorizedError,
    UnavailableError,
    backend,
    perms,
)
from kontract.client import (
    Client,
    ConnectionFailedError,
    InvalidAnswerError,
    RedirectedError,
    Retries,
    UnknownCodeError,
)
from kontract.client.transport import Answer
from kontract.core.errors import Code
from kontract.gateway.http import Response
from support.loopback import Fault
from support.scripted import URL, ok, scripted
from support.sessions import token

# --- functions of the test's own --------------------------------------------------------------------------------------


@backend(perm=perms.R__)
async def fail(ctx: Context, code: str, headers: dict[str, str]) -> None:
    raise HttpError(f"about {code}", code=Code[code], details={"asked": code}, headers=headers)


@backend(perm=perms.RW_, max_attempts=1)
async def bump(ctx: Context, name: str) -> int:
    account = await ctx.storage.accounts.get(name)
    await ctx.storage.accounts.update(name, balance=account.balance + 1)
    return account.balance + 1


@backend(perm=perms.RW_)
async def answer_with(ctx: Context, status: int, location: str | None = None) -> HttpResp:
    return HttpResp(status, {"status": status}, {"Location": location} if location else None)


@backend(public=True, perm=perms.R__)
async def whoami(ctx: Context) -> list:
    return [ctx.user, ctx.is_anonymous]


@backend(perm=perms.R__, name="of.the-day")
async def odd_name(ctx: Context, day: str) -> str:
    return day


@backend(perm=perms.R__, name="link")
async def named_like_a_method(ctx: Context) -> str:
    return "the function"


odd_name.__name__, named_like_a_method.__name__ = "of.the-day", "link"


class Balance(Struct):
    id: str
    balance: int


PATIENT = Retries(attempts=200, seconds=600, longest_pause=0.5)


@pytest.fixture
async def site(make_site):
    return await make_site([fail, bump, answer_with, whoami, odd_name, named_like_a_method])


# --- what one types ---------------------------------------------------------------------------------------------------


async def test_functions_are_methods(site):
    """The first example of the manual."""
    async with Client(site.url, token(), **site.with_http()) as api:
        task = await api.create_task("x")
        assert (task["title"], task["done"]) == ("x", False)
        assert await api.toggle_task(task["id"]) == task | {"done": True}
        assert await api.list_tasks(True, 10) == [task | {"done": True}]
        assert await api["list_tasks"](False) == []


async def test_names_that_are_no_identifiers_and_names_of_methods(site):
    """`api["name"]` and `api.call` reach every function there is."""
    api = site.client(token())
    assert await api["of.the-day"]("d") == await api.call("of.the-day", "d") == "d"
    assert await api["link"]() == "the function"
    assert inspect.ismethod(api.link)


async def test_results_become_what_was_asked_for(site):
    """msgspec converts them; a result that does not fit is an error of the client's."""
    api = site.client(token())
    assert await api.call("open_account", "a", 5, type=Balance) == Balance("a", 5)
    assert await api.call("list_tasks", type=list[Balance]) == []
    with pytest.raises(InvalidAnswerError, match="open_account") as caught:
        await api.call("open_account", "b", type=str)
    assert caught.value.maybe_applied
    assert await api.balance("b") == 0


async def test_arguments_are_what_msgspec_can_encode():
    """Structs and dates included."""
    api, script, _ = scripted(ok())
    await api.f(Balance("a", 1), date(2027, 1, 15), None, [1.5])
    assert script.sent[0][2] == b'[{"id":"a","balance":1},"2027-01-15",null,[1.5]]'


async def test_numbers_keep_their_digits_both_ways():
    """Where no type was declared a float remembers them; NaN would be null without a word."""
    long = b"1.00000000000000000000000001"
    api, script, _ = scripted(Answer(200, {}, b'{"result":[' + long + b",9007199254740993,1e400]}"), ok(), ok())
    result = await api.f()
    await api.f(*result)
    assert script.sent[1][2] == b"[" + long + b",9007199254740993,1e400]"
    for value in (float("nan"), [{"a": float("inf")}]):
        with pytest.raises(ValueError, match="neither NaN nor infinity"):
            await api.f(value)
    await api.f([None, {"a": None}])


async def test_arguments_by_name_are_refused_at_once(site):
    """They have no names on the way: an array would silently be in the wrong order."""
    api = site.client(token())
    with pytest.raises(TypeError, match="title= cannot be passed by name"):
        api.create_task(title="x")
    with pytest.raises(TypeError):
        await api.call("create_task", title="x")
    assert site.proxy.seen == []


@pytest.mark.parametrize("name", ["", "../health", "a b", "a/b", "ä", "1a", "a\n", "x" * 129, "a?b", "%2e"])
async def test_what_cannot_be_a_function_is_not_sent(name):
    """It would be another URL."""
    api, script, _ = scripted()
    with pytest.raises(ValueError, match="cannot be the name"):
        await api[name]()
    assert script.sent == []


def test_private_names_are_no_functions():
    """copy, pickle and inspect look for such attributes, and must not find any."""
    api = Client(URL)
    for name in ("_storage", "__deepcopy__", "__wrapped__"):
        with pytest.raises(AttributeError, match=name):
            getattr(api, name)
    assert copy(api).tokens is None
    assert repr(api.create_task) == "<backend function create_task>"


@pytest.mark.parametrize(
    ("status", "result"), [(200, {"status": 200}), (201, {"status": 201}), (202, {"status": 202}), (204, None)]
)
async def test_every_status_of_success_has_a_result(site, status, result):
    """204 has none."""
    assert await site.client(token()).answer_with(status) == result


async def test_an_answer_that_is_elsewhere(site):
    """The place is in the error."""
    with pytest.raises(RedirectedError, match="/there") as caught:
        await site.client(token()).answer_with(303, "/there")
    assert (caught.value.status, caught.value.location, caught.value.maybe_applied) == (303, "/there", False)


async def test_without_a_token_only_public_functions_answer(site):
    """A client needs no session to begin with."""
    api = site.client()
    assert await api.whoami() == ["public", True]
    with pytest.raises(UnauthorizedError, match="a token is required"):
        await api.list_tasks()


async def test_options_that_contradict_each_other():
    """A pinned key that is not used would be a false sense of safety."""
    with pytest.raises(ValueError, match="secure=True"):
        Client(URL, server_key="A" * 43)


# --- errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("INVALID_REQUEST", InvalidRequestError),
        ("UNAUTHORIZED", UnauthorizedError),
        ("FORBIDDEN", ForbiddenError),
        ("PERMISSION_DENIED", PermissionDeniedError),
        ("NOT_FOUND", NotFoundError),
        ("METHOD_NOT_ALLOWED", HttpError),
        ("CONFLICT", ConflictError),
        ("ALREADY_EXISTS", ConflictError),
        ("ALREADY_APPLIED", ConflictError),
        ("PAYLOAD_TOO_LARGE", PayloadTooLargeError),
        ("UNSUPPORTED_MEDIA_TYPE", HttpError),
        ("RATE_LIMITED", RateLimitedError),
        ("INTERNAL", InternalError),
        ("UNAVAILABLE", UnavailableError),
        ("BUSY", UnavailableError),
        ("COMMIT_UNKNOWN", UnavailableError),
        ("FENCED", UnavailableError),
        ("DEADLINE_EXCEEDED", DeadlineExceededError),
    ],
)
async def test_what_a_function_raises_is_what_its_caller_catches(site, code, kind):
    """The same class on both sides, with everything that the answer said."""
    api = site.client(token(), retries=Retries.none())
    with pytest.raises(kind) as caught:
        await api.fail(code, {"Retry-After": "7"})
    error = caught.value
    assert type(error) is kind
    assert (error.error_code, error.status) == (Code[code], Code[code].status)
    assert (error.message, error.details, error.retry_after) == (f"about {code}", {"asked": code}, 7.0)
    assert error.request_id == site.api.log[-1]["request_id"]


async def test_the_gateways_own_errors(site):
    """Those that no function raises."""
    api = site.client(token())
    with pytest.raises(NotFoundError, match="nope"):
        await api.nope()
    with pytest.raises(InvalidRequestError, match="argument title"):
        await api.create_task(7)
    with pytest.raises(PayloadTooLargeError, match="1048576"):
        await api.create_task("x" * 1024 * 1024)
    await api.open_account("twice")
    with pytest.raises(ConflictError) as caught:
        await api.open_account("twice")
    assert caught.value.error_code is Code.ALREADY_EXISTS
    with pytest.raises(PermissionDeniedError):
        await site.client(token(perm=perms.R__)).create_task("x")


# --- calls whose answer is lost, and calls that lose -----------------------------------------------------------------


@pytest.mark.parametrize("fault", [Fault.LOSE, Fault.REFUSE, Response(503, b"<html>"), Response(502, b"")])
async def test_a_write_whose_answer_is_lost_is_applied_once(site, fault):
    """And answered with what it did."""
    api = site.client(token())
    await api.open_account("a", 10)
    await api.open_account("b")
    site.proxy.faults += [("transfer", fault), ("transfer", fault)]
    assert await api.transfer("a", "b", 3) == {"a": 7, "b": 3}
    assert [await api.balance("a"), await api.balance("b")] == [7, 3]
    keys = [one.headers["idempotency-key"] for one in site.proxy.seen if "transfer" in one.target]
    assert len(keys) == 3
    assert len(set(keys)) == 1


async def test_an_answer_that_is_lost_for_good(site):
    """The caller learns that it may have been applied, and can ask again with a key of its own."""
    api = site.client(token(), retries=Retries.none())
    await api.open_account("a", 10)
    await api.open_account("b")
    site.proxy.faults.append(("transfer", Fault.LOSE))
    with pytest.raises(ConnectionFailedError) as caught:
        await api.call("transfer", "a", "b", 3, idempotency_key="order-17")
    assert caught.value.maybe_applied
    assert await api.balance("a") == 7
    assert await api.call("transfer", "a", "b", 3, idempotency_key="order-17") == {"a": 7, "b": 3}
    assert await api.balance("a") == 7


async def test_callers_in_contention_all_succeed(site):
    """The function gives up at its first conflict, so that it is the clients who are persistent."""
    apis = [site.client(token(), retries=PATIENT) for _ in range(6)]
    await apis[0].open_account("hot")
    results = await asyncio.gather(*[api.bump("hot") for api in apis for _ in range(4)])
    assert sorted(results) == list(range(1, 25))
    assert await apis[0].balance("hot") == 24
    refusals = [line for line in site.api.log if line.get("error") == "CONFLICT"]
    assert refusals


async def test_a_conflict_that_lasts_is_told_in_the_end(site):
    """With the details that the gateway gave."""
    api = site.client(token(), retries=Retries(attempts=2))
    with pytest.raises(ConflictError) as caught:
        await api.fail("CONFLICT", {})
    assert caught.value.details == {"asked": "CONFLICT"}
    assert len(site.proxy.seen) == 2


async def test_a_page_of_a_proxy_is_told_in_the_end(site):
    """As what it is."""
    api = site.client(token(), retries=Retries(attempts=2))
    site.proxy.faults += [("balance", Response(503, b"<html>")), ("balance", Response(521, b"<html>"))]
    with pytest.raises(UnknownCodeError) as caught:
        await api.balance("a")
    assert (caught.value.status, caught.value.maybe_applied) == (521, True)
