"""Which names a local server answers to.

A page of somebody else's can let its own name lead to 127.0.0.1 (DNS rebinding); the browser then takes this machine's
server for that page's, and lets it read all answers. What gives it away is the name in `Host`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from kontract.cli.toolchain.problem import Problem

ALWAYS = ("localhost", "*.localhost", "127.0.0.1", "[::1]")

_NAME = re.compile(r"(\*\.)?[a-z0-9_-]+(\.[a-z0-9_-]+)*|\[[0-9a-f:.]+\]|\*")
_HOST = re.compile(r"(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+)(:[0-9]{1,5})?")


class Hosts:
    """The names that are answered to: those of this machine, and `more`, of which `*.name` has all below it."""

    def __init__(self, more: tuple[str, ...] = ()) -> None:
        self._any = "*" in more
        names = (*ALWAYS, *more)
        self._names = frozenset(name for name in names if not name.startswith("*"))
        self._below = tuple(name[1:] for name in names if name.startswith("*."))

    @classmethod
    def read(cls, environ: Mapping[str, str]) -> Hosts:
        """What KONTRACT_HOSTS adds: names separated by commas. Raises `Problem`."""
        more = tuple(environ.get("KONTRACT_HOSTS", "").lower().replace(",", " ").split())
        for name in more:
            if not _NAME.fullmatch(name):
                raise Problem(
                    f"KONTRACT_HOSTS holds {name!r}, which is not the name of a host.",
                    "It takes names without port, separated by commas: KONTRACT_HOSTS=my-tunnel.example.com,*.test",
                )
        return cls(more)

    def allow(self, host: str) -> bool:
        """Whether a request with this `Host` is answered."""
        found = _HOST.fullmatch(host)
        if found is None:
            return False
        name = found[1].lower().rstrip(".")
        return self._any or name in self._names or name.endswith(self._below)

    @staticmethod
    def refusal(host: str) -> str:
        """The sentence for a caller who is not answered."""
        found = _HOST.fullmatch(host)
        if found is None:
            return "the header Host is missing or not the name of a host"
        name = found[1][:100].lower()
        return (
            f"this server is for local development and does not answer to the name {name!r}; if it is yours (a tunnel, "
            f"a container), start with KONTRACT_HOSTS={name}"
        )
