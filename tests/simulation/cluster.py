"""The coordinator's shell and journal, the network to it, and what a worker's platform offers: all simulated.

``Shell`` does what ``kontract/shell.py`` does, in the same order, and may die between any two effects.
"""

from __future__ import annotations

from msgspec.structs import replace

from kontract.core import recovery
from kontract.core.coordinator import Coordinator, Drop, Effects, PutBlock, PutRecord, Record
from kontract.core.messages import Answer, Begin, Committed, Finish, Prepare, Prepared, Request, Unready
from kontract.core.phases import ProtocolError
from kontract.core.recovery import Saved
from kontract.ports import CoordinatorUnavailableError
from simulation.database import Database, Faults, Store
from simulation.kernel import Crashed, Future, Kernel

OWNER = "acme"


class Journal:
    """What survives a crash of the coordinator."""

    def __init__(self):
        self.epoch = 0
        self.last_txid = 0
        self.records: dict[int, Record] = {}
        self.started = False

    def load(self) -> Saved | None:
        if not self.started:
            return None
        return Saved(self.epoch, self.last_txid, [replace(record) for record in self.records.values()])

    def start(self, epoch: int, last_txid: int):
        self.epoch, self.last_txid, self.records, self.started = epoch, last_txid, {}, True

    def write(self, entries):
        for entry in entries:
            if isinstance(entry, PutRecord):
                self.records[entry.record.txid] = replace(entry.record)
            elif isinstance(entry, PutBlock):
                self.last_txid = max(self.last_txid, entry.last_txid)
            else:
                assert isinstance(entry, Drop)

    def newest(self, call: str) -> Record | None:
        found = [record for record in self.records.values() if record.call == call]
        return max(found, key=lambda record: record.txid, default=None)


class Shell:
    """One coordinator's process, with its restarts."""

    def __init__(self, kernel: Kernel, faults: Faults, database: Database):
        self.kernel = kernel
        self.faults = faults
        self.database = database
        self.journal = Journal()
        self.coordinator: Coordinator | None = None
        self.life = 0
        self.starting: Future | None = None
        self.waiting: dict[int, object] = {}
        self.tickets = 0
        self.timer_due: float | None = None
        self.contradictions: list[str] = []
        self.restarts = 0
        self.journals_lost = 0
        self.published: list[int] = []

    def now(self) -> int:
        return int(self.kernel.now)

    async def receive(self, request: Request, reply):
        """Take one message; ``reply`` is called with its answer, perhaps much later, perhaps never."""
        if self.coordinator is None:
            await self.start()
        coordinator = self.coordinator
        if coordinator is None:
            return
        known = None
        if isinstance(request, (Begin, Prepare)) and request.idempotent:
            known = self.journal.newest(request.call)
        self.tickets += 1
        self.waiting[self.tickets] = reply
        try:
            effects = coordinator.handle(self.tickets, request, self.now(), known)
        except ProtocolError as error:
            self.contradictions.append(f"{request}: {error}")
            self.waiting.pop(self.tickets)
            reply(Unready("contradiction"))
            return
        self.carry_out(effects)

    async def start(self):
        while self.starting is not None:
            await self.starting
            if self.coordinator is not None:
                return
        mine = self.starting = Future()
        await self.kernel.sleep(self.kernel.dice.random() * 20)
        saved = self.journal.load()
        coordinator = await recovery.start(OWNER, saved, Store(self.database))
        if saved is None:
            self.journal.start(coordinator.epoch, coordinator.watermark)
        self.coordinator = coordinator
        self.kernel.note("start", coordinator.epoch, coordinator.highest_txid, saved is None)
        self.starting = None
        mine.set()
        self.carry_out(coordinator.recover(self.now()))

    def crash(self):
        """Lose everything but the journal; now and then that, too."""
        self.kernel.note("crash")
        self.restarts += 1
        self.life += 1
        self.coordinator = None
        self.waiting.clear()
        self.timer_due = None
        if self.kernel.chance(self.faults.lose_journal):
            self.journals_lost += 1
            self.journal = Journal()
        # An alarm brings it back when nobody asks.
        self.kernel.after(self.kernel.dice.random() * 500, lambda: self.kernel.spawn(self.wake()))

    async def wake(self):
        if self.coordinator is None:
            await self.start()

    def carry_out(self, effects: Effects):
        steps = self.steps(effects)
        fatal = -1
        if self.kernel.chance(self.faults.crash_coordinator):
            fatal = self.kernel.dice.randrange(len(steps) + 1)
        for number, step in enumerate(steps):
            if number == fatal:
                self.crash()
                return
            step()
        if fatal == len(steps):
            self.crash()
            return
        self.set_timer()

    def steps(self, effects: Effects):
        """Journal, answers, the rest: a crash may come before each of them."""
        steps = []
        if effects.journal:
            steps.append(lambda: self.journal.write(effects.journal))
        steps += [lambda t=ticket, a=answer: self.answer(t, a) for ticket, answer in effects.answers]
        for record in effects.published:
            self.published.append(record.txid)
        steps += [lambda q=question: self.ask_fence(q) for question in effects.resolve]
        if effects.check_epoch:
            steps.append(lambda: self.kernel.spawn(self.check_epoch(self.life)))
        return steps

    def answer(self, ticket, answer: Answer):
        reply = self.waiting.pop(ticket, None)
        if reply is not None:
            reply(answer)

    def ask_fence(self, question):
        self.kernel.spawn(self.resolve(question.sid, question.txid, self.life))

    async def resolve(self, sid: str, txid: int, life: int):
        fence = await Store(self.database).resolve(sid, OWNER, txid)
        if life != self.life or self.coordinator is None:
            return
        try:
            effects = self.coordinator.resolved(txid, fence, self.now())
        except ProtocolError as error:
            self.contradictions.append(f"resolved {txid}: {error}")
            return
        self.carry_out(effects)

    async def check_epoch(self, life: int):
        epoch = self.database.epoch
        await self.kernel.sleep(1)
        if life == self.life and self.coordinator is not None:
            self.carry_out(self.coordinator.epoch_read(epoch, self.now()))

    def set_timer(self):
        due = self.coordinator.next_tick() if self.coordinator is not None else None
        if due is None or (self.timer_due is not None and self.timer_due <= due):
            return
        self.timer_due = due
        life = self.life
        self.kernel.after(max(1.0, due - self.kernel.now), lambda: self.ring(life, due))

    def ring(self, life: int, due: int):
        if life != self.life or self.timer_due != due or self.coordinator is None:
            return
        self.timer_due = None
        try:
            effects = self.coordinator.tick(self.now())
        except ProtocolError as error:
            self.contradictions.append(f"tick: {error}")
            return
        self.carry_out(effects)


class Link:
    """A worker's way to the coordinator: messages are delayed, duplicated, lost and overtake each other."""

    def __init__(self, worker: Worker, shell: Shell):
        self.worker = worker
        self.shell = shell
        self.kernel = shell.kernel
        self.finished_with: Answer | None = None
        self.attempt = None
        self.began_at = 0.0

    async def ask(self, request: Request) -> Answer:
        kernel, faults = self.kernel, self.shell.faults
        if self.worker.dead:
            raise Crashed
        if isinstance(request, Begin):
            self.began_at = kernel.now
        reply = Future()

        def arrive(answer: Answer):
            if not kernel.chance(faults.lose):
                kernel.after(faults.delay(kernel), lambda: reply.set(answer))
            if kernel.chance(faults.duplicate):
                kernel.after(faults.delay(kernel) * 3, lambda: reply.set(answer))

        def deliver():
            kernel.spawn(self.shell.receive(request, arrive))

        if not kernel.chance(faults.lose):
            kernel.after(faults.delay(kernel), deliver)
        if kernel.chance(faults.duplicate):
            kernel.after(faults.delay(kernel) * 3, deliver)
        unavailable = CoordinatorUnavailableError("no answer")
        kernel.after(400 + kernel.dice.random() * 2500, lambda: reply.set(error=unavailable))
        answer: Answer = await reply
        kernel.note(type(request).__name__, request.call if not isinstance(request, Finish) else request.txid, answer)
        if isinstance(request, Finish):
            self.finished_with = answer
        elif isinstance(answer, Prepared):
            self.attempt.prepared = answer
        return answer

    @property
    def visible(self) -> bool:
        """Whether the coordinator has confirmed the commit, so that every later begin must see it."""
        return isinstance(self.finished_with, Committed)


class _FreeMutex:
    async def __aenter__(self):
        return None

    async def __aexit__(self, *_error):
        return None


class Worker:
    """A process that runs calls one after the other: the platform of ``Attempts``."""

    def __init__(self, kernel: Kernel):
        self.kernel = kernel
        self.dead = False
        self.clock = self
        self.random = self

    def now(self) -> int:
        return int(self.kernel.now)

    def elapsed(self) -> float:
        return self.kernel.now

    async def sleep(self, milliseconds: float):
        if self.dead:
            raise Crashed
        await self.kernel.sleep(milliseconds)

    def uniform(self) -> float:
        return self.kernel.dice.random()

    def mutex(self):
        return _FreeMutex()

    async def within(self, _milliseconds: float, work):
        return await work
