"""Which tests come first, and which go to one process, when several run them (pytest-xdist)."""

from __future__ import annotations

from xdist.scheduler import LoadFileScheduling

LONGEST = (
    "docs/test_tutorial.py",
    "cli/test_new.py",
    "browser/",
    "server/test_same_",
    "nodes/",
    "cli/test_dev",
    "simulation/",
    "cli/test_fresh_clone.py",
    "workerd/",
)
"""What takes longest. At the end everybody would wait for the process that got the last of them."""

SHARED = ("browser/", "server/test_same_")
"""What shares something that takes long to start: a browser and its Worker, servers with each kind of coordination."""


def _path(nodeid: str) -> str:
    """A test's file, below tests/."""
    return nodeid.partition("::")[0].removeprefix("tests/")


def place(nodeid: str) -> int:
    """Tests with a lower one come first."""
    path = _path(nodeid)
    return next((n for n, start in enumerate(LONGEST) if path.startswith(start)), len(LONGEST))


class Scheduling(LoadFileScheduling):
    """A process takes a file at a time, or all files that share something."""

    def _split_scope(self, nodeid: str) -> str:
        path = _path(nodeid)
        return next((start for start in SHARED if path.startswith(start)), path)
