"""The coordinator of one owner as a Durable Object."""

from __future__ import annotations

import traceback
from typing import Any

from kontract.cloudflare.database import HyperdriveDatabase, connector
from kontract.cloudflare.journal import SqliteJournal
from kontract.cloudflare.runtime import WorkerClock, log_line
from kontract.cloudflare.shared import SqliteRows
from kontract.core import shared
from kontract.core.messages import decode_request, encode
from kontract.core.shared import SharedState
from kontract.shell import CoordinatorShell

OWNER_TABLE = "CREATE TABLE IF NOT EXISTS owner (name TEXT NOT NULL)"

ALARM_SLACK_MS = 250
"""Added to alarms: while the object is awake its own timer is earlier, and an alarm costs a write."""


class SessionObject:
    """What :class:`KontractSessionDO` delegates to. The object's owner is told with every call, and kept for alarms."""

    def __init__(self, context: Any, env: Any) -> None:
        """Open the journal; nothing else may be done in a constructor."""
        self._storage = context.storage
        self._sql = context.storage.sql
        self._sql.exec(OWNER_TABLE)
        self._journal = SqliteJournal(self._sql)
        self._connect = connector(env)
        self._clock = WorkerClock()
        self._shared = SharedState(SqliteRows(self._sql))
        self._shell: CoordinatorShell | None = None
        self._alarm_due: int | None = None

    async def ask(self, owner: str, text: str) -> str:
        """Answer one message of a worker, as JSON text."""
        try:
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

    async def alarm(self) -> None:
        """Do what was due; workerd calls it at least once, also after a restart."""
        self._alarm_due = None
        rows = self._sql.exec("SELECT name FROM owner").raw().toArray()
        if len(rows) == 0:
            return
        shell = self._shell_of(str(rows[0][0]))
        await shell.wake()
        await self._set_alarm(shell)

    def _shell_of(self, owner: str) -> CoordinatorShell:
        if self._shell is None:
            self._shell = CoordinatorShell(
                owner, self._journal, lambda: HyperdriveDatabase(self._connect), WorkerClock(), log_line, alarm=True
            )
            if len(self._sql.exec("SELECT name FROM owner").raw().toArray()) == 0:
                self._sql.exec("INSERT INTO owner (name) VALUES (?)", owner)
        return self._shell

    async def _set_alarm(self, shell: CoordinatorShell) -> None:
        due = shell.next_wake
        # The object has one alarm: an earlier one replaces it, a later one waits until it has rung.
        if due is not None and (self._alarm_due is None or due < self._alarm_due):
            self._alarm_due = due
            await self._storage.setAlarm(due + ALARM_SLACK_MS)
