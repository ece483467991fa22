"""The deployment workflow: a valid one, with nothing that a linter for security objects to, and no invented command."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from kontract.cli.toolchain.checkout import Checkout

ROOT = Checkout.find().root
WORKFLOW = ROOT / ".github" / "workflows" / "deploy.yml"
TOOLS = Path(sys.executable).parent


@pytest.fixture(scope="module")
def workflow():
    return yaml.safe_load(WORKFLOW.read_text())


def check(*command):
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)


def schema(path):
    return check(TOOLS / "check-jsonschema", "--builtin-schema", "vendor.github-workflows", path)


def security(path):
    return check(TOOLS / "zizmor", "--offline", "--no-progress", path)


def test_it_fits_the_schema():
    done = schema(WORKFLOW)
    assert done.returncode == 0, done.stdout + done.stderr


def test_zizmor_has_no_objection():
    done = security(WORKFLOW)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("good", "bad", "linter"),
    [
        ("runs-on: ubuntu-24.04", "run-on: ubuntu-24.04", schema),
        ("  contents: read", "  contents: everything", schema),
        ("@3d3c42e5aac5ba805825da76410c181273ba90b1 # v7.0.1", "@main", security),
        ("\n        with:\n          persist-credentials: false", "", security),
    ],
)
def test_the_linters_see_mistakes(good, bad, linter, tmp_path):
    broken = tmp_path / ".github" / "workflows" / "deploy.yml"
    broken.parent.mkdir(parents=True)
    text = WORKFLOW.read_text()
    assert good in text
    broken.write_text(text.replace(good, bad))

    assert linter(broken).returncode != 0


def test_actions_are_pinned_by_digest_with_their_version():
    used = re.findall(r"uses: (.*)", WORKFLOW.read_text())

    assert used
    assert [one for one in used if not re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", one)] == []


def test_tests_come_before_the_schema_and_the_schema_before_the_worker(workflow):
    jobs = workflow["jobs"]

    assert list(jobs) == ["test", "migrate", "deploy"]
    assert (jobs["migrate"]["needs"], jobs["deploy"]["needs"]) == ("test", "migrate")
    assert jobs["migrate"]["environment"] == jobs["deploy"]["environment"] == "production"
    assert "make test" in runs(jobs["test"])
    assert ".venv/bin/kontract migrate" in runs(jobs["migrate"])
    assert any(line.endswith("wrangler deploy --env production") for line in runs(jobs["deploy"]))


def test_what_ci_installs_for_the_tests_the_workflow_installs_too(workflow):
    """Before the tests, or those that need a browser or a pooler are skipped where it matters most."""
    steps = runs(workflow["jobs"]["test"])
    installing = next(number for number, line in enumerate(steps) if "apt-get" in line and " install " in line)
    assert installing < steps.index("make test")
    wanted = set(re.findall(r"command -v ([\w-]+) >/dev/null \|\|", (ROOT / ".ci" / "run").read_text()))
    assert wanted >= {"chromium", "pgbouncer"}
    for program in wanted - {"systemd-analyze"}:  # Ubuntu itself
        assert any(re.search(rf"\b{program}\b", line) for line in steps[:installing]), program


def test_it_may_only_read_and_never_interrupts_a_deployment(workflow):
    assert workflow["permissions"] == {"contents": "read"}
    assert not any("permissions" in job for job in workflow["jobs"].values())
    assert workflow["concurrency"]["cancel-in-progress"] is False
    assert set(workflow[True]) == {"push", "workflow_dispatch"}  # YAML reads `on` as a truth value
    assert workflow[True]["push"] == {"branches": ["main"]}


def test_secrets_go_to_the_one_step_that_needs_them(workflow):
    given = {
        (name, key): value
        for name, job in workflow["jobs"].items()
        for step in job["steps"]
        for key, value in step.get("env", {}).items()
    }

    assert given == {
        ("migrate", "DATABASE_URL"): "${{ secrets.DATABASE_URL }}",
        ("deploy", "CLOUDFLARE_API_TOKEN"): "${{ secrets.CF_API_TOKEN }}",
    }
    assert len(re.findall(r"\$\{\{", WORKFLOW.read_text())) == len(given)


def test_make_knows_every_goal(workflow):
    goals = [
        goal
        for job in workflow["jobs"].values()
        for line in runs(job)
        if line.startswith("make ")
        for goal in shlex.split(line)[1:]
    ]

    assert {"test", "setup"} <= set(goals)
    for goal in goals:
        assert check("make", "--dry-run", goal).returncode == 0, goal


def runs(job):
    return [line for step in job["steps"] for line in step.get("run", "").splitlines()]
