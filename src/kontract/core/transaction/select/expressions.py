"""From a tree to text: expressions. Each kind of node that may occur has a method here, or is in ``BINARY``."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from typing import Any

from kontract.core import limits
from kontract.core.model.kinds import RECORDS, Kind, alternatives, is_array
from kontract.core.model.shown import holds_records, readable
from kontract.core.transaction.select.allowed import (
    AGGREGATES,
    BINARY,
    COLUMNS,
    FORMS,
    FUNCTIONS,
    GROWING,
    NUMBER,
    RAW,
    SPELLED_TYPES,
    TYPES,
    function_of,
    name_of,
    only,
    spell,
)
from kontract.core.transaction.select.refusals import refusal, refuse, stop
from kontract.core.transaction.select.text import quoted

_JSON_TEXT = quoted(r'"([^"\\]|\\.)*"')
_LARGE_EXPONENT = quoted("[0-9][eE][+-]?0*[1-9][0-9]{2}")


class NameScope:
    """The tables one SELECT reads: by name, their alias and columns; ``outer`` is the SELECT around a subquery."""

    def __init__(self, outer: NameScope | None) -> None:
        self.outer = outer
        self.sources: dict[str, tuple[str, tuple[str, ...]]] = {}


class Expressions(ABC):
    """Writes expressions, or refuses them. Subqueries in them are written by the class that derives from this one."""

    def __init__(self) -> None:
        self._depth = 0
        self._grown: list[list[str]] = [[]]  # of each SELECT around: what its growing aggregates are given
        self._stored: dict[str, Kind] = {}  # the aliases of the table itself, and what its rows are

    @abstractmethod
    def _subselect(self, node: Any, outer: NameScope | None, *, named: bool = True) -> tuple[str, tuple[str, ...]]:
        """Return the text of a SELECT inside another and the names of its columns. ``named``: those names matter."""

    def _clause(self, node: Any, scope: NameScope) -> str:
        only(node, "this")
        return self._value(node.this, scope)

    def _value(self, node: Any, scope: NameScope) -> str:
        self._depth += 1
        if self._depth > limits.SELECT_DEPTH:
            refuse("it is nested too deep")
        kind = type(node).__name__
        if kind in BINARY:
            text = self._binary(node, kind, scope)
        else:
            write = getattr(self, f"_write_{kind.lower()}", None)
            if write is None:
                refuse(f"it uses {spell(kind)}, which exec does not allow")
            text = write(node, scope)
        self._depth -= 1
        return str(text)

    def _binary(self, node: Any, kind: str, scope: NameScope) -> str:
        only(node, "this", "expression", *(("typed", "safe") if kind == "Div" else ()))
        stored = self._field(node, scope)
        if stored is not None and not holds_records(stored[1]):
            return f"({stored[0]})"
        if kind in ("And", "Or"):
            # A chain of conditions leans to the left: flattened, so that a long one is not a deep one.
            operands = list(node.flatten(unnest=False))
            return "(" + f" {BINARY[kind]} ".join(self._value(operand, scope) for operand in operands) + ")"
        return f"({self._value(node.this, scope)} {BINARY[kind]} {self._value(node.expression, scope)})"

    def _field(self, node: Any, scope: NameScope) -> tuple[str, Kind] | None:
        """Return a field of the stored row, if that is what it is and callers may read it, and its kind.

        ``data->>'done'`` is read from the stored row, so that an index on it serves, and what the view makes of rows
        need not be made.
        """
        kind = type(node).__name__
        if kind == "Paren":
            return self._field(node.this, scope)
        if kind == "Column":
            if type(node.this).__name__ != "Identifier" or name_of(node.this) != "data":
                return None
            alias = self._write_column(node, scope).partition(".")[0]
            return (f'{alias}."{RAW}"', self._stored[alias]) if alias in self._stored else None
        key = node.args.get("expression")
        if kind not in ("JSONExtract", "JSONExtractScalar") or type(key).__name__ != "Literal" or not key.is_string:
            return None
        inner = self._field(node.this, scope)
        if inner is None or type(node.this).__name__ == "JSONExtractScalar":
            return None
        records = [one for one in alternatives(inner[1]) if isinstance(one, RECORDS)]
        if len(records) != 1 or is_array(records[0]):
            return None
        found = dict(readable(records[0])).get(str(key.this))
        return None if found is None else (f"{inner[0]} {BINARY[kind]} {quoted(str(key.this))}", found)

    def _write_paren(self, node: Any, scope: NameScope) -> str:
        only(node, "this")
        return self._value(node.this, scope)

    def _write_literal(self, node: Any, scope: NameScope) -> str:
        del scope
        only(node, "this", "is_string")
        text = str(node.this)
        if node.args.get("is_string"):
            return quoted(text)
        if not NUMBER.fullmatch(text):
            refuse(f"{text:.30} is not a number")
        return text

    def _write_boolean(self, node: Any, scope: NameScope) -> str:
        del scope
        only(node, "this")
        return "TRUE" if node.this else "FALSE"

    def _write_null(self, node: Any, scope: NameScope) -> str:
        del scope
        only(node)
        return "NULL"

    def _write_parameter(self, node: Any, scope: NameScope) -> str:
        del scope
        only(node, "this")
        number = node.this
        if type(number).__name__ != "Literal" or not re.fullmatch("[1-9][0-9]{0,2}", str(number.this), re.ASCII):
            refuse("parameters are written $1, $2 and so on")
        only(number, "this", "is_string")
        if number.args.get("is_string"):
            refuse("parameters are written $1, $2 and so on")
        return f"\0{number.this}\0"

    def _write_column(self, node: Any, scope: NameScope) -> str:
        only(node, "this", "table")
        name = name_of(node.this)
        table = node.args.get("table")
        wanted = None if table is None else name_of(table)
        around: NameScope | None = scope
        while around is not None:
            if wanted is None:
                found = [alias for alias, columns in around.sources.values() if name in columns]
            else:
                source = around.sources.get(wanted)
                found = [source[0]] if source and name in source[1] else []
                if source and not found:
                    refuse(f"{wanted} has no column {name}")
            if len(found) > 1:
                refuse(f"{name} may be a column of several tables; write table.{name}")
            if found:
                return f'{found[0]}."{name}"'
            around = around.outer
        columns = ", ".join(COLUMNS)
        raise refusal(f"there is no column {name}; the columns are {columns}, and fields are read as data->>'field'")

    def _write_neg(self, node: Any, scope: NameScope) -> str:
        only(node, "this")
        return f"(- {self._value(node.this, scope)})"

    def _write_not(self, node: Any, scope: NameScope) -> str:
        only(node, "this")
        return f"(NOT {self._value(node.this, scope)})"

    def _write_is(self, node: Any, scope: NameScope) -> str:
        only(node, "this", "expression", "negate")
        if type(node.expression).__name__ not in ("Null", "Boolean"):
            refuse("IS takes NULL, TRUE or FALSE")
        word = "IS NOT" if node.args.get("negate") else "IS"
        return f"({self._value(node.this, scope)} {word} {self._value(node.expression, scope)})"

    def _write_like(self, node: Any, scope: NameScope, word: str = "LIKE") -> str:
        only(node, "this", "expression", "negate")
        word = f"NOT {word}" if node.args.get("negate") else word
        return f"({self._value(node.this, scope)} {word} {self._value(node.expression, scope)})"

    def _write_ilike(self, node: Any, scope: NameScope) -> str:
        return self._write_like(node, scope, "ILIKE")

    def _write_between(self, node: Any, scope: NameScope) -> str:
        only(node, "this", "low", "high")
        low, high = self._value(node.args["low"], scope), self._value(node.args["high"], scope)
        return f"({self._value(node.this, scope)} BETWEEN {low} AND {high})"

    def _write_in(self, node: Any, scope: NameScope) -> str:
        only(node, "this", "expressions", "query")
        query = node.args.get("query")
        if query is not None:
            if type(query).__name__ != "Subquery" or node.args.get("expressions"):
                refuse("IN takes a list or a subquery")
            inside = self._write_subquery(query, scope)
        elif node.expressions:
            inside = "(" + ", ".join(self._value(item, scope) for item in node.expressions) + ")"
        else:
            refuse("IN takes a list or a subquery")
        return f"({self._value(node.this, scope)} IN {inside})"

    def _write_subquery(self, node: Any, scope: NameScope) -> str:
        only(node, "this")
        text, names = self._subselect(node.this, scope, named=False)
        if len(names) != 1:
            refuse("a subquery that is used as a value must select one column")
        return f"({text})"

    def _write_exists(self, node: Any, scope: NameScope) -> str:
        only(node, "this")
        return f"(EXISTS ({self._subselect(node.this, scope, named=False)[0]}))"

    def _write_case(self, node: Any, scope: NameScope) -> str:
        only(node, "this", "ifs", "default")
        text = "(CASE"
        if node.args.get("this") is not None:
            text += f" {self._value(node.this, scope)}"
        for branch in node.args.get("ifs") or ():
            only(branch, "this", "true")
            text += f" WHEN {self._value(branch.this, scope)} THEN {self._value(branch.args['true'], scope)}"
        if node.args.get("default") is not None:
            text += f" ELSE {self._value(node.args['default'], scope)}"
        return f"{text} END)"

    def _write_cast(self, node: Any, scope: NameScope) -> str:
        only(node, "this", "to")
        value, to = self._value(node.this, scope), self._type(node.args["to"])
        if to == "pg_catalog.jsonb" and type(node.this).__name__ not in ("Literal", "Parameter"):
            # Those two are looked at beforehand. 1e100000 takes 10 bytes in JSON, and is written out with 100,001.
            return (
                f"(SELECT CASE WHEN pg_catalog.regexp_replace(c.v, {_JSON_TEXT}, '', 'g') ~ {_LARGE_EXPONENT} THEN "
                f"pg_catalog.to_jsonb({stop('pg_catalog.octet_length(c.v)')}) ELSE CAST(c.v AS pg_catalog.jsonb) END "
                f"FROM (SELECT CAST({value} AS pg_catalog.text) AS v OFFSET 0) AS c)"
            )
        return f"CAST({value} AS {to})"

    def _type(self, node: Any) -> str:
        known = type(node).__name__ == "DataType" and TYPES.get(getattr(node.this, "name", ""))
        if not known:
            refuse(f"it may cast to {', '.join(SPELLED_TYPES)}")
        only(node, "this", "expressions")
        sizes = node.expressions
        if sizes and (known != "numeric" or len(sizes) > 2):
            refuse("only the type numeric takes a size in exec")
        for size in sizes:
            only(size, "this")
            if type(size.this).__name__ != "Literal" or not re.fullmatch("[0-9]{1,3}", str(size.this.this), re.ASCII):
                refuse("the size of numeric is written numeric(10, 2)")
        written = ", ".join(str(int(size.this.this)) for size in sizes)
        return f"pg_catalog.{known}({written})" if sizes else f"pg_catalog.{known}"

    def _write_array(self, node: Any, scope: NameScope) -> str:
        only(node, "expressions")
        if not node.expressions:
            refuse("an array in it must not be empty")
        return "ARRAY[" + ", ".join(self._value(item, scope) for item in node.expressions) + "]"

    def _write_filter(self, node: Any, scope: NameScope) -> str:
        only(node, "this", "expression")
        call, where = node.this, node.expression
        if type(call).__name__ != "Anonymous" or function_of(call) not in AGGREGATES:
            refuse("FILTER belongs to an aggregate")
        if type(where).__name__ != "Where":
            refuse("FILTER is written FILTER (WHERE ..)")
        return f"{self._value(call, scope)} FILTER (WHERE {self._clause(where, scope)})"

    def _write_anonymous(self, node: Any, scope: NameScope) -> str:
        only(node, "this", "expressions")
        name = function_of(node)
        arity = AGGREGATES.get(name) or FUNCTIONS.get(name) or FORMS.get(name)
        if arity is None:
            refuse(f"exec does not allow the function {name:.70}")
        given = list(node.expressions)
        written = name.upper() if name in FORMS else f"pg_catalog.{name}"
        if name == "count" and len(given) == 1 and type(given[0]).__name__ == "Star":
            only(given[0])
            return "pg_catalog.count(*)"
        distinct = order = ""
        if name in AGGREGATES and given:
            if type(given[-1]).__name__ == "Order":
                only(given[-1], "this", "expressions")
                order = " ORDER BY " + ", ".join(self._sorted(item, scope) for item in given[-1].expressions)
                given[-1] = given[-1].this
            if len(given) == 1 and type(given[0]).__name__ == "Distinct":
                only(given[0], "expressions")
                distinct, given = "DISTINCT ", list(given[0].expressions)
        if not arity[0] <= len(given) <= arity[1]:
            refuse(f"the function {name} does not take {len(given)} arguments")
        values = [self._value(item, scope) for item in given]
        if name in GROWING:
            if any(self._is_column(part) for part in node.walk()) and not any(
                self._is_column(part, scope) for part in node.walk()
            ):
                refuse(f"{name} in a subquery must use columns of that subquery")
            self._grown[-1] += values
        return f"{written}({distinct}{', '.join(values)}{order})"

    @staticmethod
    def _is_column(node: Any, scope: NameScope | None = None) -> bool:
        """Whether it is a column; with ``scope``: of one of its own tables, not of a SELECT around it."""
        if type(node).__name__ != "Column" or type(node.this).__name__ != "Identifier":
            return False
        if scope is None:
            return True
        name, table = name_of(node.this), node.args.get("table")
        wanted = None if table is None else name_of(table)
        return any(name in columns and wanted in (None, known) for known, (_, columns) in scope.sources.items())

    def _sorted(self, node: Any, scope: NameScope) -> str:
        only(node, "this", "desc", "nulls_first")
        return f"{self._value(node.this, scope)}{direction(node)}"


def direction(node: Any) -> str:
    down = bool(node.args.get("desc"))
    return f" {'DESC' if down else 'ASC'} NULLS {'FIRST' if node.args.get('nulls_first') else 'LAST'}"
