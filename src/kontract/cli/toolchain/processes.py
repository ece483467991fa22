"""Running and stopping other programs: tools that end by themselves, and groups that are stopped by their id."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from kontract.cli.toolchain.problem import Problem

_OFFLINE = (
    "enotfound",
    "eai_again",
    "econnrefused",
    "etimedout",
    "network is unreachable",
    "name resolution",
    "dns error",
    "failed to fetch",
    "failed to establish a new connection",
    "connection refused",
    "tunnel connection failed",
    "proxyerror",
    "could not connect",
)
_NO_SPACE = ("enospc", "no space left on device", "disk quota exceeded")


def run_tool(
    command: Sequence[str | Path],
    *,
    cwd: Path,
    failed: str,
    fix: str,
    env: Mapping[str, str] | None = None,
    popen: Mapping[str, Any] | None = None,
) -> str:
    """Run a tool to its end and return its stdout. A failure is a `Problem` that opens with `failed` and quotes it.

    If the reason is the network or a full disk the advice says so instead of `fix`. An interrupted call stops the tool.
    """
    try:
        process = subprocess.Popen(
            [str(part) for part in command],
            cwd=cwd,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            **(popen or {}),
        )
    except OSError as error:
        raise Problem(f"{failed} {command[0]} cannot be run: {error.strerror}.", fix) from error
    try:
        stdout: str
        stderr: str
        stdout, stderr = process.communicate()
    except BaseException:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(5)
        process.kill()
        raise
    if process.returncode == 0:
        return stdout
    raise Problem(failed, advice(stdout + stderr, fix), stderr.strip() or stdout)


def advice(output: str, otherwise: str) -> str:
    """What to do about a tool's failure, read from its output."""
    text = output.lower()
    if any(sign in text for sign in _NO_SPACE):
        return "The disk is full: free some space and run the command again; nothing half-made was kept."
    if any(sign in text for sign in _OFFLINE):
        return (
            "The package registry could not be reached: check the network (or the proxy settings) and run the "
            "command again; nothing half-made was kept."
        )
    return otherwise


def free_port(preferred: int | None = None) -> int:
    """A TCP port on 127.0.0.1 that nobody listens on: the preferred one if that is free."""
    import socket

    for port in (preferred, 0) if preferred else (0,):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # leftovers of closed connections are fine
            try:
                probe.bind(("127.0.0.1", port or 0))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise Problem("No free TCP port on 127.0.0.1.", "Close programs that hold many ports and try again.")


def is_running(pid: int) -> bool:
    """True for a live process; a zombie, which only waits to be collected, counts as gone."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return _state(pid) != "Z"


def _state(pid: int) -> str:
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        found = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False)
        return found.stdout.strip()[:1]
    return text.rpartition(")")[2].split()[0]


def command_of(pid: int) -> str:
    """The command line of a process, arguments joined by spaces; empty when there is none to see."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        pass
    try:
        found = subprocess.run(["ps", "-o", "command=", "-p", str(pid)], capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return found.stdout.strip()


def wait_until(condition: Callable[[], bool], seconds: float, interval: float = 0.02) -> bool:
    """Poll until the condition holds; False when the time is over."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() >= end:
            return False
        time.sleep(interval)
    return True


def group_is_running(group: int) -> bool:
    """True while any process of the group lives. A group's id is not given away while a member exists."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return not _only_zombies(group)


def _only_zombies(group: int) -> bool:
    """Orphans of a container without an init stay zombies for ever; they hold nothing but their number."""
    members = []
    try:
        entries = [entry for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    except OSError:
        return False  # macOS: its launchd collects orphans
    for entry in entries:
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[2]) == group:
            members.append(fields[0])
    return all(state == "Z" for state in members)


def stop_group(group: int, *, grace: float) -> None:
    """SIGINT to every process of the group, and SIGKILL to what is left after `grace` seconds."""
    for number, seconds in ((signal.SIGINT, grace), (signal.SIGKILL, 5.0)):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(group, number)
        if wait_until(lambda: not group_is_running(group), seconds):
            return
