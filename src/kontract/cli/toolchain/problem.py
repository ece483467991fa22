"""The one exception that ends a command with a sentence instead of a traceback."""

from __future__ import annotations


class Problem(Exception):  # noqa: N818 - it is shown to people: "Problem: the port is taken", not an error of the code
    """Something outside this code is wrong, and the person at the terminal can fix it.

    `what` says what is wrong, in one sentence; `fix` says what to do about it. `detail` is the output of the tool that
    failed, shown in full below them, because the reason is often only there.
    """

    def __init__(self, what: str, fix: str, detail: str = "") -> None:
        super().__init__(f"{what} {fix}")
        self.what = what
        self.fix = fix
        self.detail = detail.strip()

    def render(self) -> str:
        """Return the text for stderr: what is wrong, what to do, then the tool's output."""
        lines = [f"Problem: {self.what}", f"What to do: {self.fix}"]
        if self.detail:
            lines += ["", *(f"  | {line}" for line in self.detail.splitlines()[-40:])]
        return "\n".join(lines)
