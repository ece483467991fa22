"""Seeded runs of several nodes over one log, and broken variants of them that must be noticed.

``SEED=123 pytest`` on this file replays one seed and prints its trace; ``SEEDS=100000`` runs more.
"""

import os
from collections import Counter

import pytest

from kontract.coordination import replica as replicas
from kontract.coordination.replica import Replica
from kontract.core.messages import Begin
from kontract.core.protocol import machine as machines
from kontract.core.protocol import replicated as core
from kontract.core.protocol.machine import Machine
from kontract.core.protocol.replicated import ReplicatedCoordinator
from simulation.replicated import ReplicatedWorld, failures, run_replicated
from simulation.seeds import parts, run_seeds

CHUNK = 25


@pytest.mark.timeout(0)
@pytest.mark.parametrize("seeds", parts(100, 800))
def test_every_seed_is_serializable_and_every_listener_hears_all(seeds, capsys):
    if "SEED" in os.environ:
        world = run_replicated(int(os.environ["SEED"]))
        with capsys.disabled():
            print("", *world.kernel.trace, *world.wrong, sep="\n")
        assert world.wrong == []
        return
    said = run_seeds(failures, seeds, chunk=CHUNK, what="seeds of several nodes")
    with capsys.disabled():
        print(said)


@pytest.mark.parametrize("seed", range(5))
def test_a_seed_replays_exactly(seed):
    assert run_replicated(seed).digest() == run_replicated(seed).digest()


@pytest.fixture(scope="module")
def worlds():
    return [run_replicated(seed) for seed in range(80)]


def test_the_runs_contain_what_they_are_meant_to(worlds):
    """Faults that never happen prove nothing."""
    attempts = [attempt for world in worlds for attempt in world.attempts]
    assert sum(attempt.outcome == "ok" and bool(attempt.writes) for attempt in attempts) > 300
    assert sum(attempt.outcome == "fail" for attempt in attempts) > 50
    assert sum(len(world.nodes) for world in worlds) > 120
    assert sum(node.lives > 1 for world in worlds for node in world.nodes) > 20
    assert sum(world.shelf.kept is not None for world in worlds) > 60
    assert sum(world.shelf.trimmed for world in worlds) > 100
    events = Counter(entry[2] for world in worlds for entry in world.kernel.trace if entry[1] == "log")
    assert events["coordinator_reloaded"] > 10  # nodes that fell behind what was trimmed
    assert events["resolved"] > 50
    assert sum(len(listener.heard) for world in worlds for listener in world.listeners) > 500
    assert sum(listener.connections for world in worlds for listener in world.listeners) > 500
    assert sum(len(world.nodes) > 1 for world in worlds) > 40


# --- broken variants -------------------------------------------------------------------------------------------------


class AnswersFromMemory(Replica):
    """Begins without reading the log."""

    async def _catch_up(self):
        if self.machine.coordinator is None:
            await super()._catch_up()


class TakesBatchesTwice(Machine):
    """Does not pass over a batch that comes again."""

    def apply(self, entry):
        self._seen = {}
        return super().apply(entry)


class ForgetsLocks(ReplicatedCoordinator):
    """Restores a checkpoint without what is prepared."""

    @classmethod
    def restore(cls, state):
        self = super().restore(state)
        self._locks.clear()
        return self


class ForgetsFinished(ReplicatedCoordinator):
    """Restores a checkpoint without the finished write sets, as if every snapshot included them."""

    @classmethod
    def restore(cls, state):
        state.finished, state.by_table, state.floor = [], {}, 0
        return super().restore(state)


class LooksAhead(ReplicatedCoordinator):
    """Hands out what has not finished."""

    def look(self, request, now):
        answer = super().look(request, now)
        if isinstance(request, Begin) and answer is not None and hasattr(answer, "snapshot"):
            return type(answer)(self._next_txid - 1, answer.epoch)
        return answer


BROKEN = {
    "answers from memory": {"replica": AnswersFromMemory},
    "takes batches twice": {"machine": TakesBatchesTwice},
    "forgets locks": {"coordinator": ForgetsLocks},
    "forgets finished": {"coordinator": ForgetsFinished},
    "looks ahead": {"coordinator": LooksAhead},
}


@pytest.mark.timeout(0)
@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_variant_is_noticed(name, monkeypatch):
    broken = BROKEN[name]
    monkeypatch.setattr(replicas, "Machine", broken.get("machine", Machine))
    monkeypatch.setattr(machines, "ReplicatedCoordinator", broken.get("coordinator", ReplicatedCoordinator))
    for seed in range(400):
        world = ReplicatedWorld(seed, replica=broken.get("replica", Replica))
        world.run()
        if world.wrong:
            return
    pytest.fail(f"400 seeds did not notice: {name}")


def test_a_question_that_a_dead_node_took_with_it_is_asked_again(monkeypatch):
    """Without that a transaction stays in doubt for ever once its resolver died."""
    monkeypatch.setattr(core, "LOST_MS", 10**9)
    assert any(run_replicated(seed).wrong for seed in range(400))
