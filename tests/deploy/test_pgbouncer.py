"""deploy/pgbouncer/pgbouncer.ini, tried with the program: between a real server and a real PostgreSQL."""

import shutil
import subprocess
import tempfile
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import httpx
import pytest

from kontract.cli.migrate import migrate
from kontract.cli.toolchain.processes import free_port, wait_until
from kontract.cli.toolchain.unprivileged import run_as
from support.deployment import DEPLOY
from support.programs import program
from support.proxies import is_listening
from support.serving import running_server
from support.sessions import bearer_for

ROLE = "kontract_pooled"
PASSWORD = "PASSWORD"


@contextmanager
def pooler(direct, reaper):
    """PgBouncer with the file of deploy/, its addresses changed, and nothing else; yields its port."""
    found = program("pgbouncer")
    folder = Path(tempfile.mkdtemp(prefix="kontract-pgbouncer-"))
    reaper.watch_folder(folder)
    port, database = free_port(), urlsplit(direct)
    text = (DEPLOY / "pgbouncer" / "pgbouncer.ini").read_text()
    for old, new in {
        "kontract = host=10.0.0.31 port=5432 dbname=kontract":
            f"kontract = host={database.hostname} port={database.port} dbname={database.path[1:]}",
        "listen_addr = 0.0.0.0": "listen_addr = 127.0.0.1\nunix_socket_dir =",
        "listen_port = 6432": f"listen_port = {port}",
        "/etc/pgbouncer/userlist.txt": str(folder / "users"),
    }.items():  # fmt: skip
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    (folder / "pgbouncer.ini").write_text(text)
    (folder / "users").write_text(f'"{ROLE}" "{PASSWORD}"\n')
    who = run_as(folder, Path(found))  # it refuses to run as root
    for path in (folder, folder / "users", folder / "pgbouncer.ini"):
        who.own(path)
    with (folder.with_suffix(".log")).open("wb") as log, subprocess.Popen(
        [found, folder / "pgbouncer.ini"], cwd=folder, stdout=log, stderr=log, start_new_session=True, **who.popen
    ) as process:  # fmt: skip
        reaper.watch_group(process.pid)
        try:
            wait_until(lambda: process.poll() is not None or is_listening(port), 60)
            assert process.poll() is None, Path(log.name).read_text()
            yield port
        finally:
            process.terminate()
            process.wait(60)
            reaper.forget_group(process.pid)
            shutil.rmtree(folder, ignore_errors=True)
            Path(log.name).unlink()


@pytest.fixture
async def database(postgres):
    """A migrated database, and a role as docs/how-to/self-hosting.md makes it."""
    url = postgres.create_database(empty=True)
    await migrate(url, lambda _: None, coordination=True)
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(
            f"CREATE ROLE {ROLE} LOGIN PASSWORD '{PASSWORD}'; ALTER ROLE {ROLE} SET statement_timeout = '5s';"
            f"GRANT ALL ON ALL TABLES IN SCHEMA public TO {ROLE}; GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO {ROLE}"
        )
        yield url
    finally:
        await connection.execute(f"DROP OWNED BY {ROLE}; DROP ROLE {ROLE}")
        await connection.close()


@pytest.mark.needs("pgbouncer")
async def test_the_server_works_through_it_without_extra_turns(checkout, database, reaper, tmp_path):
    """Coordination, calls and streams; the role's own limit of time spares each write a transaction around it."""
    with pooler(database, reaper) as port:
        url = f"postgresql://{ROLE}:{PASSWORD}@127.0.0.1:{port}/kontract"
        with running_server(checkout, url, tmp_path, reaper) as server:
            async with httpx.AsyncClient(
                base_url=server.url, headers=bearer_for(server), timeout=60, trust_env=False
            ) as api:
                for number in range(10):
                    answer = await api.post("/rpc/create_task", json=[f"pooled {number}"])
                    assert answer.status_code == 200, answer.text
                listed = await api.post("/rpc/list_tasks", json=[])
            assert len(listed.json()["result"]) == 10
            [started] = server.events("serving")
            assert started["pooled"] is True
            assert server.events("statement_timeout") == [], "the warning that each write takes two more turns"
