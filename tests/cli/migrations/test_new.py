"""`kontract migrate new`: safe changes are written, dangerous ones refused."""

from __future__ import annotations

import asyncio
import json
import re

import asyncpg
import pytest

from kontract.cli import migrate as command
from kontract.cli.main import main
from kontract.cli.migrations import files
from kontract.cli.migrations.new import unmigrated
from kontract.core.transaction.store import SqlStore
from kontract.core.types import TableKind
from kontract.server.database import AsyncpgDatabase

HEAD = """from typing import Annotated
from msgspec import Meta, Struct
from kontract import perm, perms, primkey, table

Text = Annotated[str, Meta(min_length=1)]

"""
NOTES = """@table("notes")
class Note(Struct):
    id: Annotated[str, primkey]
    text: Text
    pinned: bool = False
"""


@pytest.fixture
def project(checkout, tmp_path, monkeypatch):
    """A checkout with the real base schema and a struct that has its migration."""
    for name in ("wrangler.toml", "pyproject.toml"):
        (tmp_path / name).write_text("")
    (tmp_path / "sql").mkdir()
    (tmp_path / "sql" / "init.sql").write_text((checkout.root / "sql" / "init.sql").read_text())
    (tmp_path / "src" / "app").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DATABASE_URL", raising=False)
    declare(tmp_path, NOTES)
    assert main(["migrate", "new", "add_notes"]) == 0
    return tmp_path


def declare(project, text):
    (project / "src" / "app" / "notes.py").write_text(HEAD + text)


def written(project):
    return {path.name: path.read_text() for path in sorted((project / "sql" / "migrations").iterdir())}


def lock_file(project):
    return json.loads((project / "sql" / "schema.lock.json").read_text())


def test_the_lock_file_of_this_checkout_is_that_of_its_structs(checkout):
    """Who adds a table to the demo adds its migration."""
    assert unmigrated(checkout.root) == []


def test_a_new_table_is_made_as_init_sql_makes_its_own(project, checkout, postgres):
    """The same columns, keys and indexes; a gateway finds it."""
    (sql,) = written(project).values()
    ptr = lock_file(project)["tables"]["notes"]["ptr"]
    assert re.fullmatch(r"tbl_notes_[0-9a-f]{6}", ptr)
    base = (checkout.root / "sql" / "init.sql").read_text()
    demo = base[base.index("CREATE TABLE IF NOT EXISTS tbl_tasks") : base.index("CREATE TABLE IF NOT EXISTS tbl_acc")]
    assert demo.strip().replace("tbl_tasks_5f0c1d", ptr) in sql

    async def apply_and_look_up():
        url = postgres.create_database()
        connection = await asyncpg.connect(url)
        await connection.execute("INSERT INTO storage (id, ptr, owner) VALUES ('labels', 'tbl_theirs', 'tenant-1')")
        await connection.close()
        await command.migrate(url, lambda _: None, root=project)
        assert await command.check(project, url) == []
        store = SqlStore(AsyncpgDatabase(url))
        found = await store.lookup("tenant-1", "notes")
        await store.aclose()
        await command.down(url, 1, lambda _: None, root=project)
        return found

    found = asyncio.run(apply_and_look_up())
    assert (found.ptr, found.kind) == (ptr, TableKind.VERSIONED)


def test_the_same_structs_give_the_same_files(project):
    """Nothing random: two people who do the same get the same, byte for byte."""
    before = (written(project), (project / "sql" / "schema.lock.json").read_bytes())
    (project / "sql" / "migrations" / "0001_add_notes.sql").unlink()
    (project / "sql" / "schema.lock.json").unlink()
    assert main(["migrate", "new", "add_notes"]) == 0
    assert (written(project), (project / "sql" / "schema.lock.json").read_bytes()) == before


@pytest.mark.parametrize(
    ("before", "after", "says"),
    [
        ("pinned: bool = False", "pinned: bool = False\n    colour: str = 'red'", "Field notes.colour is new."),
        ("pinned: bool = False", "pinned: bool = True", "has the default True instead of False"),
        ("text: Text", "text: Annotated[Text, perm(perms.R__)]", "The permission of field notes.text"),
        ("pinned: bool", "pinned: Annotated[bool, perm(perms.R__)]", "The permission of field notes.pinned"),
        ('@table("notes")', '@table("notes", stream=False)', "stream=False instead of True"),
    ],
)
def test_a_safe_change_is_written_and_then_known(project, capsys, before, after, says):
    """check fails until the migration is there."""
    declare(project, NOTES.replace(before, after))
    assert main(["migrate", "check"]) == 1
    assert says in capsys.readouterr().err
    assert main(["migrate", "new", "change"]) == 0
    assert says in written(project)["0002_change.sql"]
    assert main(["migrate", "check"]) == 0


DANGEROUS = [
    ("    pinned: bool = False\n", "", "Field notes.pinned was removed or renamed"),
    ("pinned: bool", "fixed: bool", "Field notes.pinned was removed or renamed"),
    ("text: Text", "text: Text\n    colour: str", "It has no default"),
    ("pinned: bool = False", "pinned: int = 0", "has the type int instead of bool"),
    ("text: Text", "text: Annotated[str, Meta(min_length=2)]", "has the type"),
    ("pinned: bool = False", "pinned: bool", "no longer has a default"),
    ('@table("notes")', '@table("notes", rows="own")', "no longer see the rows"),
    ("(Struct)", '(Struct, rename="camel")', "Options such as rename="),
    (NOTES, "", "Table notes no longer has a struct"),
]


@pytest.mark.parametrize(("before", "after", "why"), DANGEROUS)
def test_a_dangerous_change_is_refused_with_its_reason_and_nothing_written(project, capsys, before, after, why):
    """--skeleton writes a file that no database takes before somebody has finished it."""
    lock = lock_file(project)
    declare(project, NOTES.replace(before, after))
    assert main(["migrate", "new", "change"]) == 1
    assert why in capsys.readouterr().err
    assert (list(written(project)), lock_file(project)) == (["0001_add_notes.sql"], lock)
    assert main(["migrate", "new", "change", "--skeleton"]) == 0
    assert "-- unfinished:" in written(project)["0002_change.sql"]
    assert main(["migrate", "check"]) == 1
    assert "0002_change.sql is unfinished" in capsys.readouterr().err


def test_a_changed_alias_is_a_changed_type(project, capsys):
    """Types of the same module are compared by what they are, not by name."""
    text = (project / "src" / "app" / "notes.py").read_text()
    (project / "src" / "app" / "notes.py").write_text(text.replace("min_length=1", "min_length=3"))
    assert main(["migrate", "check"]) == 1
    assert "min_length=3" in capsys.readouterr().err


def test_a_struct_that_forbids_unknown_fields_must_not_get_one(project, capsys):
    """Old code could not read what new code writes."""
    strict = NOTES.replace("(Struct)", "(Struct, forbid_unknown_fields=True)")
    declare(project, strict)
    assert main(["migrate", "new", "strict", "--skeleton"]) == 0
    declare(project, strict + "    colour: str = ''\n")
    assert main(["migrate", "new", "colour"]) == 1
    assert "forbid_unknown_fields" in capsys.readouterr().err


def test_indexes_and_permissions_are_asked_for(project, postgres):
    """Both work up and down, the index while the table is in use."""
    assert main(["migrate", "new", "find_text", "--index", "notes.text"]) == 0
    assert main(["migrate", "new", "read_only", "--permissions", "notes=R__"]) == 0
    assert main(["migrate", "new", "step", "--python"]) == 0
    step = project / "sql" / "migrations" / "0004_step.py"
    step.write_text(re.sub("# unfinished:.*\n", "", step.read_text()))
    assert main(["migrate", "new", "no", "--index", "notes.nothing"]) == 1
    assert main(["migrate", "new", "no", "--permissions", "notes=all"]) == 1

    async def there_and_back():
        url = postgres.create_database()
        await command.migrate(url, lambda _: None, root=project)
        assert await command.check(project, url) == []
        store = SqlStore(AsyncpgDatabase(url))
        assert (await store.lookup("tenant-1", "notes")).permissions == 4
        await command.down(url, 2, lambda _: None, root=project)
        assert (await store.lookup("tenant-1", "notes")).permissions == 7
        await command.down(url, 2, lambda _: None, root=project)
        assert await store.lookup("tenant-1", "notes") is None
        await store.aclose()

    asyncio.run(there_and_back())


def test_new_tables_are_of_the_owner_that_is_named(project, postgres):
    """And so are their permissions; check finds them where they are."""
    declare(project, NOTES + NOTES.replace("notes", "labels").replace("Note", "Label"))
    assert main(["migrate", "new", "labels", "--owner", "other"]) == 0
    assert main(["migrate", "new", "limit", "--owner", "other", "--permissions", "labels=R__"]) == 0

    async def apply_and_look_up():
        url = postgres.create_database()
        connection = await asyncpg.connect(url)
        await connection.execute("INSERT INTO storage (id, ptr, owner) VALUES ('labels', 'tbl_theirs', 'tenant-1')")
        await connection.close()
        await command.migrate(url, lambda _: None, root=project)
        assert await command.check(project, url) == []
        store = SqlStore(AsyncpgDatabase(url))
        wanted = [("tenant-1", "notes"), ("other", "notes"), ("other", "labels")]
        found = [await store.lookup(owner, name) for owner, name in wanted]
        await store.aclose()
        return [one and one.permissions for one in found]

    assert asyncio.run(apply_and_look_up()) == [7, None, 4]


@pytest.mark.parametrize("options", [[], ["--python"]])
def test_a_file_for_sql_of_ones_own_is_not_applied_before_it_is_finished(project, capsys, options):
    """A running make dev sees the file the moment it is written."""
    assert main(["migrate", "new", "by_hand", *options]) == 0
    assert "Finish it" in capsys.readouterr().out
    [name] = [name for name in written(project) if "by_hand" in name]
    [found] = [one for one in files.read(project) if one.path.name == name]
    assert found.unfinished
    assert not found.is_empty
    text = "".join(line for line in found.path.read_text().splitlines(True) if "unfinished:" not in line)
    found.path.write_text(text)
    assert not files.read(project)[-1].unfinished
