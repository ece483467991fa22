"""`kontract build`: find what src/app declares and write the route table that the gateway reads.

The application is read, not imported: building must not run its code, and must work where its packages are missing. So
names in decorators have to be literals.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections import Counter
from pathlib import Path

from kontract.cli.build.cache import Cache
from kontract.cli.build.declared import Declared, Mistake, Ordered
from kontract.cli.build.module import read
from kontract.cli.build.table import render, render_broken
from kontract.cli.toolchain.checkout import Checkout, write_atomically
from kontract.cli.toolchain.problem import Problem
from kontract.cli.toolchain.progress import say

__all__ = ["ANSWER", "Declared", "render", "scan"]

ANSWER = "KONTRACT_BUILD_ANSWER"
"""Set by `kontract dev` and `kontract serve --local`: mistakes go to the terminal and to callers."""

CACHE = "build.json"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--check", action="store_true", help="write nothing; fail if the route table is not up to date")


def run(args: argparse.Namespace) -> int:
    checkout = Checkout.find()
    target = checkout.root / "src" / "routes.py"
    try:
        declared = scan(checkout.root / "src", checkout.state / CACHE)
    except Problem as problem:
        if args.check or not os.environ.get(ANSWER):
            raise
        _write(target, render_broken(_told(problem)))
        print(problem.render(), file=sys.stderr)
        return 0
    text = render(declared)
    if args.check:
        check(checkout.root / "src", declared)
        from kontract.cli import generate

        generate.check(checkout, generate.generated_files(checkout))
        say("kontract build --check: everything is up to date")
        return 0
    _write(target, text)
    count = Counter(one.kind for one in declared)
    say(f"kontract build: {count['backend']} functions, {count['table']} tables, {count['middleware']} middleware")
    return 0


def check(source: Path, declared: list[Declared] | None = None) -> None:
    """Raise Problem when src/routes.py is out of date: it may lack a guard."""
    if _text_of(source / "routes.py") != render(scan(source) if declared is None else declared):
        raise Problem("src/routes.py does not match src/app.", "Run: kontract build")


def _write(target: Path, text: str) -> None:
    # wrangler watches src/: writing the same text again would make it build for ever.
    if _text_of(target) != text:
        write_atomically(target, text)


def _text_of(path: Path) -> str | None:
    return path.read_text(encoding="utf-8") if path.is_file() else None


def _told(problem: Problem) -> str:
    return f"{problem.what} {problem.fix}" + (f"\n{problem.detail}" if problem.detail else "")


def scan(source: Path, kept: Path | None = None) -> list[Declared]:
    """Return everything declared below src/app, sorted by name; a Problem names file and line of every mistake.

    ``kept``: the file that caches what was read for the next build.
    """
    cache = Cache(kept)
    orders: list[Ordered] = []

    def others(module: str) -> str | None:
        """Return the text of another module of the application."""
        place = source.joinpath(*module.split("."))
        for path in (place.with_suffix(".py"), place / "__init__.py"):
            if module and path.is_file():
                return path.read_text(encoding="utf-8", errors="replace")
        return None

    declared: list[Declared] = []
    mistakes: list[Mistake] = []
    for path in sorted(path for path in (source / "app").rglob("*.py") if path.is_file()):
        module = ".".join(path.relative_to(source).with_suffix("").parts).removesuffix(".__init__")
        shown = path.relative_to(source.parent).as_posix()
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            mistakes.append(Mistake(f"{shown}:1", "the file is not UTF-8.", "Save it as UTF-8."))
            continue
        found = cache.get(shown, text) or cache.put(shown, text, read(text, module, shown, others))
        declared += found.declared
        orders += found.orders
        mistakes += found.mistakes
    cache.write()
    named, middleware = _named(declared, mistakes)
    mistakes += _without_order(named, orders)
    if not mistakes:  # a function that cannot be read would be missed by the middleware that names it
        mistakes += _lost(named, middleware)
    if mistakes:
        raise _problem(mistakes)
    # Middleware stays in the order of its definition, file after file: that is the order in which it runs.
    return sorted(named, key=lambda one: (one.kind, one.name)) + middleware


def _named(declared: list[Declared], mistakes: list[Mistake]) -> tuple[list[Declared], list[Declared]]:
    """Functions and tables, each name once; and the middleware."""
    found: dict[tuple[str, str], Declared] = {}
    for one in declared:
        if one.kind == "middleware":
            continue
        earlier = found.setdefault((one.kind, one.name), one)
        if earlier is not one:
            what = f"{one.kind} {one.name!r} is declared twice; the other declaration is at {earlier.where}."
            mistakes.append(Mistake(one.where, what, "Rename one of them."))
    return list(found.values()), [one for one in declared if one.kind == "middleware"]


def _without_order(named: list[Declared], orders: list[Ordered]) -> list[Mistake]:
    """Find queries ordered by fields whose type has no order: each such call would be rejected."""
    tables = {one.name: one for one in named if one.kind == "table"}
    return [
        Mistake(
            order.where,
            f"rows of table {order.table!r} cannot be ordered by {order.field!r}, whose type has no order.",
            "Order by a str, int, float, bool, Decimal, datetime, date, time, UUID or Enum.",
        )
        for order in orders
        if order.table in tables and order.field in tables[order.table].unordered
    ]


def _lost(named: list[Declared], middleware: list[Declared]) -> list[Mistake]:
    """Find middleware that fits no function: with a typing error it would guard nothing, and nobody would notice."""
    functions = {one.name: one for one in named if one.kind == "backend"}
    mistakes: list[Mistake] = []
    for one in middleware:
        assert one.around is not None
        unknown = [name for name in one.around.endpoints or () if name not in functions]
        if unknown:
            what = f"there is no function {unknown[0]!r}."
            mistakes.append(Mistake(one.where, what, "Correct the name in endpoints=."))
        elif functions and not any(one.around.fits(function) for function in functions.values()):
            what = "this middleware fits no function."
            fix = "Correct prefixurl=, egroup= or endpoints=; a function must match all that are given."
            mistakes.append(Mistake(one.where, what, fix))
    return mistakes


def _problem(mistakes: list[Mistake]) -> Problem:
    if len(mistakes) == 1:
        (one,) = mistakes
        return Problem(f"{one.where}: {one.what}", one.fix)
    return Problem(
        f"The application has {len(mistakes)} mistakes.", "Correct them and save.", "\n".join(map(str, mistakes))
    )
