"""Every benchmark, one after the other, and one table of what they measured.

Each is a program of its own here, so that one that fails, or lacks a program, is a row that says so. With --write the
results go to bench/results.json and docs/benchmarks.md is made of them; --render makes the page again and measures
nothing.

Run: .venv/bin/python bench/all.py [--quick] [--only NAME]... [--write] [--render]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import page
import records
import stage

from kontract.cli.toolchain import node
from kontract.cli.toolchain.checkout import Checkout, write_atomically
from kontract.cli.toolchain.postgres import programs
from kontract.cli.toolchain.problem import Problem
from kontract.cli.toolchain.processes import group_members, stop_group, wait_until

HERE = Path(__file__).resolve().parent
LONGEST = 300.0  # seconds of one part; then it is stopped
ENDING = 60.0  # and so many to stop its servers


@dataclass(frozen=True)
class Part:
    """A benchmark: its program, and its options in a full and in a short run."""

    name: str
    program: str
    full: tuple[str, ...] = ()
    quick: tuple[str, ...] | None = ()  # None: too long for it

    def command(self, *, quick: bool) -> list[str]:
        """What one types to run it alone."""
        return [".venv/bin/python", f"bench/{self.program}.py", *((self.quick if quick else self.full) or ())]


PARTS = (
    Part("core", "core", ("--rounds", "3"), ("--rounds", "1")),
    Part("holding", "holding", ("--rounds", "7"), ("--rounds", "2")),
    Part("apply", "apply", ("--rounds", "200"), ("--rounds", "60")),
    Part(
        "serve",
        "serve",
        ("--rounds", "3", "--seconds", "1"),
        ("--rounds", "1", "--seconds", "1", "--connections", "16"),
    ),
    Part("starts", "serve", ("--starts", "--rounds", "5"), ("--starts", "--rounds", "1")),
    Part("scale", "serve", ("--scale", "--rounds", "2", "--seconds", "2"), None),
    Part("workerd", "workerd", ("--rounds", "4"), ("--rounds", "1")),
    Part("writes", "writes", ("--rounds", "2"), ("--rounds", "1", "--clients", "8")),
    Part("streams", "streams", ("--streams", "500", "--commits", "10"), ("--streams", "100", "--commits", "5")),
    Part(
        "idle",
        "streams",
        ("--idle", "--streams", "640", "--commits", "40"),
        ("--idle", "--streams", "64", "--commits", "10"),
    ),
    Part("raystream", "raystream", ("--rounds", "2"), ("--rounds", "1", "--cpython")),
    Part("imports", "imports", ("--rounds", "3"), ("--rounds", "1")),
    Part("loading", "loading", ("--rounds", "7"), ("--rounds", "1")),
    Part("build", "build", ("--rounds", "5"), ("--rounds", "1")),
    Part("clone", "clone", (), ("--warm",)),
)


def run(part: Part, *, quick: bool) -> dict[str, Any]:
    """Run one part; whatever happens to it is in the result."""
    command = part.command(quick=quick)
    before, started = os.getloadavg()[0], time.monotonic()
    with tempfile.TemporaryDirectory(prefix="kontract-bench-") as folder:
        found = Path(folder) / "records.json"
        with (Path(folder) / "errors").open("w+", encoding="utf-8", errors="replace") as errors:
            process = subprocess.Popen(
                [sys.executable, *command[1:], "--records", str(found)],
                cwd=page.ROOT,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                start_new_session=True,
            )
            output, problem = _wait(process)
            errors.seek(0)
            if process.returncode and not problem:
                problem = _reason(errors.read())
        measured = records.read(found) if found.exists() else []
    if not measured and not problem:
        problem = "It measured nothing."
    return {
        "name": part.name,
        "command": " ".join(command),
        "seconds": round(time.monotonic() - started, 1),
        "load": [round(before, 2), round(os.getloadavg()[0], 2)],
        "problem": _without_paths(problem),
        "records": measured,
        "output": _without_paths(output),
    }


def _wait(process: subprocess.Popen[str]) -> tuple[str, str]:
    try:
        output, _ = process.communicate(timeout=LONGEST)
    except subprocess.TimeoutExpired:
        problem = f"It took more than {LONGEST:.0f} s and was stopped."
    except KeyboardInterrupt:
        _stop(process)
        raise
    else:
        return output, ""
    _stop(process)
    output, _ = process.communicate()
    return output, problem


def _stop(process: subprocess.Popen[str]) -> None:
    """Ctrl-C first: then it stops its servers itself. They are in groups of their own."""
    process.send_signal(signal.SIGINT)
    if not wait_until(lambda: process.poll() is not None, ENDING, 0.1) or group_members(process.pid):
        stop_group(process.pid, grace=5.0)


def _reason(text: str) -> str:
    """The first line of a Problem, or the last of a traceback."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines:
        return "It failed without a word."
    if "Traceback (most recent call last):" in lines:
        return lines[-1][:300]
    # What is being done is indented (cli/toolchain/progress.py); what went wrong is not.
    shown = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("  ")]
    shown = [line for line in shown if not line.endswith("...")]
    return (shown or lines)[0][:300]


def _without_paths(text: str) -> str:
    """What is kept and published names no folder of this machine."""
    for folder, name in ((str(page.ROOT), "."), (tempfile.gettempdir(), "TMP"), (str(Path.home()), "~")):
        text = re.sub(rf"{re.escape(folder)}(?=/|\b)", name, text)
    return text


# --- the machine ------------------------------------------------------------------------------------------------------


def facts(checkout: Checkout) -> dict[str, Any]:
    """The machine, the versions, the commit and the date."""
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "commit": _commit(checkout),
        "machine": {
            "system": f"{platform.system()} {platform.release()} {platform.machine()}",
            "processors": os.cpu_count(),
            "processor": stage.processor(),
            "memory_gib": round(pages / 2**30),
        },
        "versions": {
            "workerd": stage.version_of(checkout.node_modules / "workerd" / "package.json"),
            "wrangler": stage.version_of(checkout.node_modules / "wrangler" / "package.json"),
            "PostgreSQL": _last_word(programs() / "postgres", "--version"),
            "Python": platform.python_version(),
            "Node": _last_word(node.bin_folder() / "node", "--version").lstrip("v"),
        },
    }


def _commit(checkout: Checkout) -> str:
    def git(*arguments: str) -> str:
        command = ["git", *arguments]
        return subprocess.run(command, cwd=checkout.root, capture_output=True, text=True, check=False).stdout.strip()

    changed = git("status", "--porcelain", "--untracked-files=no", "--", "src", "sql", "wrangler.toml", "uv.lock")
    return (git("rev-parse", "--short", "HEAD") or "unknown") + (" with changes" if changed else "")


def _last_word(*command: Path | str) -> str:
    try:
        done = subprocess.run([str(one) for one in command], capture_output=True, text=True, check=False)
    except OSError:
        return "?"
    return (done.stdout.split() or ["?"])[-1]


# --- the command ------------------------------------------------------------------------------------------------------


def write(results: dict[str, Any]) -> None:
    """Keep the results and make the pages."""
    write_atomically(page.RESULTS, json.dumps(results, indent=1, ensure_ascii=False) + "\n")
    render()


def render() -> None:
    """Make the pages of what was kept."""
    results = json.loads(page.RESULTS.read_text(encoding="utf-8"))
    for template, made in page.PAGES.items():
        write_atomically(made, page.render(template.read_text(encoding="utf-8"), results))


def main() -> None:
    """Read the command line."""
    names = [part.name for part in PARTS]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="short rounds: it shows that all of it works, no more")
    parser.add_argument("--only", action="append", choices=names, metavar="NAME", help=f"some of {', '.join(names)}")
    parser.add_argument("--write", action="store_true", help="write bench/results.json and the pages made of it")
    parser.add_argument("--render", action="store_true", help="measure nothing; make the pages of bench/results.json")
    options = parser.parse_args()
    if options.render:
        render()
        return
    started, checkout = time.monotonic(), Checkout.find(HERE)
    results: dict[str, Any] = {**facts(checkout), "quick": options.quick, "parts": []}
    for part in PARTS:
        if part.name not in (options.only or names) or (options.quick and part.quick is None):
            continue
        stage.tell(f"{part.name} ...")
        results["parts"].append(run(part, quick=options.quick))
        done = results["parts"][-1]
        stage.tell(f"{part.name}: {done['seconds']:.0f} s {done['problem']}")
    results["seconds"] = round(time.monotonic() - started)
    print(f"{page.machine(results)}\n\n{page.times(results['parts'])}\n\n{page.table(results['parts'])}")
    if options.write:
        write(results)


if __name__ == "__main__":
    try:
        main()
    except Problem as problem:
        raise SystemExit(f"{problem}\n{problem.detail}") from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None
