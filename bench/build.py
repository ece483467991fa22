"""`kontract build` over a large application: from nothing, again with nothing changed, and after one file was edited.

The application is written for it: modules of twenty functions each, with a table, arguments of several types, and
permissions. Each figure is what the command itself takes in a process that has it imported already, since wrangler and
`make dev` start it anew; what starting Python and importing it costs is a row of its own. Next to it, as a ratio: what
CPython takes to compile the same files, which is the least that anybody can do who reads them.

Run: .venv/bin/python bench/build.py [--rounds N] [--functions N]
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import records
from records import PRODUCT, Record, over_rounds
from stage import conditions

from kontract.cli import build
from kontract.cli.toolchain.checkout import Checkout

PER_MODULE = 20

HEAD = '''"""Module {module}."""

from typing import Annotated

from msgspec import Meta, Struct

from kontract import Context, NotFoundError, backend, perm, perms, primkey, table


@table("things{module}")
class Thing{module}(Struct):
    id: Annotated[str, primkey]
    title: Annotated[str, Meta(max_length=200)]
    count: int = 0
    made_by: Annotated[str, perm(perms.R__)] = ""
'''

FUNCTION = '''

@backend(egroup="bench", perm=perms.RW_)
async def change_{number}(
    ctx: Context, id: str, titles: list[str], by: int = 1, note: str | None = None
) -> Thing{module}:
    """Change a thing."""
    thing = await ctx.storage.things{module}.get(id)
    if thing is None:
        raise NotFoundError(f"there is no thing {{id}}")
    return await ctx.storage.things{module}.update(id, title=titles[0], count=thing.count + by)
'''


def write(source: Path, functions: int) -> list[Path]:
    """Write the application; its modules."""
    (source / "app").mkdir(parents=True)
    (source / "app" / "__init__.py").write_text("")
    paths = []
    for first in range(0, functions, PER_MODULE):
        module = first // PER_MODULE
        numbers = range(first, min(functions, first + PER_MODULE))
        text = HEAD.format(module=module) + "".join(FUNCTION.format(number=n, module=module) for n in numbers)
        path = source / "app" / f"module{module}.py"
        path.write_text(text)
        paths.append(path)
    return paths


def timed(work: Callable[[], object]) -> float:
    """Milliseconds."""
    started = time.perf_counter()
    work()
    return (time.perf_counter() - started) * 1000


def measure(rounds: int, functions: int) -> list[Record]:
    """Build, print."""
    checkout = Checkout.find(Path(__file__).parent)
    print(conditions(checkout, None))
    cold, again, edited, compiled, started = [], [], [], [], []
    for _ in range(rounds):
        with TemporaryDirectory(prefix="kontract-bench-build-") as folder:
            root = Path(folder)
            paths = write(root / "src", functions)
            cache = root / ".kontract" / "build.json"

            def build_all(root: Path = root, cache: Path = cache) -> None:
                build.render(build.scan(root / "src", cache))

            compiled.append(timed(lambda paths=paths: [compile(p.read_text(), str(p), "exec") for p in paths]))
            cold.append(timed(build_all))
            again.append(timed(build_all))
            paths[0].write_text(paths[0].read_text().replace("Change a thing", "Change one thing"))
            edited.append(timed(build_all))
        started.append(timed(lambda: subprocess.run([sys.executable, "-c", "import kontract.cli.build"], check=True)))
    of = f"{functions:,} functions in {len(paths)} modules"
    ratio = statistics.median(cold) / statistics.median(compiled)
    measured = [
        over_rounds(f"kontract build, {of}, from nothing", cold, "ms", aim="at most 1,000"),
        over_rounds(f"kontract build, {of}, nothing changed", again, "ms", aim="at most 1,000"),
        over_rounds(f"kontract build, {of}, one file edited", edited, "ms", aim="at most 1,000"),
        over_rounds("kontract build: starting Python and importing it", started, "ms"),
        Record(
            f"kontract build, {of}, from nothing",
            ratio,
            records.TIMES,
            PRODUCT,
            "compiling the files",
            behind=f"{statistics.median(cold):.0f} ms beside {statistics.median(compiled):.0f} ms",
        ),
    ]
    for one in measured:
        print(f"  {one.value:8.1f} {one.unit:5}  {one.scenario}{f', beside {one.peer}' if one.peer else ''}")
    return measured


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="how often (default: 5)")
    parser.add_argument("--functions", type=int, default=1_000, help="how many (default: 1,000)")
    records.add_option(parser)
    options = parser.parse_args()
    records.write(options.records, measure(options.rounds, options.functions))


if __name__ == "__main__":
    main()
