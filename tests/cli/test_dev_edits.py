"""Editing the application under `make dev`: what is saved shows in the next calls, mistakes in it too."""

import json
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request

import httpx
import pytest

from kontract.cli.toolchain import setup
from kontract.cli.toolchain.processes import free_port, wait_until
from support.dev import dev
from support.scratch import product_checkout

MODULE = """\
from kontract import Context, backend, perms


@backend(public=True, perm=perms.R__)
async def greet(ctx: Context) -> str:
    {body}
"""

NOTES = """\
from typing import Annotated

from msgspec import Struct

from kontract import Context, backend, perms, primkey, table


@table("notes")
class Note(Struct):
    id: Annotated[str, primkey]
    text: str


@backend(public=True, perm=perms.RW_)
async def greet(ctx: Context) -> str:
    return (await ctx.storage.notes.set("1", {"text": "noted"})) or (await ctx.storage.notes.get("1")).text
"""

SECONDS = 60
"""For what takes about one; a busy machine is not a defect."""


SERVE = (sys.executable, "-m", "kontract.cli.main", "serve", "--local")


@pytest.fixture
def product(checkout, tmp_path_factory):
    """The product in a folder of its own, whose `make build` is the real one."""
    setup.prepare(checkout)  # with its snapshot, which is used for the copy
    made = product_checkout(checkout, tmp_path_factory.mktemp("edits") / "product")
    (made.root / "Makefile").write_text(f"build:\n\t@{sys.executable} -m kontract.cli.main build\n")
    for name in ("sql", "public"):
        (made.root / name).unlink()
        shutil.copytree(checkout.root / name, made.root / name)
    return made


def call(port):
    """Status and body of a call."""
    request = urllib.request.Request(f"http://127.0.0.1:{port}/rpc/greet", b"[]", {"Content-Type": "application/json"})
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=30) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)
    except OSError:
        return None, {}


def file(port, path):
    """Status and body of a file of public/."""
    answer = httpx.get(f"http://127.0.0.1:{port}{path}", timeout=30, trust_env=False)
    return answer.status_code, answer.text


@pytest.mark.timeout(600)
@pytest.mark.parametrize("command", [pytest.param((), marks=pytest.mark.long), SERVE], ids=["dev", "serve"])
def test_what_is_saved_shows_in_the_next_calls_mistakes_too(product, command, capsys):
    """A function, a syntax error, a wrong declaration, a module that fails, an exception; and each time back."""
    port = free_port()
    path = product.root / "src" / "app" / "greeting.py"
    path.write_text(MODULE.format(body='return "one"'))
    took = []
    with dev(product.root, port=port, command=command) as running:
        running.wait_for("Kontract is ready on")

        def shows(text, status, *parts):
            started = time.monotonic()
            path.write_text(text)
            answers = []

            def seen():
                answers.append(call(port))
                told = json.dumps(answers[-1][1])
                return answers[-1][0] == status and all(part in told for part in parts)

            assert wait_until(seen, SECONDS), answers[-3:]
            took.append(time.monotonic() - started)

        shows(MODULE.format(body='return "one"'), 200, "one")
        shows(MODULE.format(body='return "two"'), 200, "two")
        shows("def greet(:\n", 500, "was not built. src/app/greeting.py:1: invalid syntax")
        running.wait_for("src/app/greeting.py:1: invalid syntax")
        shows(MODULE.format(body='return "three"'), 200, "three")
        shows(MODULE.format(body="return 1").replace("async ", ""), 500, ".py:5: a backend function must be async")
        shows("LIMIT = limit\n" + MODULE.format(body="return 4"), 500, "src/app/greeting.py:1: NameError: name 'limit'")
        shows(MODULE.format(body="return 1 / 0"), 500, "src/app/greeting.py:6: ZeroDivisionError")
        shows(MODULE.format(body='return "five"'), 200, "five")

        shows(NOTES, 404, "there is no table 'notes'; create it with: kontract migrate new")
        running.wait_for(
            "Table notes is new. There is no migration for this yet. Run: .venv/bin/kontract migrate new NAME"
        )
        migrate = [sys.executable, "-m", "kontract.cli.main", "migrate", "new", "add_notes"]
        subprocess.run(migrate, cwd=product.root, check=True, capture_output=True)
        running.wait_for("Applied 0001_add_notes")
        assert wait_until(lambda: call(port) == (200, {"result": "noted"}), SECONDS)
        subprocess.run([*migrate[:-1], "by_hand"], cwd=product.root, check=True, capture_output=True)
        running.wait_for("Not applied: sql/migrations/0002_by_hand.sql has a line that begins with `unfinished:`.")
        (product.root / "sql" / "migrations" / "0002_by_hand.sql").write_text("CREATE TABLE by_hand (n int);\n")
        running.wait_for("Applied 0002_by_hand")
        (product.root / "sql" / "migrations" / "0003_wrong.sql").write_text("SELECT wrong;\n")
        running.wait_for('column "wrong" does not exist')

        (product.root / "public" / "new.txt").write_text("new")
        assert wait_until(lambda: file(port, "/new.txt") == (200, "new"), SECONDS)
        (product.root / "public" / "new.txt").unlink()
        assert wait_until(lambda: file(port, "/new.txt")[0] == 404, SECONDS)
        assert running.process.poll() is None
    with capsys.disabled():
        print("\nseconds from saving to the answer:", *(f"{seconds:.1f}" for seconds in took))
