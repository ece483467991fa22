"""`kontract new`: a project of one's own, made from this clone."""

import json
import os
import re
import signal
import subprocess
import sys
import tomllib
from pathlib import Path

import asyncpg
import kubernetes_validate
import pytest
import yaml

from kontract.cli import main as command
from kontract.cli import new
from kontract.cli.toolchain.checkout import Checkout
from kontract.cli.toolchain.problem import Problem
from kontract.cli.toolchain.processes import free_port, table
from support.dev import dev

TOOLS = Path(sys.executable).parent
NAME = "shop-of-ann"

pytestmark = pytest.mark.needs("git")


@pytest.fixture(autouse=True)
def author(monkeypatch):
    """Whoever runs the tests: git asks the environment first."""
    for role in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{role}_NAME", "Ann")
        monkeypatch.setenv(f"GIT_{role}_EMAIL", "ann@example.com")


@pytest.fixture(scope="module")
def projects(checkout, tmp_path_factory):
    """One with the demo and one without, by whether they have it."""
    made = {}
    for demo in (True, False):
        made[demo] = tmp_path_factory.mktemp("projects") / NAME
        new.create(checkout, made[demo], NAME, demo=demo)
    return made


@pytest.fixture(params=[True, False], ids=["demo", "without"])
def project(request, projects):
    return projects[request.param]


def make(*arguments):
    return command.main(["new", *map(str, arguments)])


def git(folder, *arguments):
    return subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=True).stdout.strip()


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["My-App", "my_app", "1app", "-app", "app-", "", "my.app", "a" * 55, "ä-app", "my app", "app\n"]
)
def test_names_that_no_worker_can_have_are_refused(name, tmp_path, capsys):
    """Cloudflare's rules for the first label of an address, less what previews add to it."""
    assert make(tmp_path / "project", f"--name={name or 'A'}") == 1
    assert "cannot be the name" in capsys.readouterr().err
    assert not (tmp_path / "project").exists()


@pytest.mark.parametrize("name", ["a", "app", "my-app", "app-2", "a1", "a" * 54])
def test_names_that_one_can_have_are_taken(name):
    assert new.NAME.fullmatch(name)
    assert len(f"{name}-pr-99999") <= 63


def test_a_folder_with_something_in_it_is_left_alone(tmp_path, capsys):
    (tmp_path / "my-app").mkdir()
    (tmp_path / "my-app" / "thesis.txt").write_text("mine")

    assert make(tmp_path / "my-app") == 1

    assert "already exists" in capsys.readouterr().err
    assert [path.name for path in tmp_path.rglob("*")] == ["my-app", "thesis.txt"]


def test_a_folder_inside_of_the_clone_is_refused(checkout, capsys):
    assert make(checkout.root / "my-app") == 1
    assert "inside this clone" in capsys.readouterr().err


def test_a_folder_has_to_be_named(capsys):
    """`make new` without NAME."""
    assert make("") == 1
    assert "make new NAME=" in capsys.readouterr().err


def test_a_project_is_no_clone_of_the_template(project, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(project)
    assert make(tmp_path / "another") == 1
    assert "is already a project" in capsys.readouterr().err


def test_nothing_half_made_is_left_after_a_failure(checkout, tmp_path, monkeypatch):
    """Also not beside the target."""

    def fail(*_args, **_options):
        raise KeyboardInterrupt

    monkeypatch.setattr(new, "_adapt", fail)
    with pytest.raises(KeyboardInterrupt):
        new.create(checkout, tmp_path / "my-app", "my-app", demo=True)
    assert list(tmp_path.iterdir()) == []


# --- what is made ----------------------------------------------------------------------------------------------------


def test_it_is_a_repository_with_one_commit_of_everything(tmp_path, capsys):
    """What is generated later is ignored, as in the clone."""
    (tmp_path / "my-app").mkdir()  # an empty folder will do

    assert make(tmp_path / "my-app") == 0

    folder = tmp_path / "my-app"
    assert "one commit" in capsys.readouterr().out
    assert git(folder, "log", "--format=%an %s").startswith("Ann Start from Kontract ")
    assert git(folder, "branch", "--show-current") == "main"
    assert git(folder, "status", "--short") == ""
    (folder / ".dev.vars").write_text("KONTRACT_SECRET=x")
    assert git(folder, "status", "--short") == ""
    assert [path.name for path in tmp_path.iterdir()] == ["my-app"]


def test_without_an_author_it_says_so(tmp_path, monkeypatch, capsys):
    """The project is complete all the same."""
    for role in ("AUTHOR", "COMMITTER"):
        monkeypatch.delenv(f"GIT_{role}_NAME")
        monkeypatch.delenv(f"GIT_{role}_EMAIL")
    for name, value in {
        "HOME": tmp_path / "nobody",
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": "/dev/null",
    }.items():
        monkeypatch.setenv(name, str(value))
    # git takes the machine's user and host for an author unless it is told not to.
    monkeypatch.setenv("GIT_CONFIG_COUNT", "1")
    monkeypatch.setenv("GIT_CONFIG_KEY_0", "user.useConfigOnly")
    monkeypatch.setenv("GIT_CONFIG_VALUE_0", "true")

    assert make(tmp_path / "my-app") == 0

    assert "without a commit" in capsys.readouterr().out
    assert "A  wrangler.toml" in git(tmp_path / "my-app", "status", "--short")


def test_inside_another_repository_it_makes_none(tmp_path, capsys):
    git(tmp_path, "init", "--quiet")
    assert make(tmp_path / "my-app") == 0
    assert not (tmp_path / "my-app" / ".git").exists()
    assert "inside a git repository" in capsys.readouterr().out


def test_it_has_what_a_project_needs_and_nothing_of_the_framework(project, checkout):
    files = {path.relative_to(project).as_posix() for path in project.rglob("*") if path.is_file()}

    assert {"Makefile", "README.md", "src/kontract/LICENSE", "src/entry.py", "tests/conftest.py"} <= files
    assert {one for one in files if one.startswith("tests/")} - {"tests/conftest.py"}
    assert not [one for one in files if one.startswith("tests/") and not one.startswith(("tests/app/", "tests/conf"))]
    assert not [one for one in files if one.startswith(("docs/", "bench/", ".ci/", ".git/"))]
    known = set(subprocess.check_output(["git", "ls-files"], cwd=checkout.root, text=True).splitlines())
    assert {one for one in files if one.startswith("src/kontract/")} <= known


def test_secrets_and_notes_that_lie_about_are_not_copied(tmp_path):
    """Only what git knows."""
    clone = tmp_path / "clone"
    for path in ("wrangler.toml", "pyproject.toml", "LICENSE", "src/app/__init__.py", "src/kontract/__init__.py"):
        (clone / path).parent.mkdir(parents=True, exist_ok=True)
        (clone / path).write_text('name = "my-kontract-app"\n[project]\nversion = "1"\n')
    git(tmp_path, "init", "--quiet", "clone")
    git(clone, "add", "--all")
    for path in (".dev.vars", ".env", "src/app/secret.py", "deploy/kubernetes/secret.yaml"):
        (clone / path).parent.mkdir(parents=True, exist_ok=True)
        (clone / path).write_text("hunter2")

    new.create(Checkout(clone), tmp_path / "made", "my-app", demo=True)

    made = [path for path in (tmp_path / "made").rglob("*") if path.is_file()]
    assert any(path.name == "wrangler.toml" for path in made)
    assert not [path for path in made if "hunter2" in path.read_text()]


def test_every_environment_has_the_new_name(project):
    config = tomllib.loads((project / "wrangler.toml").read_text())

    names = [config["name"], *(one["name"] for one in config["env"].values())]
    assert all(name == NAME or name.startswith(f"{NAME}-") for name in names)
    assert json.loads((project / "package.json").read_text())["name"] == NAME
    lock = json.loads((project / "package-lock.json").read_text())
    assert (lock["name"], lock["packages"][""]["name"]) == (NAME, NAME)


def test_what_runs_on_servers_has_the_new_name(project):
    """Two projects on one machine, or in one cluster, do not meet; the program is still `kontract`."""
    compose = yaml.safe_load((project / "compose.yaml").read_text())
    assert compose["name"] == NAME
    assert compose["services"]["postgres"]["environment"]["POSTGRES_DB"] == "shop_of_ann"
    objects = [
        one
        for path in sorted((project / "deploy" / "kubernetes").rglob("*.yaml"))
        for one in yaml.safe_load_all(path.read_text())
        if one["kind"] != "Kustomization"
    ]
    for one in objects:
        kubernetes_validate.validate(one, "1.37", strict=True)
        assert re.match(rf"{NAME}(-|$)", one["metadata"]["name"])
    left = [
        (path.relative_to(project).as_posix(), line)
        for path in [project / "compose.yaml", project / "Dockerfile", *(project / "deploy").rglob("*")]
        if path.is_file()
        for line in path.read_text().splitlines()
        if "kontract" in line
    ]
    programs = r'bin/kontract|`kontract \w|^#.*`kontract|kontract\.gateway|\["kontract"\]'
    assert [one for one in left if not re.search(programs, one[1])] == []
    service = (project / "deploy" / "systemd" / f"{NAME}.service").read_text()
    assert f"ExecStart=/opt/{NAME}/.venv/bin/kontract serve" in service
    assert f"EnvironmentFile=/etc/{NAME}/{NAME}.env" in service
    assert (project / "deploy" / "systemd" / f"{NAME}.env.example").is_file()


def test_names_agree_with_one_another(project):
    """What one manifest refers to, another one defines."""
    text = "".join(path.read_text() for path in (project / "deploy" / "kubernetes").rglob("*.yaml"))
    for kind in ("secrets", "settings", "secret"):
        assert f"{NAME}-{kind}" in text
    (settings,) = yaml.safe_load((project / "deploy/kubernetes/kustomization.yaml").read_text())["configMapGenerator"]
    deployment = yaml.safe_load((project / "deploy/kubernetes/deployment.yaml").read_text())
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    assert {"configMapRef": {"name": settings["name"]}} in container["envFrom"]
    secret = yaml.safe_load((project / "deploy/kubernetes/secret.example.yaml").read_text())
    keys = {one["valueFrom"]["secretKeyRef"]["key"]: one for one in container["env"] if "valueFrom" in one}
    needed = {key for key, one in keys.items() if not one["valueFrom"]["secretKeyRef"].get("optional")}
    assert needed <= secret["stringData"].keys()


def test_its_workflows_are_valid(project):
    for path in (project / ".github" / "workflows").glob("*.yml"):
        for check in (
            [TOOLS / "check-jsonschema", "--builtin-schema", "vendor.github-workflows", path],
            [TOOLS / "zizmor", "--offline", "--no-progress", path],
        ):
            done = subprocess.run(check, cwd=project, capture_output=True, text=True, check=False, timeout=60)
            assert done.returncode == 0, done.stdout + done.stderr
    steps = yaml.safe_load((project / ".github/workflows/deploy.yml").read_text())["jobs"]["test"]["steps"]
    assert [step.get("run") for step in steps[2:]] == [
        "make lint types", "make migrate-check", "make deploy-check", "make test-all",
    ]  # fmt: skip
    assert "apt-get" not in json.dumps(steps)
    assert "apt-get" not in (project / ".github/workflows/ci.yml").read_text()
    assert not (project / ".github/workflows/release.yml").exists(), "a project is deployed, not published"


def test_it_is_formatted_and_without_a_lint_error(project):
    for check in (["check"], ["format", "--check"]):
        done = subprocess.run(
            [TOOLS / "ruff", *check, "--no-cache"], cwd=project, capture_output=True, text=True, check=False, timeout=60
        )
        assert done.returncode == 0, done.stdout


async def test_without_the_demo_its_tables_are_not_there(projects, postgres):
    """The schema still applies, twice even."""
    url = postgres.create_database(empty=True)
    sql = (projects[False] / "sql" / "init.sql").read_text()
    connection = await asyncpg.connect(url)
    try:
        for _ in range(2):
            await connection.execute(sql)
        names = {row[0] for row in await connection.fetch("SELECT id FROM storage")}
        tables = {row[0] for row in await connection.fetch("SELECT relname FROM pg_class WHERE relkind = 'r'")}
    finally:
        await connection.close()
    assert names == {"__users", "__sessions"}
    assert {"storage", "trxs"} <= tables
    assert not [one for one in tables if "tasks" in one or "accounts" in one]


def test_without_the_demo_nothing_names_it(projects):
    for folder in ("src/app", "tests", "public", "sql"):
        for path in (projects[False] / folder).rglob("*"):
            if path.is_file() and "kontract" not in path.as_posix().removeprefix(str(projects[False])):
                assert not re.search(
                    r"create_task|tbl_tasks|accounts\b(?! and sessions)|demo/", path.read_text(), re.IGNORECASE
                )


def test_a_later_version_is_merged_as_the_page_says(checkout, tmp_path):
    """docs/how-to/start-a-project.md: a branch keeps what `kontract new` makes; git merges what has changed there."""
    assert make(tmp_path / "my-app") == 0
    folder = tmp_path / "my-app"
    (folder / "src" / "app" / "mine.py").write_text('"""Mine."""\n')
    (folder / "Makefile").write_text((folder / "Makefile").read_text() + "\nmine:\n\t@echo mine\n")
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", "Mine")
    fresh = tmp_path / "fresh" / "my-app"
    new.create(checkout, fresh, "my-app", demo=True)
    (fresh / "src" / "kontract" / "later.py").write_text('"""Of a later version."""\n')
    (fresh / "src" / "kontract" / "middlewares.py").unlink()
    (fresh / "Makefile").write_text("# later\n" + (fresh / "Makefile").read_text())

    [script] = re.findall(
        r"```bash merge\n(.*?)```", (checkout.root / "docs/how-to/start-a-project.md").read_text(), re.DOTALL
    )
    subprocess.run(["bash", "-euc", script], cwd=folder, env={**os.environ, "FRESH": str(fresh)}, check=True)

    assert git(folder, "status", "--short") == ""
    text = (folder / "Makefile").read_text()
    assert text.startswith("# later\n")
    assert text.endswith("mine:\n\t@echo mine\n")
    assert (folder / "src/kontract/later.py").is_file()
    assert not (folder / "src/kontract/middlewares.py").exists()
    assert (folder / "src/app/mine.py").is_file()


# --- the whole way ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("without", [False, True], ids=["demo", "without"])
@pytest.mark.long
@pytest.mark.timeout(900)
def test_make_test_and_make_dev_work_in_it(without, checkout, tmp_path):
    """As its owner does it: nothing is installed yet."""
    make_new = ["make", "new", f"NAME={tmp_path / 'my app' / 'shop'}", *(["DEMO=no"] if without else [])]
    made = subprocess.run(make_new, cwd=checkout.root, capture_output=True, text=True, check=False, timeout=300)
    assert made.returncode == 0, made.stdout + made.stderr
    folder = tmp_path / "my app" / "shop"  # people have blanks in their paths

    tested = subprocess.run(["make", "test"], cwd=folder, capture_output=True, text=True, check=False, timeout=600)

    assert tested.returncode == 0, tested.stdout + tested.stderr
    assert re.search(r"\d+ passed", tested.stdout)
    assert "skipped" not in tested.stdout
    with dev(folder, port=free_port(), command=("make", "dev")) as running:
        running.wait_for("Kontract is ready on", 300)
        health, token, *calls = running.curl_lines()
        answers = [json.loads(paste(one if one == health else f"{token}\n{one}")) for one in (health, *calls)]
        assert answers[0]["status"] == "ok"
        assert len(answers) == (2 if without else 3)
        assert all("error" not in answer for answer in answers)
        if without:
            assert answers[1] == {"result": "Hello, world!"}
        running.send(signal.SIGINT)
        running.wait()
    assert not [one for one in table() if str(folder) in one.command and one.state != "Z"]
    assert git(folder, "status", "--short") == "", "what was generated is ignored"


def paste(line):
    done = subprocess.run(line, shell=True, capture_output=True, text=True, check=True, timeout=60)
    return done.stdout


def test_a_machine_without_git_is_told_so(checkout, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(Problem, match="git is not installed"):
        new.create(checkout, tmp_path / "x", "x-y", demo=True)


def test_a_problem_is_no_traceback(checkout, tmp_path):
    with pytest.raises(Problem, match="is not a git repository"):
        new.create(Checkout(tmp_path), tmp_path / "x", "x-y", demo=True)
