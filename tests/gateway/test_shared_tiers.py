"""The two tiers of ``ctx.shared``: the owner's object decides, the key-value store has copies for when it is away."""

from __future__ import annotations

import pytest

from kontract.core.errors import UnavailableError
from kontract.core.shared.state import DictRows, SharedState
from kontract.gateway.shared_storage import SharedStorage
from kontract.ports import CoordinatorUnavailableError
from kontract.server.shared import LocalShared
from kontract.server.system import SystemClock


class Hot:
    """The owner's object, which may be away."""

    def __init__(self) -> None:
        self.inner = LocalShared(SharedState(DictRows()), SystemClock())
        self.away = False

    async def shared(self, request):
        if self.away:
            raise CoordinatorUnavailableError
        return await self.inner.shared(request)


class Warm(dict):
    """A key-value store, with what it was told of time."""

    def __init__(self) -> None:
        self.ttls: dict[str, float | None] = {}
        self.asked = 0

    async def get(self, key):
        self.asked += 1
        return dict.get(self, key)

    async def put(self, key, value, ttl=None):
        self[key], self.ttls[key] = value, ttl

    async def delete(self, key):
        self.pop(key, None)


@pytest.fixture
def tiers():
    hot, warm = Hot(), Warm()
    return hot, warm, SharedStorage(hot, warm, owner="t1")


async def test_the_object_decides_and_the_store_is_not_asked(tiers):
    """Whatever the store shows: a copy may be old."""
    _, warm, shared = tiers
    await shared.set("k", {"n": 1})
    warm["shared/t1/app/k"] = '{"n":0}'
    assert await shared.get("k") == {"n": 1}
    assert await shared.get("other") is None
    assert warm.asked == 0


async def test_the_copy_answers_when_the_object_is_away(tiers):
    """Reads go on; writes say that they cannot be made."""
    hot, warm, shared = tiers
    await shared.set("k", "v", ttl=100)
    assert warm.ttls == {"shared/t1/app/k": 100}
    hot.away = True
    assert await shared.get("k") == "v"
    assert await shared.get("never") is None
    for refused in (shared.set("k", 1), shared.delete("k"), shared.incr("n")):
        with pytest.raises(UnavailableError):
            await refused
    assert warm == {"shared/t1/app/k": '"v"'}


async def test_what_is_deleted_has_no_copy(tiers):
    _, warm, shared = tiers
    await shared.set("k", 1)
    assert await shared.delete("k")
    assert warm == {}


async def test_owners_and_counters_do_not_meet(tiers):
    """Neither in the object's keys nor in the store's."""
    hot, warm, shared = tiers
    await shared.set("k", 1)
    await SharedStorage(Hot(), warm, owner="t2").set("k", 2)
    await SharedStorage(hot, prefix="gateway/").incr("k")
    assert await shared.get("k") == 1
    assert sorted(warm) == ["shared/t1/app/k", "shared/t2/app/k"]


async def test_without_a_store_the_object_is_all_there_is():
    hot = Hot()
    shared = SharedStorage(hot)
    await shared.set("k", 1)
    hot.away = True
    with pytest.raises(UnavailableError):
        await shared.get("k")


async def test_copies_may_be_made_after_the_response(tiers):
    """The caller does not wait for the slower tier."""
    hot, warm, _ = tiers
    later = []
    shared = SharedStorage(hot, warm, owner="t1", spawn=later.append)
    await shared.set("k", 1)
    assert warm == {}
    for work in later:
        await work
    assert warm == {"shared/t1/app/k": "1"}
