"""`ctx.shared`, method by method, for tests that drive it from outside."""

from typing import Any

from kontract import Context, backend


@backend(public=True)
async def shared_get(ctx: Context, key: str) -> Any:
    """Return a value."""
    return await ctx.shared.get(key)


@backend(public=True)
async def shared_set(ctx: Context, key: str, value: Any, ttl: float | None = None) -> None:
    """Keep a value."""
    await ctx.shared.set(key, value, ttl)


@backend(public=True)
async def shared_delete(ctx: Context, key: str) -> bool:
    """Forget a value."""
    return await ctx.shared.delete(key)


@backend(public=True)
async def shared_incr(ctx: Context, key: str, by: Any = 1, ttl: Any = None) -> int:
    """Add to a value."""
    return await ctx.shared.incr(key, by, ttl)


@backend(public=True)
async def shared_count(ctx: Context, key: str, seconds: float) -> list:
    """Count in a window, among the counters of middleware."""
    return list(await ctx.counters.count_within(key, seconds))


@backend()
async def shared_then_fail(ctx: Context, key: str) -> None:
    """Keep a value and undo the transaction."""
    await ctx.storage.tasks.set("x", {"title": "x"})
    await ctx.shared.set(key, "kept")
    raise RuntimeError(key)
