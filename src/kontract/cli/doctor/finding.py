"""A finding of `kontract doctor`."""

from __future__ import annotations

from dataclasses import dataclass

_MARKS = {"wrong": "WRONG", "note": "note ", "ok": "ok   "}


@dataclass(frozen=True)
class Finding:
    """What was found; `fix` says what to do, and `wrong` whether it must be done."""

    what: str
    fix: str = ""
    wrong: bool = False

    @property
    def level(self) -> str:
        """`wrong` must be fixed, `note` is for the reader to decide, `ok` needs nothing."""
        return "wrong" if self.wrong else "note" if self.fix else "ok"

    def render(self) -> str:
        """Return one line, and a second one if there is something to do."""
        return f"{_MARKS[self.level]}  {self.what}" + (f"\n         -> {self.fix}" if self.fix else "")
