"""A DATABASE_URL that cannot work is refused before anything is started, in a sentence without the password."""

import shutil
import socket
from types import SimpleNamespace

import pytest

from kontract.cli.main import main
from kontract.cli.toolchain.checkout import Checkout
from kontract.cli.toolchain.database_url import check, check_form, find
from kontract.cli.toolchain.problem import Problem
from kontract.cli.toolchain.processes import free_port


@pytest.mark.parametrize(
    ("url", "found"),
    [
        ("postgresql://u:p@db.example.com/name", ("db.example.com", 5432)),
        ("postgres://u@127.0.0.1:6432/name?sslmode=disable", ("127.0.0.1", 6432)),
        ("postgresql://u:p@[::1]:5433/name", ("::1", 5433)),
    ],
)
def test_what_workerd_can_reach_passes(url, found):
    assert check_form(url) == found


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("postgresql:///name", "lacks a host"),
        ("postgresql://u@/name?host=/var/run/postgresql", "Unix socket"),
        ("postgresql://u@%2Fvar%2Frun%2Fpostgresql/name", "Unix socket"),
        ("mysql://u:p@host/name", "does not start with postgresql://"),
        ("host=localhost dbname=x", "does not start with postgresql://"),
        ("postgresql://u:p@host:port/name", "a port that is not a number"),
        ("postgresql://u:p@host", "lacks a user or a database"),
        ("postgresql://host/name", "lacks a user or a database"),
    ],
)
def test_what_it_cannot_reach_is_a_sentence(url, says):
    with pytest.raises(Problem, match=says) as caught:
        check_form(url)

    assert "postgresql://user:password@host:5432/name" in caught.value.fix


async def test_a_server_that_answers_passes(postgres):
    assert await check(postgres.server_url) == ("127.0.0.1", postgres.cluster.port)


async def test_a_server_that_is_not_there_is_unreachable():
    with pytest.raises(Problem, match="unreachable") as caught:
        await check(f"postgresql://u:sesame@127.0.0.1:{free_port()}/name")

    assert "sesame" not in caught.value.render()
    assert "Unset DATABASE_URL" in caught.value.fix


async def test_a_server_that_says_nothing_is_unreachable(monkeypatch):
    monkeypatch.setattr("kontract.cli.toolchain.database_url._CONNECT_SECONDS", 0.3)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        with pytest.raises(Problem, match="unreachable"):
            await check(f"postgresql://u:p@127.0.0.1:{silent.getsockname()[1]}/name")


async def test_a_wrong_password_is_a_refused_login(postgres):
    wrong = postgres.server_url.replace(postgres.cluster.password, "sesame")

    with pytest.raises(Problem, match="rejected the login") as caught:
        await check(wrong)

    assert "sesame" not in caught.value.render()


async def test_a_missing_database_is_named_as_such(postgres):
    with pytest.raises(Problem, match="no such database"):
        await check(postgres.cluster.url("nowhere"))


@pytest.fixture
def beside(postgres, monkeypatch):
    """Commands run in a checkout in which the PostgreSQL of the tests is that of a `make dev`."""
    monkeypatch.delenv("DATABASE_URL", raising=False)

    def stand_in(state):
        monkeypatch.setattr(Checkout, "find", lambda: SimpleNamespace(state=state, root=state))

    stand_in(postgres.cluster.folder.parent)
    return stand_in


@pytest.mark.usefixtures("beside")
def test_commands_find_the_database_of_a_running_make_dev(postgres, capsys):
    assert find(None) == postgres.cluster.url()
    assert "running `make dev`" in capsys.readouterr().out


@pytest.mark.usefixtures("beside")
def test_what_was_given_comes_first(monkeypatch, capsys):
    monkeypatch.setenv("DATABASE_URL", "postgresql://a/b")
    assert find(None) == "postgresql://a/b"
    assert find("postgresql://c/d") == "postgresql://c/d"
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("command", [["migrate"], ["migrate", "status"], ["table", "list"]])
def test_a_server_that_has_stopped_is_not_taken_for_one_that_runs(tmp_path, postgres, beside, command, capsys):
    """Its pid file is there still, with the number of a process that is another one by now."""
    data = tmp_path / "postgres" / "data"
    data.mkdir(parents=True)
    shutil.copyfile(postgres.cluster.data / "postmaster.pid", data / "postmaster.pid")
    beside(tmp_path)
    assert main(command) == 1
    assert "No database is configured." in capsys.readouterr().err
