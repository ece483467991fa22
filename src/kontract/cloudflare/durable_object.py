"""The coordinator of one owner as a Durable Object."""

from __future__ import annotations

import contextlib
import traceback
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import js
import msgspec
from workers import Response as WorkerResponse

from kontract.cloudflare import modules
from kontract.cloudflare.database import HyperdriveDatabase, connector
from kontract.cloudflare.feed import SocketSubscriber
from kontract.cloudflare.journal import SqliteJournal
from kontract.cloudflare.runtime import WorkerClock, log_line
from kontract.cloudflare.shared import SqliteCounters, SqliteRows
from kontract.coordination.shell import CoordinatorShell
from kontract.core.events import End, Page, Parcel, Resume, Subscription
from kontract.core.messages import decode_request, encode
from kontract.core.protocol.audience import Subscriber
from kontract.core.shared import state as shared
from kontract.core.shared.state import SharedState
from kontract.ports import CoordinatorUnavailableError

OWNER_TABLE = "CREATE TABLE IF NOT EXISTS owner (name TEXT NOT NULL)"

ALARM_SLACK_MS = 250
"""Added to alarms: while the object is awake its own timer is earlier, and an alarm costs a write."""


class SessionObject:
    """What :class:`KontractSessionDO` delegates to. Every call names the object's owner, which is stored for alarms."""

    def __init__(self, context: Any, env: Any) -> None:
        """Open the journal; nothing else may be done in a constructor."""
        self._context = context
        self._storage = context.storage
        self._sql = context.storage.sql
        self._sql.exec(OWNER_TABLE)
        self._journal = SqliteJournal(self._sql)
        self._connect = connector(env)
        self._clock = WorkerClock()
        self._shared = SharedState(SqliteRows(self._sql), SqliteCounters(self._sql))
        self._shell: CoordinatorShell | None = None
        self._alarm_due: int | None = None

    async def ask(self, owner: str, text: str) -> str:
        """Answer one message of a worker, as JSON text."""
        try:
            await modules.load()
            shell = self._shell_of(owner)
            answer = await shell.ask(decode_request(text))
            await self._set_alarm(shell)
            return encode(answer)
        except Exception as error:
            # The caller learns only that there was no answer: exceptions lose their type on the way.
            log_line("error", "coordinator", owner=owner, exception="".join(traceback.format_exception(error)))
            raise

    async def shared(self, text: str) -> str:
        """Answer one request for a shared value, as JSON text. The output gate makes it durable before it is sent."""
        return shared.encode(self._shared.handle(shared.decode_request(text), self._clock.now())).decode()

    def fetch(self, request: Any) -> Any:
        """Accept a connection for a change stream; the Worker has authorized it."""
        query = dict(parse_qsl(urlsplit(str(request.url)).query))
        shell = self._shell_of(query["owner"])
        subscription = msgspec.json.decode(query["subscription"], type=Subscription)
        if not shell.hub.has_room(subscription.user):
            return WorkerResponse("", status=429)
        pair = js.WebSocketPair.new().object_values()
        self._context.acceptWebSocket(pair[1])
        shell.hub.add(SocketSubscriber(pair[1], subscription))
        return WorkerResponse(None, status=101, web_socket=pair[0])

    async def message(self, socket: Any, text: str) -> None:
        """Answer a request for a page."""
        await modules.load()
        subscriber = self._subscriber(socket)
        if subscriber is None:
            socket.close(1000)
            return
        shell = self._shell_of(self._owner())
        resume = msgspec.json.decode(text, type=Resume)
        try:
            page: Page | End = await shell.resume(subscriber, resume.since)
        except CoordinatorUnavailableError as error:
            page = End(f"unavailable: {error}")
        subscriber.send(Parcel(page))
        await self._set_alarm(shell)

    def closed(self, socket: Any) -> None:
        """Forget a closed connection."""
        subscriber = self._subscriber(socket)
        if subscriber is not None and self._shell is not None:
            self._shell.hub.remove(subscriber.subscription.number)
        with contextlib.suppress(Exception):  # it is closed
            socket.close(1000)

    async def alarm(self) -> None:
        """Do what was due; workerd calls it at least once, also after a restart."""
        self._alarm_due = None
        owner = self._owner()
        if not owner:
            return
        await modules.load()
        shell = self._shell_of(owner)
        await shell.wake()
        await self._set_alarm(shell)

    def _shell_of(self, owner: str) -> CoordinatorShell:
        if self._shell is None:
            self._shell = CoordinatorShell(
                owner, self._journal, lambda: HyperdriveDatabase(self._connect), WorkerClock(), log_line, alarm=True
            )
            if not self._owner():
                self._sql.exec("INSERT INTO owner (name) VALUES (?)", owner)
            self._shell.hub.restore(SocketSubscriber.restored(socket) for socket in self._context.getWebSockets())
        return self._shell

    def _owner(self) -> str:
        rows = self._sql.exec("SELECT name FROM owner").raw().toArray()
        return str(rows[0][0]) if len(rows) > 0 else ""

    def _subscriber(self, socket: Any) -> Subscriber | None:
        """Return who listens on a socket: it is another Python object in each event, so its attachment says who."""
        number = SocketSubscriber.restored(socket).subscription.number
        return self._shell_of(self._owner()).hub.find(number)

    async def _set_alarm(self, shell: CoordinatorShell) -> None:
        due = shell.next_wake
        # The object has one alarm: an earlier one replaces it, a later one waits until it has rung.
        if due is not None and (self._alarm_due is None or due < self._alarm_due):
            self._alarm_due = due
            await self._storage.setAlarm(due + ALARM_SLACK_MS)
