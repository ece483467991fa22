"""An application of a few files, as a page shows it: built, migrated, and called in this process."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import asyncpg
import pytest

import app
from kontract.cli.build import render, scan
from kontract.cli.migrate import migrate
from kontract.cli.migrations import lock, new
from kontract.cli.toolchain.checkout import Checkout
from kontract.gateway.app import Gateway
from kontract.gateway.http import Request
from kontract.gateway.routes import Registry
from kontract.server.database import AsyncpgDatabase
from kontract.server.runtime import SingleProcess
from support.sessions import ENVIRONMENT, bearer

ROOT = Checkout.find().root


def built(root: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str]) -> tuple[Any, Registry]:
    """What `kontract build` finds in these files of src/app, importable beside the demo."""
    folder = root / "src" / "app"
    folder.mkdir(parents=True)
    for name, text in files.items():
        (folder / name).write_text(text)
    monkeypatch.setattr(app, "__path__", [*app.__path__, str(folder)])
    declared = scan(root / "src")
    tables: dict[str, Any] = {}
    exec(compile(render(declared), "routes.py", "exec"), tables)
    return declared, Registry(tables["ROUTES"], tables["TABLES"])


async def migrated(root: Path, url: str, name: str, table: str) -> tuple[Path, str]:
    """The migration that is written for the files, applied; and the name of a table in PostgreSQL."""
    for path in ("wrangler.toml", "pyproject.toml", "sql/init.sql", "sql/schema.lock.json"):
        (root / path).parent.mkdir(exist_ok=True)
        (root / path).write_text((ROOT / path).read_text())
    for path in (ROOT / "src" / "app").glob("*.py"):
        (root / "src" / "app" / path.name).write_text(path.read_text())
    written = new.write(root, name, new.Wishes())
    await migrate(url, lambda _: None, root=root)
    return written, lock.load(root)[table]["ptr"]


class Calls:
    """POST /rpc/<function> to a gateway in this process, over a real database."""

    def __init__(self, registry: Registry, database_url: str, **more: str) -> None:
        self._url = database_url
        self.platform = SingleProcess(lambda: AsyncpgDatabase(database_url), {**ENVIRONMENT, **more})
        self._gateway = Gateway(registry)
        self.headers = bearer()

    async def __call__(self, function: str, *arguments: object) -> tuple[int, Any]:
        async def body(_at_most: int) -> bytes:
            return json.dumps(arguments).encode()

        response = await self._gateway.handle(Request("POST", f"/rpc/{function}", self.headers, body), self.platform)
        return response.status, json.loads(response.body)

    async def sql(self, text: str) -> list[Any]:
        """Run one statement past all functions."""
        connection = await asyncpg.connect(self._url)
        try:
            return list(await connection.fetch(text))
        finally:
            await connection.close()
