"""What would be deployed, asked of wrangler itself (`deploy --dry-run`: no account, no network)."""

import re
import tomllib
from pathlib import Path

import pytest

import kontract
from kontract.cli import deploy_check
from kontract.cli.deploy_check import TOP_LEVEL
from kontract.cli.toolchain import setup
from kontract.gateway.config import read
from support.sessions import SECRET

SOURCE = Path(kontract.__file__).parents[1]
MODULES = tuple(f"kontract/cloudflare/{name}.js" for name in ("crypto", "http", "postgres"))
ENVIRONMENTS = (TOP_LEVEL, "development", "preview", "staging", "production")
# What is uploaded is the same in all of them; tests/cli/test_deploy_check.py asks for the bindings of each.
UPLOADED = (TOP_LEVEL, "preview")


@pytest.fixture(scope="module")
def config(checkout):
    return tomllib.loads(checkout.wrangler_toml.read_text())


@pytest.fixture(scope="module", params=UPLOADED, ids=str)
def dry_run(request, checkout, tmp_path_factory):
    """(what wrangler said, the folder of what it would upload)"""
    setup.prepare(checkout)
    out = tmp_path_factory.mktemp("upload")
    return deploy_check.dry_run(checkout, request.param, out), out


def bindings(config):
    """Every name that the Worker finds in its `env`."""
    yield from (one["name"] for one in config["durable_objects"]["bindings"])
    yield from (one["binding"] for kind in ("hyperdrive", "kv_namespaces") for one in config.get(kind, []))
    yield from (one["name"] for one in config.get("ratelimits", []))
    yield from config["vars"]


def test_every_binding_is_there_in_every_environment(dry_run, config, request):
    """Named environments inherit none, and wrangler only warns. Previews go without Hyperdrive, and say so."""
    done, _ = dry_run
    preview = "preview" in request.node.callspec.id

    names = set(bindings(config))
    assert {"SESSION_DO", "HYPERDRIVE"} <= names
    assert names - done.bindings == ({"HYPERDRIVE"} if preview else set())
    assert "env.SESSION_DO (KontractSessionDO)" in done.said
    assert config["env"]["preview"]["hyperdrive"] == []


def test_no_secret_is_deployed_with_the_code(dry_run):
    done, _ = dry_run
    assert "KONTRACT_SECRET" not in done.said


def test_every_environment_says_who_may_sign_up(config):
    for environment in (config, *config["env"].values()):
        assert environment["vars"].keys() == {"KONTRACT_CORS_ORIGINS", "KONTRACT_OWNER", "KONTRACT_SIGN_UP"}
        read(
            {
                "KONTRACT_SECRET": SECRET,
                **environment["vars"],
            }
        )


def test_the_worker_is_uploaded_and_the_tests_are_not(dry_run):
    _, out = dry_run
    uploaded = {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}

    assert {"entry.py", "session_do.py", "kontract/__init__.py", "python_modules/workers/__init__.py"} <= uploaded
    assert not [name for name in uploaded if name.startswith("tests/") or name.endswith((".pyc", ".pyi"))]
    assert not [name for name in uploaded if "dev.vars" in name]


def test_native_cryptography_is_uploaded_as_a_module(dry_run):
    """The Worker imports it by name at its first use: a missing one would fail there, not at the deployment."""
    done, out = dry_run

    for module in MODULES:
        assert (out / module).read_bytes() == (SOURCE / module).read_bytes()
        assert re.search(rf"{re.escape(module)} +│ esm ", done.said)


def test_the_files_of_the_page_are_assets_in_every_environment(dry_run, config):
    """The folder is read, and every path of the Worker is the Worker's."""
    done, out = dry_run

    assert re.search(r"Read [0-9]+ files from the assets directory", done.said)
    assert not list(out.rglob("index.html")), "the page is no module of the Worker"
    first = config["assets"]["run_worker_first"]
    for path in (
        "/call/f",
        "/rpc/f",
        "/auth/me",
        "/raystream/rpc",
        "/.well-known/kontract",
        "/stream",
        "/stream/ticket",
        "/health",
    ):
        assert any(path == one or (one.endswith("*") and path.startswith(one[:-1])) for one in first), path
    assert all("assets" not in environment for environment in config["env"].values()), "they inherit it"


def test_each_environment_is_a_worker_of_its_own_with_its_routes(config):
    names = [config["env"][name]["name"] for name in ENVIRONMENTS[1:]]

    assert len(set(names)) == len(names)
    assert config["env"]["production"]["name"] == config["name"]
    assert config["env"]["production"]["routes"] == [{"pattern": "api.example.com/*", "zone_name": "example.com"}]
    assert config["env"]["staging"]["routes"]


def test_the_file_holds_no_connection_string_and_no_address_of_one_machine(checkout):
    text = checkout.wrangler_toml.read_text()

    assert "localConnectionString" not in text
    assert "postgres://" not in text
    assert "postgresql://" not in text


def test_the_object_is_a_sqlite_class(config):
    assert config["migrations"] == [{"tag": "v1", "new_sqlite_classes": ["KontractSessionDO"]}]
