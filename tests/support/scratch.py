"""A small checkout beside the real one: its own Worker and its own state, the installed packages shared."""

from __future__ import annotations

import shutil
from pathlib import Path

from kontract.cli.toolchain.checkout import Checkout

_COPIED = ("wrangler.toml", "package.json", "package-lock.json", "pyproject.toml", "uv.lock")

# `make --silent build` is what wrangler.toml runs before anything; this Worker has nothing to compile.
_MAKEFILE = "build:\n\t@:\n"

ENTRY = """\
import json

import pg8000.native
from session_do import KontractSessionDO
from workers import Response, WorkerEntrypoint


class Default(WorkerEntrypoint):
    async def fetch(self, request):
        if request.url.endswith("/health"):
            return Response(json.dumps({"status": "ok", "routes": 0}))
        database = self.env.HYPERDRIVE
        connection = pg8000.native.Connection(
            database.user, host=database.host, port=int(database.port),
            password=database.password, database=database.database,
        )
        try:
            connection.run("CREATE TABLE IF NOT EXISTS visits (n bigint)")
            connection.run("INSERT INTO visits SELECT count(*) FROM visits")
            visits = connection.run("SELECT count(*) FROM visits")[0][0]
        finally:
            connection.close()
        stub = self.env.SESSION_DO.get(self.env.SESSION_DO.idFromName("one"))
        return Response(json.dumps({"object": int(await stub.hit("")), "postgres": visits}))
"""

SESSION_DO = """\
from workers import DurableObject


class KontractSessionDO(DurableObject):
    async def hit(self, text):
        self.ctx.storage.sql.exec("CREATE TABLE IF NOT EXISTS n (id INTEGER PRIMARY KEY, v INTEGER)")
        self.ctx.storage.sql.exec("INSERT INTO n VALUES (1, 1) ON CONFLICT (id) DO UPDATE SET v = v + 1")
        return str(self.ctx.storage.sql.exec("SELECT v FROM n").one().v)
"""


def scratch_checkout(real: Checkout, folder: Path, *, entry: str = ENTRY) -> Checkout:
    """Lay one out in `folder`. Its Worker counts visits, in PostgreSQL and in a Durable Object."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in _COPIED:
        shutil.copyfile(real.root / name, folder / name)
    (folder / "Makefile").write_text(_MAKEFILE)
    (folder / "src").mkdir()
    (folder / "src" / "entry.py").write_text(entry)
    (folder / "src" / "session_do.py").write_text(SESSION_DO)
    for name in ("node_modules", "python_modules", "sql"):
        (folder / name).symlink_to(real.root / name)
    checkout = Checkout(folder)
    checkout.state.mkdir()
    shutil.copytree(real.state / "stamps", checkout.state / "stamps")
    shutil.copyfile(real.state / "pyodide-source", checkout.state / "pyodide-source")
    return checkout
