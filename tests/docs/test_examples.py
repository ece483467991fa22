"""Applications that pages show, tried: write-a-function.md, middleware.md, and the session of http.md."""

import asyncio
import re
from urllib.parse import urlsplit

import pytest

from kontract.gateway.shared_storage import SharedStorage
from support.example import Calls, built, migrated
from support.pages import DOCS, ROOT, blocks
from support.reader import Reader
from support.worker import running_worker

FUNCTION = DOCS / "how-to" / "write-a-function.md"
MIDDLEWARE = DOCS / "how-to" / "middleware.md"
HTTP = DOCS / "reference" / "http.md"


def the_one(page, kind):
    (text,) = [block.text for block in blocks(page) if block.kind == kind]
    return text


@pytest.fixture
def notes(tmp_path, monkeypatch):
    return built(tmp_path, monkeypatch, {"notes.py": the_one(FUNCTION, "python notes")})


async def test_notes_are_an_application(notes, postgres, tmp_path):
    """One is pinned however many calls run at once, and the migration is the one that is shown."""
    declared, registry = notes
    assert [(one.kind, one.name) for one in declared] == [
        ("backend", "add_note"),
        ("backend", "pin_note"),
        ("backend", "pinned_note"),
        ("table", "notes"),
    ]
    url = postgres.create_database()
    written, ptr = await migrated(tmp_path, url, "add_notes", "notes")
    assert f"`{written.relative_to(tmp_path)}`" in FUNCTION.read_text()
    assert written.read_text().strip() == the_one(FUNCTION, "sql notes")
    call = Calls(registry, url)

    assert (await call("pinned_note"))[0] == 404
    ids = []
    for text in ("one", "two", "three"):
        status, answer = await call("add_note", text)
        assert (status, answer["result"]["text"]) == (201, text)
        ids.append(answer["result"]["id"])
    assert [status for status, _ in await asyncio.gather(*(call("pin_note", one) for one in ids))] == [200] * 3

    pinned = (await call("pinned_note"))[1]["result"]["id"]
    alive = f"SELECT id FROM {ptr} WHERE _deleted_txid IS NULL AND data @> '{{\"pinned\": true}}'"
    assert [row[0] for row in await call.sql(alive)] == [pinned]
    assert (await call("pin_note", "no such note"))[0] == 404


async def test_nobody_is_answered_without_a_token(notes, postgres):
    _, registry = notes
    call = Calls(registry, postgres.url)
    call.headers = {}
    status, answer = await call("pinned_note")
    assert (status, answer["error"]) == (401, "UNAUTHORIZED")


def test_the_methods_of_a_table_are_those_that_there_are():
    """Each that the page names, and no public one is missing."""
    from kontract.core.transaction.storage import Table

    cells = re.search(r"^## `ctx\.storage`\n(.*?)^## ", FUNCTION.read_text(), re.MULTILINE | re.DOTALL)[1]
    named = set(re.findall(r"[`]([a-z_]+)\(", cells))
    assert named == {name for name in vars(Table) if not name.startswith("_") and callable(getattr(Table, name))}


async def test_the_middleware_runs_around_the_functions_that_it_names(tmp_path, monkeypatch, postgres):
    files = {name: (ROOT / "src" / "app" / name).read_text() for name in ("accounts.py", "tasks.py")}
    files["around.py"] = the_one(MIDDLEWARE, "python middleware")
    _, registry = built(tmp_path, monkeypatch, files)
    assert registry._routes["transfer"].middleware == ("app.around:limit", "app.around:remember")
    assert registry._routes["balance"].middleware == ("app.around:limit",)

    call = Calls(registry, postgres.create_database())
    await call("open_account", "a", 10)
    await call("open_account", "b")
    assert (await call("transfer", "a", "b", 1))[0] == 200
    assert await SharedStorage(call.platform.shared("tenant-1")).get("transfers") == 1
    answers = [(await call("balance", "a"))[0] for _ in range(101)]
    assert answers == [200] * 100 + [429]


async def test_transfers_of_the_front_page_keep_the_total(tmp_path, monkeypatch, postgres):
    """The function in place of the demo's own, with the demo's table."""
    text = (ROOT / "src" / "app" / "accounts.py").read_text()
    theirs = re.search(r"^@backend[^\n]*\nasync def transfer\(.*?(?=^@backend)", text, re.MULTILINE | re.DOTALL)[0]
    shown = text.replace(theirs, the_one(DOCS / "index.md", "python transfer") + "\n\n\n")
    _, registry = built(tmp_path, monkeypatch, {"bank.py": shown})
    call = Calls(registry, postgres.create_database())
    for name in ("a", "b"):
        await call("open_account", name, 20)  # enough for all transfers of one direction, whatever their order

    answers = await asyncio.gather(*(call("transfer", *pair, 3) for pair in [("a", "b"), ("b", "a")] * 5))

    assert [status for status, _ in answers] == [200] * 10
    assert (await call("total"))[1] == {"result": 40}
    status, answer = await call("transfer", "a", "b", 21)
    assert (status, answer["message"]) == (400, "a has only 20")


@pytest.mark.needs("curl")
def test_the_calls_are_answered_as_shown(checkout, postgres, reaper, tmp_path):
    """Typed against a Worker whose database nobody has used."""
    with running_worker(checkout, postgres.create_database(), tmp_path, reaper) as server:
        reader = Reader(tmp_path, urlsplit(server.url).port)
        shown = [block.text for block in blocks(HTTP) if block.kind == "console"]
        assert len(shown) == 2
        for text in shown:
            reader.compare(text)
