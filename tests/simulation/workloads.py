"""What the simulated clients do. Each workload makes calls; a call is the same at every attempt."""

from __future__ import annotations

from random import Random

from simulation.history import Handle

ACCOUNTS = ("a0", "a1", "a2")
EACH = 100


def bank(dice: Random):
    """Transfers keep the total; whoever looks sees it."""

    async def opened(h: Handle):
        for name in ACCOUNTS:
            await h.put(name, kind=1, balance=EACH)

    def call(_n: int):
        src, dst = dice.sample(ACCOUNTS, 2)
        amount = dice.randint(1, 30)
        look = dice.random() < 0.3
        by_key = dice.random() < 0.5

        async def transfer(h: Handle):
            a = await h.get(src)
            b = await h.get(dst)
            if a["balance"] >= amount:
                await h.replace(src, kind=1, balance=a["balance"] - amount)
                await h.replace(dst, kind=1, balance=b["balance"] + amount)

        async def total(h: Handle):
            rows = [await h.get(name) for name in ACCOUNTS] if by_key else (await h.where(kind=1)).values()
            return sum(row["balance"] for row in rows)

        return (total, lambda seen: seen == EACH * len(ACCOUNTS)) if look else (transfer, None)

    return opened, call


def lists(dice: Random):
    """Appends to few lists, read by many."""

    async def opened(h: Handle):
        await h.append("list0", await h.get("list0"))

    def call(_n: int):
        steps = [(dice.random() < 0.5, f"list{dice.randrange(3)}") for _ in range(dice.randint(1, 3))]

        async def mixed(h: Handle):
            for writes, key in steps:
                row = await h.get(key)
                if writes:
                    await h.append(key, row)

        return mixed, None

    return opened, call


def counters(dice: Random):
    """Increments of one or two counters: each acknowledged one is in the number, once."""

    async def opened(h: Handle):
        await h.put("c0", count=0)

    def call(n: int):
        key = "c0" if dice.random() < 0.8 else "c1"

        async def increment(h: Handle):
            row = await h.get(key)
            if row is None:
                await h.add(key, count=1)
            else:
                await h.replace(key, count=row["count"] + 1)

        async def reset(h: Handle):
            await h.put("c2", count=n)

        return (increment if dice.random() < 0.85 else reset), None

    return opened, call


def duty(dice: Random):
    """At most one row is on duty: write skew over a predicate. Rows come, go, and change their kind."""

    async def opened(h: Handle):
        await h.put("d0", kind=0)
        await h.put("d1", kind=0)

    def call(n: int):
        choice = dice.random()
        key = f"d{dice.randrange(2)}"

        async def step_in(h: Handle):
            if not await h.where(kind=1):
                await h.add(f"new{n}-{h.token()}", kind=1)

        async def switch_on(h: Handle):
            if not await h.where(kind=1):
                await h.put(key, kind=1)

        async def switch_off(h: Handle):
            for found in await h.where(kind=1):
                if found.startswith("new"):
                    await h.remove(found)
                else:
                    await h.replace(found, kind=0)

        async def look(h: Handle):
            return len(await h.where(kind=1))

        async def only_if_few(h: Handle):
            if await h.count(kind=1) == 0:
                await h.put(key, kind=1)

        if choice < 0.3:
            return step_in, None
        if choice < 0.5:
            return switch_on, None
        if choice < 0.7:
            return switch_off, None
        if choice < 0.85:
            return only_if_few, None
        return look, lambda seen: seen <= 1

    return opened, call


def registers(dice: Random):
    """Blind writes and reads across few keys: write skew, stale reads, writes that overtake each other."""

    async def opened(h: Handle):
        await h.put("r0", v=0)

    def call(n: int):
        read = dice.sample(("r0", "r1", "r2", "r3"), dice.choice((0, 1, 1, 2)))
        write = dice.sample(("r0", "r1", "r2", "r3"), dice.choice((0, 1, 1, 2)))

        async def mixed(h: Handle):
            for key in read:
                await h.get(key)
            for key in write:
                await h.put(key, v=n)

        return mixed, None

    return opened, call


def queue(dice: Random):
    """Rows are pushed, several at once, and taken from both ends. Ids say nothing about the order."""

    async def opened(h: Handle):
        await h.push("q-opened", n=0)

    def call(n: int):
        ids = [f"q{dice.randrange(10**6)}-{n}-{each}" for each in range(dice.randint(1, 3))]
        takes = dice.randint(1, 2)
        last = dice.random() < 0.3
        choice = dice.random()

        async def produce(h: Handle):
            for row_id in ids:
                await h.push(f"{row_id}-{h.token()}", n=n)

        async def consume(h: Handle):
            for _ in range(takes):
                await h.take(last=last)

        async def move(h: Handle):
            """To the end of the line."""
            row = await h.take()
            if row is not None:
                await h.push(f"{ids[0]}-{h.token()}", n=row["n"])

        async def put(h: Handle):
            """A blind write, of a row that may be there or not."""
            await h.put("q-known", n=n)

        handler = produce if choice < 0.55 else consume if choice < 0.8 else move if choice < 0.9 else put
        return handler, None

    return opened, call


WORKLOADS = (bank, lists, counters, duty, registers)
"""What most seeds choose from."""
