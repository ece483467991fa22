"""The role that a gateway connects as: made, given what it needs after each migration, and nothing more."""

import asyncio

import asyncpg
import httpx
import pytest

from kontract.cli.doctor.database import database_findings
from kontract.cli.main import main
from kontract.cli.migrations import role
from support.serving import running_server

NAME = "gateway of a test"


@pytest.fixture
def url(postgres, monkeypatch):
    """A database without the schema."""
    url = postgres.create_database(empty=True)
    monkeypatch.setenv("DATABASE_URL", url)
    yield url
    execute(url, f'DROP OWNED BY "{NAME}"; DROP ROLE "{NAME}"')


def execute(url, statement):
    async def work():
        connection = await asyncpg.connect(url)
        try:
            return await connection.execute(statement)
        finally:
            await connection.close()

    return asyncio.run(work())


def theirs(url, password):
    return f"postgresql://{NAME.replace(' ', '%20')}:{password}@{url.partition('@')[2]}"


def test_it_serves_and_can_do_no_more(url, monkeypatch, capsys, checkout, reaper, tmp_path):
    """Calls, accounts, streams of several nodes, and doctor as this role; afterwards another password, a new table."""
    monkeypatch.setenv(role.PASSWORD, "it's a password")
    command = ["migrate", "--coordination", "--gateway-role", NAME]
    assert main(command) == 0
    assert f"Role {NAME} was created and has what a gateway needs." in capsys.readouterr().out
    gateway = theirs(url, "it's%20a%20password")
    with (
        running_server(checkout, gateway, tmp_path, reaper, KONTRACT_COORDINATION="postgres") as server,
        httpx.Client(base_url=server.url, trust_env=False, timeout=60) as http,
    ):
        account = {"name": "ann", "password": "correct horse battery"}
        signed = http.post("/auth/register", json=account)
        assert signed.status_code == 201, signed.text
        http.headers["Authorization"] = f"Bearer {signed.json()['token']}"
        assert http.post("/rpc/create_task", json=["x"]).status_code == 200
        assert http.post("/auth/logout").status_code == 204
    assert [finding.what for finding in asyncio.run(database_findings(gateway)) if finding.wrong] == []
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        execute(gateway, "DROP TABLE trxs")

    execute(url, "CREATE TABLE tbl_new (LIKE tbl_tasks_5f0c1d INCLUDING ALL); CREATE SEQUENCE tbl_new__order_seq "
            "OWNED BY tbl_new._order; INSERT INTO storage VALUES ('new', 'tbl_new', 'tenant-1')")  # fmt: skip
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        execute(gateway, "SELECT FROM tbl_new")
    monkeypatch.setenv(role.PASSWORD, "another")
    assert main(command) == 0
    assert f"Role {NAME} has what a gateway needs." in capsys.readouterr().out
    execute(theirs(url, "another"), "SELECT FROM tbl_new")
    with pytest.raises(asyncpg.InvalidPasswordError):
        execute(gateway, "SELECT 1")
    monkeypatch.delenv(role.PASSWORD)
    assert main(command) == 0, "the password stays as it is"
    execute(theirs(url, "another"), "SELECT FROM tbl_new")


def test_without_a_password_nothing_is_made(postgres, monkeypatch, capsys):
    monkeypatch.delenv(role.PASSWORD, raising=False)
    url = postgres.create_database(empty=True)
    assert main(["migrate", "--gateway-role", "nobody_yet", "--database-url", url]) == 1
    assert role.PASSWORD in capsys.readouterr().err
    assert execute(url, "SELECT FROM pg_roles WHERE rolname = 'nobody_yet'") == "SELECT 0"


def test_a_strong_role_is_refused(postgres, monkeypatch, capsys):
    """The password of the owner would become the gateway's."""
    monkeypatch.setenv(role.PASSWORD, "sesame")
    url = postgres.create_database(empty=True)
    assert main(["migrate", "--gateway-role", "kontract", "--database-url", url]) == 1
    assert "has more rights than a gateway needs" in capsys.readouterr().err
