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

SHARED = {
    "the browser and its Worker": ("browser/",),
    "servers with each kind of coordination": ("server/test_same_",),
    "the Worker": (
        "workerd/test_assets.py",
        "workerd/test_gateway.py",
        "workerd/test_headers.py",
        "workerd/test_hostile.py",
        "workerd/test_raystream_rpc.py",
        "workerd/test_sessions.py",
        "workerd/test_stream.py",
        "workerd/test_transactions.py",
        "workerd/test_websocket.py",
    ),
    "the laboratory": (
        "workerd/test_crossings.py",
        "workerd/test_crypto.py",
        "workerd/test_database_url.py",
        "workerd/test_postgres.py",
        "workerd/test_raystream.py",
    ),
}
"""What takes long to start, and the files whose tests share it."""


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
        return next((shared for shared, starts in SHARED.items() if path.startswith(starts)), path)
