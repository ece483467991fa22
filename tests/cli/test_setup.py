"""The set-up chooses between two ways of getting the Worker's packages, and the second catches the first."""

import pytest

from kontract.cli.toolchain import node, setup, vendor
from kontract.cli.toolchain.checkout import Checkout
from kontract.cli.toolchain.problem import Problem
from kontract.cli.toolchain.pyodide_bundle import mode, online
from kontract.cli.toolchain.pyodide_bundle.mode import Runtime, Source


@pytest.fixture
def done(monkeypatch):
    """What the set-up did, in order; nothing is really installed."""
    steps = []
    monkeypatch.delenv("KONTRACT_PYODIDE", raising=False)
    monkeypatch.setattr(node, "install", lambda *_rest: steps.append("npm"))
    monkeypatch.setattr(vendor, "install", lambda *_rest: steps.append("packages from PyPI"))
    monkeypatch.setattr(online, "sync", lambda *_rest: steps.append("pywrangler"))
    monkeypatch.setattr(mode, "reachable", lambda _hosts: steps.append("probe") or True)
    monkeypatch.setattr(mode, "prepare", lambda _checkout, source, _tell: Runtime(source))
    monkeypatch.setattr(mode, "take_snapshot", lambda *_rest: steps.append("snapshot"))
    return steps


def fails(*_rest):
    raise Problem("pywrangler could not vendor the packages.", "Look.")


def test_with_a_network_it_goes_cloudflares_way(done, tmp_path):
    assert setup.prepare(Checkout(tmp_path)).source is Source.ONLINE
    assert done == ["npm", "probe", "pywrangler", "snapshot"]


def test_without_one_the_packages_come_from_pypi(done, tmp_path, monkeypatch):
    monkeypatch.setattr(mode, "reachable", lambda _hosts: False)

    assert setup.prepare(Checkout(tmp_path)).source is Source.OFFLINE
    assert done == ["npm", "packages from PyPI", "snapshot"]


def test_who_only_uploads_needs_no_snapshot(done, tmp_path):
    setup.prepare(Checkout(tmp_path), run=False)
    assert done == ["npm", "probe", "pywrangler"]


def test_a_network_that_fails_half_way_is_told_and_remembered(done, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(online, "sync", fails)

    assert setup.prepare(Checkout(tmp_path)).source is Source.OFFLINE
    assert "Falling back to packages from PyPI" in capsys.readouterr().err
    assert setup.prepare(Checkout(tmp_path)).source is Source.OFFLINE
    assert done == ["npm", "probe", "packages from PyPI", "snapshot", "npm", "packages from PyPI", "snapshot"]


def test_who_insists_on_the_network_is_told_why_it_fails(done, tmp_path, monkeypatch):
    monkeypatch.setattr(online, "sync", fails)
    monkeypatch.setenv("KONTRACT_PYODIDE", "online")

    with pytest.raises(Problem, match="pywrangler could not"):
        setup.prepare(Checkout(tmp_path))
