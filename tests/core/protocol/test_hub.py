"""Who listens, through the lives of an owner's object: a line that outlives one goes on exactly where it was."""

from __future__ import annotations

import msgspec
from msgspec import Raw

from kontract.core.events import Batch, End, Parcel, Subscription
from kontract.core.messages import Write
from kontract.core.protocol.hub import Hub, LogHead
from kontract.core.protocol.records import Record


class Log:
    """A journal with records of one table each."""

    def __init__(self, floor: int = 0) -> None:
        self.records: list[Record] = []
        self.floor = floor
        self.up_to = 0
        self.read = 0

    def add(self, txid: int, *tables: str, owner: str | None = None) -> Record:
        writes = [Write(table, "tbl", f"row{txid}", None, Raw(b"{}"), owner=owner) for table in tables or ("t",)]
        self.records.append(Record(txid, f"c{txid}/1", f"c{txid}", "u", "committed", 0, 0, writes))
        return self.records[-1]

    def published(self) -> int:
        return self.up_to

    def write_published(self, txid: int) -> None:
        self.up_to = txid

    def log_head(self) -> LogHead:
        return LogHead("g1", self.floor)

    def committed(self, after: int, up_to: int) -> list[Record]:
        found = [record for record in self.records if after < record.txid <= up_to][:2]
        self.read += len(found)
        return found


class Line:
    """A connection whose attachment survives."""

    def __init__(self, subscription: Subscription | None = None) -> None:
        self._subscription = subscription or Subscription(["t"], "u", "s")
        self.attachment = b""
        self.sent: list[Parcel] = []
        self.kept = 0
        self.looked_at = 0
        self.closed = False

    @property
    def subscription(self) -> Subscription:
        self.looked_at += 1
        return self._subscription

    def send(self, parcel: Parcel) -> None:
        self.sent.append(parcel)

    def keep(self) -> None:
        self.kept += 1
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
        frames = [parcel.frame for parcel in self.sent]
        return [frame.txid for frame in frames if isinstance(frame, Batch)]


def live(hub: Hub, watermark: int = 0, subscription: Subscription | None = None) -> Line:
    line = Line(subscription)
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
    assert old.sent[-1].frame == End("restart")
    assert (old.closed, len(hub)) == (True, 0)


def test_a_quiet_line_does_not_grow_old():
    """What does not concern it may be forgotten: that it is up to date is known of all lines together."""
    log = Log()
    hub = Hub(log)
    hub.publish([], 0)
    line = live(hub)
    hub.publish([log.add(1, "other")], 1)
    log.floor = 1
    hub.note(1)
    assert line.kept == 2, "when it came, and when it had caught up"
    after = line.again()
    second = Hub(log)
    second.restore([after])
    second.publish([], 1)
    second.publish([log.add(2)], 2)
    assert (after.closed, after.txids) == (False, [2])


def test_that_lines_are_up_to_date_is_written_down_now_and_then():
    """Once in many transactions, so that an object which wakes need not read the whole log."""
    log = Log()
    hub = Hub(log)
    hub.publish([], 0)
    line = live(hub)
    written = []
    log.write_published = written.append
    for txid in range(1, 200):
        hub.publish([log.add(txid, "other")], txid)
    assert written == [64, 128, 192]
    assert line.kept == 2


def test_nothing_is_written_down_that_was_not_published():
    """An object that dies before it has caught up must not pass over what its lines have missed."""
    log = Log()
    hub = Hub(log)
    hub.publish([], 0)
    line = live(hub)
    hub.interrupt()
    log.add(1)
    hub.note(1)
    assert log.up_to == 0
    after = line.again()
    second = Hub(log)
    second.restore([after])
    second.publish([], 1)
    assert after.txids == [1]


# --- who is looked at ------------------------------------------------------------------------------------------------


def test_a_commit_looks_at_those_alone_who_listen_to_it():
    """1,000 idle lines cost it nothing: neither a look, nor a write, nor a message."""
    log = Log()
    hub = Hub(log)
    hub.publish([], 0)
    idle = [live(hub, 0, Subscription(["other"], f"u{n % 20}", f"s{n}")) for n in range(1000)]
    mine = live(hub)
    looked_at = sum(line.looked_at for line in idle)
    for txid in range(1, 11):
        hub.publish([log.add(txid)], txid)
    assert mine.txids == list(range(1, 11))
    assert sum(line.looked_at for line in idle) == looked_at
    assert {line.kept for line in idle} == {2}


def test_opening_and_logging_out_look_at_nobody_else():
    log = Log()
    hub = Hub(log)
    hub.publish([], 0)
    idle = [live(hub, 0, Subscription(["other"], f"u{n % 20}", f"s{n}")) for n in range(1000)]
    looked_at = sum(line.looked_at for line in idle)
    assert hub.has_room("u1")
    mine = live(hub)
    hub.end_session("s")
    assert (mine.closed, len(hub)) == (True, 1000)
    assert sum(line.looked_at for line in idle) == looked_at


def test_an_object_that_wakes_reads_its_log_once_for_all_lines():
    log = Log()
    hub = Hub(log)
    hub.publish([], 0)
    lines = [live(hub, 0, Subscription([table], "u", "s")) for table in ("t", "other") for _ in range(50)]
    for txid in (1, 2, 3):
        log.add(txid)
    after = [line.again() for line in lines]
    log.read = 0
    second = Hub(log)
    second.restore(after)
    second.publish([], 3)
    assert log.read == 3
    assert [line.txids for line in after] == [[1, 2, 3]] * 50 + [[]] * 50
    assert {line.kept for line in after[50:]} == {0}


def test_rows_that_only_their_owner_sees_go_to_their_owner():
    """Others who listen to the same table are not looked at, and pages leave such rows out."""
    log = Log()
    hub = Hub(log)
    hub.publish([], 0)
    anna, ben = (live(hub, 0, Subscription(["a", "t"], user, "s", own=[1])) for user in ("anna", "ben"))
    all_of_it = live(hub, 0, Subscription(["t"], "ben", "s"))
    hub.publish([log.add(1, owner="anna")], 1)
    hub.publish([log.add(2, "a", "t", owner="anna")], 2)
    assert (anna.txids, ben.txids, all_of_it.txids) == ([1, 2], [2], [1, 2])
    assert [change.table for change in ben.sent[-1].frame.changes] == ["a"]
    late = Line(Subscription(["t"], "ben", "s", own=[0]))
    hub.add(late)
    assert hub.page(late, "g1-0", 2).batches == []


def test_a_line_that_has_gone_is_not_sent_anything():
    log = Log()
    hub = Hub(log)
    hub.publish([], 0)
    line = live(hub)
    hub.remove(line.subscription.number)
    hub.remove(line.subscription.number)
    hub.publish([log.add(1)], 1)
    assert (line.sent, len(hub)) == ([], 0)


def test_the_end_of_a_session_ends_its_lines_alone():
    hub = Hub(Log())
    hub.publish([], 0)
    mine, other = Line(Subscription(["t"], "u", "mine")), Line(Subscription(["t"], "u", "other"))
    for line in (mine, other):
        hub.add(line)
    hub.end_session("mine")
    assert (mine.closed, other.closed, len(hub)) == (True, False, 1)
