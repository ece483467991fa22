"""`kontract dev` from start to Ctrl-C, in workerd and on PostgreSQL, with a small Worker of its own."""

import json
import os
import signal
import socket
import subprocess
import time
import urllib.request

import pytest

from kontract.cli.toolchain import setup
from kontract.cli.toolchain.processes import free_port, group_members, is_running, table, wait_until
from support.dev import dev
from support.scratch import scratch_checkout

READY = "Kontract is ready on"


@pytest.fixture
def scratch(checkout, tmp_path):
    setup.prepare(checkout)
    return scratch_checkout(checkout, tmp_path / "scratch")


def visit(port):
    with urllib.request.urlopen(f"http://localhost:{port}/visit", timeout=30) as response:
        return json.load(response)


def processes_of(scratch):
    """What runs on behalf of this checkout: its PostgreSQL, its wrangler and workerd, and their helpers."""
    return [one for one in table() if str(scratch.root) in one.command and one.state != "Z" and one.pid != os.getpid()]


@pytest.mark.needs("curl")
def test_it_runs_stops_on_ctrl_c_and_loses_nothing(scratch):
    port = free_port()
    with dev(scratch.root, port=port) as first:
        first.wait_for(READY)
        assert visit(port) == {"object": 1, "postgres": 1}
        assert visit(port) == {"object": 2, "postgres": 2}
        health = next(line for line in first.curl_lines() if "/health" in line)
        answer = subprocess.run(health, shell=True, capture_output=True, text=True, check=True, timeout=30)
        assert json.loads(answer.stdout)["status"] == "ok"

        first.send(signal.SIGINT)
        assert first.wait() == 0
    assert processes_of(scratch) == []
    assert (scratch.root / ".dev.vars").stat().st_mode & 0o777 == 0o600
    assert "Traceback" not in first.output

    started = time.monotonic()
    with dev(scratch.root, port=port) as second:
        second.wait_for(READY)
        assert time.monotonic() - started < 60  # below 15 s on a quiet machine; see the report of `make dev` itself
        assert visit(port) == {"object": 3, "postgres": 3}

        second.process.terminate()  # SIGTERM, to the command alone
        assert second.wait() == 0
    assert processes_of(scratch) == []


def test_a_snapshot_of_python_is_taken_beside_it_and_reloads_begin_from_that(scratch):
    """Nobody waits for it: not the first answer, and not Ctrl-C."""

    def commands(flag):
        return [one for one in processes_of(scratch) if f"--python-{flag}-snapshot" in one.command]

    snapshot = scratch.state / "pyodide" / "snapshot.bin"
    snapshot.unlink()
    port = free_port()
    with dev(scratch.root, port=port, KONTRACT_SNAPSHOT="") as first:
        first.wait_for("A snapshot of the Python runtime is being taken")
        assert visit(port)["postgres"] == 1
        assert wait_until(lambda: commands("save") or snapshot.is_file(), 60)
        first.send(signal.SIGINT)
        assert first.wait() == 0
        assert processes_of(scratch) == []

    snapshot.unlink(missing_ok=True)
    with dev(scratch.root, port=port, KONTRACT_SNAPSHOT="") as second:
        second.wait_for(READY)
        assert commands("load") == []
        assert wait_until(snapshot.is_file, 120)
        entry = scratch.root / "src" / "entry.py"
        entry.write_text(entry.read_text().replace('"postgres": visits', '"visits": visits'))
        assert wait_until(lambda: "visits" in visit(port), 60, 0.1)
        assert commands("load")
    assert processes_of(scratch) == []


def test_a_second_one_in_the_checkout_is_refused_and_the_first_goes_on(scratch):
    port = free_port()
    with dev(scratch.root, port=port) as first:
        first.wait_for(READY)
        with dev(scratch.root, port=free_port()) as second:
            assert second.wait() == 1
            assert "already running in this checkout" in second.output
        assert visit(port)["postgres"] == 1


def test_after_kill_9_the_next_run_takes_over(scratch):
    port = free_port()
    with dev(scratch.root, port=port) as first:
        first.wait_for(READY)
        assert visit(port)["postgres"] == 1
        os.kill(first.process.pid, signal.SIGKILL)
        first.process.wait()

        with dev(scratch.root, port=port) as second:
            second.wait_for(READY)
            assert visit(port) == {"object": 2, "postgres": 2}
    assert wait_until(lambda: processes_of(scratch) == [], 10)


def test_after_kill_9_of_the_helper_too_the_next_run_still_takes_over(scratch):
    port = free_port()
    with dev(scratch.root, port=port) as first:
        first.wait_for(READY)
        assert visit(port)["postgres"] == 1
        reapers = [one.pid for one in table() if "reaper" in one.command and one.parent == first.process.pid]
        for pid in (*reapers, first.process.pid):
            os.kill(pid, signal.SIGKILL)
        first.process.wait()
        wrangler = int((scratch.state / "wrangler.group").read_text())
        assert group_members(wrangler), "the orphans are still there"

        with dev(scratch.root, port=port) as second:
            second.wait_for(READY)
            assert not group_members(wrangler)
            assert visit(port) == {"object": 2, "postgres": 2}
    assert wait_until(lambda: processes_of(scratch) == [], 10)


def test_a_broken_worker_shows_its_error_and_leaves_nothing_running(checkout, tmp_path):
    scratch = scratch_checkout(checkout, tmp_path / "scratch", entry="raise RuntimeError('what is wrong with it')\n")
    with dev(scratch.root, port=free_port()) as running:
        assert running.wait(120) == 1

    assert "The gateway does not start" in running.output
    assert "RuntimeError: what is wrong with it" in running.output
    assert processes_of(scratch) == []


def test_an_edit_that_breaks_the_worker_is_shown_and_the_next_one_mends_it(scratch):
    """wrangler itself ends when a reload fails; `kontract dev` keeps the rest running and brings it back."""
    port = free_port()
    entry = scratch.root / "src" / "entry.py"
    good = entry.read_text()
    with dev(scratch.root, port=port) as running:
        running.wait_for(READY)
        assert visit(port) == {"object": 1, "postgres": 1}

        entry.write_text("raise RuntimeError('what is wrong with it')\n")
        running.wait_for("RuntimeError: what is wrong with it")
        running.wait_for("save a corrected file")
        entry.write_text(good)
        running.wait_for("The gateway answers again.")

        assert visit(port) == {"object": 2, "postgres": 2}
        running.send(signal.SIGINT)
        assert running.wait() == 0
    assert processes_of(scratch) == []


def test_a_broken_build_shows_its_error(scratch):
    (scratch.root / "Makefile").write_text("build:\n\t@echo 'the route table is wrong' >&2; exit 1\n")
    with dev(scratch.root, port=free_port()) as running:
        assert running.wait(120) == 1

    assert "the route table is wrong" in running.output
    assert processes_of(scratch) == []


def test_a_worker_that_answers_with_an_error_is_not_called_ready(scratch):
    entry = (scratch.root / "src" / "entry.py").read_text()
    (scratch.root / "src" / "entry.py").write_text(
        entry.replace('if request.url.endswith("/health"):', 'if request.url.endswith("/health"):\n            1 / 0')
    )
    with dev(scratch.root, port=free_port()) as running:
        assert running.wait(120) == 1

    assert "ZeroDivisionError" in running.output
    assert READY not in running.output


def test_a_database_url_replaces_the_embedded_server(scratch, postgres):
    port = free_port()
    with dev(scratch.root, port=port, DATABASE_URL=postgres.create_database(empty=True)) as running:
        running.wait_for(READY)
        assert visit(port)["postgres"] == 1
        running.send(signal.SIGINT)
        assert running.wait() == 0

    assert f"Using PostgreSQL at 127.0.0.1:{postgres.cluster.port} (DATABASE_URL)" in running.output
    assert not (scratch.state / "postgres").exists()
    assert is_running(postgres.cluster.pid)


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("postgresql:///kontract?host=/tmp", "Unix socket"),
        ("postgresql://u:p@127.0.0.1:9/name", "unreachable"),
    ],
)
def test_a_database_url_that_cannot_work_stops_it_at_once(scratch, url, says):
    with dev(scratch.root, port=free_port(), DATABASE_URL=url) as running:
        assert running.wait() == 1

    assert says in running.output
    assert not (scratch.root / ".dev.vars").exists(), "nothing was written"


def test_a_taken_port_stops_it_at_once(scratch):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with dev(scratch.root, port=taken.getsockname()[1]) as running:
            assert running.wait() == 1

    assert f"taken by process {os.getpid()}" in running.output
    assert not (scratch.state / "postgres").exists()


def test_a_malformed_secret_stops_it_at_once(scratch):
    (scratch.root / ".dev.vars").write_text("KONTRACT_SECRET=too-short\n")
    with dev(scratch.root, port=free_port()) as running:
        assert running.wait() == 1

    assert "64 hexadecimal digits" in running.output
    assert (scratch.root / ".dev.vars").read_text() == "KONTRACT_SECRET=too-short\n"


def test_a_port_that_is_no_number_is_a_sentence(scratch):
    with dev(scratch.root, port="http") as running:
        assert running.wait() == 1

    assert "PORT is 'http', which is not a number." in running.output
