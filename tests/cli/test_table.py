"""`kontract table create|register|drop`, on the real database."""

from __future__ import annotations

import asyncio
import io
import re

import pytest

from kontract.cli.main import main
from kontract.cli.table import list_tables
from kontract.core.transaction.store import SqlStore
from kontract.core.types import TableKind
from kontract.server.database import AsyncpgDatabase
from support.postgres import Postgres


@pytest.fixture
def url(postgres: Postgres, monkeypatch):
    url = postgres.create_database()
    monkeypatch.setenv("DATABASE_URL", url)
    return url


def lookup(url, owner, name):
    async def ask():
        store = SqlStore(AsyncpgDatabase(url))
        try:
            return await store.lookup(owner, name)
        finally:
            await store.aclose()

    return asyncio.run(ask())


def test_two_tenants_have_tables_of_one_name(url):
    """The second one is stored as <owner>/<name>; a gateway finds both."""
    assert main(["table", "create", "notes", "--permissions", "RW_"]) == 0
    assert main(["table", "create", "notes", "--owner", "other"]) == 0
    first, second = lookup(url, "tenant-1", "notes"), lookup(url, "other", "notes")
    assert first.ptr != second.ptr
    assert first.kind is second.kind is TableKind.VERSIONED
    shown = {(one.owner, one.name): one.permissions for one in asyncio.run(list_tables(url))}
    assert (shown["tenant-1", "notes"], shown["other", "notes"]) == ("RW_", "RWX")
    assert main(["table", "create", "notes", "--owner", "other"]) == 1


def test_a_dropped_table_keeps_its_data_and_can_be_registered_again(url, capsys):
    """Only --delete-data deletes."""
    assert main(["table", "drop", "tasks", "--yes"]) == 0
    assert lookup(url, "tenant-1", "tasks") is None
    assert main(["table", "register", "tasks", "tbl_tasks_5f0c1d"]) == 0
    assert lookup(url, "tenant-1", "tasks").ptr == "tbl_tasks_5f0c1d"
    assert main(["table", "drop", "tasks", "--yes", "--delete-data"]) == 0
    assert main(["table", "register", "tasks", "tbl_tasks_5f0c1d"]) == 1
    assert "PostgreSQL has no table tbl_tasks_5f0c1d" in capsys.readouterr().err


def test_drop_asks_first(url, monkeypatch):
    """Whoever types another name has changed nothing."""
    monkeypatch.setattr("builtins.input", lambda _: "task")
    assert main(["table", "drop", "tasks"]) == 1
    assert lookup(url, "tenant-1", "tasks") is not None


def test_drop_without_anybody_to_ask_says_so(url, monkeypatch, capsys):
    """In a pipe or a job the input ends at once."""
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    assert main(["table", "drop", "tasks"]) == 1
    assert "cannot ask for confirmation" in capsys.readouterr().err.lower()
    assert lookup(url, "tenant-1", "tasks") is not None


def own_tables(checkout):
    """What sql/ makes for the gateway: tables by their physical names, and by the logical ones of the register."""
    text = "".join((checkout.root / "sql" / name).read_text() for name in ("init.sql", "coordination.sql"))
    made = re.findall(r"CREATE TABLE IF NOT EXISTS (\w+)", text)
    return [name for name in made if not name.startswith("tbl_")], re.findall(r"\('(\w+)', '\w+', '__system'", text)


def test_the_gateways_own_tables_are_not_dropped(url, postgres, checkout, capsys):
    """By whatever name and owner they are asked for: without them nobody can log in, or commit."""
    physical, logical = own_tables(checkout)
    assert set(physical) >= {"storage", "trxs", "coordination", "shared"}
    assert set(logical) == {"__users", "__sessions"}
    asked = [(name, owner) for name in (*physical, *logical) for owner in ("tenant-1", "__system", "__migrations")]
    for name, owner in asked:
        assert main(["table", "drop", name, "--owner", owner, "--yes", "--delete-data"]) == 1
        assert f"{name} belongs to the gateway itself" in capsys.readouterr().err
    assert {lookup(url, "__system", name).kind for name in logical} == {TableKind.VERSIONED}
    postgres.run(url, "INSERT INTO storage VALUES ('mine', 'tbl_users_c41d7a', 'tenant-1'), ('st', 'storage', 'other')")
    assert main(["table", "drop", "mine", "--yes", "--delete-data"]) == 1
    assert "also belongs to __system" in capsys.readouterr().err
    assert main(["table", "drop", "st", "--owner", "other", "--yes", "--delete-data"]) == 1
    assert main(["table", "drop", "mine", "--yes"]) == 0
    assert lookup(url, "__system", "__users") is not None


def test_a_table_of_the_application_may_be_called_like_one_of_the_gateway(url):
    """Its data are elsewhere."""
    assert main(["table", "create", "shared"]) == 0
    assert main(["table", "drop", "shared", "--yes", "--delete-data"]) == 0


WHOLE = "id text NOT NULL, data jsonb NOT NULL, _txid bigint NOT NULL, _deleted_txid bigint, _owner text NOT NULL, "


NINE = f"""CREATE TABLE t ({WHOLE} _order serial, PRIMARY KEY (id));
INSERT INTO t VALUES ('a', '{{}}', 9, NULL, 'x');
INSERT INTO trxs VALUES ('epoch/tenant-1', 'tenant-1', 70), ('s', 'tenant-1', 8);
UPDATE storage SET owner = 'other';
"""


@pytest.mark.parametrize(
    ("name", "ptr", "prepare", "message"),
    [
        ("no-name", "t", "", "is not a valid table name"),
        ("notes", 'a"b', "", "is not a table name"),
        ("notes", "t", "CREATE TABLE t (id text PRIMARY KEY)", "missing or of the wrong type: data jsonb"),
        ("notes", "t", f"CREATE TABLE t ({WHOLE} _order serial)", "lacks the keys"),
        ("notes", "t", f"CREATE TABLE t ({WHOLE} _order serial, PRIMARY KEY (id, _txid))", "lacks the keys"),
        ("notes", "t", f"CREATE TABLE t ({WHOLE} _order int, PRIMARY KEY (id))", "has no sequence"),
        ("notes", "tbl_tasks_5f0c1d", "", "is already registered"),
        (
            "notes",
            "t",
            NINE,
            "nobody would see them",
        ),
    ],
)
def test_register_refuses_what_a_gateway_could_not_use(url, postgres, capsys, name, ptr, prepare, message):
    """Each would fail later, in a call of somebody who cannot mend it."""
    if prepare:
        postgres.run(url, prepare)
    assert main(["table", "register", name, ptr]) == 1
    assert message in capsys.readouterr().err
    assert lookup(url, "tenant-1", "notes") is None
