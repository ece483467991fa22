"""From `git clone` to the first answer of a function: with caches that are empty, and with the caches that this leaves.

The commit that is checked out is cloned into a temporary folder, `make dev` is started there, and a client asks as the
README's first lines do until it is answered. The caches of uv, pip, npm and XDG_CACHE_HOME are in the temporary folder
too, so the cold run downloads everything. Configuration (registries, certificates) stays that of the user. Last, the
same clone is started a second time, and a function is edited in it: from saving to the first answer of the new one. The
phases are the lines that `make dev` prints.

Run: .venv/bin/python bench/clone.py [--warm]
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import threading
import time
import urllib.request
from pathlib import Path
from statistics import median

import records
from records import Record
from stage import Stage, conditions, tell

from kontract.cli.toolchain.problem import Problem
from kontract.cli.toolchain.processes import free_port, stop_group, wait_until

LONGEST = 240.0  # seconds until the first answer
STOPPING = 45.0
CLONING = "git clone"
EDITED = "`make dev`: from saving a function to its first answer"
EDITS = 7

_EDITED = """

@backend(public=True, perm=perms.R__)
async def edited(ctx: Context) -> int:
    return {number}
"""

_OTHERS = ("KONTRACT_", "DATABASE_URL", "PORT", "PYTHONPATH", "VIRTUAL_ENV", "UV_PROJECT_ENVIRONMENT", "MAKE", "MFLAGS")


class Phases:
    """Lines that say what is being done, with the second in which each came."""

    def __init__(self) -> None:
        """The clock starts."""
        self._started = time.monotonic()
        self.lines: list[tuple[float, str]] = []
        self.text: list[str] = []

    def seconds(self) -> float:
        """Since the start."""
        return time.monotonic() - self._started

    def add(self, line: str) -> None:
        """Keep a line; what is indented further is a sign of life of the phase before it."""
        self.text.append(line)
        if line.rstrip().endswith("...") and not line.startswith("    "):
            self.lines.append((self.seconds(), line.strip().removesuffix("...").strip()))

    def took(self, end: float) -> list[tuple[str, float]]:
        """Each phase and its seconds."""
        lines = [(at, name) for at, name in self.lines if at <= end]  # later it says that it is stopping
        ends = [*(at for at, _ in lines[1:]), end]
        return [(name, stop - at) for (at, name), stop in zip(lines, ends, strict=True)]


def environment(caches: Path | None) -> dict[str, str]:
    """That of the user without settings of ours; ``caches``: where caches are, if not the user's."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(_OTHERS)}
    if caches is None:
        return kept
    named = {"UV_CACHE_DIR": "uv", "PIP_CACHE_DIR": "pip", "npm_config_cache": "npm", "XDG_CACHE_HOME": "xdg"}
    return kept | {variable: str(caches / name) for variable, name in named.items()}


def call(port: int, path: str, arguments: list[object], token: str = "") -> dict[str, object]:
    """One POST; OSError as long as nobody answers well."""
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {token}"} if token else {})
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", json.dumps(arguments).encode(), headers)
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=30) as answer:
        found: dict[str, object] = json.loads(answer.read())
    return found


def answers(port: int) -> bool:
    """Whether a task can be created."""
    try:
        token = str(call(port, "/auth/anonymous", [])["token"])
        return "result" in call(port, "/rpc/create_task", ["Buy milk"], token)
    except OSError:
        return False


def edit(clone: Path, port: int) -> list[float]:
    """Seconds from saving a function to its first answer, several times."""
    module, took = clone / "src" / "app" / "tasks.py", []
    text = module.read_text()
    snapshot = clone / ".kontract" / "pyodide" / "snapshot.bin"
    if not wait_until(snapshot.is_file, LONGEST, 0.1):
        raise Problem("`make dev` takes no snapshot of Python.", "Try `make setup` by hand.")
    for number in range(EDITS):
        time.sleep(1.0)  # nobody saves faster than that
        module.write_text(text + _EDITED.format(number=number))
        saved = time.monotonic()

        def shows(number: int = number) -> bool:
            try:
                return call(port, "/rpc/edited", []).get("result") == number
            except OSError:
                return False

        if not wait_until(shows, LONGEST, 0.02):
            raise Problem("An edit does not show.", "Try it by hand: `make dev`, and edit src/app/tasks.py.")
        took.append(time.monotonic() - saved)
    return took


def dev(stage: Stage, clone: Path, caches: Path | None, phases: Phases, edits: list[float] | None = None) -> float:
    """`make dev` until it answers, then Ctrl-C; the second of the first answer. ``edits`` are made and added there."""
    port = free_port()
    process = subprocess.Popen(
        ["make", "dev"],
        cwd=clone,
        env=environment(caches) | {"PORT": str(port)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        bufsize=1,
        start_new_session=True,
    )
    stage.stops(process.pid, lambda: stop_group(process.pid, grace=STOPPING))
    assert process.stdout is not None
    reading = threading.Thread(target=lambda: [phases.add(line) for line in process.stdout or ()], daemon=True)
    reading.start()
    try:
        if (
            not wait_until(lambda: process.poll() is not None or answers(port), LONGEST, 0.1)
            or process.poll() is not None
        ):
            raise Problem("`make dev` in a fresh clone does not answer.", "See below.", "".join(phases.text[-30:]))
        seconds = phases.seconds()
        if edits is not None:
            edits += edit(clone, port)
        return seconds
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGINT)  # as a terminal does: make passes none on
        if not wait_until(lambda: process.poll() is not None, STOPPING, 0.1):
            stop_group(process.pid, grace=5.0)
        process.wait()
        reading.join(5)


def once(stage: Stage, name: str, caches: Path | None) -> tuple[Path, Phases, float]:
    """Clone and start."""
    clone, phases = stage.folder / name, Phases()
    phases.add(f"{CLONING} ...")
    source = f"file://{stage.checkout.root}"  # a path alone would make links instead of copies
    done = subprocess.run(["git", "clone", "--quiet", source, str(clone)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise Problem("git cannot clone this repository.", "Read what it said.", done.stderr)
    phases.add("make, until it says something ...")
    return clone, phases, dev(stage, clone, caches, phases)


def size_mib(folder: Path) -> float:
    """What the files in it hold."""
    return sum(one.stat().st_size for one in folder.rglob("*") if one.is_file() and not one.is_symlink()) / 2**20


def measure(stage: Stage, *, cold: bool) -> list[Record]:
    """Clone, start, print."""
    print(conditions(stage.checkout, None))
    caches = stage.folder / "caches" if cold else None
    if caches:
        caches.mkdir()
    runs = {}
    for name in ("cold", "warm") if cold else ("warm",):
        tell(f"  {name} ...")
        clone, *runs[name] = once(stage, name, caches)
    edits: list[float] = []
    for name in ("second start", "third start"):
        again = Phases()
        again.add("make dev ...")
        runs[name] = [again, dev(stage, clone, caches, again, edits if name == "second start" else None)]
    if caches:
        sizes = (f"{one.name} {size_mib(one):.0f} MiB" for one in sorted(caches.iterdir()))
        print(f"\ncaches after the cold run: {', '.join(sizes)}")
    measured = []
    titles = {
        "cold": "from `git clone` to the first answer, caches empty",
        "warm": "from `git clone` to the first answer, caches kept",
        "second start": "from `make dev` to the first answer, second start, no snapshot of Python yet",
        "third start": "from `make dev` to the first answer, with the snapshot",
    }
    for name, (phases, end) in runs.items():
        print(f"\n{titles[name]}: {end:.1f} s")
        for phase, seconds in phases.took(end):
            print(f"  {seconds:6.1f}  {phase}")
        longest = sorted(phases.took(end), key=lambda one: -one[1])[:3]
        behind = "; ".join(f"{phase.partition(' (')[0]} {seconds:.0f} s" for phase, seconds in longest)
        measured.append(Record(titles[name], end, "s", behind=behind))
    shown = ", ".join(f"{seconds:.1f}" for seconds in edits)
    print(f"\n{EDITED}: {median(edits):.1f} s\n  each: {shown}")
    measured.append(records.over_rounds(EDITED, edits, "s", aim="at most 3", behind=f"each: {shown}"))
    return measured


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--warm", action="store_true", help="with the user's caches alone; nothing is emptied")
    records.add_option(parser)
    options = parser.parse_args()
    try:
        with Stage.opened() as stage:
            records.write(options.records, measure(stage, cold=not options.warm))
    except Problem as problem:
        raise SystemExit(f"{problem}\n{problem.detail}") from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None


if __name__ == "__main__":
    main()
