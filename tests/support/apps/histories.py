"""The application of the history tests: each function tells what it saw, and leaves the same in the table `calls`.

`call` is a name that the client has made for the call. Its row in `calls` is written by the same transaction as all the
rest, so that afterwards it can be looked up what became of a call whose answer was lost.
"""

from typing import Any

from kontract import Context, backend, perms


async def _told(ctx: Context, call: str, seen: Any) -> Any:
    await ctx.storage.calls.set(call, {"seen": seen})
    return seen


@backend(perm=perms.RW_)
async def append(ctx: Context, call: str, steps: list[tuple[str, str, str | None]]) -> list[list[str]]:
    """Read lists (table, id), and append to those for which an element is given."""
    seen = []
    for table, key, element in steps:
        row = await ctx.storage[table].get(key)
        elements = row["elements"] if row else []
        seen.append(elements)
        if element is not None:
            await ctx.storage[table].set(key, {"elements": [*elements, element]})
    return await _told(ctx, call, seen)


@backend(perm=perms.RW_)
async def bump(ctx: Context, call: str, key: str) -> dict[str, Any] | None:
    """Increment a counter; tells its value before."""
    row = await ctx.storage.counters.get(key)
    await ctx.storage.counters.set(key, {"n": (row["n"] if row else 0) + 1, "by": call})
    return await _told(ctx, call, row)


@backend(perm=perms.RW_)
async def add(ctx: Context, call: str, group: str) -> None:
    """Add an element, named like the call, to a set."""
    await ctx.storage.members.insert(call, {"group": group})
    return await _told(ctx, call, None)


@backend(perm=perms.RW_)
async def join(ctx: Context, call: str, group: str, most: int) -> list[str]:
    """Add an element unless the set is full; tells who was there."""
    found = [row["id"] async for row in ctx.storage.members.query({"group": group})]
    if len(found) < most:
        await ctx.storage.members.insert(call, {"group": group})
    return await _told(ctx, call, found)


@backend(perm=perms.RW_)
async def leave(ctx: Context, call: str, group: str) -> list[str]:
    """Remove the first element of a set; tells who was there."""
    found = [row["id"] async for row in ctx.storage.members.query({"group": group})]
    if found:
        await ctx.storage.members.delete(found[0])
    return await _told(ctx, call, found)


@backend(perm=perms.RW_)
async def fund(ctx: Context, call: str, accounts: list[str], amount: int) -> None:
    """Open the bank."""
    for account in accounts:
        await ctx.storage.bank.set(account, {"balance": amount, "by": call})
    return await _told(ctx, call, None)


@backend(perm=perms.RW_)
async def move(ctx: Context, call: str, src: str, dst: str, amount: int) -> list[dict[str, Any]]:
    """Move money if there is enough; tells both accounts as they were before."""
    giver, taker = await ctx.storage.bank.get(src), await ctx.storage.bank.get(dst)
    if giver["balance"] >= amount:
        await ctx.storage.bank.set(src, {"balance": giver["balance"] - amount, "by": call})
        await ctx.storage.bank.set(dst, {"balance": taker["balance"] + amount, "by": call})
    return await _told(ctx, call, [giver, taker])


@backend(perm=perms.RW_)
async def put(ctx: Context, call: str, keys: list[str]) -> None:
    """Write registers without reading anything."""
    for key in keys:
        await ctx.storage.registers.set(key, {"by": call})
    return await _told(ctx, call, None)


@backend(perm=perms.R__)
async def look(ctx: Context, tables: list[str]) -> dict[str, list[dict[str, Any]]]:
    """Read whole tables at one snapshot."""
    return {table: [row async for row in ctx.storage[table]] for table in tables}
