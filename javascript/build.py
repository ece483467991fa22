"""Makes src/kontract/cloudflare/postgres.js: node-postgres and javascript/postgres.js in one ES module.

The result is committed, so that neither a build nor a deployment needs more than Python. Run this after a change of
javascript/postgres.js, or of the versions in package.json: .venv/bin/python javascript/build.py

The lines are not minified: whoever reviews a new version reads what has changed.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from kontract.cli.toolchain import node

HERE = Path(__file__).parent
ROOT = HERE.parent
MODULE = ROOT / "src" / "kontract" / "cloudflare" / "postgres.js"

UNUSED = ("pgpass", "pg-connection-string", "pg-types", "dns")
"""What pg requires and does not use here: nothing.js takes its place."""

NOTICE = """\
// Made by javascript/build.py from javascript/postgres.js and {packages}.
// Do not edit it: a test makes it again and compares.
//
// The packages are under this licence:
//
{licence}"""

REQUIRE = 'import { createRequire } from "node:module"; const require = createRequire("/");'
"""What the packages require at run time are modules of Node, which workerd has."""


_BUILD = """
const result = require("esbuild").buildSync({ ...JSON.parse(process.argv[1]), write: false });
process.stdout.write(result.outputFiles[0].text);
"""


def module() -> str:
    """Return what belongs into ``MODULE``."""
    options = {
        "entryPoints": [str(HERE / "postgres.js")],
        "absWorkingDir": str(ROOT),
        "bundle": True,
        "format": "esm",
        "target": "es2024",
        "platform": "node",
        "conditions": ["workerd", "worker"],  # pg-cloudflare is empty without
        "external": ["cloudflare:sockets"],
        "alias": dict.fromkeys(UNUSED, str(HERE / "nothing.js")),
        "define": {"process.env": "{}"},  # pg would read PGHOST and its like
        "banner": {"js": _notice() + REQUIRE},
    }
    return subprocess.run(
        [str(node.bin_folder() / "node"), "--eval", _BUILD, json.dumps(options)],
        cwd=ROOT,
        env=node.environment(node.bin_folder()),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    ).stdout


def _notice() -> str:
    """The packages with their versions, and their one licence."""
    names = ("pg", "pg-protocol", "pg-cloudflare")
    folders = [ROOT / "node_modules" / name for name in names]
    versions = [json.loads((folder / "package.json").read_text())["version"] for folder in folders]
    [licence] = {(folder / "LICENSE").read_text() for folder in folders}
    packages = ", ".join(f"{name} {version}" for name, version in zip(names, versions, strict=True))
    lines = "".join(f"//   {line}".rstrip() + "\n" for line in licence.splitlines())
    return NOTICE.format(packages=packages, licence=lines)


if __name__ == "__main__":
    MODULE.write_text(module())
    sys.stdout.write(f"{MODULE.relative_to(ROOT)}: {MODULE.stat().st_size / 1024:.0f} KiB\n")
