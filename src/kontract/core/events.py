"""Change events: the rows of committed transactions before and after, and positions in their order.

Events come from the journalled prepare records, so a crash between apply and finish loses none. Between the owner's
coordinator and a gateway they travel complete and unfiltered, one :class:`Batch` per transaction; the gateway, which
knows who listens, turns them into the :class:`Change` that a client sees.
"""

from __future__ import annotations

import re
from typing import Any, TypeAlias

import msgspec
from msgspec import Raw, Struct

from kontract.core.messages import ABSENT, NOTHING, Write

# --- between the owner's object and a gateway ------------------------------------------------------------------------


class RowChange(Struct, frozen=True, omit_defaults=True):
    """One changed row: ``data`` and ``old`` are its stored JSON without the id, null for none (or not known)."""

    table: str
    id: str
    owner: str
    data: Raw = NOTHING
    old: Raw = NOTHING
    inserted: bool = False


class Batch(Struct, frozen=True, tag="batch"):
    """All changes of one transaction."""

    txid: int
    changes: list[RowChange]


class Page(Struct, frozen=True, tag="page", omit_defaults=True):
    """The answer to :class:`Resume`: the transactions after the position, and the position after them.

    ``live``: there are no more, and from now on batches are pushed. ``reset``: why the stream cannot resume from the
    requested position; the page is then empty and at the present.
    """

    position: str
    batches: list[Batch] = []
    live: bool = False
    reset: str = ""


class End(Struct, frozen=True, tag="end"):
    """The end of the stream: the session has ended, or the coordinator has to stop."""

    reason: str


class Resume(Struct, frozen=True, tag="resume", omit_defaults=True):
    """Ask for the transactions after ``since``; None: for those from now on."""

    since: str | None = None


class Subscription(Struct):
    """Who listens to what. ``last``: the newest transaction that was sent; ``live``: batches are pushed as they come.

    ``own``: indexes in ``tables`` of tables whose rows only their owner sees; from these, ``user`` gets its own rows.
    """

    tables: list[str]
    user: str
    session: str
    number: int = 0
    live: bool = False
    last: int = 0
    own: list[int] = []

    def hears(self, table: str, owner: str) -> bool:
        """Return whether a change of a row of ``owner`` is for this subscription."""
        try:
            place = self.tables.index(table)
        except ValueError:
            return False
        return place not in self.own or owner == self.user


Frame: TypeAlias = Page | Batch | End

_encode_frame = msgspec.json.Encoder().encode
_decode_frame = msgspec.json.Decoder(Frame).decode


def decode_frame(text: str | bytes) -> Frame:
    """Decode a frame from an owner's coordinator; raises msgspec.ValidationError."""
    frame: Frame = _decode_frame(text)
    return frame


class Parcel:
    """A frame for several lines. Those in this process take the value; the others its text, which is made once."""

    __slots__ = ("_text", "frame")

    def __init__(self, frame: Frame) -> None:
        """Pack a frame."""
        self.frame = frame
        self._text = ""

    @property
    def text(self) -> str:
        """The frame as JSON text."""
        if not self._text:
            self._text = _encode_frame(self.frame).decode()
        return self._text


def batch_of(txid: int, writes: list[Write]) -> Batch:
    """Return the changes of a committed transaction."""
    return Batch(
        txid,
        [
            RowChange(write.table, write.id, write.owner or "", write.data, write.old, inserted=write.seen == ABSENT)
            for write in writes
        ],
    )


# --- positions -------------------------------------------------------------------------------------------------------

_POSITION = re.compile(r"(g[0-9a-f]{1,32})-([0-9]{1,16})", re.ASCII)


def position(generation: str, txid: int) -> str:
    """Return the id of an event: ``<generation>-<txid>``. Each generation numbers its transactions from the start."""
    return f"{generation}-{txid}"


def parse_position(text: str) -> tuple[str, int] | None:
    """Parse an id; None if it is not one."""
    found = _POSITION.fullmatch(text)
    return (found[1], int(found[2])) if found is not None else None


# --- for clients -----------------------------------------------------------------------------------------------------


class Change(Struct, frozen=True, omit_defaults=True, rename={"old": "oldData"}, kw_only=True):
    """One changed row, as clients receive it.

    ``type``: insert, update or delete; a blind ``set`` is an update, because nothing was read. ``data``: the row as
    functions return it, null after a deletion. ``oldData``: the previous row, if the transaction had read it.
    """

    type: str
    table: str
    id: str
    data: Any
    txid: int
    old: Any = None


def kind(change: RowChange) -> str:
    """Return what happened to the row."""
    if bytes(change.data) == b"null":
        return "delete"
    return "insert" if change.inserted else "update"
