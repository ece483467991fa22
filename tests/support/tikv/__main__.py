"""A fake cluster as a process of its own, for tests with several nodes: ``python -m support.tikv [PORT]`` (of PD).

Prints PD's address on a line of its own, and serves until its standard input ends.
"""

from __future__ import annotations

import asyncio
import sys

from support.tikv.cluster import FakeCluster


async def main() -> None:
    cluster = FakeCluster()
    await cluster.start(int(sys.argv[1]) if len(sys.argv) > 1 else 0)
    print(cluster.endpoints[0], flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await cluster.stop()


if __name__ == "__main__":
    asyncio.run(main())
