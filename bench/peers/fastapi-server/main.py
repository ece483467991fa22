"""The same four calls as one would write them with FastAPI and asyncpg, on plain tables (../tables.sql).

No sessions, no permissions, no change events, and a log line a request only if uvicorn writes it. `transfer` locks its
rows; with ISOLATION=serializable it locks nothing, and PostgreSQL refuses what was not serial, which runs again.
"""

import asyncio
import os
import random
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

import asyncpg
from fastapi import Body, FastAPI, HTTPException
from pydantic import BaseModel, Field

READ = "SELECT id, title, done, created_by FROM tasks WHERE id = $1"
CREATE = "INSERT INTO tasks (id, title, created_by) VALUES ($1, $2, $3) RETURNING id, title, done, created_by"
LOCK = "SELECT id, balance FROM accounts WHERE id = ANY($1) ORDER BY id FOR UPDATE"
MOVE = """UPDATE accounts AS a SET balance = a.balance + m.change
    FROM (VALUES ($1::text, -$3::bigint), ($2::text, $3::bigint)) AS m (id, change) WHERE a.id = m.id"""

BALANCES = "SELECT id, balance FROM accounts WHERE id = ANY($1)"

SERIALIZABLE = os.environ.get("ISOLATION") == "serializable"
ATTEMPTS = 50
FIRST_PAUSE, LAST_PAUSE = 0.005, 0.5  # seconds, of which a random part is waited

pool: asyncpg.Pool


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    """Open the pool; asyncpg prepares each statement once a connection."""
    global pool
    async with asyncpg.create_pool(os.environ["DATABASE_URL"], min_size=10, max_size=10) as pool:
        yield


app = FastAPI(lifespan=lifespan)


class Task(BaseModel):
    """Something to do."""

    id: str
    title: str
    done: bool
    created_by: str


class Echoed(BaseModel):
    """An answer."""

    result: str


class Found(BaseModel):
    """An answer."""

    result: Task


class Moved(BaseModel):
    """An answer."""

    result: dict[str, int]


@app.get("/health")
async def health() -> dict[str, str]:
    """Whether it has started."""
    return {"status": "ok"}


@app.post("/rpc/echo")
async def echo(arguments: Annotated[tuple[str], Body()]) -> Echoed:
    """Return the argument."""
    return Echoed(result=arguments[0])


@app.post("/rpc/get_task")
async def get_task(arguments: Annotated[tuple[str], Body()]) -> Found:
    """One SELECT."""
    row = await pool.fetchrow(READ, arguments[0])
    if row is None:
        raise HTTPException(404, "no such task")
    return Found(result=Task(**row))


@app.post("/rpc/create_task")
async def create_task(
    arguments: Annotated[tuple[Annotated[str, Field(min_length=1, max_length=200)]], Body()],
) -> Found:
    """One INSERT."""
    row = await pool.fetchrow(CREATE, str(uuid.uuid4()), arguments[0], "bench")
    return Found(result=Task(**row))


@app.post("/rpc/transfer")
async def transfer(arguments: Annotated[tuple[str, str, Annotated[int, Field(ge=1)]], Body()]) -> Moved:
    """One transaction."""
    src, dst, amount = arguments
    return await (_serializable if SERIALIZABLE else _locking)(src, dst, amount)


async def _serializable(src: str, dst: str, amount: int) -> Moved:
    """Run again what PostgreSQL refuses (serialization_failure, deadlock_detected)."""
    for attempt in range(ATTEMPTS):
        try:
            async with pool.acquire() as connection, connection.transaction(isolation="serializable"):
                held = {row["id"]: row["balance"] for row in await connection.fetch(BALANCES, [src, dst])}
                _check(held, src, amount)
                await connection.execute(MOVE, src, dst, amount)
            return Moved(result={src: held[src] - amount, dst: held[dst] + amount})
        except (asyncpg.SerializationError, asyncpg.DeadlockDetectedError):
            await asyncio.sleep(random.random() * min(LAST_PAUSE, FIRST_PAUSE * 2**attempt))
    raise HTTPException(503, "too many conflicts")


async def _locking(src: str, dst: str, amount: int) -> Moved:
    """Lock both rows, in the order of their ids."""
    async with pool.acquire() as connection, connection.transaction():
        held = {row["id"]: row["balance"] for row in await connection.fetch(LOCK, [src, dst])}
        _check(held, src, amount)
        await connection.execute(MOVE, src, dst, amount)
    return Moved(result={src: held[src] - amount, dst: held[dst] + amount})


def _check(held: dict[str, int], src: str, amount: int) -> None:
    if len(held) != 2:
        raise HTTPException(404, "no such account")
    if held[src] < amount:
        raise HTTPException(400, "not enough")
