"""What the benchmarks stand on: temporary copies of Workers, and `wrangler dev` for each on a free loopback port."""

from __future__ import annotations

import asyncio
import http.client
import io
import os
import platform
import re
import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

import asyncpg

from kontract.cli import build
from kontract.cli.toolchain import dev_vars, node, setup, vendor
from kontract.cli.toolchain.checkout import Checkout, digest
from kontract.cli.toolchain.postgres import THROW_AWAY, Cluster
from kontract.cli.toolchain.processes import free_port, group_members, run_tool
from kontract.cli.toolchain.pyodide_bundle.mode import Runtime
from kontract.cli.toolchain.reaper import Reaper
from kontract.cli.toolchain.wrangler import DevServer
from kontract.core.security import keys
from kontract.gateway.context import Session
from kontract.gateway.tokens import Kind, Tokens
from kontract.server import env_file
from kontract.server.system import SystemRandomness

PEERS = Path(__file__).parent / "peers"

ECHO = '''"""The trivial function; it exists in the benchmark's copy of the application only."""

from kontract import Context, backend, perms


@backend(egroup="bench", perm=perms.R__)
async def echo(ctx: Context, text: str) -> str:
    """Return the argument."""
    return text
'''

NO_LOG = """
from kontract.cloudflare import runtime

runtime.log_line = lambda *_, **__: None
"""

_BUILD = re.compile(r"^\[build\]\n.*?(?=^\[|\Z)", re.DOTALL | re.MULTILINE)
_COMPATIBILITY_FLAGS = "--compatibility-flags"


@dataclass
class Server(DevServer):
    """A `wrangler dev` of another folder than the checkout, with the checkout's tools."""

    tools: Checkout | None = None
    python: bool = True
    direct_port: int = 0
    direct_pid: int = 0

    def command(self) -> list[str]:
        """The checkout's wrangler in place of this folder's. It does not print a line a request."""
        assert self.tools is not None
        parts = [*node.wrangler_command(self.tools, self.node_bin), *super().command()[2:], "--log-level", "warn"]
        if not self.python and _COMPATIBILITY_FLAGS in parts:  # the flags of the assembled Python runtime
            at = parts.index(_COMPATIBILITY_FLAGS)
            del parts[at : at + len(self.runtime.arguments)]
        return parts

    def find_direct(self) -> None:
        """Find the workerd that runs the Worker and its own port, behind the proxy that wrangler puts in front.

        wrangler's proxy is a second workerd; it takes longer for a request than a small Worker does, and would make all
        peers look alike. Where the port cannot be found (there is no /proc), requests go through it.
        """
        for member in group_members(self.group):
            ports = listening_ports(member.pid) if "/workerd" in member.command else []
            if self.port in ports:
                continue
            for port in ports:
                if _is_healthy(port):
                    self.direct_port, self.direct_pid = port, member.pid
                    return

    def token(self, user: str = "bench") -> str:
        """An access token of tenant-1; other peers than the product's do not look at it."""
        assert self.env_file is not None
        secret = env_file.parse(self.env_file.read_text())["KONTRACT_SECRET"]
        session = Session(SystemRandomness().token(8).hex(), "tenant-1", user, is_anonymous=False)
        tokens = Tokens(keys.ring(bytes.fromhex(secret)))
        return tokens.make(session, Kind.ACCESS, time.time_ns() // 1_000_000, 3 * 3600, SystemRandomness())

    @property
    def ask_port(self) -> int:
        """Where the load goes."""
        return self.direct_port or self.port

    def cpu_seconds(self) -> float:
        """Processor time that the Worker's workerd has used; nan where that cannot be known."""
        try:
            fields = Path(f"/proc/{self.direct_pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return float("nan")
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def listening_ports(pid: int) -> list[int]:
    """The TCP ports that a process listens on; none where there is no /proc."""
    sockets = {}
    try:
        for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A":  # TCP_LISTEN in include/net/tcp_states.h
                sockets[f"socket:[{fields[9]}]"] = int(fields[1].rpartition(":")[2], 16)
        links = [str(entry.readlink()) for entry in Path(f"/proc/{pid}/fd").iterdir()]
    except OSError:
        return []
    return sorted({sockets[link] for link in links if link in sockets})


def _is_healthy(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", "/health")
        answer = connection.getresponse()
        return answer.status == 200 and b'"ok"' in answer.read()
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


class Stage:
    """One temporary folder, one PostgreSQL, and the servers that were started; all of it ends with `opened`."""

    def __init__(self, checkout: Checkout, folder: Path, reaper: Reaper, stack: ExitStack) -> None:
        """Use `opened`."""
        self.checkout = checkout
        self.folder = folder
        self._reaper = reaper
        self._stack = stack
        self._runtime: Runtime | None = None

    @classmethod
    @contextmanager
    def opened(cls) -> Iterator[Stage]:
        """A stage; whatever happens, its processes are stopped by their ids and its folder is removed."""
        with ExitStack() as stack:
            folder = Path(stack.enter_context(TemporaryDirectory(prefix="kontract-bench-")))
            folder.chmod(0o755)  # as root, PostgreSQL runs as another user, who must be able to get in
            reaper = Reaper()
            reaper.watch_folder(folder)
            stack.callback(reaper.close)
            yield cls(Checkout.find(Path(__file__).parent), folder, reaper, stack)

    def cluster(self, settings: Mapping[str, str]) -> Cluster:
        """Start PostgreSQL."""
        cluster = Cluster(self.folder / "postgres", settings=dict(settings))
        self._stack.callback(cluster.stop)
        cluster.start()
        self._reaper.watch_postgres(cluster.pid)
        return cluster

    def database(self) -> str:
        """Start PostgreSQL and return the URL of a database with the schema."""
        url = self.cluster(THROW_AWAY).url("postgres")
        asyncio.run(execute(url, self.checkout.root / "sql" / "init.sql"))
        return url

    def stops(self, group: int, stop: Callable[[], object]) -> None:
        """Call ``stop`` at the end; ``group`` is stopped too when this process is killed before."""
        self._stack.callback(stop)
        self._reaper.watch_group(group)

    @property
    def runtime(self) -> Runtime:
        """What wrangler needs to find its Python runtime; the first use sets the checkout up."""
        if self._runtime is None:
            runtime = setup.prepare(self.checkout, tell, run=False)
            # What is measured may be another revision, or the imports themselves; the snapshot is of this checkout.
            self._runtime = replace(runtime, environment=runtime.environment | {"KONTRACT_SNAPSHOT": "off"})
        return self._runtime

    def server(self, root: Path, database_url: str, *, python: bool = True) -> Server:
        """A server of the Worker in `root`, not started."""
        state = self.folder / "state" / root.name
        state.mkdir(parents=True)
        secrets = state / "dev.vars"
        dev_vars.write(secrets)
        server = Server(
            Checkout(root),
            self.runtime,
            free_port(),
            database_url,
            persist_to=state / "durable-objects",
            state=state,
            env_file=secrets,
            on_spawn=self._reaper.watch_group,
            tools=self.checkout,
            python=python,
        )
        self._stack.callback(server.stop)
        return server

    # --- copies -------------------------------------------------------------------------------------------------------

    def product(self, revision: str | None, *, log: bool = True) -> Path:
        """This repository's Worker with `echo` added: of a revision, or as it lies in the checkout."""
        _ = self.runtime  # vendors python_modules
        root = self.folder / ("kontract" if log else "kontract-no-log")
        root.mkdir()
        if revision is None:
            shutil.copytree(self.checkout.root / "src", root / "src", ignore=shutil.ignore_patterns("__pycache__"))
            shutil.copyfile(self.checkout.wrangler_toml, root / "wrangler.toml")
        else:
            done = subprocess.run(
                ["git", "archive", revision, "src", "wrangler.toml"],
                cwd=self.checkout.root,
                capture_output=True,
                check=True,
            )
            with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
                archive.extractall(root, filter="data")
        (root / "src" / "app" / "bench_echo.py").write_text(ECHO)
        if not log:
            with (root / "src" / "entry.py").open("a") as entry:
                entry.write(NO_LOG)
        (root / "src" / "routes.py").write_text(build.render(build.scan(root / "src")))
        config = root / "wrangler.toml"
        config.write_text(_BUILD.sub("", config.read_text()))  # the route table is there, and there is no Makefile
        shutil.copytree(self.checkout.python_modules, root / "python_modules")
        if (self.checkout.root / "public").is_dir():
            shutil.copytree(self.checkout.root / "public", root / "public")
        return root

    def js_peer(self) -> Path:
        """The JavaScript Worker with its npm packages."""
        return self._npm_peer("js-worker", "bench-js")

    def node_peer(self) -> Path:
        """The Node server with its npm packages."""
        return self._npm_peer("node-server", "bench-node")

    def _npm_peer(self, name: str, kept_as: str) -> Path:
        """A peer with its npm packages, which are kept in the checkout's local state."""
        root = self._copy(name)
        kept = self.checkout.state / kept_as
        names = ("package.json", "package-lock.json")
        stamp = digest(*(root / name for name in names))
        with self.checkout.setting_up(tell):
            if not (self.checkout.is_fresh(kept_as, stamp) and kept.is_dir()):
                folder = node.bin_folder()
                with self.checkout.replacing(kept, kept_as, stamp) as work:
                    for part in names:
                        shutil.copyfile(root / part, work / part)
                    run_tool(
                        [*node.npm_command(folder), "ci", "--no-audit", "--no-fund", "--no-update-notifier"],
                        cwd=work,
                        env=node.environment(folder),
                        failed=f"npm could not install the packages of bench/peers/{name}.",
                        fix=f"Bring bench/peers/{name}/package-lock.json up to date with `npm install`.",
                    )
        shutil.copytree(kept / "node_modules", root / "node_modules")
        return root

    def fastapi_server(self) -> Path:
        """The FastAPI server beside its packages for this Python, which are kept in the checkout's local state."""
        root = self.folder / "fastapi-server"
        if root.exists():  # there are two servers
            return root
        self._copy("fastapi-server")
        kept = self.checkout.state / "bench-fastapi-server"
        requirements = root / "requirements.txt"
        stamp = digest(requirements, sys.version)
        with self.checkout.setting_up(tell):
            if not (self.checkout.is_fresh("bench-fastapi-server", stamp) and kept.is_dir()):
                with self.checkout.replacing(kept, "bench-fastapi-server", stamp) as work:
                    run_tool(
                        [
                            *(Path(sys.executable).parent / "uv", "pip", "install", "--quiet", "--require-hashes"),
                            *("--python", sys.executable, "--target", work, "--requirement", requirements),
                        ],
                        cwd=work,
                        failed="uv could not install the packages of bench/peers/fastapi-server.",
                        fix="Make bench/peers/fastapi-server/requirements.txt again, as its .in file says.",
                    )
        (root / "packages").symlink_to(kept)
        return root

    def fastapi_peer(self) -> Path:
        """The FastAPI Worker with its wheels, which are kept in the checkout's local state."""
        root = self._copy("fastapi-worker")
        kept = self.checkout.state / "bench-fastapi"
        requirements = root / "requirements.txt"
        stamp = digest(requirements)
        with self.checkout.setting_up(tell):
            if not (self.checkout.is_fresh("bench-fastapi", stamp) and kept.is_dir()):
                with self.checkout.replacing(kept, "bench-fastapi", stamp) as work:
                    install_wheels(requirements, work)
        shutil.copytree(kept, root / "python_modules")
        return root

    def _copy(self, name: str) -> Path:
        root = self.folder / name
        shutil.copytree(PEERS / name, root, ignore=shutil.ignore_patterns("node_modules", "__pycache__"))
        return root


def install_wheels(requirements: Path, target: Path) -> None:
    """Install wheels for the Worker's platform with pip, hashes checked."""
    run_tool(
        [
            *(sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input"),
            *("--target", target, "--no-deps", "--no-compile", "--only-binary", ":all:", "--require-hashes"),
            *("--platform", vendor.PLATFORM, "--python-version", vendor.PYTHON, "--implementation", "cp"),
            *("--abi", "cp314", "--abi", "abi3", "--abi", "none", "--requirement", requirements),
        ],
        cwd=target,
        failed="pip could not install the packages of the FastAPI peer.",
        fix="Make bench/peers/fastapi-worker/requirements.txt again, as its .in file says.",
    )


def tell(text: str) -> None:
    """Progress goes to stderr; stdout is the report."""
    print(text, file=sys.stderr, flush=True)


async def execute(url: str, *scripts: Path) -> None:
    """Run files of SQL."""
    connection = await asyncpg.connect(url)
    try:
        for script in scripts:
            await connection.execute(script.read_text(encoding="utf-8"))
    finally:
        await connection.close()


def conditions(checkout: Checkout, revision: str | None, versions: str = "") -> str:
    """When, where and of what: the line above every table. ``versions``: of what was measured, if not Workers."""
    done = subprocess.run(
        ["git", "rev-parse", "--short", revision or "HEAD"],
        cwd=checkout.root,
        capture_output=True,
        text=True,
        check=False,
    )
    commit = (done.stdout.strip() or "no commit") + ("" if revision else " with the working tree's changes")
    packages = checkout.node_modules
    versions = versions or ", ".join(
        f"{name} {version_of(packages / name / 'package.json')}" for name in ("wrangler", "workerd")
    )
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    return (
        f"{now}; source: {commit}\n"
        f"{platform.system()} {platform.machine()}, {os.cpu_count()} processors ({processor()}), load {load}; "
        f"{versions}"
    )


def version_of(path: Path) -> str:
    found = re.search(r'"version":\s*"([^"]+)"', path.read_text()) if path.is_file() else None
    return found[1] if found else "?"


def processor() -> str:
    path = Path("/proc/cpuinfo")
    found = re.search(r"^model name\s*:\s*(.+)$", path.read_text(), re.MULTILINE) if path.is_file() else None
    return found[1] if found else platform.processor() or "unknown"
