"""`kontract generate ts|py`: typed clients, generated from the functions' signatures.

Unlike `kontract build` it imports the application, because Python has to evaluate the annotations.
"""

from __future__ import annotations

import argparse
import json
import sys
import tomllib
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kontract.cli import build
from kontract.cli.generate import python, typescript
from kontract.cli.toolchain.checkout import Checkout, write_atomically
from kontract.cli.toolchain.problem import Problem
from kontract.cli.toolchain.progress import say

if TYPE_CHECKING:
    from kontract.core.model.rows import RowType
    from kontract.gateway.routes import Registry

LANGUAGES = {"ts": typescript.render, "py": python.render}


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "language", nargs="?", choices=LANGUAGES, help="ts or py; without it, what pyproject.toml lists"
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="file to write (default: standard output)")
    parser.add_argument("--check", action="store_true", help="write nothing; fail if a file is not up to date")


def run(args: argparse.Namespace) -> int:
    checkout = Checkout.find()
    if args.language is None:
        files = generated_files(checkout)
        if not files:
            raise Problem(
                "pyproject.toml lists nothing to generate.",
                "Name a language (kontract generate ts --out FILE), or list files in pyproject.toml: "
                '[tool.kontract.generate] with ts = "FILE" and py = "FILE".',
            )
    else:
        text = LANGUAGES[args.language](describe(checkout))
        if args.out is None:
            print(text, end="")
            return 0
        files = [(args.out.absolute(), text)]
    if args.check:
        check(checkout, files)
        say("kontract generate --check: everything is up to date")
        return 0
    for path, text in files:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, text)
        say(f"kontract generate: wrote {_shown(checkout, path)}")
    return 0


def check(checkout: Checkout, files: list[tuple[Path, str]]) -> None:
    """Raise Problem when a file is not what would be written."""
    for path, text in files:
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            raise Problem(f"{_shown(checkout, path)} does not match the functions.", "Run: kontract generate")


def generated_files(checkout: Checkout) -> list[tuple[Path, str]]:
    """Return the files that pyproject.toml lists in [tool.kontract.generate], with their expected content."""
    with (checkout.root / "pyproject.toml").open("rb") as file:
        try:
            listed: Any = tomllib.load(file)
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise Problem(f"pyproject.toml cannot be read: {error}.", "Correct it.") from error
    for key in ("tool", "kontract", "generate"):
        listed = listed.get(key, {})
        if not isinstance(listed, dict):
            raise Problem(
                f"pyproject.toml: {key} is not a table.",
                'Write [tool.kontract.generate] with ts = "FILE" or py = "FILE".',
            )
    unknown = sorted(listed.keys() - LANGUAGES.keys())
    if unknown:
        raise Problem(
            f"pyproject.toml: [tool.kontract.generate] has the unknown key {unknown[0]}.",
            f"Known keys: {', '.join(LANGUAGES)}.",
        )
    for language, path in listed.items():
        if not isinstance(path, str) or not path.strip() or "\0" in path or (checkout.root / path).is_dir():
            raise Problem(
                "pyproject.toml: [tool.kontract.generate] has "
                f"{language} = {json.dumps(path, default=str)}, which is not a file name.",
                f'Write {language} = "FILE", a path relative to pyproject.toml.',
            )
    described = describe(checkout) if listed else {}
    return [(checkout.root / path, LANGUAGES[language](described)) for language, path in listed.items()]


def describe(checkout: Checkout) -> dict[str, Any]:
    """Return the OpenAPI document of the whole application, with the rows of its tables."""
    from kontract.gateway.context import Session
    from kontract.gateway.openapi import document

    with _imported(checkout) as (declared, registry):
        groups = frozenset(one.ugroup for one in declared if one.ugroup is not None)
        return document(registry, Session("", "", "", is_anonymous=False, ugroups=groups), rows=True)


def row_types(checkout: Checkout) -> dict[str, RowType]:
    """Return the type of the rows of each declared table, by table name."""
    with _imported(checkout) as (_, registry):
        return {name: registry.row_type(name) for name in registry.tables()}


@contextmanager
def _imported(checkout: Checkout) -> Iterator[tuple[list[build.Declared], Registry]]:
    """Import functions and tables; a Problem names the line of the application that fails."""
    from kontract.gateway.routes import Registry

    source = checkout.root / "src"
    declared = build.scan(source)
    compiled: dict[str, Any] = {}
    exec(build.render(declared), compiled)  # noqa: S102 - it is ours
    if str(source) not in sys.path:
        sys.path.insert(0, str(source))
    try:
        yield declared, Registry(compiled["ROUTES"], compiled["TABLES"])
    except (Exception, SystemExit) as error:
        frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "/src/app/" in frame.filename]
        place = f"src/app/{frames[-1].filename.rpartition('/src/app/')[2]}:{frames[-1].lineno}: " if frames else ""
        raise Problem(
            f"{place}the application cannot be imported: {type(error).__name__}: {error}.",
            "Correct it. The packages that it imports must be installed here.",
        ) from error


def _shown(checkout: Checkout, path: Path) -> str:
    return path.relative_to(checkout.root).as_posix() if path.is_relative_to(checkout.root) else str(path)
