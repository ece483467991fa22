"""Permission bits, as in the file modes of POSIX: read 4, write 2, execute 1."""

from __future__ import annotations

from typing import Final

READ: Final = 4
WRITE: Final = 2
EXECUTE: Final = 1
ALL: Final = READ | WRITE | EXECUTE


class Perms:
    """The bits by name; underscores stand for missing bits: ``perms.RW_``, ``perms.R__``, ``perms.__X``."""

    R__: Final = READ
    _W_: Final = WRITE
    RW_: Final = READ | WRITE
    R_X: Final = READ | EXECUTE
    _WX: Final = WRITE | EXECUTE
    RWX: Final = ALL

    def __getattr__(self, name: str) -> int:
        """Return ``__X``, also as Python mangles it inside a class: ``_Task__X``."""
        if name.endswith("__X") and name.startswith("_"):
            return EXECUTE
        message = f"there is no permission {name!r}; choose one of {', '.join(NAMES)}"
        raise AttributeError(message)


perms: Final = Perms()

NAMES: Final = {"R__": 4, "_W_": 2, "__X": 1, "RW_": 6, "R_X": 5, "_WX": 3, "RWX": 7}


def name_of(bits: int) -> str:
    """Return the name of the bits: ``RW_``; three underscores for none."""
    return "".join(letter if bits & bit else "_" for letter, bit in (("R", READ), ("W", WRITE), ("X", EXECUTE)))


def may_write(bits: int) -> bool:
    """Return whether a function with these bits may change rows: it has the W or the X bit."""
    return bool(bits & (WRITE | EXECUTE))
