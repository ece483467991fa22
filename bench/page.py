"""The pages of benchmarks: explanations from page.md and figures.md, figures from results.json.

Nothing here measures. In a template `{{ten}}`, `{{table}}`, `{{machine}}` and `{{times}}` stand for what the whole run
gave; `{{rows NAME}}` and `{{output NAME}}` for the rows of one part and for what it printed.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from records import TIMES, Record, is_met

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "bench" / "results.json"
PAGES = {
    ROOT / "bench" / "page.md": ROOT / "docs" / "benchmarks.md",
    ROOT / "bench" / "figures.md": ROOT / "docs" / "benchmark-figures.md",
}
"""The page that each template becomes."""

TEN = (
    (
        "From `git clone` to the first answer, nothing downloaded before",
        "clone",
        "from `git clone` to the first answer, caches empty",
        "",
    ),
    (
        "From saving a function to its first answer",
        "clone",
        "`make dev`: from saving a function to its first answer",
        "",
    ),
    ("Statements of a transfer (it reads two rows and writes both)", "workerd", "transfer, caches warm", ""),
    (
        "A read in workerd, beside a JavaScript Worker written by hand",
        "workerd",
        "get_task in workerd, 8 clients",
        "JavaScript",
    ),
    ("A read in workerd, beside FastAPI in a Python Worker", "workerd", "get_task in workerd, 8 clients", "FastAPI"),
    ("A read at `kontract serve`, beside FastAPI", "serve", "get_task on CPython, 16 connections", "FastAPI"),
    ("A write at `kontract serve`, beside FastAPI", "serve", "create_task on CPython, 16 connections", "FastAPI"),
    ("A transfer at `kontract serve`, beside FastAPI", "serve", "transfer on CPython, 16 connections", "FastAPI"),
    (
        "Transfers between the same two rows, many clients: most attempts of a call",
        "writes",
        "32 clients on two rows: most attempts a call",
        "",
    ),
    (
        "From a commit to the event at each of many listeners, median",
        "streams",
        "from the answer of a commit to 500 listeners, p50",
        "",
    ),
)
"""What matters most: what it is called on the first page, its part, its scenario, its peer.

Of records that agree in these, and in their unit, the first one counts: coordinators in memory before PostgreSQL.
"""

HEAD = ("what", "beside", "of what", "ratio or value (min-max of rounds)", "aim", "met?", "behind it")

_PLACE = re.compile(r"\{\{(\w+)(?: ([\w-]+))?\}\}")


def number(value: float) -> str:
    """Three digits that count, no more than that."""
    size = abs(value)
    if value == int(value) or size >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if size >= 10 else f"{value:.2f}"


def figure(record: Record) -> str:
    """The value, its spread and its unit."""
    text = f"{record.value:.2f}" if record.unit == TIMES else number(record.value)
    if record.low is not None and record.high is not None:
        low, high = (f"{one:.2f}" if record.unit == TIMES else number(one) for one in (record.low, record.high))
        text += f" ({low}-{high})"
    return f"{text} {record.unit}"


def cells(part: dict[str, Any]) -> list[tuple[str, ...]]:
    """The rows of one part; a part that did not come to its end has a row that says so."""
    rows = []
    for one in part["records"]:
        record = Record(**one)
        met = {None: "", True: "yes", False: "**no**"}[is_met(record)]
        rows.append(
            (record.product, record.peer, record.scenario, figure(record), record.aim, met, record.behind),
        )
    if part["problem"]:
        rows.append((part["name"], "", "**not measured**", "", "", "", part["problem"]))
    return rows


def table(parts: list[dict[str, Any]]) -> str:
    """A table in Markdown, its columns as wide as they need to be."""
    rows = [HEAD, *(row for part in parts for row in cells(part))]
    rows = [tuple(cell.replace("|", "\\|").replace("\n", " ") for cell in row) for row in rows]
    widths = [max(len(row[at]) for row in rows) for at in range(len(HEAD))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


def ten(parts: list[dict[str, Any]]) -> str:
    """The figures of the first page; one of a part that was not run says so."""
    lines = ["| What | Figure | Made of |", "|---|---|---|"]
    for name, part, scenario, peer in TEN:
        records = [Record(**one) for each in parts if each["name"] == part for one in each["records"]]
        found = [
            one for one in records if (one.scenario, one.peer) == (scenario, peer) and one.unit != "coordinator calls"
        ]
        value, behind = (figure(found[0]), found[0].behind) if found else ("(Not part of this run.)", "")
        lines.append(f"| {name} | {value} | {behind} |")
    return "\n".join(lines)


def machine(results: dict[str, Any]) -> str:
    """When, where and of what."""
    facts = results["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in results["versions"].items())
    kind = "a short run (`--quick`)" if results["quick"] else "a full run"
    return (
        f"{results['date']}, {kind} of commit {results['commit']}, {results['seconds'] / 60:.0f} minutes. "
        f"{facts['system']}, {facts['processors']} processors ({facts['processor']}), "
        f"{facts['memory_gib']} GiB of memory. {versions}."
    )


def times(parts: list[dict[str, Any]]) -> str:
    """What each part took, and how busy the machine was around it."""
    lines = ["| part | seconds | load before | load after | command |", "|---|---|---|---|---|"]
    for part in parts:
        before, after = part["load"]
        lines.append(f"| {part['name']} | {part['seconds']:.0f} | {before:.1f} | {after:.1f} | `{part['command']}` |")
    return "\n".join(lines)


def render(template: str, results: dict[str, Any]) -> str:
    """The page. A place of a part that was not run says so."""
    parts = results["parts"]
    by_name = {part["name"]: part for part in parts}

    def fill(place: re.Match[str]) -> str:
        kind, name = place.groups()
        if name is None:
            whole = {
                "ten": lambda: ten(parts),
                "table": lambda: table(parts),
                "machine": lambda: machine(results),
                "times": lambda: times(parts),
            }
            return whole[kind]()
        part = by_name.get(name)
        if part is None:
            return "(Not part of this run.)"
        if kind == "rows":
            return table([part])
        if kind == "output":
            return f"```text\n{part['output'].strip() or part['problem']}\n```"
        raise KeyError(place[0])

    return _PLACE.sub(fill, template)
