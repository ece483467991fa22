"""The one line that the log gets of a request, as it is gathered."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from kontract.core.trace import Trace
from kontract.gateway.context import Session
from kontract.gateway.meter import Meter


@dataclass(slots=True)
class LogLine:
    """What is known of a request. Fields that stay None are left out.

    ``status`` and ``txid``: of the answer that is inside, where it is sealed. ``reason``: what the caller was told.
    ``exception``: with its traceback, for errors of ours and of the application.
    """

    request_id: str
    method: str
    path: str
    level: str = "info"
    function: str | None = None
    owner: str | None = None
    user: str | None = None
    tables: list[str] | None = None
    error: str | None = None
    reason: str | None = None
    exception: str | None = None
    status: int | None = None
    txid: str | None = None

    def of(self, session: Session) -> None:
        """Note who calls."""
        self.owner, self.user = session.owner, session.user

    def fields(self, meter: Meter, span: Trace, ms: float) -> dict[str, Any]:
        """Return what is written. ``meter``: what the request has cost; ``ms``: how long it took."""
        told: dict[str, Any] = {"request_id": self.request_id, "method": self.method, "path": self.path}
        if self.function is not None:
            told["function"] = self.function
        if self.owner is not None:
            told["owner"], told["user"] = self.owner, self.user
        if self.tables is not None:
            told["tables"] = self.tables
        if self.error is not None:
            told["error"], told["reason"] = self.error, self.reason
        told["status"], told["attempts"] = self.status, meter.attempts
        if self.txid is not None:
            told["txid"] = self.txid
        told["ms"] = round(ms, 1)
        told["coord_ms"] = round(meter.coordinator_ms, 1)
        told["db_ms"] = round(meter.database_ms, 1)
        told["handler_ms"] = round(meter.handler_ms, 1)
        told["coord_calls"], told["db_statements"] = meter.coordinator_calls, meter.statements
        told["trace_id"], told["span_id"] = span.trace_id, span.span_id
        if self.exception is not None:
            told["exception"] = self.exception
        return told
