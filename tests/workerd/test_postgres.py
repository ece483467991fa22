"""What the Worker and PostgreSQL say to each other: node-postgres in workerd, with a real server."""

import importlib.util
import json
import socket
from pathlib import Path

import asyncpg
import pytest

from support.postgres import Postgres

ROOT = Path(__file__).parent.parent.parent

LOGINS = """
SET password_encryption = 'scram-sha-256';
CREATE ROLE scram LOGIN PASSWORD 'Ünïcødé / "1"';
SET password_encryption = 'md5';
CREATE ROLE md5 LOGIN PASSWORD 'hashed';
CREATE ROLE clear LOGIN PASSWORD 'seen';
CREATE ROLE trusting LOGIN;
"""
HBA = """\
host all scram 127.0.0.1/32 scram-sha-256
host all md5 127.0.0.1/32 md5
host all clear 127.0.0.1/32 password
host all trusting 127.0.0.1/32 trust
"""


@pytest.fixture
def ask(laboratory, postgres):
    """What statements return: rows, [sqlstate, message, constraint], or why there is no answer."""

    def run(*statements, url=None, how="asked", together=False, **more):
        listed = [[statement] if isinstance(statement, str) else statement for statement in statements]
        argument = {"url": url or postgres.url, "statements": listed, "together": together, **more}
        return laboratory.run("support.in_workerd", how, argument)

    return run


@pytest.fixture(scope="module")
def guarded(checkout, reaper):
    """A server that asks each role for its password in another way."""
    with Postgres.started(checkout, reaper) as server:
        server.run(server.server_url, LOGINS)
        rules = server.cluster.data / "pg_hba.conf"
        rules.write_text(HBA + rules.read_text())
        server.run(server.server_url, "SELECT pg_reload_conf()")
        yield server


@pytest.mark.parametrize(
    ("user", "password"),
    [("scram", "%C3%9Cn%C3%AFc%C3%B8d%C3%A9%20%2F%20%221%22"), ("md5", "hashed"), ("clear", "seen"), ("trusting", "")],
)
def test_logins(ask, guarded, user, password):
    url = f"postgresql://{user}:{password}@127.0.0.1:{guarded.cluster.port}/postgres"
    assert ask("SELECT current_user", "SHOW application_name", url=url) == [[[user]], [["kontract"]]]
    if password:
        [refused] = ask("SELECT 1", url=url.replace(password, "wrong"))
        assert refused[0] == "28P01"
        [refused] = ask("SELECT 1", url=url.replace(f":{password}@", "@"))
        assert refused == "lost: the database asks for a password, and DATABASE_URL has none"


def test_values_cross_as_they_are(ask):
    """Integers beyond 2^53, texts that JSON escapes, NULL, and the order of columns of the same name."""
    text = 'quote " backslash \\ line\n tab\t del\x7f control \x01 ünï 🎉 \ud7ff </script> \u2028'
    values = (
        "9223372036854775807, (-9007199254740993)::bigint, 7::smallint, NULL::int, $1, NULL::text, '' AS a, 1 AS a, "
        """true, 1.50, '{"a": 9007199254740993}'::jsonb, 'infinity'::float8"""
    )
    [rows, none, nothing, empty] = ask(
        [f"SELECT {values}", [text]],
        "SELECT 1 WHERE false",
        "DO $$ BEGIN END $$",
        "SELECT",
    )
    assert rows == [
        [2**63 - 1, -(2**53) - 1, 7, None, text, None, "", 1, "t", "1.50", '{"a": 9007199254740993}', "Infinity"]
    ]
    assert (none, nothing, empty) == ([], [], [[]])


def test_parameters_are_text_that_the_sql_casts(ask):
    [rows] = ask(["SELECT $1::bigint + 1, $2, $3::jsonb ->> 'k', $4::text[]", [2**53, None, '{"k": "v"}', '{"a,b",c}']])
    assert rows == [[2**53 + 1, None, "v", '{"a,b",c}']]


def test_a_large_result_arrives_whole(ask):
    """It comes in many pieces, which end anywhere."""
    [rows] = ask("SELECT n, repeat('ü', n % 97) FROM generate_series(1, 20000) AS n")
    assert rows == [[n, "ü" * (n % 97)] for n in range(1, 20001)]


def test_errors_tell_code_constraint_and_detail(ask):
    [made, _, twice, syntax, after] = ask(
        "CREATE TEMP TABLE once (id int CONSTRAINT only_one PRIMARY KEY)",
        "INSERT INTO once VALUES (1)",
        "INSERT INTO once VALUES (1)",
        ["SELEC 1", [], 1000],
        "SELECT count(*) FROM once",
    )
    assert made == []
    assert twice[0::2] == ["23505", "only_one"]
    assert "Key (id)=(1) already exists." in twice[1]
    assert syntax[0] == "42601"
    assert after == [[1]], "an error costs neither the connection nor anything else"


def test_a_nul_is_refused(ask):
    [param, text, after] = ask(["SELECT $1", ["a\0b"]], "SELECT 1\0; DROP TABLE storage", "SELECT 1")
    assert (param[0], text[0], after) == ("22021", "22021", [[1]])


def test_a_time_limit_is_of_one_statement(ask):
    """It ends that one, adds no row, and stays in no session."""
    [[[pid]], ended, within, [[setting, same]]] = ask(
        "SELECT pg_backend_pid()",
        ["SELECT pg_sleep(3600)", [], 50],
        ["SELECT current_setting('statement_timeout')", [], 60_000],
        "SELECT current_setting('statement_timeout'), pg_backend_pid()",
    )
    assert ended[0] == "57014"
    assert within == [["1min"]]
    assert (setting, same) == ("0", pid)


def test_what_is_asked_at_once_is_answered_in_order(ask):
    """One connection, each with its own limit; one that fails does not touch the others."""
    statements = [["SELECT $1::int / $2::int, pg_backend_pid()", [n, n % 5], 1000 + n] for n in range(20)]
    answers = ask(*statements, together=True)
    assert [answer[0] for answer in answers if answer[0] == "22012"] == ["22012"] * 4
    rows = [answer[0] for answer in answers if answer[0] != "22012"]
    assert [row[0] for row in rows] == [n // (n % 5) for n in range(20) if n % 5]
    assert len({row[1] for row in rows}) == 1


def test_a_lost_connection_is_replaced(ask):
    """What was under way is answered, and the next statement finds another backend."""
    [[[pid]], lost, [[other]]] = ask(
        "SELECT pg_backend_pid()", "SELECT pg_terminate_backend(pg_backend_pid())", "SELECT pg_backend_pid()"
    )
    assert lost[0] == "57P01"
    assert other != pid


def test_a_server_that_says_nothing_is_given_up(ask, postgres):
    """Neither a login nor a statement waits for ever; the connection is not used again."""
    pid = ["SELECT pg_backend_pid()", [], 60_000]
    [[[one]], late, [[other]]] = ask(pid, "SELECT pg_sleep(3600)", pid, how="impatient", statement_ms=200)
    assert late == "lost: no answer within 200 ms"
    assert other != one
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"postgresql://nobody@127.0.0.1:{silent.getsockname()[1]}/none"
        said = ask("SELECT 1", url=f"{url}?sslmode=disable", how="impatient", connect_ms=100)
        assert said == ["lost: no connection within 100 ms"]
        assert ask("SELECT 1", url=url, how="impatient", connect_ms=100)[0].startswith("lost: no connection within ")
    [closed] = ask("SELECT 1", url=url)
    assert closed.startswith("lost: ")


async def test_a_task_that_is_cancelled_takes_nothing_with_it(laboratory, postgres):
    """Its statement goes on, and so does one that was sent behind it. Whoever asks next has another connection."""
    holder = await asyncpg.connect(postgres.url)
    try:
        pid = await holder.fetchval("SELECT pg_backend_pid() FROM pg_advisory_lock(7)")
        release = f"SELECT pg_terminate_backend({pid})"
        answers = laboratory.run("support.in_workerd", "cancelled", {"url": postgres.url, "release": release})
    finally:
        holder.terminate()
    assert answers == ["CancelledError", True, True]


def builder():
    """javascript/build.py."""
    found = importlib.util.spec_from_file_location("build_javascript", ROOT / "javascript" / "build.py")
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


def test_the_module_is_what_the_pinned_versions_make():
    """What is uploaded can be read in javascript/ and in the packages of package-lock.json."""
    build = builder()
    assert build.MODULE.read_text() == build.module(), "run .venv/bin/python javascript/build.py"


def test_versions_are_exact():
    wanted = json.loads((ROOT / "package.json").read_text())["devDependencies"]
    for name in ("pg", "pg-cloudflare", "esbuild"):
        installed = json.loads((ROOT / "node_modules" / name / "package.json").read_text())["version"]
        assert wanted[name] == installed
