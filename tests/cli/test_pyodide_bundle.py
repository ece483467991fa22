"""The runtime bundle assembled from npm's pyodide: what workerd will find in it, and that changes stop it loudly."""

import capnp
import pytest

from kontract.cli.toolchain.problem import Problem
from kontract.cli.toolchain.pyodide_bundle import assemble as module
from kontract.cli.toolchain.pyodide_bundle import glue
from kontract.cli.toolchain.pyodide_bundle.assemble import BUNDLE_NAME, SCHEMA, assemble


@pytest.fixture
def package(checkout):
    return checkout.node_modules / "pyodide"


def test_the_bundle_holds_three_internal_modules(package, tmp_path):
    with assemble(package, tmp_path).open("rb") as file:
        message = capnp.load(str(SCHEMA)).Bundle.read(file, traversal_limit_in_words=2**32)
        found = {one.name: (str(one.type), one.which(), getattr(one, one.which())) for one in message.modules}

    assert {name: kind[:2] for name, kind in found.items()} == {
        "pyodideRuntime-internal:pyodide.asm": ("internal", "src"),
        "pyodideRuntime-internal:pyodide.asm.wasm": ("internal", "wasm"),
        "pyodideRuntime-internal:python_stdlib.zip": ("internal", "data"),
    }
    assert found["pyodideRuntime-internal:pyodide.asm.wasm"][2] == (package / "pyodide.asm.wasm").read_bytes()
    assert b"export { _createPyodideModule };" in found["pyodideRuntime-internal:pyodide.asm"][2]


def test_the_glue_reaches_the_platform_through_workerd_only(package):
    adapted = glue.adapt((package / "pyodide.asm.mjs").read_text())

    for forbidden in ("new WebAssembly.Module(", "WebAssembly.instantiate(", "Date.now()", " eval(", "=eval("):
        assert forbidden not in adapted
    assert adapted.startswith("import { addEventListener, getRandomValues, location, ")


@pytest.mark.parametrize("substitution", glue.SUBSTITUTIONS, ids=lambda one: one.old[:30])
def test_a_changed_count_is_a_problem_that_names_the_place(package, substitution):
    source = (package / "pyodide.asm.mjs").read_text() + substitution.old

    with pytest.raises(Problem) as caught:
        glue.adapt(source)

    assert f"expected {substitution.count}, found {substitution.count + 1}" in caught.value.detail
    assert repr(substitution.old) in caught.value.detail


def test_a_changed_count_leaves_no_bundle(package, tmp_path, monkeypatch):
    monkeypatch.setattr(glue, "SUBSTITUTIONS", (glue.Substitution("for the test", "not in pyodide", "", 1),))

    with pytest.raises(Problem):
        assemble(package, tmp_path / "bundle")

    assert list((tmp_path / "bundle").iterdir()) == []


def test_an_up_to_date_bundle_is_left_alone_and_a_new_pyodide_replaces_it(package, tmp_path, monkeypatch):
    first = assemble(package, tmp_path).stat()
    assert assemble(package, tmp_path).stat().st_ino == first.st_ino

    monkeypatch.setattr(module, "fingerprint", lambda _package: "another")
    assert assemble(package, tmp_path).stat().st_ino != first.st_ino
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fingerprint", BUNDLE_NAME]


def test_an_incomplete_npm_package_is_a_problem(tmp_path):
    with pytest.raises(Problem, match=r"pyodide.asm.mjs"):
        assemble(tmp_path, tmp_path / "bundle")
