"""Servers as processes of their own, on one PostgreSQL: `kontract serve`, and the peers of bench/peers/."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path

import stage as on_stage
from stage import ECHO, PEERS, Stage

from kontract.cli import build
from kontract.cli.toolchain import dev_vars, node
from kontract.cli.toolchain.postgres import Cluster, create_database
from kontract.cli.toolchain.problem import Problem
from kontract.cli.toolchain.processes import free_port, group_members, stop_group, table
from kontract.core.security import keys
from kontract.gateway.context import Session
from kontract.gateway.tokens import Kind, Tokens
from kontract.server.system import SystemRandomness

START_SECONDS = 60
TICKS = os.sysconf("SC_CLK_TCK")
SECRET = dev_vars.new_secret()

_INHERITED = ("KONTRACT_", "DATABASE_URL", "PORT", "TIKV_PD_ENDPOINT", "PYTHONPATH")


class Server:
    """A server on a free port. It writes its log to a file."""

    def __init__(self, stage: Stage, name: str, command: list[str], folder: Path, variables: Mapping[str, str]) -> None:
        """Start it and wait until it answers."""
        self.name = name
        self.port = free_port()
        self.log = stage.folder / f"{name.replace(' ', '-')}-{self.port}.log"
        environment = {key: value for key, value in os.environ.items() if not key.startswith(_INHERITED)}
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                [part.replace("{port}", str(self.port)) for part in command],
                cwd=folder,
                env=environment | {"PORT": str(self.port)} | variables,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        stage.stops(self._process.pid, self.stop)
        started = time.monotonic()
        end = time.monotonic() + START_SECONDS
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > end:
                raise Problem(f"{name} does not start.", "Read its log.", self.log.read_text(errors="replace")[-4000:])
            time.sleep(0.02)
        self.start_seconds = time.monotonic() - started

    def stop(self) -> None:
        """Stop it as an operator does."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(30)
            except subprocess.TimeoutExpired:
                stop_group(self._process.pid, grace=1.0)
                self._process.wait()

    def cpu_seconds(self) -> float:
        """Processor time of its processes, the ended ones included."""
        return sum(_cpu_seconds(one.pid) for one in group_members(self._process.pid))

    def resident_mib(self) -> float:
        """Resident memory of its processes in MiB."""
        lines = [
            line
            for one in group_members(self._process.pid)
            for line in Path(f"/proc/{one.pid}/status").read_text().splitlines()
            if line.startswith("VmRSS:")
        ]
        return sum(int(line.split()[1]) for line in lines) / 1024

    def _answers(self) -> bool:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(f"http://127.0.0.1:{self.port}/health", timeout=10) as answer:
                return answer.status == 200
        except OSError:
            return False


def _cpu_seconds(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return sum(int(field) for field in fields[11:15]) / TICKS


def database_cpu_seconds(cluster: Cluster) -> float:
    """Processor time of PostgreSQL and of its backends."""
    backends = [one.pid for one in table() if one.parent == cluster.pid]
    return _cpu_seconds(cluster.pid) + sum(_cpu_seconds(pid) for pid in backends)


def token(owner: str = "tenant-1") -> str:
    """An access token for `kontract serve`."""
    session = Session(SystemRandomness().token(8).hex(), owner, "bench", is_anonymous=False)
    tokens = Tokens(keys.ring(bytes.fromhex(SECRET)))
    return tokens.make(session, Kind.ACCESS, time.time_ns() // 1_000_000, 3 * 3600, SystemRandomness())


def new_database(stage: Stage, cluster: Cluster, name: str, *, product: bool) -> str:
    """A database: with the product's tables, those of several nodes included, or with the peers' plain ones."""
    asyncio.run(create_database(cluster.url("postgres"), name))
    url = cluster.url(name)
    sql = stage.checkout.root / "sql"
    scripts = [sql / "init.sql", sql / "coordination.sql"] if product else [PEERS / "tables.sql"]
    asyncio.run(on_stage.execute(url, *scripts))
    return url


def application(stage: Stage) -> Path:
    """The demo application with `echo`, once for all servers."""
    root = stage.folder / "application"
    if not root.exists():
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(stage.checkout.root / "src" / "app", root / "src" / "app", ignore=ignored)
        (root / "src" / "app" / "bench_echo.py").write_text(ECHO)
        (root / "src" / "routes.py").write_text(build.render(build.scan(root / "src")))
        (root / "public").symlink_to(stage.checkout.root / "public")
    return root


def large_application(stage: Stage, functions: int) -> Path:
    """The demo and so many functions besides, twenty in a module, compiled."""
    root = stage.folder / f"application-{functions}"
    source = root / "src"
    shutil.copytree(stage.checkout.root / "src" / "app", source / "app", ignore=shutil.ignore_patterns("__pycache__"))
    for module in range(functions // 20):
        text = "from kontract import Context, backend, perms\n"
        for number in range(20):
            text += f"\n\n@backend(perm=perms.R__)\nasync def f{module}_{number}(ctx: Context, a: int) -> int:\n"
            text += "    return a\n"
        (source / "app" / f"many_{module}.py").write_text(text)
    (source / "routes.py").write_text(build.render(build.scan(source)))
    (root / "public").symlink_to(stage.checkout.root / "public")
    return root


def kontract(
    stage: Stage, name: str, url: str, coordination: str, *, quiet: bool = False, root: Path | None = None
) -> Server:
    """`kontract serve`, one process; ``root``: of another application than the demo with `echo`."""
    root = root or application(stage)
    variables = {
        "DATABASE_URL": url,
        "KONTRACT_SECRET": SECRET,
        "KONTRACT_OWNER": "tenant-1",
        "KONTRACT_COORDINATION": coordination,
        "KONTRACT_LOG_LEVEL": "warning" if quiet else "info",
        "PYTHONPATH": str(root / "src"),
    }
    return Server(stage, name, [sys.executable, "-m", "kontract.cli.main", "serve"], root, variables)


def fastapi(stage: Stage, name: str, url: str, *, quiet: bool = False, isolation: str = "") -> Server:
    """FastAPI on uvicorn with uvloop and httptools, one process. ``isolation``: "serializable", or locks."""
    root = stage.fastapi_server()
    command = [
        *(sys.executable, "-m", "uvicorn", "main:app", "--host", "127.0.0.1", "--port", "{port}"),
        *("--loop", "uvloop", "--http", "httptools", "--no-access-log" if quiet else "--access-log"),
    ]
    variables = {"DATABASE_URL": url, "PYTHONPATH": str(root / "packages"), "ISOLATION": isolation}
    return Server(stage, name, command, root, variables)


def node_http(stage: Stage, name: str, url: str, *, quiet: bool = False) -> Server:
    """Node's own http server with `pg`, one process."""
    variables = {"DATABASE_URL": url, "LOG": "0" if quiet else "1", "NODE_ENV": "production"}
    command = [str(node.bin_folder() / "node"), "server.js"]
    return Server(stage, name, command, stage.node_peer(), variables)
