"""Numbers for Prometheus: right, of one process and of several, and on no port that callers reach."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
import threading

import httpx
from prometheus_client.parser import text_string_to_metric_families

from kontract.cli.toolchain.processes import free_port
from kontract.server import metrics as metrics_module
from kontract.server.metrics import BUCKETS, Metrics, join

SAMPLE = re.compile(r'([a-z_]+)\{((?:[a-z_]+="[^"]*",?)*)\} ([0-9.e+-]+|\+Inf)')


def parse(text: str) -> dict[tuple, float]:
    """Samples by name and labels; the text must be what the format says (Prometheus documentation)."""
    found: dict[tuple, float] = {}
    types: dict[str, str] = {}
    family = ""
    for line in text.splitlines():
        if line.startswith("# TYPE "):
            _, _, family, kind = line.split(" ")
            assert family not in types, "a family stands together"
            types[family] = kind
        elif not line.startswith("# HELP "):
            match = SAMPLE.fullmatch(line)
            assert match, line
            assert match[1].startswith(family)
            labels = dict(pair.split("=", 1) for pair in match[2].split(",") if pair)
            key = (match[1], *sorted((name, value.strip('"')) for name, value in labels.items()))
            assert key not in found
            found[key] = float(match[3])
    return found


def fields(**more) -> dict:
    return {"status": 200, "ms": 3.0, "coord_ms": 1.0, "coord_calls": 2, "db_ms": 2.0, "db_statements": 1} | more


def test_requests_attempts_and_conflicts_are_counted():
    """A call that was repeated twice has lost twice; one that gave up has lost each time."""
    metrics = Metrics("1", ["transfer"])
    metrics.observe(fields(function="transfer", attempts=3))
    metrics.observe(fields(function="transfer", attempts=8, status=409, error="CONFLICT"))
    metrics.observe(fields(function="transfer", attempts=1, ms=70.0))
    metrics.observe(fields(function="made/up", status=404, error="NOT_FOUND", attempts=0))
    found = parse(metrics.render())
    of = ("function", "transfer"), ("worker", "1")
    assert found["kontract_requests_total", of[0], ("status", "200"), of[1]] == 2
    assert found["kontract_requests_total", of[0], ("status", "409"), of[1]] == 1
    assert found["kontract_requests_total", ("function", ""), ("status", "404"), of[1]] == 1
    assert found["kontract_attempts_total", *of] == 12
    assert found["kontract_conflicts_total", *of] == 10
    assert found["kontract_errors_total", ("code", "CONFLICT"), of[1]] == 1
    assert found["kontract_request_seconds_count", *of] == 3
    assert found["kontract_request_seconds_bucket", of[0], ("le", "0.005"), of[1]] == 2
    assert found["kontract_request_seconds_bucket", of[0], ("le", "0.05"), of[1]] == 2
    assert found["kontract_request_seconds_bucket", of[0], ("le", "0.1"), of[1]] == 3
    assert found["kontract_request_seconds_bucket", of[0], ("le", "+Inf"), of[1]] == 3
    assert found["kontract_coordinator_seconds_total", of[1]] == 0.004
    assert found["kontract_database_statements_total", of[1]] == 4
    assert "made" not in metrics.render()
    assert list(BUCKETS) == sorted(BUCKETS)


def test_the_numbers_of_several_processes_are_one_text():
    """Each name once, with the samples of all below it."""
    all_of_them = [Metrics(str(number), ["f"]) for number in (1, 2)]
    for number, metrics in enumerate(all_of_them, 1):
        for _ in range(number):
            metrics.observe(fields(function="f"))
    found = parse(join(metrics.render() for metrics in all_of_them))
    for number in (1, 2):
        key = ("kontract_requests_total", ("function", "f"), ("status", "200"), ("worker", str(number)))
        assert found[key] == number


def test_names_and_labels_are_those_that_dashboards_use():
    """Written down once more: a library that is exchanged must not rename what queries ask for."""
    metrics = Metrics("1", ["f"])
    metrics.gauges += [
        lambda: [
            ("kontract_requests_running", (), 1),
            ("kontract_streams_open", (("protocol", "sse"),), 2),
            ("kontract_streams_open", (("protocol", "websocket"),), 0),
        ],
        lambda: [("kontract_pool_connections", (("state", "max"),), 7), ("kontract_pool_waiting", (), 0)],
        lambda: [("kontract_draining", (), 0.0)],
    ]
    metrics.observe(fields(function="f", attempts=1, error='SAYS "NO"\\\n'))
    text = join([metrics.render(), Metrics("2", []).render()])
    families = {family.name: family for family in text_string_to_metric_families(text)}
    assert {
        sample.name: (family.type, set(sample.labels)) for family in families.values() for sample in family.samples
    } == {
        "kontract_requests_total": ("counter", {"worker", "function", "status"}),
        "kontract_request_seconds_bucket": ("histogram", {"worker", "function", "le"}),
        "kontract_request_seconds_sum": ("histogram", {"worker", "function"}),
        "kontract_request_seconds_count": ("histogram", {"worker", "function"}),
        "kontract_attempts_total": ("counter", {"worker", "function"}),
        "kontract_conflicts_total": ("counter", {"worker", "function"}),
        "kontract_coordinator_seconds_total": ("counter", {"worker"}),
        "kontract_coordinator_calls_total": ("counter", {"worker"}),
        "kontract_database_seconds_total": ("counter", {"worker"}),
        "kontract_database_statements_total": ("counter", {"worker"}),
        "kontract_errors_total": ("counter", {"worker", "code"}),
        "kontract_requests_running": ("gauge", {"worker"}),
        "kontract_streams_open": ("gauge", {"worker", "protocol"}),
        "kontract_pool_connections": ("gauge", {"worker", "state"}),
        "kontract_pool_waiting": ("gauge", {"worker"}),
        "kontract_draining": ("gauge", {"worker"}),
    }
    (error,) = families["kontract_errors"].samples
    assert error.labels["code"] == 'SAYS "NO"\\\n'
    assert [sample.value for sample in families["kontract_streams_open"].samples] == [2, 0]


async def test_requests_go_on_while_metrics_are_written(monkeypatch):
    """They are written beside the event loop, which here sets them going; on it this would wait for ever."""
    go_on = threading.Event()

    def slow(registry: object) -> bytes:
        assert go_on.wait(60)
        return b"# written\n"

    monkeypatch.setattr(metrics_module, "generate_latest", slow)
    writing = asyncio.ensure_future(Metrics("1", []).text())
    asyncio.get_running_loop().call_soon(go_on.set)
    assert await writing == "# written\n"


def test_a_server_without_metrics_does_not_import_them():
    """Nor does the Worker: the library takes 50 ms."""
    script = (
        "import sys, kontract.server.serve, kontract.server.workers, kontract.gateway.app\n"
        "assert not [name for name in sys.modules if name.startswith('prometheus_client')]"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


async def test_a_server_tells_its_numbers_on_a_port_of_their_own(serve, client):
    """And there alone; with the pool and the open streams."""
    port = free_port()
    server = serve(KONTRACT_METRICS=str(port), KONTRACT_POOL="7")
    api = client(server)
    for number in range(3):
        assert (await api.post("/rpc/open_account", json=[f"a{number}"])).status_code == 200
    assert (await api.post("/rpc/nope", json=[])).status_code == 404
    assert (await api.get("/metrics")).status_code == 404
    async with api.stream("GET", "/stream?table=tasks") as response, httpx.AsyncClient(trust_env=False) as operator:
        await anext(response.aiter_lines())
        answer = await operator.get(f"http://127.0.0.1:{port}/metrics")
        assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
        found = parse(answer.text)
        mine = ("worker", "1")
        assert found["kontract_requests_total", ("function", "open_account"), ("status", "200"), mine] == 3
        assert found["kontract_streams_open", ("protocol", "sse"), mine] == 1
        assert found["kontract_pool_connections", ("state", "max"), mine] == 7
        assert found["kontract_pool_connections", ("state", "used"), mine] == 0
        assert 1 <= found["kontract_pool_connections", ("state", "idle"), mine] <= 7
        assert found["kontract_draining", mine] == 0
        assert found["kontract_database_statements_total", mine] >= 3
        assert (await operator.get(f"http://127.0.0.1:{port}/health")).status_code == 404
        assert (await operator.post(f"http://127.0.0.1:{port}/metrics")).status_code == 405
    assert '"nope"' not in answer.text


async def test_a_port_that_is_taken_is_said(checkout, postgres, reaper, tmp_path):
    """As for every other mistake of the configuration."""
    from support.serving import new_server

    taken = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
    port = taken.sockets[0].getsockname()[1]
    server = new_server(checkout, postgres.url, tmp_path / "a", reaper, KONTRACT_METRICS=str(port))
    server.spawn()
    try:
        assert await asyncio.to_thread(server.wait) == 2, server.lines
        assert "choose another KONTRACT_METRICS" in server.lines[-1]
    finally:
        taken.close()
