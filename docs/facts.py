"""Tables of the reference that are taken from the code: limits, error codes, commands.

They stand in the pages themselves, so that the pages read the same on a code host and in the site. Between the lines
``<!-- facts: name -->`` and ``<!-- end -->`` nobody writes by hand: ``make docs`` brings them up to date, and a test
fails when they are not.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from kontract.cli.main import COMMANDS
from kontract.client.errors import CLASSES
from kontract.client.retries import RETRIED
from kontract.core import limits
from kontract.core.errors import Code

DOCS = Path(__file__).parent
_PLACE = re.compile(r"(?<=^<!-- facts: )([\w-]+)( -->\n).*?(?=^<!-- end -->$)", re.MULTILINE | re.DOTALL)
_LIMIT = re.compile(r'^# --- (?P<title>.+?) -+$|^(?P<name>[A-Z_]+) = .+\n"""(?P<reason>[^"]*)"""', re.MULTILINE)


def filled(text: str) -> str:
    """Return a page with its tables as the code has them now."""
    return _PLACE.sub(lambda found: f"{found[1]}{found[2]}{TABLES[found[1]]()}\n", text)


def stale() -> Iterator[tuple[Path, str]]:
    """Yield the pages whose tables are not those of the code, with what should stand there."""
    for path in sorted(DOCS.rglob("*.md")):
        text = path.read_text(encoding="utf-8")
        if (now := filled(text)) != text:
            yield path, now


def _limits() -> str:
    """One table for each part of the module, in its order."""
    source = Path(limits.__file__).read_text(encoding="utf-8")
    lines: list[str] = []
    for found in _LIMIT.finditer(source):
        if found["title"]:
            title = found["title"].partition(",")[0]
            lines += [
                "",
                f"## {title[0].upper()}{title[1:]}",
                "",
                "| Limit | Value | What it is, and why |",
                "|---|---|---|",
            ]
        else:
            reason = " ".join(found["reason"].split()).replace("``", "`")
            lines.append(f"| `{found['name']}` | {getattr(limits, found['name']):,} | {reason} |")
    return _joined(lines)


def _errors() -> str:
    lines = ["| Code | Status | Raised by functions as | Clients retry |", "|---|---|---|---|"]
    for code in Code:
        raised = CLASSES[code].__name__
        raises = f"`{raised}`" if raised != "HttpError" and CLASSES[code].code is code else ""
        lines.append(f"| `{code.name}` | {code.status} | {raises} | {'yes' if code in RETRIED else ''} |")
    return "\n".join(lines)


def _commands() -> str:
    """A section for each command, and one for each action that it has."""
    lines: list[str] = []
    for name, (path, summary) in COMMANDS.items():
        if importlib.util.find_spec(path) is None:
            continue
        module = importlib.import_module(path)
        parser = argparse.ArgumentParser(prog=f"kontract {name}", description=summary, **getattr(module, "PARSER", {}))
        module.configure(parser)
        lines += _command(parser, summary, "##")
    return _joined(lines)


def _joined(lines: list[str]) -> str:
    """With one empty line where there are several, and one at the end."""
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).rstrip("\n") + "\n"


def _command(parser: argparse.ArgumentParser, summary: str, heading: str) -> Iterator[str]:
    yield from ("", f"{heading} `{parser.prog}`", "", f"{summary[0].upper()}{summary[1:].removesuffix('.')}.", "")
    rows = [row for action in parser._actions for row in _row(parser, action)]  # noqa: SLF001 - argparse has no other way
    if rows:
        yield from ("| Argument | |", "|---|---|", *rows, "")
    for action in parser._actions:  # noqa: SLF001
        if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001
            told = {choice.dest: choice.help or "" for choice in action._choices_actions}  # noqa: SLF001
            for name, below in action.choices.items():
                yield from _command(below, told[name], f"{heading}#")


def _row(parser: argparse.ArgumentParser, action: argparse.Action) -> Iterator[str]:
    if isinstance(action, argparse._HelpAction | argparse._SubParsersAction):  # noqa: SLF001
        return
    if action.help == argparse.SUPPRESS:
        return
    if action.choices is not None and not action.metavar:
        value = "{" + ",".join(map(str, action.choices)) + "}"
    else:
        value = str(action.metavar or action.dest.upper())
    names = [name if action.nargs == 0 else f"{name} {value}" for name in action.option_strings] or [value]
    told = parser._get_formatter()._expand_help(action) if action.help else ""  # noqa: SLF001
    yield f"| {', '.join(f'`{name}`' for name in names)} | {_cell(told)} |"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


def _layers() -> str:
    """The layers of src/kontract and what each imports, as layers.py beside this file reads them."""
    found = importlib.util.spec_from_file_location("layers", DOCS / "layers.py")
    if found is None or found.loader is None:
        raise FileNotFoundError(DOCS / "layers.py")
    layers = importlib.util.module_from_spec(found)
    found.loader.exec_module(layers)
    return str(layers.table())


TABLES: dict[str, Callable[[], str]] = {
    "limits": _limits,
    "errors": _errors,
    "commands": _commands,
    "layers": _layers,
}


def main() -> int:
    """Write what is stale, and say so."""
    for path, text in stale():
        path.write_text(text, encoding="utf-8")
        print(f"docs/{path.relative_to(DOCS)}: tables brought up to date")
    return 0


if __name__ == "__main__":
    sys.exit(main())
