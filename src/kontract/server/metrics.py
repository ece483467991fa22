"""Numbers of one server process, and how Prometheus reads them (text format 0.0.4).

Each process counts for itself, and every sample has the label ``worker``: with several processes their texts are joined
(:func:`join`), and sums are the reader's.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Upper bounds of the histograms in seconds: from a cached answer to the longest transaction."""

_HELP = {
    "kontract_requests_total": ("counter", "Requests answered, by function and status."),
    "kontract_request_seconds": ("histogram", "Time from the request's head to its answer."),
    "kontract_attempts_total": ("counter", "Runs of backend functions; one that lost a conflict ran again."),
    "kontract_conflicts_total": ("counter", "Attempts that lost against another transaction."),
    "kontract_coordinator_seconds_total": ("counter", "Time that requests waited for the coordinator."),
    "kontract_coordinator_calls_total": ("counter", "Messages to the coordinator."),
    "kontract_database_seconds_total": ("counter", "Time that requests waited for the database."),
    "kontract_database_statements_total": ("counter", "Statements sent to the database by requests."),
    "kontract_errors_total": ("counter", "Answers that were errors, by code."),
    "kontract_requests_running": ("gauge", "Requests that are being answered."),
    "kontract_streams_open": ("gauge", "Open change streams, by protocol."),
    "kontract_pool_connections": ("gauge", "Connections to the database, by state; state=max is the limit."),
    "kontract_pool_waiting": ("gauge", "Statements that wait for a connection."),
    "kontract_draining": ("gauge", "1 while the process is stopping."),
}

Labels = tuple[tuple[str, str], ...]


class Histogram:
    """Observations in :data:`BUCKETS`."""

    __slots__ = ("counts", "total")

    def __init__(self) -> None:
        """Start with none."""
        self.counts = [0] * (len(BUCKETS) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        """Count one."""
        self.counts[bisect_left(BUCKETS, value)] += 1
        self.total += value


class Metrics:
    """The counters of one process. ``functions``: the names that may become labels; callers make up others."""

    def __init__(self, worker: str, functions: Collection[str]) -> None:
        """Start at zero."""
        self._worker = worker
        self._functions = frozenset(functions)
        self._requests: dict[tuple[str, int], int] = {}
        self._seconds: dict[str, Histogram] = {}
        self._errors: dict[str, int] = {}
        self._attempts: dict[str, int] = {}
        self._conflicts: dict[str, int] = {}
        self._coordinator_ms = 0.0
        self._coordinator_calls = 0
        self._database_ms = 0.0
        self._statements = 0
        self.gauges: list[Callable[[], Iterable[tuple[str, Labels, float]]]] = []

    def observe(self, fields: Mapping[str, Any]) -> None:
        """Count a request by the fields of its log line."""
        function = fields.get("function", "")
        if function not in self._functions:
            function = ""
        key = (function, fields["status"])
        self._requests[key] = self._requests.get(key, 0) + 1
        seconds = self._seconds.get(function)
        if seconds is None:
            seconds = self._seconds[function] = Histogram()
        seconds.observe(fields["ms"] / 1000)
        attempts = fields.get("attempts", 0)
        error = fields.get("error")
        if error is not None:
            self._errors[error] = self._errors.get(error, 0) + 1
        if attempts:
            lost = attempts if error == "CONFLICT" else attempts - 1
            self._attempts[function] = self._attempts.get(function, 0) + attempts
            self._conflicts[function] = self._conflicts.get(function, 0) + lost
        self._coordinator_ms += fields.get("coord_ms", 0.0)
        self._coordinator_calls += fields.get("coord_calls", 0)
        self._database_ms += fields.get("db_ms", 0.0)
        self._statements += fields.get("db_statements", 0)

    def render(self) -> str:
        """Return all samples as text."""
        samples: dict[str, list[str]] = {name: [] for name in _HELP}

        def add(name: str, labels: Labels, value: float, suffix: str = "") -> None:
            shown = ",".join(f'{label}="{_escaped(text)}"' for label, text in (("worker", self._worker), *labels))
            samples[name].append(f"{name}{suffix}{{{shown}}} {value:.10g}")

        for (function, status), count in self._requests.items():
            add("kontract_requests_total", (("function", function), ("status", str(status))), count)
        for function, histogram in self._seconds.items():
            below = 0
            for bound, count in zip((*map(str, BUCKETS), "+Inf"), histogram.counts, strict=True):
                below += count
                add("kontract_request_seconds", (("function", function), ("le", bound)), below, "_bucket")
            add("kontract_request_seconds", (("function", function),), histogram.total, "_sum")
            add("kontract_request_seconds", (("function", function),), below, "_count")
        for code, count in self._errors.items():
            add("kontract_errors_total", (("code", code),), count)
        for function, count in self._attempts.items():
            add("kontract_attempts_total", (("function", function),), count)
        for function, count in self._conflicts.items():
            add("kontract_conflicts_total", (("function", function),), count)
        add("kontract_coordinator_seconds_total", (), self._coordinator_ms / 1000)
        add("kontract_coordinator_calls_total", (), self._coordinator_calls)
        add("kontract_database_seconds_total", (), self._database_ms / 1000)
        add("kontract_database_statements_total", (), self._statements)
        for gauge in self.gauges:
            for name, labels, value in gauge():
                add(name, labels, value)
        return join([_with_help(samples)])


def _with_help(samples: Mapping[str, list[str]]) -> str:
    lines: list[str] = []
    for name, found in samples.items():
        if found:
            kind, text = _HELP[name]
            lines += [f"# HELP {name} {text}", f"# TYPE {name} {kind}", *found]
    return "\n".join(lines) + "\n"


def join(texts: Iterable[str]) -> str:
    """Return the texts of several processes as one: the samples of a name must stand together, below its type."""
    heads: dict[str, list[str]] = {}
    samples: dict[str, list[str]] = {}
    for text in texts:
        name = ""
        for line in text.splitlines():
            if line.startswith("# "):
                name = line.split(" ", 3)[2]
                if line not in heads.setdefault(name, []):
                    heads[name].append(line)
            elif line:
                samples.setdefault(name, []).append(line)
    return "".join("\n".join((*heads[name], *samples.get(name, ()))) + "\n" for name in heads)


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
