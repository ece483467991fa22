"""State of local runs belongs to a database; no order of starts locks anybody out; nobody else can read it."""

import asyncio
import contextlib
import signal
import sqlite3
import stat
import sys

import asyncpg
import httpx
import pytest

from kontract.cli.toolchain import local_state, setup
from kontract.cli.toolchain.checkout import Checkout
from kontract.cli.toolchain.postgres import Cluster
from kontract.cli.toolchain.processes import free_port
from kontract.core.database_url import read as read_url
from support.dev import dev
from support.scratch import product_checkout

READY = "Kontract is ready on"
SERVE = (sys.executable, "-m", "kontract.cli.main", "serve", "--local")


@pytest.fixture
def place(tmp_path):
    return Checkout(tmp_path)


@pytest.fixture
def url(postgres):
    return postgres.create_database()


def folder_of(place, url, *, embedded=False):
    return asyncio.run(local_state.of_database(place, url, embedded=embedded))


def sql(url, *statements):
    async def run():
        connection = await asyncpg.connect(url)
        try:
            return [await connection.fetch(statement) for statement in statements][-1]
        finally:
            await connection.close()

    return asyncio.run(run())


# --- which folder ----------------------------------------------------------------------------------------------------


def test_each_database_has_a_folder_of_its_own_and_always_the_same(place, url, postgres):
    other = postgres.create_database()
    first, second = folder_of(place, url), folder_of(place, other)
    assert first != second
    assert folder_of(place, url) == first


def test_a_database_that_was_dropped_and_made_again_is_another(place, postgres):
    """As a backup is restored: the name is the same, and nothing that was written since is in it."""
    url = postgres.create_database()
    before = folder_of(place, url)
    name = read_url(url).database
    sql(postgres.server_url, f'DROP DATABASE "{name}"', f'CREATE DATABASE "{name}"')
    sql(url, "CREATE TABLE trxs (sid text, create_txid bigint)")
    assert folder_of(place, url) != before


def test_a_role_that_may_not_ask_for_the_identifier_has_a_folder_too(place, url):
    sql(url, "REVOKE EXECUTE ON FUNCTION pg_control_system() FROM PUBLIC", "CREATE ROLE narrow LOGIN PASSWORD 'x'",
        "GRANT SELECT ON trxs TO narrow")  # fmt: skip
    try:
        parts = read_url(url)
        host, port = parts.hosts[0]
        folder = folder_of(place, f"postgresql://narrow:x@{host}:{port}/{parts.database}")
    finally:
        sql(url, "DROP OWNED BY narrow", "DROP ROLE narrow")
    assert folder.name.startswith(f"{host}-{port}-")


@pytest.mark.parametrize("embedded", [True, False])
def test_what_earlier_versions_kept_for_all_databases_is_that_of_the_embedded_one(place, url, embedded):
    journal(place.state / "wrangler" / "v3", "tenant-1", 1)
    folder = folder_of(place, url, embedded=embedded)
    assert (folder / "v3").is_dir() is embedded
    assert (place.state / "wrangler" / "v3").is_dir() is not embedded


# --- what still counts -----------------------------------------------------------------------------------------------


def journal(v3, owner, epoch):
    """A coordinator's journal as a Durable Object keeps it."""
    path = v3 / "do" / "kontract-KontractSessionDO" / f"{owner}.sqlite"
    path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.execute("CREATE TABLE owner (name TEXT NOT NULL)")
        database.execute("CREATE TABLE head (one INTEGER PRIMARY KEY, epoch INTEGER NOT NULL, last_txid INTEGER)")
        database.execute("INSERT INTO owner VALUES (?)", [owner])
        database.execute("INSERT INTO head VALUES (1, ?, 7)", [epoch])
        database.commit()
    return path


def has_head(path):
    with contextlib.closing(sqlite3.connect(path)) as database:
        return bool(database.execute("SELECT count(*) FROM head").fetchone()[0])


def test_a_journal_of_another_epoch_than_the_databases_is_dropped(tmp_path):
    """Older or newer: a clone took over, `make serve` did, or the database is an older one that was restored."""
    kept, older, newer, unknown = (
        journal(tmp_path / "v3", name, epoch) for name, epoch in [("kept", 3), ("older", 2), ("newer", 9), ("new", 1)]
    )
    (older.parent / "metadata.sqlite").write_bytes(b"this is no database, and nobody's business")
    assert local_state.forget_superseded(tmp_path, {"kept": 3, "older": 3, "newer": 3}) == ["newer", "older"]
    assert [has_head(path) for path in (kept, older, newer, unknown)] == [True, False, False, True]


# --- any order -------------------------------------------------------------------------------------------------------


@pytest.fixture
def product(checkout, tmp_path):
    setup.prepare(checkout)
    return product_checkout(checkout, tmp_path / "product")


def works(product, command=(), **env):
    """Start it, write and read as a newcomer does, and stop it; what the answers were."""
    port = free_port()
    with dev(product.root, port=port, command=command, KONTRACT_LOG_LEVEL="warning", **env) as running:
        running.wait_for(READY)
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60, trust_env=False) as http:
            token = http.post("/auth/anonymous").json()["token"]
            headers = {"Authorization": f"Bearer {token}"}
            made = http.post("/rpc/create_task", json=["anything"], headers=headers)
            read = http.post("/rpc/list_tasks", json=[], headers=headers)
            answers = made.status_code, read.status_code
        running.send(signal.SIGINT)
        assert running.wait() == 0
    return answers if answers == (200, 200) else (answers, made.text, read.text)


@pytest.mark.long
@pytest.mark.timeout(600)
def test_no_order_of_starts_locks_anybody_out(product, postgres):
    """Another database and back; the same database with `make dev` and `make serve` in turn; a new embedded one."""
    other = {"DATABASE_URL": postgres.create_database()}
    fine = (200, 200)
    assert works(product) == fine
    assert works(product, **other) == fine
    assert works(product) == fine, "the one that it began with"
    assert works(product, SERVE, **other) == fine
    assert works(product, **other) == fine, "its journal is that of before `make serve`"
    assert works(product, SERVE, **other) == fine, "its log is that of before `make dev`"

    state = product.state / "wrangler"
    assert len([path for path in state.iterdir() if path.is_dir()]) == 2, "one for each database"
    open_ones = [
        path
        for folder in (state, product.state / "logs", product.state / "registry", product.state / "postgres" / "data")
        for path in (folder, *folder.rglob("*"))
        if not path.is_symlink() and path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO)
    ]
    assert open_ones == []
    assert list(state.rglob("*.sqlite")), "tokens and events are in there"
    assert (product.state / "postgres" / "server.log").stat().st_mode & 0o777 == 0o600
    assert Cluster.running(product.state / "postgres") is None
