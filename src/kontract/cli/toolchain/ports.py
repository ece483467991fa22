"""Checks whether a port is free, and finds the process that has it."""

from __future__ import annotations

import socket
import subprocess
from pathlib import Path

from kontract.cli.toolchain.problem import Problem
from kontract.cli.toolchain.processes import command_of


def check_free(port: int, how_to_choose: str = "`PORT=8788 make dev`") -> None:
    """Raise `Problem`, naming the process if that can be known, when something listens on 127.0.0.1 or ::1."""
    if not (1 <= port <= 65535):
        raise Problem(f"{port} is not a TCP port.", f"Choose one between 1024 and 65535, for example {how_to_choose}.")
    taken = _answers("127.0.0.1", port) or _answers("::1", port)
    if not taken:
        try:
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # leftovers of closed connections are fine
                probe.bind(("127.0.0.1", port))
        except PermissionError:
            raise Problem(
                f"Port {port} needs administrator rights.", f"Choose one above 1023, for example {how_to_choose}."
            ) from None
        except OSError:
            taken = True
    if taken:
        raise Problem(
            f"Port {port} is taken{_by(port)}.",
            f"Stop that program, or use another port: {how_to_choose}.",
        )


def _answers(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=0.3).close()
    except OSError:
        return False
    return True


def _by(port: int) -> str:
    pid = owner(port)
    if pid is None:
        return " by another program"
    command = command_of(pid)
    return f" by process {pid}" + (f" ({command[:80]})" if command else "")


def owner(port: int) -> int | None:
    """The process that listens on the port, if this user may see it: from /proc on Linux, else from lsof."""
    if Path("/proc/net/tcp").is_file():
        return _owner_of_inode(_listening_inodes(port))
    try:
        found = subprocess.run(
            ["lsof", "-nP", f"-iTCP:{port}", "-sTCP:LISTEN", "-t"], capture_output=True, text=True, check=False
        )
    except OSError:
        return None
    first = found.stdout.split()
    return int(first[0]) if first else None


def _listening_inodes(port: int) -> set[str]:
    inodes = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            lines = Path(table).read_text().splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            fields = line.split()
            listening = fields[3] == "0A"  # TCP_LISTEN in include/net/tcp_states.h
            if listening and int(fields[1].rpartition(":")[2], 16) == port:
                inodes.add(fields[9])
    return inodes


def _owner_of_inode(inodes: set[str]) -> int | None:
    wanted = {f"socket:[{inode}]" for inode in inodes}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            for descriptor in (entry / "fd").iterdir():
                if str(descriptor.readlink()) in wanted:
                    return int(entry.name)
        except OSError:
            continue
    return None
