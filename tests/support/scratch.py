"""Checkouts beside the real one: a Worker and a state of their own, the installed packages shared."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from kontract import cloudflare
from kontract.cli import build
from kontract.cli.toolchain.checkout import Checkout
from kontract.cli.toolchain.pyodide_bundle.assemble import BUNDLE_NAME
from kontract.core import limits as real_limits

_COPIED = ("wrangler.toml", "package.json", "package-lock.json", "pyproject.toml", "uv.lock")

# `make --silent build` is what wrangler.toml runs before anything; here there is nothing left to compile.
_MAKEFILE = "build:\n\t@:\n"

# Limits are set where the main module begins. An edited limits.py would be newer than the snapshot of Python, and each
# start without that takes seconds longer.
_QUICK = """\
from kontract.core import limits
from kontract.core.protocol.collection import AGE, CollectionStage

for name, value in {limits}.items():
    setattr(limits, name, value)
AGE[CollectionStage.VERSIONS] = limits.RETENTION_MS
AGE[CollectionStage.FENCES] = limits.FENCE_RETENTION_MS
"""

ENTRY = """\
import json

from session_do import KontractSessionDO
from workers import Response, WorkerEntrypoint, import_from_javascript


class Default(WorkerEntrypoint):
    async def fetch(self, request):
        if request.url.endswith("/health"):
            return Response(json.dumps({"status": "ok", "routes": 0}))
        target = json.dumps({"tls": [False], "patience": 5000})
        connection = import_from_javascript("./postgres.js").open(target, self.env.HYPERDRIVE)

        async def run(text):
            statement = {"text": text, "params": [], "timeout": None, "patience": 5000}
            return json.loads(await connection.run(json.dumps(statement)))["rows"]

        try:
            await run("CREATE TABLE IF NOT EXISTS visits (n bigint)")
            await run("INSERT INTO visits SELECT count(*) FROM visits")
            visits = (await run("SELECT count(*) FROM visits"))[0][0]
        finally:
            await connection.close()
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
    """Lay a small one out in `folder`. Its Worker counts visits, in PostgreSQL and in a Durable Object."""
    (folder / "src").mkdir(parents=True)
    (folder / "src" / "entry.py").write_text(entry)
    (folder / "src" / "session_do.py").write_text(SESSION_DO)
    shutil.copyfile(Path(cloudflare.__path__[0]) / "postgres.js", folder / "src" / "postgres.js")
    return _furnished(real, folder)


def product_checkout(
    real: Checkout, folder: Path, *, modules: Iterable[Path] = (), limits: dict[str, int] | None = None
) -> Checkout:
    """A copy of the product in `folder`, with more modules in its application and with other limits."""
    shutil.copytree(real.root / "src", folder / "src", ignore=shutil.ignore_patterns("__pycache__"))
    for module in modules:
        shutil.copyfile(module, folder / "src" / "app" / module.name)
    if limits:
        assert [name for name in limits if not hasattr(real_limits, name)] == []
        (folder / "src" / "quick.py").write_text(_QUICK.format(limits=limits))
        entry = folder / "src" / "entry.py"
        entry.write_text(entry.read_text().replace("\nfrom workers", "\nimport quick\nfrom workers", 1))
        assert "\nimport quick\n" in entry.read_text()
    (folder / "src" / "routes.py").write_text(build.render(build.scan(folder / "src")))
    return _furnished(real, folder)


def _furnished(real: Checkout, folder: Path) -> Checkout:
    """Add what is beside src/."""
    for name in _COPIED:
        shutil.copyfile(real.root / name, folder / name)
    (folder / "Makefile").write_text(_MAKEFILE)
    for name in ("node_modules", "python_modules", "sql", "public"):
        (folder / name).symlink_to(real.root / name)
    checkout = Checkout(folder)
    checkout.state.mkdir()
    shutil.copytree(real.state / "stamps", checkout.state / "stamps")
    shutil.copyfile(real.state / "pyodide-source", checkout.state / "pyodide-source")
    if (real.state / "pyodide").is_dir():
        shutil.copytree(real.state / "pyodide", checkout.state / "pyodide", copy_function=_link_or_copy)
    return checkout


def _link_or_copy(source: str, target: str) -> None:
    """The bundle is large and never changes. All else is the copy's own: of a snapshot the age counts, too."""
    if source.endswith(BUNDLE_NAME):
        with suppress(OSError):  # another disk
            os.link(source, target)
            return
    shutil.copy2(source, target)
