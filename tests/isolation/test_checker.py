"""The checker itself: hand-made histories with one anomaly each, and histories without any."""

import random

import pytest

from isolation.checker import FAIL, UNKNOWN, Append, Deleted, Read, ReadWhere, Txn, Write, check


def kinds(txns, order=None):
    return {anomaly.kind for anomaly in check(txns, order)}


def of_kind(kind, found):
    return ReadWhere(lambda value: isinstance(value, tuple) and value[1] == kind, frozenset(found))


CONCURRENT = {
    # Two writers whose versions interleave.
    "G0": (
        [Txn("a", [Write("x", 1), Write("y", 1)]), Txn("b", [Write("x", 2), Write("y", 2)])],
        {"x": [1, 2], "y": [2, 1]},
    ),
    "G1a": ([Txn("a", [Write("x", 1)], outcome=FAIL), Txn("b", [Read("x", 1)])], None),
    "G1b": ([Txn("a", [Write("x", 1), Write("x", 2)]), Txn("b", [Read("x", 1)])], None),
    "G1c": (
        [Txn("a", [Write("x", 1), Read("y", 1)]), Txn("b", [Write("y", 1), Read("x", 1)])],
        {"x": [1], "y": [1]},
    ),
    # Read skew: b is seen in part.
    "G-single": ([Txn("a", [Read("x", None), Read("y", 1)]), Txn("b", [Write("x", 1), Write("y", 1)])], {"x": [1]}),
    # Write skew.
    "G2-item": (
        [
            Txn("a", [Read("x", None), Read("y", None), Write("x", 1)]),
            Txn("b", [Read("x", None), Read("y", None), Write("y", 1)]),
        ],
        None,
    ),
    # Write skew over a predicate.
    "G2": (
        [Txn("a", [of_kind("k", []), Write("x", (1, "k"))]), Txn("b", [of_kind("k", []), Write("y", (2, "k"))])],
        {"x": [(1, "k")], "y": [(2, "k")]},
    ),
    "G-single-predicate": (
        [Txn("a", [of_kind("k", []), Read("y", 1)]), Txn("b", [Write("x", (1, "k")), Write("y", 1)])],
        {"x": [(1, "k")], "y": [1]},
    ),
    "lost-update": (
        [Txn("a", [Read("x", None), Write("x", 1)]), Txn("b", [Read("x", None), Write("x", 2)])],
        {"x": [1, 2]},
    ),
    "internal": ([Txn("a", [Write("x", 1)]), Txn("b", [Read("x", None), Read("x", 1)])], None),
    "garbage": ([Txn("a", [Read("x", 7)])], None),
    "incompatible-order": (
        [
            Txn("a", [Append("x", 1)]),
            Txn("b", [Append("x", 2)]),
            Txn("c", [Read("x", (1, 2))]),
            Txn("d", [Read("x", (2,))]),
        ],
        None,
    ),
    "duplicate": ([Txn("a", [Append("x", 1)]), Txn("b", [Read("x", (1, 1))])], None),
}


@pytest.mark.parametrize("kind", CONCURRENT)
def test_an_anomaly_is_found_and_named(kind):
    assert kind in kinds(*CONCURRENT[kind])


def test_lists_give_the_same_names():
    dirty = [Txn("a", [Append("x", 1)], outcome=FAIL), Txn("b", [Read("x", (1,))])]
    half = [Txn("a", [Append("x", 1), Append("x", 2)]), Txn("b", [Read("x", (1,))])]
    skew = [
        Txn("a", [Read("x", ()), Append("y", 1)]),
        Txn("b", [Read("y", ()), Append("x", 2)]),
        Txn("end", [Read("x", (2,)), Read("y", (1,))]),
    ]
    lost = [
        Txn("a", [Read("x", ()), Append("x", 1)]),
        Txn("b", [Read("x", ()), Append("x", 2)]),
        Txn("end", [Read("x", (1, 2))]),
    ]
    circular = [Txn("a", [Append("x", 1), Read("y", (2,))]), Txn("b", [Append("y", 2), Read("x", (1,))])]
    crossed = [
        Txn("a", [Append("x", 1), Append("y", 1)]),
        Txn("b", [Append("x", 2), Append("y", 2)]),
        Txn("end", [Read("x", (1, 2)), Read("y", (2, 1))]),
    ]
    assert "G1a" in kinds(dirty)
    assert "G1b" in kinds(half)
    assert kinds(skew) == {"G2-item"}
    assert "lost-update" in kinds(lost)
    assert "G1c" in kinds(circular)
    assert "G0" in kinds(crossed)


def test_real_time_is_an_order_too():
    stale = [Txn("a", [Write("x", 1)], 0, 1), Txn("b", [Read("x", None)], 2, 3)]
    assert kinds(stale, {"x": [1]}) == {"stale-read"}
    unborn = [Txn("a", [of_kind("k", [])], 2, 3), Txn("b", [Write("x", (1, "k"))], 0, 1)]
    assert kinds(unborn, {"x": [(1, "k")]}) == {"stale-read-predicate"}
    backwards = [Txn("a", [Write("x", 1)], 2, 3), Txn("b", [Write("x", 2)], 0, 1)]
    assert kinds(backwards, {"x": [1, 2]}) == {"G0-realtime"}
    early = [Txn("a", [Read("x", 1)], 0, 1), Txn("b", [Write("x", 1)], 2, 3)]
    assert kinds(early, {"x": [1]}) == {"G1c-realtime"}
    long_fork = [
        Txn("a", [Append("x", 1)], 0, 9),
        Txn("b", [Append("y", 1)], 0, 9),
        Txn("c", [Read("x", (1,)), Read("y", ())], 0, 9),
        Txn("d", [Read("x", ()), Read("y", (1,))], 0, 9),
    ]
    assert kinds(long_fork) == {"G2-item"}


def test_an_append_that_no_read_contains_comes_after_every_read():
    """Lists only grow: whoever did not see an element read the list before it was there."""
    history = [
        Txn("a", [Append("x", 1)], 0, 1),
        Txn("b", [Read("x", (1,))], 2, 3),
        Txn("c", [Append("x", 2)], 4, 5),
    ]
    assert kinds(history) == set()
    assert kinds([*history, Txn("d", [Read("x", (1,))], 4.5, 7)]) == set()
    assert kinds([*history, Txn("d", [Read("x", (1,))], 6, 7)]) == {"stale-read"}
    assert kinds([history[0], Txn("b", [Read("x", ())], 2, 3)]) == {"stale-read"}
    assert kinds([Txn("c", [Append("x", 2)], -2, -1), *history[:2]]) == {"G0-realtime", "stale-read"}
    skew = [Txn("a", [Read("x", ()), Append("y", 1)]), Txn("b", [Read("y", ()), Append("x", 2)])]
    assert kinds(skew) == {"G2-item"}


def test_the_read_only_anomaly():
    """Fekete, O'Neil, O'Neil 2004: the two writers alone are serializable, the reader between them shows that not."""
    history = [
        Txn("deposit", [Read("s", None), Write("s", 20)], 0, 2),
        Txn("reader", [Read("s", 20), Read("c", None)], 3, 4),
        Txn("withdraw", [Read("s", None), Read("c", None), Write("c", -11)], 1, 5),
    ]
    assert kinds([history[0], history[2]]) == set()
    assert "G2-item" in kinds(history)


def test_unknown_outcomes_count_once_they_have_been_seen():
    seen = [Txn("a", [Append("x", 1)], outcome=UNKNOWN), Txn("b", [Read("x", (1,))], 5, 6)]
    unseen = [Txn("a", [Append("x", 1)], 0, outcome=UNKNOWN), Txn("b", [Read("x", ())], 5, 6)]
    assert kinds(seen) == kinds(unseen) == set()


def test_deletions_are_versions():
    gone = Deleted("b")
    history = [
        Txn("a", [Write("x", 1)], 0, 1),
        Txn("b", [Read("x", 1), Write("x", gone)], 2, 3),
        Txn("c", [Read("x", None), Write("x", 2)], 4, 5),
        Txn("d", [Read("x", 2)], 6, 7),
    ]
    assert kinds(history, {"x": [1, gone, 2]}) == set()
    history[3] = Txn("d", [Read("x", 1)], 6, 7)
    assert "stale-read" in kinds(history, {"x": [1, gone, 2]})


def test_two_writes_of_one_value_are_refused():
    with pytest.raises(ValueError, match="twice"):
        check([Txn("a", [Write("x", 1)]), Txn("b", [Write("x", 1)])])


@pytest.mark.parametrize("seed", range(50))
def test_serial_histories_are_clean_and_swapped_reads_are_not(seed):
    """Random serial executions pass; after a reader is made to miss one acknowledged append they do not."""
    dice = random.Random(seed)
    lists = dict.fromkeys("xyz", ())
    registers = dict.fromkeys("pqr")
    txns, order, count = [], {key: [] for key in "pqr"}, 0
    for n in range(40):
        ops = []
        for _ in range(dice.randint(1, 4)):
            count += 1
            key, register = dice.choice("xyz"), dice.choice("pqr")
            match dice.randint(0, 4):
                case 0:
                    ops.append(Read(key, lists[key]))
                case 1:
                    ops.append(Append(key, count))
                    lists[key] += (count,)
                case 2:
                    ops.append(Read(register, registers[register]))
                case 3:
                    ops.append(Write(register, count))
                    registers[register] = count
                    order[register].append(count)
                case _:
                    ops.append(
                        ReadWhere(
                            lambda value: value % 2 == 0,
                            frozenset((k, v) for k, v in registers.items() if v is not None and v % 2 == 0),
                            lambda k: k in "pqr",
                        )
                    )
        txns.append(Txn(n, ops, n - dice.random() * 0.4, n + 0.5))
    txns.append(Txn("end", [Read(key, lists[key]) for key in "xyz"], 100, 101))
    assert check(txns, order) == []
    txns.append(Txn("late", [Read("x", lists["x"][:-1])], 102, 103))
    assert check(txns, order) != []
