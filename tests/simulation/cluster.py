"""The coordinators' processes and journals, the network to them, and what a worker's platform offers: all simulated.

The shell in a coordinator's process is the real one, ``kontract.coordination.shell``, over a simulated loop, journal
and database; it may die between any two of its effects.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from msgspec.structs import replace

from kontract.coordination.recovery import Saved
from kontract.coordination.shell import CoordinatorShell
from kontract.core.messages import Answer, Began, Begin, Committed, Finish, Prepared, Request
from kontract.core.protocol.collection import CollectionStage, Mark
from kontract.core.protocol.hub import LogHead
from kontract.core.protocol.records import Drop, JournalEntry, PutBlock, PutEnded, PutOrder, PutRecord, Record, is_kept
from kontract.core.protocol.witnesses import of_records
from kontract.ports import CoordinatorUnavailableError
from simulation.database import Database, Store
from simulation.faults import LATE_MS, Fault, Wires
from simulation.kernel import EXPECTED, Crashed, Future, Kernel, Process

OWNER = "acme"
ALARM_SLACK_MS = 250
UNWRITABLE = "the journal cannot be written"


class Journal:
    """What survives a crash of the coordinator. It behaves like the Durable Object's."""

    def __init__(self, kernel: Kernel):
        self.kernel = kernel
        self.epoch = 0
        self.last_txid = 0
        self.records: dict[int, Record] = {}
        self.dropped: dict[int, Record] = {}  # for the judges
        self.marks: dict[int, Mark] = {}
        self.ended: dict[str, int] = {}
        self.order: dict[str, int] = {}
        self.order_known = False
        self.up_to = 0
        self.started = False
        self.head = LogHead("", 0)
        self.written_by: Process | None = None

    def load(self) -> Saved | None:
        if not self.started:
            return None
        unsettled = [replace(record) for record in self.records.values() if not record.settled_at]
        order = dict(self.order) if self.order_known else None
        last, witnesses = max([self.last_txid, *self.records]), of_records(self.records.values())
        return Saved(self.epoch, last, unsettled, dict(self.ended), order, witnesses)

    def start(self, epoch: int, last_txid: int, generation: str, ended: Mapping[str, int]):
        self.epoch, self.last_txid, self.started = epoch, last_txid, True
        self.head = LogHead(generation, last_txid)
        self.records, self.dropped, self.marks, self.ended = {}, {}, {}, dict(ended)
        self.order, self.order_known = {}, False
        self.up_to = 0

    def published(self) -> int:
        return self.up_to

    def write_published(self, txid: int) -> None:
        self.up_to = txid

    def write(self, entries: list[JournalEntry]):
        for entry in entries:
            match entry:
                case PutRecord():
                    self.records[entry.record.txid] = replace(entry.record)
                case PutBlock():
                    self.last_txid, self.order_known = entry.last_txid, True
                case PutOrder():
                    self.order[entry.ptr] = entry.last
                case PutEnded():
                    self.ended[entry.session] = entry.until
                case Drop():
                    self.ended = {session: until for session, until in self.ended.items() if until > entry.now}
                    for record in list(self.records.values()):
                        if self._expired(record, entry):
                            self.dropped[record.txid] = self.records.pop(record.txid)

    @staticmethod
    def _expired(record: Record, drop: Drop) -> bool:
        if not record.settled_at or record.txid in drop.keep:
            return False
        if is_kept(record):
            return record.settled_at < drop.idempotent_before
        return record.txid < drop.below_txid or record.settled_at < drop.settled_before

    def newest(self, call: str) -> Record | None:
        found = [record for record in self.records.values() if record.call == call]
        return max(found, key=lambda record: record.txid, default=None)

    def write_marks(self, marks: list[Mark]):
        self.marks.update({mark.watermark: mark for mark in marks})
        newest = max(self.marks, default=0)
        self.marks = {w: mark for w, mark in self.marks.items() if mark.stage < CollectionStage.FENCES or w == newest}


class _Life:
    """One process's hold on the journal, its clock and its log: what the shell is given."""

    def __init__(self, node: Node, process: Process):
        self._node = node
        self._process = process

    def load(self) -> Saved | None:
        return self._node.journal.load()

    def newest(self, call: str) -> Record | None:
        return self._node.journal.newest(call)

    def marks(self) -> list[Mark]:
        return list(self._node.journal.marks.values())

    def log_head(self) -> LogHead:
        return self._node.journal.head

    def committed(self, after: int, up_to: int) -> list[Record]:
        records = sorted(self._node.journal.records.items())
        return [record for txid, record in records if after < txid <= up_to and record.phase == "committed"]

    def published(self) -> int:
        return self._node.journal.published()

    def write_published(self, txid: int):
        self._write("published", [txid], lambda _: self._node.journal.write_published(txid))

    def start(self, epoch: int, last_txid: int, generation: str, ended: Mapping[str, int]):
        self._write("start", [None], lambda _: self._node.journal.start(epoch, last_txid, generation, ended))

    def write(self, entries: list[JournalEntry]):
        self._write(_name(entries[-1]), entries, self._node.journal.write)

    def write_marks(self, marks: list[Mark]):
        self._write("mark", marks, self._node.journal.write_marks)

    def _write(self, what: str, entries: list[Any], write: Callable[[list[Any]], None]):
        if not self._process.alive:
            raise Crashed
        fault = self._node.wires.fate.at("journal", what)
        if fault is Fault.COORDINATOR_BEFORE:
            self._node.end(self._process)
        if fault is Fault.FAILS:
            raise OSError(UNWRITABLE)
        self._node.journal.written_by = self._process
        write(entries[: max(1, len(entries) - 1)] if fault is Fault.HALF else entries)
        if fault is Fault.HALF:
            raise OSError(UNWRITABLE)
        if fault is Fault.COORDINATOR_AFTER:
            self._node.end(self._process)

    # --- clock -------------------------------------------------------------------------------------------------------

    def now(self) -> int:
        return int(self._node.kernel.now)

    async def sleep(self, milliseconds: float):
        await self._node.kernel.sleep(milliseconds)
        fault = self._node.wires.fate.at("alarm", "timer")
        if fault is Fault.LATE:
            await self._node.kernel.sleep(LATE_MS)
        elif fault is Fault.COORDINATOR_BEFORE:
            self._node.end(self._process)
        elif fault is Fault.COORDINATOR_AFTER:
            self._node.kernel.after(0, lambda: self._node.crash(self._process))

    def log(self, _level: str, event: str, **fields: Any):
        self._node.kernel.note("log", event, *(v for k, v in fields.items() if k != "owner"))
        if event == "contradiction" or (event == "coordinator_failed" and UNWRITABLE not in str(fields["error"])):
            self._node.contradictions.append(str(fields["error"]))


def _name(entry: JournalEntry) -> str:
    return entry.record.phase if isinstance(entry, PutRecord) else type(entry).__name__


class Node:
    """Where a coordinator lives: the journal stays, processes come and go.

    Like a CPython process it is started again soon after a crash; or, ``alarmed``, like a Durable Object only by the
    next message, and by the alarm that it has set.
    """

    def __init__(
        self,
        kernel: Kernel,
        wires: Wires,
        database: Database,
        shell: type[CoordinatorShell] = CoordinatorShell,
        journal: type[Journal] = Journal,
        *,
        alarmed: bool = False,
    ):
        self.kernel = kernel
        self.wires = wires
        self.database = database
        self.journal = journal(kernel)
        self.process: Process | None = None
        self.shell: CoordinatorShell | None = None
        self.contradictions: list[str] = []
        self.restarts = 0
        self.journals_lost = 0
        self.loses_journal = lambda: False
        self.alarmed = alarmed
        self._alarm: float | None = None  # kept with the journal
        self._alarm_due: float | None = None  # what this life knows of it
        self._make_shell = shell
        self._make_journal = journal

    def around(self, process: Process, kind: str, what: str, action: Callable[[], Any]):
        """Do one step of the shell, unless the process dies before it; it may die after it."""
        fault = self.wires.fate.at(kind, what) if process is self.process else None
        if fault is Fault.COORDINATOR_BEFORE:
            self.end(process)
        done = action()
        if fault is Fault.COORDINATOR_AFTER:
            self.end(process)
        return done

    def live(self) -> CoordinatorShell:
        """Return the shell, in a new process if there is none."""
        if self.process is None:
            process = self.process = Process(self.kernel, self)
            life = _Life(self, process)
            store = Store(self.database, process, lambda: self.crash(process), of_worker=False)
            self.shell = self._make_shell(OWNER, life, lambda: store, life, life.log, alarm=self.alarmed)
            self._alarm_due = None
        return self.shell

    def receive(self, request: Request, reply: Callable[[Answer], None]):
        """Take one message; ``reply`` is called with its answer, perhaps much later, perhaps never."""
        shell, process = self.live(), self.process

        async def ask():
            try:
                answer = await shell.ask(request)
            except EXPECTED:
                return  # the worker waits in vain
            self._set_alarm(shell)
            # What is decided at once passes no future on its way out, where the process could die: see _Promise.
            self.around(process, "decide", type(answer).__name__, lambda: reply(answer))

        self.kernel.spawn(ask(), self.process)

    def crash(self, process: Process | None):
        """Lose everything but the journal; now and then that, too."""
        if process is None or process is not self.process:
            return
        self.kernel.note("crash")
        self.restarts += 1
        self.process = self.shell = None
        if self.loses_journal():
            self.kernel.note("journal lost")
            self.journals_lost += 1
            self.journal = self._make_journal(self.kernel)
            self._alarm = None
        process.die()
        if not self.alarmed:
            self.kernel.after(self.wires.fate.within(500), self.wake)

    def end(self, process: Process):
        """Crash in the midst of a step of the process itself."""
        self.crash(process)
        process.end()

    def wake(self):
        """Start it if it does not run, and let it do what is due."""
        shell = self.live()

        async def wake():
            try:
                await shell.wake()
            except EXPECTED:
                self.kernel.after(500, self.wake)
            else:
                self._set_alarm(shell)

        self.kernel.spawn(wake(), self.process)

    # --- alarms, as in kontract/cloudflare/durable_object.py ----------------------------------------------------------

    def _set_alarm(self, shell: CoordinatorShell):
        due = shell.next_wake if self.alarmed else None
        if due is not None and (self._alarm_due is None or due < self._alarm_due):
            self._alarm_due = due
            self._ring_at(due + ALARM_SLACK_MS)

    def _ring_at(self, time: float):
        self._alarm = time
        self.kernel.after(max(1.0, time - self.kernel.now), lambda: self._ring(time))

    def _ring(self, time: float):
        if self._alarm != time:
            return  # another one has replaced it
        shell, process = self.live(), self.process
        self._alarm = self._alarm_due = None

        async def alarm():
            await shell.wake()
            self._set_alarm(shell)

        task = self.kernel.spawn(alarm(), process)
        # The platform rings again until the handler has succeeded, unless another alarm has been set.
        task.add_done_callback(
            lambda _: (
                (task.error or not process.alive) and self._alarm is None and self._ring_at(self.kernel.now + 2000)
            )
        )

    @property
    def coordinator(self):
        return None if self.shell is None else self.shell._coordinator


class Link:
    """A worker's way to the coordinator for one call."""

    def __init__(self, worker: Worker, node: Node):
        self.worker = worker
        self.node = node
        self.kernel = node.kernel
        self.finished_with: Answer | None = None
        self.attempt = None
        self.began_at = 0.0
        self.superseded = False

    async def ask(self, request: Request) -> Answer:
        kernel, wires, node = self.kernel, self.node.wires, self.node
        if not self.worker.process.alive:
            raise Crashed
        if isinstance(request, Begin):
            self.began_at = kernel.now
        reply = Future()
        whom = {"worker": self.worker.process, "crash": lambda: node.crash(node.process)}

        def arrive(answer: Answer):
            wires.carry("answer", type(answer).__name__, lambda: reply.set(answer), **whom)

        wires.carry("request", type(request).__name__, lambda: node.receive(request, arrive), **whom)
        unavailable = CoordinatorUnavailableError("no answer")
        kernel.after(400 + wires.fate.within(2500), lambda: reply.set(error=unavailable))
        answer: Answer = await reply
        kernel.note(type(request).__name__, getattr(request, "call", getattr(request, "txid", "")), answer)
        if isinstance(request, Finish):
            self.finished_with = answer
        elif isinstance(answer, Prepared):
            self.attempt.prepared = answer
        elif isinstance(answer, Began):
            self.superseded = answer.epoch != node.database.epoch
        return answer

    @property
    def visible(self) -> bool:
        """Whether the coordinator has confirmed the commit, so that every later begin must see it."""
        return isinstance(self.finished_with, Committed)


class _CutError(BaseException):
    pass


class _FreeMutex:
    async def __aenter__(self):
        return None

    async def __aexit__(self, *_error):
        return None


class Worker:
    """A process that runs calls one after the other: the platform of ``Attempts``."""

    def __init__(self, kernel: Kernel):
        self.kernel = kernel
        self.process = Process(kernel)
        self.clock = self
        self.random = self

    def now(self) -> int:
        return int(self.kernel.now)

    def elapsed(self) -> float:
        return self.kernel.now

    async def sleep(self, milliseconds: float):
        await self.kernel.sleep(milliseconds)

    def uniform(self) -> float:
        return self.kernel.dice.random()

    def mutex(self):
        return _FreeMutex()

    async def within(self, milliseconds: float, work):
        """Cut ``work`` off where it stands when its time is over."""
        task = self.kernel.current
        running = [True]
        self.kernel.after(max(0.0, milliseconds), lambda: running and task.interrupt(_CutError()))
        try:
            return await work
        except _CutError:
            raise TimeoutError from None
        finally:
            running.clear()
