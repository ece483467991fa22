"""`kontract doctor`: checks machine, configuration, application and database; says what is wrong and what to do."""

from __future__ import annotations

import argparse
import asyncio
import json
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from kontract.cli import build
from kontract.cli.doctor.database import database_findings
from kontract.cli.doctor.finding import Finding
from kontract.cli.doctor.importing import importing
from kontract.cli.doctor.machine import secret_findings, toolchain_findings, upload_findings
from kontract.cli.doctor.pitfalls import pitfalls
from kontract.cli.toolchain import database_url
from kontract.cli.toolchain.checkout import Checkout
from kontract.cli.toolchain.problem import Problem
from kontract.cli.toolchain.progress import say

_PLACEHOLDER_ID = "0" * 32


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--database-url", help=database_url.OPTION_HELP)
    parser.add_argument("--json", action="store_true", help="print one JSON array of the findings")
    parser.add_argument("--upload", action="store_true", help="also let wrangler pack the Worker and check its size")


def run(args: argparse.Namespace) -> int:
    checkout = Checkout.find()
    findings = toolchain_findings(checkout) + secret_findings(checkout)
    findings += wrangler_findings(checkout.wrangler_toml) + application_findings(checkout.root / "src")
    if args.upload:
        findings += upload_findings(checkout)
    url = database_url.find(args.database_url)
    if url:
        try:
            findings += asyncio.run(database_findings(url, checkout.root))
        except Problem as problem:
            said = f" ({problem.detail.splitlines()[0]})" if problem.detail else ""
            findings.append(Finding(f"{problem.what}{said}", problem.fix, wrong=True))
    else:
        findings.append(
            Finding(
                "no database was checked",
                "Set DATABASE_URL, or pass --database-url postgresql://user@host/db.",
                wrong=True,
            )
        )
    if args.json:
        say(json.dumps([{"level": one.level, "what": one.what, "fix": one.fix} for one in findings], indent=2))
        return 1 if any(one.wrong for one in findings) else 0
    return report(findings, say)


def report(findings: Sequence[Finding], tell: Callable[[str], None]) -> int:
    """Print all findings; 1 if one of them is wrong."""
    for finding in findings:
        tell(finding.render())
    wrong = sum(finding.wrong for finding in findings)
    tell(f"{wrong} of {len(findings)} findings need a fix." if wrong else "Nothing is wrong.")
    return 1 if wrong else 0


# --- wrangler.toml ---------------------------------------------------------------------------------------------------


def wrangler_findings(path: Path) -> list[Finding]:
    """Check wrangler.toml. Environments inherit no bindings: one that does not repeat them has no database."""
    try:
        return _judged(path, tomllib.loads(path.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        return [Finding(f"{path.name} cannot be read: {error}", "Restore it from version control.", wrong=True)]
    except (AttributeError, TypeError) as error:  # env = "x": good TOML, of another shape
        what = f"{path.name} has a value where a table or a list belongs: {error}"
        return [Finding(what, "Compare it with the one in version control.", wrong=True)]


def _judged(path: Path, settings: dict[str, Any]) -> list[Finding]:
    findings = []
    placeholders = []
    for name, section in {"(top level)": settings, **settings.get("env", {})}.items():
        hyperdrive = [one for one in section.get("hyperdrive", []) if one.get("binding") == "HYPERDRIVE"]
        objects = section.get("durable_objects", {}).get("bindings", [])
        # hyperdrive = []: it does without Hyperdrive and connects to the secret DATABASE_URL.
        missing = [] if hyperdrive or section.get("hyperdrive") == [] else ["HYPERDRIVE"]
        if not any(one.get("name") == "SESSION_DO" for one in objects):
            missing.append("SESSION_DO")
        if missing:
            findings.append(
                Finding(
                    f"{path.name}: environment {name} lacks the binding {' and '.join(missing)}",
                    "Environments inherit no bindings: repeat the block of the top level.",
                    wrong=True,
                )
            )
        placeholders += [name for one in hyperdrive if one.get("id") == _PLACEHOLDER_ID]
    complete = not findings
    findings += [Finding(f"{path.name}: {what}", fix, wrong=True) for what, fix in pitfalls(settings)]
    if complete:
        findings.append(Finding(f"{path.name}: every environment has all bindings"))
    production = settings.get("env", {}).get("production", settings)
    if production.get("vars", {}).get("KONTRACT_SIGN_UP"):
        findings.append(
            Finding(
                f"{path.name}: anybody can sign up in production (KONTRACT_SIGN_UP)",
                "Set it to an empty value there unless you want this; then only `kontract token` makes tokens.",
            )
        )
    examples = [
        name
        for name, section in settings.get("env", {}).items()
        if any("example.com" in str(route) for route in section.get("routes", []))
    ]
    if examples:
        findings.append(
            Finding(
                f"{path.name}: routes of {', '.join(examples)} still have example.com", "Put your own domain there."
            )
        )
    if placeholders:
        findings.append(
            Finding(
                f"{path.name}: no Hyperdrive id in {', '.join(placeholders)}",
                "Before the first deploy, run wrangler hyperdrive create and enter the id. Local runs do not need it.",
            )
        )
    return findings


# --- the application ------------------------------------------------------------------------------------------------


def application_findings(source: Path) -> list[Finding]:
    """Check src/app: whether it builds, and what its modules do while they are imported."""
    try:
        build.scan(source)
    except Problem as problem:
        return [Finding(problem.what, f"{problem.fix} (kontract build shows all mistakes)", wrong=True)]
    found = [Finding(what, fix, wrong=True) for what, fix in importing(source)]
    return found or [Finding("src/app builds, and its imports do nothing that workerd forbids")]
