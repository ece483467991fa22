"""What workers and the coordinator say to each other: JSON text, one tagged object a message.

Inside the platform an exception loses its type on the way between a Worker and a Durable Object, and JavaScript rounds
integers; therefore every outcome is a value, and the whole message travels as one string.
"""

from __future__ import annotations

from typing import TypeAlias

import msgspec
from msgspec import Raw, Struct

from kontract.core.types import Epoch, Snapshot, Txid

ABSENT = 0
"""``Write.seen`` of a row that was looked for and not found, or whose fresh id nobody can have used."""


NOTHING = Raw(b"null")
"""No value: rows are JSON objects, so null is free to mean that. (msgspec cannot decode a union of Raw and None.)"""


class Key(Struct, frozen=True, array_like=True):
    """One row: physical table and id."""

    ptr: str
    id: str


class Predicate(Struct, frozen=True, omit_defaults=True):
    """A set of rows that was read: those of ``ptr`` that contain ``contains``; None means any change matters.

    ``contains == {}`` is every row's present and future existence by value; ``whole`` counts deletions, too.
    """

    ptr: str
    contains: Raw = Raw(b"{}")
    whole: bool = False


class Write(Struct, frozen=True, omit_defaults=True):
    """The final change of one row in a transaction.

    ``seen``: the version that was read (its txid), ABSENT, or None for a blind write. ``data``: the new value, NOTHING
    for a deletion. ``old``: the value that was read, for change events.
    """

    table: str
    ptr: str
    id: str
    seen: int | None = None
    data: Raw = NOTHING
    old: Raw = NOTHING
    owner: str | None = None

    @property
    def deletes(self) -> bool:
        """Whether the row is gone afterwards."""
        return bytes(self.data) == b"null"

    @property
    def may_insert(self) -> bool:
        """Whether the row may be new, so that it needs a number in the order of insertion."""
        return not self.seen and not self.deletes


class Begin(Struct, frozen=True, tag="begin", omit_defaults=True):
    """Ask for a snapshot that includes ``after``. ``idempotent`` calls learn here that they have been applied.

    ``session``: the caller's; one that was ended gets SessionEnded. So a revoked token costs no message of its own.
    """

    call: str
    attempt: int = 1
    after: int = 0
    idempotent: bool = False
    session: str = ""


class Prepare(Struct, frozen=True, tag="prepare", omit_defaults=True):
    """Ask to be validated, numbered and journalled. ``snapshot`` is None when nothing was read.

    ``epoch``: of the snapshot; numbers of different epochs do not compare. ``result`` is the encoded answer of an
    idempotent call, kept for repeated calls. ``order``: for tables with new rows, the highest number that the worker
    knows to be in use (see :mod:`kontract.core.protocol.row_order`).
    """

    call: str
    writes: list[Write]
    user: str = ""
    attempt: int = 1
    snapshot: int | None = None
    epoch: int = 0
    reads: list[Key] = []
    predicates: list[Predicate] = []
    isolation: str = "serializable"
    idempotent: bool = False
    result: str | None = None
    session: str = ""
    order: dict[str, int] = {}


class Finish(Struct, frozen=True, tag="finish", omit_defaults=True):
    """Report on the apply statement: it succeeded, or this worker does not know that it did.

    ``epoch``: the one prepare gave. ``fenced``: the statement met another one in the database, or missed a witness.
    ``checked``: it looked for the witnesses.
    """

    txid: int
    epoch: int
    applied: bool
    fenced: bool = False
    checked: bool = False


class Leave(Struct, frozen=True, tag="leave"):
    """Give up the place in line of a call that ends without a commit after it had lost."""

    call: str


class EndSession(Struct, frozen=True, tag="end_session"):
    """Refuse this session from now on, until ``until`` (ms since the epoch), when its tokens have expired anyway."""

    session: str
    until: int


class Doubt(Struct, frozen=True, tag="doubt"):
    """Say that a connection to the database was lost: the next one may lead to one that has gone back in time."""


class CheckSession(Struct, frozen=True, tag="check_session"):
    """Ask whether a session was ended, for a call that had no other reason to ask the coordinator."""

    session: str


class Status(Struct, frozen=True, tag="status"):
    """Ask for the coordinator's numbers (``kontract doctor``, tests)."""


class Began(Struct, frozen=True, tag="began", omit_defaults=True):
    """A snapshot, and the epoch it was given in.

    ``unsure``: this idempotent call may have been committed before the coordinator's memory begins. Read its fence
    before the function runs.
    """

    snapshot: Snapshot
    epoch: Epoch
    unsure: bool = False


class Prepared(Struct, frozen=True, tag="prepared", omit_defaults=True):
    """Validated and journalled as ``txid``: now apply under the fence ``sid``, in ``epoch``.

    ``order``: by physical table, the number of its first new row; the others follow in the order of their writes.
    ``witnesses``: fences that the apply statement must find.
    """

    txid: Txid
    sid: str
    epoch: Epoch
    order: dict[str, int] = {}
    witnesses: list[str] = []


class Conflict(Struct, frozen=True, tag="conflict", omit_defaults=True):
    """Lost to ``txid`` over ``id`` (None: over rows a predicate covers). Try again once ``txid`` is visible.

    ``reserved``: not lost to a commit but to somebody who is ahead in line for the key.
    """

    ptr: str
    txid: int = 0
    id: str | None = None
    reserved: bool = False


class TooOld(Struct, frozen=True, tag="too_old"):
    """The snapshot is older than what the coordinator remembers: begin again."""


class Busy(Struct, frozen=True, tag="busy"):
    """Too many prepared transactions of this owner: come back shortly."""


class Replayed(Struct, frozen=True, tag="replayed"):
    """This idempotent call committed before as ``txid``, with this result (None: no longer known)."""

    txid: Txid
    result: str | None


class Committed(Struct, frozen=True, tag="committed"):
    """The transaction is in the database and visible to every snapshot given from now on."""

    txid: Txid


class Aborted(Struct, frozen=True, tag="aborted"):
    """The transaction is not in the database and never will be."""

    txid: Txid


class InDoubt(Struct, frozen=True, tag="in_doubt"):
    """Nobody can read the fence now. The transaction will be settled when the database answers again."""

    txid: Txid


class Fenced(Struct, frozen=True, tag="fenced"):
    """Another coordinator has taken over this owner's tables; this one has stopped."""

    epoch: int


class WentBack(Struct, frozen=True, tag="went_back"):
    """The database has gone back in time; the coordinator goes on with what there is, in a new epoch."""


class Noted(Struct, frozen=True, tag="noted"):
    """A doubt has been heard."""


class Unready(Struct, frozen=True, tag="unready"):
    """The coordinator could not start, for example because the database does not answer."""

    reason: str = "the database does not answer"
    """Where it is this one, the shell around the coordinator says what it has heard (coordination/questions.py)."""


class Left(Struct, frozen=True, tag="left"):
    """The call is not in line any more."""


class SessionEnded(Struct, frozen=True, tag="session_ended"):
    """The session was ended: nothing may be done in it any more."""


class SessionAlive(Struct, frozen=True, tag="session_alive"):
    """Nobody has ended the session."""


class StatusReport(Struct, frozen=True, tag="status_report"):
    """The coordinator's numbers."""

    epoch: int
    next_txid: int
    watermark: int
    prepared: int
    write_log: int
    reservations: int
    oldest_snapshot: int
    fenced: bool


Request: TypeAlias = Begin | Prepare | Finish | Leave | EndSession | CheckSession | Doubt | Status
Answer: TypeAlias = (
    Began
    | Prepared
    | Conflict
    | TooOld
    | Busy
    | Replayed
    | Committed
    | Aborted
    | InDoubt
    | Fenced
    | WentBack
    | Noted
    | Unready
    | Left
    | SessionEnded
    | SessionAlive
    | StatusReport
)

_encode = msgspec.json.Encoder().encode
_decode_request = msgspec.json.Decoder(Request).decode
_decode_answer = msgspec.json.Decoder(Answer).decode


def encode(message: Request | Answer) -> str:
    """Encode a message as JSON text."""
    return _encode(message).decode()


def decode_request(text: str) -> Request:
    """Decode a worker's message; raises msgspec.ValidationError on anything else."""
    request: Request = _decode_request(text)
    return request


def decode_answer(text: str) -> Answer:
    """Decode a coordinator's message; raises msgspec.ValidationError on anything else."""
    answer: Answer = _decode_answer(text)
    return answer
