"""The workflows: valid ones, with nothing that a linter for security objects to, and no invented command."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from kontract.cli.toolchain.checkout import Checkout

ROOT = Checkout.find().root
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
WORKFLOW = ROOT / ".github" / "workflows" / "deploy.yml"
PREVIEW = WORKFLOW.with_name("preview.yml")
TOOLS = Path(sys.executable).parent


every_workflow = pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)


@pytest.fixture(scope="module")
def workflow():
    return yaml.safe_load(WORKFLOW.read_text())


@pytest.fixture(scope="module")
def preview():
    return yaml.safe_load(PREVIEW.read_text())


def check(*command):
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)


def schema(path):
    return check(TOOLS / "check-jsonschema", "--builtin-schema", "vendor.github-workflows", path)


def security(path):
    return check(TOOLS / "zizmor", "--offline", "--no-progress", path)


def test_all_of_them_are_tested():
    assert {path.name for path in WORKFLOWS} == {"ci.yml", "deploy.yml", "preview.yml", "release.yml"}


@every_workflow
def test_it_fits_the_schema(path):
    done = schema(path)
    assert done.returncode == 0, done.stdout + done.stderr


@every_workflow
def test_zizmor_has_no_objection(path):
    done = security(path)
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


@every_workflow
def test_actions_are_pinned_by_digest_with_their_version(path):
    used = re.findall(r"uses: (.*)", path.read_text())

    assert used
    assert [one for one in used if not re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", one)] == []


def test_tests_come_before_the_schema_and_the_schema_before_the_worker(workflow):
    jobs = workflow["jobs"]

    assert list(jobs) == ["test", "not-configured", "migrate", "deploy"]
    assert (jobs["migrate"]["needs"], jobs["deploy"]["needs"]) == ("test", "migrate")
    assert jobs["migrate"]["environment"] == jobs["deploy"]["environment"] == "production"
    assert "make test-all" in runs(jobs["test"])
    assert runs(jobs["test"]).index("make deploy-check") < runs(jobs["test"]).index("make test-all")
    assert runs(jobs["test"]).index("make migrate-check") < runs(jobs["test"]).index("make test-all"), "the files alone"
    assert runs(jobs["migrate"]) == ["make .venv/ready", "make migrate migrate-check"], "installed before the secret"
    assert "make deploy ENV=production" in runs(jobs["deploy"])


def test_nothing_is_deployed_until_it_is_wanted(workflow):
    """The first push of a new repository has no secret, and passes; a notice says why nothing was deployed."""
    jobs = workflow["jobs"]
    assert jobs["migrate"]["if"] == "vars.DEPLOY == 'on'"
    assert jobs["not-configured"]["if"] == "vars.DEPLOY != 'on'"
    assert "if" not in jobs["test"]
    assert "if" not in jobs["deploy"], "it follows migrate, and is skipped with it"
    page = ROOT / re.search(r"docs/[\w/-]+\.md", runs(jobs["not-configured"])[0])[0]
    assert "`DEPLOY`" in page.read_text()


def test_pull_requests_are_tested_without_a_secret():
    """A fork's, too: rules, types and tests beside each other."""
    ci = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    assert set(ci[True]) == {"pull_request"}
    assert ci["permissions"] == {"contents": "read"}
    assert given(ci) == {}
    assert not any("needs" in job for job in ci["jobs"].values())
    assert [line for job in ci["jobs"].values() for line in runs(job) if line.startswith("make ")] == [
        "make lint types", "make migrate-check", "make deploy-check", "make test",
    ]  # fmt: skip


def test_a_release_is_published_only_where_that_is_wanted():
    """And it may do no more than it must: one job writes the release, the other asks who it is."""
    release = yaml.safe_load((ROOT / ".github" / "workflows" / "release.yml").read_text())
    build, publish = release["jobs"]["build"], release["jobs"]["publish"]
    assert release[True] == {"push": {"tags": ["v*"]}}
    assert (release["permissions"], build["permissions"]) == ({"contents": "read"}, {"contents": "write"})
    assert publish["permissions"] == {"contents": "read", "id-token": "write"}
    assert publish["if"] == "vars.PUBLISH == 'on'"
    assert given(release) == {("build", "GH_TOKEN"): "${{ github.token }}"}


def test_a_release_has_the_notes_of_its_version():
    """The version of the package has a dated section, and a tag of another version is refused."""
    made = check(sys.executable, "docs/release_notes.py")
    assert made.returncode == 0, made.stderr
    assert made.stdout.strip()
    assert "## [" not in made.stdout
    other = subprocess.run(
        [sys.executable, "docs/release_notes.py"],
        cwd=ROOT,
        env={**os.environ, "GITHUB_REF_TYPE": "tag", "GITHUB_REF_NAME": "v99.0.0"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert other.returncode == 1
    assert "v99.0.0" in other.stderr


def test_what_ci_installs_for_the_tests_the_workflow_installs_too(workflow):
    """Before the tests, or those that need a browser or a pooler are skipped where it matters most."""
    steps = runs(workflow["jobs"]["test"])
    installing = next(number for number, line in enumerate(steps) if "apt-get" in line and " install " in line)
    assert installing < steps.index("make test-all")
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
    assert given(workflow) == {
        ("migrate", "DATABASE_URL"): "${{ secrets.DATABASE_URL }}",
        ("deploy", "CLOUDFLARE_API_TOKEN"): "${{ secrets.CF_API_TOKEN }}",
    }
    assert len(re.findall(r"\$\{\{", WORKFLOW.read_text())) == 2


def test_previews_get_their_secrets_in_one_step_each(preview):
    common = {
        "NUMBER": "${{ github.event.number }}",
        "CLOUDFLARE_API_TOKEN": "${{ secrets.CF_API_TOKEN }}",
        "DATABASE_URL": "${{ secrets.DATABASE_URL }}",
    }
    up = {**common, "KONTRACT_SECRET": "${{ secrets.KONTRACT_SECRET }}"}

    assert given(preview) == {
        **{("deploy", key): value for key, value in up.items()},
        **{("remove", key): value for key, value in common.items()},
    }
    for job in preview["jobs"].values():
        assert [bool(step.get("env")) for step in job["steps"]].count(True) == 1
        # What a pull request is called is never part of a command.
        assert not [line for line in runs(job) if "${{" in line]
        environment = job["environment"]
        assert (environment["name"] if isinstance(environment, dict) else environment) == "preview"


def test_previews_are_never_for_forks_and_only_where_they_are_wanted(preview):
    """A pull request from a fork brings code of anybody's, and this one has secrets."""
    assert set(preview[True]) == {"pull_request"}, "not pull_request_target, which runs with the rights of the base"
    assert preview[True]["pull_request"]["types"] == ["opened", "reopened", "synchronize", "closed"]
    for name, closed in (("deploy", "!="), ("remove", "==")):
        condition = preview["jobs"][name]["if"]
        assert "github.event.pull_request.head.repo.full_name == github.repository" in condition
        assert "vars.PREVIEWS == 'on'" in condition
        assert f"github.event.action {closed} 'closed'" in condition
        assert "||" not in condition
    assert preview["permissions"] == {"contents": "read"}
    assert not any("permissions" in job for job in preview["jobs"].values())
    assert preview["concurrency"] == {"group": "preview-${{ github.event.number }}", "cancel-in-progress": False}


def test_previews_are_made_and_removed(preview):
    assert runs(preview["jobs"]["deploy"]) == ["make setup", 'make preview PR="$NUMBER"']
    assert runs(preview["jobs"]["remove"]) == ["make setup", 'make preview-down PR="$NUMBER"']


@every_workflow
def test_make_knows_every_goal(path):
    jobs = yaml.safe_load(path.read_text())["jobs"].values()
    commands = [shlex.split(line)[1:] for job in jobs for line in runs(job) if line.startswith("make ")]

    assert commands
    for words in commands:
        assert check("make", "--dry-run", *words).returncode == 0, words


def test_a_deployment_by_hand_names_its_environment():
    """A variable that lies about must not choose what is overwritten."""
    named = check("make", "--dry-run", "deploy", "ENV=staging")
    assert '.venv/bin/kontract wrangler deploy --env "staging"' in named.stdout
    done = subprocess.run(
        ["make", "--dry-run", "deploy"],
        cwd=ROOT,
        env={**os.environ, "ENV": "production"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    assert "ENV=production" in done.stderr


def given(workflow):
    return {
        (name, key): value
        for name, job in workflow["jobs"].items()
        for step in job["steps"]
        for key, value in step.get("env", {}).items()
    }


def runs(job):
    return [line for step in job["steps"] for line in step.get("run", "").splitlines()]
