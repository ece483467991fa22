"""What the Worker's imports cost: time inside workerd without a snapshot, and bytes uploaded.

Every module is imported by a request of its own, in the order in which the Worker needs them, so each figure is what
the module adds to those above it. On Cloudflare the clock of an isolate stands still between two pieces of I/O; each
import therefore has a timer before and after it, the same request is timed from outside, and a loop without any I/O
shows whether the clock of the workerd at hand moves. A fresh workerd serves every round.

Run: .venv/bin/python bench/imports.py [--commit REVISION] [--rounds N]
"""

from __future__ import annotations

import argparse
import asyncio
import gzip
import shutil
import statistics
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import load
import records
from records import PRODUCT, Record, over_rounds
from stage import Server, Stage, conditions, tell

from kontract.cli.toolchain import node
from kontract.cli.toolchain.problem import Problem
from kontract.cli.toolchain.processes import run_tool
from kontract.cli.toolchain.wrangler import environment

# In the order of the Worker's own start. What is already there by then (workers, json, asyncio) costs it nothing.
MODULES = (
    "msgspec",
    "kontract",
    "kontract.gateway.app",
    "kontract.cloudflare.http",
    "kontract.cloudflare.durable_object",
    "session_do",
    "routes",
    "entry",
)
ON_FIRST_USE = ("app.tasks", "app.accounts")
SELDOM = ("sqlglot",)
LARGEST = 5  # parts of the upload that have a record of their own

ENTRY = '''"""Imports one module a request and says how long it took, and in which packages."""

import asyncio
import importlib
import sys
import time

from workers import Response, WorkerEntrypoint

find_and_load = importlib._bootstrap._find_and_load
nested = []
own = {}


def timed(name, import_):
    started = time.perf_counter()
    nested.append(0.0)
    try:
        return find_and_load(name, import_)
    finally:
        took = time.perf_counter() - started
        inner = nested.pop()
        if nested:
            nested[-1] += took
        package = name.partition(".")[0]
        package = "standard library" if package in sys.stdlib_module_names else package
        own[package] = own.get(package, 0.0) + (took - inner) * 1000


importlib._bootstrap._find_and_load = timed


class Default(WorkerEntrypoint):
    async def fetch(self, request):
        kind, _, name = request.url.partition("://")[2].partition("/")[2].partition("/")
        if kind == "health":
            return Response.json({"status": "ok"})
        await asyncio.sleep(0.001)
        own.clear()
        before, started = set(sys.modules), time.perf_counter()
        if kind == "import":
            importlib.import_module(name)
        elif kind == "spin":
            sum(range(int(name)))
        still = time.perf_counter() - started
        await asyncio.sleep(0.001)
        took = time.perf_counter() - started
        added = len(set(sys.modules) - before)
        return Response.json({"ms": took * 1000, "without_io_ms": still * 1000, "modules": added, "own": own})
'''

CONFIG = """name = "bench-imports"
main = "src/probe.py"
compatibility_date = "2026-09-08"
compatibility_flags = ["python_workers", "nodejs_compat"]
rules = [{ type = "ESModule", globs = ["**/*.js"], fallthrough = true }]
"""


def probe(stage: Stage, product: Path) -> Path:
    """The product's source and packages under a main module that imports nothing of them."""
    root = stage.folder / "imports"
    for name in ("src", "python_modules"):
        shutil.copytree(product / name, root / name)
    (root / "src" / "probe.py").write_text(ENTRY)
    (root / "wrangler.toml").write_text(CONFIG)
    return root


@dataclass
class Imported:
    """What one import took."""

    inside: float  # milliseconds by the isolate's clock
    outside: float  # and by this process's
    still: float  # by the isolate's, before there was any I/O
    modules: int
    own: dict[str, float]  # by package, without what the package imports


async def ask(server: Server, path: str) -> Imported:
    """Send one request."""
    client = load.Client(server.ask_port)
    started = time.perf_counter()
    answer = await client.call("GET", path)
    outside = (time.perf_counter() - started) * 1000
    client.close()
    if answer.status != 200:
        raise RuntimeError(f"{path} answered {answer.status}: {answer.body[:500]!r}")
    said = answer.json()
    return Imported(said["ms"], outside, said["without_io_ms"], said["modules"], said["own"])


async def one_round(server: Server, results: dict[str, list[Imported]]) -> Imported:
    """Import everything once; return what a loop took by the three clocks."""
    idle = [await ask(server, "/nothing/x") for _ in range(20)]
    inside, outside = statistics.median(one.inside for one in idle), statistics.median(one.outside for one in idle)
    spun = await ask(server, "/spin/3000000")
    for name in (*MODULES, *ON_FIRST_USE, *SELDOM):
        one = await ask(server, f"/import/{name}")
        one.inside -= inside
        one.outside -= outside
        results[name].append(one)
    return spun


def uploaded(stage: Stage, product: Path) -> dict[str, tuple[int, int, int]]:
    """Files, bytes and gzipped bytes by package of what `wrangler deploy` would send; nothing is sent."""
    out = stage.folder / "upload"
    folder = node.bin_folder()
    run_tool(
        [
            *node.wrangler_command(stage.checkout, folder),
            *("deploy", "--dry-run", "--env", "production", "--outdir", out),
        ],
        cwd=product,
        env=environment(stage.runtime, "", stage.folder, folder),
        failed="wrangler could not bundle the Worker.",
        fix="Read its message below.",
    )
    found: dict[str, tuple[int, int, int]] = defaultdict(lambda: (0, 0, 0))
    for path in sorted(out.rglob("*")):
        if not path.is_file() or path.name == "README.md":  # wrangler's note about the folder
            continue
        name = package_of(path.relative_to(out).parts)
        data = path.read_bytes()
        files, raw, packed = found[name]
        found[name] = (files + 1, raw + len(data), packed + len(gzip.compress(data, mtime=0)))
    return found


def package_of(parts: tuple[str, ...]) -> str:
    """What a file of the bundle belongs to."""
    if parts[0] != "python_modules":
        return "/".join(parts[:2]) if parts[0] == "kontract" and len(parts) > 2 else parts[0]
    name = parts[1].removesuffix(".py")
    if name.endswith(".dist-info"):
        return "python_modules: *.dist-info"
    if name.startswith("_workers_sdk") or name == "asgi":
        return "python_modules: workers"
    return f"python_modules: {name}"


def to_records(results: dict[str, list[Imported]], sizes: dict[str, tuple[int, int, int]]) -> list[Record]:
    """Sums of imports in each round, the dearest package and module, and what is uploaded."""
    measured = []
    for what, names in (
        ("at the start", MODULES),
        ("at the first call of a function", ON_FIRST_USE),
        ("at the first `exec`", SELDOM),
    ):
        sums = [sum(one.inside for one in ones) for ones in zip(*(results[name] for name in names), strict=True)]
        measured.append(over_rounds(f"imports {what}, in workerd", sums, "ms"))
    for name in ("msgspec",):
        values = [one.inside for one in results[name]]
        measured.append(over_rounds("its import, in workerd", values, "ms", product=name))
    files, raw, packed = (sum(part) for part in zip(*sizes.values(), strict=True))
    measured.append(Record("uploaded", raw / 1024, "KiB", behind=f"{files} files, {packed / 1024:,.0f} KiB gzipped"))
    for name, (files, size, packed) in sorted(sizes.items(), key=lambda item: -item[1][1])[:LARGEST]:
        behind = f"{files} files, {packed / 1024:,.0f} KiB gzipped, {100 * size / raw:.0f} % of the upload"
        measured.append(Record("uploaded", size / 1024, "KiB", product=f"{PRODUCT}: {name}", behind=behind))
    return measured


def measure(stage: Stage, revision: str | None, rounds: int) -> list[Record]:
    """Import in fresh workerds, bundle, print."""
    product = stage.product(revision)
    sizes = uploaded(stage, product)
    results: dict[str, list[Imported]] = defaultdict(list)
    loops = []
    print(conditions(stage.checkout, revision))
    server = stage.server(probe(stage, product), "postgres://nobody@127.0.0.1:1/none")
    for number in range(rounds):
        tell(f"  round {number + 1} of {rounds}")
        server.start()
        server.find_direct()
        loops.append(asyncio.run(one_round(server, results)))
        server.stop()
    loop = loops[-1]
    print(
        f"{rounds} rounds, the fastest counts. The clock: a loop that took {loop.outside:.0f} ms seen from outside "
        f"took {loop.still:.0f} ms by perf_counter before any I/O, {loop.inside:.0f} ms after a timer.\n"
    )
    print(f"{'import':<36} {'ms inside':>9} {'outside':>8} {'slowest':>8} {'modules':>8}")
    for title, names in (("", MODULES), ("on first use", ON_FIRST_USE), ("where `exec` is used", SELDOM)):
        if title:
            print(title)
        for name in names:
            best, worst = (pick(results[name], key=lambda one: one.inside) for pick in (min, max))
            print(f"{name:<36} {best.inside:>9.0f} {best.outside:>8.0f} {worst.inside:>8.0f} {best.modules:>8}")
        if len(names) > 1:
            print(f"{'  together':<36} {sum(min(one.inside for one in results[name]) for name in names):>9.0f}")
    print("\nof the first group, by package (what a package imports from others is counted there)")
    own: dict[str, float] = defaultdict(float)
    for name in MODULES:
        for package, spent in min(results[name], key=lambda one: one.inside).own.items():
            own[package] += spent
    for package, spent in sorted(own.items(), key=lambda item: -item[1]):
        if spent >= 1:
            print(f"{package:<36} {spent:>9.0f}")
    print(f"\n{'uploaded':<36} {'files':>9} {'KiB':>8} {'gzip':>7}")
    for name, (files, raw, packed) in sorted(sizes.items(), key=lambda item: -item[1][1]):
        print(f"{name:<36} {files:>9} {raw / 1024:>8.0f} {packed / 1024:>7.0f}")
    files, raw, packed = (sum(part) for part in zip(*sizes.values(), strict=True))
    print(f"{'  together':<36} {files:>9} {raw / 1024:>8.0f} {packed / 1024:>7.0f}")
    return to_records(results, sizes)


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--commit", metavar="REVISION", help="measure this revision instead of the working tree")
    parser.add_argument("--rounds", type=int, default=3)
    records.add_option(parser)
    arguments = parser.parse_args()
    try:
        with Stage.opened() as stage:
            records.write(arguments.records, measure(stage, arguments.commit, arguments.rounds))
    except Problem as problem:
        raise SystemExit(f"{problem}\n{problem.detail}") from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None


if __name__ == "__main__":
    main()
