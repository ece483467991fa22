"""Who listens, through the lives of an owner's object: a line that outlives one goes on exactly where it was."""

from __future__ import annotations

import msgspec
from msgspec import Raw

from kontract.core.events import Batch, End, Subscription, decode_frame
from kontract.core.hub import Hub, LogHead
from kontract.core.messages import Write
from kontract.core.records import Record


class Log:
    """A journal with records of one table each."""

    def __init__(self, floor: int = 0) -> None:
        self.records: list[Record] = []
        self.floor = floor

    def add(self, txid: int, table: str = "t") -> Record:
        write = Write(table, "tbl", f"row{txid}", None, Raw(b"{}"))
        self.records.append(Record(txid, f"c{txid}/1", f"c{txid}", "u", "committed", 0, 0, [write]))
        return self.records[-1]

    def log_head(self) -> LogHead:
        return LogHead("g1", self.floor)

    def committed(self, after: int, up_to: int) -> list[Record]:
        return [record for record in self.records if after < record.txid <= up_to][:2]


class Line:
    """A connection whose attachment survives."""

    def __init__(self, subscription: Subscription | None = None) -> None:
        self.subscription = subscription or Subscription(["t"], "u", "s")
        self.attachment = b""
        self.sent: list[str] = []
        self.closed = False

    def send(self, text: str) -> None:
        self.sent.append(text)

    def keep(self) -> None:
        self.attachment = msgspec.json.encode(self.subscription)

    def close(self) -> None:
        self.closed = True

    def again(self) -> Line:
        """The same connection as another life of the object finds it."""
        line = Line(msgspec.json.decode(self.attachment, type=Subscription))
        line.sent = self.sent
        return line

    @property
    def txids(self) -> list[int]:
        frames = [decode_frame(text) for text in self.sent]
        return [frame.txid for frame in frames if isinstance(frame, Batch)]


def live(hub: Hub, watermark: int = 0) -> Line:
    line = Line()
    hub.add(line)
    hub.page(line, None, watermark)
    return line


def test_an_object_that_starts_again_goes_on_where_each_line_was():
    """What was published between two lives is sent once, before what comes then; also when pages are small."""
    log = Log()
    hub = Hub(log)
    hub.publish([], 0)
    line = live(hub)
    hub.publish([log.add(1)], 1)
    assert line.txids == [1]

    for txid in (2, 3, 4, 5, 6):  # settled while the object was dying: nobody was told
        log.add(txid)
    after = line.again()
    second = Hub(log)
    second.restore([after])
    second.publish([], 6)  # the first step in which it serves
    second.publish([log.add(7)], 7)
    assert after.txids == [1, 2, 3, 4, 5, 6, 7]
    newcomer = live(second, 7)
    assert newcomer.subscription.number > after.subscription.number


def test_nothing_is_published_before_it_serves():
    """An interrupted hub keeps its lines and waits for the coordinator that comes."""
    log = Log()
    hub = Hub(log)
    hub.publish([], 0)
    line = live(hub)
    hub.interrupt()
    log.add(1)
    hub.publish([], 1)
    hub.publish([log.add(2)], 2)
    assert line.txids == [1, 2]


def test_a_line_whose_past_is_gone_is_ended():
    """It comes back with its own position, and is told to start over."""
    log = Log(floor=9)
    old = Line(Subscription(["t"], "u", "s", number=3, live=True, last=5))
    hub = Hub(log)
    hub.restore([old])
    hub.publish([], 12)
    assert decode_frame(old.sent[-1]) == End("restart")
    assert (old.closed, len(hub)) == (True, 0)


def test_a_quiet_line_is_noted_as_up_to_date():
    """What does not concern it must not make its position grow old."""
    log = Log()
    hub = Hub(log)
    hub.publish([], 0)
    line = live(hub)
    hub.publish([log.add(1, "other")], 1)
    assert line.txids == []
    hub.trim(1)
    assert msgspec.json.decode(line.attachment)["last"] == 1


def test_the_end_of_a_session_ends_its_lines_alone():
    hub = Hub(Log())
    hub.publish([], 0)
    mine, other = Line(Subscription(["t"], "u", "mine")), Line(Subscription(["t"], "u", "other"))
    for line in (mine, other):
        hub.add(line)
    hub.end_session("mine")
    assert (mine.closed, other.closed, len(hub)) == (True, False, 1)
