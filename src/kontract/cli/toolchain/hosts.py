"""Which names a local server answers to.

A foreign page can point its own name at 127.0.0.1 (DNS rebinding); the browser then takes this machine's server for
that page's own, and lets it read all answers. The name in `Host` reveals this.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from kontract.cli.toolchain.problem import Problem

ALWAYS = ("localhost", "*.localhost", "127.0.0.1", "[::1]")

_NAME = re.compile(r"(\*\.)?[a-z0-9_-]+(\.[a-z0-9_-]+)*|\[[0-9a-f:.]+\]|\*")
_HOST = re.compile(r"(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+)(:[0-9]{1,5})?")


class Hosts:
    """The accepted names: those of this machine and `more`, in which `*.name` covers all names below it."""

    def __init__(self, more: tuple[str, ...] = ()) -> None:
        self._any = "*" in more
        names = (*ALWAYS, *more)
        self._names = frozenset(name for name in names if not name.startswith("*"))
        self._below = tuple(name[1:] for name in names if name.startswith("*."))

    @classmethod
    def read(cls, environ: Mapping[str, str]) -> Hosts:
        """Return the names in KONTRACT_HOSTS, separated by commas. Raises `Problem`."""
        more = tuple(environ.get("KONTRACT_HOSTS", "").lower().replace(",", " ").split())
        for name in more:
            if not _NAME.fullmatch(name):
                raise Problem(
                    f"KONTRACT_HOSTS has {name!r}, which is not a host name.",
                    "It takes names without port, separated by commas: KONTRACT_HOSTS=my-tunnel.example.com,*.test",
                )
        return cls(more)

    def allow(self, host: str) -> bool:
        """Return whether a request with this `Host` is answered."""
        found = _HOST.fullmatch(host)
        if found is None:
            return False
        name = found[1].lower().rstrip(".")
        return self._any or name in self._names or name.endswith(self._below)

    @staticmethod
    def refusal(host: str) -> str:
        """Return the message for a refused caller."""
        found = _HOST.fullmatch(host)
        if found is None:
            return "the Host header is missing or not a host name"
        name = found[1][:100].lower()
        return (
            f"this server is for local development and does not accept the host name {name!r}; if it is yours (a "
            f"tunnel, a container), start with KONTRACT_HOSTS={name}"
        )
