"""From a tree to text: the SELECT and its clauses."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from kontract.core import limits
from kontract.core.model.kinds import Kind
from kontract.core.transaction.select.allowed import COLUMNS, VIEW, fold, name_of, only, own_name
from kontract.core.transaction.select.expressions import Expressions, NameScope, direction
from kontract.core.transaction.select.refusals import refuse, stop


class Writer(Expressions):
    """Writes a tree as SQL, or refuses it. One instance per statement."""

    def __init__(self, table: str, row: Kind | None = None) -> None:
        """Write a statement on the logical ``table``, whose rows are of the kind ``row``, None for any."""
        super().__init__()
        self._table = table
        self._row = row
        self._aliases = 0

    def statement(self, tree: Any) -> str:
        """Return the SQL, with the number of each parameter between two NUL characters."""
        try:
            if type(tree).__name__ != "Select":
                refuse("it must be exactly one SELECT")
            return self._select(tree, None)[0]
        except RecursionError:
            refuse("it is nested too deep")

    def _select(self, node: Any, outer: NameScope | None, *, named: bool = True) -> tuple[str, tuple[str, ...]]:
        """Return the text of a SELECT and the names of its columns. ``named``: those names matter."""
        only(node, "expressions", "distinct", "from_", "joins", "where", "group", "having", "order", "limit", "offset")
        scope = NameScope(outer)
        source = node.args.get("from_")
        if source is None:
            refuse(f"every query in it must read from {self._table}")
        only(source, "this")
        read = f" FROM {self._source(source.this, scope)}"
        for join in node.args.get("joins") or ():
            read += self._join(join, scope)
        self._grown.append([])
        columns, names = self._columns(node.expressions, scope, named=named)
        distinct = node.args.get("distinct")
        if distinct is not None:
            only(distinct)
        where = self._clause(node.args["where"], scope) if node.args.get("where") is not None else ""
        text = ""
        group = node.args.get("group")
        if group is not None:
            only(group, "expressions")
            text += " GROUP BY " + ", ".join(
                self._position(item, scope, names, outputs_first=False) for item in group.expressions
            )
        if node.args.get("having") is not None:
            text += f" HAVING {self._clause(node.args['having'], scope)}"
        order = node.args.get("order")
        if order is not None:
            text += self._order(order, scope, names)
        for key, word in (("limit", "LIMIT"), ("offset", "OFFSET")):
            clause = node.args.get(key)
            if clause is not None:
                text += f" {word} {self._bound(clause, word)}"
        where = _bounded(read, where, self._grown.pop())
        first = f"SELECT {'DISTINCT ' if distinct is not None else ''}{', '.join(columns)}"
        return f"{first}{read}{f' WHERE {where}' if where else ''}{text}", names

    def _source(self, node: Any, scope: NameScope) -> str:
        kind = type(node).__name__
        self._aliases += 1
        if self._aliases > limits.SELECT_TABLES:
            refuse(f"it reads the table more than {limits.SELECT_TABLES} times")
        alias = f"s{self._aliases}"
        if kind == "Table":
            only(node, "this", "alias")
            identifier = node.this
            if type(identifier).__name__ != "Identifier" or not self._is_this_table(identifier):
                refuse(f"it may read FROM {self._table} only")
            name = self._alias(node.args.get("alias")) or self._table
            text = f'"{VIEW}" AS {alias}'
            columns: tuple[str, ...] = COLUMNS
            if self._row is not None:
                self._stored[alias] = self._row
        elif kind == "Subquery":
            only(node, "this", "alias")
            name = self._alias(node.args.get("alias")) or refuse("a subquery in FROM needs a name: (SELECT ..) AS name")
            text, columns = self._subselect(node.this, None)
            text = f"({text}) AS {alias}"
        else:
            refuse(f"it may read FROM {self._table} only")
        if name in scope.sources:
            refuse(f"it names two tables {name}; give one of them another name with AS")
        scope.sources[name] = (alias, columns)
        return text

    def _is_this_table(self, identifier: Any) -> bool:
        only(identifier, "this", "quoted")
        written = identifier.this
        folded = written if identifier.args.get("quoted") else fold(written)
        return self._table in (written, folded)

    def _alias(self, node: Any) -> str | None:
        if node is None:
            return None
        only(node, "this")
        return name_of(node.this)

    def _join(self, node: Any, scope: NameScope) -> str:
        only(node, "this", "on", "side", "kind")
        side = str(node.args.get("side") or "").upper()
        kind = str(node.args.get("kind") or "").upper()
        if (side, kind) not in (("", ""), ("", "INNER"), ("LEFT", ""), ("LEFT", "OUTER")) or not node.args.get("on"):
            refuse("of joins it may use JOIN .. ON and LEFT JOIN .. ON")
        source = self._source(node.this, scope)
        return f" {'LEFT ' if side else ''}JOIN {source} ON {self._value(node.args['on'], scope)}"

    def _columns(self, nodes: Sequence[Any], scope: NameScope, *, named: bool) -> tuple[list[str], tuple[str, ...]]:
        columns: list[str] = []
        names: list[str] = []
        for node in nodes:
            for text, name in self._column_of(node, scope):
                if name is None and named:
                    refuse(f"give column {len(names) + 1} a name with AS")
                names.append(name or f"column{len(names) + 1}")
                columns.append(f'{text} AS "{names[-1]}"')
        if not columns:
            refuse("it selects no columns")
        if named and len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            refuse(f"two of its columns are called {twice}; rename one with AS")
        return columns, tuple(names)

    def _column_of(self, node: Any, scope: NameScope) -> list[tuple[str, str | None]]:
        kind = type(node).__name__
        if kind == "Star":
            only(node)
            return [(f'{a}."{c}"', c) for a, columns in scope.sources.values() for c in columns]
        if kind == "Column" and type(node.this).__name__ == "Star":
            only(node, "this", "table")
            only(node.this)
            alias, columns = scope.sources.get(name_of(node.args.get("table"))) or refuse("its .* names no table")
            return [(f'{alias}."{c}"', c) for c in columns]
        if kind == "Alias":
            only(node, "this", "alias")
            return [(self._value(node.this, scope), name_of(node.args["alias"]))]
        return [(self._value(node, scope), own_name(node))]

    def _order(self, node: Any, scope: NameScope, names: tuple[str, ...]) -> str:
        only(node, "expressions")
        items = []
        for item in node.expressions:
            only(item, "this", "desc", "nulls_first")
            text = self._position(item.this, scope, names, outputs_first=True)
            items.append(f"{text}{direction(item)}")
        return f" ORDER BY {', '.join(items)}"

    def _position(self, node: Any, scope: NameScope, names: tuple[str, ...], *, outputs_first: bool) -> str:
        """Return an item of ORDER BY or GROUP BY: a column of the result by number or name, or an expression.

        PostgreSQL looks for a bare name among the columns of the result first in ORDER BY, last in GROUP BY.
        """
        if type(node).__name__ == "Literal" and not node.args.get("is_string"):
            if not re.fullmatch("[0-9]{1,3}", str(node.this)) or not 1 <= int(node.this) <= len(names):
                refuse(f"there is no column {node.this:.20} to order or group by")
            return str(int(node.this))
        if type(node).__name__ == "Column" and not node.args.get("table"):
            only(node, "this")
            name = name_of(node.this)
            local = any(name in columns for _, columns in scope.sources.values())
            if name in names and (outputs_first or not local):
                return f'"{name}"'
        return self._value(node, scope)

    def _bound(self, node: Any, word: str) -> str:
        only(node, "expression")
        value = node.args["expression"]
        inner = value.this if type(value).__name__ == "Cast" else value
        is_count = type(inner).__name__ == "Literal" and re.fullmatch("[0-9]{1,18}", str(inner.this))
        if not is_count and type(inner).__name__ != "Parameter":
            refuse(f"{word} takes a whole number or a parameter")
        return self._value(value, NameScope(None))

    def _subselect(self, node: Any, outer: NameScope | None, *, named: bool = True) -> tuple[str, tuple[str, ...]]:
        if type(node).__name__ != "Select":
            refuse("a subquery in it must be a plain SELECT")
        self._depth += 1
        if self._depth > limits.SELECT_DEPTH:
            refuse("it is nested too deep")
        result = self._select(node, outer, named=named)
        self._depth -= 1
        return result


def _bounded(read: str, where: str, grown: Sequence[str]) -> str:
    """Return the condition of a SELECT whose aggregates are given ``grown``: it ends the statement if that is too much.

    The same tables are read under the same condition first; PostgreSQL looks at that before it makes any value.
    """
    if not grown:
        return where
    sizes = " + ".join(
        f"COALESCE(pg_catalog.octet_length(CAST({value} AS pg_catalog.text)), 0) + {_ELEMENT_BYTES}" for value in grown
    )
    running = f"SELECT pg_catalog.sum({sizes}) OVER (ROWS UNBOUNDED PRECEDING) AS taken{read}"
    guard = (
        f"(SELECT pg_catalog.count(CASE WHEN g.taken > {limits.SELECT_BYTES} THEN {stop('g.taken')} END) >= 0 "
        f"FROM ({running}{f' WHERE {where}' if where else ''}) AS g)"
    )
    return f"{guard} AND ({where})" if where else guard


_ELEMENT_BYTES = 32
"""What a value takes in an array or in JSON that is being made, beside its own text."""
