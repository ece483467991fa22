"""node_modules comes from package-lock.json by the Node of the environment, whole or not at all."""

import json

import pytest

from kontract.cli.toolchain import node
from kontract.cli.toolchain.checkout import Checkout
from kontract.cli.toolchain.problem import Problem


@pytest.fixture
def here(tmp_path):
    root = tmp_path / "checkout"
    root.mkdir()
    (root / "package.json").write_text(json.dumps({"engines": {"node": ">=22"}}))
    (root / "package-lock.json").write_text("{}")
    return Checkout(root)


@pytest.fixture
def fake(tmp_path):
    """A Node that says what its test wants. `npm` is a script for it, which this one runs as a shell would."""

    def make(version="v24.1.0", npm="mkdir node_modules; touch node_modules/fresh"):
        folder = tmp_path / "fake" / "bin"
        folder.mkdir(parents=True)
        program = folder / "node"
        program.write_text(f'#!/bin/sh\nif [ "$1" = --version ]; then echo {version}; else {npm}; fi\n')
        program.chmod(0o755)
        return folder

    return make


def install(here, folder):
    return node.install(here, lambda _text: None, folder)


def test_packages_are_installed_once_for_a_lock_file(here, fake):
    folder = fake()

    assert install(here, folder)
    assert not install(here, folder)
    assert [path.name for path in here.node_modules.iterdir()] == ["fresh"]

    (here.root / "package-lock.json").write_text('{"packages": {}}')
    assert install(here, folder)


@pytest.mark.parametrize("version", ["v20.20.2", "v18.0.0", "nonsense"])
def test_a_node_that_is_too_old_says_which_is_needed(here, fake, version):
    with pytest.raises(Problem, match="wrangler needs 22 or later"):
        install(here, fake(version))


@pytest.mark.parametrize(
    ("npm", "says"),
    [
        ("mkdir node_modules; echo npm error code ENOTFOUND >&2; exit 1", "registry could not be reached"),
        ("mkdir node_modules; echo ENOSPC: no space left on device >&2; exit 1", "disk is full"),
        ("echo out of sync >&2; exit 1", "npm install"),
    ],
)
def test_a_failed_install_keeps_the_folder_of_before(here, fake, npm, says):
    here.node_modules.mkdir()
    (here.node_modules / "of_before").touch()

    with pytest.raises(Problem, match=says):
        install(here, fake(npm=npm))

    assert [path.name for path in here.node_modules.iterdir()] == ["of_before"]
    assert list((here.state / "tmp").iterdir()) == []


def test_the_systems_node_is_never_used(checkout):
    assert ".venv" in str(node.bin_folder()) or "site-packages" in str(node.bin_folder())
    node.check_version(checkout, node.bin_folder())


def test_the_lock_file_knows_every_system_that_workerd_is_built_for(checkout):
    """`npm ci` refuses a lock file without them, and on another system workerd would be missing."""
    packages = json.loads((checkout.root / "package-lock.json").read_text())["packages"]
    workerd = packages["node_modules/workerd"]

    for name, version in workerd["optionalDependencies"].items():
        assert packages[f"node_modules/{name}"]["version"] == version
