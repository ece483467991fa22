"""The set-up: packages in one way, then the runtime, then the snapshot of it."""

import pytest

from kontract.cli.toolchain import node, setup, vendor
from kontract.cli.toolchain.checkout import Checkout
from kontract.cli.toolchain.problem import Problem
from kontract.cli.toolchain.pyodide_bundle import mode, online
from kontract.cli.toolchain.pyodide_bundle.mode import Source


@pytest.fixture
def done(monkeypatch):
    """What the set-up did, in order; nothing is really installed."""
    steps = []
    monkeypatch.delenv("KONTRACT_PYODIDE", raising=False)
    monkeypatch.setattr(node, "install", lambda *_rest: steps.append("npm"))
    monkeypatch.setattr(vendor, "install", lambda *_rest: steps.append("packages"))
    monkeypatch.setattr(mode, "reachable", lambda _hosts: steps.append("probe") or True)
    monkeypatch.setattr(mode, "subject", lambda *_rest: None)
    monkeypatch.setattr(mode, "_flags", lambda *_rest: [])
    monkeypatch.setattr(mode, "_wrapper", lambda *_rest: "workerd")
    monkeypatch.setattr(mode, "assemble", lambda *_rest: steps.append("assembled"))
    monkeypatch.setattr(online, "prepare", lambda *_rest: steps.append("published"))
    monkeypatch.setattr(mode, "take_snapshot", lambda *_rest: steps.append("snapshot"))
    return steps


def fails(*_rest):
    raise online.UnusableError("the host answers 404.")


def test_with_a_network_the_runtime_is_the_published_one(done, tmp_path):
    assert setup.prepare(Checkout(tmp_path)).source is Source.ONLINE
    assert done == ["npm", "packages", "probe", "published", "snapshot"]


def test_without_one_it_is_assembled_and_the_packages_are_the_same(done, tmp_path, monkeypatch):
    monkeypatch.setattr(mode, "reachable", lambda _hosts: False)

    assert setup.prepare(Checkout(tmp_path)).source is Source.OFFLINE
    assert done == ["npm", "packages", "assembled", "snapshot"]


def test_who_only_uploads_needs_no_snapshot(done, tmp_path):
    setup.prepare(Checkout(tmp_path), run=False)
    assert done == ["npm", "packages", "probe", "published"]


def test_a_published_runtime_that_does_not_work_is_one_line_and_remembered(done, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(online, "prepare", fails)

    assert setup.prepare(Checkout(tmp_path)).source is Source.OFFLINE
    (line,) = capsys.readouterr().err.splitlines()
    assert "cannot be used (the host answers 404.): using one assembled" in line
    assert setup.prepare(Checkout(tmp_path)).source is Source.OFFLINE
    again = ["npm", "packages", "assembled", "snapshot"]
    assert done == ["npm", "packages", "probe", "assembled", "snapshot", *again]


def test_who_insists_on_it_is_told_why_it_does_not_work(done, tmp_path, monkeypatch):
    monkeypatch.setattr(online, "prepare", fails)
    monkeypatch.setenv("KONTRACT_PYODIDE", "online")

    with pytest.raises(Problem, match="cannot be used: the host answers 404") as caught:
        setup.prepare(Checkout(tmp_path))
    assert "unset it" in caught.value.fix
