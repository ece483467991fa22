"""`kontract preview`: a Worker and a database for one pull request. All is real but wrangler, which runs dry."""

import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import asyncpg
import pytest

from kontract.cli import main as command

WORKER = "my-kontract-app-pr-7"
DATABASE = "my_kontract_app_pr_7"

SECRET = "c7d41f0a92be6835d1407ea9f3286bc50d9e71f8a4b36c2de580179fc46a3b92"


@pytest.fixture(autouse=True)
def settings(checkout, postgres, monkeypatch, tmp_path):
    monkeypatch.chdir(checkout.root)
    monkeypatch.setenv("DATABASE_URL", postgres.server_url)
    monkeypatch.setenv("KONTRACT_SECRET", SECRET)
    for name in ("GITHUB_OUTPUT", "GITHUB_STEP_SUMMARY"):
        monkeypatch.setenv(name, str(tmp_path / name))


async def databases(postgres):
    connection = await asyncpg.connect(postgres.server_url)
    try:
        return {row[0] for row in await connection.fetch("SELECT datname FROM pg_database")}
    finally:
        await connection.close()


def preview(*arguments):
    # In a thread of its own: the command runs a loop, and so does the test.
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(command.main, ["preview", *arguments, "--dry-run"]).result()


@pytest.mark.long
@pytest.mark.timeout(300)
async def test_it_has_a_database_of_its_own_until_it_is_removed(postgres, capfd):
    """Made with the schema, kept at the next push, gone with the Worker; neither says what the secrets are."""
    for _ in range(2):
        assert preview("up", "7") == 0
    said = capfd.readouterr()

    assert DATABASE in await databases(postgres)
    url = postgres.cluster.url(DATABASE)
    connection = await asyncpg.connect(url)  # left open: it must not keep the database alive
    assert await connection.fetchval("SELECT count(*) FROM storage") > 0
    for name in ("SESSION_DO (KontractSessionDO)", 'KONTRACT_SECRET ("(hidden)")', 'DATABASE_URL ("(hidden)")'):
        assert f"env.{name}" in said.out
    assert "HYPERDRIVE (" not in said.out
    assert SECRET not in said.out + said.err
    assert postgres.cluster.password not in said.out + said.err

    for _ in range(2):  # a run that was repeated
        assert preview("down", "7") == 0
    assert f"Removed {WORKER} and its database {DATABASE}." in capfd.readouterr().out
    assert DATABASE not in await databases(postgres)
    connection.terminate()


async def test_what_wrangler_is_told(monkeypatch, postgres, tmp_path):
    """Name, a file with the secrets that is this user's alone and goes away; what it answers has the address."""
    told = []

    def wrangler(_checkout, arguments):
        told.append(list(arguments))
        if "--secrets-file" in arguments:
            path = Path(arguments[arguments.index("--secrets-file") + 1])
            told.append(path.read_text())
            assert path.stat().st_mode & 0o077 == 0
        return "Uploaded\n  https://my-kontract-app-pr-7.ann.workers.dev\n"

    monkeypatch.setattr("kontract.cli.preview._wrangler", wrangler)
    assert preview("up", "7") == 0
    assert preview("down", "7") == 0

    deploy, secrets, delete = told
    path = deploy[6]
    assert deploy == ["deploy", "--env", "preview", "--name", WORKER, "--secrets-file", path, "--dry-run"]
    assert not Path(path).exists()
    assert f'"DATABASE_URL": "{postgres.cluster.url(DATABASE)}"' in secrets
    assert delete == ["delete", WORKER, "--force", "--env", "preview", "--dry-run"]
    assert (tmp_path / "GITHUB_OUTPUT").read_text() == "url=https://my-kontract-app-pr-7.ann.workers.dev\n"
    assert "workers.dev" in (tmp_path / "GITHUB_STEP_SUMMARY").read_text()


@pytest.mark.parametrize(
    ("name", "value", "what"),
    [
        ("DATABASE_URL", "", "DATABASE_URL of the server for previews is missing"),
        ("DATABASE_URL", "postgresql://nobody@127.0.0.1:1/x", "is unreachable"),
        ("KONTRACT_SECRET", "", "KONTRACT_SECRET for previews is missing"),
        ("KONTRACT_SECRET", "secret", "malformed"),
    ],
)
def test_what_is_missing_is_said_before_anything_is_made(name, value, what, monkeypatch, capsys):
    monkeypatch.setenv(name, value)
    assert preview("up", "7") == 1
    assert what in capsys.readouterr().err


def test_a_number_of_a_pull_request_is_needed(capsys):
    assert preview("up", "0") == 1
    assert "is not the number of a pull request" in capsys.readouterr().err


def test_make_passes_the_number_on(checkout, monkeypatch):
    monkeypatch.setenv("PR", "9")
    done = subprocess.run(
        ["make", "--dry-run", "preview", "PR=7"], cwd=checkout.root, capture_output=True, text=True, check=True
    )
    assert "kontract preview up 7" in done.stdout
    done = subprocess.run(
        ["make", "--dry-run", "preview"], cwd=checkout.root, capture_output=True, text=True, check=True
    )
    assert "9" not in done.stdout
