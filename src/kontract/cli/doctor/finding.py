"""What `kontract doctor` looked at, and what it found there."""

from __future__ import annotations

from dataclasses import dataclass

_MARKS = {"wrong": "WRONG", "note": "note ", "ok": "ok   "}


@dataclass(frozen=True)
class Finding:
    """What was looked at and found; `fix` says what to do, and `wrong` whether it must be done."""

    what: str
    fix: str = ""
    wrong: bool = False

    @property
    def level(self) -> str:
        """`wrong` has to be put right, `note` is for the reader to decide, `ok` needs nothing."""
        return "wrong" if self.wrong else "note" if self.fix else "ok"

    def render(self) -> str:
        """One line, and a second one if there is something to do."""
        return f"{_MARKS[self.level]}  {self.what}" + (f"\n         -> {self.fix}" if self.fix else "")
