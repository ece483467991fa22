"""Functions for tests of clients: one that fails as it is told, and one that gives up at its first conflict."""

from kontract import Context, HttpError, backend, perms
from kontract.core.errors import Code


@backend(perm=perms.R__)
async def fail(ctx: Context, code: str, headers: dict[str, str]) -> None:
    """Raise the error of a code."""
    raise HttpError(f"about {code}", code=Code[code], details={"asked": code}, headers=headers)


@backend(perm=perms.RW_, max_attempts=1)
async def bump(ctx: Context, name: str) -> int:
    """Add 1 to the balance of an account."""
    account = await ctx.storage.accounts.get(name)
    await ctx.storage.accounts.update(name, balance=account.balance + 1)
    return account.balance + 1
