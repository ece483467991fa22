"""`kontract table respell` and what doctor says of rows that need it, on the real database."""

from __future__ import annotations

import asyncio
import json
from datetime import datetime, time
from decimal import Decimal
from typing import Annotated

import asyncpg
import pytest
from msgspec import Struct

from kontract.cli.doctor.database import database_findings
from kontract.cli.main import main
from kontract.cli.respell import respell
from kontract.cli.table import list_tables
from kontract.core.model.declare import primkey, table
from kontract.core.model.rows import row_type
from support.postgres import Postgres


class Money(Struct):
    amount: Decimal


@table("things")
class Thing(Struct):
    id: Annotated[str, primkey]
    price: Decimal | None = None
    starts: datetime | None = None
    opens: time | None = None
    cost: Money | None = None
    weight: float = 0.0


SOURCE = """
from datetime import datetime, time
from decimal import Decimal
from typing import Annotated
from msgspec import Struct
from kontract import primkey, table

@table("things")
class Thing(Struct):
    id: Annotated[str, primkey]
    price: Decimal | None = None
    starts: datetime | None = None
    opens: time | None = None
"""

ROWS = {
    "a": '{"price": "10.00", "starts": "2026-01-01T17:30:00-02:00", "opens": "09:30:00", "cost": {"amount": "1.0"}}',
    "b": '{"price": "10", "starts": "2026-01-01T19:30:00.000000Z", "opens": "09:30:00.000000", "unknown": 1.50}',
    "c": '{"price": 7.50, "weight": 1.00000000000000000000000001, "other": {"x": 1.00000000000000000000000001}}',
    "d": '{"price": "ten"}',
    "e": '{"starts": "2026-01-01T00:00:00"}',
    "f": '{"cost": {"amount": 2.0}}',
}


@pytest.fixture
def url(postgres: Postgres, monkeypatch):
    url = postgres.create_database()
    monkeypatch.setenv("DATABASE_URL", url)
    assert main(["table", "create", "things"]) == 0
    (ptr,) = [one.ptr for one in asyncio.run(list_tables(url)) if one.name == "things"]

    async def fill() -> None:
        connection = await asyncpg.connect(url)
        for row_id, data in ROWS.items():
            await connection.execute(
                f"INSERT INTO {ptr} (id, data, _txid, _owner) VALUES ($1, $2::jsonb, 1, 'ann')", row_id, data
            )
        await connection.close()

    asyncio.run(fill())
    return url


def stored(url: str) -> dict[str, str]:
    async def read() -> dict[str, str]:
        (ptr,) = [one.ptr for one in await list_tables(url) if one.name == "things"]
        connection = await asyncpg.connect(url)
        rows = await connection.fetch(f"SELECT id, data::text, _txid FROM {ptr} ORDER BY id")
        await connection.close()
        assert {row[2] for row in rows} == {1}, "the same transactions"
        return {row[0]: row[1] for row in rows}

    return asyncio.run(read())


def test_rows_get_the_spelling_of_their_types(url):
    """Once; nothing else changes, no number loses a digit, and rows that are not of their type are left and named."""
    before, told = stored(url), []
    types = {"things": row_type(Thing)}
    assert asyncio.run(respell(url, types, told.append, check=True)) == 3
    assert stored(url) == before
    assert asyncio.run(respell(url, types, told.append)) == 3
    after = stored(url)
    assert json.loads(after["a"]) == {
        "price": "10", "starts": "2026-01-01T19:30:00.000000Z", "opens": "09:30:00.000000", "cost": {"amount": "1"},
    }  # fmt: skip
    assert json.loads(after["c"])["price"] == "7.5"
    assert after["c"].count("1.00000000000000000000000001") == 2
    assert json.loads(after["f"]) == {"cost": {"amount": "2"}}
    assert {name: after[name] for name in "bde"} == {name: before[name] for name in "bde"}
    assert asyncio.run(respell(url, types, told.append, only="things")) == 0
    assert told[-2:] == [
        "tenant-1/things: 6 rows, 0 spelled as their types are stored",
        "  2 rows do not match their struct; the first is 'd'",
    ]


def test_the_command_looks_at_the_tables_of_the_application(url, capsys):
    """The demo's have nothing to spell; a table that it does not declare is named."""
    assert main(["table", "respell", "--check"]) == 0
    assert "tenant-1/tasks: 0 rows, 0 would be spelled" in capsys.readouterr().out
    assert main(["table", "respell", "things"]) == 1
    assert "src/app declares no table 'things'" in capsys.readouterr().err


def test_doctor_names_such_rows_and_the_command(url, tmp_path):
    """One of each field, for the values at the top of a row; nothing when they are spelled."""
    app = tmp_path / "src" / "app"
    app.mkdir(parents=True)
    (app / "things.py").write_text(SOURCE)

    def found() -> list[str]:
        return [one.what for one in asyncio.run(database_findings(url, tmp_path)) if "spelling" in one.what]

    assert found() == [
        f"table tenant-1/things: {field!r} of row {row!r} does not have the spelling of its type"
        for field, row in [("price", "a"), ("starts", "a"), ("opens", "a")]
    ]
    asyncio.run(respell(url, {"things": row_type(Thing)}, print))
    assert [one.split(": ")[1].split(" of ")[0] for one in found()] == ["'price'", "'starts'"], "rows d and e"
