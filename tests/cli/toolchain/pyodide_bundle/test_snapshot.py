"""The snapshot of Python that starts and reloads begin from: when it is taken, when it is used, and when neither."""

from __future__ import annotations

import os
import subprocess
import time

import pytest

from kontract.cli.toolchain.checkout import Checkout
from kontract.cli.toolchain.problem import Problem
from kontract.cli.toolchain.pyodide_bundle import mode, online, snapshot
from kontract.cli.toolchain.pyodide_bundle.mode import Source
from support.scratch import product_checkout

FLAG = f"--python-load-snapshot={snapshot.NAME}"

FAKE_WORKERD = """#!/bin/sh
echo "$@" >> {calls}
exit 1
"""


@pytest.fixture
def copy(checkout, tmp_path) -> Checkout:
    """A checkout with an application, the gateway, and packages; workerd tells how it was called, and ends."""
    root = tmp_path / "a copy"
    for name in ("src/kontract/gateway", "src/kontract/cli", "src/app", "python_modules/jwt"):
        (root / name).mkdir(parents=True)
    for name in ("src/kontract/__init__.py", "src/kontract/gateway/app.py", "src/kontract/cli/dev.py"):
        (root / name).write_text("")
    (root / "src/entry.py").write_text("import jwt\nfrom kontract.gateway.app import Gateway\nfrom app import tasks\n")
    (root / "src/session_do.py").write_text("from kontract.cloudflare.durable_object import SessionObject\n")
    (root / "src/app/tasks.py").write_text("")
    (root / "python_modules/jwt/__init__.py").write_text("")
    (root / "wrangler.toml").write_bytes(checkout.wrangler_toml.read_bytes())
    (root / "pyproject.toml").write_text("")
    return Checkout(root)


@pytest.fixture
def calls(copy, tmp_path, monkeypatch):
    workerd, told = tmp_path / "workerd", tmp_path / "calls"
    workerd.write_text(FAKE_WORKERD.format(calls=told))
    workerd.chmod(0o755)
    monkeypatch.setattr(mode, "_workerd", lambda _checkout: workerd)
    monkeypatch.setattr(mode, "assemble", lambda _package, _folder: None)
    monkeypatch.setattr(online, "prepare", lambda _subject, _tell: None)

    def read() -> list[str]:
        lines = told.read_text().splitlines() if told.is_file() else []
        told.unlink(missing_ok=True)
        return lines

    return read


def served(copy, calls) -> str:
    """What workerd is told when miniflare starts it."""
    wrapper = mode.prepare(copy, Source.ONLINE).environment["MINIFLARE_WORKERD_PATH"]
    subprocess.run([wrapper, "serve", "-"], check=False)
    (line,) = calls()
    return line


def take(copy) -> None:
    """A snapshot that was taken a minute ago, of files that are older."""
    past = time.time() - 120
    for path in copy.root.rglob("*"):
        os.utime(path, (past, past))
    found = copy.state / "pyodide" / snapshot.NAME
    found.parent.mkdir(parents=True)
    found.write_bytes(b"memory")
    os.utime(found, (past + 60, past + 60))


def test_without_one_python_starts_from_nothing(copy, calls):
    assert FLAG not in served(copy, calls)


def test_it_is_restored_at_every_start(copy, calls):
    take(copy)
    assert FLAG in served(copy, calls)


@pytest.mark.parametrize(
    ("file", "used"),
    [
        ("src/app/tasks.py", True),  # comes from its file anyhow
        ("src/entry.py", True),
        ("src/kontract/cli/dev.py", True),  # no part of a Worker
        ("src/kontract/__pycache__/x.cpython-314.pyc", True),
        ("src/kontract/gateway/app.py", False),
        ("python_modules/jwt/__init__.py", False),
    ],
)
def test_one_that_is_older_than_what_it_holds_is_left_alone(copy, calls, file, used):
    """An edit of the gateway counts in the next reload, and nobody has to know of snapshots for that."""
    take(copy)
    path = copy.root / file
    path.parent.mkdir(exist_ok=True)
    path.write_text("# edited")
    assert (FLAG in served(copy, calls)) is used


def test_files_that_became_newer_and_are_the_same_again_do_not_count(copy, calls):
    """As after `git switch` and back: the next start finds it fresh, and uses it."""
    take(copy)
    made_from = snapshot._fingerprint(mode.subject(copy, Source.ONLINE), snapshot.sources(copy))
    copy.mark("snapshot", made_from)
    os.utime(copy.root / "src/kontract/gateway/app.py")
    assert FLAG not in served(copy, calls)
    assert not mode.wants_snapshot(copy, Source.ONLINE)
    assert FLAG in served(copy, calls)
    (copy.root / "src/kontract/gateway/app.py").write_text("# edited")
    assert mode.wants_snapshot(copy, Source.ONLINE)
    assert FLAG not in served(copy, calls)


def test_it_holds_the_gateway_and_the_packages_and_nothing_of_the_application(copy):
    assert snapshot.imports(copy) == [
        "import jwt",
        "import kontract.cloudflare.durable_object",
        "import kontract.gateway.app",
    ]
    modules = {name for name, _path, _kind in snapshot.sources(copy)}
    assert modules == {"kontract/__init__.py", "kontract/gateway/app.py", "python_modules/jwt/__init__.py"}


def test_a_workerd_that_fails_costs_a_sentence(copy, calls, capsys):
    """Development goes on without."""
    mode.prepare(copy, Source.ONLINE)
    mode.take_snapshot(copy, Source.ONLINE)
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("  Taking a snapshot of the Python runtime")
    assert second.startswith("    No snapshot: workerd did not answer.")
    assert len(calls()) == 1
    assert FLAG not in served(copy, calls)


def test_what_was_taken_before_goes_when_a_new_one_fails(copy, calls):
    take(copy)
    mode.take_snapshot(copy, Source.ONLINE)
    calls()
    assert FLAG not in served(copy, calls)


def test_it_can_be_switched_off(copy, calls, monkeypatch):
    take(copy)
    monkeypatch.setenv("KONTRACT_SNAPSHOT", "off")
    mode.take_snapshot(copy, Source.ONLINE)
    assert calls() == []
    assert FLAG not in served(copy, calls)


def test_the_one_that_is_there_can_be_kept(copy, calls, monkeypatch):
    take(copy)
    monkeypatch.setenv("KONTRACT_SNAPSHOT", "keep")
    mode.take_snapshot(copy, Source.ONLINE)
    assert calls() == []
    assert FLAG in served(copy, calls)


def test_another_word_is_refused(copy, monkeypatch):
    monkeypatch.setenv("KONTRACT_SNAPSHOT", "maybe")
    with pytest.raises(Problem, match="KONTRACT_SNAPSHOT cannot be 'maybe'"):
        mode.take_snapshot(copy, Source.ONLINE)


def test_this_checkout_has_one_and_takes_no_other(checkout, capsys):
    """By the real workerd; tests/cli/test_dev_edits.py edits an application over it."""
    source = mode.choose(checkout)
    mode.prepare(checkout, source)
    mode.take_snapshot(checkout, source)
    found = checkout.state / "pyodide" / snapshot.NAME
    assert found.read_bytes()[:4] == b"\x00snp"
    capsys.readouterr()
    mode.take_snapshot(checkout, source)
    assert capsys.readouterr().out == ""


def test_that_of_a_copy_is_the_copys_own(checkout, tmp_path):
    """Or it would seem younger than what was edited in the copy, as soon as this checkout's is found fresh."""
    source = mode.choose(checkout)
    mode.take_snapshot(checkout, source)
    copy = product_checkout(checkout, tmp_path / "copy")
    edited = copy.root / "src/kontract/core/limits.py"
    edited.write_text(edited.read_text() + "\n")
    found = copy.state / "pyodide" / snapshot.NAME
    before = found.stat().st_mtime_ns
    assert not mode.wants_snapshot(checkout, source)
    assert found.stat().st_mtime_ns == before < edited.stat().st_mtime_ns


def test_every_thing_that_it_is_made_of_makes_another(copy, tmp_path):
    workerd = tmp_path / "workerd"
    workerd.write_text("1")

    def fingerprint(date="2026-01-01", flags=("a",)):
        subject = snapshot.Subject(copy, workerd, tmp_path, date, flags)
        return snapshot._fingerprint(subject, snapshot.sources(copy))

    seen = {fingerprint()}
    assert fingerprint() in seen
    seen |= {fingerprint(date="2026-01-02"), fingerprint(flags=("b",))}
    for path in ("src/kontract/gateway/app.py", "python_modules/jwt/__init__.py"):
        (copy.root / path).write_text("edited")
        seen.add(fingerprint())
    (copy.root / "src/kontract/new.py").write_text("")
    seen.add(fingerprint())
    (copy.root / "src/entry.py").write_text("")
    seen.add(fingerprint())
    workerd.write_text("12")
    seen.add(fingerprint())
    assert len(seen) == 8
