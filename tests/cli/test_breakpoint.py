"""`make serve` has the terminal: a function stops at a breakpoint() in it, as write-a-function.md says."""

import json
import os
import pty
import re
import select
import shutil
import signal
import subprocess
import sys
import threading
import time

import httpx
import pytest

from kontract.cli.toolchain.processes import free_port

STOP = '''
from kontract import Context, backend


@backend(public=True)
async def stop(ctx: Context, number: int) -> int:
    """Stop, and go on."""
    double = number * 2
    breakpoint()
    return double
'''


class Terminal:
    """What a person has in front of them."""

    def __init__(self, command, folder, env):
        self._end, other = pty.openpty()
        self.process = subprocess.Popen(
            command, cwd=folder, env=env, stdin=other, stdout=other, stderr=other, start_new_session=True
        )
        os.close(other)
        self.shown = ""

    def wait_for(self, pattern, seconds=120):
        """Read until it is on the screen, and forget what stood before it."""
        end = time.monotonic() + seconds
        while not (found := re.search(pattern, self.shown)):
            assert time.monotonic() < end, self.shown
            assert self.process.poll() is None, self.shown
            if select.select([self._end], [], [], 0.2)[0]:
                self.shown += os.read(self._end, 4096).decode(errors="replace")
        self.shown = self.shown[found.end() :]
        return found[0]

    def type(self, line):
        os.write(self._end, line.encode() + b"\n")

    def close(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        deadline = time.monotonic() + 60
        while self.process.poll() is None and time.monotonic() < deadline:
            if select.select([self._end], [], [], 0.1)[0]:
                try:
                    os.read(self._end, 4096)  # a full terminal would hold it up
                except OSError:
                    break
        self.process.wait(10)
        os.close(self._end)


@pytest.fixture
def terminal(checkout, tmp_path):
    """`kontract serve --local` in a project of its own."""
    for name in ("pyproject.toml", "wrangler.toml", "uv.lock"):
        shutil.copy2(checkout.root / name, tmp_path / name)
    for name in ("src", "sql", "public"):
        shutil.copytree(checkout.root / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / ".venv").symlink_to(checkout.root / ".venv")
    (tmp_path / "src" / "app" / "stop.py").write_text(STOP)
    inherited = {key: value for key, value in os.environ.items() if key not in ("DATABASE_URL", "MAKELEVEL")}
    port = free_port()
    env = {**inherited, "PORT": str(port), "PYTHONPATH": str(tmp_path / "src"), "TERM": "dumb", "NO_COLOR": "1"}
    running = Terminal([sys.executable, "-m", "kontract.cli.main", "serve", "--local"], tmp_path, env)
    running.url = f"http://localhost:{port}"
    try:
        yield running
    finally:
        running.close()


def test_a_function_stops_at_a_breakpoint(terminal):
    """Its variables can be looked at, and the call goes on with `c`."""
    terminal.wait_for(r"ready on|http://localhost")
    answers = []

    def call():
        answers.append(httpx.post(f"{terminal.url}/rpc/stop", content="[21]", timeout=60, trust_env=False))

    calling = threading.Thread(target=call)
    calling.start()
    terminal.wait_for(r"\(Pdb\) ")
    terminal.type("p double")
    assert "42" in terminal.wait_for(r"42[\s\S]*\(Pdb\) ")
    assert answers == []
    terminal.type("c")
    calling.join(60)
    assert (answers[0].status_code, json.loads(answers[0].text)) == (200, {"result": 42})
