"""A URL asks for the same TLS whoever reads it: commands and the server here, the Worker in workerd."""

import asyncpg
import pytest

from kontract.server.connect import connect
from support.tls_front import tls_front


@pytest.fixture
def front(postgres, tmp_path):
    """TLS in front of the database; it has a certificate for `localhost`."""
    with tls_front(postgres.cluster.port, tmp_path) as running:
        yield running


@pytest.fixture(autouse=True)
def home(monkeypatch, tmp_path):
    """Nobody's own ~/.postgresql and no PG* variable has a say."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("PGSSLMODE", "PGSSLROOTCERT", "PGAPPNAME", "PGTARGETSESSIONATTRS"):
        monkeypatch.delenv(name, raising=False)


def behind(front, postgres, host="localhost"):
    """The URL of the database through the front."""
    return postgres.server_url.replace(f"127.0.0.1:{postgres.cluster.port}", f"{host}:{front.port}")


async def look(url, statement="SELECT 1"):
    connection = await connect(url, seconds=10)
    try:
        return await connection.fetchval(statement)
    finally:
        await connection.close()


@pytest.mark.parametrize(
    ("query", "encrypted"),
    [
        ("", True),
        ("?sslmode=disable", False),
        ("?sslmode=allow", False),
        ("?sslmode=prefer", True),
        ("?sslmode=require", True),
        ("?ssl=true", True),
        ("?sslmode=verify-full&sslrootcert={certificate}", True),
    ],
)
async def test_tls_as_the_url_asks_for_it(front, postgres, query, encrypted):
    await look(behind(front, postgres) + query.format(certificate=front.certificate))
    assert front.encrypted == [encrypted]


@pytest.mark.parametrize("query", ["", "?sslmode=allow", "?sslmode=prefer"])
async def test_a_server_without_tls_is_used_where_the_url_lets_it(postgres, query):
    assert await look(postgres.server_url + query) == 1


@pytest.mark.parametrize("mode", ["require", "verify-ca&sslrootcert={certificate}", "verify-full&sslrootcert=system"])
async def test_a_server_without_tls_is_refused_where_the_url_insists(front, postgres, mode):
    with pytest.raises((ConnectionError, asyncpg.PostgresError)):
        await look(f"{postgres.server_url}?sslmode={mode.format(certificate=front.certificate)}")


@pytest.mark.parametrize("query", ["?sslrootcert=system", "?sslmode=require&channel_binding=require"])
async def test_system_roots_verify_the_server(front, postgres, query, monkeypatch):
    """sslrootcert=system, and channel_binding=require, which asks for the same."""
    with pytest.raises(OSError, match="CERTIFICATE_VERIFY_FAILED"):
        await look(behind(front, postgres) + query)
    monkeypatch.setenv("SSL_CERT_FILE", str(front.certificate))
    await look(behind(front, postgres) + query)
    with pytest.raises(OSError, match="CERTIFICATE_VERIFY_FAILED"):
        await look(behind(front, postgres, "127.0.0.1") + query)  # not the name in the certificate
    assert front.encrypted == [True]


async def test_who_connects_is_told_to_postgresql(postgres):
    name = "SELECT application_name FROM pg_stat_activity WHERE pid = pg_backend_pid()"
    assert await look(postgres.server_url, name) == "kontract"
    assert await look(postgres.server_url + "?application_name=billing", name) == "billing"


async def test_the_next_host_is_tried_and_the_wrong_kind_is_passed_over(postgres):
    port = postgres.cluster.port
    url = postgres.server_url.replace(f"127.0.0.1:{port}", f"127.0.0.1:1,127.0.0.1:{port}")
    assert await look(url + "?target_session_attrs=read-write") == 1


async def test_the_time_in_the_url_counts(monkeypatch):
    asked = []

    async def note(*_args, timeout, **_options):
        asked.append(timeout)

    monkeypatch.setattr(asyncpg, "connect", note)
    await connect("postgresql://u:p@127.0.0.1/n?connect_timeout=17", seconds=5)
    await connect("postgresql://u:p@127.0.0.1/n", seconds=5)
    assert asked == [17.0, 5]
