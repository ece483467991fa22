"""``exec``: one SELECT of the application on one logical table, read by sqlglot and written anew by this module.

The text is parsed; what comes out is walked by :class:`_Writer`, which knows a short list of nodes, and of each the
arguments it may have. A node, an argument, a function, a type or a name that is not listed is refused. What is sent to
PostgreSQL is only what ``_Writer`` wrote:

- every table is :data:`VIEW`, the rows of this one table at the snapshot, under an alias of our own making;
- every column is looked up in the tables in scope and written qualified and quoted;
- every function is on the list and written with its schema, every cast names a type of ``pg_catalog``;
- literals are quoted so that they mean the same whatever ``standard_conforming_strings`` says.

So sqlglot need not be right about everything: what it misreads is refused or means something else, but it cannot reach
another table. Nothing on the lists looks at a clock, a session, a file or a catalog, or can wait; the answer depends on
rows and parameters alone, and may be cached with its snapshot.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, ClassVar, NoReturn

import msgspec
from msgspec import Struct

from kontract.core import documents, limits
from kontract.core.errors import InvalidRequestError

_decode = msgspec.json.Decoder(dict[str, Any]).decode

Param = str | int | float | bool | None
"""What may be bound to ``$1, $2, ..``."""

VIEW = "kontract_view"
"""The CTE a statement reads: the visible rows of its table with the columns :data:`COLUMNS`."""

COLUMNS = ("id", "data", "_txid", "_owner")

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,62}", re.ASCII)
_NUMBER = re.compile(r"[0-9]{1,100}(\.[0-9]{1,100})?([eE][+-]?[0-9]{1,2})?|\.[0-9]{1,100}", re.ASCII)

_AGGREGATES = {
    "count": (1, 1), "sum": (1, 1), "min": (1, 1), "max": (1, 1), "avg": (1, 1), "bool_and": (1, 1), "bool_or": (1, 1),
    "array_agg": (1, 1), "jsonb_agg": (1, 1), "jsonb_object_agg": (2, 2), "string_agg": (2, 2),
}  # fmt: skip

# Without: whatever makes long text of short (repeat, lpad, replace, format), regular expressions (which may take for
# ever), power and factorial (likewise), clocks, random numbers, settings, and functions that return sets.
_FUNCTIONS = {
    "lower": (1, 1), "upper": (1, 1), "initcap": (1, 1), "length": (1, 1), "char_length": (1, 1), "btrim": (1, 2),
    "ltrim": (1, 2), "rtrim": (1, 2), "substr": (2, 3), "left": (2, 2), "right": (2, 2), "strpos": (2, 2),
    "starts_with": (2, 2), "split_part": (3, 3), "concat": (1, 20), "concat_ws": (2, 20), "reverse": (1, 1),
    "abs": (1, 1), "ceil": (1, 1), "floor": (1, 1), "round": (1, 2), "trunc": (1, 2), "sign": (1, 1), "mod": (2, 2),
    "sqrt": (1, 1),
    "jsonb_array_length": (1, 1), "jsonb_typeof": (1, 1), "jsonb_build_object": (0, 40), "jsonb_build_array": (0, 40),
    "jsonb_strip_nulls": (1, 1), "jsonb_extract_path": (2, 20), "jsonb_extract_path_text": (2, 20), "to_jsonb": (1, 1),
    "cardinality": (1, 1),
}  # fmt: skip

# These are grammar, not functions: they have no schema.
_FORMS = {"coalesce": (1, 20), "nullif": (2, 2), "greatest": (1, 20), "least": (1, 20)}

# Without dates: 'now'::date is a clock. ISO 8601 text compares in order of time.
_TYPES = {
    "TEXT": "text", "VARCHAR": "text", "SMALLINT": "int2", "INT": "int4", "BIGINT": "int8", "DECIMAL": "numeric",
    "FLOAT": "float8", "DOUBLE": "float8", "BOOLEAN": "bool", "JSONB": "jsonb", "UUID": "uuid",
}  # fmt: skip

_BINARY = {
    "And": "AND", "Or": "OR", "EQ": "=", "NEQ": "<>", "LT": "<", "LTE": "<=", "GT": ">", "GTE": ">=", "Add": "+",
    "Sub": "-", "Mul": "*", "Div": "/", "Mod": "%", "DPipe": "||", "JSONExtract": "->", "JSONExtractScalar": "->>",
    "JSONBExtract": "#>", "JSONBExtractScalar": "#>>", "JSONBContains": "?", "JSONBContainsAnyTopKeys": "?|",
    "JSONBContainsAllTopKeys": "?&", "ArrayContainsAll": "@>", "ArrayContainedBy": "<@",
    "NullSafeEQ": "IS NOT DISTINCT FROM", "NullSafeNEQ": "IS DISTINCT FROM",
}  # fmt: skip

_PARAM_TYPES: dict[type, str] = {str: "text", bool: "bool", int: "int8", float: "float8", type(None): "text"}


class Selection(Struct, frozen=True):
    """A checked SELECT: its text in parts, with the numbers of parameters between them, and their values."""

    parts: tuple[str | int, ...]
    params: tuple[Param, ...]

    def text(self, bound: int) -> str:
        """Return the SQL; ``bound`` is how many parameters come before those of :meth:`values`."""
        # All values travel as text, so that drivers which send text and drivers which send binary mean the same.
        return "".join(
            part
            if isinstance(part, str)
            else f"CAST(CAST(${bound + part} AS pg_catalog.text) AS "
            f"pg_catalog.{_PARAM_TYPES[type(self.params[part - 1])]})"
            for part in self.parts
        )

    def values(self) -> list[str | None]:
        """Return the parameters as :meth:`text` binds them."""
        return [None if p is None else str(p).lower() if isinstance(p, bool) else str(p) for p in self.params]


def parse(text: Any, params: Any, table: str) -> Selection:
    """Check a SELECT on the logical ``table``; raises InvalidRequestError with a sentence for anything else."""
    if not isinstance(text, str):
        raise _refusal(f"it must be text, not {type(text).__name__}")
    if len(text) > limits.SELECT_LENGTH:
        raise _refusal(f"it is longer than {limits.SELECT_LENGTH} characters")
    documents.check_text(text, "the SQL of exec")
    values = _check_params(params)
    parts = _compile(text, table)
    used = {part for part in parts if isinstance(part, int)}
    if used != set(range(1, len(values) + 1)):
        named = ", ".join(f"${n}" for n in sorted(used)) or "none"
        raise _refusal(f"it uses the parameters {named}, but {len(values)} values were given")
    return Selection(parts, values)


def rows(texts: Sequence[str]) -> list[dict[str, Any]]:
    """Decode the rows of a result; raises InvalidRequestError when there are too many or one cannot be held."""
    if len(texts) > limits.QUERY_ROWS:
        raise _refusal(f"it gives more than {limits.QUERY_ROWS} rows; give it a LIMIT, or a narrower WHERE")
    decoded = []
    for text in texts:
        # A row of the result holds rows of the table: their depth and a few levels of arrays around them.
        documents.check_depth(text.encode(), "a row that exec selects", limits.JSON_DEPTH + 8)
        try:
            decoded.append(_decode(text))
        except msgspec.DecodeError:
            raise _refusal("it gives a number that is out of range") from None
    return decoded


def explain(sqlstate: str) -> InvalidRequestError | None:
    """Return what the caller is told of PostgreSQL's error if the SELECT or its values caused it, else None."""
    known = {
        "22P02": "a value is not of the form that a cast in it asks for",
        "22003": "a number in it is out of range",
        "22012": "it divides by zero",
        "22023": "a value in it is not a valid argument of its function",
        "21000": "a subquery of it that must give one row gives several",
        "42883": "an operator or function in it does not take values of these types; add casts",
        "42804": "the types of two values in it do not fit together; add casts",
        "42803": "a column in it must be in GROUP BY or inside an aggregate",
        "54001": "it is too complex",
    }
    if sqlstate in known:
        return _refusal(known[sqlstate])
    # Missing tables and permissions are the operator's business.
    if sqlstate[:2] in ("21", "22", "54") or (sqlstate[:2] == "42" and sqlstate not in ("42P01", "42501", "42703")):
        return _refusal(f"PostgreSQL cannot evaluate it (SQLSTATE {sqlstate})")
    return None


def _refusal(reason: str) -> InvalidRequestError:
    return InvalidRequestError(f"exec cannot run this SQL: {reason}")


def _refuse(reason: str) -> NoReturn:
    raise _refusal(reason) from None


def _check_params(params: Any) -> tuple[Param, ...]:
    if isinstance(params, (str, bytes, Mapping)) or not isinstance(params, Sequence):
        _refuse(f"its parameters must be a list, not {type(params).__name__}")
    if len(params) > limits.SELECT_PARAMS:
        _refuse(f"it has more than {limits.SELECT_PARAMS} parameters")
    for number, value in enumerate(params, 1):
        if type(value) not in _PARAM_TYPES:
            _refuse(f"parameter ${number} must be str, int, float, bool or None, not {type(value).__name__}")
        if isinstance(value, str):
            documents.check_text(value, f"parameter ${number}")
        elif isinstance(value, float) and not math.isfinite(value):
            _refuse(f"parameter ${number} is {value}")
        elif isinstance(value, int) and not -(2**63) <= value < 2**63:
            _refuse(f"parameter ${number} is an integer beyond 64 bits; pass it as a string and cast it to numeric")
    if sum(len(value) for value in params if isinstance(value, str)) > limits.WRITE_SET_BYTES:
        _refuse(f"its parameters are larger than {limits.WRITE_SET_BYTES} characters")
    return tuple(params)


@lru_cache(maxsize=256)
def _compile(text: str, table: str) -> tuple[str | int, ...]:
    written = _Writer(table).statement(_tree(text))
    # \0 is in no text that comes here (documents.check_text): the writer puts it around the numbers of parameters.
    pieces = written.split("\0")
    return tuple(int(piece) if n % 2 else piece for n, piece in enumerate(pieces))


# --- reading ---------------------------------------------------------------------------------------------------------


def _tree(text: str) -> Any:
    from sqlglot.errors import SqlglotError

    tokenize, parse_tokens = _reader()
    try:
        tokens = tokenize(text)
        _check_tokens(tokens)
        trees = parse_tokens(tokens, text)
    except SqlglotError:
        _refuse("it is not a SELECT as PostgreSQL understands it, or uses syntax that exec does not know")
    except (RecursionError, ValueError, TypeError, AttributeError, KeyError, IndexError):
        # The parser tripped over something odd. Whatever it is, it is not what exec is for.
        _refuse("it cannot be parsed")
    if len(trees) != 1 or trees[0] is None:
        _refuse("it must be exactly one SELECT")
    return trees[0]


_ODD_TEXT = {
    "HEREDOC_STRING", "NATIONAL_STRING", "BIT_STRING", "HEX_STRING", "BYTE_STRING", "UNICODE_STRING", "RAW_STRING",
}  # fmt: skip


def _check_tokens(tokens: Sequence[Any]) -> None:
    if not tokens or tokens[0].token_type.name != "SELECT":
        _refuse("it must begin with SELECT")
    if len(tokens) > limits.SELECT_TOKENS:
        _refuse(f"it has more than {limits.SELECT_TOKENS} words and signs")
    depth = 0
    for token in tokens:
        kind = token.token_type.name
        if token.comments or kind in ("HINT", "COMMENT"):
            _refuse("leave the comments out")
        if kind == "SEMICOLON":
            _refuse("leave the semicolon out: it must be exactly one SELECT")
        if kind in _ODD_TEXT:
            _refuse("write text as '...', without a prefix; anything unusual belongs into a parameter")
        if kind in ("L_PAREN", "L_BRACKET", "L_BRACE", "CASE"):
            depth += 1
            if depth > limits.SELECT_DEPTH:
                _refuse("it is nested too deep")
        elif kind in ("R_PAREN", "R_BRACKET", "R_BRACE", "END"):
            depth -= 1


@lru_cache(maxsize=1)
def _reader() -> tuple[Any, Any]:
    """Return (tokenize, parse): sqlglot's PostgreSQL without its knowledge of functions.

    Imported here and not above: sqlglot takes a second to import in workerd, and most calls never need it. Without that
    knowledge every call is the same kind of node, with the name as it was written, and keeps the order of its
    arguments.
    """
    from sqlglot import exp
    from sqlglot.dialects.postgres import Postgres
    from sqlglot.parsers.postgres import PostgresParser
    from sqlglot.tokenizer_core import TokenType

    class Tokenizer(Postgres.Tokenizer):
        # No dollar quoting: it would swallow the text between $1 and $2.
        HEREDOC_STRINGS: ClassVar[Any] = []
        SINGLE_TOKENS: ClassVar[Any] = {**Postgres.Tokenizer.SINGLE_TOKENS, "$": TokenType.PARAMETER}

    class Parser(PostgresParser):
        FUNCTIONS: ClassVar[Any] = {}
        FUNCTION_PARSERS: ClassVar[Any] = {"CAST": PostgresParser.FUNCTION_PARSERS["CAST"]}
        NO_PAREN_FUNCTIONS: ClassVar[Any] = {}
        NO_PAREN_FUNCTION_PARSERS: ClassVar[Any] = {"CASE": PostgresParser.NO_PAREN_FUNCTION_PARSERS["CASE"]}
        STATEMENT_PARSERS: ClassVar[Any] = {}
        LAMBDAS: ClassVar[Any] = {}  # f(data -> x) is no lambda
        PLACEHOLDER_PARSERS: ClassVar[Any] = {
            TokenType.PARAMETER: PostgresParser.PLACEHOLDER_PARSERS[TokenType.PARAMETER],
        }
        RANGE_PARSERS: ClassVar[Any] = {
            kind: PostgresParser.RANGE_PARSERS[kind]
            for kind in (TokenType.BETWEEN, TokenType.IN, TokenType.IS, TokenType.LIKE, TokenType.ILIKE)
        }
        # "Any other operator" of PostgreSQL's table of precedence: all alike, from left to right.
        BITWISE: ClassVar[Any] = {
            TokenType.DPIPE: exp.DPipe,
            TokenType.ARROW: exp.JSONExtract,
            TokenType.DARROW: exp.JSONExtractScalar,
            TokenType.HASH_ARROW: exp.JSONBExtract,
            TokenType.DHASH_ARROW: exp.JSONBExtractScalar,
            TokenType.PLACEHOLDER: exp.JSONBContains,
            TokenType.QMARK_PIPE: exp.JSONBContainsAnyTopKeys,
            TokenType.QMARK_AMP: exp.JSONBContainsAllTopKeys,
            TokenType.AT_GT: exp.ArrayContainsAll,
            TokenType.LT_AT: exp.ArrayContainedBy,
        }
        JSON_OPERATORS: ClassVar[Any] = {}

    dialect = Postgres()

    def tokenize(text: str) -> Any:
        return Tokenizer(dialect=dialect).tokenize(text)

    def parse_tokens(tokens: Any, text: str) -> Any:
        return Parser(dialect=dialect).parse(tokens, text)

    return tokenize, parse_tokens


# --- writing ---------------------------------------------------------------------------------------------------------


class _Scope:
    """The tables one SELECT reads: by name, their alias and columns; ``outer`` is the SELECT around a subquery."""

    def __init__(self, outer: _Scope | None) -> None:
        self.outer = outer
        self.sources: dict[str, tuple[str, tuple[str, ...]]] = {}


class _Writer:
    """Writes a tree as SQL, or refuses it. One instance per statement."""

    def __init__(self, table: str) -> None:
        self._table = table
        self._aliases = 0
        self._depth = 0

    def statement(self, tree: Any) -> str:
        try:
            if type(tree).__name__ != "Select":
                _refuse("it must be exactly one SELECT")
            return self._select(tree, None)[0]
        except RecursionError:
            _refuse("it is nested too deep")

    # --- SELECT ---

    def _select(self, node: Any, outer: _Scope | None, *, named: bool = True) -> tuple[str, tuple[str, ...]]:
        """Return the text of a SELECT and the names of its columns. ``named``: those names matter."""
        _only(node, "expressions", "distinct", "from_", "joins", "where", "group", "having", "order", "limit", "offset")
        scope = _Scope(outer)
        source = node.args.get("from_")
        if source is None:
            _refuse(f"every query in it must read from {self._table}")
        _only(source, "this")
        text = f" FROM {self._source(source.this, scope)}"
        for join in node.args.get("joins") or ():
            text += self._join(join, scope)
        columns, names = self._columns(node.expressions, scope, named=named)
        distinct = node.args.get("distinct")
        if distinct is not None:
            _only(distinct)
        if node.args.get("where") is not None:
            text += f" WHERE {self._clause(node.args['where'], scope)}"
        group = node.args.get("group")
        if group is not None:
            _only(group, "expressions")
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
        return f"SELECT {'DISTINCT ' if distinct is not None else ''}{', '.join(columns)}{text}", names

    def _source(self, node: Any, scope: _Scope) -> str:
        kind = type(node).__name__
        self._aliases += 1
        if self._aliases > limits.SELECT_TABLES:
            _refuse(f"it reads the table more than {limits.SELECT_TABLES} times")
        alias = f"s{self._aliases}"
        if kind == "Table":
            _only(node, "this", "alias")
            identifier = node.this
            if type(identifier).__name__ != "Identifier" or not self._is_this_table(identifier):
                _refuse(f"it may read FROM {self._table} only")
            name = self._alias(node.args.get("alias")) or self._table
            text = f'"{VIEW}" AS {alias}'
            columns: tuple[str, ...] = COLUMNS
        elif kind == "Subquery":
            _only(node, "this", "alias")
            name = self._alias(node.args.get("alias")) or _refuse(
                "a subquery in FROM needs a name: (SELECT ..) AS name"
            )
            text, columns = self._subselect(node.this, None)
            text = f"({text}) AS {alias}"
        else:
            _refuse(f"it may read FROM {self._table} only")
        if name in scope.sources:
            _refuse(f"it names two tables {name}; give one of them another name with AS")
        scope.sources[name] = (alias, columns)
        return text

    def _is_this_table(self, identifier: Any) -> bool:
        _only(identifier, "this", "quoted")
        written = identifier.this
        folded = written if identifier.args.get("quoted") else _fold(written)
        return self._table in (written, folded)

    def _alias(self, node: Any) -> str | None:
        if node is None:
            return None
        _only(node, "this")
        return _name(node.this)

    def _join(self, node: Any, scope: _Scope) -> str:
        _only(node, "this", "on", "side", "kind")
        side = str(node.args.get("side") or "").upper()
        kind = str(node.args.get("kind") or "").upper()
        if (side, kind) not in (("", ""), ("", "INNER"), ("LEFT", ""), ("LEFT", "OUTER")) or not node.args.get("on"):
            _refuse("of joins it may use JOIN .. ON and LEFT JOIN .. ON")
        source = self._source(node.this, scope)
        return f" {'LEFT ' if side else ''}JOIN {source} ON {self._value(node.args['on'], scope)}"

    def _columns(self, nodes: Sequence[Any], scope: _Scope, *, named: bool) -> tuple[list[str], tuple[str, ...]]:
        columns: list[str] = []
        names: list[str] = []
        for node in nodes:
            for text, name in self._column_of(node, scope):
                if name is None and named:
                    _refuse(f"give column {len(names) + 1} a name with AS")
                names.append(name or f"column{len(names) + 1}")
                columns.append(f'{text} AS "{names[-1]}"')
        if not columns:
            _refuse("it selects no columns")
        if named and len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            _refuse(f"two of its columns are called {twice}; name them apart with AS")
        return columns, tuple(names)

    def _column_of(self, node: Any, scope: _Scope) -> list[tuple[str, str | None]]:
        kind = type(node).__name__
        if kind == "Star":
            _only(node)
            return [(f'{a}."{c}"', c) for a, columns in scope.sources.values() for c in columns]
        if kind == "Column" and type(node.this).__name__ == "Star":
            _only(node, "this", "table")
            _only(node.this)
            alias, columns = scope.sources.get(_name(node.args.get("table"))) or _refuse("its .* names no table")
            return [(f'{alias}."{c}"', c) for c in columns]
        if kind == "Alias":
            _only(node, "this", "alias")
            return [(self._value(node.this, scope), _name(node.args["alias"]))]
        return [(self._value(node, scope), _own_name(node))]

    def _clause(self, node: Any, scope: _Scope) -> str:
        _only(node, "this")
        return self._value(node.this, scope)

    def _order(self, node: Any, scope: _Scope, names: tuple[str, ...]) -> str:
        _only(node, "expressions")
        items = []
        for item in node.expressions:
            _only(item, "this", "desc", "nulls_first")
            text = self._position(item.this, scope, names, outputs_first=True)
            items.append(f"{text}{_direction(item)}")
        return f" ORDER BY {', '.join(items)}"

    def _position(self, node: Any, scope: _Scope, names: tuple[str, ...], *, outputs_first: bool) -> str:
        """Return an item of ORDER BY or GROUP BY: a column of the result by number or name, or an expression.

        PostgreSQL looks for a bare name among the columns of the result first in ORDER BY, last in GROUP BY.
        """
        if type(node).__name__ == "Literal" and not node.args.get("is_string"):
            if not re.fullmatch("[0-9]{1,3}", str(node.this)) or not 1 <= int(node.this) <= len(names):
                _refuse(f"there is no column {node.this:.20} to order or group by")
            return str(int(node.this))
        if type(node).__name__ == "Column" and not node.args.get("table"):
            _only(node, "this")
            name = _name(node.this)
            local = any(name in columns for _, columns in scope.sources.values())
            if name in names and (outputs_first or not local):
                return f'"{name}"'
        return self._value(node, scope)

    def _bound(self, node: Any, word: str) -> str:
        _only(node, "expression")
        value = node.args["expression"]
        inner = value.this if type(value).__name__ == "Cast" else value
        is_count = type(inner).__name__ == "Literal" and re.fullmatch("[0-9]{1,18}", str(inner.this))
        if not is_count and type(inner).__name__ != "Parameter":
            _refuse(f"{word} takes a whole number or a parameter")
        return self._value(value, _Scope(None))

    def _subselect(self, node: Any, outer: _Scope | None, *, named: bool = True) -> tuple[str, tuple[str, ...]]:
        if type(node).__name__ != "Select":
            _refuse("a subquery in it must be a plain SELECT")
        self._depth += 1
        if self._depth > limits.SELECT_DEPTH:
            _refuse("it is nested too deep")
        result = self._select(node, outer, named=named)
        self._depth -= 1
        return result

    # --- expressions ---

    def _value(self, node: Any, scope: _Scope) -> str:
        self._depth += 1
        if self._depth > limits.SELECT_DEPTH:
            _refuse("it is nested too deep")
        kind = type(node).__name__
        if kind in _BINARY:
            text = self._binary(node, kind, scope)
        else:
            write = getattr(self, f"_write_{kind.lower()}", None)
            if write is None:
                _refuse(f"it uses {_spell(kind)}, which is not on the list of what exec may do")
            text = write(node, scope)
        self._depth -= 1
        return str(text)

    def _binary(self, node: Any, kind: str, scope: _Scope) -> str:
        _only(node, "this", "expression", *(("typed", "safe") if kind == "Div" else ()))
        if kind in ("And", "Or"):
            # A chain of conditions leans to the left: flattened, so that a long one is not a deep one.
            operands = list(node.flatten(unnest=False))
            return "(" + f" {_BINARY[kind]} ".join(self._value(operand, scope) for operand in operands) + ")"
        return f"({self._value(node.this, scope)} {_BINARY[kind]} {self._value(node.expression, scope)})"

    def _write_paren(self, node: Any, scope: _Scope) -> str:
        _only(node, "this")
        return self._value(node.this, scope)

    def _write_literal(self, node: Any, scope: _Scope) -> str:
        del scope
        _only(node, "this", "is_string")
        text = str(node.this)
        if node.args.get("is_string"):
            return _quoted(text)
        if not _NUMBER.fullmatch(text):
            _refuse(f"{text:.30} is not a number")
        return text

    def _write_boolean(self, node: Any, scope: _Scope) -> str:
        del scope
        _only(node, "this")
        return "TRUE" if node.this else "FALSE"

    def _write_null(self, node: Any, scope: _Scope) -> str:
        del scope
        _only(node)
        return "NULL"

    def _write_parameter(self, node: Any, scope: _Scope) -> str:
        del scope
        _only(node, "this")
        number = node.this
        if type(number).__name__ != "Literal" or not re.fullmatch("[1-9][0-9]{0,2}", str(number.this), re.ASCII):
            _refuse("parameters are written $1, $2 and so on")
        _only(number, "this", "is_string")
        if number.args.get("is_string"):
            _refuse("parameters are written $1, $2 and so on")
        return f"\0{number.this}\0"

    def _write_column(self, node: Any, scope: _Scope) -> str:
        _only(node, "this", "table")
        name = _name(node.this)
        table = node.args.get("table")
        wanted = None if table is None else _name(table)
        around: _Scope | None = scope
        while around is not None:
            if wanted is None:
                found = [alias for alias, columns in around.sources.values() if name in columns]
            else:
                source = around.sources.get(wanted)
                found = [source[0]] if source and name in source[1] else []
                if source and not found:
                    _refuse(f"{wanted} has no column {name}")
            if len(found) > 1:
                _refuse(f"{name} may be a column of several tables; write table.{name}")
            if found:
                return f'{found[0]}."{name}"'
            around = around.outer
        columns = ", ".join(COLUMNS)
        _refuse(f"there is no column {name}; the columns are {columns}, and fields are read as data->>'field'")

    def _write_neg(self, node: Any, scope: _Scope) -> str:
        _only(node, "this")
        return f"(- {self._value(node.this, scope)})"

    def _write_not(self, node: Any, scope: _Scope) -> str:
        _only(node, "this")
        return f"(NOT {self._value(node.this, scope)})"

    def _write_is(self, node: Any, scope: _Scope) -> str:
        _only(node, "this", "expression", "negate")
        if type(node.expression).__name__ not in ("Null", "Boolean"):
            _refuse("IS takes NULL, TRUE or FALSE")
        word = "IS NOT" if node.args.get("negate") else "IS"
        return f"({self._value(node.this, scope)} {word} {self._value(node.expression, scope)})"

    def _write_like(self, node: Any, scope: _Scope, word: str = "LIKE") -> str:
        _only(node, "this", "expression", "negate")
        word = f"NOT {word}" if node.args.get("negate") else word
        return f"({self._value(node.this, scope)} {word} {self._value(node.expression, scope)})"

    def _write_ilike(self, node: Any, scope: _Scope) -> str:
        return self._write_like(node, scope, "ILIKE")

    def _write_between(self, node: Any, scope: _Scope) -> str:
        _only(node, "this", "low", "high")
        low, high = self._value(node.args["low"], scope), self._value(node.args["high"], scope)
        return f"({self._value(node.this, scope)} BETWEEN {low} AND {high})"

    def _write_in(self, node: Any, scope: _Scope) -> str:
        _only(node, "this", "expressions", "query")
        query = node.args.get("query")
        if query is not None:
            if type(query).__name__ != "Subquery" or node.args.get("expressions"):
                _refuse("IN takes a list or a subquery")
            inside = self._write_subquery(query, scope)
        elif node.expressions:
            inside = "(" + ", ".join(self._value(item, scope) for item in node.expressions) + ")"
        else:
            _refuse("IN takes a list or a subquery")
        return f"({self._value(node.this, scope)} IN {inside})"

    def _write_subquery(self, node: Any, scope: _Scope) -> str:
        _only(node, "this")
        text, names = self._subselect(node.this, scope, named=False)
        if len(names) != 1:
            _refuse("a subquery that is used as a value must select one column")
        return f"({text})"

    def _write_exists(self, node: Any, scope: _Scope) -> str:
        _only(node, "this")
        return f"(EXISTS ({self._subselect(node.this, scope, named=False)[0]}))"

    def _write_case(self, node: Any, scope: _Scope) -> str:
        _only(node, "this", "ifs", "default")
        text = "(CASE"
        if node.args.get("this") is not None:
            text += f" {self._value(node.this, scope)}"
        for branch in node.args.get("ifs") or ():
            _only(branch, "this", "true")
            text += f" WHEN {self._value(branch.this, scope)} THEN {self._value(branch.args['true'], scope)}"
        if node.args.get("default") is not None:
            text += f" ELSE {self._value(node.args['default'], scope)}"
        return f"{text} END)"

    def _write_cast(self, node: Any, scope: _Scope) -> str:
        _only(node, "this", "to")
        return f"CAST({self._value(node.this, scope)} AS {self._type(node.args['to'])})"

    def _type(self, node: Any) -> str:
        known = type(node).__name__ == "DataType" and _TYPES.get(getattr(node.this, "name", ""))
        if not known:
            _refuse(f"it may cast to {', '.join(_SPELLED_TYPES)}")
        _only(node, "this", "expressions")
        sizes = node.expressions
        if sizes and (known != "numeric" or len(sizes) > 2):
            _refuse("of types, only numeric takes a size in exec")
        for size in sizes:
            _only(size, "this")
            if type(size.this).__name__ != "Literal" or not re.fullmatch("[0-9]{1,3}", str(size.this.this), re.ASCII):
                _refuse("the size of numeric is written numeric(10, 2)")
        written = ", ".join(str(int(size.this.this)) for size in sizes)
        return f"pg_catalog.{known}({written})" if sizes else f"pg_catalog.{known}"

    def _write_array(self, node: Any, scope: _Scope) -> str:
        _only(node, "expressions")
        if not node.expressions:
            _refuse("an array in it must not be empty")
        return "ARRAY[" + ", ".join(self._value(item, scope) for item in node.expressions) + "]"

    def _write_filter(self, node: Any, scope: _Scope) -> str:
        _only(node, "this", "expression")
        call, where = node.this, node.expression
        if type(call).__name__ != "Anonymous" or _function(call) not in _AGGREGATES:
            _refuse("FILTER belongs to an aggregate")
        if type(where).__name__ != "Where":
            _refuse("FILTER is written FILTER (WHERE ..)")
        return f"{self._value(call, scope)} FILTER (WHERE {self._clause(where, scope)})"

    def _write_anonymous(self, node: Any, scope: _Scope) -> str:
        _only(node, "this", "expressions")
        name = _function(node)
        arity = _AGGREGATES.get(name) or _FUNCTIONS.get(name) or _FORMS.get(name)
        if arity is None:
            _refuse(f"the function {name:.70} is not on the list of what exec may call")
        given = list(node.expressions)
        written = name.upper() if name in _FORMS else f"pg_catalog.{name}"
        if name == "count" and len(given) == 1 and type(given[0]).__name__ == "Star":
            _only(given[0])
            return "pg_catalog.count(*)"
        distinct = order = ""
        if name in _AGGREGATES and given:
            if type(given[-1]).__name__ == "Order":
                _only(given[-1], "this", "expressions")
                order = " ORDER BY " + ", ".join(self._sorted(item, scope) for item in given[-1].expressions)
                given[-1] = given[-1].this
            if len(given) == 1 and type(given[0]).__name__ == "Distinct":
                _only(given[0], "expressions")
                distinct, given = "DISTINCT ", list(given[0].expressions)
        if not arity[0] <= len(given) <= arity[1]:
            _refuse(f"the function {name} does not take {len(given)} arguments")
        return f"{written}({distinct}{', '.join(self._value(item, scope) for item in given)}{order})"

    def _sorted(self, node: Any, scope: _Scope) -> str:
        _only(node, "this", "desc", "nulls_first")
        return f"{self._value(node.this, scope)}{_direction(node)}"


_SPELLED_TYPES = ("text", "smallint", "integer", "bigint", "numeric", "double precision", "boolean", "jsonb", "uuid")


def _only(node: Any, *known: str) -> None:
    """Refuse a node that has any argument besides the known ones, or a comment."""
    for key, value in node.args.items():
        if key not in known and value not in (None, False, []):
            _refuse(f"it uses {_spell(type(node).__name__)} with {_spell(key)}, which exec does not know")
    if node.comments:
        _refuse("leave the comments out")


def _name(node: Any) -> str:
    """Return an identifier as PostgreSQL folds it."""
    if type(node).__name__ != "Identifier":
        _refuse("a name in it is not a plain name")
    _only(node, "this", "quoted")
    name = node.this
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        _refuse("names in it are made of letters, digits and underscores, at most 63")
    return name if node.args.get("quoted") else _fold(name)


def _fold(name: str) -> str:
    return name.lower() if name.isascii() else name


def _function(node: Any) -> str:
    """Return the name of a call; a quoted name is refused, because it could be one of somebody's own functions."""
    if not isinstance(node.this, str):
        _refuse("the names of functions are written without quotes")
    return _fold(node.this)


def _own_name(node: Any) -> str | None:
    """Return the name PostgreSQL gives to a column without AS, where it is a sensible one."""
    kind = type(node).__name__
    if kind == "Column":
        return _name(node.this)
    if kind == "Anonymous":
        return _function(node)
    if kind in ("Filter", "Paren") or (kind == "Cast" and type(node.this).__name__ in ("Column", "Anonymous")):
        return _own_name(node.this)
    return None


def _direction(node: Any) -> str:
    down = bool(node.args.get("desc"))
    return f" {'DESC' if down else 'ASC'} NULLS {'FIRST' if node.args.get('nulls_first') else 'LAST'}"


def _quoted(text: str) -> str:
    """Return a literal that means the same with and without ``standard_conforming_strings``."""
    doubled = text.replace("'", "''")
    if "\\" not in doubled:
        return f"'{doubled}'"
    # A space, so that the E belongs to nothing before it.
    return " E'" + doubled.replace("\\", "\\\\") + "'"


def _spell(name: str) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).replace("_", " ").strip().upper()[:60]
