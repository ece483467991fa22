"""``GET /stream``: the changes of tables, as server-sent events or over a WebSocket (docs/reference/streams.md).

A stream is filtered by the rules of reads, for each change as it is sent: the token's R bit, the table's R bit in
``storage``, ``rows="own"``, field permissions. Only tables that the application declares with ``@table`` (and not with
``stream=False``) can be listened to. Who listens is known here alone: the owner's object sends the whole change.

Two tasks run while a stream is open. One takes frames from the owner's object, filters and encodes them into an outbox;
the other writes the outbox to the client. While the stream catches up, the first waits for the second; once it is live
it cannot, and a client that is too slow is cut.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from typing import Any, Protocol
from urllib.parse import parse_qsl

import msgspec

from kontract.core import incoming, limits
from kontract.core.errors import InvalidRequestError, NotFoundError, UnavailableError
from kontract.core.events import Batch, Change, End, Page, RowChange, Subscription, kind, parse_position, position
from kontract.core.fields import redact
from kontract.core.messages import SessionEnded
from kontract.core.perms import READ
from kontract.core.rows import RowType
from kontract.core.store import SqlStore, TableMissingError
from kontract.core.transaction import refusal
from kontract.core.types import Version
from kontract.gateway import sse
from kontract.gateway.context import Session
from kontract.gateway.http import JSON, Response, encode_json
from kontract.gateway.meter import MeteredDatabase
from kontract.gateway.scope import Scope
from kontract.gateway.sessions import authenticate, ensure_live, required
from kontract.gateway.tokens import Kind
from kontract.ports import ClientGoneError, Feed, FeedClosedError, Outlet, Socket

PATH = "/stream"
TICKET = "/stream/ticket"

FIRST_PAGE_MS = 10_000
"""How long the owner's object may take for its first answer; it may have to be started."""


_CLOSED = "closed"  # by the client, or because this process stops
_UNAVAILABLE = "unavailable"


class Encoder(Protocol):
    """How what happens is written for a client: as an event stream, or as WebSocket messages."""

    def opening(self) -> str:
        """Return what comes first, if anything."""
        ...

    def heartbeat(self) -> str:
        """Return what shows that the connection is alive."""
        ...

    def note(self, name: str, data: dict[str, Any], position: str = "") -> str:
        """Return a ready, reset or end."""
        ...

    def change(self, change: Change, position: str) -> str:
        """Return a change; ``position`` is given with the last one of a transaction alone."""
        ...


class SseEncoder:
    """Server-sent events."""

    def opening(self) -> str:
        """Tell how soon to come back."""
        return sse.OPENING

    def heartbeat(self) -> str:
        """Return a comment."""
        return sse.HEARTBEAT

    def note(self, name: str, data: dict[str, Any], position: str = "") -> str:
        """Return a named event."""
        return sse.event(data, name=name, id=position)

    def change(self, change: Change, position: str) -> str:
        """Return an unnamed event."""
        return sse.event(change, id=position)


class MessageEncoder:
    """WebSocket messages: one JSON text each."""

    def opening(self) -> str:
        """Nothing: the first message is the ready."""
        return ""

    def heartbeat(self) -> str:
        """Say so: browsers do not show pings of the protocol to their pages."""
        return '{"event":"heartbeat"}'

    def note(self, name: str, data: dict[str, Any], position: str = "") -> str:
        """Return a named message."""
        return encode_json({"event": name, **({"id": position} if position else {}), **data}).decode()

    def change(self, change: Change, position: str) -> str:
        """Return a change."""
        return encode_json({"event": "change", **({"id": position} if position else {}), "change": change}).decode()


class Rule:
    """What one caller may see of one table."""

    def __init__(self, rows: RowType, user: str) -> None:
        """See rows as the application does; of tables of ``rows="own"`` those of ``user``."""
        self._rows = rows
        self._user = user

    def change(self, change: RowChange, txid: int) -> Change | None:
        """Return what the caller is told; None when it may not see the row."""
        if self._rows.own and change.owner != self._user:
            return None
        return Change(
            type=kind(change),
            table=change.table,
            id=change.id,
            data=self._row(change, change.data, txid),
            txid=txid,
            old=self._row(change, change.old, txid),
        )

    def _row(self, change: RowChange, data: msgspec.Raw, txid: int) -> Any:
        text = bytes(data).decode()
        if text == "null":
            return None
        version = Version(change.id, text, txid, change.owner)
        try:
            return redact(self._rows.decode(version))
        except msgspec.ValidationError:  # a row of an older shape; its events are not worth less
            return self._rows.shown(version)


class Stream:
    """One open stream."""

    def __init__(self, scope: Scope, session: Session, tables: list[str], ids: frozenset[str]) -> None:
        """Listen to ``tables`` on behalf of ``session``; ``ids``: to these rows only, if there are any."""
        self._scope = scope
        self._platform = scope.platform
        self._session = session
        self._tables = tables
        self._ids = ids
        self._rules: dict[str, Rule] = {}
        self._rules_until = 0.0
        self._generation = ""
        self._position = ""
        self._outbox: deque[bytes] = deque()
        self._waiting_bytes = 0
        self._filled = asyncio.Event()
        self._emptied = asyncio.Event()
        self._opened = self._platform.clock.elapsed()
        self._changes = 0

    async def open(self, since: str | None) -> tuple[Feed, Page]:
        """Connect to the owner's object and return its first page.

        Raises UnauthorizedError for a session that was ended, UnavailableError, RateLimitedError.
        """
        await self._refresh_rules()
        subscription = Subscription(sorted(self._rules), self._session.user, self._session.sid)
        feed = await self._platform.open_feed(self._session.owner, subscription)
        try:
            await feed.resume(since)
            first = await feed.next(FIRST_PAGE_MS)
        except FeedClosedError as error:
            feed.close()
            message = "the change stream cannot be opened now"
            raise UnavailableError(message, headers={"Retry-After": "1"}) from error
        except BaseException:
            feed.close()
            raise
        if isinstance(first, Page):
            return feed, first
        feed.close()
        if isinstance(first, End) and first.reason == "session":
            raise refusal(SessionEnded())
        message = "the change stream cannot be opened now"
        raise UnavailableError(message, headers={"Retry-After": "1"})

    async def run(self, outlet: Outlet, encoder: Encoder, feed: Feed, first: Page) -> None:
        """Send until the client leaves, the stream has to end, or something breaks."""
        writer = asyncio.ensure_future(self._write(outlet))
        reason = _CLOSED
        try:
            self._put(encoder.opening())
            reason = await self._serve(encoder, feed, first, writer)
        except (ClientGoneError, FeedClosedError, asyncio.CancelledError) as end:
            reason = _reason(end)
        except Exception as error:  # noqa: BLE001 - the answer has begun: there is nobody to tell but the log
            reason = self._log_failure(error)
        finally:
            self._log_end(reason)
            writer.cancel()
            await outlet.close()

    async def converse(self, socket: Socket, feed: Feed, first: Page) -> None:
        """Send likewise over a WebSocket, whose client may change the tables that it listens to."""
        encoder = MessageEncoder()
        writer = asyncio.ensure_future(self._write(socket))
        reason = _CLOSED
        try:
            while True:
                serving: asyncio.Future[str] = asyncio.ensure_future(self._serve(encoder, feed, first, writer))
                asking: asyncio.Future[Any] = asyncio.ensure_future(self._next_choice(socket, encoder))
                try:
                    await asyncio.wait([serving, asking], return_when=asyncio.FIRST_COMPLETED)
                    if serving.done():
                        reason = await serving
                        return
                    self._tables = await asking
                finally:
                    asking.cancel()
                    serving.cancel()
                    await asyncio.wait([serving])  # not `await serving`, whose cancellation hides that of this task
                    _check(serving)
                self._rules_until = 0.0
                feed, first = await self.open(self._position)
        except (ClientGoneError, FeedClosedError, asyncio.CancelledError) as end:
            reason = _reason(end)
        except Exception as error:  # noqa: BLE001 - as in run
            reason = self._log_failure(error)
        finally:
            self._log_end(reason)
            writer.cancel()
            await socket.close()

    async def _next_choice(self, socket: Socket, encoder: Encoder) -> list[str]:
        """Wait until the client asks for other tables and return them all; raises ClientGoneError."""
        while True:
            text = (await socket.receive()).encode(errors="replace")
            try:
                choice = incoming.decode(text, _decode_choice, "the message")
            except (msgspec.ValidationError, InvalidRequestError) as error:
                self._put(
                    encoder.note("error", {"message": f"send {{subscribe: [..]}} or {{unsubscribe: [..]}}: {error}"})
                )
                continue
            tables = sorted((set(self._tables) | set(choice.subscribe)) - set(choice.unsubscribe))
            try:
                check_tables(tables)
            except InvalidRequestError as error:
                self._put(encoder.note("error", {"message": error.message}))
            else:
                return tables

    async def _serve(self, encoder: Encoder, feed: Feed, first: Page, writer: asyncio.Future[None]) -> str:
        """Return why the stream ends, as the client was told."""
        try:
            reason = await self._produce(encoder, feed, first, writer)
            self._put(encoder.note("end", {"reason": reason}))
            with contextlib.suppress(TimeoutError, ClientGoneError):
                async with asyncio.timeout(2):
                    await self._drained(writer)
        finally:
            feed.close()
        return reason

    def _log_failure(self, error: Exception) -> str:
        self._platform.log("error", "stream", request_id=self._scope.request_id, error=repr(error))
        return "error"

    def _log_end(self, reason: str) -> None:
        self._platform.log(
            "info",
            "stream_end",
            request_id=self._scope.request_id,
            owner=self._session.owner,
            user=self._session.user,
            tables=self._tables,
            reason=reason,
            changes=self._changes,
            ms=round(self._platform.clock.elapsed() - self._opened, 1),
        )

    # --- taking ------------------------------------------------------------------------------------------------------

    async def _produce(self, encoder: Encoder, feed: Feed, page: Page, writer: asyncio.Future[None]) -> str:
        denied = sorted(set(self._tables) - self._rules.keys())
        if page.reset:
            self._put(encoder.note("reset", {"reason": page.reset}))
        start = page.position if not page.batches else _before(page)
        self._position = start
        self._put(encoder.note("ready", {"tables": sorted(self._rules), "denied": denied}, start))
        await self._take_page(encoder, page)
        while not page.live:
            await self._drained(writer)
            await feed.resume(page.position)
            answer = await self._next(feed, writer, FIRST_PAGE_MS)
            if not isinstance(answer, Page):
                return answer.reason if isinstance(answer, End) else _UNAVAILABLE
            page = answer
            await self._take_page(encoder, page)
        beats = 0
        while True:
            left = self._time_left()
            if left <= 0:
                return "expired"
            # Two beats, soon after one another: it is the second write that fails after a client has left.
            pause = limits.STREAM_BEAT_MS if beats % 2 else limits.STREAM_HEARTBEAT_MS - limits.STREAM_BEAT_MS
            frame = await self._next(feed, writer, min(pause, left))
            if isinstance(frame, Batch):
                await self._take(encoder, frame)
            elif isinstance(frame, End):
                return frame.reason
            elif frame is None:
                beats += 1
                if not self._outbox:
                    self._put(encoder.heartbeat())
            if self._waiting_bytes > limits.STREAM_BACKLOG_BYTES:
                self._platform.log("info", "stream_cut", user=self._session.user, bytes=self._waiting_bytes)
                raise _TooSlowError

    async def _next(self, feed: Feed, writer: asyncio.Future[None], milliseconds: float) -> Any:
        """Return the next frame, None when none comes in time; raises what the writer met."""
        taking: asyncio.Future[Any] = asyncio.ensure_future(feed.next(milliseconds))
        try:
            await asyncio.wait([taking, writer], return_when=asyncio.FIRST_COMPLETED)
            if writer.done() and not taking.done():
                writer.result()
                raise ClientGoneError
            return await taking
        finally:
            taking.cancel()

    async def _take_page(self, encoder: Encoder, page: Page) -> None:
        self._generation = page.position.rpartition("-")[0]
        for batch in page.batches:
            await self._take(encoder, batch)
        self._position = page.position

    async def _take(self, encoder: Encoder, batch: Batch) -> None:
        await self._refresh_rules()
        shown: list[Change] = []
        for change in batch.changes:
            rule = self._rules.get(change.table)
            if rule is None or (self._ids and change.id not in self._ids):
                continue
            told = rule.change(change, batch.txid)
            if told is not None:
                shown.append(told)
        at = self._position = position(self._generation, batch.txid)
        self._changes += len(shown)
        for number, told in enumerate(shown, 1):
            self._put(encoder.change(told, at if number == len(shown) else ""))

    async def _refresh_rules(self) -> None:
        """Look again what the caller may see: a permission that is taken away counts within seconds."""
        now = self._platform.clock.elapsed()
        if now < self._rules_until:
            return
        rules: dict[str, Rule] = {}
        store = SqlStore(MeteredDatabase(self._platform.open_database(), self._scope.meter, self._platform.clock))
        try:
            for name in self._tables:
                rows = self._scope.deployment.registry.streamed(name)
                if rows is None or not self._session.perm & READ:
                    continue
                with contextlib.suppress(NotFoundError, TableMissingError):
                    pointer = await self._scope.deployment.catalog.pointer(store, self._session.owner, name)
                    if pointer.permissions & READ:
                        rules[name] = Rule(rows, self._session.user)
        finally:
            self._platform.spawn(store.aclose())
        self._rules = rules
        self._rules_until = now + limits.POINTER_CACHE_MS

    def _time_left(self) -> float:
        return self._session.expires_at * 1000 - self._platform.clock.now()

    # --- writing -----------------------------------------------------------------------------------------------------

    def _put(self, text: str) -> None:
        if text:
            data = text.encode()
            self._outbox.append(data)
            self._waiting_bytes += len(data)
            self._filled.set()

    async def _write(self, outlet: Outlet) -> None:
        while True:
            while self._outbox:
                data = self._outbox.popleft()
                if not outlet.separate:  # one write for all there is
                    data += b"".join(self._outbox)
                    self._outbox.clear()
                await outlet.write(data)
                self._waiting_bytes -= len(data)
            self._emptied.set()
            self._filled.clear()
            await self._filled.wait()
            self._emptied.clear()

    async def _drained(self, writer: asyncio.Future[None]) -> None:
        """Wait until the client has taken everything; raises ClientGoneError."""
        while self._outbox or self._waiting_bytes:
            self._emptied.clear()
            emptied: asyncio.Future[Any] = asyncio.ensure_future(self._emptied.wait())
            await asyncio.wait([emptied, writer], return_when=asyncio.FIRST_COMPLETED)
            emptied.cancel()
            if writer.done():
                writer.result()
                raise ClientGoneError


class _TooSlowError(ClientGoneError):
    """The client does not take what it is sent, and is cut."""


def _reason(end: BaseException) -> str:
    """Return the word for the log."""
    if isinstance(end, _TooSlowError):
        return "slow"
    return _UNAVAILABLE if isinstance(end, FeedClosedError) else _CLOSED


def _check(served: asyncio.Future[str]) -> None:
    """Raise what ended a task, unless that is how streams end."""
    error = None if served.cancelled() else served.exception()
    if error is not None and not isinstance(error, (ClientGoneError, FeedClosedError)):
        raise error


def _before(page: Page) -> str:
    """Return the position just before the first transaction of a page: nothing between was shown yet."""
    generation = page.position.rpartition("-")[0]
    return position(generation, page.batches[0].txid - 1)


# --- requests --------------------------------------------------------------------------------------------------------


async def handle(scope: Scope) -> Response:
    """Answer ``/stream`` and ``/stream/ticket``; raises HttpError."""
    request, now = scope.request, scope.platform.clock.now()
    tokens = scope.deployment.tokens
    if request.path == TICKET:
        session = required(authenticate(request, tokens, now))
        scope.log["owner"], scope.log["user"] = session.owner, session.user
        await ensure_live(scope, session)
        ticket = tokens.make(
            session, Kind.STREAM, now, limits.STREAM_TICKET_SECONDS, scope.platform.random, until=session.expires_at
        )
        body = encode_json({"ticket": ticket, "expires_in": limits.STREAM_TICKET_SECONDS})
        return Response(201, body, {"Content-Type": JSON})
    if request.has_body:  # it would wait behind the stream, and the client's leaving behind it
        message = "stream: a request for a stream has no body"
        raise InvalidRequestError(message)
    wanted = Wanted.parse(request.query, request.headers.get("last-event-id"))
    bearer = authenticate(request, tokens, now)
    if bearer is None and wanted.ticket:
        bearer = tokens.read(wanted.ticket, Kind.STREAM, now).session
    session = required(bearer)
    scope.log["owner"], scope.log["user"], scope.log["tables"] = session.owner, session.user, wanted.tables
    stream = Stream(scope, session, wanted.tables, wanted.ids)
    feed, first = await stream.open(wanted.since)
    if request.headers.get("upgrade", "").lower() == "websocket":

        async def converse(socket: Socket) -> None:
            await stream.converse(socket, feed, first)

        return Response(101, websocket=converse)

    async def run(outlet: Outlet) -> None:
        await stream.run(outlet, SseEncoder(), feed, first)

    headers = {"Content-Type": "text/event-stream", "Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return Response(200, headers=headers, stream=run)


def check_tables(tables: list[str]) -> None:
    """Raise InvalidRequestError when these are too many for one stream."""
    if len(tables) > limits.STREAM_TABLES or sum(len(name.encode()) for name in tables) > limits.STREAM_NAMES_BYTES:
        most, size = limits.STREAM_TABLES, limits.STREAM_NAMES_BYTES
        message = f"stream: at most {most} tables, whose names have {size} bytes together"
        raise InvalidRequestError(message)


class Choice(msgspec.Struct, forbid_unknown_fields=True):
    """What a client may say over a WebSocket."""

    subscribe: list[str] = []
    unsubscribe: list[str] = []


_decode_choice = msgspec.json.Decoder(Choice).decode


class Wanted(msgspec.Struct):
    """What a request asks to listen to."""

    tables: list[str]
    ids: frozenset[str]
    since: str | None
    ticket: str

    @classmethod
    def parse(cls, query: str, last_event_id: str | None) -> Wanted:
        """Read a query; raises InvalidRequestError. Last-Event-ID wins: a client that comes back knows better."""
        given: dict[str, list[str]] = {}
        try:
            pairs = parse_qsl(query, keep_blank_values=True, max_num_fields=limits.QUERY_FIELDS)
        except ValueError:
            message = f"stream: more than {limits.QUERY_FIELDS} parameters"
            raise InvalidRequestError(message) from None
        for name, value in pairs:
            if name not in ("table", "id", "since", "ticket"):
                message = f"stream: there is no parameter {name!r:.50}; it takes table, id, since and ticket"
                raise InvalidRequestError(message)
            given.setdefault(name, []).append(value)
        tables = sorted(set(given.get("table", [])))
        if not tables or not all(tables):
            message = "stream: name at least one table: /stream?table=tasks"
            raise InvalidRequestError(message)
        check_tables(tables)
        since = last_event_id or (given.get("since") or [""])[-1] or None
        if since is not None and parse_position(since) is None:
            since = "g0-0"  # the id of some other server: it gets a reset, like every position that is not known
        return cls(tables, frozenset(given.get("id", [])), since, (given.get("ticket") or [""])[-1])
