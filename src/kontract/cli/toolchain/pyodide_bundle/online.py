"""Cloudflare's documented way: `pywrangler sync` fills python_modules/ with Pyodide's own interpreter and index."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from kontract.cli.toolchain import node, vendor
from kontract.cli.toolchain.checkout import Checkout
from kontract.cli.toolchain.processes import run_tool
from kontract.cli.toolchain.progress import Say, step


def sync(checkout: Checkout, tell: Say) -> None:
    """Run `pywrangler sync` unless python_modules came from it already, for this uv.lock."""
    made_from = f"pywrangler {vendor.made_from(checkout)}"
    if checkout.is_fresh("python_modules", made_from) and checkout.python_modules.is_dir():
        return
    checkout.check_space()
    tools = Path(sys.executable).parent
    with step("Vendoring the Worker's packages (pywrangler sync)", tell):
        checkout.forget("python_modules")
        # pywrangler resolves by itself and keeps the versions that it finds in its own lock file: those of uv.lock.
        vendor.export(checkout, checkout.root / "pylock.toml")
        environment = node.environment(node.bin_folder())
        run_tool(
            [tools / "pywrangler", "sync", "--force"],
            cwd=checkout.root,
            # pywrangler calls `uv` by name: this environment's, not whatever PATH offers.
            env={**environment, "PATH": f"{tools}{os.pathsep}{environment['PATH']}"},
            failed="pywrangler could not vendor the Worker's packages.",
            fix="Read its message below; KONTRACT_PYODIDE=offline takes the packages from PyPI instead.",
        )
        checkout.mark("python_modules", made_from)
