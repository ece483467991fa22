"""``ctx.shared`` through the gateway: what it takes, who sees it, and what it has to do with transactions."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
import pytest_asyncio

from kontract.core import limits
from kontract.ports import CoordinatorUnavailableError
from support.api import Api, apis, check_error
from support.apps.sharing import shared_count, shared_delete, shared_get, shared_incr, shared_set, shared_then_fail
from support.sessions import bearer

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def make(postgres):
    functions = [shared_count, shared_delete, shared_get, shared_incr, shared_set, shared_then_fail]
    async with apis(postgres, functions) as make:
        yield make


@pytest.fixture
def api(make) -> Api:
    return make()


@pytest.mark.parametrize(
    "key", ["k", "a/b", "app/k", "ä" * 256, "x" * limits.SHARED_KEY_BYTES, "\n", "😀", "../k", "%"]
)
async def test_keys(api, key):
    """Any text up to the limit is a key of its own."""
    await api.result("shared_set", key, "here")
    assert await api.result("shared_get", key) == "here"
    assert await api.result("shared_get", "x") is None
    assert (await api.result("shared_delete", key), await api.result("shared_delete", key)) == (True, False)


@pytest.mark.parametrize("key", ["", "x" * (limits.SHARED_KEY_BYTES + 1), "ä" * 257])
async def test_keys_that_are_none(api, key):
    """400 with what a key is, whatever is done with it."""
    for function, *more in [("shared_get",), ("shared_set", 1), ("shared_delete",), ("shared_incr",)]:
        body = await api.error(400, "INVALID_REQUEST", function, key, *more)
        assert "a shared key must be a text of 1 to 512 bytes" in body["message"]
        assert len(body["message"]) < 200


async def test_the_size_of_a_value(api):
    """At the limit it is kept, beyond it refused; in bytes of JSON."""
    fits = "x" * (limits.SHARED_VALUE_BYTES - 2)
    await api.result("shared_set", "size", fits)
    assert await api.result("shared_get", "size") == fits
    await api.error(413, "PAYLOAD_TOO_LARGE", "shared_set", "size", fits + "x")
    await api.error(413, "PAYLOAD_TOO_LARGE", "shared_set", "size", "ä" * (limits.SHARED_VALUE_BYTES // 2))
    assert await api.result("shared_get", "size") == fits


async def test_values_that_are_none(api):
    """None would be the same as nothing."""
    body = await api.error(400, "INVALID_REQUEST", "shared_set", "k", None)
    assert "use delete" in body["message"]


@pytest.mark.parametrize(
    ("by", "ttl"),
    [
        (1.5, None), ("1", None), (True, None), (None, None), ([], None), (2**53, None), (-(2**53), None),
        (10**30, None), (10**4000, None), (1, 0), (1, -1), (1, limits.SHARED_TTL_SECONDS + 1), (1, "60"), (1, 10**4000),
    ],
    ids=str,
)  # fmt: skip
async def test_what_is_no_step_and_no_time(api, by, ttl):
    """400, and nothing is counted: whatever a function passes on from its caller."""
    await api.error(400, "INVALID_REQUEST", "shared_incr", "steps", by, ttl)
    assert await api.result("shared_get", "steps") is None


@pytest.mark.parametrize("ttl", [0.001, 1, limits.SHARED_TTL_SECONDS])
async def test_times_to_live(api, ttl):
    """From a millisecond to a year."""
    assert await api.result("shared_incr", f"ttl-{ttl}", 1, ttl) == 1


async def test_a_hundred_counts_at_once_are_a_hundred(api):
    """Every answer is another number."""
    answers = await asyncio.gather(*[api.result("shared_incr", "hot") for _ in range(100)])
    assert sorted(answers) == list(range(1, 101))


async def test_each_owner_has_its_own_and_so_has_the_gateway(api):
    """Other tenants, and the counters of middleware, under the very same name."""
    await api.result("shared_set", "name", "of tenant-1")
    response = await api.rpc("shared_get", "name", **bearer(owner="tenant-2"))
    assert json.loads(response.body)["result"] is None
    assert (await api.result("shared_count", "name", 60))[0] == 1
    assert (await api.result("shared_count", "name", 60))[0] == 2
    assert await api.result("shared_get", "name") == "of tenant-1"
    for key in ("gateway/name", "../gateway/name", "rate/name"):
        assert await api.result("shared_get", key) is None
    everybody = await api.rpc("shared_get", "name", authorization=None)
    assert json.loads(everybody.body)["result"] == "of tenant-1", "all callers of a tenant share it"


async def test_nothing_is_undone(api):
    """It is not part of the transaction; that is what it is for."""
    await api.error(500, "INTERNAL", "shared_then_fail", "kept")
    assert await api.result("shared_get", "kept") == "kept"


async def test_when_there_is_no_room(api, monkeypatch):
    """A sentence, and no internal error."""
    monkeypatch.setattr(limits, "SHARED_KEYS", 2)
    await api.result("shared_set", "a", 1)
    await api.result("shared_set", "b", 1)
    body = await api.error(400, "INVALID_REQUEST", "shared_set", "c", 1)
    assert "there are already 2 shared values" in body["message"]
    assert await api.result("shared_incr", "a") == 2


async def test_an_object_that_does_not_answer(api):
    """503 and when to come back."""

    class Away:
        async def shared(self, request: Any) -> Any:
            raise CoordinatorUnavailableError("gone")

    api.platform.shared = lambda owner: Away()
    for function, *more in [("shared_get",), ("shared_set", 1), ("shared_delete",), ("shared_incr",)]:
        response = await api.rpc(function, "k", *more)
        assert "gone" not in check_error(response, 503, "UNAVAILABLE")["message"]
        assert response.headers["Retry-After"] == "1"
