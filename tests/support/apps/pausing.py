"""Functions that stop where a test wants them to, until it lets them go on: for one process."""

import asyncio
from typing import Any

from kontract import Context, backend, perms

LET_GO: dict[str, asyncio.Event] = {}
ENDED: dict[str, str] = {}


async def stop_here(name: str) -> None:
    try:
        await LET_GO.setdefault(name, asyncio.Event()).wait()
    except asyncio.CancelledError:
        ENDED[name] = "cancelled"
        raise
    ENDED[name] = "went on"


@backend(perm=perms.R__)
async def pause(ctx: Context, name: str) -> str:
    """Stop, and return."""
    await stop_here(name)
    return name


@backend(perm=perms.RW_)
async def pause_and_write(ctx: Context, name: str) -> str:
    """Stop, and write."""
    await stop_here(name)
    await ctx.storage.accounts.set(name, {"balance": 1})
    return name


@backend(perm=perms.R__)
async def let_go(ctx: Context, name: str) -> None:
    """Let those go on that stopped under this name, and whoever comes later."""
    LET_GO.setdefault(name, asyncio.Event()).set()


@backend(perm=perms.R__)
async def paused(ctx: Context) -> dict[str, Any]:
    """Return who stopped, and what became of them."""
    return {"names": sorted(LET_GO), "ended": ENDED}


@backend(perm=perms.R__)
async def client(ctx: Context) -> str:
    """Return the caller's address."""
    return ctx.client


@backend(perm=perms.R__)
async def echo(ctx: Context, value: Any = None) -> Any:
    """Return it."""
    return value


@backend(perm=perms.RW_)
async def flood(ctx: Context, count: int) -> int:
    """Make so many tasks, which all who listen are told."""
    for _ in range(count):
        await ctx.storage.tasks.push({"title": "x" * 200})
    return count
