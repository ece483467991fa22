"""The container image: a Dockerfile that a linter agrees with, and whose steps give a server that runs."""

import http.client
import os
import shutil
import stat
import subprocess
import sys
import tempfile
import tomllib
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest
from packaging.requirements import Requirement
from packaging.tags import compatible_tags, cpython_tags
from packaging.utils import parse_wheel_filename

from kontract.cli.toolchain.bootstrap import UV_VERSION
from kontract.cli.toolchain.processes import free_port, wait_until
from support.deployment import ROOT, assignments, build_context, stages
from support.image import Image
from support.programs import program
from support.sessions import SECRET

pytestmark = pytest.mark.long  # it makes an image once, step by step

DOCKERFILE = (ROOT / "Dockerfile").read_text()
BEFORE, BUILDER, FINAL = stages(DOCKERFILE)
ARGUMENTS = {key: value for step in BEFORE.steps + BUILDER.all("ARG") for key, value in assignments(step.text).items()}
HEALTHCHECK = ROOT / "deploy" / "container" / "healthcheck.py"


@pytest.mark.needs("hadolint")
def test_a_linter_has_nothing_to_say():
    done = subprocess.run([program("hadolint"), ROOT / "Dockerfile"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.needs("hadolint")
def test_the_linter_would_say_something():
    """A Dockerfile with a known fault is refused: the test above does check."""
    worse = DOCKERFILE.replace("--no-cache-dir ", "")
    done = subprocess.run([program("hadolint"), "-"], input=worse, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "DL3042" in done.stdout


def test_the_base_image_is_named_exactly():
    """Version and distribution, so that two builds in a month differ by patches that someone chose."""
    assert ARGUMENTS["PYTHON_IMAGE"].startswith("python:3.14.")
    assert "slim-" in ARGUMENTS["PYTHON_IMAGE"]
    assert {stage.image for stage in (BUILDER, FINAL)} == {"${PYTHON_IMAGE}"}


def test_uv_is_the_one_that_wrote_the_lock_file():
    """Its built-in backend makes the project only where it fits pyproject.toml; another would be fetched, unlocked."""
    assert ARGUMENTS["UV_VERSION"] == UV_VERSION
    (requirement,) = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"]
    assert Requirement(requirement).specifier.contains(UV_VERSION)


def test_every_installation_is_locked():
    installs = [step.text for step in BUILDER.all("RUN") if "uv sync" in step.text]
    assert len(installs) == 2
    assert all("--locked --no-default-groups" in text for text in installs)
    assert not any("install" in step.text for step in FINAL.all("RUN")), "the final stage only copies"


def test_the_final_stage_is_not_root_and_has_no_shell_around_the_server():
    """By number (Kubernetes checks that); the exec form makes SIGTERM reach the server."""
    assert FINAL.last("USER").text == "10001:10001"
    assert FINAL.last("STOPSIGNAL").text == "SIGTERM"
    for name in ("ENTRYPOINT", "CMD"):
        assert FINAL.last(name).text.startswith("[")
    after = [step.name for step in FINAL.steps[FINAL.steps.index(FINAL.last("USER")) :]]
    assert "COPY" not in after
    assert not any("chown" in step.text for step in FINAL.steps), "its own code stays root's"


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_no_compiler_is_needed(machine):
    """Each package that the image installs has a wheel for its Python, on both kinds of machines."""
    platforms = [f"manylinux_2_{minor}_{machine}" for minor in range(41, 4, -1)] + [f"manylinux2014_{machine}"]
    tags = {*cpython_tags((3, 14), platforms=platforms), *compatible_tags((3, 14), platforms=platforms)}
    lock = {package["name"]: package for package in tomllib.loads((ROOT / "uv.lock").read_text())["package"]}
    for name in installed(lock):
        wheels = [parse_wheel_filename(wheel["url"].rsplit("/", 1)[1])[3] for wheel in lock[name]["wheels"]]
        assert any(tags & wheel for wheel in wheels), f"{name} has no wheel for CPython 3.14 on {machine}"


def installed(lock):
    """The packages of uv.lock that EXTRAS installs, on Linux."""
    project = lock["kontract"]
    extras = [word for word in ARGUMENTS["EXTRAS"].split() if word != "--extra"]
    waiting = [*project["dependencies"], *(one for extra in extras for one in project["optional-dependencies"][extra])]
    found = set()
    while waiting:
        name = waiting.pop()["name"]
        if name not in found:
            found.add(name)
            waiting += lock[name].get("dependencies", [])
    assert {"msgspec", "asyncpg"} <= found
    return sorted(found)


def test_the_context_holds_no_secret_and_no_local_state(tmp_path):
    """A secret in the image is a secret published; everything that is not named in .dockerignore stays outside."""
    shutil.copy(ROOT / ".dockerignore", tmp_path)
    for name in (".env", ".dev.vars", ".kontract/pg", "src/.env", "src/app/.dev.vars.old", "src/routes.py", "id_rsa",
                 "src/kontract/__pycache__/x.pyc", "deploy/kubernetes/secret.yaml", "tests/test_a.py"):  # fmt: skip
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    for name in ("src/app/tasks.py", "pyproject.toml", "public/demo/page.js", "deploy/container/healthcheck.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")

    found = set(build_context(tmp_path))

    assert found == {"src/app/tasks.py", "pyproject.toml", "public/demo/page.js", "deploy/container/healthcheck.py"}


# --- the health check ------------------------------------------------------------------------------------------------


def health(port):
    done = subprocess.run(
        [sys.executable, "-I", HEALTHCHECK],
        env={"PORT": str(port), "HTTP_PROXY": "http://127.0.0.1:1", "http_proxy": "http://127.0.0.1:1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    return done.returncode, done.stderr.strip()


@pytest.mark.parametrize(("status", "expected"), [(200, (0, "")), (503, (1, "/health answers 503"))])
def test_the_health_check_believes_what_health_answers(status, expected):
    class Answer(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(status if self.path == "/health" else 404)
            self.end_headers()

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Answer) as server:
        thread = Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            assert health(server.server_port) == expected
        finally:
            server.shutdown()
            thread.join()


def test_the_health_check_says_that_nobody_answers():
    port = free_port()
    code, message = health(port)
    assert code == 1
    assert message.startswith(f"port {port} does not answer")


# --- by hand ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def image():
    """The Dockerfile's steps, run here. Below /tmp itself, since the container's user has to look inside."""
    root = Path(tempfile.mkdtemp(prefix="kontract-image-"))
    root.chmod(0o755)
    try:
        built = Image(root)
        built.build(DOCKERFILE)
        yield built
    finally:
        shutil.rmtree(root, ignore_errors=True)


def test_the_steps_leave_what_a_server_needs_and_nothing_else(image):
    names = {path.name for path in image.folder.iterdir()}
    assert names == {
        ".venv",
        "README.md",
        "deploy",
        "pyproject.toml",
        "public",
        "sql",
        "src",
        "uv.lock",
        "wrangler.toml",
    }
    assert (image.folder / "src" / "routes.py").is_file(), "routes are compiled when the image is built"
    assert not any((image.folder / ".venv" / "bin" / name).exists() for name in ("pip", "uv", "pytest"))
    assert len(image.skipped) == 1, "groupadd alone was left out"
    writable = [
        path for path in image.folder.rglob("*") if not path.is_symlink() and path.stat().st_mode & stat.S_IWOTH
    ]
    assert writable == []


def test_a_missing_package_stops_the_build(image, tmp_path):
    """An application that cannot be imported is found when the image is built, not at a first call."""
    module = image.folder / "src" / "app" / "broken.py"
    module.write_text("import a_package_that_nobody_locked\n")
    try:
        check = BUILDER.all("RUN")[-1].text.rpartition("&& ")[2]
        done = subprocess.run(["sh", "-c", check], cwd=image.folder, capture_output=True, text=True, check=False)
    finally:
        module.unlink()
    assert done.returncode == 1
    assert "a_package_that_nobody_locked" in done.stderr


def environment(image, **more):
    return image.environment | {"HOME": str(image.folder), "KONTRACT_SECRET": SECRET, "KONTRACT_OWNER": "t"} | more


def someone():
    """The user of the image, where this machine lets us be one."""
    return {"user": 10001, "group": 10001, "extra_groups": []} if os.geteuid() == 0 else {}


def test_the_image_migrates_serves_and_stops(image, postgres):
    """From an empty database to an answered call, as the container's user, and back down at SIGTERM."""
    url, port = postgres.create_database(empty=True), free_port()
    variables = environment(image, DATABASE_URL=url, PORT=str(port))
    migrated = subprocess.run(
        image.command(FINAL, "migrate", "--coordination"),
        cwd=image.folder, env=variables, capture_output=True, text=True, check=False, timeout=120, **someone(),
    )  # fmt: skip
    assert migrated.returncode == 0, migrated.stderr

    with subprocess.Popen(
        image.command(FINAL),
        cwd=image.folder,
        env=variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        **someone(),
    ) as server:
        try:
            assert wait_until(lambda: server.poll() is not None or health(port)[0] == 0, 120)
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
            connection.request("GET", "/ready")
            assert connection.getresponse().status == 200
            connection.close()
        finally:
            server.terminate()
            output = server.communicate(timeout=60)
    assert server.returncode == 0, output
