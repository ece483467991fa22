"""`kontract deploy-check`: what would be deployed, asked of wrangler, before anything is."""

import re
import shutil
import subprocess

import pytest

from kontract.cli import deploy_check
from kontract.cli import main as command
from kontract.cli.deploy_check import TOP_LEVEL, DryRun, check_bindings, check_names, declared
from kontract.cli.toolchain.checkout import Checkout
from kontract.cli.toolchain.problem import Problem

TOP = {
    "name": "app",
    "durable_objects": {"bindings": [{"name": "SESSION_DO"}]},
    "hyperdrive": [{"binding": "HYPERDRIVE"}],
    "kv_namespaces": [{"binding": "CACHE"}],
    "vars": {"A": "1"},
    "migrations": [{"tag": "v1"}],
}


@pytest.mark.long
@pytest.mark.timeout(300)
def test_every_environment_of_this_clone_passes(checkout):
    """The command that CI runs: one line for each environment, with its Worker, size and bindings."""
    done = subprocess.run(
        ["make", "deploy-check"], cwd=checkout.root, capture_output=True, text=True, check=False, timeout=280
    )
    assert done.returncode == 0, done.stdout + done.stderr
    environments = deploy_check.read(checkout)
    for name in environments:
        (line,) = [line for line in done.stdout.splitlines() if line.startswith(f"{name}: ")]
        assert re.match(rf"{re.escape(name)}: Worker [\w-]+, [\d.]+ KiB / gzip: [\d.]+ KiB; ", line)
        there = set(re.split(r", |; ", line))
        assert set(declared(environments[TOP_LEVEL])) - there == ({"HYPERDRIVE"} if name == "preview" else set())
    assert re.search(r"^preview: .*needs the secret DATABASE_URL", done.stdout, re.MULTILINE)
    assert not list((checkout.root / "src").rglob("dist")), "what it would upload goes elsewhere"


@pytest.mark.timeout(300)
def test_an_environment_without_its_bindings_is_found(checkout, tmp_path, monkeypatch, capsys):
    """wrangler itself only warns, and would deploy it."""
    text = checkout.wrangler_toml.read_text()
    block = '[env.staging.durable_objects]\nbindings = [{ name = "SESSION_DO", class_name = "KontractSessionDO" }]\n'
    assert block in text
    for name in ("src", "public", "python_modules"):
        shutil.copytree(checkout.root / name, tmp_path / name)
    for name in ("node_modules", "package.json", "pyproject.toml"):
        (tmp_path / name).symlink_to(checkout.root / name)
    text = text.replace(block, "").replace('command = "make --silent build"', 'command = "true"')
    (tmp_path / "wrangler.toml").write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("kontract.cli.toolchain.setup.prepare", lambda *_args, **_options: None)

    assert command.main(["deploy-check", "--env", "staging"]) == 1

    said = capsys.readouterr().err
    assert "Environment staging would be deployed without SESSION_DO" in said
    assert "inherit neither" in said


def test_everything_that_a_section_declares_is_known():
    assert set(declared(TOP)) == {"SESSION_DO", "HYPERDRIVE", "CACHE", "A"}


@pytest.mark.parametrize(
    ("section", "there", "missing"),
    [
        ({}, {"SESSION_DO", "HYPERDRIVE", "CACHE", "A"}, None),
        ({}, {"SESSION_DO", "HYPERDRIVE"}, "A, CACHE"),
        ({"hyperdrive": []}, {"SESSION_DO", "CACHE", "A"}, None),
        ({"hyperdrive": []}, {"CACHE", "A"}, "SESSION_DO"),
        ({"vars": {"B": "2"}}, {"SESSION_DO", "HYPERDRIVE", "CACHE", "A"}, "B"),
    ],
)
def test_what_is_missing_is_named(section, there, missing):
    done = DryRun("", frozenset(there), "1 KiB")
    if missing is None:
        check_bindings("live", {TOP_LEVEL: TOP, "live": section}, done)
        return
    with pytest.raises(Problem, match=f"Environment live would be deployed without {missing}"):
        check_bindings("live", {TOP_LEVEL: TOP, "live": section}, done)


def test_two_environments_may_not_be_one_worker():
    """The second deployment would overwrite the first. The top level and production may be the same."""
    check_names({TOP_LEVEL: TOP, "production": {"name": "app"}, "staging": {}})
    with pytest.raises(Problem, match="live and staging both deploy the Worker app-staging"):
        check_names({TOP_LEVEL: TOP, "live": {"name": "app-staging"}, "staging": {}})


def test_an_unknown_environment_is_refused(checkout, monkeypatch, capsys):
    monkeypatch.chdir(checkout.root)
    assert command.main(["deploy-check", "--env", "prod"]) == 1
    assert "no environment prod" in capsys.readouterr().err


def test_a_broken_file_is_explained(tmp_path):
    (tmp_path / "wrangler.toml").write_text("name = ")
    with pytest.raises(Problem, match=r"wrangler\.toml cannot be read"):
        deploy_check.read(Checkout(tmp_path))
