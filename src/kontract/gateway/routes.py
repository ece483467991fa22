"""The compiled route table. Application modules are imported when first used."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from importlib import import_module
from typing import Any

from msgspec import Struct

from kontract.core.model.declare import BACKEND, TABLE, BackendMeta
from kontract.core.model.rows import RowType
from kontract.core.model.signatures import Signature
from kontract.gateway.context import Context
from kontract.gateway.results import Result


class Route(Struct, frozen=True):
    """One backend function, as ``kontract build`` found it.

    ``middleware``: ``module:function``, outermost first. ``where``: file and line. ``arguments``: name, type as
    written, whether it is required. The code decides what a caller needs; ``perm``, ``ugroup`` and ``public`` are
    compared with it when the function is loaded. ``perm`` is None where nothing was compiled.
    """

    name: str
    module: str
    function: str
    middleware: tuple[str, ...] = ()
    where: str = ""
    perm: int | None = None
    ugroup: str | None = None
    public: bool = False
    arguments: tuple[tuple[str, str, bool], ...] = ()


class RowStruct(Struct, frozen=True):
    """One ``@table`` struct, as ``kontract build`` found it."""

    name: str
    module: str
    struct: str
    where: str = ""


Middleware = Callable[[Context, Callable[[], Awaitable[Any]]], Awaitable[Any]]

Chain = Callable[[Context, Callable[[], Awaitable[Any]]], Awaitable[Any]]
"""The chain of a function's middleware: it takes the context and the innermost step."""


def compose(middleware: Sequence[Middleware]) -> Chain:
    """Return the chain of ``middleware``, the first one outermost."""

    async def nothing(_context: Context, last: Callable[[], Awaitable[Any]]) -> Any:
        return await last()

    chain: Chain = nothing
    for one in reversed(middleware):
        chain = _around(one, chain)
    return chain


def _around(outer: Middleware, inner: Chain) -> Chain:
    async def run(context: Context, last: Callable[[], Awaitable[Any]]) -> Any:
        return await outer(context, lambda: inner(context, last))

    return run


def _load(where: str) -> Middleware:
    module, _, function = where.partition(":")
    middleware: Middleware = getattr(import_module(module), function)
    return middleware


class Endpoint:
    """A backend function that has been imported: ready to be called."""

    def __init__(self, route: Route, function: Callable[..., Any], middleware: Sequence[Middleware] = ()) -> None:
        """Read the function's declaration; raises TypeError when it is wrong."""
        meta: BackendMeta | None = getattr(function, BACKEND, None)
        if meta is None:
            message = f"{route.module}.{route.function} is no longer a backend function; run: kontract build"
            raise TypeError(message)
        compiled = (route.perm, route.ugroup, route.public)
        if route.perm is not None and compiled != (meta.perm, meta.ugroup, meta.public):
            # The permissions are not those of the build: the code has changed since.
            message = f"{route.where or route.name}: permissions differ from src/routes.py; run: kontract build"
            raise TypeError(message)
        if not inspect.iscoroutinefunction(function):
            message = f"{route.module}.{route.function} must be an async function"
            raise TypeError(message)
        self.name = route.name
        self.meta = meta
        self.function = function
        self.signature = Signature(function, route.name, Context)
        self.result = Result(function, route.name)
        self.chain = compose(middleware)
        self.is_wrapped = bool(middleware)


class Registry:
    """Everything the application declares, by name."""

    def __init__(self, routes: Mapping[str, Route], structs: Mapping[str, RowStruct]) -> None:
        """Take the compiled tables; nothing is imported yet."""
        self._routes = routes
        self._structs = structs
        self._endpoints: dict[str, Endpoint] = {}
        self._row_types: dict[str, RowType] = {}

    @classmethod
    def of(cls, functions: Mapping[str, Callable[..., Any]], structs: Iterable[type[Struct]] = ()) -> Registry:
        """Return a registry of ``@backend`` functions by name, and of ``@table`` structs, without `kontract build`.

        Raises TypeError for anything else. Only `kontract build` composes middleware.
        """
        routes = {name: Route(name, function.__module__, function.__qualname__) for name, function in functions.items()}
        rows: dict[str, RowStruct] = {}
        types: dict[str, RowType] = {}
        for struct in structs:
            table = getattr(struct, TABLE, None)
            if table is None:
                message = f"{struct.__module__}.{struct.__qualname__} is not a table: give it @table(name)"
                raise TypeError(message)
            rows[table.name] = RowStruct(table.name, struct.__module__, struct.__qualname__)
            types[table.name] = RowType(table.name, struct)
        self = cls(routes, rows)
        self._endpoints = {name: Endpoint(routes[name], function) for name, function in functions.items()}
        self._row_types = types
        return self

    def __len__(self) -> int:
        """Count the functions."""
        return len(self._routes)

    def names(self) -> Collection[str]:
        """Return the names of the functions."""
        return self._routes.keys()

    def tables(self) -> Collection[str]:
        """Return the names of the tables that have a struct."""
        return self._structs.keys()

    def endpoint(self, name: str) -> Endpoint | None:
        """Return the function ``name``, importing its module if necessary; None if there is none."""
        endpoint = self._endpoints.get(name)
        if endpoint is None:
            route = self._routes.get(name)
            if route is None:
                return None
            function = getattr(import_module(route.module), route.function)
            middleware = [_load(where) for where in route.middleware]
            endpoint = self._endpoints[name] = Endpoint(route, function, middleware)
        return endpoint

    def streamed(self, name: str) -> RowType | None:
        """Return the type of rows of a table whose changes can be streamed; None for other tables."""
        if name not in self._structs:
            return None
        rows = self.row_type(name)
        return rows if rows.streamed else None

    def row_type(self, name: str) -> RowType:
        """Return the type of rows of the logical table ``name``; dicts if it has no struct."""
        rows = self._row_types.get(name)
        if rows is None:
            declared = self._structs.get(name)
            struct = getattr(import_module(declared.module), declared.struct) if declared is not None else None
            rows = self._row_types[name] = RowType(name, struct)
        return rows
