"""compose.yaml: it fits the specification, and refuses to start without what it cannot invent."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from kontract.core import database_url
from support.deployment import DEPLOY, ORDERLY_END_SECONDS, ROOT, compose, env_file, seconds
from support.sessions import SECRET

TOOLS = Path(sys.executable).parent
FILE = ROOT / "compose.yaml"
FILLED = {
    "KONTRACT_SECRET": SECRET,
    "POSTGRES_PASSWORD": "p",
    "GATEWAY_PASSWORD": "g",
}


@pytest.fixture(scope="module")
def services():
    return compose(FILLED)["services"]


def schema(path):
    command = [TOOLS / "check-jsonschema", "--builtin-schema", "vendor.compose-spec", path]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def test_it_fits_the_specification(tmp_path):
    done = schema(FILE)
    assert done.returncode == 0, done.stdout

    worse = tmp_path / "compose.yaml"
    worse.write_text(FILE.read_text().replace("condition: service_healthy", "conditions: service_healthy"))
    assert schema(worse).returncode == 1, "the check above does check"


@pytest.fixture
def read(tmp_path):
    """podman-compose reads the file as it would before it starts anything; no engine is asked but for its version."""
    podman = tmp_path / "podman"
    podman.write_text("#!/bin/sh\necho 'podman version 5.0.0'\n")
    podman.chmod(0o755)

    def run(variables):
        (tmp_path / "variables").write_text("".join(f"{key}={value}\n" for key, value in variables.items()))
        command = [TOOLS / "podman-compose", "--podman-path", podman, "--env-file", tmp_path / "variables", "-f", FILE]
        return subprocess.run([*command, "--profile", "tikv", "config"], capture_output=True, text=True, check=False,
                              timeout=60, cwd=tmp_path, env={"PATH": "/usr/bin:/bin"})  # fmt: skip

    return run


def test_a_second_reader_reads_the_same(read):
    """The tests below read compose.yaml with a reader of their own; podman-compose agrees with it."""
    done = read(FILLED)
    assert done.returncode == 0, done.stderr
    theirs, ours = yaml.safe_load(done.stdout)["services"], compose(FILLED)["services"]
    assert set(theirs) == set(ours) == {"app", "migrate", "postgres", "pd", "tikv"}
    for name, service in ours.items():
        assert theirs[name].get("environment") == service.get("environment")
        assert theirs[name]["image"] == service["image"]


@pytest.mark.parametrize("missing", FILLED)
def test_what_is_missing_in_env_is_named(read, missing):
    """No default for a secret: a sentence that names the variable and the file, before anything is started."""
    done = read(FILLED | {missing: ""})
    assert done.returncode != 0
    assert f"{missing} is missing a value: write it into .env, see deploy/compose.env.example" in done.stderr
    assert (DEPLOY / "compose.env.example").exists()


def test_the_example_of_env_has_every_variable_and_no_other():
    text = FILE.read_text()
    example = env_file(DEPLOY / "compose.env.example")
    used = {name for name in example if f"${{{name}:" in text}
    assert set(example) - used == {"COMPOSE_PROFILES"}, "read by compose itself"
    asked = {part.split(":")[0].split("}")[0] for part in text.split("${")[1:]}
    assert asked - set(example) == {"KONTRACT_IMAGE"}, "for those who build elsewhere"
    assert [example[name] for name in FILLED] == ["", "", ""]


def test_the_schema_comes_before_the_application(services):
    assert services["migrate"]["depends_on"] == {"postgres": {"condition": "service_healthy"}}
    assert services["app"]["depends_on"] == {"migrate": {"condition": "service_completed_successfully"}}
    assert services["migrate"]["command"] == ["migrate", "--coordination", "--gateway-role", "gateway"]
    assert "command" not in services["app"], "the image's own"


def test_the_database_is_healthy_only_once_its_files_were_read(services):
    """While the image reads them, its server listens on the Unix socket alone; asking there would be too early."""
    assert "--host=127.0.0.1" in services["postgres"]["healthcheck"]["test"]


def test_files_from_outside_are_there_and_stay_read_only(services):
    binds = [volume for service in services.values() for volume in service.get("volumes", []) if "source" in volume]
    assert len(binds) == 4
    for bind in binds:
        assert (ROOT / bind["source"]).is_file(), bind["source"]
        assert bind["read_only"] is True
        assert bind["bind"] == {"create_host_path": False}, "a missing file would become an empty folder"


def test_data_outlives_the_containers(services):
    """PostgreSQL 18 and later keep it one folder higher than before; a volume in the old place would stay empty."""
    assert services["postgres"]["image"].startswith("postgres:18.")
    assert services["postgres"]["volumes"][0] == "postgres:/var/lib/postgresql"
    for name in ("pd", "tikv"):
        assert services[name]["volumes"][0] == f"{name}:/data"
        assert "--data-dir=/data" in services[name]["command"]


def test_tikv_is_there_on_demand_alone(services):
    assert {name for name, service in services.items() if service.get("profiles") == ["tikv"]} == {"pd", "tikv"}
    assert "enable-ttl = true" in (DEPLOY / "tikv" / "tikv.toml").read_text(), "shared state expires"


@pytest.mark.parametrize("name", ["app", "migrate"])
def test_our_containers_may_do_nothing_that_they_need_not(services, name):
    service = services[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert not service.get("privileged")


def test_only_the_application_is_reached_from_outside_and_only_where_it_was_asked(services):
    assert [name for name, service in services.items() if "ports" in service] == ["app"]
    assert services["app"]["ports"] == ["127.0.0.1:8787:8787"]


def test_there_is_time_for_an_orderly_end(services):
    assert seconds(services["app"]["stop_grace_period"]) > ORDERLY_END_SECONDS


def test_the_application_does_not_connect_as_the_role_that_owns_the_database(services):
    """PostgreSQL's image makes POSTGRES_USER a superuser."""
    app, migrate, server = (services[name]["environment"] for name in ("app", "migrate", "postgres"))
    assert database_url.read(app["DATABASE_URL"]).user == "gateway" == services["migrate"]["command"][-1]
    assert database_url.read(app["DATABASE_URL"]).password == migrate["KONTRACT_ROLE_PASSWORD"]
    assert database_url.read(migrate["DATABASE_URL"]).user == server["POSTGRES_USER"]
    assert database_url.read(app["DATABASE_URL"]).password != server["POSTGRES_PASSWORD"]
