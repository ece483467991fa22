"""PostgreSQL refuses to run as root. As root, its programs are started as the user `nobody`.

A checkout in a private folder (root's home, a temporary folder) is closed to that user. No permission is changed for
it: the program keeps, of root's rights, those to look into folders (Linux; inherited as "ambient" capabilities).
"""

from __future__ import annotations

import ctypes
import os
import pwd
import stat
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kontract.cli.toolchain.problem import Problem

# <linux/prctl.h>, <linux/capability.h>
_PR_SET_KEEPCAPS = 8
_PR_SET_SECUREBITS = 28
_SECBIT_NO_SETUID_FIXUP = 1 << 2
_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_RAISE = 2
_CAPABILITY_VERSION_3 = 0x20080522
_DAC_OVERRIDE = 1
_DAC_READ_SEARCH = 2


@dataclass(frozen=True, slots=True)
class RunAs:
    """How PostgreSQL's programs are started: as oneself, or as `nobody` when one is root."""

    uid: int | None = None
    gid: int | None = None
    popen: dict[str, Any] = field(default_factory=dict)

    def own(self, path: Path) -> None:
        """Give a file or folder to the user that PostgreSQL runs as."""
        if self.uid is not None and self.gid is not None:
            os.chown(path, self.uid, self.gid)


def run_as(*needed: Path) -> RunAs:
    """For whom to run, so that every path in `needed` can be reached."""
    if os.geteuid() != 0:
        return RunAs()
    nobody = pwd.getpwnam("nobody")
    if all(open_to_others(path) for path in needed):
        return RunAs(nobody.pw_uid, nobody.pw_gid, {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []})
    if not sys.platform.startswith("linux"):
        raise Problem(
            "PostgreSQL does not run as root, and other users cannot enter this folder.",
            "Run the command as an ordinary user.",
        )
    return RunAs(nobody.pw_uid, nobody.pw_gid, {"preexec_fn": _drop_all_but_looking(nobody.pw_uid, nobody.pw_gid)})


def open_to_others(path: Path) -> bool:
    """Return True if an unprivileged user can reach the path: every folder above lets others through."""
    resolved = path.resolve()
    here = bool(resolved.stat().st_mode & (stat.S_IXOTH if resolved.is_dir() else stat.S_IROTH))
    return here and all(parent.stat().st_mode & stat.S_IXOTH for parent in resolved.parents)


def _drop_all_but_looking(uid: int, gid: int) -> Callable[[], None]:
    """A function for the child process, between fork and exec: become `uid` and keep two capabilities."""
    libc = ctypes.CDLL(None, use_errno=True)
    kept = (1 << _DAC_OVERRIDE) | (1 << _DAC_READ_SEARCH)
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    current = (ctypes.c_uint32 * 6)()
    failed = libc.capget(header, current) != 0
    kept_now = 0 if failed else kept & current[1]  # [1] is "permitted"; a container may lack some
    if not kept_now:
        raise Problem(
            "PostgreSQL does not run as root, and other users cannot enter this folder.",
            "Run the command as an ordinary user, or move the checkout to a folder that others may enter.",
        )
    wanted = (ctypes.c_uint32 * 6)(kept_now, kept_now, kept_now, 0, 0, 0)

    def drop() -> None:
        # access(2), which initdb asks about its own programs, forgets capabilities unless this bit is set.
        if libc.prctl(_PR_SET_SECUREBITS, _SECBIT_NO_SETUID_FIXUP, 0, 0, 0) != 0:
            libc.prctl(_PR_SET_KEEPCAPS, 1, 0, 0, 0)
        os.setgroups([])
        os.setgid(gid)
        os.setuid(uid)
        if libc.capset(header, wanted) != 0:
            os._exit(126)
        for capability in (_DAC_OVERRIDE, _DAC_READ_SEARCH):
            if kept_now & (1 << capability):
                libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, capability, 0, 0)

    return drop
