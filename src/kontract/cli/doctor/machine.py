"""Checks this machine: tools against the lock files, safety of secrets, and the size of the upload."""

from __future__ import annotations

import importlib.metadata
import json
import platform
import re
import stat
import subprocess
import tempfile
import tomllib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kontract.cli.deploy_check import TOP_LEVEL, dry_run
from kontract.cli.doctor.finding import Finding
from kontract.cli.toolchain import dev_vars, node, setup, vendor
from kontract.cli.toolchain.checkout import Checkout
from kontract.cli.toolchain.problem import Problem
from kontract.cli.toolchain.progress import warn
from kontract.gateway import config
from kontract.server import env_file

_SET_UP = "Run: make setup"
_PARTS = 4
_SIZE = re.compile(r"([\d.]+) KiB / gzip: ([\d.]+) KiB")
LARGEST_KIB = 64 * 1024
"""KiB that Cloudflare accepts on every plan, uncompressed (Workers: Limits, since 2026)."""


# --- tools -----------------------------------------------------------------------------------------------------------


def toolchain_findings(checkout: Checkout) -> list[Finding]:
    """Compare what is installed with the lock files."""
    try:
        setup.check_python()
        findings = [*_python_packages(checkout), *_node_packages(checkout), *_vendored(checkout)]
    except Problem as problem:
        return [Finding(problem.what, problem.fix, wrong=True)]
    except (OSError, ValueError, KeyError) as error:  # a lock file is damaged or missing
        return [Finding(f"a lock file cannot be read: {error}", "Restore it from version control.", wrong=True)]
    return findings or [Finding(f"Python {platform.python_version()}; the tools match the lock files")]


def _python_packages(checkout: Checkout) -> Iterator[Finding]:
    locked = tomllib.loads((checkout.root / "uv.lock").read_text(encoding="utf-8"))["package"]
    pins: dict[str, list[str]] = {}  # some have a version for each Python
    for one in locked:
        if "version" in one and "editable" not in one["source"]:
            pins.setdefault(one["name"], []).append(one["version"])
    other = []
    for name, versions in sorted(pins.items()):
        try:
            found = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue  # for another system, or for the Worker alone
        if found not in versions:
            other.append(f"{name} {found} ({' or '.join(versions)} is locked)")
    if other:
        yield Finding(f"Python packages do not match uv.lock: {', '.join(other)}", _SET_UP, wrong=True)


def _node_packages(checkout: Checkout) -> Iterator[Finding]:
    packages: dict[str, Any] = json.loads((checkout.root / "package-lock.json").read_text(encoding="utf-8"))["packages"]
    wanted = packages[""].get("dependencies", {}) | packages[""].get("devDependencies", {})
    other = []
    for name in sorted(wanted):
        path = checkout.node_modules / name / "package.json"
        found = json.loads(path.read_text(encoding="utf-8"))["version"] if path.is_file() else "missing"
        version = packages[f"node_modules/{name}"]["version"]
        if found != version:
            other.append(f"{name} {found} ({version} is locked)")
    if other:
        yield Finding(f"Node packages do not match package-lock.json: {', '.join(other)}", _SET_UP, wrong=True)
    node.check_version(checkout, node.bin_folder())


def _vendored(checkout: Checkout) -> Iterator[Finding]:
    stamp = vendor.made_from(checkout)
    fresh = any(checkout.is_fresh("python_modules", made) for made in (stamp, f"pywrangler {stamp}"))
    if not fresh or not checkout.python_modules.is_dir():
        yield Finding("python_modules, the Worker's packages, do not match uv.lock", _SET_UP, wrong=True)


# --- secrets ---------------------------------------------------------------------------------------------------------


def secret_findings(checkout: Checkout) -> list[Finding]:
    """The file with this machine's secret: none of its values is ever shown."""
    path = checkout.root / ".dev.vars"
    if not path.is_file():
        return [Finding("there is no .dev.vars yet: the first `make dev` writes it")]
    found = [*_kept_private(path), *_well_formed(checkout, path)]
    return found or [Finding(".dev.vars is complete, readable by its owner alone, and not in git")]


def _kept_private(path: Path) -> Iterator[Finding]:
    if path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        yield Finding(f"{path.name} can be read by other users", f"Run: chmod 600 {path.name}", wrong=True)
    if _is_in_git(path):
        yield Finding(
            f"{path.name} is in git, and its secrets with it",
            f"Run: git rm --cached {path.name}, and renew what is in it (docs/how-to/rotate-secrets.md).",
            wrong=True,
        )


def _is_in_git(path: Path) -> bool:
    try:
        return not subprocess.run(
            ["git", "ls-files", "--error-unmatch", path.name], cwd=path.parent, capture_output=True, check=False
        ).returncode
    except OSError:  # a machine without git has no repository either
        return False


def _well_formed(checkout: Checkout, path: Path) -> Iterator[Finding]:
    try:
        dev_vars.check(path)
    except Problem as problem:
        yield Finding(problem.what, problem.fix, wrong=True)
        return
    try:
        variables = tomllib.loads(checkout.wrangler_toml.read_text(encoding="utf-8")).get("vars", {})
        given = {name: str(value) for name, value in variables.items()}
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, AttributeError):
        return  # which is a finding of its own
    try:
        config.read(given | env_file.parse(path.read_text(encoding="utf-8", errors="replace")))
    except config.ConfigurationError as error:
        yield Finding(f"{path.name} and [vars]: {error}", "The gateway does not answer until then.", wrong=True)


# --- the upload ------------------------------------------------------------------------------------------------------


def upload_findings(checkout: Checkout) -> list[Finding]:
    """Compare what wrangler would upload with what Cloudflare accepts."""
    setup.prepare(checkout, warn, run=False)  # stdout is for the findings
    try:
        with tempfile.TemporaryDirectory(prefix="kontract-upload-") as out:
            size = dry_run(checkout, TOP_LEVEL, Path(out)).size
            return [weigh(size, parts(Path(out)))]
    except Problem as problem:
        return [Finding(problem.what, problem.fix, wrong=True)]


def parts(folder: Path) -> str:
    """Name the largest packages of what wrangler wrote to ``folder``."""
    sizes: Counter[str] = Counter()
    for path in folder.rglob("*"):
        if path.is_file():
            inside = path.relative_to(folder).parts
            sizes["/".join(inside[:2]) if inside[0] == "python_modules" else inside[0]] += path.stat().st_size
    return ", ".join(f"{name} {size / 1024:,.0f}" for name, size in sizes.most_common(_PARTS))


def weigh(size: str, largest: str) -> Finding:
    """Judge the size of an upload in wrangler's words: "6292.11 KiB / gzip: 1514.07 KiB"."""
    found = _SIZE.fullmatch(size)
    if not found:
        return Finding(f"wrangler does not report the size of the Worker ({size})")
    whole, packed = float(found[1]), float(found[2])
    what = f"the Worker has {whole:,.0f} KiB, {packed:,.0f} KiB compressed (largest: {largest})"
    if whole > LARGEST_KIB:
        return Finding(
            f"{what}: Cloudflare accepts at most {LARGEST_KIB:,}",
            "Remove packages that the Worker does not need from [project] dependencies in pyproject.toml.",
            wrong=True,
        )
    return Finding(what)
