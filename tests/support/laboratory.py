"""A Worker that runs functions of the tests inside workerd: what holds on CPython must hold there, bit for bit."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from kontract.cli.toolchain.checkout import Checkout
from kontract.cli.toolchain.reaper import Reaper
from support.scratch import scratch_checkout
from support.worker import running_worker

NOWHERE = "postgresql://nobody:nothing@127.0.0.1:1/nothing"

ENTRY = """\
import json
from importlib import import_module

from session_do import KontractSessionDO
from workers import Response, WorkerEntrypoint


class Default(WorkerEntrypoint):
    async def fetch(self, request):
        path = request.url.partition("://")[2].partition("/")[2]
        if path == "health":
            return Response(json.dumps({"status": "ok", "routes": 0}))
        module, _, function = path.rpartition("/")
        answer = await getattr(import_module(module.replace("/", ".")), function)(json.loads(await request.text()))
        return Response(json.dumps(answer))
"""


class Laboratory:
    """Functions of test modules, reachable as ``run("support.module", "function", argument)``."""

    def __init__(self, url: str) -> None:
        self._url = url

    def run(self, module: str, function: str, argument: Any) -> Any:
        """Call ``await module.function(argument)`` in workerd; argument and answer travel as JSON."""
        path = f"{module.replace('.', '/')}/{function}"
        response = httpx.post(f"{self._url}/{path}", content=json.dumps(argument), timeout=120, trust_env=False)
        assert response.status_code == 200, response.text
        return response.json()


@contextmanager
def running_laboratory(
    checkout: Checkout, folder: Path, reaper: Reaper, modules: Sequence[Path]
) -> Iterator[Laboratory]:
    """A laboratory with `src/kontract` and, as ``support.<name>``, the given modules."""
    copy = scratch_checkout(checkout, folder / "checkout", entry=ENTRY)
    source = folder / "checkout" / "src"
    shutil.copytree(
        checkout.root / "src" / "kontract", source / "kontract", ignore=shutil.ignore_patterns("__pycache__")
    )
    (source / "support").mkdir()
    (source / "support" / "__init__.py").touch()
    for module in modules:
        shutil.copyfile(module, source / "support" / module.name)
    with running_worker(copy, NOWHERE, folder / "state", reaper, "KONTRACT_LOG_LEVEL=warning\n") as server:
        yield Laboratory(server.url)
