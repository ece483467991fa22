"""From text to a tree: sqlglot's PostgreSQL, told to know less."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, ClassVar

from kontract.core import limits
from kontract.core.transaction.select.refusals import refuse


def read(text: str) -> Any:
    """Return the tree of exactly one SELECT; raises InvalidRequestError for anything else."""
    from sqlglot.errors import SqlglotError

    tokenize, parse_tokens = _reader()
    try:
        tokens = tokenize(text)
        _check_tokens(tokens)
        trees = parse_tokens(tokens, text)
    except SqlglotError:
        refuse("it is not a SELECT as PostgreSQL understands it, or uses syntax that exec does not know")
    except (RecursionError, ValueError, TypeError, AttributeError, KeyError, IndexError):
        # The parser tripped over something odd. Whatever it is, it is not what exec is for.
        refuse("it cannot be parsed")
    if len(trees) != 1 or trees[0] is None:
        refuse("it must be exactly one SELECT")
    return trees[0]


_ODD_TEXT = {
    "HEREDOC_STRING", "NATIONAL_STRING", "BIT_STRING", "HEX_STRING", "BYTE_STRING", "UNICODE_STRING", "RAW_STRING",
}  # fmt: skip


def _check_tokens(tokens: Sequence[Any]) -> None:
    if not tokens or tokens[0].token_type.name != "SELECT":
        refuse("it must begin with SELECT")
    if len(tokens) > limits.SELECT_TOKENS:
        refuse(f"it has more than {limits.SELECT_TOKENS} words and signs")
    depth = 0
    for token in tokens:
        kind = token.token_type.name
        if token.comments or kind in ("HINT", "COMMENT"):
            refuse("leave the comments out")
        if kind == "SEMICOLON":
            refuse("leave the semicolon out: it must be exactly one SELECT")
        if kind in _ODD_TEXT:
            refuse("write text as '...', without a prefix; use a parameter for anything unusual")
        if kind in ("L_PAREN", "L_BRACKET", "L_BRACE", "CASE"):
            depth += 1
            if depth > limits.SELECT_DEPTH:
                refuse("it is nested too deep")
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
