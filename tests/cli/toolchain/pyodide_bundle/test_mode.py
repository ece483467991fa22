"""Where the Python runtime comes from: the person's word, what is remembered, or a short look at the network."""

import os
import subprocess
import time
import tomllib

import pytest

from kontract.cli.toolchain.checkout import Checkout
from kontract.cli.toolchain.problem import Problem
from kontract.cli.toolchain.pyodide_bundle import mode, online
from kontract.cli.toolchain.pyodide_bundle.mode import DEVELOPMENT_FLAGS, Source


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.delenv("KONTRACT_PYODIDE", raising=False)
    return Checkout(tmp_path)


def network(monkeypatch, answer):
    asked = []
    monkeypatch.setattr(mode, "reachable", lambda hosts: asked.append(hosts) or answer)
    return asked


@pytest.mark.parametrize("source", list(Source))
def test_the_persons_word_comes_before_everything(here, monkeypatch, source):
    asked = network(monkeypatch, answer=True)
    monkeypatch.setenv("KONTRACT_PYODIDE", source.value)

    assert mode.choose(here) is source
    assert asked == []


def test_a_word_that_is_neither_is_a_problem(here, monkeypatch):
    monkeypatch.setenv("KONTRACT_PYODIDE", "maybe")

    with pytest.raises(Problem, match="`online` or `offline`"):
        mode.choose(here)


@pytest.mark.parametrize(("answer", "source"), [(True, Source.ONLINE), (False, Source.OFFLINE)])
def test_the_network_is_asked_once_a_day(here, monkeypatch, answer, source):
    asked = network(monkeypatch, answer)

    assert [mode.choose(here), mode.choose(here)] == [source, source]
    assert len(asked) == 1

    yesterday = time.time() - 25 * 3600
    os.utime(here.state / "pyodide-source", (yesterday, yesterday))
    mode.choose(here)
    assert len(asked) == 2


def test_a_silent_network_costs_no_more_than_the_probes_time(monkeypatch):
    monkeypatch.setattr(mode, "_answers", lambda _host, _seconds: time.sleep(30))
    started = time.monotonic()

    assert mode.reachable(("a.invalid", "b.invalid"), 0.3) is False
    assert time.monotonic() - started < 2


def test_every_host_is_needed(monkeypatch):
    monkeypatch.setattr(mode, "_answers", lambda host, _seconds: host == "up")

    assert mode.reachable(("up",), 1)
    assert not mode.reachable(("up", "down"), 1)


def test_a_host_that_refuses_does_not_answer():
    assert mode._answers("127.0.0.1:9", 1) is False


def test_offline_says_so_in_one_line_and_adds_the_flags_to_those_of_wrangler_toml(checkout, capsys):
    runtime = mode.prepare(checkout, Source.OFFLINE)

    assert len(capsys.readouterr().out.splitlines()) == 1
    assert runtime.arguments == (
        "--compatibility-flags",
        "python_workers",
        "nodejs_compat",
        "enable_request_signal",
        "python_workers_development",
        "experimental",
    )
    workerd = runtime.environment["MINIFLARE_WORKERD_PATH"]
    assert subprocess.run([workerd, "--version"], capture_output=True, check=True).stdout.startswith(b"workerd ")


def test_the_wrapper_adds_the_bundle_to_serve_and_nothing_to_the_rest(checkout, tmp_path, monkeypatch):
    tell_arguments = tmp_path / "workerd"
    tell_arguments.write_text('#!/bin/sh\necho "$@"\n')
    tell_arguments.chmod(0o755)
    monkeypatch.setattr(mode, "_workerd", lambda _checkout: tell_arguments)
    folder = tmp_path / "with space"
    wrapper = mode._wrapper(checkout, folder)

    def run(*arguments):
        return subprocess.run([wrapper, *arguments], capture_output=True, text=True, check=True).stdout.strip()

    assert run("serve", "--binary", "-") == f"serve --pyodide-bundle-disk-cache-dir={folder} --binary -"
    assert run("--version") == "--version"


def test_online_keeps_the_flags_of_wrangler_toml(checkout, monkeypatch):
    monkeypatch.setattr(online, "prepare", lambda *_rest: None)
    runtime = mode.prepare(checkout, Source.ONLINE)

    assert runtime.arguments == ()
    assert list(runtime.environment) == ["MINIFLARE_WORKERD_PATH"]


def test_wrangler_toml_carries_no_development_flag(checkout):
    assert not set(DEVELOPMENT_FLAGS) & set(mode._flags(checkout, Source.ONLINE))
    config = tomllib.loads(checkout.wrangler_toml.read_text())
    assert all("compatibility_flags" not in environment for environment in config["env"].values())
