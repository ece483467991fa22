"""Several nodes with one shared log: the real machine and replica over a simulated store, with the same judges.

Nodes come and go, their clocks differ, the log loses, repeats and delays what is said to it, checkpoints are written
and the log is trimmed all the time. Beside callers there are listeners, who must be told every commit once, in order,
across nodes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import contextmanager
from typing import Any

from kontract.coordination import replica as replicas
from kontract.coordination.replica import Replica
from kontract.core.events import Batch, End, Page, Parcel, Subscription, parse_position
from kontract.core.messages import Prepared
from kontract.core.protocol.machine import Machine
from kontract.core.protocol.phases import CoordinatorStage
from kontract.core.types import TableKind
from kontract.ports import CoordinatorUnavailableError
from kontract.ports.shared_log import Checkpoint, Entry, LogUnavailableError, TrimmedError, WentBackError
from simulation.cluster import OWNER, Node, _Life
from simulation.database import Commit, Store
from simulation.faults import Fault, Odds, bias
from simulation.history import judge
from simulation.kernel import Future, Kernel, Process
from simulation.world import QUIET_MS, RandomWorld, Variant

F = Fault
LOG_FAULTS = {
    "log": (F.LOST, F.TWICE, F.LATE, F.OVERTAKEN, F.COORDINATOR_BEFORE, F.COORDINATOR_AFTER),
    "log reply": (F.LOST, F.LATE, F.OVERTAKEN, F.COORDINATOR_BEFORE, F.COORDINATOR_AFTER),
}
READ_ENTRIES = 5
CHECKPOINT_ENTRIES = 7
"""Both so small that every run writes checkpoints, trims, and has nodes that fall behind."""


class Shelf:
    """The store: what is in it is never lost, and every operation takes effect at one moment."""

    def __init__(self, kernel: Kernel):
        self.kernel = kernel
        self.entries: dict[int, Entry] = {}
        self.everything: list[Entry] = []  # for the judges
        self.tail = 0
        self.floor = 1
        self.kept: Checkpoint | None = None
        self.trimmed = 0
        self.is_in_database = False

    def remember(self) -> tuple[Any, ...]:
        return dict(self.entries), list(self.everything), self.tail, self.floor, self.kept

    def go_back(self, state: tuple[Any, ...]):
        """Be as it was, as the database that it is in."""
        entries, everything, self.tail, self.floor, self.kept = state
        self.entries, self.everything = dict(entries), list(everything)

    def check(self, known: int | None, after: int):
        """Whether a node has not read further than there is, nor something else: ``known``, the time of that entry."""
        mine = self.entries.get(after)
        if after > self.tail or (mine is not None and known not in (None, mine.at)):
            raise WentBackError
        if mine is None and known is not None:
            raise TrimmedError

    def append(self, after: int, batch: bytes, at: int) -> list[Entry]:
        self.tail += 1
        entry = self.entries[self.tail] = Entry(self.tail, at, batch)
        self.everything.append(entry)
        return self.read(after)

    def read(self, after: int) -> list[Entry]:
        if after + 1 < self.floor:
            raise TrimmedError
        return [self.entries[position] for position in range(after + 1, self.tail + 1)][:READ_ENTRIES]

    def find(self, positions: list[int]) -> list[Entry]:
        return [self.entries[position] for position in positions if position in self.entries]

    def write_checkpoint(self, checkpoint: Checkpoint):
        mine = self.entries.get(checkpoint.position)
        if mine is None or mine.at != checkpoint.at:
            return
        if self.kept is None or self.kept.position < checkpoint.position:
            self.kept = checkpoint

    def trim(self, below: int, keep: list[int]):
        if self.is_in_database:
            below = min(below, self.kept.position + 1 if self.kept is not None else 0)
        assert self.kept is not None or not below
        assert self.kept is None or below <= self.kept.position + 1
        self.floor = max(self.floor, below)
        before = len(self.entries)
        self.entries = {p: entry for p, entry in self.entries.items() if p >= self.floor or p in keep}
        self.trimmed += before - len(self.entries)


class Wire:
    """A node's way to the store, in one life of its process."""

    def __init__(self, shelf: Shelf, node: ReplicaNode, process: Process):
        self._shelf = shelf
        self._node = node
        self._process = process

    async def _do(self, what: str, run: Callable[[], Any]) -> Any:
        wires, node, process = self._node.wires, self._node, self._process
        reply = Future()
        whom = {"crash": lambda: node.crash(process)}

        def give_up():
            reply.set(error=LogUnavailableError("no answer"))

        life = node.database.life

        def arrive():
            if self._shelf.is_in_database and life != node.database.life:
                give_up()
                return
            try:
                value, error = run(), None
            except (TrimmedError, WentBackError) as refused:
                value, error = None, refused
            wires.carry("log reply", what, lambda: reply.set(value, error), given_up=give_up, **whom)

        wires.carry("log", what, arrive, given_up=give_up, **whom)
        node.kernel.after(5_000, give_up)
        return await reply

    async def append(self, _owner: str, after: int, batch: bytes, at: int | None = None) -> list[Entry]:
        def append():
            self._shelf.check(at, after)
            return self._shelf.append(after, batch, self._node.clock())

        return await self._do("append", append)

    async def read(self, _owner: str, after: int, at: int | None = None) -> list[Entry]:
        def read():
            self._shelf.check(at, after)
            return self._shelf.read(after)

        return await self._do("read", read)

    async def entries(self, _owner: str, positions: list[int]) -> list[Entry]:
        return await self._do("entries", lambda: self._shelf.find(positions))

    async def checkpoint(self, _owner: str) -> Checkpoint | None:
        return await self._do("checkpoint", lambda: self._shelf.kept)

    async def write_checkpoint(self, _owner: str, checkpoint: Checkpoint):
        await self._do("write checkpoint", lambda: self._shelf.write_checkpoint(checkpoint))

    async def trim(self, _owner: str, below: int, keep: list[int] = ()):
        await self._do("trim", lambda: self._shelf.trim(below, list(keep)))


class ReplicaNode(Node):
    """A node without a journal: it has a replica, and starts again soon after it died."""

    def __init__(self, world: ReplicatedWorld, number: int, skew: float):
        super().__init__(world.kernel, world.wires, world.database)
        self.world = world
        self.number = number
        self.skew = skew
        self.lives = 0
        self.outcomes: list[str] = []

    def clock(self) -> int:
        return int(self.kernel.now + self.skew)

    def live(self) -> Replica:
        if self.process is None:
            self.lives += 1
            process = self.process = Process(self.kernel, self)
            life = _Life(self, process)
            life.now = self.clock
            store = Store(self.database, process, lambda: self.crash(process), of_worker=False)
            self.shell = self.world.replica(
                OWNER,
                f"n{self.number}.{self.lives}",
                Wire(self.world.shelf, self, process),
                lambda: store,
                life,
                life.log,
                checkpoint_entries=CHECKPOINT_ENTRIES,
            )
            self.kernel.spawn(self._follow(self.shell), process)
        return self.shell

    async def _follow(self, replica: Replica):
        while True:
            await self.kernel.sleep(10 if replica.waits else 100)
            try:
                if replica.follows:
                    await replica.follow()
                else:
                    replica.tick()
            except (LogUnavailableError, CoordinatorUnavailableError):
                await self.kernel.sleep(100)

    def wake(self):
        self.live()

    @property
    def coordinator(self):
        return None if self.shell is None else self.shell.machine.coordinator


class Listener:
    """A stream's client: it comes back where it was, perhaps on another node."""

    def __init__(self, world: ReplicatedWorld):
        self.world = world
        self.heard: list[int] = []
        self.resets = 0
        self.connections = 0
        self.since: str | None = None
        self.subscription: Subscription
        self._frames: list[Any] = []
        self._closed = False
        self._news = Future()

    # --- the hub's Subscriber ----------------------------------------------------------------------------------------

    def send(self, parcel: Parcel):
        self._frames.append(parcel.frame)
        self._news.set()

    def keep(self):
        pass

    def close(self):
        self._closed = True
        self._news.set()

    # --- the client --------------------------------------------------------------------------------------------------

    async def listen(self):
        kernel, dice = self.world.kernel, self.world.kernel.dice
        while True:
            await kernel.sleep(dice.random() * 50)
            node = dice.choice(self.world.nodes)
            replica = node.live()
            self._frames, self._closed, self._news = [], False, Future()
            self.subscription = Subscription(["things"], "u", "")
            self.connections += 1
            task = kernel.spawn(self._hear(replica), node.process)
            kernel.after(dice.choice((300, 3_000, 60_000)), self.close)
            await task
            replica.hub.remove(self.subscription.number)

    async def _hear(self, replica: Replica):
        replica.hub.add(self)
        while not self._closed:
            try:
                page = await replica.resume(self, self.since)
            except CoordinatorUnavailableError:
                return
            if isinstance(page, End):
                return
            self._take(page)
            if page.live:
                break
        while not self._closed or self._frames:
            for frame in self._frames:
                self._take(frame)
            self._frames, self._news = [], Future()
            if not self._closed:
                await self._news

    def _take(self, frame: Page | Batch | End):
        match frame:
            case Page():
                if frame.reset:
                    self.resets += 1
                    self.world.kernel.note("reset", frame.reset)
                self.heard += [batch.txid for batch in frame.batches]
                self.since = frame.position
            case Batch():
                self.heard.append(frame.txid)
                assert self.since is not None
                self.since = f"{parse_position(self.since)[0]}-{frame.txid}"
            case End():
                self._closed = True


class ReplicatedWorld(RandomWorld):
    """A seeded run on two or three nodes."""

    def __init__(self, seed: int, variant: Variant | None = None, replica: type[Replica] = Replica):
        self.replica = replica
        self.seed = seed
        self.prepared: list[tuple[int, str, Prepared]] = []  # where in the log, by which node
        super().__init__(seed, variant or Variant(), lose_journal=False)

    def build(self, fate: Odds, kind: TableKind):
        self.rival = self.alarmed = False
        self.shelf = Shelf(self.kernel)
        super().build(fate, kind)
        dice = self.kernel.dice
        for _ in range(dice.choice((0, 1, 1, 2))):
            self.join()
        self.listeners = [Listener(self) for _ in range(2)]
        loose, self.worst = bias(fate, self.kernel, lose_journal=False), dice.choice((0.0, 0.02, 0.1))

        def let_loose():
            loose()
            for wire, faults in LOG_FAULTS.items():
                for fault in faults:
                    fate._table.setdefault(wire, []).append((fault, self.worst * dice.random() / 3))

        self.loose = let_loose

    def join(self) -> ReplicaNode:
        skew = self.kernel.dice.choice((0.0, 0.0, -150.0, 150.0, 2_000.0))
        node = ReplicaNode(self, len(self.nodes), skew)
        self.nodes.append(node)
        return node

    def run(self):
        with self.installed():
            return super().run()

    @contextmanager
    def installed(self):
        before, replicas.READ_ENTRIES = replicas.READ_ENTRIES, READ_ENTRIES
        try:
            yield
        finally:
            replicas.READ_ENTRIES = before

    def play(self):
        self.loose = self._listen_and(self.loose)
        super().play()

    def _listen_and(self, loose: Callable[[], None]) -> Callable[[], None]:
        def start():
            self.first = self.nodes[0].coordinator.watermark
            for listener in self.listeners:
                listener.since = f"{self.nodes[0].shell.machine.head.generation}-{self.first}"
                self.kernel.spawn(listener.listen())
            loose()

        return start

    async def client(self, calls: int):
        """As in RandomWorld, over whichever node a proxy would choose."""
        kernel = self.kernel
        shuffled = list(self.nodes)
        kernel.dice.shuffle(shuffled)
        await super().client(calls)

    def settle(self):
        kernel = self.kernel
        for node in self.nodes:
            node.live()
        kernel.run(lambda: False, kernel.now + QUIET_MS + 10_000)
        lists = [key for key in self.database.rows if key.startswith("list")]

        async def everything(h):
            for key in lists:
                await h.get(key)
            await h.where()

        self.pauses_were, self.pauses = self.pauses, 0.0
        for number, node in enumerate(self.nodes):
            if not self.alone(everything, f"everything{number}", node):
                self.wrong.append(f"stuck: the last reader of node {number} did not succeed in quiet times")
        kernel.run(lambda: False, kernel.now + 1_000)
        fresh = Machine()
        published: list[int] = []
        for number, entry in enumerate(self.shelf.everything):
            step = fresh.apply(entry)
            published += [record.txid for record in step.published]
            for _, answer in step.answers:
                if isinstance(answer, Prepared):
                    self.prepared.append((number, step.node, answer))
        state = fresh.dump()
        for node in self.nodes:
            machine = node.shell.machine
            if machine.position == fresh.position and machine.dump() != state:
                self.wrong.append(f"apart: node {node.number} is in another state than the log says")
            if machine.coordinator.stage is not CoordinatorStage.SERVING or machine.coordinator.unfinished:
                self.wrong.append(
                    f"stuck: node {node.number} {machine.coordinator.stage} {machine.coordinator.unfinished}"
                )
        commits = sorted(commit.txid for commit in self.database.commits if self._is_in_log(commit))
        lost = {commit.txid for commit in self.database.lost}
        if [txid for txid in published if txid not in lost or txid in commits] != commits:
            self.wrong.append(f"events: published {published}, committed {commits}")
        for listener in self.listeners:
            expected = sorted(c.txid for c in self.database.commits if c.txid > self.first and c.rows)
            heard = [txid for txid in listener.heard if txid not in lost]
            if not listener.resets and heard != expected:
                self.wrong.append(f"listener: heard {listener.heard} of {expected}")
        for node in self.nodes:
            node.journal.epoch = -1  # the journals' judge has nothing to look at
        self.wrong += judge(self.attempts, self.database, self.nodes)

    def _is_in_log(self, _commit: Commit) -> bool:
        return True


class ReplicatedBackWorld(ReplicatedWorld):
    """The nodes' database goes back in time, and so does their log if it is in there.

    Then no node dies: when all who remember are gone, nobody can notice (docs/how-to/operate.md).
    """

    def __init__(self, seed: int, *, with_log: bool):
        super().__init__(seed)
        self.database.goes_back = True
        self.shelf.is_in_database = with_log
        self.shelves: list[tuple[Any, ...]] = []
        self.kept = 0  # how many entries of the log are of before it went back
        self.knowing: set[str] = set()  # the nodes that had read an entry that is gone
        if with_log:
            remember = self.database._remember
            self.database._remember = lambda: (remember(), self.shelves.append(self.shelf.remember()))

    def play(self):
        self.kernel.after(self.kernel.dice.random() * self.kernel.dice.choice((50, 300, 3_000)), self.back)
        loose = self.loose

        def let_loose():
            loose()
            if self.shelf.is_in_database:
                deaths = (F.COORDINATOR_BEFORE, F.COORDINATOR_AFTER)
                table = self.odds._table
                self.odds._table = {kind: [one for one in odds if one[0] not in deaths] for kind, odds in table.items()}

        self.loose = let_loose
        super().play()

    def back(self):
        """Lose some commits."""
        running = [node.coordinator for node in self.nodes if node.coordinator is not None]
        known = {txid for node in self.nodes if node.shell for txid in node.shell.machine._places}
        lost = self.database.go_back(self.kernel.dice.randint(1, 6))
        if self.shelves and lost:
            self.shelf.go_back(self.shelves[len(self.database.past)])
            self.kept = len(self.shelf.everything)
            shells = [node.shell for node in self.nodes if node.shell]
            self.knowing = {shell._node for shell in shells if shell.machine.position > self.shelf.tail}
        self.database.given = max((coordinator._next_txid - 1 for coordinator in running), default=0)
        self.database.must_notice = any(commit.txid in known and self._settled(commit.txid) for commit in lost)
        self.answered.clear()

    def _settled(self, txid: int) -> bool:
        machines = [node.shell.machine for node in self.nodes if node.shell]
        return any(txid in machine._places and machine._places[txid].committed for machine in machines)

    def settle(self):
        """Let it be noticed, by somebody who writes."""

        async def probe(h):
            await h.put("noticed", v=0)

        for number in range(5):
            self.kernel.run(lambda: False, self.kernel.now + QUIET_MS)
            if self.alone(probe, f"noticed{number}", self.nodes[0]):
                break
        super().settle()
        if self.shelf.is_in_database:
            self.wrong = [line for line in self.wrong if not line.startswith(("unnoticed", "twice: txid"))]
            self.wrong += self._judge_by_node()

    def _judge_by_node(self):
        """Whoever had read what is lost must not go on as if it had never been; the others cannot know better.

        For them the log and the database agree, so they give numbers again that are lost, in the same epoch, until one
        that knows comes by. So what is judged is who prepared.
        """
        old = [prepared for at, _, prepared in self.prepared if at < self.kept]
        new = [(node, prepared) for at, node, prepared in self.prepared if at >= self.kept]
        for node, prepared in new:
            if node in self.knowing and prepared.epoch <= self.database.left_epoch:
                yield f"unnoticed: {node} had read what is lost, and prepared {prepared.sid} in epoch {prepared.epoch}"
        numbers = [prepared.txid for prepared in [*old, *(prepared for _, prepared in new)]]
        yield from (f"twice: txid {txid} in one log" for txid, n in Counter(numbers).items() if n > 1)
        if self.database.noticed_at is None:
            return
        highest = max((commit.txid for commit in self.database.lost), default=0)
        for _, prepared in new:
            if prepared.epoch > self.database.left_epoch and prepared.txid <= highest:
                yield f"twice: txid {prepared.txid} of {prepared.sid} was of a lost commit, too"

    def _is_in_log(self, commit: Commit) -> bool:
        """Whether it can be published: not what was prepared in the part that is lost, and applied afterwards.

        That happened before the next epoch began, in which every stream is reset.
        """
        back, first = self.database.went_back_at, self.database.noticed_at
        if not self.shelf.is_in_database or back is None or commit.sid in {one.sid for _, _, one in self.prepared}:
            return True
        if first is not None and commit.time > first:
            self.wrong.append(f"late: {commit.sid} of the lost log was applied after the next epoch had begun")
        return False


def back(seed: int, *, with_log: bool) -> ReplicatedBackWorld:
    """Run one seed of a database that goes back."""
    world = ReplicatedBackWorld(seed, with_log=with_log)
    world.run()
    return world


def run_replicated(seed: int) -> ReplicatedWorld:
    """Run one seed."""
    world = ReplicatedWorld(seed)
    world.run()
    return world


def failures(first: int, count: int) -> list[tuple[int, list[str]]]:
    """Run ``count`` seeds; return those that fail with what is wrong."""
    return [(seed, wrong) for seed in range(first, first + count) if (wrong := run_replicated(seed).wrong)]
