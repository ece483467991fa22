"""Running and stopping other programs: tools that end by themselves, and groups that are stopped by their id."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
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
        return "The disk is full: free some space and run the command again; partial results were removed."
    if any(sign in text for sign in _OFFLINE):
        return (
            "The package registry could not be reached: check the network (or the proxy settings) and run the command "
            "again; partial results were removed."
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


@dataclass(frozen=True, slots=True)
class Running:
    """One line of the process table."""

    pid: int
    parent: int
    group: int
    state: str
    command: str


def table() -> Iterator[Running]:
    """All processes that can be seen: from /proc on Linux (slim containers have no `ps`), else from `ps`."""
    if Path("/proc/self/stat").is_file():
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and (found := _from_proc(entry)):
                yield found
        return
    listed = subprocess.run(
        ["ps", "-A", "-o", "pid=,ppid=,pgid=,stat=,command="], capture_output=True, text=True, check=False
    )
    for line in listed.stdout.splitlines():
        pid, parent, group, state, *command = line.split(maxsplit=4)
        yield Running(int(pid), int(parent), int(group), state[:1], "".join(command))


def _from_proc(entry: Path) -> Running | None:
    try:
        # The second field is the name in parentheses and may itself hold spaces and parentheses.
        fields = (entry / "stat").read_text().rpartition(")")[2].split()
        command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:  # it ended meanwhile
        return None
    return Running(int(entry.name), int(fields[1]), int(fields[2]), fields[0], command)


def find(pid: int) -> Running | None:
    """The process, or None. A zombie, which only waits to be collected, counts as gone."""
    if Path("/proc/self/stat").is_file():
        found = _from_proc(Path(f"/proc/{pid}"))
    else:
        found = next((one for one in table() if one.pid == pid), None)
    return found if found and found.state != "Z" else None


def is_running(pid: int) -> bool:
    """Return True for a live process of any owner."""
    return find(pid) is not None


def command_of(pid: int) -> str:
    """The command line of a process, arguments joined by spaces; empty when there is none to see."""
    found = find(pid)
    return found.command if found else ""


def group_members(group: int) -> list[Running]:
    """The live processes of a group.

    Zombies do not count: in a container without an init, orphans stay zombies for ever and hold nothing but a number.
    """
    return [one for one in table() if one.group == group and one.state != "Z"]


def stop_group(group: int, *, grace: float) -> None:
    """SIGINT to every process of the group, and SIGKILL to what is left after `grace` seconds."""
    for number, seconds in ((signal.SIGINT, grace), (signal.SIGKILL, 5.0)):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(group, number)
        if wait_until(lambda: not group_members(group), seconds, 0.05):
            return


def wait_until(condition: Callable[[], bool], seconds: float, interval: float = 0.02) -> bool:
    """Poll until the condition holds; False when the time is over."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() >= end:
            return False
        time.sleep(interval)
    return True
