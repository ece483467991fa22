"""`kontract doctor`, against the real database: silent when all is well, one sentence for each thing that is not."""

from __future__ import annotations

import asyncio

import asyncpg
import pytest

from kontract.cli.doctor import Finding, database_findings, looks_pooled, report, skew_finding, wrangler_findings
from kontract.cli.main import main
from kontract.cli.toolchain.problem import Problem

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


def test_it_shows_epochs_fences_and_dead_versions(postgres):
    url = changed(
        postgres.create_database(),
        "INSERT INTO trxs VALUES ('epoch/tenant-1', 'tenant-1', 3), ('a/1', 'tenant-1', 5), ('b/1', 'tenant-1', -7)",
        "INSERT INTO tbl_tasks_5f0c1d (id, data, _txid, _deleted_txid, _owner) VALUES "
        "('a', '{}', 4, 5, 'u'), ('a', '{}', 5, NULL, 'u')",
    )
    said = [finding.what for finding in look(url)]
    assert wrong(url) == []
    assert "owner tenant-1: epoch 3, 2 fences of txids 5 to 7, 1 of transactions that were in doubt and aborted" in said
    assert "table tenant-1/tasks (tbl_tasks_5f0c1d): versioned, 1 rows, 1 dead versions since txid 5" in said


@pytest.mark.parametrize(
    ("statement", "what", "fix"),
    [
        ("DROP TABLE trxs", "schema is missing: no table trxs", "kontract migrate"),
        ("INSERT INTO storage VALUES ('lost', 'tbl_lost', 't')", "t/lost (tbl_lost) does not exist", "storage"),
        ("INSERT INTO storage VALUES ('odd', 'a b', 't')", "does not exist", "storage"),
        ("ALTER TABLE tbl_tasks_5f0c1d DROP CONSTRAINT tbl_tasks_5f0c1d_pkey", "has no primary key", "tables.md"),
        ("DROP INDEX tbl_tasks_5f0c1d_live", "no unique index of its live rows", "CREATE UNIQUE INDEX"),
        ("INSERT INTO trxs VALUES ('a/1', 'tenant-1', 5)", "epoch None", "the next call that writes"),
        (
            "INSERT INTO trxs SELECT 'epoch/t', 't', 1 UNION SELECT n || '/1', 't', -n FROM generate_series(1, 20) n",
            "20 of transactions that were in doubt",
            "lost connections",
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
    assert "no rows can be inserted" in finding.what
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
    (found,) = wrong(f"postgresql://poor:poor@{address}")
    assert found.fix == "GRANT INSERT, UPDATE, DELETE ON tbl_accounts_9b27e4"
    changed(url, "DROP OWNED BY poor", "DROP ROLE poor")


def test_a_database_that_is_not_there_is_a_problem():
    with pytest.raises(Problem, match="cannot be reached"):
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
        "wrangler.toml: environment staging has no binding HYPERDRIVE",
        "wrangler.toml: environment live has no binding HYPERDRIVE and SESSION_DO",
    ]
    path.write_text("[")
    assert wrangler_findings(path)[0].wrong
    assert wrangler_findings(tmp_path / "none.toml")[0].wrong


def test_the_exit_code_is_one_only_if_something_is_wrong():
    said: list[str] = []
    assert report([Finding("a"), Finding("b", "look at b")], said.append) == 0
    assert report([Finding("a"), Finding("b", "do b", wrong=True)], said.append) == 1
    assert said[-2:] == ["WRONG  b\n         -> do b", "1 of 2 findings need something done."]


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
    ],
)
def test_pitfalls_that_wrangler_accepts_are_named(tmp_path, checkout, old, new, what):
    text = checkout.wrangler_toml.read_text()
    assert old in text
    path = tmp_path / "wrangler.toml"
    path.write_text(text.replace(old, new, 1))
    found = [finding for finding in wrangler_findings(path) if finding.wrong]
    assert [what in finding.what and bool(finding.fix) for finding in found] == [True], found
