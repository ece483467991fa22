"""Importing an application's modules when the Worker starts, or at the first call of one of their functions.

Each way has a memory snapshot of its own, taken by workerd as `kontract dev` has it taken, but of the whole Worker: so
a deployed Worker starts. Counted are the size of the snapshot, the time from starting workerd to its first answer, and
that of the first request that needs a module, beside a later one. The application is the one of build.py.

Run: .venv/bin/python bench/loading.py [--rounds N] [--functions N]
"""

from __future__ import annotations

import argparse
import http.client
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import build
import records
from records import Record, over_rounds
from stage import conditions, tell

from kontract.cli.toolchain import setup
from kontract.cli.toolchain.checkout import Checkout
from kontract.cli.toolchain.pyodide_bundle import mode, snapshot

MAIN = """
import importlib

from workers import Response, WorkerEntrypoint

{imports}


class Default(WorkerEntrypoint):
    async def fetch(self, request):
        if request.url.endswith("/call"):
            importlib.import_module("app.module0")
        return Response({answer!r})
"""


@dataclass(frozen=True)
class Way:
    """A main module that imports everything of the application, or nothing."""

    name: str
    eager: bool


WAYS = (Way("at the first call", eager=False), Way("at the start", eager=True))


@contextmanager
def running(subject: snapshot.Subject, made: Path, config: Path, how: str) -> Iterator[tuple[int, float]]:
    """Start workerd; its port, and the milliseconds until it listened."""
    reading, writing = os.pipe()
    started = time.perf_counter()
    process = subprocess.Popen(
        snapshot.command(subject, made, config, how, writing),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        pass_fds=(writing,),
    )
    os.close(writing)
    try:
        yield next(snapshot.ports(reading)), (time.perf_counter() - started) * 1000
    finally:
        os.close(reading)
        process.kill()
        process.wait()


def ask(connection: http.client.HTTPConnection, path: str) -> float:
    """Milliseconds of a request."""
    started = time.perf_counter()
    connection.request("GET", path)
    answer = connection.getresponse()
    answer.read()
    if answer.status != 200:
        raise SystemExit(f"{path} answered {answer.status}")
    return (time.perf_counter() - started) * 1000


def measure(rounds: int, functions: int) -> list[Record]:
    """Take a snapshot for each way, start from it in turns, print."""
    checkout = Checkout.find(Path(__file__).parent)
    print(conditions(checkout, None))
    setup.prepare(checkout, tell, run=False)
    subject = mode.subject(checkout, mode.choose(checkout))
    scratch = checkout.state / "tmp"
    scratch.mkdir(exist_ok=True)
    measured: list[Record] = []
    with TemporaryDirectory(prefix="loading-", dir=scratch) as folder:
        modules = build.write(Path(folder) / "src", functions)
        sources = [
            (path.relative_to(Path(folder) / "src").as_posix(), path, "pythonModule")
            for path in [modules[0].with_name("__init__.py"), *modules]
        ]
        ready: dict[Way, tuple[Path, Path]] = {}
        for way in WAYS:
            made = Path(folder) / ("eager" if way.eager else "lazy")
            made.mkdir()
            imports = [*snapshot.imports(checkout), *(f"import app.{path.stem}" for path in modules if way.eager)]
            main = MAIN.format(imports="\n".join(imports), answer=snapshot.READY)
            ready[way] = made, snapshot.write_config(subject, made, [*snapshot.sources(checkout), *sources], main)
            with running(subject, made, ready[way][1], "--python-save-snapshot") as (port, _):
                ask(http.client.HTTPConnection("127.0.0.1", port), "/health")
        starts: dict[Way, list[float]] = {way: [] for way in WAYS}
        firsts: dict[Way, list[float]] = {way: [] for way in WAYS}
        laters: dict[Way, list[float]] = {way: [] for way in WAYS}
        for _ in range(rounds):
            for way, (made, config) in ready.items():
                with running(subject, made, config, f"--python-load-snapshot={snapshot.NAME}") as (port, listening):
                    connection = http.client.HTTPConnection("127.0.0.1", port)
                    starts[way].append(listening + ask(connection, "/health"))
                    ask(connection, "/health")
                    firsts[way].append(ask(connection, "/call"))
                    laters[way] += [ask(connection, "/call") for _ in range(5)]
        of = f"{functions:,} functions in {len(modules)} modules"
        for way, (made, _) in ready.items():
            where = f"{of}, imported {way.name}"
            size = (made / snapshot.NAME).stat().st_size / 2**20
            measured += [
                Record(f"snapshot of a Worker with {where}", size, "MiB"),
                over_rounds(f"start of workerd from it, to the first answer: {where}", starts[way], "ms"),
                over_rounds(f"first request that needs a module: {where}", firsts[way], "ms"),
                over_rounds(f"later ones: {where}", laters[way], "ms"),
            ]
    for one in measured:
        print(f"  {one.value:8.1f} {one.unit:4}  {one.scenario}")
    return measured


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="how often each is started (default: 5)")
    parser.add_argument("--functions", type=int, default=1_000, help="how many (default: 1,000)")
    records.add_option(parser)
    options = parser.parse_args()
    records.write(options.records, measure(options.rounds, options.functions))


if __name__ == "__main__":
    main()
