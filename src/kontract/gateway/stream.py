"""``GET /stream``: the changes of tables, as server-sent events or over a WebSocket (docs/reference/streams.md).

A stream is filtered by the rules of reads, for each change as it is sent: the token's R bit, the table's R bit in
``storage``, ``rows="own"``, field permissions. Only tables that the application declares with ``@table`` (and not with
``stream=False``) can be listened to. Only this module knows who listens: the owner's coordinator sends the whole
change.

Two tasks run while a stream is open. One takes frames from the owner's coordinator, filters and encodes them into an
outbox; the other writes the outbox to the client. While the stream catches up, the first waits for the second; once it
is live it cannot wait, and a client that is too slow is cut.

An idle stream costs only heartbeats, at times that differ from stream to stream: a thousand streams that were opened at
once must not all beat at the same moment.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any, Protocol
from urllib.parse import parse_qsl

import msgspec

from kontract.core import incoming, limits
from kontract.core.errors import InvalidRequestError, NotFoundError, UnavailableError
from kontract.core.events import Batch, Change, End, Page, RowChange, Subscription, kind, parse_position, position
from kontract.core.messages import SessionEnded
from kontract.core.model.fields import redact
from kontract.core.model.perms import READ
from kontract.core.model.rows import RowType
from kontract.core.pace import Pace
from kontract.core.protocol.refusal import refusal
from kontract.core.transaction.store import SqlStore, TableMissingError
from kontract.core.types import Version
from kontract.gateway import sse
from kontract.gateway.addresses import subscriber
from kontract.gateway.context import Session
from kontract.gateway.http import JSON, Response, encode_json
from kontract.gateway.meter import MeteredDatabase
from kontract.gateway.outbox import Holding, Outbox, TooSlowError
from kontract.gateway.scope import Scope
from kontract.gateway.sessions import authenticate, ensure_live, required
from kontract.gateway.tokens import Kind
from kontract.ports import ClientGoneError, Feed, FeedClosedError, Outlet, Socket

PATH = "/stream"
TICKET = "/stream/ticket"

FIRST_PAGE_MS = 10_000
"""How long the owner's coordinator may take for its first answer; it may have to start."""


_CLOSED = "closed"  # by the client, or because this process stops
_UNAVAILABLE = "unavailable"


class Encoder(Protocol):
    """Encodes events for a client: as an event stream, or as WebSocket messages."""

    def opening(self) -> bytes:
        """Return what comes first, if anything."""
        ...

    def heartbeat(self) -> bytes:
        """Return what shows that the connection is alive."""
        ...

    def note(self, name: str, data: dict[str, Any], position: str = "") -> bytes:
        """Return a ready, reset or end."""
        ...

    def change(self, change: Change, position: str) -> bytes:
        """Return a change; only the last one of a transaction has a ``position``."""
        ...


class SseEncoder:
    """Server-sent events."""

    def opening(self) -> bytes:
        """Return the time to wait before reconnecting."""
        return sse.OPENING

    def heartbeat(self) -> bytes:
        """Return a comment."""
        return sse.HEARTBEAT

    def note(self, name: str, data: dict[str, Any], position: str = "") -> bytes:
        """Return a named event."""
        return sse.event(data, name=name, id=position)

    def change(self, change: Change, position: str) -> bytes:
        """Return an unnamed event."""
        return sse.event(change, id=position)


class MessageEncoder:
    """WebSocket messages: one JSON text each."""

    def opening(self) -> bytes:
        """Return nothing: the first message is the ready."""
        return b""

    def heartbeat(self) -> bytes:
        """Return a message: browsers do not show the protocol's pings to pages."""
        return b'{"event":"heartbeat"}'

    def note(self, name: str, data: dict[str, Any], position: str = "") -> bytes:
        """Return a named message."""
        return encode_json({"event": name, **({"id": position} if position else {}), **data})

    def change(self, change: Change, position: str) -> bytes:
        """Return a change."""
        return encode_json({"event": "change", **({"id": position} if position else {}), "change": change})


class Rule:
    """What one caller may see of one table."""

    def __init__(self, rows: RowType, user: str) -> None:
        """``user``: whose rows are visible in tables with ``rows="own"``."""
        self.own = rows.own
        self._rows = rows
        self._user = user

    def change(self, change: RowChange, txid: int) -> Change | None:
        """Return the change as the caller may see it; None if it may not see the row."""
        if self.own and change.owner != self._user:
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
        except msgspec.ValidationError:  # a row of an older shape: its events are sent all the same
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
        self._pace = Pace(limits.STREAM_CHANGES_AT_ONCE, 1000 / limits.STREAM_CHANGE_MS, self._platform.clock.elapsed())
        self._hearing: asyncio.Future[str] | None = None
        self._holding: Holding | None = None
        self._opened = self._platform.clock.elapsed()
        phase = (1 + self._platform.random.token(1)[0]) / 256
        self._beat_at = self._opened + limits.STREAM_HEARTBEAT_MS * phase
        self._changes = 0

    async def open(self, since: str | None) -> tuple[Feed, Page]:
        """Connect to the owner's object and return its first page.

        Raises UnauthorizedError for a session that was ended, UnavailableError, RateLimitedError.
        """
        await self._refresh_rules()
        tables = sorted(self._rules)
        own = [place for place, table in enumerate(tables) if self._rules[table].own]
        subscription = Subscription(tables, self._session.user, self._session.sid, own=own)
        feed = await self._platform.open_feed(self._session.owner, subscription)
        try:
            await feed.resume(since)
            first = await feed.next(FIRST_PAGE_MS)
        except FeedClosedError as error:
            feed.close()
            message = "the change stream cannot be opened at the moment"
            raise UnavailableError(message, headers={"Retry-After": "1"}) from error
        except BaseException:
            feed.close()
            raise
        if isinstance(first, Page):
            return feed, first
        feed.close()
        if isinstance(first, End) and first.reason == "session":
            raise refusal(SessionEnded())
        message = "the change stream cannot be opened at the moment"
        raise UnavailableError(message, headers={"Retry-After": "1"})

    async def run(self, outlet: Outlet, encoder: Encoder, feed: Feed, first: Page) -> None:
        """Send until the client leaves, the stream has to end, or something breaks."""
        outbox = Outbox(outlet, self._hold(), feed.close)
        reason = _CLOSED
        try:
            outbox.put(encoder.opening())
            reason = await self._serve(encoder, feed, first, outbox)
        except (ClientGoneError, FeedClosedError, asyncio.CancelledError) as end:
            reason = _reason(end)
        except Exception as error:  # noqa: BLE001 - the answer has begun: only the log can say it
            reason = self._log_failure(error)
        finally:
            await self._end(reason, outbox)

    async def converse(self, socket: Socket, feed: Feed, first: Page) -> None:
        """Do the same over a WebSocket, whose client may change its tables."""
        encoder = MessageEncoder()
        outbox = Outbox(socket, self._hold(), lambda: feed.close())  # noqa: PLW0108 - of the feed there is then
        reason = _CLOSED
        try:
            while True:
                serving: asyncio.Future[str] = asyncio.ensure_future(self._serve(encoder, feed, first, outbox))
                asking: asyncio.Future[Any] = asyncio.ensure_future(self._next_choice(socket, encoder, outbox))
                try:
                    await asyncio.wait([serving, asking], return_when=asyncio.FIRST_COMPLETED)
                    if serving.done():
                        reason = await serving
                        return
                    self._tables = await asking
                finally:
                    asking.cancel()
                    serving.cancel()
                    await asyncio.wait([serving])  # not `await serving`: its cancellation would hide that of this task
                    _check(serving)
                self._rules_until = 0.0
                feed, first = await self.open(self._position)
        except (ClientGoneError, FeedClosedError, asyncio.CancelledError) as end:
            reason = _reason(end)
        except Exception as error:  # noqa: BLE001 - as in run
            reason = self._log_failure(error)
        finally:
            if self._hearing is not None:
                self._hearing.cancel()
            await self._end(reason, outbox)

    async def _end(self, reason: str, outbox: Outbox) -> None:
        self._log_end(reason)
        try:
            await outbox.close()
        finally:
            self.give_back()

    async def _next_choice(self, socket: Socket, encoder: Encoder, outbox: Outbox) -> list[str]:
        """Wait until the client asks for other tables and return them all; raises ClientGoneError.

        A change costs as much as a call. Changes that come faster than STREAM_CHANGE_MS are combined.
        """
        wanted, until = self._tables, None
        while True:
            text = await self._hear(socket, until)
            if text is None:
                return wanted
            try:
                tables = _chosen(wanted, text)
            except InvalidRequestError as error:
                outbox.put(encoder.note("error", {"message": error.message}))
                continue
            wanted = tables
            if until is None:
                now = self._platform.clock.elapsed()
                pause = self._pace.spend(now)
                if not pause:
                    return wanted
                until = now + pause

    async def _hear(self, socket: Socket, until: float | None) -> str | None:
        """Return the client's next message; None if none comes by ``until``."""
        if self._hearing is None:
            self._hearing = asyncio.ensure_future(socket.receive())
        timeout = None if until is None else max(0.0, until - self._platform.clock.elapsed()) / 1000
        heard, _ = await asyncio.wait([self._hearing], timeout=timeout)
        if not heard:
            return None
        hearing, self._hearing = self._hearing, None
        return hearing.result()

    async def _serve(self, encoder: Encoder, feed: Feed, first: Page, outbox: Outbox) -> str:
        """Return the reason for the end, as sent to the client."""
        try:
            reason = await self._produce(encoder, feed, first, outbox)
            outbox.put(encoder.note("end", {"reason": reason}))
            with contextlib.suppress(TimeoutError, ClientGoneError):
                async with asyncio.timeout(2):
                    await outbox.drained()
        finally:
            feed.close()
        return reason

    def hold(self, holding: Holding) -> None:
        """Take a place among all streams; it is released at the end."""
        self._holding = holding

    def give_back(self) -> None:
        """Release the place."""
        if self._holding is not None:
            self._holding.close()
            self._holding = None

    def _hold(self) -> Holding:
        assert self._holding is not None
        return self._holding

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

    async def _produce(self, encoder: Encoder, feed: Feed, page: Page, outbox: Outbox) -> str:
        denied = sorted(set(self._tables) - self._rules.keys())
        if page.reset:
            outbox.put(encoder.note("reset", {"reason": page.reset}))
        start = page.position if not page.batches else _before(page)
        self._position = start
        outbox.put(encoder.note("ready", {"tables": sorted(self._rules), "denied": denied}, start))
        await self._take_page(encoder, page, outbox)
        while not page.live:
            await outbox.drained()
            await feed.resume(page.position)
            answer = await self._next(feed, outbox, FIRST_PAGE_MS)
            if not isinstance(answer, Page):
                return answer.reason if isinstance(answer, End) else _UNAVAILABLE
            page = answer
            await self._take_page(encoder, page, outbox)
        while True:
            left = self._time_left()
            if left <= 0:
                return "expired"
            until_beat = self._beat_at - self._platform.clock.elapsed()
            if until_beat <= 0:
                self._beat_at += limits.STREAM_HEARTBEAT_MS * (1 - until_beat // limits.STREAM_HEARTBEAT_MS)
                outbox.beat(encoder.heartbeat())
                continue
            frame = await self._next(feed, outbox, min(until_beat, left))
            if isinstance(frame, Batch):
                await self._take(encoder, frame, outbox)
            elif isinstance(frame, End):
                return frame.reason
            self._check_pace(outbox, limits.STREAM_BACKLOG_BYTES)

    async def _next(self, feed: Feed, outbox: Outbox, milliseconds: float) -> Any:
        """Return the next frame, None if none comes in time; raises the error of the writer, which closes the feed."""
        try:
            return await feed.next(milliseconds)
        except FeedClosedError:
            outbox.check_writer()
            raise

    def _check_pace(self, outbox: Outbox, at_most: int | None = None) -> None:
        try:
            outbox.check_pace(at_most)
        except TooSlowError:
            self._platform.log("info", "stream_cut", user=self._session.user, bytes=outbox.waiting_bytes)
            raise

    async def _take_page(self, encoder: Encoder, page: Page, outbox: Outbox) -> None:
        self._generation = page.position.rpartition("-")[0]
        for batch in page.batches:
            await self._take(encoder, batch, outbox)
            self._check_pace(outbox)
        self._position = page.position

    async def _take(self, encoder: Encoder, batch: Batch, outbox: Outbox) -> None:
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
            outbox.put(encoder.change(told, at if number == len(shown) else ""))

    async def _refresh_rules(self) -> None:
        """Check again what the caller may see: a revoked permission takes effect within seconds."""
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


def _reason(end: BaseException) -> str:
    """Return the reason for the log."""
    if isinstance(end, TooSlowError):
        return "slow"
    return _UNAVAILABLE if isinstance(end, FeedClosedError) else _CLOSED


def _check(served: asyncio.Future[str]) -> None:
    """Raise the error that ended a task, unless it is a normal end of a stream."""
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
        scope.line.of(session)
        await ensure_live(scope, session)
        ticket = tokens.make(
            session, Kind.STREAM, now, limits.STREAM_TICKET_SECONDS, scope.platform.random, until=session.expires_at
        )
        body = encode_json({"ticket": ticket, "expires_in": limits.STREAM_TICKET_SECONDS})
        return Response(201, body, {"Content-Type": JSON})
    if request.has_body:  # the body would wait behind the stream, and the client's leaving behind the body
        message = "stream: a request for a stream must not have a body"
        raise InvalidRequestError(message)
    wanted = Wanted.parse(request.query, request.headers.get("last-event-id"))
    bearer = authenticate(request, tokens, now)
    if bearer is None and wanted.ticket:
        bearer = tokens.read(wanted.ticket, Kind.STREAM, now).session
    session = required(bearer)
    scope.line.of(session)
    scope.line.tables = wanted.tables
    stream = Stream(scope, session, wanted.tables, wanted.ids)
    stream.hold(scope.deployment.holdings.open(session.owner, session.user, subscriber(request.client)))
    try:
        feed, first = await stream.open(wanted.since)
    except BaseException:
        stream.give_back()
        raise
    if request.headers.get("upgrade", "").lower() == "websocket":

        async def converse(socket: Socket) -> None:
            await stream.converse(socket, feed, first)

        return Response(101, websocket=converse)

    async def run(outlet: Outlet) -> None:
        await stream.run(outlet, SseEncoder(), feed, first)

    headers = {"Content-Type": "text/event-stream", "Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return Response(200, headers=headers, stream=run)


def check_tables(tables: list[str]) -> None:
    """Raise InvalidRequestError when there are too many tables for one stream."""
    if len(tables) > limits.STREAM_TABLES or sum(len(name.encode()) for name in tables) > limits.STREAM_NAMES_BYTES:
        most, size = limits.STREAM_TABLES, limits.STREAM_NAMES_BYTES
        message = f"stream: at most {most} tables, with at most {size} bytes of names in all"
        raise InvalidRequestError(message)


def _chosen(tables: list[str], message: str) -> list[str]:
    """Return the tables that a client wants after its message; raises InvalidRequestError."""
    text = message.encode(errors="replace")
    try:
        choice = incoming.decode(text, _decode_choice, "the message")
    except (msgspec.ValidationError, InvalidRequestError) as error:
        told = f"send {{subscribe: [..]}} or {{unsubscribe: [..]}}: {error}"
        raise InvalidRequestError(told) from None
    chosen = sorted((set(tables) | set(choice.subscribe)) - set(choice.unsubscribe))
    check_tables(chosen)
    return chosen


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
        """Read a query; raises InvalidRequestError. Last-Event-ID wins: a reconnecting client is ahead of its URL."""
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
            since = "g0-0"  # the id of another server: it gets a reset, like every unknown position
        return cls(tables, frozenset(given.get("id", [])), since, (given.get("ticket") or [""])[-1])
