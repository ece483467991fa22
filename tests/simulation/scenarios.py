"""Small fixed scenarios, and every fault at every boundary of each.

A scenario is run without faults first: that counts its boundaries. Then each boundary and each fault its kind allows
make a case, and so do pairs of them: the second one is taken from the run with the first, which goes on differently.
A case is written ``scenario/12:lost,15:late``; the same text replays it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field

from kontract.core.errors import NotFoundError
from kontract.core.transaction.transaction import Call
from kontract.core.types import TableKind
from simulation.cluster import OWNER, Worker
from simulation.faults import FAULTS, Fault, Script
from simulation.history import Handle
from simulation.world import QUIET_MS, Variant, World

Handler = Callable[[Handle], Awaitable[object]]

# A scripted transaction of three messages and two statements takes about 12 ms.


@dataclass(frozen=True)
class Client:
    """One call: when it starts, over which coordinator; with a ``key`` it is idempotent, and repeated until done."""

    handler: Handler
    at: float = 0.0
    key: str | None = None
    node: int = 0
    expected: Callable[[object], bool] | None = None


@dataclass(frozen=True)
class Scenario:
    """A few calls, and what happens besides. ``given``: (kind, what, fault) of mishaps that belong to it."""

    opened: Handler
    clients: tuple[Client, ...]
    given: tuple[tuple[str, str, Fault], ...] = ()
    plain: bool = False
    loses_journal: bool = False
    rival_at: float | None = None
    short: bool = False
    idle: float = 0.0  # before the clients start
    limits: dict[str, int] = field(default_factory=dict)


# --- what the clients do ---------------------------------------------------------------------------------------------


async def two_rows(h: Handle):
    await h.put("r0", v=0)
    await h.put("r1", v=0)


async def look(h: Handle):
    await h.get("r0")
    await h.get("r1")


async def look_slowly(h: Handle):
    await h.get("r0")
    await h.transaction._clock.sleep(300)
    await h.get("r1")
    await h.where()


async def write_both(h: Handle):
    await h.put("r0", v=1)
    await h.put("r1", v=1)


async def write_one(h: Handle):
    await h.put("r0", v=2)


async def increment(h: Handle):
    row = await h.get("r0")
    await h.replace("r0", v=row["v"] + 1)


async def once(h: Handle):
    if await h.get("done"):
        raise NotFoundError("there is nothing left to do")
    await h.put("done", v=1)


async def nobody(h: Handle):
    await h.put("d0", kind=0)
    await h.put("d1", kind=0)


def go_on_duty(key: str) -> Handler:
    async def handler(h: Handle):
        if not await h.where(kind=1):
            await h.put(key, kind=1)

    return handler


async def first_on_duty(h: Handle):
    if await h.count(kind=1) == 0:
        await h.add(f"new{h.token()}", kind=1)


async def on_duty(h: Handle):
    return len(await h.where(kind=1))


def read_both_write(key: str) -> Handler:
    async def handler(h: Handle):
        await look(h)
        await h.put(key, v=4)

    return handler


def put(key: str) -> Handler:
    async def handler(h: Handle):
        await h.put(key, v=5)

    return handler


def push(*keys: str) -> Handler:
    async def handler(h: Handle):
        for key in keys:
            await h.push(key, n=0)

    return handler


async def shift(h: Handle):
    return await h.take()


async def delete_and_add(h: Handle):
    await h.remove("r0")
    await h.add(f"new{h.token()}", v=3)


def at_most_one(found: object) -> bool:
    return found <= 1


# --- the scenarios ---------------------------------------------------------------------------------------------------


def _beside(first: Handler, second: Handler, at: float, **more) -> tuple[Client, ...]:
    return (Client(first), Client(second, at=at, **more))


SCENARIOS: dict[str, Scenario] = {
    # one transaction of each shape
    "read-only": Scenario(two_rows, (Client(look),)),
    "blind write": Scenario(two_rows, (Client(write_one),)),
    "read-modify-write": Scenario(two_rows, (Client(increment),)),
    "predicate": Scenario(nobody, (Client(go_on_duty("d0")),)),
    "idempotent": Scenario(two_rows, (Client(increment, key="k"),)),
    # two, at different distances
    "read-only beside blind write": Scenario(two_rows, _beside(look, write_both, 1.5)),
    "blind write beside read-only": Scenario(two_rows, _beside(write_both, look, 3.5)),
    "two blind writes": Scenario(two_rows, _beside(write_both, write_one, 0.5)),
    "two increments": Scenario(two_rows, _beside(increment, increment, 1.5)),
    "two increments, one later": Scenario(two_rows, _beside(increment, increment, 6.5)),
    "write skew by key": Scenario(two_rows, _beside(read_both_write("r0"), read_both_write("r1"), 0.5)),
    "write skew by predicate": Scenario(nobody, _beside(go_on_duty("d0"), go_on_duty("d1"), 0.5)),
    "phantom": Scenario(
        nobody, (*_beside(first_on_duty, first_on_duty, 1.5), Client(on_duty, 30, None, 0, at_most_one))
    ),
    "idempotent, sent twice": Scenario(two_rows, (Client(increment, key="k"), Client(increment, at=4.5, key="k"))),
    "idempotent, repeated": Scenario(two_rows, (Client(increment, key="k"), Client(increment, at=40, key="k"))),
    "idempotent read, repeated": Scenario(
        two_rows, (Client(look, key="k"), Client(write_both, at=40), Client(look, at=80, key="k"))
    ),
    "delete and insert": Scenario(two_rows, _beside(delete_and_add, look, 4.5)),
    "slow writer, quick writer, reader": Scenario(
        two_rows, (Client(put("r0")), Client(put("r1"), at=2.5), Client(look, at=20))
    ),
    # the order of insertion; the ids of rows sort the other way round
    "two that push": Scenario(push("z"), (*_beside(push("y", "x"), push("w", "v"), 0.5), Client(shift, at=30))),
    "push, restart, push": Scenario(
        push("z", "y"), (Client(push("x")), Client(push("w"), at=3_000), Client(shift, at=3_100))
    ),
    "push, journal lost, push": Scenario(
        push("z", "y"),
        (Client(push("x")), Client(push("w"), at=3_000)),
        given=(("apply reply", "apply", Fault.COORDINATOR_BEFORE),),
        loses_journal=True,
    ),
    # in doubt
    "reply lost": Scenario(two_rows, _beside(increment, look, 30), given=(("apply reply", "apply", Fault.LOST),)),
    "worker dead before apply": Scenario(
        two_rows, _beside(increment, increment, 30), given=(("answer", "Prepared", Fault.WORKER_BEFORE),)
    ),
    "worker dead after apply": Scenario(
        two_rows, _beside(increment, increment, 30), given=(("apply reply", "apply", Fault.WORKER_BEFORE),)
    ),
    "late apply": Scenario(two_rows, _beside(increment, increment, 30), given=(("apply", "apply", Fault.LATE),)),
    # restarts
    "coordinator dead after prepare": Scenario(
        two_rows, _beside(increment, look, 30), given=(("journal", "prepared", Fault.COORDINATOR_AFTER),)
    ),
    "coordinator dead before finish": Scenario(
        two_rows, _beside(increment, look, 30), given=(("request", "Finish", Fault.COORDINATOR_BEFORE),)
    ),
    "coordinator dead during apply": Scenario(
        two_rows,
        _beside(increment, look, 30),
        given=(("apply", "apply", Fault.COORDINATOR_AFTER), ("apply runs", "apply", Fault.SLOW)),
    ),
    "journal lost after apply": Scenario(
        two_rows,
        (Client(increment, key="k"), Client(look, at=30)),
        given=(("apply reply", "apply", Fault.COORDINATOR_BEFORE),),
        loses_journal=True,
    ),
    "journal lost before a repetition": Scenario(
        two_rows,
        (Client(once, key="k"), Client(once, at=1_000, key="k")),
        given=(("answer", "Committed", Fault.COORDINATOR_AFTER),),
        loses_journal=True,
    ),
    "journal lost before two repetitions": Scenario(
        two_rows,
        tuple(Client(increment, at=at, key="k") for at in (0, 1_000, 2_000)),
        given=(("answer", "Committed", Fault.COORDINATOR_AFTER),),
        loses_journal=True,
    ),
    # a second coordinator
    "superseded before apply": Scenario(two_rows, _beside(increment, increment, 30, node=1), rival_at=2.5),
    "superseded after apply": Scenario(two_rows, _beside(increment, increment, 30, node=1), rival_at=8.5),
    "both serve": Scenario(
        two_rows,
        (Client(increment, at=20), Client(look, at=20), Client(increment, at=20.5, node=1), Client(look, 21, node=1)),
        rival_at=0,
    ),
    "superseded reader": Scenario(
        two_rows,
        (Client(increment, at=500, node=1), Client(increment, at=700, node=1), Client(look, at=12_000)),
        rival_at=0,
        short=True,
        idle=11_000,
    ),
    # plain tables
    "plain: two increments": Scenario(two_rows, _beside(increment, increment, 1.5), plain=True),
    "plain: reader overtaken": Scenario(two_rows, _beside(look_slowly, write_both, 2.5), plain=True),
    "plain: two that push": Scenario(push("z"), _beside(push("y", "x"), push("w", "v"), 0.5), plain=True),
    "plain: delete and insert": Scenario(two_rows, _beside(delete_and_add, look, 4.5), plain=True),
    # collection: of versions 5 s after the second mark, of fences 40 s after it
    "versions collected": Scenario(
        two_rows,
        (Client(increment), Client(look_slowly, at=4_800), Client(write_both, at=4_850), Client(increment, at=5_050)),
        short=True,
        idle=5_000,
    ),
    "fences collected": Scenario(
        two_rows, (Client(increment, at=39_800, key="k"), Client(increment, at=40_100, key="k")), short=True
    ),
}


class ScenarioWorld(World):
    """A scenario with planned faults."""

    def __init__(self, scenario: Scenario, plan: dict[int, Fault], variant: Variant):
        super().__init__(1, variant)
        self.scenario = scenario
        self.short = scenario.short
        self.script = Script(self.kernel, plan, scenario.given)
        self.build(self.script, TableKind.PLAIN if scenario.plain else TableKind.VERSIONED)
        self.nodes[0].loses_journal = lambda: scenario.loses_journal
        self.committed: list[bool] = []

    def play(self):
        kernel, scenario = self.kernel, self.scenario
        if not self.alone(scenario.opened, "opened"):
            self.wrong.append("stuck: the first call did not succeed in quiet times")
        kernel.run(lambda: False, kernel.now + scenario.idle)
        self.script.on = True
        if scenario.rival_at is not None:
            kernel.after(scenario.rival_at, lambda: self.join().wake())
        tasks = [kernel.spawn(self.client(number, client)) for number, client in enumerate(scenario.clients)]
        kernel.run(lambda: all(task.ready for task in tasks), kernel.now + 120_000)
        if not all(task.ready for task in tasks):
            self.wrong.append("stuck: clients are not done")
        kernel.run(lambda: False, kernel.now + QUIET_MS)
        self.script.on = False

    async def client(self, number: int, client: Client):
        await self.kernel.sleep(client.at)
        call = Call(id=client.key or f"call{number}", owner=OWNER, user="u", idempotent=client.key is not None)
        for _trial in range(1 if client.key is None else 3):
            worker = Worker(self.kernel)
            node = self.nodes[min(client.node, len(self.nodes) - 1)]
            task = self.kernel.spawn(self.call(worker, node, client.handler, client.expected, call), worker.process)
            await task
            self.committed.append(bool(task.value))
            if task.value:
                return


# --- cases -----------------------------------------------------------------------------------------------------------

Plan = tuple[tuple[int, Fault], ...]


def play(name: str, plan: Plan = (), variant: Variant | None = None) -> ScenarioWorld:
    """Run one case."""
    world = ScenarioWorld(SCENARIOS[name], dict(plan), variant or Variant())
    world.run()
    return world


def further(world: ScenarioWorld, after: int = -1) -> Iterator[tuple[int, Fault]]:
    """Return every fault at every boundary of a run after the given one."""
    for number, (kind, _) in enumerate(world.script.points):
        if number > after and number not in world.script.taken:
            for fault in FAULTS[kind]:
                yield number, fault


def write(name: str, plan: Plan) -> str:
    """Name a case."""
    return f"{name}/{','.join(f'{number}:{fault.value}' for number, fault in plan)}"


def read(case: str) -> tuple[str, Plan]:
    """Return the scenario and the plan of a case's name."""
    name, _, faults = case.partition("/")
    steps = [step.split(":") for step in faults.split(",") if step]
    return name, tuple((int(number), Fault(fault)) for number, fault in steps)


def singles(name: str) -> tuple[int, Counter[tuple[str, Fault]], list[tuple[str, str]]]:
    """Run a scenario without faults, then with each; returns (boundaries, faults by kind, wrong cases)."""
    dry = play(name)
    wrong = [(write(name, ()), dry.wrong[0])] if dry.wrong else []
    happened = Counter()
    boundaries = set()
    for step in further(dry):
        number, fault = step
        world = play(name, (step,))
        # Everything before the fault is as it was without: the fault is at the boundary that was counted.
        assert world.script.points[: number + 1] == dry.script.points[: number + 1]
        assert world.script.happened == {number: fault}
        boundaries.add(number)
        happened[dry.script.points[number][0], fault] += 1
        if world.wrong:
            wrong.append((write(name, (step,)), world.wrong[0]))
    assert boundaries | dry.script.taken == set(range(len(dry.script.points)))
    return len(dry.script.points), happened, wrong


def pairs(name: str, first: tuple[int, Fault]) -> tuple[int, list[tuple[str, str]]]:
    """Run a scenario with ``first`` and every later second fault; returns (how many, wrong cases)."""
    wrong = []
    count = 0
    for second in further(play(name, (first,)), first[0]):
        count += 1
        world = play(name, (first, second))
        if world.wrong:
            wrong.append((write(name, (first, second)), world.wrong[0]))
    return count, wrong
