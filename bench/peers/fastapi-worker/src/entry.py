"""The same four calls with FastAPI in a Python Worker, as its documentation and pg8000's have one write them."""

import asyncio
import json
from typing import Annotated, Any
from uuid import uuid4

from fastapi import Body, FastAPI, HTTPException, Request
from pg8000.native import Connection
from pydantic import BaseModel, Field
from workers import DurableObject, WorkerEntrypoint, asgi

TASK = """SELECT id, data FROM tbl_tasks_5f0c1d
  WHERE id = :id AND _txid <= :snapshot AND (_deleted_txid IS NULL OR _deleted_txid > :snapshot)"""

# Plain tables (../../tables.sql) for what is written: no snapshots, no versions of rows.
CREATE = """INSERT INTO tasks (id, title, created_by) VALUES (:id, :title, 'bench')
  RETURNING id, title, done, created_by"""
LOCK = "SELECT id, balance FROM accounts WHERE id IN (:src, :dst) ORDER BY id FOR UPDATE"
MOVE = """UPDATE accounts SET balance = balance + CASE WHEN id = :src THEN -CAST(:amount AS bigint)
  ELSE CAST(:amount AS bigint) END WHERE id IN (:src, :dst)"""

Arguments = Annotated[list[str], Body(min_length=1, max_length=1)]

app = FastAPI()


class Task(BaseModel):
    """A row."""

    id: str
    title: str
    done: bool
    created_by: str


class TaskAnswer(BaseModel):
    """What get_task answers."""

    result: Task


class Moved(BaseModel):
    """What transfer answers."""

    result: dict[str, int]


class EchoAnswer(BaseModel):
    """What echo answers."""

    result: str


@app.get("/health")
async def health() -> dict[str, str]:
    """Say that it is there."""
    return {"status": "ok"}


@app.post("/rpc/echo")
async def echo(arguments: Arguments) -> EchoAnswer:
    """Return the argument."""
    return EchoAnswer(result=arguments[0])


@app.post("/rpc/get_task")
async def get_task(arguments: Arguments, request: Request) -> TaskAnswer:
    """Return one task: one call of the object, beside connecting, and one SELECT."""
    env = request.scope["env"]
    stub = env.COORDINATOR.get(env.COORDINATOR.idFromName("tenant-1"))
    began = asyncio.ensure_future(stub.begin(json.dumps({"call": str(uuid4())})))
    connection = connect(env)
    try:
        snapshot = json.loads(str(await began))["snapshot"]
        rows = connection.run(TASK, id=arguments[0], snapshot=snapshot)
    finally:
        connection.close()
    if not rows:
        raise HTTPException(404, "no such task")
    return TaskAnswer(result=Task(id=rows[0][0], **rows[0][1]))


@app.post("/rpc/create_task")
async def create_task(
    arguments: Annotated[tuple[Annotated[str, Field(min_length=1, max_length=200)]], Body()], request: Request
) -> TaskAnswer:
    """One INSERT."""
    connection = connect(request.scope["env"])
    try:
        [row] = connection.run(CREATE, id=str(uuid4()), title=arguments[0])
    finally:
        connection.close()
    return TaskAnswer(result=Task(id=row[0], title=row[1], done=row[2], created_by=row[3]))


@app.post("/rpc/transfer")
async def transfer(
    arguments: Annotated[tuple[str, str, Annotated[int, Field(ge=1)]], Body()], request: Request
) -> Moved:
    """One transaction that locks both rows."""
    src, dst, amount = arguments
    connection = connect(request.scope["env"])
    try:
        connection.run("BEGIN")
        held = dict(connection.run(LOCK, src=src, dst=dst))
        if len(held) != 2:
            raise HTTPException(404, "no such account")
        if held[src] < amount:
            raise HTTPException(400, "not enough")
        connection.run(MOVE, src=src, dst=dst, amount=amount)
        connection.run("COMMIT")
    finally:
        connection.close()  # without a commit it was nothing
    return Moved(result={src: held[src] - amount, dst: held[dst] + amount})


def connect(env: Any) -> Connection:
    """Open a connection: one kept from another request cannot be used."""
    binding = env.HYPERDRIVE
    return Connection(
        str(binding.user),
        host=str(binding.host),
        port=int(binding.port),
        database=str(binding.database),
        password=str(binding.password),
    )


class Coordinator(DurableObject):
    """Hands out snapshots."""

    def __init__(self, ctx: Any, env: Any) -> None:
        super().__init__(ctx, env)
        ctx.storage.sql.exec("CREATE TABLE IF NOT EXISTS head (txid INTEGER NOT NULL)")
        rows = ctx.storage.sql.exec("SELECT txid FROM head").raw().toArray()
        self.txid = int(rows[0][0]) if len(rows) else 1_000_000_000

    async def begin(self, text: str) -> str:
        """Answer one call."""
        return json.dumps({"call": json.loads(text)["call"], "snapshot": self.txid})


class Default(WorkerEntrypoint):
    """What workerd calls."""

    async def fetch(self, request: Any) -> Any:
        """Answer one request."""
        return await asgi.fetch(app, request, self.env, self.ctx)
