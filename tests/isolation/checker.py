"""Is a history of transactions serializable, and in the order of real time? If not, which anomaly is it?

Dependencies between committed transactions form a graph (Adya, "Weak Consistency", 1999; Elle, VLDB 2020, for lists):

- ww: the second installed the version after the first one's;
- wr: the second read what the first wrote;
- rw: the first read the version that the second replaced (by key, or by a predicate that the new version changes);
- rt: the first had ended before the second began.

A cycle is an anomaly; what its edges are gives it a name. The history alone decides: no txid and no snapshot is used.
Values written to one key must differ from each other.
"""

from __future__ import annotations

import itertools
from collections import defaultdict, deque
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, field
from typing import Any

OK, FAIL, UNKNOWN = "ok", "fail", "unknown"


@dataclass(frozen=True, slots=True)
class Read:
    """A key's value: a tuple for a list, None when there was nothing."""

    key: Hashable
    value: Any


@dataclass(frozen=True, slots=True)
class Write:
    """A key's new value; ``Deleted`` makes a deletion, which is a version of its own."""

    key: Hashable
    value: Any


@dataclass(frozen=True, slots=True)
class Deleted:
    """The value a deletion leaves; read as None. ``by`` makes it different from other deletions."""

    by: Hashable


@dataclass(frozen=True, slots=True)
class Append:
    """One more element at the end of a list."""

    key: Hashable
    value: Any


@dataclass(frozen=True, slots=True)
class ReadWhere:
    """Every key whose value satisfies ``matches``, with that value."""

    matches: Callable[[Any], bool]
    found: frozenset[tuple[Hashable, Any]]
    keys: Callable[[Hashable], bool] = lambda _key: True


Op = Read | Write | Append | ReadWhere


@dataclass(slots=True)
class Txn:
    """One attempt to commit: ``end`` is when its client knew, infinite when it never did."""

    id: Hashable
    ops: list[Op]
    start: float = 0.0
    end: float = float("inf")
    outcome: str = OK


@dataclass(frozen=True, slots=True)
class Anomaly:
    """A name from the literature, the transactions in it and how they depend on each other."""

    kind: str
    detail: str


@dataclass(slots=True)
class _Graph:
    edges: dict[Hashable, dict[Hashable, set[str]]] = field(default_factory=lambda: defaultdict(dict))

    def add(self, source: Hashable, target: Hashable, kind: str) -> None:
        if source != target:
            self.edges[source].setdefault(target, set()).add(kind)

    def path(self, source: Hashable, target: Hashable, kinds: frozenset[str]) -> list[Hashable] | None:
        """Return the shortest path over edges of ``kinds``, both ends included."""
        before: dict[Hashable, Hashable] = {source: source}
        queue = deque([source])
        while queue:
            node = queue.popleft()
            if node == target:
                path = [node]
                while path[-1] != source:
                    path.append(before[path[-1]])
                return path[::-1]
            for other, found in self.edges.get(node, {}).items():
                if other not in before and found & kinds:
                    before[other] = node
                    queue.append(other)
        return None

    def is_acyclic(self) -> bool:
        incoming: dict[Hashable, int] = defaultdict(int)
        for targets in self.edges.values():
            for target in targets:
                incoming[target] += 1
        ready = [node for node in self.edges if not incoming[node]]
        left = sum(count > 0 for count in incoming.values())
        while ready:
            for target in self.edges.get(ready.pop(), {}):
                incoming[target] -= 1
                if not incoming[target]:
                    left -= 1
                    ready.append(target)
        return left == 0


WW, WR, RW, PRW, RT = "ww", "wr", "rw", "rw-predicate", "rt"

# What closes the cycle, what the rest of it may consist of, its name. The first that fits is the strongest.
CYCLES: tuple[tuple[str, frozenset[str], str], ...] = (
    (WW, frozenset({WW}), "G0"),
    (WR, frozenset({WW, WR}), "G1c"),
    (RW, frozenset({WW, WR}), "G-single"),
    (PRW, frozenset({WW, WR}), "G-single-predicate"),
    (RW, frozenset({WW, WR, RW}), "G2-item"),
    (PRW, frozenset({WW, WR, RW, PRW}), "G2"),
    (WW, frozenset({WW, RT}), "G0-realtime"),
    (WR, frozenset({WW, WR, RT}), "G1c-realtime"),
    (RW, frozenset({WW, WR, RT}), "stale-read"),
    (PRW, frozenset({WW, WR, RT}), "stale-read-predicate"),
    (RW, frozenset({WW, WR, RW, RT}), "G2-item-realtime"),
    (PRW, frozenset({WW, WR, RW, PRW, RT}), "G2-realtime"),
)


class _History:
    def __init__(self, txns: Iterable[Txn], order: dict[Hashable, list[Any]] | None) -> None:
        self.txns = {txn.id: txn for txn in txns}
        self.anomalies: list[Anomaly] = []
        self.writer: dict[tuple[Hashable, Any], Hashable] = {}
        self.intermediate: set[tuple[Hashable, Any]] = set()
        self.lists: set[Hashable] = set()
        self.graph = _Graph()
        self._index()
        self.seen: set[Hashable] = set()  # transactions whose writes somebody read: they have committed
        self._look_at_reads()
        self.order = self._orders(order or {})

    def report(self, kind: str, detail: str) -> None:
        self.anomalies.append(Anomaly(kind, detail))

    def _index(self) -> None:
        for txn in self.txns.values():
            last: dict[Hashable, Any] = {}
            for op in txn.ops:
                if not isinstance(op, (Write, Append)):
                    continue
                if isinstance(op, Append):
                    self.lists.add(op.key)
                if (op.key, op.value) in self.writer:
                    raise ValueError(f"{op.value!r} is written to {op.key!r} twice")
                self.writer[op.key, op.value] = txn.id
                if op.key in last:
                    self.intermediate.add((op.key, last[op.key]))
                last[op.key] = op.value
        registers = {key for key, _ in self.writer} - self.lists
        for txn in self.txns.values():
            for op in txn.ops:
                if isinstance(op, Read) and isinstance(op.value, tuple) and op.key not in registers:
                    self.lists.add(op.key)  # nobody appended to it

    def committed(self, txn_id: Hashable) -> bool:
        outcome = self.txns[txn_id].outcome
        return outcome == OK or (outcome == UNKNOWN and txn_id in self.seen)

    def observations(self, txn: Txn) -> Iterable[tuple[Hashable, Any]]:
        """What a transaction read of others: (key, value) of registers, (key, tuple) of lists."""
        mine: dict[Hashable, list[Any]] = {}
        first: dict[Hashable, Any] = {}
        for op in txn.ops:
            if isinstance(op, (Write, Append)):
                mine.setdefault(op.key, []).append(op.value)
                continue
            pairs = [(op.key, op.value)] if isinstance(op, Read) else op.found
            for key, value in pairs:
                own = mine.get(key, [])
                if key in self.lists:
                    elements = tuple(value or ())
                    if own and elements[-len(own) :] != tuple(own):
                        self.report("internal", f"{txn.id} read {elements} of {key!r} after appending {own}")
                        continue
                    rest = elements[: len(elements) - len(own)]
                    if first.setdefault(key, rest) != rest:
                        self.report("internal", f"{txn.id} read {key!r} as {first[key]} and as {rest}")
                    yield key, rest
                elif own:
                    if value != (None if isinstance(own[-1], Deleted) else own[-1]):
                        self.report("internal", f"{txn.id} read {value!r} of {key!r} after writing {own[-1]!r}")
                else:
                    if first.setdefault(key, value) != value:
                        self.report("internal", f"{txn.id} read {key!r} as {first[key]!r} and as {value!r}")
                    yield key, value

    def _look_at_reads(self) -> None:
        self.read_by: dict[Hashable, list[tuple[Hashable, Any]]] = {}
        for txn in self.txns.values():
            if txn.outcome != OK:
                continue
            self.read_by[txn.id] = list(dict.fromkeys(self.observations(txn)))
            for key, value in self.read_by[txn.id]:
                values = value if key in self.lists else () if value is None else (value,)
                for position, each in enumerate(values):
                    writer = self.writer.get((key, each))
                    if writer is None:
                        self.report("garbage", f"{txn.id} read {each!r} of {key!r}, which nobody wrote")
                        continue
                    self.seen.add(writer)
                    if self.txns[writer].outcome == FAIL:
                        self.report("G1a", f"{txn.id} read {each!r} of {key!r}, which {writer} wrote and aborted")
                    last = position == len(values) - 1
                    if last and (key, each) in self.intermediate and writer != txn.id:
                        self.report("G1b", f"{txn.id} read {each!r} of {key!r}, which {writer} wrote over later")

    # --- version orders ----------------------------------------------------------------------------------------------

    def _orders(self, given: dict[Hashable, list[Any]]) -> dict[Hashable, list[Any]]:
        orders: dict[Hashable, list[Any]] = dict(given)
        reads: dict[Hashable, set[Any]] = defaultdict(set)
        for pairs in self.read_by.values():
            for key, value in pairs:
                reads[key].add(value)
        for key in self.lists:
            longest = max(reads[key], key=len, default=())
            for read in reads[key]:
                if longest[: len(read)] != read:
                    self.report("incompatible-order", f"{key!r} was read as {longest} and as {read}")
                elif len(set(read)) != len(read):
                    self.report("duplicate", f"{key!r} was read as {read}")
            orders[key] = list(longest)
        for key in {key for key, _ in self.writer} - self.lists - given.keys():
            orders[key] = self._chain(key)
        return orders

    def _chain(self, key: Hashable) -> list[Any]:
        """Order the values of a register by who read which one before writing its own."""
        after: dict[Any, list[Any]] = defaultdict(list)
        for txn in self.txns.values():
            if not self.committed(txn.id):
                continue
            read = [value for other, value in self.read_by.get(txn.id, []) if other == key]
            wrote = [op.value for op in txn.ops if isinstance(op, Write) and op.key == key]
            if wrote and read:
                after[read[0]].append(wrote)
        chain: list[Any] = []
        value: Any = None
        while after[value]:
            successors = after[value]
            if len(successors) > 1:
                writers = [str(self.writer[key, wrote[0]]) for wrote in successors]
                self.report("lost-update", f"{' and '.join(writers)} read {value!r} of {key!r} and wrote over it")
                break
            chain.extend(successors[0])
            value = chain[-1]
        return chain

    # --- edges -------------------------------------------------------------------------------------------------------

    def _unread(self) -> dict[Hashable, list[Hashable]]:
        """By list: who appended what no read contains. Lists only grow, so each of them comes after every read."""
        found: dict[Hashable, list[Hashable]] = defaultdict(list)
        for (key, value), txn_id in self.writer.items():
            if key not in self.lists or self.txns[txn_id].outcome != OK:
                continue
            if self._installs(key, value) and value not in self.order[key]:
                found[key].append(txn_id)
        return found

    def build(self) -> None:
        versions = {key: [value for value in order if self._installs(key, value)] for key, order in self.order.items()}
        positions: dict[Hashable, dict[Any, int]] = {}
        for key, order in versions.items():
            positions[key] = {value: n for n, value in enumerate(order)}
            for before, now in itertools.pairwise(order):
                self.graph.add(self.writer[key, before], self.writer[key, now], WW)
        unread = self._unread()
        for key, writers in unread.items():
            for last in versions[key][-1:]:
                for writer in writers:
                    self.graph.add(self.writer[key, last], writer, WW)
        read_and_wrote: dict[tuple[Hashable, Any], list[Hashable]] = defaultdict(list)
        for txn_id, pairs in self.read_by.items():
            wrote = {op.key for op in self.txns[txn_id].ops if isinstance(op, (Write, Append))}
            for key, value in pairs:
                order = versions.get(key, [])
                if key in self.lists:
                    known = [each for each in value if (key, each) in self.writer]
                    at = len([each for each in known if self._installs(key, each)]) - 1
                    if known:
                        self.graph.add(self.writer[key, known[-1]], txn_id, WR)
                elif value is None:
                    if any(isinstance(each, Deleted) for each in order):
                        continue  # before the first version or after a deletion: not known
                    at = -1
                else:
                    if (key, value) in self.writer:
                        self.graph.add(self.writer[key, value], txn_id, WR)
                    if value not in positions.get(key, {}):
                        continue
                    at = positions[key][value]
                if key in wrote:
                    read_and_wrote[key, order[at] if at >= 0 else None].append(txn_id)
                if at + 1 < len(order):
                    self.graph.add(txn_id, self.writer[key, order[at + 1]], RW)
                else:
                    for writer in unread.get(key, ()):
                        self.graph.add(txn_id, writer, RW)
            for op in self.txns[txn_id].ops:
                if isinstance(op, ReadWhere):
                    self._predicate(txn_id, op, versions)
        for (key, value), readers in read_and_wrote.items():
            if len(set(readers)) > 1:
                self.report("lost-update", f"{sorted(map(str, set(readers)))} read {value!r} of {key!r} and wrote it")
        done = [txn for txn in self.txns.values() if txn.outcome == OK]
        for txn in self.txns.values():
            if txn.outcome == OK or self.committed(txn.id):
                for other in done:
                    if other.end < txn.start:
                        self.graph.add(other.id, txn.id, RT)

    def _installs(self, key: Hashable, value: Any) -> bool:
        writer = self.writer.get((key, value))
        return writer is not None and (key, value) not in self.intermediate and self.txns[writer].outcome != FAIL

    def _predicate(self, txn_id: Hashable, op: ReadWhere, versions: dict[Hashable, list[Any]]) -> None:
        """Keys that were not found were seen at a version that does not match; unless it is plain which: nothing."""
        found = {key for key, _ in op.found}
        wrote = {o.key for o in self.txns[txn_id].ops if isinstance(o, (Write, Append))}
        for key, order in versions.items():
            if key in found or key in wrote or key in self.lists or not op.keys(key):
                continue
            match = [False, *(not isinstance(value, Deleted) and op.matches(value) for value in order)]
            gaps = [n for n, now in enumerate(match) if not now and (n == 0 or match[n - 1])]
            if len(gaps) == 1:
                if gaps[0] > 0:
                    self.graph.add(self.writer[key, order[gaps[0] - 1]], txn_id, WR)
                following = next((n for n in range(gaps[0], len(match)) if match[n]), None)
                if following is not None:
                    self.graph.add(txn_id, self.writer[key, order[following - 1]], PRW)

    def find_cycles(self) -> None:
        if self.graph.is_acyclic():
            return
        named: set[tuple[Hashable, ...]] = set()
        for closing, rest, kind in CYCLES:
            for source, targets in list(self.graph.edges.items()):
                for target, kinds in targets.items():
                    if closing not in kinds:
                        continue
                    path = self.graph.path(target, source, rest)
                    if path is None:
                        continue
                    members = tuple(sorted(set(path), key=str))
                    if members in named:
                        continue
                    named.add(members)
                    self.report(kind, self._tell(source, path, closing))

    def _tell(self, source: Hashable, path: list[Hashable], closing: str) -> str:
        parts = [f"{source} -{closing}-> {path[0]}"]
        for here, there in itertools.pairwise(path):
            parts.append(f"-{'/'.join(sorted(self.graph.edges[here][there]))}-> {there}")
        return " ".join(parts)


def check(txns: Iterable[Txn], order: dict[Hashable, list[Any]] | None = None) -> list[Anomaly]:
    """Return the anomalies of a history; nothing means serializable in an order that real time allows.

    ``order``: the values of registers in the order of their versions, where it is known (from the database); else it
    is inferred from transactions that read a register before they wrote it.
    """
    history = _History(txns, order)
    history.build()
    history.find_cycles()
    return history.anomalies
