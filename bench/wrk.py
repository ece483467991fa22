"""wrk (Debian: `apt install wrk`; Homebrew: `brew install wrk`) as load generator: C, so that servers are the limit.

Closed loop: each connection is kept and waits for its answer. Answers that are not 2xx or 3xx are counted.
"""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kontract.cli.toolchain.problem import Problem

SCRIPT = Path(__file__).with_name("wrk.lua")


@dataclass(frozen=True)
class Round:
    """What came of one run. Latencies in milliseconds; ``load_cpu`` is wrk's own processor time in seconds."""

    calls: int
    seconds: float
    refused: int
    p50: float
    p99: float
    load_cpu: float

    @property
    def rate(self) -> float:
        """Calls per second that were not refused."""
        return (self.calls - self.refused) / self.seconds


def program() -> str:
    """Where wrk is; a Problem if it is not there."""
    found = shutil.which("wrk")
    if found is None:
        raise Problem("There is no program `wrk`, which makes the load.", "apt install wrk, or brew install wrk.")
    return found


def version() -> str:
    """Its version."""
    done = subprocess.run([program(), "--version"], capture_output=True, text=True, check=False)
    found = re.search(r"wrk \S*?(\d[\d.]*)", done.stdout + done.stderr)
    return f"wrk {found[1]}" if found else "wrk"


def write_requests(path: Path, requests: Sequence[tuple[str, object]]) -> Path:
    """Write tokens and arguments where the script reads them."""
    path.write_text("".join(f"{token}\t{json.dumps(arguments)}\n" for token, arguments in requests))
    return path


def run(ports: Sequence[int], path: str, requests: Path, connections: int, seconds: int) -> Round:
    """Ask the servers behind the ports at the same time, ``connections`` in all, shared out evenly."""
    before = _children_cpu()
    running = [
        subprocess.Popen(
            [
                *(program(), "--threads", "1", "--connections", str(connections // len(ports))),
                *("--duration", f"{seconds}s", "--timeout", "30s", "--script", str(SCRIPT)),
                f"http://127.0.0.1:{port}{path}",
            ],
            env=os.environ | {"REQUESTS": str(requests)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for port in ports
    ]
    found = []
    for process in running:
        output, _ = process.communicate()
        lines = [line for line in output.splitlines() if line.startswith("{")]
        if process.returncode or not lines:
            raise Problem("wrk broke down.", "Read what it said.", output)
        found.append(json.loads(lines[-1]))
    if broken := sum(one["broken"] for one in found):
        raise Problem(f"{broken} connections to {path} broke.", "Read the server's log.")
    return Round(
        sum(one["calls"] for one in found),
        max(one["us"] for one in found) / 1e6,
        sum(one["refused"] for one in found),
        sum(one["p50"] * one["calls"] for one in found) / max(1, sum(one["calls"] for one in found)) / 1000,
        max(one["p99"] for one in found) / 1000,
        _children_cpu() - before,
    )


def _children_cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
