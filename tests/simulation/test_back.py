"""A database that goes back in time, as by a failover to a standby that lagged: noticed by every commit and every look.

What was acknowledged and is gone cannot be helped. What must hold: no later commit goes on as if nothing had happened,
no answer of before is given for an effect that is gone, nothing is applied twice, the coordinator goes on by itself.
"""

from __future__ import annotations

import pytest

from kontract.coordination.custody import Custody
from kontract.ports.shared_log import WentBackError
from simulation.mutants import BACK_MUTANTS
from simulation.replicated import Shelf
from simulation.replicated import back as back_on_nodes
from simulation.seeds import parts
from simulation.world import back

SEEDS = 300


def test_whatever_else_goes_wrong_it_is_noticed_and_work_goes_on():
    runs = [back(seed) for seed in range(SEEDS)]
    assert [(seed, run.wrong) for seed, run in enumerate(runs) if run.wrong] == []
    assert sum(run.database.must_notice for run in runs) > SEEDS / 4, "too few runs lose what was acknowledged"
    assert sum(run.database.noticed_at is not None for run in runs) > SEEDS / 4


def test_a_commit_whose_answer_was_lost_is_asked_for():
    """It was applied before the database went back, and only its caller did not know: it is not called lost."""
    assert back(993).wrong == []


@pytest.mark.parametrize("seeds", parts(20, SEEDS))
@pytest.mark.parametrize("with_log", [False, True], ids=["log elsewhere", "log in the same database"])
def test_on_several_nodes(with_log, seeds):
    runs = {seed: back_on_nodes(seed, with_log=with_log) for seed in seeds}
    assert [(seed, run.wrong) for seed, run in runs.items() if run.wrong] == []
    assert sum(run.database.must_notice for run in runs.values()) > len(seeds) / 5
    assert sum(run.database.noticed_at is not None for run in runs.values()) > len(seeds) / 5


@pytest.mark.parametrize("name", BACK_MUTANTS)
def test_a_broken_variant_is_caught(name):
    assert any(back(seed, BACK_MUTANTS[name]).wrong for seed in range(SEEDS)), f"{SEEDS} seeds did not notice"


def _trusts_positions(shelf, known, after):
    """What is not kept any more is taken to be what the node had read."""
    mine = shelf.entries.get(after)
    if after > shelf.tail or (mine is not None and known not in (None, mine.at)):
        raise WentBackError


def _forgets(custody, _old):
    """A node whose log has gone back goes on with it."""


@pytest.mark.parametrize(
    ("where", "name", "broken", "seeds"),
    [(Shelf, "check", _trusts_positions, range(100, 200)), (Custody, "fall_back", _forgets, range(100))],
    ids=["a position tells what was read", "a node forgets that the log went back"],
)
def test_a_broken_variant_on_nodes_is_caught(where, name, broken, seeds, monkeypatch):
    monkeypatch.setattr(where, name, broken)
    assert any(back_on_nodes(seed, with_log=True).wrong for seed in seeds), f"{seeds} did not notice"
