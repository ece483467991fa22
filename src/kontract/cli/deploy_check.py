"""`kontract deploy-check`: what `wrangler deploy` would upload, for each environment of wrangler.toml.

It runs `wrangler deploy --dry-run`, which needs neither an account nor the network.
"""

from __future__ import annotations

import argparse
import re
import tempfile
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kontract.cli.toolchain import node, setup
from kontract.cli.toolchain.checkout import Checkout
from kontract.cli.toolchain.problem import Problem
from kontract.cli.toolchain.processes import run_tool
from kontract.cli.toolchain.progress import say

TOP_LEVEL = "(top level)"
"""The environment of `wrangler deploy --env=""`."""

_BINDING = re.compile(r"^env\.(\w+) \(", re.MULTILINE)
_SIZE = re.compile(r"^Total Upload: (.+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class DryRun:
    """wrangler's output, the names that the Worker would find in its `env`, and the size of the upload."""

    said: str
    bindings: frozenset[str]
    size: str


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--env", action="append", help="only this environment; may be repeated")


def run(args: argparse.Namespace) -> int:
    checkout = Checkout.find()
    environments = read(checkout)
    chosen = args.env or list(environments)
    unknown = [name for name in chosen if name not in environments]
    if unknown:
        raise Problem(
            f"wrangler.toml has no environment {', '.join(unknown)}.",
            f"Use one of {', '.join(list(environments)[1:])}.",
        )
    check_names(environments)
    setup.prepare(checkout, run=False)
    for name in chosen:
        with tempfile.TemporaryDirectory(prefix="kontract-upload-") as out:
            done = dry_run(checkout, name, Path(out))
        check_bindings(name, environments, done)
        without = "" if "HYPERDRIVE" in done.bindings else "; no Hyperdrive: it needs the secret DATABASE_URL"
        bindings = ", ".join(sorted(done.bindings))
        say(f"{name}: Worker {environments[name].get('name')}, {done.size}; {bindings}{without}")
    return 0


def read(checkout: Checkout) -> dict[str, dict[str, Any]]:
    """Return the environments of wrangler.toml by name, the top level first; raises Problem."""
    try:
        config = tomllib.loads(checkout.wrangler_toml.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise Problem(f"wrangler.toml cannot be read: {error}.", "Correct that line.") from error
    return {TOP_LEVEL: config, **config.get("env", {})}


def dry_run(checkout: Checkout, environment: str, out: Path) -> DryRun:
    """Let wrangler write to ``out`` what it would upload; raise Problem with wrangler's message if it fails."""
    node_bin = node.bin_folder()
    chosen = "" if environment == TOP_LEVEL else environment
    said = run_tool(
        [
            *node.wrangler_command(checkout, node_bin),
            *("deploy", "--dry-run", "--outdir", str(out), f"--env={chosen}"),
        ],
        cwd=checkout.root,
        env={**node.environment(node_bin), "WRANGLER_SEND_METRICS": "false", "FORCE_COLOR": "0"},
        failed=f"wrangler cannot deploy environment {environment}.",
        fix="Correct the error below.",
    )
    size = _SIZE.search(said)
    return DryRun(said, frozenset(_BINDING.findall(said)), size[1] if size else "of unknown size")


def declared(section: Mapping[str, Any]) -> Iterator[str]:
    """Return the names of everything that a section of wrangler.toml puts into `env`."""
    yield from (one["name"] for one in section.get("durable_objects", {}).get("bindings", []))
    yield from section.get("vars", {})
    for kind in section.values():
        if isinstance(kind, list):
            yield from (one["binding"] for one in kind if isinstance(one, dict) and "binding" in one)


def check_names(environments: Mapping[str, Mapping[str, Any]]) -> None:
    """Raise Problem when two named environments would be deployed as one Worker: each would overwrite the other."""
    seen: dict[str, str] = {}
    for environment, section in environments.items():
        name = section.get("name") or f"{environments[TOP_LEVEL].get('name')}-{environment}"
        if environment == TOP_LEVEL:
            continue
        other = seen.setdefault(name, environment)
        if other != environment:
            raise Problem(
                f"Environments {other} and {environment} both deploy the Worker {name}.",
                "Give each its own name in wrangler.toml.",
            )


def check_bindings(name: str, environments: Mapping[str, Mapping[str, Any]], done: DryRun) -> None:
    """Raise Problem when the Worker would not have what the top level of wrangler.toml declares.

    An environment with ``hyperdrive = []`` does without Hyperdrive on purpose.
    """
    wanted = set(declared(environments[TOP_LEVEL])) | set(declared(environments[name]))
    if environments[name].get("hyperdrive") == []:
        wanted.discard("HYPERDRIVE")
    missing = sorted(wanted - done.bindings)
    if missing:
        raise Problem(
            f"Environment {name} would be deployed without {', '.join(missing)}.",
            "Named environments inherit neither bindings nor vars: repeat those at the top level of wrangler.toml.",
        )
