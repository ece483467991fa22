"""`kontract serve` with TIKV_PD_ENDPOINT: two servers over one cluster act as one."""

from __future__ import annotations

import asyncio
from pathlib import Path

from kontract.cli.toolchain import dev_vars
from support import apps

SHARING = Path(apps.__path__[0]) / "sharing.py"


async def test_two_servers_over_one_cluster(serve, client, postgres, pd):
    """No table of coordination is needed; rows, order and shared values are the same on both."""
    url, secret = postgres.create_database(), dev_vars.new_secret()
    servers = [
        serve(url, modules=[SHARING], TIKV_PD_ENDPOINT=pd, KONTRACT_SECRET=secret, KONTRACT_COORDINATION=None)
        for _ in range(2)
    ]
    one, two = [client(server) for server in servers]

    async def result(node, function: str, *args):
        response = await node.post(f"/rpc/{function}", json=args)
        assert response.status_code in {200, 201}, response.text
        return response.json()["result"]

    for name in "ab":
        await result(one, "open_account", name, 100)
    statuses = await asyncio.gather(*[result((one, two)[n % 2], "transfer", "a", "b", 1) for n in range(20)])
    assert len(statuses) == 20
    assert [await result(node, "balance", "b") for node in (one, two)] == [120, 120]
    counts = await asyncio.gather(*[result((one, two)[n % 2], "shared_incr", "n") for n in range(20)])
    assert sorted(counts) == list(range(1, 21))
    servers[0].stop()
    assert await result(two, "total") == 200
    servers[0].start()
    again = client(servers[0])
    assert await result(again, "balance", "a") == 80
    assert await result(again, "shared_get", "n") == 20
