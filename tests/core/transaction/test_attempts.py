"""The retry policy: when a handler runs again, when it stops, and what the caller is told."""

from __future__ import annotations

import asyncio

import pytest

from core.fakes import TABLE, Coordinator, Platform, Store
from kontract.core import limits
from kontract.core.errors import Code, ConflictError, DeadlineExceededError, HttpError, NotFoundError, UnavailableError
from kontract.core.messages import Began, Begin, Busy, Conflict, Finish, Leave, Prepare, Replayed, SessionEnded, TooOld
from kontract.core.transaction.attempts import Attempts, Repeated
from kontract.core.transaction.transaction import Call, Transaction
from kontract.ports import CoordinatorUnavailableError, DatabaseUnavailableError


class Bench:
    """One call with everything around it."""

    def __init__(self, max_attempts: int = limits.MAX_ATTEMPTS, *, idempotent: bool = False) -> None:
        self.coordinator = Coordinator()
        self.platform = Platform()
        self.store = Store({"a": '{"n":1}'})
        self.runs = 0
        call = Call(id="call", owner="tenant", user="ann", idempotent=idempotent)
        self.attempts = Attempts(call, self.platform, self.coordinator, self.store, max_attempts)

    async def handler(self, tx: Transaction) -> str:
        self.runs += 1
        await tx.get(TABLE, "a")
        await tx.replace(TABLE, "a", f'{{"n":{self.runs}}}')
        return str(self.runs)

    async def run(self, handler=None):
        return await self.attempts.run(handler or self.handler, "bump")

    def heard(self, kind: type) -> list:
        return [message for message in self.coordinator.heard if isinstance(message, kind)]


@pytest.fixture
def bench() -> Bench:
    return Bench()


async def test_a_call_without_contention_runs_once(bench):
    """Three coordinator calls, and no farewell to a line it never stood in."""
    outcome = await bench.run()
    assert (outcome.result, outcome.txid, outcome.attempts, bench.runs) == ("1", 8, 1, 1)
    assert bench.coordinator.kinds() == ["Begin", "Prepare", "Finish"]
    assert bench.platform.clock.slept == []


async def test_after_a_conflict_the_handler_runs_again_on_a_newer_snapshot(bench):
    """The next attempt begins once the winner is visible, and nothing of the lost one is written."""
    bench.coordinator.answers[Prepare] = [Conflict("tbl", 5, "a")]
    outcome = await bench.run()
    assert (outcome.result, outcome.attempts, bench.runs) == ("2", 2, 2)
    assert bench.heard(Begin) == [Begin("call"), Begin("call", 2, 5)]
    assert [p.attempt for p in bench.heard(Prepare)] == [1, 2]
    [plan] = bench.store.applied
    assert bytes(plan.writes[0][1][0].data) == b'{"n":2}'
    assert bench.heard(Leave) == [], "a commit releases the place in line by itself"


async def test_pauses_grow_and_are_jittered_over_their_full_length(bench):
    """Losers must not meet again at the same moment. After the first conflict they do not: they stand in line."""
    bench.coordinator.answers[Prepare] = [Conflict("tbl", 5, "a")] * 4
    await bench.run()
    assert bench.platform.clock.slept == [10, 20, 40]
    unready = Bench()
    unready.coordinator.answers[Prepare] = [TooOld()] * 3
    await unready.run()
    assert unready.platform.clock.slept == [5, 10, 20]
    calm = Bench()
    calm.platform.random.number = 0.25
    calm.coordinator.answers[Prepare] = [Conflict("tbl", 5, "a")] * 2
    await calm.run()
    assert calm.platform.clock.slept == [2.5]


async def test_giving_up_says_over_what_and_leaves_the_line():
    """409 with function, table, key and attempts; nothing was applied."""
    bench = Bench(max_attempts=3)
    bench.coordinator.answers[Prepare] = [Conflict("tbl", 5, "a")] * 3
    with pytest.raises(ConflictError) as lost:
        await bench.run()
    assert lost.value.error_code is Code.CONFLICT
    assert lost.value.details == {"function": "bump", "table": "tasks", "key": "a", "attempts": 3}
    assert "tbl" not in lost.value.message
    assert bench.runs == 3
    assert bench.store.applied == []
    assert bench.heard(Leave) == [Leave("call")]


async def test_a_conflict_over_a_predicate_has_no_key():
    """There is no row to name, so the table is."""
    bench = Bench(max_attempts=1)
    bench.coordinator.answers[Prepare] = [Conflict("tbl", 5)]
    with pytest.raises(ConflictError, match="rows read from 'tasks'") as lost:
        await bench.run()
    assert lost.value.details["key"] is None


async def test_busy_is_503_with_retry_after(bench):
    """Not the caller's contention over a row: nothing to name, come back later."""
    bench.coordinator.answers[Prepare] = [Busy()] * 1_000
    with pytest.raises(UnavailableError) as busy:
        await bench.run()
    assert (busy.value.status, busy.value.error_code) == (503, Code.BUSY)
    assert busy.value.headers == {"Retry-After": str(limits.BUSY_RETRY_SECONDS)}
    assert bench.platform.clock.time <= limits.TRANSACTION_MS


@pytest.mark.parametrize("answer", [TooOld(), CoordinatorUnavailableError()])
async def test_other_losses_are_503(bench, answer):
    """The caller did nothing wrong and lost to nobody."""
    bench.coordinator.answers[Prepare] = [answer] * 1_000
    with pytest.raises(UnavailableError) as lost:
        await bench.run()
    assert lost.value.headers["Retry-After"]
    assert bench.store.applied == []


async def test_all_attempts_together_end_in_ten_seconds():
    """The time limit ends a call that may run again for ever."""
    bench = Bench(max_attempts=10**6)
    bench.coordinator.answers[Prepare] = [Conflict("tbl", 5, "a")] * 10**4
    with pytest.raises(ConflictError):
        await bench.run()
    assert limits.TRANSACTION_MS - limits.BACKOFF_LAST_MS <= bench.platform.clock.time <= limits.TRANSACTION_MS


async def test_a_handler_that_takes_too_long_commits_nothing(bench, monkeypatch):
    """Interrupted while it waits, and looked at once more if it never waited."""
    monkeypatch.setattr(limits, "TRANSACTION_MS", 20)

    async def waits(tx):
        await tx.put(TABLE, "a", "{}")
        await asyncio.sleep(10)

    with pytest.raises(DeadlineExceededError):
        await bench.run(waits)

    async def computes(tx):
        await tx.put(TABLE, "a", "{}")
        bench.platform.clock.time += 21
        return ""

    with pytest.raises(DeadlineExceededError):
        await bench.run(computes)
    assert bench.coordinator.kinds() == []


@pytest.mark.parametrize("error", [NotFoundError("no"), ZeroDivisionError(), asyncio.CancelledError()])
async def test_a_handler_that_raises_leaves_no_prepare(bench, error):
    """All or nothing: its error is the answer, and the coordinator hears of no write."""

    async def fails(tx):
        await tx.get(TABLE, "a")
        await tx.put(TABLE, "a", "{}")
        raise error

    with pytest.raises(type(error)):
        await bench.run(fails)
    assert bench.coordinator.kinds() == ["Begin"]
    assert bench.store.applied == []


async def test_a_handler_that_raises_after_a_conflict_leaves_the_line(bench):
    """Its place would keep others waiting for two seconds."""
    bench.coordinator.answers[Prepare] = [Conflict("tbl", 5, "a")]

    async def changes_its_mind(tx):
        if bench.runs:
            raise NotFoundError
        return await bench.handler(tx)

    with pytest.raises(NotFoundError):
        await bench.run(changes_its_mind)
    assert bench.heard(Leave) == [Leave("call")]


async def test_a_lost_farewell_hides_nothing(bench):
    """The place in line expires by itself; the caller hears its own error."""
    bench.attempts = Attempts(bench.attempts.call, bench.platform, bench.coordinator, bench.store, 1)
    bench.coordinator.answers = {Prepare: [Conflict("tbl", 5, "a")], Leave: [CoordinatorUnavailableError()]}
    with pytest.raises(ConflictError):
        await bench.run()


async def test_the_transaction_of_an_attempt_ends_with_it(bench):
    """What the handler left running cannot write any more."""
    kept = []

    async def leaks(tx):
        kept.append(tx)
        return "ok"

    assert (await bench.run(leaks)).txid is None
    with pytest.raises(RuntimeError, match="after the function returned"):
        await kept[0].put(TABLE, "a", "{}")


async def test_an_idempotent_call_asks_before_it_runs():
    """The first result comes back without running the handler at all."""
    bench = Bench(idempotent=True)
    bench.coordinator.answers[Begin] = [Replayed(4, "first")]
    outcome = await bench.run()
    assert (outcome, bench.runs) == (Repeated("first", 4, 1), 0)


async def test_an_idempotent_call_whose_result_is_lost_says_that_it_was_applied():
    """The caller must not think that it can simply call again."""
    bench = Bench(idempotent=True)
    bench.coordinator.answers[Begin] = [Replayed(4, None)]
    with pytest.raises(HttpError) as applied:
        await bench.run()
    assert applied.value.error_code is Code.ALREADY_APPLIED
    assert bench.runs == 0


async def test_a_result_that_the_coordinator_lost_is_kept_beside_the_fence():
    bench = Bench(idempotent=True)
    bench.coordinator.answers[Begin] = [Replayed(4, None)]
    bench.store.first = (4, "first")
    outcome = await bench.run()
    assert (outcome, bench.runs) == (Repeated("first", 4, 1), 0)


async def test_the_fence_is_asked_before_the_handler_when_the_coordinator_cannot_know():
    """A handler that raises, or writes nothing, would never meet it."""
    bench = Bench(idempotent=True)
    bench.coordinator.answers[Begin] = [Began(7, 1, unsure=True)]
    bench.store.first = (4, "first")
    outcome = await bench.run()
    assert (outcome, bench.runs) == (Repeated("first", 4, 1), 0)
    assert bench.coordinator.kinds() == ["Begin"]


async def test_no_fence_is_asked_for_while_the_coordinator_knows():
    bench = Bench(idempotent=True)
    await bench.run()
    assert (bench.store.asked, bench.runs) == ([], 1)


async def test_a_call_whose_fence_cannot_be_read_does_not_run():
    bench = Bench(idempotent=True)
    bench.coordinator.answers[Begin] = [Began(7, 1, unsure=True)]
    bench.store.first = DatabaseUnavailableError("gone")
    with pytest.raises(DatabaseUnavailableError):
        await bench.run()
    assert bench.runs == 0


async def test_a_fence_of_just_now_is_waited_for():
    """Its answer must not be given before its commit is visible to others."""
    bench = Bench(idempotent=True)
    bench.coordinator.answers[Begin] = [Began(7, 1, unsure=True), Replayed(9, "first")]
    bench.store.first = (9, "first")
    outcome = await bench.run()
    assert (outcome.kept, bench.runs) == ("first", 0)
    assert [begin.after for begin in bench.heard(Begin)] == [0, 9]


async def test_a_run_that_fails_while_another_run_of_the_call_commits():
    """Both get the answer of the commit."""
    bench = Bench(idempotent=True)
    bench.coordinator.answers[Begin] = [Began(7, 1), Conflict("tbl", 9, reserved=True), Replayed(9, "first")]

    async def fails(_tx: Transaction) -> str:
        raise NotFoundError("gone")

    outcome = await bench.run(fails)
    assert outcome.kept == "first"


@pytest.mark.parametrize("answer", [Began(7, 1), CoordinatorUnavailableError(), SessionEnded()])
async def test_a_run_that_fails_alone_says_why(answer):
    """What it asks afterwards changes nothing then."""
    bench = Bench(idempotent=True)
    bench.coordinator.answers[Begin] = [Began(7, 1), answer]

    async def fails(_tx: Transaction) -> str:
        raise NotFoundError("gone")

    with pytest.raises(NotFoundError):
        await bench.run(fails)


async def test_an_idempotent_call_waits_for_the_first_one():
    """The first call is under way: begin again once it is visible, then take its result."""
    bench = Bench(idempotent=True)
    bench.coordinator.answers[Begin] = [Conflict("tbl", 6, reserved=True), Replayed(6, "first")]
    outcome = await bench.run()
    assert outcome.kept == "first"
    assert bench.heard(Begin)[1] == Begin("call", 2, 6, idempotent=True)
    assert bench.heard(Finish) == []
