"""The application in this process, for one test: its own coordinator, its own data, a clock that can be moved."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from types import TracebackType
from typing import Any, Self

import asyncpg
import httpx
import msgspec

from kontract.client import Answer, Client, Retries
from kontract.core import logs
from kontract.core.errors import HttpError
from kontract.core.model import values
from kontract.core.model.perms import ALL
from kontract.gateway import rpc
from kontract.gateway.app import Gateway
from kontract.gateway.http import Request, Response
from kontract.gateway.routes import Registry
from kontract.ports import CoordinatorStub
from kontract.server.database import Pool
from kontract.server.runtime import SingleProcess
from kontract.testing import sessions
from kontract.testing.changes import Changes, changes_of
from kontract.testing.clock import MovableClock
from kontract.testing.contention import FUNCTION, ContendedCoordinator, Contention, Plan
from kontract.testing.database import live_rows, put_back
from kontract.testing.transport import InProcess

URL = "http://app.test"
"""The application's URL for httpx; nothing listens there."""

CONNECTIONS = 10
"""Connections of the gateway to PostgreSQL, as many as `kontract serve` has in one process."""


class Api(Client):
    """A caller of the application: the Python client (docs/reference/python-client.md) with additions for tests.

    ``await api.create_task("Buy milk")`` calls a function; errors are those that callers get. Nothing is retried: a
    conflict that the gateway gives up on is raised at once.
    """

    app: App

    def as_user(self, user: str, **who: Any) -> Api:
        """Return another caller: see :meth:`App.as_user`."""
        return self.app.as_user(user, **who)

    async def response(self, function: str, /, *args: Any, headers: Mapping[str, str] | None = None) -> httpx.Response:
        """Call a function and return the whole response: ``status_code``, ``headers``, ``json()``."""
        sent = {"Content-Type": "application/json", **self._bearer(), **(headers or {})}
        return await self.app.http.post(
            f"/rpc/{function}", headers=sent, content=msgspec.json.encode(args, enc_hook=values.hook)
        )

    async def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        """Send any request as this caller: ``await api.request("GET", "/auth/me")``; options are those of httpx."""
        headers = {**self._bearer(), **options.pop("headers", {})}
        return await self.app.http.request(method, path, headers=headers, **options)

    def changes(self, *tables: str) -> AbstractAsyncContextManager[Changes]:
        """Stream changes: ``async with api.changes("tasks") as changes: ...; event = await anext(changes)``."""
        return changes_of(self, *tables)

    def _bearer(self) -> dict[str, str]:
        return {} if self.tokens is None else {"Authorization": f"Bearer {self.tokens.token}"}

    def _result(self, function: str, answer: Answer, wanted: Any) -> Any:
        try:
            return super()._result(function, answer, wanted)
        except HttpError as error:
            story = self.app.exception(error.request_id)
            if story:
                error.add_note(story)
            raise


class App:
    """The application, with controls for tests.

    ``owner``: the default tenant of callers. ``clock``: see
    :class:`~kontract.testing.clock.MovableClock`. ``log``: the log lines of the gateway, as dicts. ``http``:
    an httpx client without a token.
    """

    def __init__(
        self, registry: Registry, database_url: str, environment: Mapping[str, str], owner: str = "tenant-1"
    ) -> None:
        """Serve the functions of ``registry`` over a database that nothing else uses."""
        self.owner = owner
        self.clock = MovableClock()
        self.log: list[dict[str, Any]] = []
        self._secret = environment["KONTRACT_SECRET"]
        self._contention = Contention()
        self._url = database_url
        self._pool = Pool(database_url, CONNECTIONS)
        self._platform = _Platform(self._pool, environment, self._write, self.clock, self._contention)
        self._gateway = Gateway(registry)
        self._transport = InProcess(self._answer)
        self.http = httpx.AsyncClient(transport=self._transport, base_url=URL)

    async def __aenter__(self) -> Self:
        """Reset the database to its state after the migrations."""
        self._connection = await asyncpg.connect(self._url)
        self._turn = asyncio.Lock()
        await put_back(self._connection)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Wait for running work, and stop everything."""
        await self.http.aclose()
        await self._platform.stop()
        await self._pool.aclose()
        await self._connection.close()

    # --- callers -----------------------------------------------------------------------------------------------------

    def as_user(
        self,
        user: str = "developer",
        *,
        groups: Iterable[str] = (),
        owner: str | None = None,
        perm: int = ALL,
        anonymous: bool = False,
    ) -> Api:
        """Return a caller with its own token: of the tenant ``owner``, a member of ``groups``, with at most ``perm``.

        The token is made directly, without an account, and is valid for an hour.
        """
        return self._caller(
            sessions.token(
                self._secret,
                self.clock.now(),
                user,
                owner=owner or self.owner,
                groups=groups,
                perm=perm,
                anonymous=anonymous,
            )
        )

    def without_token(self) -> Api:
        """Return a caller without a token."""
        return self._caller(None)

    async def anonymous(self) -> Api:
        """Return a caller with a new anonymous session, from ``POST /auth/anonymous``."""
        return self._ours(await Api.anonymous(URL, **self._options))

    async def register(self, name: str, password: str) -> Api:
        """Return a caller with a new account, from ``POST /auth/register``: hashing takes a quarter of a second."""
        return self._ours(await Api.register(URL, name, password, **self._options))

    async def login(self, name: str, password: str) -> Api:
        """Return a caller with a new session of an account, from ``POST /auth/login``."""
        return self._ours(await Api.login(URL, name, password, **self._options))

    # --- what is in the database -------------------------------------------------------------------------------------

    async def rows(self, table: str, *, owner: str | None = None) -> list[dict[str, Any]]:
        """Read the rows of a logical table in insertion order, ignoring all permissions.

        Returns dicts of JSON values, including ``id``. Raises LookupError for an unknown table.
        """
        async with self._turn:
            found = await live_rows(self._connection, owner or self.owner, table)
        return [{"id": row_id, **values.decode(data)} for row_id, data in found]

    async def sql(self, query: str, *parameters: Any) -> list[Sequence[Any]]:
        """Run one statement on the database, for example ``UPDATE storage SET permissions = 4``; returns its rows.

        Changes to tables of functions get no txid this way: prepare data by calling functions.
        """
        async with self._turn:
            rows: list[Sequence[Any]] = await self._connection.fetch(query, *parameters)
        return rows

    # --- conflicts ---------------------------------------------------------------------------------------------------

    def before_commit(
        self, function: str, action: Callable[[], Awaitable[Any]], *, times: int = 1
    ) -> AbstractContextManager[Plan]:
        """While the block runs, await ``action()`` just before ``function`` commits, ``times`` times.

        It lets another transaction commit first::

            with app.before_commit("toggle_task", lambda: bob.rename_task(task_id, "Mine")):
                await ann.toggle_task(task_id)

        Raises AssertionError at the end of the block if the function never reached its commit.
        """
        return self._contention.planned(Plan(function, times, action))

    def conflict(self, function: str, *, times: int = 1) -> AbstractContextManager[Plan]:
        """While the block runs, let ``times`` commits of ``function`` lose with a conflict.

        With ``times=8`` (or the function's ``max_attempts``) a call ends with ConflictError, after about a second.
        """
        return self._contention.planned(Plan(function, times))

    # --- what it said ------------------------------------------------------------------------------------------------

    def exception(self, request_id: str) -> str:
        """Return the traceback in the log for a request; empty if there is none."""
        for line in self.log:
            if line.get("request_id") == request_id and "exception" in line:
                return str(line["exception"])
        return ""

    # --- the gateway behind it ---------------------------------------------------------------------------------------

    @property
    def _options(self) -> dict[str, Any]:
        return {"http": self.http, "clock": self.clock, "retries": Retries.none()}

    def _caller(self, token: str | None) -> Api:
        return self._ours(Api(URL, token, **self._options))

    def _ours(self, api: Api) -> Api:
        api.app = self
        return api

    async def _answer(self, request: Request) -> Response:
        FUNCTION.set(request.path.rpartition("/")[2] if request.path.startswith(rpc.PREFIXES) else "")
        return await self._gateway.handle(request, self._platform)

    def _write(self, level: str, event: str, **fields: Any) -> None:
        self.log.append({"level": level, "event": event, **fields})
        # pytest shows it with a test that fails.
        story = str(fields.pop("exception", ""))
        sys.stderr.write(f"{logs.line(level, event, fields)}\n{story}")


class _Platform(SingleProcess):
    def __init__(
        self, pool: Pool, environment: Mapping[str, str], log: Any, clock: MovableClock, contention: Contention
    ) -> None:
        super().__init__(pool.database, environment, log)
        self.clock: MovableClock = clock
        self._contention = contention

    def coordinator(self, owner: str) -> CoordinatorStub:
        return ContendedCoordinator(super().coordinator(owner), self._contention)
