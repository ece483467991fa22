"""The same two calls with FastAPI in a Python Worker, as its documentation and pg8000's have one write them."""

import asyncio
import json
from typing import Annotated, Any
from uuid import uuid4

from fastapi import Body, FastAPI, HTTPException, Request
from pg8000.native import Connection
from pydantic import BaseModel
from workers import DurableObject, WorkerEntrypoint, asgi

TASK = """SELECT id, data FROM tbl_tasks_5f0c1d
  WHERE id = :id AND _txid <= :snapshot AND (_deleted_txid IS NULL OR _deleted_txid > :snapshot)"""

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
    binding = env.HYPERDRIVE
    connection = Connection(
        str(binding.user),
        host=str(binding.host),
        port=int(binding.port),
        database=str(binding.database),
        password=str(binding.password),
    )
    try:
        snapshot = json.loads(str(await began))["snapshot"]
        rows = connection.run(TASK, id=arguments[0], snapshot=snapshot)
    finally:
        connection.close()
    if not rows:
        raise HTTPException(404, "no such task")
    return TaskAnswer(result=Task(id=rows[0][0], **rows[0][1]))


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
