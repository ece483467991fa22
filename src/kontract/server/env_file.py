"""Files of variables (``.dev.vars``, ``--env-file``), read as wrangler reads them.

wrangler reads ``.dev.vars`` with dotenv for JavaScript, so that is the grammar: the same file gives the same values to
the Worker, to ``kontract serve`` and to the commands. python-dotenv has another one (decision 0029). The rules below
are dotenv 16.3.1's, with characters spelled out where Python means others by a class; a test compares both.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

# What JavaScript takes for white space, for the characters of a name, and for ends of lines.
_WHITE = "\t\n\v\f\r \u00a0\u1680\u2028\u2029\u202f\u205f\u3000\ufeff" + "".join(map(chr, range(0x2000, 0x200B)))
_ENDS = "\n\u2028\u2029"
_BEGIN, _END, _S = f"(?:(?<=[{_ENDS}])|\\A)", f"(?=[{_ENDS}]|\\Z)", f"[{_WHITE}]"

_ASSIGNMENT = re.compile(
    rf"{_BEGIN}{_S}*(?:export{_S}+)?(?P<name>[A-Za-z0-9_.-]+)(?:{_S}*(?P<equals>=){_S}*?|:{_S}+?)"
    rf"(?P<value>{_S}*'(?:\\'|[^'])*'|{_S}*\"(?:\\\"|[^\"])*\"|{_S}*`(?:\\`|[^`])*`|[^#\r\n]+)?"
    rf"{_S}*(?P<comment>\#[^{_ENDS}]*)?{_END}"
)
_QUOTED = re.compile(rf"{_BEGIN}(['\"`])([\s\S]*)\1{_END}")
_BLANK = re.compile(rf"{_S}*(?:\#[^{_ENDS}]*)?")


class Assignment(NamedTuple):
    """One variable of a file. ``doubt``: why other readers of such files would take it for something else, if so."""

    line: int
    name: str
    value: str
    doubt: str = ""


def parse(text: str) -> dict[str, str]:
    """Return the variables; what is no assignment is passed over, as wrangler does."""
    return {one.name: one.value for one in assignments(text)}


def assignments(text: str) -> Iterator[Assignment]:
    """Yield the variables in their order."""
    text = _lines(text)
    for found in _ASSIGNMENT.finditer(text):
        given = (found["value"] or "").strip(_WHITE)
        value = _QUOTED.sub(r"\2", given)
        if given.startswith('"'):
            value = value.replace("\\n", "\n").replace("\\r", "\r")
        doubt = ""
        if not found["equals"]:
            doubt = "is not NAME=value"
        elif found["comment"] and given[:1] not in ("'", '"', "`", ""):
            doubt = "has a # in a value without quotes: put the value in quotes, or the comment on a separate line"
        yield Assignment(text.count("\n", 0, found.start("name")) + 1, found["name"], value, doubt)


def stray(text: str) -> int | None:
    """Return the number of the first line that is neither an assignment nor a comment nor blank; None without one."""
    text = _lines(text)
    at = 0
    for begin, end in [*(found.span() for found in _ASSIGNMENT.finditer(text)), (len(text), len(text))]:
        between = text[at:begin]
        for number, line in enumerate(between.split("\n")):
            if not _BLANK.fullmatch(line):
                return text.count("\n", 0, at) + number + 1
        at = end
    return None


def _lines(text: str) -> str:
    return re.sub(r"\r\n?", "\n", text)
