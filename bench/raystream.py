"""What raystream costs over plain RPC, on CPython and in workerd; one handshake; one password hash.

Both ways are asked in turns with the same function, which does nothing, so that noise of the machine hits both. Work
inside the Worker is measured from outside, as the processor time that many repetitions in one request take: an
isolate's own clock stands still while it computes.

Run: .venv/bin/python bench/raystream.py [--rounds N] [--cpython]
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import http.client
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import records
from records import TIMES, Record, over_rounds
from stage import Server, Stage, conditions, tell

from kontract import Context, backend, perms
from kontract.cli import build
from kontract.cli.toolchain.problem import Problem
from kontract.core.model.perms import ALL
from kontract.core.security import keys
from kontract.core.security.raystream.client import ClientHandshake, SealedSession
from kontract.core.security.raystream.payloads import SealedCall
from kontract.core.security.raystream.suites import Suite
from kontract.gateway import context
from kontract.gateway.app import Gateway
from kontract.gateway.http import Request
from kontract.gateway.routes import Registry, Route
from kontract.gateway.tokens import Kind, Tokens
from kontract.server import env_file
from kontract.server.crypto import NativeCrypto
from kontract.server.database import AsyncpgDatabase
from kontract.server.runtime import SingleProcess
from kontract.server.system import SystemRandomness

CRYPTO = NativeCrypto()
SIZES = (16, 1_024, 65_536)
SCRYPT = (2**15, 8, 3, 32)

# In the Worker's copy of the application only: repeats one piece of work `times` times.
WORK = '''"""Pieces of raystream's work, repeated."""

import os

from kontract import Context, backend, perms
from kontract.cloudflare.crypto import NativeCrypto
from kontract.core.security import keys
from kontract.core.security.raystream.client import Handshake
from kontract.core.security.raystream.payloads import Call, Reply
from kontract.core.security.raystream.server import Randoms, Server
from kontract.core.security.raystream.suites import Suite
from kontract.ports import Cipher


@backend(egroup="bench", perm=perms.R__)
async def echo(ctx: Context, text: str) -> str:
    """Return the argument."""
    return text


@backend(egroup="bench", perm=perms.R__)
async def work(ctx: Context, what: str, times: int) -> int:
    """Do it."""
    crypto = NativeCrypto()
    server = Server(crypto, keys.ring(bytes(32)))
    principal, soon = os.urandom(100), 10**9
    client = Handshake(crypto, server.public_keys[0], os.urandom(32), Suite.CHACHAPOLY)
    hello = client.hello(b"t" * 400)
    randoms = Randoms(os.urandom(32), os.urandom(32))
    session = client.finish(server.begin(hello).grant(principal, 0, soon, randoms))
    request = session.seal(Call("echo", {}, b"x" * 1024, 0)).message
    reply = Reply(200, {"content-type": "application/json"}, b"x" * 1024)
    for _ in range(times):
        if what == "handshake":
            server.begin(hello).grant(principal, 0, soon, randoms)
        elif what == "open and reply":
            server.open(request, 0).reply(reply, os.urandom(32))
        elif what == "open":
            server.open(request, 0)
        elif what == "seal 1 KiB":
            crypto.seal(Cipher.CHACHA20_POLY1305, bytes(32), bytes(12), bytes(1024), bytes(16))
        elif what == "x25519":
            crypto.x25519(randoms.salt, server.public_keys[0])
        elif what == "scrypt":
            await crypto.scrypt(b"password", randoms.salt, 2**15, 8, 3, 32)
    return times
'''


@backend(egroup="bench", perm=perms.R__)
async def echo(ctx: Context, text: str) -> str:
    """Return the argument."""
    del ctx
    return text


def token_of(secret: str) -> str:
    """An access token of a deployment."""
    session = context.Session(os.urandom(16).hex(), "tenant-1", os.urandom(16).hex(), is_anonymous=False, perm=ALL)
    now = time.time_ns() // 1_000_000
    return Tokens(keys.ring(bytes.fromhex(secret))).make(session, Kind.ACCESS, now, 3_600, SystemRandomness())


def per_call(work: Callable[[], Any], seconds: float = 0.5) -> float:
    """Microseconds of one call: the best of five runs, each of which is long enough to be timed."""
    times, best = 1, float("inf")
    while True:
        started = time.process_time()
        for _ in range(times):
            work()
        took = time.process_time() - started
        if took > seconds / 5:
            break
        times *= 2
    for _ in range(5):
        started = time.process_time()
        for _ in range(times):
            work()
        best = min(best, time.process_time() - started)
    return best / times * 1e6


# --- CPython ----------------------------------------------------------------------------------------------------------


class InProcess:
    """The gateway without a socket. The function reads nothing, so the database is asked once, at the start."""

    def __init__(self, database: str) -> None:
        """Serve `echo`."""
        self.secret = os.urandom(32).hex()
        sys.modules["bench_raystream_functions"] = sys.modules[__name__]
        routes = {"echo": Route("echo", "bench_raystream_functions", "echo")}
        self.gateway = Gateway(Registry(routes, {}))
        environment = {"KONTRACT_SECRET": self.secret, "KONTRACT_OWNER": "tenant-1"}
        self.platform = SingleProcess(lambda: AsyncpgDatabase(database), environment)
        self.platform.log = lambda *_, **__: None

    async def post(self, path: str, body: bytes, headers: dict[str, str]) -> tuple[int, bytes]:
        """One request."""

        async def read(at_most: int) -> bytes:
            return body[: at_most + 1]

        response = await self.gateway.handle(Request("POST", path, headers, read), self.platform)
        return response.status, response.body


async def cpython(database: str, rounds: int) -> list[Record]:
    """Print the costs in this process: processor time, which others on the machine do not change much."""
    here = InProcess(database)
    token = token_of(here.secret)
    public = CRYPTO.x25519_public(keys.derive(bytes.fromhex(here.secret)).raystream_static)

    async def new_session(suite: Suite) -> SealedSession:
        handshake = ClientHandshake(CRYPTO, public, os.urandom(32), suite)
        _, welcome = await here.post("/raystream/handshake", handshake.hello(token.encode()), {})
        session = handshake.finish(welcome)
        assert isinstance(session, SealedSession)
        return session

    measured = []
    print(f"CPython {platform.python_version()}: the gateway in one process, without a socket; processor time")
    print(f"{'arguments':>10} {'suite':<11} {'/rpc':>8} {'raystream':>10} {'more':>7} {'client':>7}   (µs a call)")
    for size in SIZES:
        arguments = json.dumps(["x" * size]).encode()
        for suite in Suite:
            session = await new_session(suite)
            plain, sealed, client = [], [], []
            count = 200 if size < 10_000 else 50
            for _ in range(rounds):
                started = time.process_time()
                for _ in range(count):
                    await here.post("/rpc/echo", arguments, {"authorization": f"Bearer {token}"})
                plain.append((time.process_time() - started) / count * 1e6)
                started = time.process_time()
                requests = [session.seal(SealedCall("echo", {}, arguments, 0)) for _ in range(count)]
                sealing = time.process_time() - started
                started = time.process_time()
                answers = [await here.post("/raystream/rpc", one.message, {}) for one in requests]
                sealed.append((time.process_time() - started) / count * 1e6)
                started = time.process_time()
                for one, (status, body) in zip(requests, answers, strict=True):
                    assert status == 200, body
                    assert session.open(one.sequence, body).status == 200
                client.append((sealing + time.process_time() - started) / count * 1e6)
            one, other, third = min(plain), min(sealed), min(client)
            print(f"{size:>10} {suite.name:<11} {one:>8.0f} {other:>10.0f} {other - one:>7.0f} {third:>7.0f}")
            ratios = [two / first for first, two in zip(plain, sealed, strict=True)]
            scenario = f"echo of {size:,} bytes on CPython, {suite.name}: processor time"
            behind = f"{other:.0f} µs beside {one:.0f} µs: {other - one:.0f} µs more a call"
            measured.append(over_rounds(scenario, ratios, TIMES, product="raystream", peer="/rpc", behind=behind))
    started = time.process_time()
    for _ in range(200):
        await new_session(Suite.CHACHAPOLY)
    handshake = (time.process_time() - started) / 200 * 1e6
    print(f"handshake, gateway and client: {handshake:.0f} µs")
    print(f"X25519: {per_call(lambda: CRYPTO.x25519(bytes(range(32)), public)):.0f} µs")
    milliseconds, mib = scrypt_here()
    if mib is None:
        print(f"scrypt {SCRYPT}: cannot be watched here (there is no /proc)")
    else:
        print(f"scrypt {SCRYPT}: {milliseconds:.0f} ms, {mib:.0f} MiB")
        measured.append(_own("one password hash on CPython", milliseconds, "ms", f"{mib:.0f} MiB"))
    measured.append(_own("handshake on CPython, gateway and client", handshake, "µs"))
    return measured


def _own(scenario: str, value: float, unit: str, behind: str = "") -> Record:
    return Record(scenario, value, unit, product="raystream", behind=behind)


def scrypt_here() -> tuple[float, float | None]:
    """One password hash in a fresh process: its milliseconds, and by how many MiB the process is larger meanwhile."""
    code = (
        "import asyncio, threading, time\n"
        "from pathlib import Path\n"
        "from kontract.server.crypto import NativeCrypto\n"
        "pages = lambda: int(Path('/proc/self/statm').read_text().split()[1])\n"
        "seen, done = [], threading.Event()\n"
        "def watch():\n"
        "    while not done.wait(0.005): seen.append(pages())\n"
        "before = pages()\n"
        "threading.Thread(target=watch).start()\n"
        "started = time.process_time()\n"
        f"asyncio.run(NativeCrypto().scrypt(b'password', b's' * 16, *{SCRYPT}))\n"
        "print(time.process_time() - started)\n"
        "done.set()\n"
        "print(max(seen) - before)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    if done.returncode:
        return 0.0, None
    seconds, pages = (float(word) for word in done.stdout.split())
    return seconds * 1000, pages * resource.getpagesize() / 2**20


# --- workerd ----------------------------------------------------------------------------------------------------------


class Wire:
    """One kept connection to the Worker."""

    def __init__(self, port: int) -> None:
        """Connect when first used."""
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)

    def send(self, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None) -> bytes:
        """Return the body of a 200."""
        self._connection.request(method, path, body, headers or {})
        answer = self._connection.getresponse()
        content = answer.read()
        if answer.status != 200:
            raise RuntimeError(f"{path} answered {answer.status}: {content[:300]!r}")
        return content


def copy_of(stage: Stage) -> Path:
    """The Worker with the functions above, and without its log lines."""
    root = stage.product(None, log=False)
    (root / "src" / "app" / "bench_echo.py").write_text(WORK, encoding="utf-8")
    (root / "src" / "routes.py").write_text(build.render(build.scan(root / "src")))
    return root


def workerd(stage: Stage, database: str, rounds: int) -> list[Record]:
    """Print the costs in the real runtime."""
    server = stage.server(copy_of(stage), database)
    server.start()
    server.find_direct()
    assert server.env_file is not None
    token = token_of(env_file.parse(server.env_file.read_text())["KONTRACT_SECRET"])
    authorization = {"Authorization": f"Bearer {token}"}
    wire = Wire(server.ask_port)
    told = json.loads(wire.send("GET", "/.well-known/kontract"))["raystream"]
    public = base64.urlsafe_b64decode(told["public_keys"][0] + "=")

    def new_session(suite: Suite) -> SealedSession:
        handshake = ClientHandshake(CRYPTO, public, os.urandom(32), suite)
        session = handshake.finish(wire.send("POST", told["handshake"], handshake.hello(token.encode())))
        assert isinstance(session, SealedSession)
        return session

    measured: list[Record] = []
    print("\nworkerd, one client on a kept connection, a function that returns its argument")
    print(
        f"{'arguments':>10} {'suite':<11} {'/rpc p50':>9} {'raystream':>10} {'more':>7}   {'cpu':>7} {'cpu':>7} ",
        end="",
    )
    print(f"{'more':>6}   {'sent':>9} {'sent':>9} {'got':>9} {'got':>9}   (µs; bytes of bodies and tokens)")
    for size in SIZES:
        arguments = json.dumps(["x" * size]).encode()
        for suite in Suite:
            measured += compare(wire, server, new_session(suite), suite, arguments, size, authorization, rounds)
    print()
    return [*measured, *inside(wire, server, authorization)]


def compare(
    wire: Wire,
    server: Server,
    session: SealedSession,
    suite: Suite,
    arguments: bytes,
    size: int,
    authorization: dict[str, str],
    rounds: int,
) -> list[Record]:
    """Ask in turns: latency and the processor time of workerd."""
    count = 100 if size < 10_000 else 30
    started = time.monotonic()
    took: dict[bool, list[float]] = {False: [], True: []}
    used = {False: 0.0, True: 0.0}
    sent, got = {False: len(arguments) + len(authorization["Authorization"]), True: 0}, {False: 0, True: 0}
    for number in range(rounds + 1):
        for sealed in (False, True) if number % 2 else (True, False):
            elapsed = int((time.monotonic() - started) * 1000)
            requests = (
                [session.seal(SealedCall("echo", {}, arguments, elapsed)) for _ in range(count)] if sealed else []
            )
            before = server.cpu_seconds()
            for index in range(count):
                began = time.perf_counter()
                if sealed:
                    body = wire.send("POST", "/raystream/rpc", requests[index].message)
                    sent[sealed] = len(requests[index].message)
                else:
                    body = wire.send("POST", "/rpc/echo", arguments, authorization)
                got[sealed] = len(body)
                if number:  # the first round warms up
                    took[sealed].append((time.perf_counter() - began) * 1e6)
            if number:
                used[sealed] += server.cpu_seconds() - before
            if sealed:
                assert session.open(requests[-1].sequence, body).status == 200
    plain, through = (statistics.median(took[sealed]) for sealed in (False, True))
    cpu, cpu_sealed = (used[sealed] / len(took[sealed]) * 1e6 for sealed in (False, True))
    print(f"{size:>10} {suite.name:<11} {plain:>9.0f} {through:>10.0f} {through - plain:>7.0f}   ", end="")
    print(f"{cpu:>7.0f} {cpu_sealed:>7.0f} {cpu_sealed - cpu:>6.0f}   ", end="")
    print(f"{sent[False]:>9} {sent[True]:>9} {got[False]:>9} {got[True]:>9}")
    what = f"echo of {size:,} bytes in workerd, {suite.name}"
    behind = f"{through / 1000:.1f} ms beside {plain / 1000:.1f} ms; "
    behind += f"processor {cpu_sealed / 1000:.1f} ms beside {cpu / 1000:.1f} ms"
    sizes = f"{sent[True]} + {got[True]} beside {sent[False]} + {got[False]}, tokens included"
    more = sent[True] + got[True] - sent[False] - got[False]
    return [
        Record(f"{what}: p50", through / plain, TIMES, product="raystream", peer="/rpc", behind=behind),
        Record(f"{what}: sent and got", more, "bytes more", product="raystream", peer="/rpc", behind=sizes),
    ]


def inside(wire: Wire, server: Server, authorization: dict[str, str]) -> list[Record]:
    """Pieces of the work inside the Worker."""

    def run(what: str, times: int) -> float:
        before = server.cpu_seconds()
        wire.send("POST", "/rpc/work", json.dumps([what, times]).encode(), authorization)
        return server.cpu_seconds() - before

    def one(what: str, times: int) -> float:
        run(what, min(times, 50))
        few, many = (min(run(what, number) for _ in range(5)) for number in (0, times))
        return (many - few) / times

    measured = []
    print("inside the Worker, processor time")
    for what, times in [
        ("seal 1 KiB", 4_000),
        ("x25519", 1_000),
        ("open", 2_000),
        ("open and reply", 2_000),
        ("handshake", 500),
    ]:
        took = one(what, times) * 1e6
        print(f"{what:<16} {took:>8.0f} µs")
        measured.append(_own(f"{what}, inside the Worker", took, "µs"))
    idle = memory(server, "VmRSS")
    reset_peak(server)
    milliseconds = one("scrypt", 3) * 1000
    peak = memory(server, "VmHWM")
    print(f"scrypt {SCRYPT}: {milliseconds:.0f} ms, {(peak - idle) / 1024:.0f} MiB over {idle / 1024:.0f} MiB")
    measured.append(_own("one password hash in the Worker", milliseconds, "ms", f"{(peak - idle) / 1024:.0f} MiB"))
    return measured


def memory(server: Server, name: str) -> float:
    """A line of the process's status in KiB; nan where there is no /proc."""
    try:
        text = Path(f"/proc/{server.direct_pid}/status").read_text()
    except OSError:
        return float("nan")
    return float(next(line.split()[1] for line in text.splitlines() if line.startswith(name)))


def reset_peak(server: Server) -> None:
    """Forget the highest memory use so far."""
    try:
        Path(f"/proc/{server.direct_pid}/clear_refs").write_text("5")
    except OSError:
        tell("the peak of memory use cannot be reset here; what is shown is that of the whole run")


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--cpython", action="store_true", help="leave workerd out")
    records.add_option(parser)
    arguments = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        with Stage.opened() as stage:
            print(conditions(stage.checkout, None))
            database = stage.database()
            measured = asyncio.run(cpython(database, arguments.rounds))
            if not arguments.cpython:
                measured += workerd(stage, database, arguments.rounds)
            records.write(arguments.records, measured)
    except Problem as problem:
        raise SystemExit(f"{problem}\n{problem.detail}") from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None


if __name__ == "__main__":
    main()
