"""What the files of a deployment say must fit each other, and the server: one port, known settings, no secret."""

import re

import pytest
import yaml

from kontract.server import settings
from kontract.server.settings import DEFAULT_PORT
from support.deployment import (
    DEPLOY,
    KUBERNETES,
    ROOT,
    assignments,
    compose,
    env_file,
    known,
    manifest,
    manifests,
    stages,
)

FINAL = stages((ROOT / "Dockerfile").read_text())[-1]
IMAGE = {key: value for step in FINAL.all("ENV") for key, value in assignments(step.text).items()}
SECRET = "c7d41f0a92be6835d1407ea9f3286bc50d9e71f8a4b36c2de580179fc46a3b92"
FILLED = {"KONTRACT_SECRET": SECRET, "POSTGRES_PASSWORD": "p", "GATEWAY_PASSWORD": "g"}
URL = "postgresql://kontract:p@127.0.0.1:5432/kontract"
FILES = [
    ROOT / "Dockerfile",
    ROOT / "compose.yaml",
    *sorted(path for path in DEPLOY.rglob("*") if path.is_file() and path.name != "secret.yaml"),
]
# Of Python and of the client libraries, not of the server.
OTHERS = {"PATH", "PYTHONDONTWRITEBYTECODE", "PYTHONUNBUFFERED"}


def of_container(kind):
    (container,) = manifest(kind)["spec"]["template"]["spec"]["containers"]
    return {one["name"]: "" for one in container.get("env", [])}


GIVEN = {
    "the image": {key: value for key, value in IMAGE.items() if key not in OTHERS},
    "compose.yaml": compose(FILLED)["services"]["app"]["environment"],
    "systemd": env_file(DEPLOY / "systemd" / "kontract.env.example"),
    "Kubernetes": env_file(KUBERNETES / "settings.env") | of_container("Deployment"),
}


@pytest.mark.parametrize("where", GIVEN)
def test_every_variable_is_one_that_the_server_reads(where):
    """A name with a slip in it would change nothing, and nobody would notice."""
    assert {"DATABASE_URL", "KONTRACT_SECRET", "KONTRACT_POOL", "KONTRACT_SIGN_UP"} <= known()
    assert set(GIVEN[where]) - known() == set()


@pytest.mark.parametrize("where", GIVEN)
def test_the_server_accepts_the_values(where):
    """As they stand in the file, with the secrets filled in."""
    values = {"DATABASE_URL": URL} | GIVEN[where] | {"KONTRACT_SECRET": SECRET}
    values["DATABASE_URL"] = values["DATABASE_URL"] or URL
    read = settings.read({key: str(value) for key, value in values.items()})
    assert read.port == DEFAULT_PORT


@pytest.mark.parametrize("where", GIVEN)
def test_several_processes_never_coordinate_in_memory(where):
    """Left to the default, or said: what several processes share."""
    values = {"DATABASE_URL": URL} | GIVEN[where] | {"KONTRACT_SECRET": SECRET, "KONTRACT_WORKERS": "2"}
    values["DATABASE_URL"] = values["DATABASE_URL"] or URL
    assert settings.read({key: str(value) for key, value in values.items()}).coordination != "memory"


def test_one_port_everywhere():
    port = str(DEFAULT_PORT)
    (container,) = manifest("Deployment")["spec"]["template"]["spec"]["containers"]
    service = compose(FILLED)["services"]["app"]
    proxies = [path.read_text() for path in (DEPLOY / "proxy").iterdir()]
    found = {
        "EXPOSE": [FINAL.last("EXPOSE").text],
        "image": [IMAGE["PORT"]],
        "compose": [str(service["ports"][0]).rpartition(":")[2]],
        "systemd": [env_file(DEPLOY / "systemd" / "kontract.env.example")["PORT"]],
        "settings": [env_file(KUBERNETES / "settings.env")["PORT"]],
        "pod": [str(one["containerPort"]) for one in container["ports"] if one["name"] == "http"],
        "proxies": [found for text in proxies for found in re.findall(r"server .*?10\.0\.0\.\d+:(\d+)", text)],
    }
    assert found == {where: [port] * len(ports) for where, ports in found.items()}
    assert len(found["proxies"]) == 6


def test_metrics_are_on_the_port_that_prometheus_is_told():
    (container,) = manifest("Deployment")["spec"]["template"]["spec"]["containers"]
    annotations = manifest("Deployment")["spec"]["template"]["metadata"]["annotations"]
    (port,) = [str(one["containerPort"]) for one in container["ports"] if one["name"] == "metrics"]
    assert port == annotations["prometheus.io/port"]
    for where in ("compose.yaml", "Kubernetes"):
        assert GIVEN[where]["KONTRACT_METRICS"] == f"0.0.0.0:{port}"


def images():
    """Every image that is not made here, and where it is named."""
    for service in compose(FILLED)["services"].values():
        if "build" not in service:
            yield service["image"]
    yield assignments(stages((ROOT / "Dockerfile").read_text())[0].last("ARG").text)["PYTHON_IMAGE"]
    for folder in (KUBERNETES, KUBERNETES / "migration"):
        for one in yaml.safe_load((folder / "kustomization.yaml").read_text())["images"]:
            yield f"{one['newName']}:{one['newTag']}"


@pytest.mark.parametrize("image", sorted(set(images())))
def test_images_are_pinned(image):
    """`latest`, or a major version alone, would be another program tomorrow."""
    assert re.fullmatch(r"[\w./-]+:v?\d+\.\d+(\.\d+)?(-\w+)*", image)


def test_manifests_leave_the_image_to_the_kustomizations():
    for kind in ("Deployment", "Job"):
        (container,) = manifest(kind)["spec"]["template"]["spec"]["containers"]
        assert container["image"] == "kontract-app"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_secret_is_committed(path):
    """Nothing of the form of a key, and passwords only where a word says that one is to be put there."""
    text = path.read_text()
    assert re.findall(r"[0-9a-fA-F]{32,}", text) == []
    passwords = re.findall(r"postgres(?:ql)?://\w+:([^@\s]+)@", text)
    assert [one for one in passwords if one != "PASSWORD" and not one.startswith("${POSTGRES_PASSWORD:?")] == []


def test_the_schema_is_brought_by_the_same_command_everywhere():
    """Whoever shares the state of coordinators needs its tables too."""
    unit = (DEPLOY / "systemd" / "kontract-migrate.service").read_text()
    services = compose(FILLED)["services"]
    job = next(one for one in manifests().values() if one["kind"] == "Job")
    assert "kontract migrate --coordination\n" in unit
    assert services["migrate"]["command"][:2] == ["migrate", "--coordination"]
    assert job["spec"]["template"]["spec"]["containers"][0]["args"] == ["migrate", "--coordination"]
