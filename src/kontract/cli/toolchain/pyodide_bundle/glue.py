"""Adapts Pyodide's JavaScript glue (`pyodide.asm.mjs`) to run inside workerd.

The glue is written for browsers and Node: it compiles WebAssembly, tells the time and finds random bytes through
globals. workerd forbids or replaces those, and offers its own functions in `pyodide-internal:builtin_wrappers`. The
adaptation is a list of text substitutions, each with the number of places it is expected to touch: a Pyodide release
that moves one of them must stop here, with a sentence, and not as a crash deep inside a WebAssembly instance.
"""

from __future__ import annotations

from dataclasses import dataclass

from kontract.cli.toolchain.problem import Problem

WRAPPERS = (
    "addEventListener",
    "getRandomValues",
    "location",
    "monotonicDateNow",
    "newWasmModule",
    "patchedLoadLibData",
    "wasmInstantiate",
)

_IMPORT = "import { " + ", ".join(WRAPPERS) + " } from 'pyodide-internal:builtin_wrappers';\n"
_NO_EVAL = "(() => { throw new Error('Pyodide tried to run generated JavaScript, which workerd does not allow'); })()"


@dataclass(frozen=True, slots=True)
class Substitution:
    """Replace every `old` by `new`; anything but `count` occurrences is an error."""

    why: str
    old: str
    new: str
    count: int


# Counted in pyodide 314.0.6. Order matters nowhere: no `new` contains another's `old`.
SUBSTITUTIONS = (
    Substitution(
        "workerd imports the factory by its name",
        "export default _createPyodideModule;",
        "export default _createPyodideModule;\nexport { _createPyodideModule };",
        1,
    ),
    Substitution("compiling needs workerd's own permission", "new WebAssembly.Module(", "newWasmModule(", 4),
    Substitution("so does instantiating from bytes", "WebAssembly.instantiate(", "wasmInstantiate(", 2),
    Substitution(
        "workerd's clock stands still between I/O; Python's import system needs times that advance",
        "Date.now()",
        "monotonicDateNow()",
        22,
    ),
    Substitution(
        "no entropy while modules are imported; workerd decides when there is",
        "crypto.getRandomValues(",
        "getRandomValues(Module, ",
        1,
    ),
    Substitution(
        "shared libraries come from the read-only file system of the Worker, compiled by workerd",
        "function loadLibData(){",
        "function loadLibData(){"
        "const library = patchedLoadLibData(Module, libName, flags.rpath);"
        "return flags.loadAsync ? Promise.resolve(library) : library;",
        1,
    ),
    Substitution(
        "memory of a shared library is placed where a snapshot expects it",
        "getMemory(metadata.memorySize",
        "Module.getMemoryPatched(Module, libName, metadata.memorySize",
        1,
    ),
    Substitution("no eval in workerd: inline assembly", "eval(func)", _NO_EVAL, 2),
    Substitution("no eval in workerd: downloaded scripts", "eval(data)", _NO_EVAL, 1),
    Substitution("no eval in workerd: scripts run from C", "eval(UTF8ToString(ptr))", _NO_EVAL, 3),
)


def adapt(source: str) -> str:
    """The glue as workerd needs it. Raises `Problem` naming every substitution whose count has changed."""
    changed = [
        f"{s.old!r} ({s.why}): expected {s.count}, found {found}"
        for s in SUBSTITUTIONS
        if (found := source.count(s.old)) != s.count
    ]
    if changed:
        raise Problem(
            "Pyodide's glue code is not the one this bundle was written for.",
            "Pin `pyodide` in package.json to the version that workerd uses, or bring the list in "
            "src/kontract/cli/toolchain/pyodide_bundle/glue.py up to date.",
            "\n".join(changed),
        )
    for s in SUBSTITUTIONS:
        source = source.replace(s.old, s.new)
    return _IMPORT + source
