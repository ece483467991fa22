"""The page about one's own servers tells the truth: what can be run here is run, of the rest commands are checked."""

import importlib
import os
import re
import shlex
import shutil
import subprocess
import tomllib
from urllib.parse import urlsplit

import asyncpg
import httpx
import pytest

from kontract.cli.main import COMMANDS
from kontract.cli.migrate import migrate
from kontract.cli.toolchain.bootstrap import UV_VERSION
from kontract.cli.toolchain.processes import free_port, wait_until
from kontract.server import env_file, metrics, settings
from support.deployment import DEPLOY, HOME, ROOT, compose, known
from support.pages import DOCS, blocks
from support.programs import program
from support.serving import running_server
from support.sessions import ENVIRONMENT, SECRET, bearer_for

PAGES = [
    DOCS / name
    for name in (
        "how-to/self-hosting.md",
        "how-to/several-nodes.md",
        "how-to/operate.md",
        "how-to/own-platform.md",
        "reference/configuration.md",
    )
]
TEXT = "\n".join(page.read_text() for page in PAGES)
# Not run: they need root on a server with systemd, a container engine, a cluster.
ELSEWHERE = ["bash root", "bash engine", "bash cluster"]
KINDS = {
    *ELSEWHERE,
    "bash install",
    "bash nodes",
    "bash compose",
    "sql roles",
    "sql coordination",
    "python adapter",
    "python contract",
    "python gateway",
    "toml",
    "text",
}


BLOCKS = [block for page in PAGES for block in blocks(page)]


def the_one(kind):
    (block,) = [block for block in BLOCKS if block.kind == kind]
    return block.text


def commands(kind):
    """The commands of all blocks of a kind, one string each."""
    text = "\n".join(block.text for block in BLOCKS if block.kind == kind).replace("\\\n", " ")
    return [line for line in text.splitlines() if line and not line.startswith("#")]


def test_every_block_says_what_it_is():
    assert {block.kind for block in BLOCKS} == KINDS
    assert TEXT.count("```") == 2 * len(BLOCKS)


def test_the_files_that_are_named_are_there():
    for path in re.findall(r"`((?:deploy|sql|src|docs)/[\w./-]+)`", TEXT):
        assert (ROOT / path).exists(), path


# --- settings --------------------------------------------------------------------------------------------------------


def listed():
    """The variables of the table and their defaults, as written there."""
    section = TEXT.partition("## `kontract serve`")[2].partition("\n## ")[0]
    for row in re.findall(r"^\|(.*)\|$", section, re.MULTILINE):
        names_, defaults_ = (re.findall(r"`([^`]+)`", cell) for cell in row.split("|")[:2])
        for position, name in enumerate(names_):
            yield name, defaults_[position] if position < len(defaults_) else ""


def test_the_table_has_every_setting_and_no_other():
    names = {name for name, _ in listed()}
    assert names == known()


def test_the_defaults_are_those_of_the_server():
    """Saying them changes nothing."""
    least = {"DATABASE_URL": "postgresql://u@h/d", "KONTRACT_SECRET": SECRET}
    said = {name: default for name, default in listed() if default}
    assert {"PORT", "KONTRACT_POOL", "KONTRACT_COORDINATION", "KONTRACT_LOG_LEVEL"} <= set(said)
    ours, theirs = settings.read(least | said), settings.read(least)
    assert {key: getattr(ours, key) for key in ours.__struct_fields__ if key != "environment"} == {
        key: getattr(theirs, key) for key in theirs.__struct_fields__ if key != "environment"
    }


# --- what is run -----------------------------------------------------------------------------------------------------


def run(text, folder, **more):
    inherited = {key: value for key, value in os.environ.items() if key.startswith(("PIP_", "UV_", "SSL_"))}
    variables = {"PATH": os.environ["PATH"], "HOME": str(folder), **inherited, **more}
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", text],
        cwd=folder, env=variables, capture_output=True, text=True, check=False, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def checked_out(folder):
    """A copy of what is in the repository, as `git clone` leaves it."""
    listed_ = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, listed_.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    return folder


@pytest.mark.long
@pytest.mark.needs("git")
def test_the_installation_leaves_a_server_that_starts(tmp_path):
    """In an empty folder, from the lock file, with nothing but Python: a server that asks for its settings."""
    application = checked_out(tmp_path / "application")
    text = the_one("bash install")
    assert f"uv=={UV_VERSION}" in text
    run(text.replace(HOME, str(application)).replace("/opt/uv", str(tmp_path / "uv")), tmp_path, UV_NO_CACHE="1")

    done = subprocess.run(
        [application / ".venv/bin/kontract", "serve"],
        cwd=application,
        env={},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("kontract serve: KONTRACT_SECRET is not set")
    assert (application / "src/routes.py").exists()


@pytest.mark.needs("git")
def test_the_file_for_compose_is_filled_in(tmp_path):
    application = checked_out(tmp_path)
    run(the_one("bash compose"), application)

    values = env_file.parse((application / ".env").read_text())
    assert re.fullmatch(r"[0-9a-f]{64}", values["KONTRACT_SECRET"])
    services = compose(values)["services"]
    for name, password in (("app", "GATEWAY_PASSWORD"), ("migrate", "POSTGRES_PASSWORD")):
        assert urlsplit(services[name]["environment"]["DATABASE_URL"]).password == values[password]
    assert values["GATEWAY_PASSWORD"] != values["POSTGRES_PASSWORD"]


def client(server):
    return httpx.AsyncClient(base_url=server.url, headers=bearer_for(server), timeout=60, trust_env=False)


async def test_the_server_needs_no_more_than_the_role_has(checkout, postgres, reaper, tmp_path):
    """As the role of the page: calls, accounts, streams; and it can neither change the schema nor wait for ever."""
    owner = postgres.create_database(empty=True)
    role = f"kontract_{urlsplit(owner).path.strip('/')}"
    connection = await asyncpg.connect(owner)
    try:
        for statement in filter(str.strip, re.sub(r"--.*", "", the_one("sql roles")).split(";")):
            await connection.execute(re.sub(r"\bkontract\b", role, statement))
        await migrate(owner, lambda _: None, coordination=True)
        url = urlsplit(owner)
        theirs = url._replace(netloc=f"{role}:PASSWORD@{url.netloc.rpartition('@')[2]}").geturl()
        with running_server(checkout, theirs, tmp_path, reaper) as server:
            async with client(server) as api:
                made = await api.post("/rpc/create_task", json=["as a role"])
                assert made.status_code == 200, made.text
                renamed = await api.post("/rpc/rename_task", json=[made.json()["result"]["id"], "again"])
                assert renamed.status_code == 200, renamed.text
                account = {"name": "ann", "password": "correct horse battery"}
                assert (await api.post("/auth/register", json=account)).status_code == 201
                async with api.stream("GET", "/stream?table=tasks") as stream:
                    assert stream.status_code == 200
                assert (await api.get("/ready")).status_code == 200
        weak = await asyncpg.connect(theirs)
        try:
            assert await weak.fetchval("SHOW statement_timeout") == "5s"
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await weak.execute("DROP TABLE trxs")
        finally:
            await weak.close()
    finally:
        await connection.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")
        await connection.close()


async def test_a_restored_database_goes_on_with_empty_coordination(checkout, postgres, reaper, tmp_path):
    """The page's steps, around a backup that is older than the last commits: numbers go on, nothing is mixed up."""
    url = postgres.create_database()
    connection = await asyncpg.connect(url)
    try:
        await connection.execute((ROOT / "sql" / "coordination.sql").read_text())

        def serving(name):
            return running_server(checkout, url, tmp_path / name, reaper, KONTRACT_COORDINATION="postgres")

        async def create(server, title):
            async with client(server) as api:
                answer = await api.post("/rpc/create_task", json=[title])
                assert answer.status_code == 200, answer.text
                tasks = (await api.post("/rpc/list_tasks", json=[])).json()["result"]
                return [task["title"] for task in tasks], int(answer.headers["x-kontract-txid"])

        async def first_event(server, **query):
            """Its name and its id."""
            asked = {"table": "tasks", **query}
            async with client(server) as api, api.stream("GET", "/stream", params=asked) as stream:
                found = {}
                async for line in stream.aiter_lines():
                    name, _, value = line.partition(": ")
                    found[name] = value
                    if not line and "event" in found:
                        break
            return [found["event"], found.get("id")]

        with serving("before") as server:
            _, kept = await create(server, "kept")
            _, lost = await create(server, "lost")
            [_, position] = await first_event(server)
            assert lost > kept
        # A backup made between the two.
        tables = await connection.fetch("SELECT ptr FROM storage WHERE id = 'tasks'")
        await connection.execute(f'DELETE FROM "{tables[0][0]}" WHERE _txid = {lost}')
        await connection.execute(f"DELETE FROM trxs WHERE create_txid = {lost}")
        await connection.execute(the_one("sql coordination"))
        with serving("after") as server:
            titles, number = await create(server, "after")
            [event, _] = await first_event(server, since=position)
        assert sorted(titles) == ["after", "kept"]
        assert number > kept
        assert event == "reset", "whoever saw what was lost must not go on as if it were there"
    finally:
        await connection.close()


async def test_a_client_of_ones_own_is_put_to_use_as_shown():
    """The example runs, fulfils the contract that the page names, and what it says of the Protocols is there."""
    names = {}
    exec(the_one("python adapter"), names)
    assert await names["main"]() == ("hello", 1)
    names["pytest"] = pytest
    exec(the_one("python contract"), names)
    for case in names["contracts"].TIKV_CLIENT:
        await names["test_my_client"](case)
    for protocol, module in re.findall(r"^\| `(\w+)` \| `(kontract[\w.]+)` \|", TEXT, re.MULTILINE):
        assert hasattr(importlib.import_module(module), protocol), protocol


async def test_a_gateway_is_made_of_parts_as_shown(postgres):
    """It listens, calls functions over the database it was given, and keeps shared values where it was told to."""
    names = {"__name__": "of_the_page"}
    exec(the_one("python adapter"), names)
    exec(the_one("python gateway"), names)
    port, client = free_port(), names["MyTiKV"]()
    async with (
        names["gateway"](client, postgres.create_database(), port, ENVIRONMENT),
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=60, trust_env=False) as api,
    ):
        made = await api.post("/auth/anonymous")  # its throttle counts in the store
        assert made.status_code == 201
        assert client.values
        bearer = {"Authorization": f"Bearer {made.json()['token']}"}
        health = await api.get("/health")
        assert health.json() == {"status": "ok", "routes": 1}
        answer = await api.post("/rpc/getTaskTitle", json=["nobody"], headers=bearer)
        assert (answer.status_code, answer.json()["message"]) == (404, "there is no task 'nobody'")
    with pytest.raises(ValueError, match="KONTRACT_SECRET"):
        names["gateway"](client, "postgresql://x/y", port, {})
    with pytest.raises(TypeError, match="pg must be"):
        names["gateway"](client, None, port, ENVIRONMENT)


def test_tikv_is_configured_as_the_page_says():
    assert tomllib.loads(the_one("toml")) == tomllib.loads((DEPLOY / "tikv" / "tikv.toml").read_text())


def test_alerts_ask_for_numbers_that_there_are():
    names = set(re.findall(r"\b(kontract_[a-z_]+?)(?:_bucket|_sum|_count)?\b(?=[{\[) `>])", TEXT))
    assert len(names) >= 6
    counted = set(re.findall(r"^# TYPE (\S+)", metrics.Metrics("1", []).render(), re.MULTILINE))
    assert names - counted - set(metrics.GAUGES) == set()


# --- what is not run -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ELSEWHERE)
def test_it_is_shell_and_its_files_are_there(kind):
    for line in commands(kind):
        assert subprocess.run(["bash", "-n", "-c", line], check=False).returncode == 0, line
        for word in shlex.split(line, comments=True):
            path = word.removeprefix(f"{HOME}/")
            if path.startswith("deploy/") and not path.endswith("/secret.yaml"):
                assert (ROOT / path).exists(), word


def test_commands_of_kontract_are_there():
    shells = [block.text for block in BLOCKS if not block.kind.startswith("python")]
    text = "\n".join(shells) + "\n".join(re.findall(r"`([^`\n]+)`", TEXT))
    names = set(re.findall(r"(?<!--namespace )(?<!enable )\bkontract(?:-app)? ([a-z]+)\b", text))
    assert {"serve", "migrate", "keygen", "doctor", "build"} <= names
    assert names - set(COMMANDS) == set()


PROGRAMS = ("docker", "kubectl", "systemctl", "journalctl", "curl", "install")


def needed(line):
    words = line.split()[:2]
    return "docker compose" if words == ["docker", "compose"] else words[0]


@pytest.mark.parametrize(
    "line",
    [
        pytest.param(line, marks=pytest.mark.needs(needed(line)), id=line)
        for kind in ELSEWHERE
        for line in commands(kind)
        if line.split()[0] in PROGRAMS
    ],
)
def test_programs_know_their_options(line):
    """`docker run --help` and `kubectl apply --help` tell which there are; both need no engine and no cluster."""
    words = shlex.split(line, comments=True)
    found = program(needed(line))
    options = {word.partition("=")[0] for word in words if word.startswith("--")}
    subcommands = words[1:2] if words[0] in ("docker", "kubectl") else []
    if words[0] == "kubectl":  # global options come first
        subcommands = [word for word in words[1:] if not word.startswith("-") and word != "kontract"][:1]
        if subcommands == ["rollout"]:
            subcommands.append("status")
    if words[:2] == ["docker", "compose"]:
        subcommands = words[1:3]
    if subcommands == ["run"]:
        options -= {"--bare", "--coordination"}  # of what is run
    text = subprocess.run([found, *subcommands, "--help"], capture_output=True, text=True, check=False).stdout
    if words[0] == "kubectl":
        text += subprocess.run([found, "options"], capture_output=True, text=True, check=False).stdout
    if words[0] == "curl":
        text += subprocess.run([found, "--help", "all"], capture_output=True, text=True, check=False).stdout
    assert {option for option in options if not re.search(rf"{option}\b", text)} == set()


@pytest.mark.timeout(180)
def test_two_nodes_are_started_as_written(postgres, checkout):
    """Both answer, on one database and one secret."""
    migrate, *nodes = the_one("bash nodes").splitlines()
    env = os.environ | {"DATABASE_URL": postgres.create_database(empty=True), "KONTRACT_SECRET": SECRET}
    subprocess.run(shlex.split(migrate), cwd=ROOT, env=env, check=True, capture_output=True, timeout=60)
    ports = [free_port() for _ in nodes]
    commands = [
        shlex.split(re.sub(r"--port \d+ &$", f"--port {port}", line)) for line, port in zip(nodes, ports, strict=True)
    ]
    started = [subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.DEVNULL) for command in commands]
    try:
        for port in ports:
            assert wait_until(lambda port=port: is_ready(port), 60)
    finally:
        for process in started:
            process.terminate()
        assert [process.wait(30) for process in started] == [0, 0]


def is_ready(port):
    try:
        return httpx.get(f"http://127.0.0.1:{port}/ready", trust_env=False).status_code == 200
    except httpx.TransportError:
        return False
