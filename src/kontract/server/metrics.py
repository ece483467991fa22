"""Metrics of one server process for Prometheus, kept and written by ``prometheus_client``.

Each process counts for itself, and every sample has the label ``worker``: :func:`join` puts the texts of several
processes together, and sums are the reader's. This module is imported only where ``KONTRACT_METRICS`` is set.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram, Metric, disable_created_metrics, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

# The times of creation would add a series to each counter, and nothing reads them.
disable_created_metrics()  # type: ignore[no-untyped-call]

BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Upper bounds of the histograms in seconds: from a cached answer to the longest transaction."""

GAUGES = {
    "kontract_requests_running": "Requests in progress.",
    "kontract_streams_open": "Open change streams, by protocol.",
    "kontract_pool_connections": "Connections to the database, by state; state=max is the limit.",
    "kontract_pool_waiting": "Statements waiting for a connection.",
    "kontract_draining": "1 while the process is stopping, else 0.",
}

Labels = tuple[tuple[str, str], ...]
Gauges = Callable[[], Iterable[tuple[str, Labels, float]]]


class Metrics:
    """The metrics of one process. ``functions``: the names that may become labels; callers make up others.

    ``gauges``: asked for their values at each reading.
    """

    def __init__(self, worker: str, functions: Collection[str]) -> None:
        """Start at zero."""
        self.gauges: list[Gauges] = []
        self._functions = frozenset(functions)
        self._registry = CollectorRegistry()

        def counter(name: str, help_: str, *labels: str) -> Counter:
            return Counter(name, help_, ("worker", *labels), registry=self._registry)

        requests = counter("kontract_requests", "Requests answered, by function and status.", "function", "status")
        seconds = Histogram(
            "kontract_request_seconds",
            "Time from the request's head to its answer.",
            ("worker", "function"),
            registry=self._registry,
            buckets=BUCKETS,
        )
        errors = counter("kontract_errors", "Answers that were errors, by code.", "code")
        attempts = counter("kontract_attempts", "Attempts of calls; a conflict leads to another attempt.", "function")
        conflicts = counter("kontract_conflicts", "Attempts that lost to another transaction.", "function")
        # `labels()` costs more than the counting itself: its answers are remembered.
        self._requests = _Remembered(lambda key: requests.labels(worker, key[0], str(key[1])))
        self._seconds = _Remembered(lambda function: seconds.labels(worker, function))
        self._errors = _Remembered(lambda code: errors.labels(worker, code))
        self._attempts = _Remembered(lambda function: attempts.labels(worker, function))
        self._conflicts = _Remembered(lambda function: conflicts.labels(worker, function))
        self._coordinator_seconds = counter(
            "kontract_coordinator_seconds", "Time that requests waited for the coordinator."
        ).labels(worker)
        self._coordinator_calls = counter("kontract_coordinator_calls", "Messages to the coordinator.").labels(worker)
        self._database_seconds = counter(
            "kontract_database_seconds", "Time that requests waited for the database."
        ).labels(worker)
        self._statements = counter(
            "kontract_database_statements", "Statements sent to the database by requests."
        ).labels(worker)
        self._asked = _Asked(worker, self.gauges)
        self._registry.register(self._asked)

    def observe(self, fields: Mapping[str, Any]) -> None:
        """Count a request by the fields of its log line."""
        function = fields.get("function", "")
        if function not in self._functions:
            function = ""
        self._requests[function, fields["status"]].inc()
        self._seconds[function].observe(fields["ms"] / 1000)
        attempts = fields.get("attempts", 0)
        error = fields.get("error")
        if error is not None:
            self._errors[error].inc()
        if attempts:
            lost = attempts if error == "CONFLICT" else attempts - 1
            self._attempts[function].inc(attempts)
            self._conflicts[function].inc(lost)
        self._coordinator_seconds.inc(fields.get("coord_ms", 0.0) / 1000)
        self._coordinator_calls.inc(fields.get("coord_calls", 0))
        self._database_seconds.inc(fields.get("db_ms", 0.0) / 1000)
        self._statements.inc(fields.get("db_statements", 0))

    def render(self) -> str:
        """Return all samples as text (format 0.0.4)."""
        self._asked.ask()
        return generate_latest(self._registry).decode()

    async def text(self) -> str:
        """Return what :meth:`render` returns, written beside the event loop: it takes 0.2 ms for each function."""
        self._asked.ask()
        return (await asyncio.to_thread(generate_latest, self._registry)).decode()


def join(texts: Iterable[str]) -> str:
    """Return the texts of several processes as one: the samples of a name must stand together, below its type.

    ``prometheus_client`` would do it by parsing each sample, some fifty times slower (decision 0029).
    """
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


class _Remembered(dict[Any, Any]):
    """Children of a metric by their labels, each made at its first use."""

    def __init__(self, make: Callable[[Any], Any]) -> None:
        self._make = make

    def __missing__(self, key: Any) -> Any:
        child = self[key] = self._make(key)
        return child


class _Asked(Collector):
    """Gauges whose values are asked for at each reading, by the thread that changes them."""

    def __init__(self, worker: str, gauges: list[Gauges]) -> None:
        self._worker = worker
        self._gauges = gauges
        self._families: list[Metric] = []

    def ask(self) -> None:
        families: dict[str, GaugeMetricFamily] = {}
        for gauge in self._gauges:
            for name, labels, value in gauge():
                names = ["worker", *(label for label, _ in labels)]
                if name not in families:
                    families[name] = GaugeMetricFamily(name, GAUGES[name], labels=names)
                families[name].add_metric([self._worker, *(text for _, text in labels)], value)
        self._families = list(families.values())

    def collect(self) -> Iterable[Metric]:
        return self._families
