"""The application of the collection's test."""

from kontract import Context, backend, perms


@backend(perm=perms.RW_)
async def put(ctx: Context, key: str, value: int) -> None:
    """Write a row without reading anything: it takes no snapshot."""
    await ctx.storage.accounts.set(key, {"balance": value})


@backend(perm=perms.R__)
async def see(ctx: Context, key: str) -> int:
    """Read a row: the snapshot counts as in use for a while."""
    account = await ctx.storage.accounts.get(key)
    return account.balance
