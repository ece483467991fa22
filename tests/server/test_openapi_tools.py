"""The OpenAPI document in the hands of those who use such documents: what it says is what the gateway does.

schemathesis sends what the document describes, and what it does not, and compares the answers with it. Two generators
make clients of it, which call the demo's functions.
"""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
from pathlib import Path

import asyncpg
import httpx
import pytest

import support
from gateway.conftest import VERSIONED
from kontract.cli.toolchain import node
from support import programs
from support.serving import running_server
from support.sessions import OWNER, bearer_for

SUPPORT = Path(support.__file__).parent

DEMO = "^/(call|rpc)/.*(task|account|transfer|balance|total)"
LARGE = "^/call/(?!.*(task|account|transfer|balance|total|triple))"
POSITIONS = "^/rpc/(plain|odd_shapes|anything|only_a_list|list_or_one|nothing|make|store_book)$"
OWN = "^/(auth/(anonymous|register|login|refresh|me)|stream/ticket|raystream/|.well-known/|openapi.json|health|ready)"
LEAVING = "^/auth/(link|logout)$"
WAYS = {"demo": DEMO, "large": LARGE, "positions": POSITIONS, "gateway": OWN, "leaving": LEAVING}


@pytest.fixture(scope="module")
def server(checkout, postgres, reaper, tmp_path_factory):
    """The demo and a larger application, in one."""
    url = postgres.create_database()

    async def add_table():
        sql = await asyncpg.connect(url)
        await sql.execute(VERSIONED.format(ptr="tbl_books"))
        await sql.execute("INSERT INTO storage (id, ptr, owner) VALUES ('books', 'tbl_books', $1)", OWNER)
        await sql.close()

    asyncio.run(add_table())
    folder = tmp_path_factory.mktemp("tools")
    with running_server(checkout, url, folder, reaper, modules=[SUPPORT / "apps" / "large.py"]) as running:
        yield running


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "paths",
    [pytest.param(paths, id=way, marks=[] if way == "demo" else pytest.mark.long) for way, paths in WAYS.items()],
)
def test_schemathesis_finds_nothing(server, tmp_path, paths):
    """With every check that it has, for every path but `/stream`, whose answer does not end."""
    done = subprocess.run(
        [
            *(sys.executable, "-m", "schemathesis.cli", "--config-file", str(SUPPORT / "schemathesis.toml")),
            *("run", f"{server.url}/openapi.json", "--include-path-regex", paths, "--no-color"),
            *(
                "--checks",
                "all",
                "--header",
                f"Authorization: {bearer_for(server, ugroups=['admin'])['authorization']}",
            ),
        ],
        cwd=tmp_path,
        env={
            "PATH": "",
            "HOME": str(tmp_path),
            "PYTHONPATH": str(SUPPORT.parent),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout


CALLS = SUPPORT / "openapi_clients"


@pytest.fixture(scope="module")
def document(server, tmp_path_factory):
    """Of both applications, as a file."""
    answer = httpx.get(f"{server.url}/openapi.json", headers=bearer_for(server, ugroups=["admin"]), trust_env=False)
    path = tmp_path_factory.mktemp("document") / "openapi.json"
    path.write_bytes(answer.content)
    return path


def run(*arguments, **more):
    done = subprocess.run([*map(str, arguments)], capture_output=True, text=True, check=False, **more)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def token(server) -> str:
    return bearer_for(server)["authorization"].removeprefix("Bearer ")


def test_a_python_client_of_a_generator_calls_every_function(server, document, tmp_path):
    """openapi-python-client makes all of it, without a warning, and results are of the types that it promises."""
    (tmp_path / "config.yml").write_text("post_hooks: []\n")
    generate = ("generate", "--path", document, "--output-path", tmp_path / "made", "--meta", "none")
    said = run(
        *(sys.executable, "-m", "openapi_python_client", *generate, "--config", tmp_path / "config.yml"),
        *("--fail-on-warning",),
    )
    assert "Warning" not in said
    called = run(sys.executable, CALLS / "call.py", server.url, token(server), env={"PYTHONPATH": str(tmp_path)})
    assert called == "done\n"
    assert functions_called((CALLS / "call.py").read_text()) >= functions_of_the_demo(document)


@pytest.mark.needs("openapi-typescript")
def test_a_typescript_client_of_a_generator_calls_every_function(server, checkout, document, tmp_path):
    """The types of openapi-typescript are those of the calls: what they allow works, what they forbid is refused."""
    run(programs.program("openapi-typescript"), document, "--output", tmp_path / "made.d.ts", cwd=tmp_path)
    (tmp_path / "call.mts").write_bytes((CALLS / "call.ts").read_bytes())
    (tmp_path / "node.d.ts").write_text("declare const process: { argv: string[] };\n")
    options = ("--strict", "--target", "es2024", "--module", "nodenext", "--lib", "es2024,dom", "--outDir", tmp_path)
    compiler = checkout.node_modules / "typescript" / "bin" / "tsc"
    run(node.bin_folder() / "node", compiler, *options, tmp_path / "call.mts", tmp_path / "node.d.ts")
    assert run(node.bin_folder() / "node", tmp_path / "call.mjs", server.url, token(server)) == "refused\n"
    assert functions_called((CALLS / "call.ts").read_text()) >= functions_of_the_demo(document)


def functions_of_the_demo(document) -> set[str]:
    paths = json.loads(document.read_text())["paths"]
    return {path.removeprefix("/call/") for path in paths if path.startswith("/call/") and re.match(DEMO, path)}


def functions_called(text: str) -> set[str]:
    return {one or other for one, other in re.findall(r"result\((\w+),|\"/call/(\w+)\"", text)}
