"""What waits for clients who read slowly: bounded for each stream, each user and each address."""

from __future__ import annotations

import asyncio

import pytest

from kontract.core import limits
from kontract.gateway.outbox import Holdings, Outbox, TooSlowError
from kontract.ports import ClientGoneError


class Client:
    """Takes what it is sent when it reads."""

    separate = False

    def __init__(self) -> None:
        self.reading = asyncio.Event()
        self.text = b""
        self.writes = 0
        self.gone = self.closed = False

    async def write(self, data: bytes) -> None:
        await self.reading.wait()
        if self.gone:
            raise ClientGoneError
        self.text += data
        self.writes += 1

    async def close(self) -> None:
        self.closed = True


def never() -> None:
    pytest.fail("the writing has ended")


def opened(holdings: Holdings, user: str = "u", address: str = "203.0.113.7", stopped=lambda: None):
    client = Client()
    return client, Outbox(client, holdings.open("o", user, address), stopped)


async def test_texts_come_in_their_order_and_together():
    client, outbox = opened(Holdings())
    for text in (b"a", b"", b"b", b"c"):
        outbox.put(text)
    outbox.beat(b"beat")
    client.reading.set()
    await outbox.drained()
    outbox.beat(b"beat")
    await outbox.drained()
    assert (client.text, client.writes, outbox.waiting_bytes) == (b"abcbeat", 2, 0)
    await outbox.close()
    assert client.closed


async def test_what_waits_for_one_stream_is_bounded():
    holdings = Holdings()
    _, outbox = opened(holdings)
    outbox.put(b"x" * limits.STREAM_BACKLOG_BYTES)
    outbox.check_pace(limits.STREAM_BACKLOG_BYTES)
    outbox.put(b"x")
    with pytest.raises(TooSlowError):
        outbox.check_pace(limits.STREAM_BACKLOG_BYTES)
    await outbox.close()


@pytest.mark.parametrize(
    ("name", "user", "address"),
    [("STREAM_USER_BACKLOG_BYTES", "u", ""), ("STREAM_ADDRESS_BACKLOG_BYTES", "", "203.0.113.7")],
)
async def test_what_waits_for_all_streams_is_bounded(monkeypatch, name, user, address):
    """Those that hold much are cut until it fits; one that reads is not, nor those of others."""
    monkeypatch.setattr(limits, name, 10 * limits.STREAM_SHARE_BYTES)
    holdings = Holdings()
    slow = [opened(holdings, user or f"u{n}", address or f"198.51.100.{n}")[1] for n in range(8)]
    _, reads = opened(holdings, user or "reads", address or "198.51.100.100")
    _, other = opened(holdings, "other", "203.0.113.8")
    for outbox in slow:
        outbox.put(b"x" * 2 * limits.STREAM_SHARE_BYTES)
    reads.put(b"x" * limits.STREAM_SHARE_BYTES)
    other.put(b"x" * 2 * limits.STREAM_SHARE_BYTES)
    cut = 0
    for outbox in [*slow, reads, other]:
        try:
            outbox.check_pace()
        except TooSlowError:
            cut += 1
            assert outbox in slow
            await outbox.close()
    assert cut == 4, "ten shares fit: four of two each, and that of the one that reads"
    for outbox in [*slow, reads, other]:
        if outbox.waiting_bytes:
            await outbox.close()
    assert (holdings.user_bytes, holdings.address_bytes) == ({}, {})


async def test_an_address_that_is_not_known_is_not_counted(monkeypatch):
    """Its callers would share one room with everybody."""
    monkeypatch.setattr(limits, "STREAM_ADDRESS_BACKLOG_BYTES", 1)
    _, outbox = opened(Holdings(), address="")
    outbox.put(b"x" * 2 * limits.STREAM_SHARE_BYTES)
    outbox.check_pace()
    await outbox.close()


async def test_a_client_who_left_ends_the_waiting():
    """And whoever waits for something else is called."""
    stopped = asyncio.Event()
    client, outbox = opened(Holdings(), stopped=stopped.set)
    client.gone = True
    outbox.put(b"x")
    client.reading.set()
    with pytest.raises(ClientGoneError):
        await outbox.drained()
    async with asyncio.timeout(1):
        await stopped.wait()
    with pytest.raises(ClientGoneError):
        outbox.check_writer()
    await outbox.close()
