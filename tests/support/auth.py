"""Callers of /auth: what they send, what they keep, and functions to use a session with."""

from __future__ import annotations

import base64
import json
from typing import Annotated, Any

from msgspec import Struct

from kontract import Context, backend, middleware, perms, primkey, table
from kontract.gateway.http import Response
from kontract.server.system import SystemClock
from support.api import Api, check_error
from support.cheap import CheapCrypto
from support.sessions import SECRET

PASSWORD = "correct horse battery"


@table("notes", rows="own")
class Note(Struct):
    id: Annotated[str, primkey]
    text: str = ""


ran: list[str] = []


@backend()
async def write_note(ctx: Context, text: str) -> str:
    return await ctx.storage.notes.push({"text": text})


@backend(perm=perms.R__)
async def read_notes(ctx: Context) -> list[str]:
    return [note.text async for note in ctx.storage.notes]


@backend(perm=perms._W_)
async def write_blindly(ctx: Context) -> None:
    await ctx.storage.tasks.set("blind", {"title": "x"})


@backend()
async def without_storage(ctx: Context) -> str:
    ctx.after_commit(lambda: ran.append(ctx.sid))
    return "an answer"


@backend()
async def answered_outside(ctx: Context) -> str:
    return "never"


@middleware(endpoints=["answered_outside"])
async def answer(ctx: Context, call_next: Any) -> str:
    return "from outside"


@backend(public=True)
async def for_everybody(ctx: Context) -> list:
    return [ctx.owner, ctx.user, ctx.sid, ctx.is_anonymous]


FUNCTIONS = [write_note, read_notes, write_blindly, without_storage, answered_outside, for_everybody]
EVERY_WAY = [("write_note", "x"), ("read_notes",), ("write_blindly",), ("without_storage",), ("answered_outside",)]


class Clock(SystemClock):
    """The system's, and some time later."""

    later_ms = 0

    def now(self) -> int:
        return super().now() + self.later_ms

    def elapsed(self) -> float:
        return super().elapsed() + self.later_ms


class Auth:
    """A gateway, and what callers do with it. ``secrets``: what must not be seen in any log line or error."""

    def __init__(self, api: Api, crypto: CheapCrypto) -> None:
        self.api = api
        self.crypto = crypto
        self.secrets: set[str] = {PASSWORD, SECRET}
        self.errors: list[bytes] = []

    async def post(
        self, way: str, body: Any = None, bearer: str | None = None, client: str = "", method: str = "POST"
    ) -> Response:
        content = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        if isinstance(body, dict) and isinstance(body.get("password"), str) and len(body["password"]) > 5:
            self.secrets.add(body["password"])
        header = None if bearer is None else f"Bearer {bearer}"
        response = await self.api.send(method, f"/auth/{way}", content, client=client, authorization=header)
        if response.status >= 400:
            self.errors.append(response.body)
        elif response.body:
            said = json.loads(response.body)
            for made in (said.get("token", ""), said.get("refresh_token", "")):
                self.secrets |= set(made.split(".")[1:])
        return response

    async def ok(self, way: str, body: Any = None, bearer: str | None = None, **more: Any) -> dict:
        response = await self.post(way, body, bearer, **more)
        assert response.status in (200, 201), response.body
        assert response.headers["Cache-Control"] == "no-store"
        return json.loads(response.body)

    async def fails(self, status: int, code: str, way: str, body: Any = None, bearer: str | None = None, **more) -> str:
        return check_error(await self.post(way, body, bearer, **more), status, code)["message"]

    async def call(self, bearer: str | None, function: str, *args: Any, api: Api | None = None) -> Response:
        header = None if bearer is None else f"Bearer {bearer}"
        response = await (api or self.api).rpc(function, *args, authorization=header)
        if response.status >= 400:
            self.errors.append(response.body)
        return response

    async def result(self, bearer: str, function: str, *args: Any) -> Any:
        response = await self.call(bearer, function, *args)
        assert response.status == 200, response.body
        return json.loads(response.body)["result"]

    async def is_alive(self, bearer: str, apis_: list[Api] | None = None) -> bool:
        """Whether a session may do anything at all; the same must be said by every way in and every node."""
        said = set()
        for api in apis_ or [self.api]:
            for function, *args in EVERY_WAY:
                said.add((await self.call(bearer, function, *args, api=api)).status)
            me = await api.send("GET", "/auth/me", authorization=f"Bearer {bearer}")
            said.add(me.status)
        assert said in ({200}, {401}), said
        return said == {200}

    async def rows(self, what: str) -> list[dict]:
        ptr = {"users": "tbl_users_c41d7a", "sessions": "tbl_sessions_e08b53"}[what]
        found = await self.api.sql.fetch(f"SELECT id, data::text FROM {ptr} WHERE _deleted_txid IS NULL ORDER BY id")
        return [{"id": row[0], **json.loads(row[1])} for row in found]


def credentials(name: str, password: str = PASSWORD) -> dict[str, str]:
    return {"name": name, "password": password}


def claims(made: str) -> dict:
    payload = made.split(".")[1]
    return json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))


async def later(auth: Auth, seconds: float) -> None:
    auth.api.platform.clock.later_ms += round(seconds * 1000)
