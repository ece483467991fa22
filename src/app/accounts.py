"""Accounts and transfers: transfers move money and never create it, with any number of concurrent callers."""

from typing import Annotated

from msgspec import Meta, Struct

from kontract import Context, InvalidRequestError, NotFoundError, RowId, backend, perms, primkey, table

Amount = Annotated[int, Meta(ge=0, le=10**12)]


@table("accounts")
class Account(Struct):
    """An account with a balance in the smallest unit of its currency."""

    id: Annotated[str, primkey]
    balance: Amount = 0


@backend(egroup="api-v1", perm=perms.RW_)
async def open_account(ctx: Context, id: RowId, balance: Amount = 0) -> Account:
    """Open an account."""
    account = Account(id=id, balance=balance)
    await ctx.storage.accounts.insert(id, account)
    return account


@backend(egroup="api-v1", perm=perms.RW_)
async def transfer(
    ctx: Context, src: RowId, dst: RowId, amount: Annotated[int, Meta(ge=1, le=10**12)]
) -> dict[str, int]:
    """Move an amount between two accounts and return their balances."""
    if src == dst:
        raise InvalidRequestError("src and dst must be different accounts")
    giver, taker = await _account(ctx, src), await _account(ctx, dst)
    if giver.balance < amount:
        raise InvalidRequestError(f"account {src!r} holds {giver.balance}, which is less than {amount}")
    await ctx.storage.accounts.update(src, balance=giver.balance - amount)
    await ctx.storage.accounts.update(dst, balance=taker.balance + amount)
    return {src: giver.balance - amount, dst: taker.balance + amount}


@backend(egroup="api-v1", perm=perms.R__)
async def balance(ctx: Context, id: RowId) -> int:
    """Return the balance of an account."""
    return (await _account(ctx, id)).balance


@backend(egroup="api-v1", perm=perms.R__)
async def list_accounts(
    ctx: Context, limit: Annotated[int, Meta(ge=1, le=1000)] = 50, after: RowId | None = None
) -> list[Account]:
    """Return accounts in the order of their ids; `after` is the id of the last account of the previous page."""
    return [account async for account in ctx.storage.accounts.query(limit=limit, after=after)]


@backend(egroup="api-v1", perm=perms.R__)
async def total(ctx: Context) -> int:
    """Return the sum of all balances."""
    return sum([account.balance async for account in ctx.storage.accounts])


async def _account(ctx: Context, id: str) -> Account:
    account = await ctx.storage.accounts.get(id)
    if account is None:
        raise NotFoundError(f"there is no account {id!r}")
    return account
