"""`kontract dev` from start to Ctrl-C, in workerd and on PostgreSQL, with a small Worker of its own."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request

import httpx
import pytest

from kontract.cli import dev as module
from kontract.cli.toolchain import setup
from kontract.cli.toolchain.front import Front
from kontract.cli.toolchain.hosts import Hosts
from kontract.cli.toolchain.processes import free_port, group_members, is_running, table, wait_until
from support.dev import dev
from support.scratch import product_checkout, scratch_checkout

READY = "Kontract is ready on"
SERVE = (sys.executable, "-m", "kontract.cli.main", "serve", "--local")


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


@pytest.mark.long
def test_a_snapshot_of_python_is_taken_beside_it_and_reloads_begin_from_that(scratch):
    """Nobody waits for it: not the first answer, and not Ctrl-C."""

    def commands(flag):
        return [one for one in processes_of(scratch) if f"--python-{flag}-snapshot" in one.command]

    snapshot = scratch.state / "pyodide" / "snapshot.bin"
    snapshot.unlink()
    port = free_port()
    with dev(scratch.root, port=port, KONTRACT_SNAPSHOT="") as first:
        first.wait_for("Taking a snapshot of the Python runtime in the background")
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


@pytest.mark.long
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


@pytest.mark.long
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
        running.wait_for("Save a corrected file")
        entry.write_text(good)
        running.wait_for("The gateway answers again.")

        assert visit(port) == {"object": 2, "postgres": 2}
        running.send(signal.SIGINT)
        assert running.wait() == 0
    assert processes_of(scratch) == []


def killed(scratch, *signs):
    """End processes of the runtime as the system does when memory is short."""
    group = group_members(int((scratch.state / "wrangler.group").read_text()))
    found = [one.pid for one in group if any(sign in one.command for sign in signs)]
    assert found
    for pid in found:
        os.kill(pid, signal.SIGKILL)


def ask(port, path="visit"):
    """Status and JSON of an answer; one that is not JSON is an error."""
    try:
        answer = httpx.get(f"http://127.0.0.1:{port}/{path}", timeout=60, trust_env=False)
    except httpx.RemoteProtocolError as error:
        if "incomplete" not in str(error) and "complete message body" not in str(error):
            raise
        return 503, {"error": "UNAVAILABLE"}  # it had begun to answer: nobody can say it in another way then
    return answer.status_code, answer.json()


def until_it_works(port, path="visit"):
    """All answers up to the first good one."""
    answers = [ask(port, path)]
    end = time.monotonic() + 90
    while answers[-1][0] != 200:
        assert time.monotonic() < end, answers[-3:]
        time.sleep(0.05)
        answers.append(ask(port, path))
    return answers


@pytest.mark.long
def test_a_runtime_that_is_killed_is_noticed_and_started_again_and_callers_get_json_meanwhile(scratch):
    """Its proxy comes back by itself and never answers; without wrangler nothing comes back at all."""
    port = free_port()
    with dev(scratch.root, port=port) as running:
        running.wait_for(READY)
        assert ask(port) == (200, {"object": 1, "postgres": 1})
        for visits, signs in enumerate((["workerd serve"], ["wrangler-dist/cli.js"], ["node"]), 2):
            killed(scratch, *signs)
            answers = until_it_works(port)
            assert min(answers[-1][1].values()) >= visits, "nothing was lost; a visit without an answer may count, too"
            assert {(status, body["error"]) for status, body in answers[:-1]} <= {(503, "UNAVAILABLE")}
            running.wait_for_count("The gateway answers again.", visits - 1)
            assert running.output.count("ended unexpectedly: restarting it") == visits - 1, running.output
        running.send(signal.SIGINT)
        assert running.wait() == 0
    assert processes_of(scratch) == []


def test_a_server_that_is_killed_is_noticed_and_started_again_and_callers_get_json_meanwhile(checkout, tmp_path):
    setup.prepare(checkout)
    made = product_checkout(checkout, tmp_path / "product")
    port = free_port()
    with dev(made.root, port=port, command=SERVE) as running:
        running.wait_for(READY)
        for time_ in (1, 2):
            (server,) = [one for one in table() if one.parent == running.process.pid and "--parent" in one.command]
            os.kill(server.pid, signal.SIGKILL)
            answers = until_it_works(port, "health")
            assert {(status, body["error"]) for status, body in answers[:-1]} <= {(503, "UNAVAILABLE")}
            running.wait_for_count("The server answers again.", time_)
        assert running.output.count("The server ended unexpectedly: restarting it") == 2
        running.send(signal.SIGINT)
        assert running.wait() == 0


def test_a_runtime_that_ends_again_and_again_is_left_alone(checkout, monkeypatch, capsys):
    """Five starts in a minute, and then it waits for an edit."""

    class Server:
        port, has_failed, starts = 1, False, 0

        def running(self):
            return False

        def stop(self):
            pass

        def start(self):
            self.starts += 1

    sources = ["as before"]
    monkeypatch.setattr(module, "sources", lambda _checkout: sources[-1])
    server, front = Server(), Front(1, 1, Hosts())
    runtime = module.Runtime(checkout, server, front)
    for _ in range(20):
        runtime.look()
    assert server.starts == 5
    assert front.open is False
    assert capsys.readouterr().out.count("ended again") == 1
    sources.append("edited")
    runtime.look()
    assert server.starts == 6
    front.stop()


@pytest.mark.parametrize("command", [(), SERVE], ids=["dev", "serve"])
def test_it_answers_where_localhost_leads_and_to_names_of_this_machine_alone(checkout, tmp_path, command):
    """A page whose name leads to 127.0.0.1 (DNS rebinding) reads nothing, a static file neither."""
    setup.prepare(checkout)
    made = product_checkout(checkout, tmp_path / "product")
    port = free_port()
    with dev(made.root, port=port, command=command, KONTRACT_HOSTS="tunnel.example") as running:
        running.wait_for(READY)
        for address in ("127.0.0.1", "[::1]", "localhost"):
            url = f"http://{address}:{port}"
            assert httpx.get(f"{url}/health", timeout=30, trust_env=False).json()["status"] == "ok", address
            for name in ("app.localhost", "tunnel.example:443"):
                assert httpx.get(url, headers={"Host": name}, timeout=30, trust_env=False).status_code == 200, name
            for path in ("/", "/health", "/cdn-cgi/explorer/"):
                answer = httpx.get(url + path, headers={"Host": "rebind.example"}, timeout=30, trust_env=False)
                assert (answer.status_code, answer.json()["error"]) == (403, "FORBIDDEN"), path
        running.send(signal.SIGINT)
        assert running.wait() == 0


def test_a_broken_build_shows_its_error(scratch):
    (scratch.root / "Makefile").write_text("build:\n\t@echo 'the route table is wrong' >&2; exit 1\n")
    with dev(scratch.root, port=free_port()) as running:
        assert running.wait(120) == 1

    assert "the route table is wrong" in running.output
    assert processes_of(scratch) == []


@pytest.mark.long
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
        ("postgresql://u@/kontract?host=/tmp", "Unix socket"),
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
