"""Fan-out of change streams in workerd: from the answer of a commit to the event at each of many listeners.

Beside it, in the same run, one client that polls as fast as it gets answers: what the same news would cost without a
stream. The listeners are of several users, because one user may have 64 streams.

--idle measures what streams cost that have nothing to hear: the processor time of a commit to another table beside that
of the same commit without any stream, and what they cost while nothing happens at all.

Run: .venv/bin/python bench/streams.py [--streams 1000] [--commits 30] [--idle]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import time
from pathlib import Path

import records
from records import TIMES, Record
from stage import Server, Stage, conditions, tell

from kontract.core import limits


class Listener:
    """One stream, read byte by byte without a client library: a thousand of them share this process."""

    def __init__(self, table: str = "tasks") -> None:
        """Nothing is opened yet."""
        self.table = table
        self.heard: dict[str, float] = {}
        self.ready = asyncio.Event()

    async def run(self, port: int, bearer: str) -> None:
        """Listen until cancelled."""
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        head = f"GET /stream?table={self.table} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nAuthorization: Bearer {bearer}"
        writer.write(f"{head}\r\n\r\n".encode())
        try:
            while line := await reader.readline():
                if line.startswith(b"event: ready"):
                    self.ready.set()
                elif line.startswith(b'data: {"type":'):
                    self.heard[json.loads(line[6:])["data"]["title"]] = time.perf_counter()
        finally:
            writer.close()


async def call(port: int, bearer: str, function: str, *arguments: object) -> object:
    """One call over a connection of its own."""
    body = json.dumps(arguments)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(
        f"POST /rpc/{function} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nAuthorization: Bearer {bearer}\r\n"
        f"Connection: close\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()
    )
    answer = await reader.read()
    writer.close()
    _, _, content = answer.partition(b"\r\n\r\n")
    return json.loads(content[content.index(b"{") : content.rindex(b"}") + 1])["result"]


async def poll(port: int, bearer: str, seen: dict[str, float]) -> None:
    """Ask for all tasks, again and again, and note when each title was seen first."""
    while True:
        for task in await call(port, bearer, "list_tasks", None, 1000):  # type: ignore[attr-defined]
            seen.setdefault(task["title"], time.perf_counter())


def memory(server: Server) -> int:
    """Resident bytes of workerd."""
    status = Path(f"/proc/{server.direct_pid}/status").read_text()
    return 1024 * next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS"))


async def opened(
    server: Server, streams: int, users: list[str], table: str = "tasks"
) -> tuple[list[Listener], list[asyncio.Future[None]]]:
    """Open so many streams."""
    listeners = [Listener(table) for _ in range(streams)]
    running = []
    for number, listener in enumerate(listeners):
        bearer = users[number // limits.STREAMS_PER_USER]
        running.append(asyncio.ensure_future(listener.run(server.ask_port, bearer)))
        if number % 20 == 19:
            await asyncio.gather(*(one.ready.wait() for one in listeners[: number + 1]))
    await asyncio.gather(*(one.ready.wait() for one in listeners))
    return listeners, running


def bearers(server: Server, streams: int) -> list[str]:
    """Tokens of as many users as it takes."""
    return [server.token(f"user-{n}") for n in range(-(-streams // limits.STREAMS_PER_USER))]


async def idle(server: Server, streams: int, commits: int) -> list[Record]:
    """Measure commits without streams and beside idle ones, and the idle ones alone."""
    users = bearers(server, streams)

    async def commit() -> float:
        before = server.cpu_seconds()
        for number in range(commits):
            await call(server.ask_port, users[0], "create_task", f"news {number}")
        return (server.cpu_seconds() - before) / commits

    await commit()
    alone = await commit()
    _, running = await opened(server, streams, users, "accounts")
    before, seconds = server.cpu_seconds(), 2 * limits.STREAM_HEARTBEAT_MS / 1000
    await asyncio.sleep(seconds)
    silent = (server.cpu_seconds() - before) / seconds
    beside = await commit()
    for task in running:
        task.cancel()
    print(f"{streams} idle streams, {commits} commits to another table; processor time of workerd")
    print(f"  a commit         {1000 * alone:.1f} ms without streams, {1000 * beside:.1f} ms beside them")
    print(f"  nothing happens  {100 * silent:.1f} % of a processor")
    return [
        Record(
            f"a commit beside {streams:,} streams of another table",
            beside / alone,
            TIMES,
            peer="without streams",
            behind=f"{1000 * beside:.1f} ms of a processor beside {1000 * alone:.1f}",
        ),
        Record(f"{streams:,} streams while nothing happens", 100 * silent, "% of a processor"),
    ]


async def measure(server: Server, streams: int, commits: int) -> list[Record]:
    """Open the streams, commit, and report."""
    users = bearers(server, streams)
    before = memory(server)
    listeners, running = await opened(server, streams, users)
    after = memory(server)
    polled: dict[str, float] = {}
    polling = asyncio.ensure_future(poll(server.ask_port, users[0], polled))
    answered: dict[str, float] = {}
    for number in range(commits):
        title = f"news {number}"
        await call(server.ask_port, users[0], "create_task", title)
        answered[title] = time.perf_counter()
        while title not in polled or not all(title in one.heard for one in listeners):  # noqa: ASYNC110 - rarely
            await asyncio.sleep(0.01)
    polling.cancel()
    for task in running:
        task.cancel()
    first = [1000 * (min(one.heard[title] for one in listeners) - at) for title, at in answered.items()]
    all_of_them = sorted(1000 * (one.heard[title] - at) for title, at in answered.items() for one in listeners)
    news_by_poll = sorted(1000 * (polled[title] - at) for title, at in answered.items())
    print(f"{streams} streams, {commits} commits; ms from the answer of the commit to the event")
    print(f"  first listener   p50 {statistics.median(first):.0f}")
    print(f"  all listeners    p50 {percentile(all_of_them, 0.5):.0f}  p99 {percentile(all_of_them, 0.99):.0f}")
    print(f"  polling client   p50 {percentile(news_by_poll, 0.5):.0f}  p99 {percentile(news_by_poll, 0.99):.0f}")
    each = (after - before) / streams / 1024
    print(f"  memory of workerd: {each:.0f} KiB a stream")
    stream, poll_ = ([percentile(ordered, share) for share in (0.5, 0.99)] for ordered in (all_of_them, news_by_poll))
    what = f"from the answer of a commit to {streams:,} listeners"
    measured = [Record(f"{what}, p{share}", took, "ms") for share, took in zip((50, 99), stream, strict=True)]
    if all(took > 0 for took in (*stream, *poll_)):  # news may overtake the answer; then there is no ratio
        measured += [
            Record(
                f"{what}, p{share}",
                one / other,
                TIMES,
                peer="polling client",
                behind=f"{one:.0f} ms beside {other:.0f}",
            )
            for share, one, other in zip((50, 99), stream, poll_, strict=True)
        ]
    measured.append(Record(f"memory of workerd a stream, of {streams:,}", each, "KiB"))
    return measured


def percentile(ordered: list[float], share: float) -> float:
    """The value below which this share lies."""
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def main() -> None:
    """Run."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--streams", type=int, default=1000)
    parser.add_argument("--commits", type=int, default=30)
    parser.add_argument("--idle", action="store_true", help="streams that have nothing to hear instead")
    records.add_option(parser)
    options = parser.parse_args()
    with Stage.opened() as stage:
        database = stage.database()
        tell("Starting the Worker ...")
        server = stage.server(stage.product(None), database)
        server.start()
        server.find_direct()
        print(conditions(stage.checkout, None))
        work = idle if options.idle else measure
        records.write(options.records, asyncio.run(work(server, options.streams, options.commits)))


if __name__ == "__main__":
    main()
