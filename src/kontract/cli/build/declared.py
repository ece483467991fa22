"""What `kontract build` finds in an application, and what it finds wrong."""

from __future__ import annotations

import msgspec


class Around(msgspec.Struct, frozen=True):
    """Which functions a middleware runs around: those that match all of its conditions."""

    prefixurl: str | None
    egroup: str | None
    endpoints: tuple[str, ...] | None

    def fits(self, function: Declared) -> bool:
        """Return whether the middleware runs around ``function``."""
        paths = (f"/rpc/{function.name}", f"/call/{function.name}")  # the same calls, so the same middleware
        return (
            (self.prefixurl is None or any(path.startswith(self.prefixurl) for path in paths))
            and (self.egroup is None or self.egroup == function.egroup)
            and (self.endpoints is None or function.name in self.endpoints)
        )


class Argument(msgspec.Struct, frozen=True):
    """A parameter that callers pass, with its type as written in the source."""

    name: str
    type: str
    required: bool


class Declared(msgspec.Struct, frozen=True):
    """One decorated function or class.

    ``kind``: backend, table or middleware. ``where``: file and line. Of a function: ``egroup``, ``ugroup``, ``perm``
    (bits), ``public``, ``arguments``; of middleware: ``around``; of a table: ``arguments`` are its fields, ``rows`` and
    ``stream`` as declared, ``unordered`` the fields that rows cannot be ordered by,
    ``spelled`` those whose values have several spellings, each with how its values are compared.
    """

    kind: str
    name: str
    module: str
    attribute: str
    where: str
    egroup: str | None = None
    around: Around | None = None
    ugroup: str | None = None
    perm: int = 7
    public: bool = False
    arguments: tuple[Argument, ...] = ()
    rows: str = "all"
    stream: bool = True
    unordered: tuple[str, ...] = ()
    spelled: tuple[tuple[str, str], ...] = ()


class Ordered(msgspec.Struct, frozen=True):
    """A query whose table and order are literals: ``ctx.storage.tasks.query(order_by="title")``."""

    table: str
    field: str
    where: str


class Mistake(msgspec.Struct, frozen=True):
    """Something wrong in the application: where, what, and what to do."""

    where: str
    what: str
    fix: str

    def __str__(self) -> str:
        """Return the place, then both sentences."""
        return f"{self.where}: {self.what} {self.fix}"


class Read(msgspec.Struct, frozen=True):
    """What one file holds."""

    declared: list[Declared]
    mistakes: list[Mistake]
    orders: list[Ordered] = []


class WrongError(Exception):
    """Stops the reading of one declaration and becomes a Mistake."""

    def __init__(self, line: int, what: str, fix: str) -> None:
        """Say what is wrong in which line, and what to do."""
        super().__init__(what)
        self.line = line
        self.what = what
        self.fix = fix
