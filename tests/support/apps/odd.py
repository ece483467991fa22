"""Functions that hand whatever a caller sends to storage and back, for tests that send everything."""

from typing import Annotated, Any

from msgspec import Meta, Struct

from kontract import Context, HttpError, HttpResp, backend, perm, perms, primkey, table


@table("odds", rows="own")
class Odd(Struct):
    """A row with a field of each kind."""

    id: Annotated[str, primkey]
    n: Annotated[int, Meta(ge=0)] = 0
    note: str | None = None
    anything: Any = None
    pin: Annotated[str, perm(perms._W_)] = ""
    by: Annotated[str, perm(perms.R__)] = ""


@backend(public=True)
async def echo(ctx: Context, value: Any = None) -> Any:
    """Return it."""
    return value


@backend(public=True)
async def headers(ctx: Context, headers: dict[str, str], status: int = 200, fail: bool = False) -> HttpResp:
    """Answer with these headers."""
    if fail:
        raise HttpError("as you wish", headers=headers, details={"headers": headers})
    return HttpResp(status, "ok", headers)


@backend(perm=perms.RW_)
async def put(ctx: Context, table: str, key: str, value: Any) -> Any:
    """Write a row of any table."""
    await ctx.storage[table].set(key, value)
    return await ctx.storage[table].get(key)


@backend(perm=perms.RW_)
async def put_odd(ctx: Context, odd: Odd) -> Odd:
    """Write a row that the caller has made."""
    await ctx.storage.odds.set(odd.id, odd)
    return odd


@backend(perm=perms.RW_)
async def change(ctx: Context, table: str, key: str, changes: dict[str, Any]) -> Any:
    """Change any fields of a row."""
    return await ctx.storage[table].update(key, **changes)


@backend(perm=perms.R__)
async def find(
    ctx: Context,
    table: str,
    filter: Any = None,
    order_by: str | None = None,
    limit: int | None = 5,
    after: str | None = None,
) -> list:
    """Ask any question."""
    found = ctx.storage[table].query(filter, order_by=order_by, limit=limit, after=after)
    return [row async for row in found]


@backend(perm=perms.R__)
async def ask(ctx: Context, table: str, sql: str, params: list[str | int | float | bool | None]) -> list:
    """Run any SELECT."""
    return await ctx.storage[table].exec(sql, params)


@backend(perm=perms.R__)
async def past(ctx: Context, table: str, key: str) -> list:
    """Return the versions of a row."""
    return await ctx.storage[table].history(key)


@backend(perm=perms.RWX)
async def fill(ctx: Context, table: str, sizes: list[int]) -> int:
    """Write rows of these sizes in one transaction."""
    for number, size in enumerate(sizes):
        await ctx.storage[table].set(f"fill-{number}", {"note": "x" * size})
    return len(sizes)
