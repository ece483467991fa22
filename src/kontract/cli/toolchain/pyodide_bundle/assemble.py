"""Assembles the runtime bundle that workerd would otherwise download, from npm's `pyodide` package.

workerd looks for `<dir>/pyodide_<version>.capnp.bin` in the folder given by `--pyodide-bundle-disk-cache-dir` before it
turns to the network. Released versions are checked against a digest compiled into workerd; the version named `dev` is
not, and stands for the same Pyodide release. The file is one Cap'n Proto message with three modules.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from kontract.cli.toolchain.problem import Problem
from kontract.cli.toolchain.pyodide_bundle import glue

SCHEMA = Path(__file__).with_name("bundle.capnp")
BUNDLE_NAME = "pyodide_dev.capnp.bin"
SOURCES = ("pyodide.asm.mjs", "pyodide.asm.wasm", "python_stdlib.zip")


def fingerprint(package: Path) -> str:
    """What the bundle depends on: the three source files (by size and time) and the code that adapts them."""
    digest = hashlib.sha256()
    for path in (*(package / name for name in SOURCES), SCHEMA, Path(glue.__file__), Path(__file__)):
        found = path.stat()
        digest.update(f"{path.name} {found.st_size} {found.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def assemble(package: Path, folder: Path) -> Path:
    """Write the bundle into `folder` from the npm package at `package`; an up-to-date one is left alone.

    The file appears by rename, so a half-written one is never found by workerd.
    """
    missing = [name for name in SOURCES if not (package / name).is_file()]
    if missing:
        raise Problem(
            f"npm's pyodide package is incomplete: {', '.join(missing)} not found.",
            "Delete node_modules and run the command again.",
        )
    bundle, stamp = folder / BUNDLE_NAME, folder / "fingerprint"
    wanted = fingerprint(package)
    if bundle.is_file() and stamp.is_file() and stamp.read_text() == wanted:
        return bundle
    folder.mkdir(parents=True, exist_ok=True)
    part = bundle.with_suffix(f".{os.getpid()}.part")
    try:
        _write(part, package)
        stamp.unlink(missing_ok=True)  # never a new bundle beside an old stamp, nor the reverse
        part.replace(bundle)
        stamp.write_text(wanted)
    finally:
        part.unlink(missing_ok=True)
    return bundle


def _write(target: Path, package: Path) -> None:
    import capnp  # imported here: a compiled module that only this fallback needs

    adapted = glue.adapt((package / "pyodide.asm.mjs").read_text(encoding="utf-8"))
    schema = capnp.load(str(SCHEMA))
    message = schema.Bundle.new_message()
    modules = message.init("modules", len(SOURCES))
    contents = (
        ("pyodideRuntime-internal:pyodide.asm", "src", adapted.encode()),
        ("pyodideRuntime-internal:pyodide.asm.wasm", "wasm", (package / "pyodide.asm.wasm").read_bytes()),
        ("pyodideRuntime-internal:python_stdlib.zip", "data", (package / "python_stdlib.zip").read_bytes()),
    )
    for module, (name, kind, content) in zip(modules, contents, strict=True):
        module.name = name
        module.type = "internal"
        setattr(module, kind, content)
    with target.open("wb") as file:
        message.write(file)
