"""The gateway without a socket: in this process, over a real database, with functions of the test's own."""

from __future__ import annotations

import asyncio
import json
import sys
import types
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager

import asyncpg

from kontract.cli.build import render, scan
from kontract.cli.toolchain.checkout import Checkout
from kontract.core.model.declare import TABLE
from kontract.gateway.app import Gateway
from kontract.gateway.http import Request, Response
from kontract.gateway.routes import Registry, Route, RowStruct
from kontract.server.database import AsyncpgDatabase
from kontract.server.runtime import SingleProcess
from support.postgres import Postgres
from support.sessions import ENVIRONMENT, bearer

SOURCE = Checkout.find().root / "src"


class Api:
    """The gateway without a socket."""

    def __init__(self, gateway: Gateway, platform: SingleProcess, sql: asyncpg.Connection) -> None:
        self.gateway, self.platform, self.sql = gateway, platform, sql
        self.log: list[dict] = []

    async def send(
        self, method: str, path: str, body: bytes = b"", *, client: str = "", **headers: str | None
    ) -> Response:
        """One request; a header that is None is not sent. ``client``: the caller's network address."""

        async def read(limit: int) -> bytes:
            return body[: limit + 1]

        given = bearer() | {name.lower().replace("_", "-"): value for name, value in headers.items()}
        sent = {name: value for name, value in given.items() if value is not None}
        response = await self.gateway.handle(Request(method, path, sent, read, client=client), self.platform)
        while self.platform._tasks:
            await asyncio.wait(list(self.platform._tasks))
        return response

    async def rpc(self, function: str, *args, **headers: str) -> Response:
        return await self.send("POST", f"/rpc/{function}", json.dumps(args).encode(), **headers)

    async def result(self, function: str, *args):
        response = await self.rpc(function, *args)
        assert response.status == 200, (response.body, str(self.log[-1].get("exception"))[-600:])
        return json.loads(response.body)["result"]

    async def error(self, status: int, code: str, function: str, *args) -> dict:
        response = await self.rpc(function, *args)
        return check_error(response, status, code)

    async def database(self) -> tuple:
        rows = await self.sql.fetch("SELECT id, _txid, _deleted_txid FROM tbl_accounts_9b27e4 ORDER BY 1, 2")
        fences = await self.sql.fetch("SELECT sid FROM trxs WHERE sid NOT LIKE 'epoch/%' ORDER BY 1")
        return [tuple(row) for row in rows], [row[0] for row in fences]


def check_error(response: Response, status: int, code: str) -> dict:
    body = json.loads(response.body)
    assert (response.status, body["error"]) == (status, code)
    assert body["request_id"] == response.headers["X-Request-Id"]
    assert response.headers["Content-Type"] == "application/json"
    assert "Traceback" not in response.body.decode()
    return body


@asynccontextmanager
async def apis(
    postgres: Postgres, functions: Iterable[Callable] = (), structs: Iterable[type] = (), **middleware: tuple
) -> AsyncIterator[Callable[..., Api]]:
    """How to make gateways over one fresh database: the demo's functions and tables, and those of the test.

    ``middleware``: of a function, by its name. Everything is stopped at the end.
    """
    if str(SOURCE) not in sys.path:
        sys.path.insert(0, str(SOURCE))
    # As `kontract build` writes it, without touching the file that a running `kontract dev` watches.
    compiled = types.ModuleType("routes")
    exec(render(scan(SOURCE)), compiled.__dict__)
    ours = sys.modules["of_the_test"] = types.ModuleType("of_the_test")
    routes, tables = dict(compiled.ROUTES), dict(compiled.TABLES)
    for function in functions:
        name = function.__name__
        setattr(ours, name, function)
        around = middleware.get(name, ())
        for one in around:
            setattr(ours, one.__name__, one)
        routes[name] = Route(name, "of_the_test", name, tuple(f"of_the_test:{one.__name__}" for one in around))
    for struct in structs:
        setattr(ours, struct.__name__, struct)
        name = getattr(struct, TABLE).name
        tables[name] = RowStruct(name, "of_the_test", struct.__name__)
    url = postgres.create_database()
    sql = await asyncpg.connect(url)
    made: list[Api] = []

    def make(environment: dict[str, str] | None = None, platform: SingleProcess | None = None) -> Api:
        platform = platform or SingleProcess(lambda: AsyncpgDatabase(url), environment or ENVIRONMENT)
        api = Api(Gateway(Registry(routes, tables)), platform, sql)
        platform.log = lambda level, event, **fields: api.log.append({"level": level, "event": event, **fields})
        made.append(api)
        return api

    try:
        yield make
    finally:
        for api in made:
            for shell in api.platform._shells.values():
                if shell._timer is not None:
                    shell._timer.cancel()
        await sql.close()
