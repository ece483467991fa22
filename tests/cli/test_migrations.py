"""`kontract migrate up|down|status|check`: migrations against the real database, whole or not at all."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys

import asyncpg
import pytest

from kontract.cli import migrate as command
from kontract.cli.main import main
from kontract.cli.migrations import database, lock, new
from kontract.cli.table import list_tables
from kontract.cli.toolchain.problem import Problem

ONE = "CREATE TABLE one (n int);\n-- down\nDROP TABLE one;\n"
INDEX = (
    "-- no transaction\nCREATE INDEX CONCURRENTLY IF NOT EXISTS one_n ON one (n);\n"
    "-- down\nDROP INDEX CONCURRENTLY IF EXISTS one_n;\n"
)


@pytest.fixture
def project(checkout, tmp_path, monkeypatch):
    """A checkout with the real base schema, no application and no migrations."""
    for name in ("wrangler.toml", "pyproject.toml"):
        (tmp_path / name).write_text("")
    (tmp_path / "sql" / "migrations").mkdir(parents=True)
    (tmp_path / "sql" / "init.sql").write_text((checkout.root / "sql" / "init.sql").read_text())
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def url(postgres, monkeypatch):
    url = postgres.create_database()
    monkeypatch.setenv("DATABASE_URL", url)
    return url


@pytest.fixture
async def connection(url):
    connection = await asyncpg.connect(url)
    yield connection
    await connection.close()


def put(project, name, text):
    (project / "sql" / "migrations" / name).write_text(text)


async def up(project, url):
    said = []
    await command.migrate(url, said.append, root=project)
    return said


async def records(connection):
    return await database.applied(connection)


async def exists(connection, name):
    return await connection.fetchval("SELECT to_regclass($1) IS NOT NULL", name)


async def test_up_applies_what_is_new_once_and_down_takes_it_back(project, url, connection):
    """SQL, a Python step and an index: in order, each once; down undoes the newest first."""
    put(project, "0001_one.sql", ONE)
    put(
        project,
        "0002_step.py",
        "async def up(connection):\n    await connection.execute('INSERT INTO one VALUES (7)')\n"
        "async def down(connection):\n    await connection.execute('DELETE FROM one')\n",
    )
    put(project, "0003_index.sql", INDEX)
    assert await up(project, url) == ["Applied 0001_one.", "Applied 0002_step.", "Applied 0003_index."]
    assert await up(project, url) == ["The schema is up to date."]
    assert await connection.fetchval("SELECT sum(n) FROM one") == 7
    said = []
    await command.down(url, 2, said.append, root=project)
    assert said == ["Undid 0003_index.", "Undid 0002_step."]
    assert await connection.fetchval("SELECT count(*) FROM one") == 0
    assert not await exists(connection, "one_n")
    assert list(await records(connection)) == ["0001_one"]


async def test_a_failure_leaves_nothing_of_its_file_and_everything_before_it(project, url, connection):
    """The record and the change are one transaction."""
    put(project, "0001_one.sql", ONE)
    put(project, "0002_bad.sql", "CREATE TABLE two (n int);\nSELECT 1 / 0;\n")
    with pytest.raises(Problem, match=r"0002_bad.*division by zero"):
        await up(project, url)
    assert (await exists(connection, "one"), await exists(connection, "two")) == (True, False)
    assert list(await records(connection)) == ["0001_one"]


OPEN = "-- unfinished: take this line out\n"


async def test_empty_files_at_the_end_are_not_applied(project, url, connection):
    """A file is saved empty before it is written: its checksum must not be recorded."""
    put(project, "0001_one.sql", ONE)
    put(project, "0002_two.sql", "")
    put(project, "0003_three.sql", "\n-- down\n")
    assert await up(project, url) == [
        "Applied 0001_one.",
        "Not applied: sql/migrations/0002_two.sql is empty.",
        "Not applied: sql/migrations/0003_three.sql is empty.",
    ]
    put(project, "0003_three.sql", "CREATE TABLE three (n int);")
    assert await up(project, url) == ["Applied 0002_two.", "Applied 0003_three."], "in between it is meant to be empty"


async def test_unfinished_files_wait_in_development_and_are_refused_elsewhere(project, url, connection):
    put(project, "0001_one.sql", ONE)
    put(project, "0002_two.sql", f"{OPEN}CREATE TABLE two (")
    put(project, "0003_three.sql", "CREATE TABLE three (n int);")
    said = []
    await command.migrate(url, said.append, root=project, skip_unfinished=True)
    assert said == [
        "Applied 0001_one.",
        "Not applied: sql/migrations/0002_two.sql has a line that begins with `unfinished:`.",
        "Not applied: sql/migrations/0003_three.sql comes after an unfinished one.",
    ]
    with pytest.raises(Problem, match=r"0002_two\.sql is unfinished"):
        await up(project, url)
    put(project, "0002_two.sql", "CREATE TABLE two (n int);")
    assert await up(project, url) == ["Applied 0002_two.", "Applied 0003_three."]


async def test_what_a_step_did_before_it_failed_is_undone(project, url, connection):
    """The step and its record are one transaction, however many statements the step sends."""
    put(
        project,
        "0001_step.py",
        "async def up(connection):\n    await connection.execute('CREATE TABLE one (n int)')\n    raise KeyError(1)\n",
    )
    with pytest.raises(Problem, match="KeyError"):
        await up(project, url)
    assert not await exists(connection, "one")
    assert await records(connection) == {}


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"0001_one.sql": ONE + "-- changed\n"}, "was changed after"),
        ({}, "for which there is no file"),
        ({"0001_one.sql": ONE, "0003_three.sql": ""}, "the numbers must be"),
        ({"0001_one.sql": ONE, "0001_two.sql": ""}, "the numbers must be"),
        ({"0001_one.sql": ONE, "2_two.sql": ""}, "not the name of a migration"),
        ({"0001_one.sql": ONE, "0002_two.sql": "BEGIN; SELECT 1; COMMIT;"}, "has its own statement"),
        ({"0001_one.sql": ONE, "0002_two.sql": "CREATE INDEX CONCURRENTLY a ON one (n)"}, "no transaction"),
        (
            {"0001_one.sql": ONE, "0002_two.sql": "-- no transaction\nSELECT 1; SELECT 2"},
            "which allows only one statement",
        ),
        ({"0001_one.sql": ONE, "0002_two.sql": "-- unfinished: think\nSELECT 1"}, "is unfinished"),
        ({"0001_one.sql": ONE, "0002_two.py": "def up(connection): ..."}, "has no `async def up"),
        ({"0001_one.sql": ONE, "0002_two.py": "async def up(connection): raise KeyError(1)"}, "KeyError"),
    ],
)
async def test_files_that_do_not_fit_are_refused_with_a_sentence(project, url, connection, files, message):
    """Nobody is to find out weeks later that two databases are not the same."""
    put(project, "0001_one.sql", ONE)
    await up(project, url)
    (project / "sql" / "migrations" / "0001_one.sql").unlink()
    for name, text in files.items():
        put(project, name, text)
    with pytest.raises(Problem, match=message):
        await up(project, url)
    assert list(await records(connection)) == ["0001_one"]


async def test_a_late_file_between_applied_ones_is_refused(project, url, connection):
    """Two branches were merged: the one that lost the race takes the next number."""
    put(project, "0001_one.sql", ONE)
    put(project, "0002_two.sql", "SELECT 1;")
    await up(project, url)
    await connection.execute("DELETE FROM storage WHERE id = '__migrations/0001_one'")
    with pytest.raises(Problem, match=r"0001_one\.sql was never applied here, but the later 0002_two"):
        await up(project, url)


async def test_statements_are_found_where_quotes_hide_them(project, url, connection):
    """COMMIT inside of a string, a comment or a function's body ends nothing and is not refused."""
    put(
        project,
        "0001_quotes.sql",
        "CREATE TABLE one (n text); -- COMMIT;\n/* ; COMMIT; /* ; */ COMMIT; */\n"
        "INSERT INTO one VALUES ('; COMMIT;'), (E'\\'; COMMIT;');\n"
        "DO $a$ BEGIN PERFORM 1; END $a$;\n",
    )
    await up(project, url)
    assert await connection.fetchval("SELECT count(*) FROM one") == 2


async def test_several_runs_at_once_apply_everything_once(project, url, connection):
    """Two deployments start together; one of the migrations is an index, which waits for all older snapshots."""
    put(project, "0001_one.sql", ONE)
    put(project, "0002_index.sql", INDEX)
    said = await asyncio.gather(*(up(project, url) for _ in range(4)))
    assert sorted(line for lines in said for line in lines) == [
        "Applied 0001_one.",
        "Applied 0002_index.",
        *["The schema is up to date."] * 3,
    ]


@pytest.mark.parametrize("how", ["connection", "process"])
async def test_a_run_that_is_killed_in_the_middle_leaves_nothing_and_can_be_repeated(project, url, connection, how):
    """The connection is cut, or the process killed, between the change and its record."""
    blocker = await asyncpg.connect(url)
    await blocker.execute("SELECT pg_advisory_lock(4711)")
    put(
        project,
        "0001_one.sql",
        "SET LOCAL lock_timeout = 0;\n" + "CREATE TABLE one (n int);\nSELECT pg_advisory_xact_lock(4711);\n",
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "kontract.cli.main", "migrate", env=os.environ, stderr=subprocess.PIPE
    )
    waiting = "SELECT pid FROM pg_stat_activity WHERE wait_event = 'advisory' AND datname = current_database()"
    while (pid := await connection.fetchval(waiting)) is None:
        assert process.returncode is None
        await asyncio.sleep(0.02)
    if how == "process":
        process.kill()
        await connection.execute("SELECT pg_terminate_backend($1)", pid)  # PostgreSQL notices a dead client late
    else:
        await connection.execute("SELECT pg_terminate_backend($1)", pid)
    _, errors = await process.communicate()
    if how == "connection":
        assert process.returncode == 1
        assert "The connection to the database was lost" in errors.decode()
        assert "index of a `-- no transaction` file" in errors.decode()
    assert not await exists(connection, "one")
    assert await records(connection) == {}
    await blocker.close()
    assert await up(project, url) == ["Applied 0001_one."]


async def test_an_index_that_was_left_invalid_is_made_again(project, url, connection):
    """CREATE INDEX CONCURRENTLY that was cut off leaves an index that is never used; IF NOT EXISTS would take it."""
    put(project, "0001_one.sql", ONE)
    await up(project, url)
    await connection.execute("INSERT INTO one VALUES (1), (1)")
    with pytest.raises(asyncpg.UniqueViolationError):
        await connection.execute("CREATE UNIQUE INDEX CONCURRENTLY one_n ON one (n)")
    put(project, "0002_index.sql", INDEX)
    await up(project, url)
    assert await connection.fetchval("SELECT indisvalid FROM pg_index WHERE indexrelid = 'one_n'::regclass")


async def test_a_failing_index_is_not_said_to_have_left_nothing(project, url, connection):
    """It leaves an index that is kept up and never used, until the next run drops it."""
    put(project, "0001_one.sql", ONE)
    await up(project, url)
    await connection.execute("INSERT INTO one VALUES (1), (1)")
    put(project, "0002_index.sql", INDEX.replace("CREATE INDEX", "CREATE UNIQUE INDEX"))
    with pytest.raises(Problem, match="could not be applied") as problem:
        await up(project, url)
    assert not await connection.fetchval("SELECT indisvalid FROM pg_index WHERE indexrelid = 'one_n'::regclass")
    assert "may remain" in problem.value.fix
    assert "Nothing" not in problem.value.fix
    await connection.execute("DELETE FROM one")
    assert await up(project, url) == ["Applied 0002_index."]
    assert await connection.fetchval("SELECT indisvalid FROM pg_index WHERE indexrelid = 'one_n'::regclass")


async def test_an_index_whose_record_fails_is_not_said_to_be_missing(project, url, connection):
    """The statement is done by then; the record comes after it."""
    put(project, "0001_one.sql", ONE)
    await up(project, url)
    await connection.execute("ALTER TABLE storage ADD CHECK (id <> '__migrations/0002_index')")
    put(project, "0002_index.sql", INDEX)
    with pytest.raises(Problem, match="this was not recorded") as problem:
        await up(project, url)
    assert "Nothing" not in problem.value.fix
    assert await exists(connection, "one_n")


async def test_a_pooler_is_refused(project, url, pooler):
    """Behind it, the lock would stay with whoever gets the connection next."""
    with pytest.raises(Problem, match="There is a pooler between"):
        await up(project, pooler.url(url))


async def test_a_table_in_use_is_not_queued_for(project, url, connection, monkeypatch):
    """A migration waits for a lock shortly, lets others pass, and then says so; readers never wait long behind it."""
    monkeypatch.setattr(database, "LOCK_MS", 50)
    monkeypatch.setattr(database, "PAUSE_SECONDS", 0.01)
    put(project, "0001_wider.sql", "ALTER TABLE tbl_tasks_5f0c1d ADD COLUMN more int;\n")
    async with connection.transaction():
        await connection.execute("SELECT count(*) FROM tbl_tasks_5f0c1d")
        with pytest.raises(Problem, match=r"0001_wider\.sql did not get a lock"):
            await up(project, url)
    assert await up(project, url) == ["Applied 0001_wider."]


@pytest.mark.parametrize(
    "change",
    [
        "INSERT INTO tbl_tasks_5f0c1d (id, data, _txid, _owner) VALUES ('b', '{}', 1, 'ann')",
        "UPDATE tbl_tasks_5f0c1d SET data = data || '{\"done\": true}' WHERE _deleted_txid IS NULL",
        "DELETE FROM tbl_tasks_5f0c1d",
    ],
)
async def test_rows_under_the_rules_of_transactions_are_not_changed(project, url, connection, change):
    """A change without the coordinator's number would happen under the eyes of readers and be lost to writers."""
    await connection.execute("INSERT INTO tbl_tasks_5f0c1d (id, data, _txid, _owner) VALUES ('a', '{}', 1, 'ann')")
    put(project, "0001_rows.sql", f"{change};\n")
    with pytest.raises(Problem, match="changes rows of tbl_tasks_5f0c1d"):
        await up(project, url)
    assert [tuple(row) for row in await connection.fetch("SELECT id, data FROM tbl_tasks_5f0c1d")] == [("a", "{}")]
    assert await records(connection) == {}


SEEDING = "INSERT INTO tbl_tasks_5f0c1d (id, data, _txid, _owner) VALUES ('a', '{}', 1, 'ann')"
REPLACING = f"{SEEDING} ON CONFLICT (id) WHERE _deleted_txid IS NULL DO UPDATE SET data = '{{}}'"
UNDOING = "DELETE FROM tbl_tasks_5f0c1d WHERE id = 'a'"


async def test_a_file_that_says_so_may_seed_rows(project, url, connection):
    """SQL and Python; down takes them back."""
    put(project, "0001_seeds.sql", f"-- seed rows\n{SEEDING};\n-- down\n{UNDOING};\n")
    step = (
        f"async def up(connection):\n    await connection.execute({SEEDING.replace(chr(39) + 'a', chr(39) + 'b')!r})\n"
    )
    put(project, "0002_seeds.py", f"# seed rows\n{step}async def down(connection): ...\n")
    await up(project, url)
    assert await connection.fetchval("SELECT array_agg(id ORDER BY id) FROM tbl_tasks_5f0c1d") == ["a", "b"]
    await command.down(url, 2, lambda _: None, root=project)
    assert await connection.fetchval("SELECT array_agg(id) FROM tbl_tasks_5f0c1d") == ["b"]


async def test_the_seed_rows_that_the_documentation_shows(checkout, project, url, connection):
    """In the table that `migrate new` makes for its struct; there and back."""
    page = (checkout.root / "docs" / "how-to" / "migrations.md").read_text()
    (shown,) = re.findall(r"^```sql seeds\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    ptr = lock.physical("notes", "tenant-1")
    put(project, "0001_notes.sql", new.TABLE.format(ptr=ptr))
    put(project, "0002_seeds.sql", shown)
    await up(project, url)
    assert await connection.fetchval(f"SELECT data->>'text' FROM {ptr}") == "Hello"
    await command.down(url, 1, lambda _: None, root=project)
    assert await connection.fetchval(f"SELECT count(*) FROM {ptr}") == 0


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (UNDOING, "changes rows of tbl_tasks_5f0c1d"),
        (REPLACING, "changes rows of tbl_tasks_5f0c1d"),
        (SEEDING.replace("'a'", "'b'").replace("1,", "2,"), "whose _txid is not 1"),
    ],
)
async def test_a_file_of_seed_rows_may_do_nothing_else_to_them(project, url, connection, text, says):
    """What is there already is the coordinator's; and a number that SQL makes up is nobody's."""
    await connection.execute(SEEDING)
    put(project, "0001_seeds.sql", f"-- seed rows\n{text};\n")
    with pytest.raises(Problem, match=says):
        await up(project, url)
    assert await connection.fetchval("SELECT array_agg(id) FROM tbl_tasks_5f0c1d") == ["a"]


async def test_records_are_no_tables(project, url):
    """`kontract table list` shows tables only."""
    put(project, "0001_one.sql", ONE)
    await up(project, url)
    assert {one.owner for one in await list_tables(url)} == {"__system", "tenant-1"}


def test_status_and_check_say_what_is_the_case(project, url, capsys):
    """Status is for people, check for CI: its exit code counts."""
    put(project, "0001_one.sql", ONE)
    assert main(["migrate", "check"]) == 1
    assert "0001_one.sql is missing from the database" in capsys.readouterr().err
    assert main(["migrate", "status"]) == 0
    assert capsys.readouterr().out.split() == ["pending", "0001_one"]
    assert main(["migrate", "up"]) == 0
    assert main(["migrate", "check"]) == 0
    put(project, "0001_one.sql", ONE + "\n")
    capsys.readouterr()
    assert main(["migrate", "status"]) == 0
    assert "changed since" in capsys.readouterr().out
    assert main(["migrate", "check"]) == 1
    assert "was changed after" in capsys.readouterr().err
    assert main(["migrate", "down"]) == 1
