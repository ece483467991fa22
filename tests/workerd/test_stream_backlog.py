"""A client of a stream that reads nothing, in workerd, which buffers whatever is sent to a WebSocket."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import websockets

from kontract.cli.main import main
from kontract.cli.toolchain.checkout import Checkout
from kontract.cli.toolchain.reaper import Reaper
from kontract.cli.toolchain.wrangler import DevServer
from kontract.core import limits
from support import apps
from support.frames import RawSocket
from support.postgres import Postgres
from support.scratch import product_checkout
from support.sessions import bearer_for
from support.worker import running_worker

SIZE = 600_000
"""Bytes of a row: one waits, two are too many."""

COMMITS = 60
"""At most: several times what the sockets between here and the Worker hold."""


@pytest.fixture(scope="module")
def server(
    checkout: Checkout, postgres: Postgres, reaper: Reaper, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[DevServer]:
    """A Worker with functions that write large rows."""
    folder = tmp_path_factory.mktemp("backlog")
    copy = product_checkout(checkout, folder / "checkout", modules=[Path(apps.__path__[0]) / "odd.py"])
    url = postgres.create_database()
    assert main(["table", "create", "odds", "--database-url", url]) == 0
    with running_worker(copy, url, folder, reaper) as running:
        yield running


def cut(server: DevServer) -> list[dict]:
    """What the log says of streams that were too slow."""
    lines = [line for line in server.log_text().splitlines() if '"stream_cut"' in line]
    return [json.loads(line[line.index("{") :]) for line in lines]


@pytest.mark.long
async def test_a_websocket_whose_client_reads_nothing_is_cut(server):
    """It would be the Worker's memory that grows; a client beside it that reads hears every change."""
    assert limits.STREAM_BUFFERED_BYTES < SIZE
    headers, path = bearer_for(server), "/stream?table=odds"
    address = f"{server.url.replace('http', 'ws')}{path}"
    async with (
        httpx.AsyncClient(base_url=server.url, timeout=60, trust_env=False, headers=headers) as http,
        websockets.connect(address, additional_headers=headers, proxy=None, max_size=None) as quick,
    ):
        assert json.loads(await quick.recv())["event"] == "ready"
        with await asyncio.to_thread(RawSocket, server.port, headers, path) as slow:
            assert slow.status == 101
            for _ in range(COMMITS):
                made = await http.post("/rpc/fill", json=["odds", [SIZE]])
                assert made.status_code == 200, made.text
                async with asyncio.timeout(60):
                    while json.loads(await quick.recv())["event"] != "change":
                        pass
                if cut(server):
                    break
    assert [limits.STREAM_BACKLOG_BYTES < line["bytes"] < 2 * limits.STREAM_BACKLOG_BYTES for line in cut(server)] == [
        True
    ]
