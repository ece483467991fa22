"""`kontract doctor`, against the real database: silent when all is well, one sentence for each thing that is not."""

from __future__ import annotations

import asyncio
import importlib.metadata
import json
import shutil
import subprocess

import asyncpg
import httpx
import pytest

from kontract.cli.doctor import application_findings, report, wrangler_findings
from kontract.cli.doctor.database import database_findings, looks_pooled, skew_finding
from kontract.cli.doctor.finding import Finding
from kontract.cli.doctor.machine import parts, secret_findings, toolchain_findings, weigh
from kontract.cli.main import main
from kontract.cli.migrations.database import connected
from kontract.cli.migrations.role import grants
from kontract.cli.table import list_tables
from kontract.cli.toolchain import dev_vars
from kontract.cli.toolchain.checkout import Checkout
from kontract.cli.toolchain.problem import Problem
from support.pgbouncer import pgbouncer
from support.serving import running_server

DEAD = (
    "INSERT INTO tbl_tasks_5f0c1d (id, _txid, _deleted_txid, _owner) "
    "SELECT 'a', n, n + 1, 'u' FROM generate_series(1, 100001) n"
)


def changed(url, *statements):
    async def work():
        connection = await asyncpg.connect(url)
        for statement in statements:
            await connection.execute(statement)
        await connection.close()

    asyncio.run(work())
    return url


def look(url):
    return asyncio.run(database_findings(url))


def wrong(url):
    return [finding for finding in look(url) if finding.wrong]


def test_a_fresh_database_is_well(postgres, capsys, monkeypatch):
    monkeypatch.setenv("DATABASE_URL", postgres.create_database())
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    for text in ("PostgreSQL 1", "no transaction pooler", "clock differs", "tbl_tasks_5f0c1d): versioned, 0 rows"):
        assert text in out
    assert "Nothing is wrong." in out


def test_a_table_without_the_index_in_its_order(postgres):
    """Nothing is wrong, pop and shift are slow: a note."""
    url = postgres.create_database()
    assert not [finding for finding in look(url) if "in the order of its rows" in finding.what]
    changed(url, "DROP INDEX tbl_tasks_5f0c1d_order")
    assert wrong(url) == []
    [found] = [finding for finding in look(url) if "in the order of its rows" in finding.what]
    assert "tenant-1/tasks" in found.what
    assert "kontract migrate" in found.fix


def test_it_shows_epochs_fences_and_dead_versions(postgres):
    url = changed(
        postgres.create_database(),
        "INSERT INTO trxs VALUES ('epoch/tenant-1', 'tenant-1', 3), ('a/1', 'tenant-1', 5), ('b/1', 'tenant-1', -7)",
        "INSERT INTO tbl_tasks_5f0c1d (id, data, _txid, _deleted_txid, _owner) VALUES "
        "('a', '{}', 4, 5, 'u'), ('a', '{}', 5, NULL, 'u')",
    )
    said = [finding.what for finding in look(url)]
    assert wrong(url) == []
    assert "owner tenant-1: epoch 3, 2 fences of txids 5 to 7, 1 of them aborted while in doubt" in said
    assert "table tenant-1/tasks (tbl_tasks_5f0c1d): versioned, 1 rows, 1 dead versions since txid 5" in said


@pytest.mark.parametrize(
    ("statement", "what", "fix"),
    [
        ("DROP TABLE trxs", "schema is missing: no table trxs", "kontract migrate"),
        ("INSERT INTO storage VALUES ('lost', 'tbl_lost', 't')", "t/lost (tbl_lost) does not exist", "storage"),
        ("INSERT INTO storage VALUES ('odd', 'a b', 't')", "does not exist", "storage"),
        ("ALTER TABLE tbl_tasks_5f0c1d DROP CONSTRAINT tbl_tasks_5f0c1d_pkey", "has no primary key", "tables.md"),
        ("DROP INDEX tbl_tasks_5f0c1d_live", "no unique index on its live rows", "CREATE UNIQUE INDEX"),
        ("INSERT INTO trxs VALUES ('a/1', 'tenant-1', 5)", "epoch None", "the next call that writes"),
        (
            "INSERT INTO trxs SELECT 'epoch/t', 't', 1 UNION SELECT n || '/1', 't', -n FROM generate_series(1, 20) n",
            "20 of them aborted while in doubt",
            "lost connections",
        ),
        ("ALTER TABLE tbl_tasks_5f0c1d ENABLE ROW LEVEL SECURITY", "has row level security", "DISABLE ROW LEVEL"),
        ("ALTER TABLE trxs ENABLE ROW LEVEL SECURITY", "table trxs has row level security", "DISABLE ROW LEVEL"),
        (
            "CREATE RULE quiet AS ON DELETE TO tbl_tasks_5f0c1d DO INSTEAD NOTHING",
            "has rules, which rewrite statements",
            "DROP RULE",
        ),
        ("ALTER TABLE tbl_tasks_5f0c1d SET UNLOGGED", "a crash of PostgreSQL empties it", "SET LOGGED"),
        (
            "SELECT setval('tbl_tasks_5f0c1d__order_seq', 2000000000)",
            "2,000,000,000 of the 2,147,483,647 numbers",
            'ALTER TABLE "tbl_tasks_5f0c1d" ALTER _order TYPE bigint; ALTER SEQUENCE',
        ),
        (
            "INSERT INTO tbl_tasks_5f0c1d (id, _txid, _owner, _order) VALUES ('a', 1, 'u', 77)",
            "up to 77, but its sequence stands at 0",
            "SELECT setval('public.tbl_tasks_5f0c1d__order_seq', 77)",
        ),
        (
            DEAD,
            "100001 dead versions",
            "collection",
        ),
    ],
)
def test_each_fault_is_said_with_what_to_do(postgres, statement, what, fix):
    found = wrong(changed(postgres.create_database(), statement))
    assert [what in finding.what and fix in finding.fix for finding in found] == [True], found


def test_a_table_that_takes_no_rows_is_named_and_can_be_mended(postgres):
    """LIKE copies the default of _order, whose sequence stays the other table's; what doctor says makes it right."""
    url = changed(
        postgres.create_database(),
        "CREATE TABLE tbl_copy (LIKE tbl_tasks_5f0c1d INCLUDING ALL)",
        "INSERT INTO storage VALUES ('copy', 'tbl_copy', 'tenant-1')",
    )
    [finding] = wrong(url)
    assert "tenant-1/copy" in finding.what
    assert "does not own a sequence" in finding.what
    assert wrong(changed(url, *finding.fix.split("; "))) == []


def test_rights_that_are_missing_are_named(postgres):
    url = changed(
        postgres.create_database(),
        "DROP ROLE IF EXISTS poor",
        "CREATE ROLE poor LOGIN PASSWORD 'poor'",
        "GRANT SELECT ON storage, trxs, tbl_tasks_5f0c1d, tbl_accounts_9b27e4 TO poor",
        "GRANT ALL ON tbl_users_c41d7a, tbl_sessions_e08b53 TO poor",
    )
    _, _, address = url.partition("@")
    (found,) = wrong(f"postgresql://poor:poor@{address}")
    assert found.what == "poor may not INSERT, UPDATE, DELETE trxs"
    changed(url, "GRANT ALL ON trxs, tbl_tasks_5f0c1d TO poor")
    missing = [finding.fix for finding in wrong(f"postgresql://poor:poor@{address}")]
    assert sorted(missing) == [
        'GRANT INSERT, UPDATE, DELETE ON tbl_accounts_9b27e4 TO "poor"',
        'GRANT USAGE ON SEQUENCE public.tbl_sessions_e08b53__order_seq TO "poor"',
        'GRANT USAGE ON SEQUENCE public.tbl_tasks_5f0c1d__order_seq TO "poor"',
        'GRANT USAGE ON SEQUENCE public.tbl_users_c41d7a__order_seq TO "poor"',
    ]
    changed(url, *missing)
    [last] = wrong(f"postgresql://poor:poor@{address}")
    changed(url, last.fix)
    assert wrong(f"postgresql://poor:poor@{address}") == [], "what doctor says is SQL that mends it"
    changed(url, "DROP OWNED BY poor", "DROP ROLE poor")


def test_an_encoding_that_cannot_hold_every_text_is_named(postgres):
    """`kontract migrate` does not begin there; a database that was made earlier goes on."""
    changed(
        postgres.server_url,
        "DROP DATABASE IF EXISTS narrow",
        "CREATE DATABASE narrow ENCODING 'LATIN1' TEMPLATE template0 LOCALE_PROVIDER libc LOCALE 'C'",
    )
    url = postgres.cluster.url("narrow")
    [first, *_] = wrong(url)
    assert "the database has the encoding LATIN1" in first.what

    async def begin() -> None:
        async with connected(url):
            raise AssertionError

    with pytest.raises(Problem, match="encoding LATIN1"):
        asyncio.run(begin())


def test_triggers_are_shown_and_those_that_are_off_are_not(postgres):
    url = changed(
        postgres.create_database(),
        "CREATE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN new; END'",
        "CREATE TRIGGER stamps BEFORE INSERT ON tbl_tasks_5f0c1d EXECUTE FUNCTION nothing()",
        "CREATE TRIGGER sleeps BEFORE INSERT ON tbl_tasks_5f0c1d EXECUTE FUNCTION nothing()",
        "ALTER TABLE tbl_tasks_5f0c1d DISABLE TRIGGER sleeps",
    )
    assert wrong(url) == []
    assert [finding.what for finding in look(url) if "triggers" in finding.what] == [
        "table tenant-1/tasks (tbl_tasks_5f0c1d) has triggers: stamps"
    ]


def test_row_level_security_is_seen_by_the_role_that_it_does_not_touch(postgres):
    """The owner sees every row, and the gateway's role would not: doctor says so whoever runs it."""
    url = changed(postgres.create_database(), "ALTER TABLE tbl_tasks_5f0c1d ENABLE ROW LEVEL SECURITY")
    [found] = wrong(url)
    assert "for every role but this one's kind" in found.what


@pytest.mark.parametrize("command", [["migrate"], ["migrate", "status"], ["migrate", "down"], ["table", "list"]])
def test_a_role_with_too_few_rights_gets_a_sentence(postgres, capsys, command):
    url = changed(postgres.create_database(), "DROP ROLE IF EXISTS nobody", "CREATE ROLE nobody LOGIN PASSWORD 'n'")
    assert main([*command, "--database-url", f"postgresql://nobody:n@{url.partition('@')[2]}"]) == 1
    said = capsys.readouterr().err
    assert "permission denied" in said
    assert "Traceback" not in said
    changed(url, "DROP OWNED BY nobody", "DROP ROLE nobody")


@pytest.fixture
def gateway_role(postgres):
    """A database, and the URL of a role with exactly the rights that doctor names."""
    url = postgres.create_database()
    tables = [row.ptr for row in asyncio.run(list_tables(url))]
    changed(url, "CREATE ROLE gateway LOGIN PASSWORD 'gateway'", *grants("gateway", tables))
    yield url, f"postgresql://gateway:gateway@{url.partition('@')[2]}"
    changed(url, "DROP OWNED BY gateway", "DROP ROLE gateway")


def test_a_gateway_needs_no_more_than_what_is_granted(gateway_role, checkout, reaper, tmp_path):
    """The demo, sessions, exec-free reads and a second start, over HTTP, as a role that owns nothing."""
    _, url = gateway_role
    said = look(url)
    assert [finding for finding in said if finding.wrong] == []
    assert "role gateway has the rights it needs and owns no tables" in [finding.what for finding in said]
    for name in ("first", "again"):
        variables = {"KONTRACT_COORDINATION": "memory", "KONTRACT_OWNER": "tenant-1"}
        with (
            running_server(
                checkout, url, tmp_path / name, reaper, KONTRACT_SIGN_UP="anonymous register", **variables
            ) as server,
            httpx.Client(base_url=server.url, trust_env=False, timeout=60) as http,
        ):
            signed = http.post("/auth/register", json={"name": f"ann-{name}", "password": "long enough a word"})
            assert signed.status_code == 201, signed.text
            http.headers["Authorization"] = f"Bearer {signed.json()['token']}"
            calls = [
                ("create_task", ["x"]),
                ("list_tasks", []),
                ("open_account", [f"a-{name}", 5]),
                ("open_account", [f"b-{name}", 5]),
                ("transfer", [f"a-{name}", f"b-{name}", 5]),
                ("total", []),
            ]
            answers = [http.post(f"/rpc/{function}", json=arguments) for function, arguments in calls]
            assert [answer.text for answer in answers if answer.status_code >= 300] == []
            assert http.post("/auth/logout").status_code == 204


def test_each_right_that_is_granted_is_needed(gateway_role):
    """Without any one of them doctor says what is missing, in the words that grant it."""
    url, limited = gateway_role
    tables = [row.ptr for row in asyncio.run(list_tables(url))]
    for statement in grants("gateway", tables):
        changed(url, statement.replace("GRANT", "REVOKE", 1).replace(" TO ", " FROM "))
        assert wrong(limited), statement
        changed(url, statement)
    assert wrong(limited) == []


def test_a_role_that_may_do_more_is_told_what_would_do(postgres):
    """No error: whoever migrates owns the tables. What a gateway needs stands there, to be copied."""
    [finding] = [one for one in look(postgres.create_database()) if "superuser" in one.what]
    assert not finding.wrong
    assert 'GRANT SELECT ON storage TO "gateway";' in finding.fix
    assert 'GRANT USAGE ON SEQUENCE "tbl_tasks_5f0c1d__order_seq" TO "gateway";' in finding.fix


CALLED = """
import random
import uuid as ids
from datetime import datetime
from os import urandom

from kontract import Context, backend

SALT = urandom(8)


class Settings:
    started = datetime.now()


def lazily(value=random.random()):
    return ids.uuid4(), random.random(), lambda: urandom(1)


CONFIG = open("config.json").read() if ids.uuid4() else None


@backend()
async def now(ctx: Context) -> str:
    return datetime.now().isoformat()
"""


def test_what_a_module_must_not_do_while_it_is_imported_is_named(tmp_path):
    """Randomness, clock and I/O at the top, in classes, defaults and conditions; not inside of functions."""
    (tmp_path / "src" / "app").mkdir(parents=True)
    (tmp_path / "src" / "app" / "odd.py").write_text(CALLED)
    found = [finding.what.partition(" runs")[0] for finding in application_findings(tmp_path / "src")]
    assert sorted(found) == [
        "src/app/odd.py:13: datetime.datetime.now()",
        "src/app/odd.py:16: random.random()",
        "src/app/odd.py:20: open()",
        "src/app/odd.py:20: uuid.uuid4()",
        "src/app/odd.py:9: os.urandom()",
    ]


def test_an_application_that_does_not_build_is_named(tmp_path, checkout):
    (tmp_path / "src" / "app").mkdir(parents=True)
    (tmp_path / "src" / "app" / "odd.py").write_text("def f(:")
    [finding] = application_findings(tmp_path / "src")
    assert finding.wrong
    assert "src/app/odd.py:1" in finding.what
    assert not any(finding.wrong for finding in application_findings(checkout.root / "src"))


def test_a_database_that_is_not_there_is_a_problem():
    with pytest.raises(Problem, match="is unreachable"):
        look("postgresql://nobody@127.0.0.1:1/none")


def test_without_a_database_it_says_so(monkeypatch, capsys):
    monkeypatch.delenv("DATABASE_URL", raising=False)
    assert main(["doctor"]) == 1
    assert "DATABASE_URL" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("first", "other", "pooled"),
    [([7, 7, 7], 8, False), ([7, 9, 9], 7, True), ([7, 8, 7], 9, True), ([7, 7], 7, True)],
)
def test_a_pooler_is_known_by_process_ids(first, other, pooled):
    assert looks_pooled(first, other) is pooled


def test_clocks():
    assert not skew_finding(900, 5).wrong
    assert not skew_finding(1_500, 600).wrong
    assert skew_finding(-1_500, 5).wrong


def test_environments_without_bindings_are_named(tmp_path, checkout):
    assert not any(finding.wrong for finding in wrangler_findings(checkout.root / "wrangler.toml"))
    path = tmp_path / "wrangler.toml"
    path.write_text(
        '[durable_objects]\nbindings = [{ name = "SESSION_DO", class_name = "X" }]\n'
        '[[hyperdrive]]\nbinding = "HYPERDRIVE"\nid = "abc"\n'
        '[env.staging.durable_objects]\nbindings = [{ name = "SESSION_DO", class_name = "X" }]\n[env.live]\n'
    )
    assert [finding.what for finding in wrangler_findings(path) if "environment" in finding.what] == [
        "wrangler.toml: environment staging lacks the binding HYPERDRIVE",
        "wrangler.toml: environment live lacks the binding HYPERDRIVE and SESSION_DO",
    ]
    path.write_text("[")
    assert wrangler_findings(path)[0].wrong
    assert wrangler_findings(tmp_path / "none.toml")[0].wrong


def test_the_exit_code_is_one_only_if_something_is_wrong():
    said: list[str] = []
    assert report([Finding("a"), Finding("b", "look at b")], said.append) == 0
    assert report([Finding("a"), Finding("b", "do b", wrong=True)], said.append) == 1
    assert said[-2:] == ["WRONG  b\n         -> do b", "1 of 2 findings need a fix."]


@pytest.mark.parametrize(
    ("old", "new", "what"),
    [
        ("2026-09-08", "2025-01-01", "compatibility_date is 2025-01-01"),
        (', "enable_request_signal"', "", "compatibility_flags lack enable_request_signal"),
        ('command = "make --silent build"', "", "no [build] command"),
        ("new_sqlite_classes", "new_classes", "new_sqlite_classes"),
        ('  "/stream/*",\n', "", "run_worker_first lacks /stream/*"),
        ("[vars]", '[vars]\nKONTRACT_SECRET = "x"', "KONTRACT_SECRET is in [vars] of (top level)"),
        ('KONTRACT_CORS_ORIGINS = ""', 'KONTRACT_CORS_ORIGINS = "*"', "has a *"),
        ("[vars]", '[vars]\nKONTRACT_SHOW_ERRORS = "1"', "KONTRACT_SHOW_ERRORS is in [vars] of (top level)"),
        ('  "/openapi.json",\n', "", "run_worker_first lacks /openapi.json"),
    ],
)
def test_pitfalls_that_wrangler_accepts_are_named(tmp_path, checkout, old, new, what):
    text = checkout.wrangler_toml.read_text()
    assert old in text
    path = tmp_path / "wrangler.toml"
    path.write_text(text.replace(old, new, 1))
    found = [finding for finding in wrangler_findings(path) if finding.wrong]
    assert [what in finding.what and bool(finding.fix) for finding in found] == [True], found


# --- the machine ------------------------------------------------------------------------------------------------------


@pytest.fixture
def copy(checkout, tmp_path):
    """What is looked at of a checkout that has been set up: its tools are those of this one."""
    made = Checkout(tmp_path / "copy")
    (made.root / ".kontract").mkdir(parents=True)
    for name in ("package.json", "package-lock.json", "uv.lock", "wrangler.toml", "pyproject.toml"):
        shutil.copy(checkout.root / name, made.root / name)
    for name in ("node_modules", "python_modules"):
        (made.root / name).symlink_to(checkout.root / name)
    shutil.copytree(checkout.state / "stamps", made.state / "stamps")
    return made


def whats(findings):
    return [finding.what for finding in findings if finding.wrong]


def test_tools_of_the_lock_files_are_well(copy):
    (finding,) = toolchain_findings(copy)
    assert not finding.wrong
    assert "the tools match the lock files" in finding.what


def edit(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def test_a_python_package_of_another_version_is_named(copy):
    version = importlib.metadata.version("msgspec")
    edit(copy.root / "uv.lock", f'name = "msgspec"\nversion = "{version}"', 'name = "msgspec"\nversion = "0.0.1"')
    assert whats(toolchain_findings(copy))[0] == (
        f"Python packages do not match uv.lock: msgspec {version} (0.0.1 is locked)"
    )


def test_a_node_package_of_another_version_is_named(copy):
    lock = json.loads((copy.root / "package-lock.json").read_text())
    version = lock["packages"]["node_modules/wrangler"]["version"]
    lock["packages"]["node_modules/wrangler"]["version"] = "1.2.3"
    lock["packages"][""]["devDependencies"]["absent"] = "1"
    lock["packages"]["node_modules/absent"] = {"version": "1.0.0"}
    (copy.root / "package-lock.json").write_text(json.dumps(lock))
    (what,) = whats(toolchain_findings(copy))
    assert f"wrangler {version} (1.2.3 is locked)" in what
    assert "absent missing (1.0.0 is locked)" in what


def test_packages_of_the_worker_that_are_of_another_lock_file_are_named(copy):
    (copy.state / "stamps" / "python_modules").write_text("another")
    assert whats(toolchain_findings(copy)) == ["python_modules, the Worker's packages, do not match uv.lock"]


@pytest.mark.parametrize("name", ["uv.lock", "package-lock.json"])
@pytest.mark.parametrize("text", ["{", None])
def test_a_lock_file_that_cannot_be_read_is_a_finding(copy, name, text):
    (copy.root / name).unlink()
    if text:
        (copy.root / name).write_text(text)
    assert "a lock file cannot be read" in whats(toolchain_findings(copy))[0]


def test_a_secret_that_is_kept_well(copy):
    (finding,) = secret_findings(copy)
    assert "no .dev.vars yet" in finding.what
    dev_vars.write(copy.root / ".dev.vars")
    (finding,) = secret_findings(copy)
    assert not finding.wrong
    assert "readable by its owner alone" in finding.what


def test_a_machine_without_git_is_no_problem(copy, monkeypatch):
    """Nothing is in a repository there."""
    (copy.root / ".dev.vars").unlink(missing_ok=True)
    dev_vars.write(copy.root / ".dev.vars")
    monkeypatch.setenv("PATH", "/nowhere")
    assert not [one for one in secret_findings(copy) if one.wrong]


@pytest.mark.needs("git")
def test_a_secret_that_others_can_read_or_that_is_in_git(copy):
    path = copy.root / ".dev.vars"
    dev_vars.write(path)
    path.chmod(0o644)
    subprocess.run(["git", "init", "-q"], cwd=copy.root, check=True)
    subprocess.run(["git", "add", "-f", ".dev.vars"], cwd=copy.root, check=True)
    assert whats(secret_findings(copy)) == [
        ".dev.vars can be read by other users",
        ".dev.vars is in git, and its secrets with it",
    ]


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "no KONTRACT_SECRET"),
        ("KONTRACT_SECRET=abc", "malformed"),
        (
            "KONTRACT_SECRET=c7d41f0a92be6835d1407ea9f3286bc50d9e71f8a4b36c2de580179fc46a3b92\nKONTRACT_SECRET_PREVIOUS=secret-thing",
            "KONTRACT_SECRET_PREVIOUS must be 64",
        ),
        (
            "KONTRACT_SECRET=c7d41f0a92be6835d1407ea9f3286bc50d9e71f8a4b36c2de580179fc46a3b92\nKONTRACT_SIGN_UP=everybody",
            "KONTRACT_SIGN_UP takes",
        ),
    ],
)
def test_settings_that_the_gateway_refuses_are_told_without_their_values(copy, text, what):
    path = copy.root / ".dev.vars"
    path.touch(mode=0o600)
    path.write_text(text)
    (found,) = whats(secret_findings(copy))
    assert what in found
    assert "secret-thing" not in found
    assert "aaaa" not in found


@pytest.mark.parametrize(
    ("size", "level"),
    [
        ("6292.11 KiB / gzip: 1514.07 KiB", "ok"),
        ("30000.00 KiB / gzip: 10300.00 KiB", "ok"),
        ("65600.00 KiB / gzip: 9000.00 KiB", "wrong"),
        ("of unknown size", "ok"),
    ],
)
def test_the_upload_is_weighed(size, level):
    assert weigh(size, "x 1").level == level


def test_the_largest_parts_of_an_upload_are_named(tmp_path):
    for name, size in (("python_modules/big/a.py", 3000), ("python_modules/big/b.py", 3000), ("entry.py", 2048)):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x" * size)
    assert parts(tmp_path) == "python_modules/big 6, entry.py 2"


def test_migrations_that_are_not_there_are_named(postgres, checkout):
    url = postgres.create_database()
    assert not [one for one in asyncio.run(database_findings(url, checkout.root)) if one.wrong]
    changed(url, "UPDATE storage SET permissions = 4 WHERE id = 'tasks'")
    (finding,) = [one for one in asyncio.run(database_findings(url, checkout.root)) if one.wrong]
    assert finding.what.startswith("Table tasks has different permissions in the database")


@pytest.mark.needs("pgbouncer")
def test_a_pooler_that_lends_single_statements_is_refused(postgres, reaper):
    with pgbouncer(postgres.cluster, reaper, mode="statement") as pooler:
        (finding,) = [one for one in look(pooler.url(postgres.create_database())) if one.wrong]
    assert "pool_mode to transaction" in finding.fix


def test_findings_can_be_read_by_programs(postgres, capsys, monkeypatch):
    """Also those of a database that cannot be reached."""
    monkeypatch.setenv("DATABASE_URL", postgres.create_database())
    assert main(["doctor", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {"level": "ok", "what": "no transaction pooler in front of PostgreSQL", "fix": ""} in found
    monkeypatch.setenv("DATABASE_URL", "postgresql://nobody@127.0.0.1:1/none")
    assert main(["doctor", "--json"]) == 1
    last = json.loads(capsys.readouterr().out)[-1]
    assert last["level"] == "wrong"
    assert "is unreachable" in last["what"]


@pytest.mark.parametrize(
    "text",
    [
        b"\xff",
        b'env = "x"',
        b'[env]\nproduction = "x"',
        b'hyperdrive = "x"',
        b'vars = "x"',
        b'assets = "x"',
        b"migrations = 3",
    ],
)
def test_a_wrangler_toml_of_another_shape_is_a_finding(copy, text):
    dev_vars.write(copy.root / ".dev.vars")
    copy.wrangler_toml.write_bytes(text)
    assert whats(wrangler_findings(copy.wrangler_toml))
    assert whats(secret_findings(copy)) == []
