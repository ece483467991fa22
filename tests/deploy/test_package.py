"""The package: what it requires, what is in its wheel, and that a client is installed without a server."""

import ast
import importlib.metadata
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from kontract.cli.main import BROUGHT_BY, COMMANDS
from support.deployment import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
EVERYBODY = PROJECT["project"]["dependencies"]
EXTRAS = PROJECT["project"]["optional-dependencies"]
TOOLS = PROJECT["dependency-groups"]["dev"]
PACKAGE = ROOT / "src" / "kontract"

PLATFORM = {"js", "pyodide", "workers"}
"""Modules that Cloudflare's runtime brings, or its SDK."""

NOT_REQUIRED = {*sys.stdlib_module_names, *PLATFORM, "annotationlib", "kontract", "app", "routes", "session_do"}
"""`annotationlib` is in the standard library from Python 3.14 on; the last ones are the application's."""

HOMES = importlib.metadata.packages_distributions()

ROOMS = {
    "cloudflare": ("worker",),
    "client": ("client",),
    "server": ("server", "tikv"),
    "cli": ("server", "dev"),
    "testing": ("server", "client", "dev"),
}
"""What may be installed where a folder of the package is used. All others run on every platform."""


def uv(*arguments, **environment):
    done = subprocess.run(
        [Path(sys.executable).with_name("uv"), *arguments],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


# --- what is required ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["everybody", *EXTRAS, "tools"])
def test_requirements_are_ranges_and_the_lock_file_has_the_versions(place):
    """Somebody who installs the package beside others must not be held to one version of each."""
    lock = {one["name"]: one["version"] for one in tomllib.loads((ROOT / "uv.lock").read_text())["package"]}
    for text in {"everybody": EVERYBODY, "tools": TOOLS, **EXTRAS}[place]:
        requirement = Requirement(text)
        if requirement.name == "kontract":
            continue
        operators = {one.operator for one in requirement.specifier}
        assert ">=" in operators, f"{text} says not from which version on"
        assert operators <= {">=", "<"}, f"{text} is no range"
        assert requirement.specifier.contains(lock[canonicalize_name(requirement.name)]), text


def required(*places):
    """The distributions that are named for these places."""
    lines = [line for place in places for line in (TOOLS if place == "dev" else EXTRAS[place])]
    return {canonicalize_name(Requirement(line).name) for line in [*EVERYBODY, *lines]}


def imported(path):
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node.module


def foreign(path):
    """The distributions that a module imports."""
    for name in {one.partition(".")[0] for one in imported(path)} - NOT_REQUIRED:
        yield name, {canonicalize_name(one) for one in HOMES[name]}


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_module_imports_what_is_installed_where_it_runs(path):
    """`core` and `gateway` run in the Worker and on servers, so what they import is in both extras."""
    room = path.relative_to(PACKAGE).parts[0]
    there = required(*ROOMS[room]) if room in ROOMS else required("worker") & required("server")
    assert {name: homes for name, homes in foreign(path) if not homes & there} == {}


def test_the_check_sees_an_import_that_is_not_installed(tmp_path):
    path = tmp_path / "module.py"
    path.write_text("import os, msgspec\n\ndef f():\n    from asyncpg.exceptions import PostgresError\n")
    assert dict(foreign(path)) == {"msgspec": {"msgspec"}, "asyncpg": {"asyncpg"}}
    assert "asyncpg" not in required("client") | required("worker")


def test_the_command_knows_what_brings_the_modules_that_it_imports():
    """Where one is missing it names the extra, instead of a traceback."""
    for module, place in BROUGHT_BY.items():
        assert {canonicalize_name(one) for one in HOMES[module]} & required(place), module
    found = {name for room in ("cli", "server", "core", "gateway") for path in (PACKAGE / room).rglob("*.py")
             for name, homes in foreign(path) if not homes & required("client")}  # fmt: skip
    assert found - BROUGHT_BY.keys() <= {"tikv", "uvloop"}, "these two say it themselves, or are not needed"


# --- the wheel -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    uv("build", "--wheel", "--offline", "--quiet", "--out-dir", folder)
    [path] = folder.glob("*.whl")
    return zipfile.ZipFile(path)


def test_the_wheel_has_the_package_and_nothing_of_an_application(wheel):
    names = set(wheel.namelist())
    version = PROJECT["project"]["version"]
    sources = {f"kontract/{path.relative_to(PACKAGE).as_posix()}" for path in PACKAGE.rglob("*.py")}

    assert sources <= names
    assert {"kontract/py.typed", "kontract/LICENSE"} <= names
    assert {f"kontract/cloudflare/{name}.js" for name in ("crypto", "http", "postgres")} <= names
    assert {name.partition("/")[0] for name in names} == {"kontract", f"kontract-{version}.dist-info"}
    assert not [name for name in names if name.endswith((".pyc", ".vars"))]


def test_without_an_extra_it_requires_little(wheel):
    [name] = [name for name in wheel.namelist() if name.endswith("METADATA")]
    metadata = importlib.metadata.PathDistribution(zipfile.Path(wheel, f"{name.rpartition('/')[0]}/")).metadata
    required = [Requirement(line) for line in metadata.get_all("Requires-Dist")]

    assert [one.name for one in required if one.marker is None] == ["msgspec"]
    assert set(metadata.get_all("Provides-Extra")) == {"worker", "server", "client", "tikv"}


# --- the client alone ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    """An environment with what the extra `client` installs, in the versions of uv.lock; not a link to this clone."""
    folder = tmp_path_factory.mktemp("client") / "venv"
    sync = ("sync", "--locked", "--no-default-groups", "--extra", "client", "--no-editable", "--quiet")
    sync += ("--refresh-package", "kontract")  # uv looks at pyproject.toml alone to see whether its copy is old
    uv(*sync, "--python", sys.executable, UV_PROJECT_ENVIRONMENT=str(folder))
    return folder / "bin"


def run(command, folder):
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=60)


def test_a_client_has_neither_the_server_nor_sql(client, tmp_path):
    code = (
        "import json, sys, importlib.metadata, kontract.client\n"
        "print(json.dumps([kontract.client.__file__, sorted(sys.modules),"
        " sorted(one.name for one in importlib.metadata.distributions())]))"
    )
    done = run([client / "python", "-c", code], tmp_path)
    assert done.returncode == 0, done.stderr
    file, modules, installed = json.loads(done.stdout)

    assert Path(file).is_relative_to(client.parent), "from the wheel, not from this clone"
    assert {"httpx", "kontract.client"} <= set(modules)
    assert {canonicalize_name(one) for one in installed} >= {"kontract", "httpx", "cryptography", "msgspec"}
    others = (required("server") | required("worker") | required("tikv")) - required("client")
    assert {"asyncpg", "sqlglot", "granian", "workers-runtime-sdk"} <= others
    assert {canonicalize_name(one) for one in installed} & others == set()
    assert {name.partition(".")[0] for name in modules} & {"asyncpg", "sqlglot", "granian", "jwt", "routes"} == set()


def test_a_client_speaks_encrypted_too(client, tmp_path):
    """raystream is in the extra: what it needs is installed with it."""
    code = "from kontract.server.crypto import *; from kontract.client import raystream; print('there')"
    done = run([client / "python", "-c", code], tmp_path)
    assert (done.stdout, done.stderr) == ("there\n", "")


def repository(folder):
    """Make a repository of one commit with this clone's files. (A clone of a shallow one could not be fetched from.)"""
    shutil.copytree(
        ROOT / "src" / "kontract", folder / "src" / "kontract", ignore=shutil.ignore_patterns("__pycache__")
    )
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, folder)
    for command in (["init", "--quiet"], ["add", "--all"], ["commit", "--quiet", "--message=all"]):
        subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=a@example.com", *command], cwd=folder, check=True)


@pytest.mark.needs("git")
def test_the_page_says_how_to_install_it(client, tmp_path):
    """From a clone and from a Git URL. uv does what pip would, beside the packages that are there already."""
    page = (ROOT / "docs" / "reference" / "python-client.md").read_text()
    [block] = re.findall(r"```bash install\n(.*?)```", page, re.DOTALL)
    repository(tmp_path / "kontract")
    places = ("path/to/kontract", str(tmp_path / "kontract")), ("https://git.example.com/you", f"file://{tmp_path}")
    for line in block.splitlines():
        for written, here in places:
            line = line.replace(written, here)  # noqa: PLW2901 - a name for each step says no more
        program, *arguments = shlex.split(line)
        assert (program, arguments[0], str(tmp_path) in line) == ("pip", "install", True)
        uv("pip", *arguments, "--reinstall-package=kontract", "--no-deps", "--no-cache", "--python", client / "python")
        assert run([client / "python", "-c", "import kontract.client"], tmp_path).stderr == ""


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_that_needs_more_than_a_client_has_names_the_extra(command, client, tmp_path):
    """No traceback: help, or the extra's name."""
    done = run([client / "kontract", command, "--help"], tmp_path)

    assert "Traceback" not in done.stderr
    if command in {"token", "migrate", "table", "doctor", "preview"}:
        assert done.returncode == 1
        assert re.search(r"needs (asyncpg|jwt), .*\n.*kontract\[server\]", done.stderr)
    elif command == "wrangler":  # passes `--help` on, in a clone
        assert done.stderr.startswith("Problem: No wrangler.toml")
    else:
        assert (done.returncode, done.stderr) == (0, "")
