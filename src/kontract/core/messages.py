"""Messages between workers and the coordinator: values that nobody changes.

In one process they are passed as they are. Between a Worker and a Durable Object an exception loses its type, and
JavaScript rounds integers; so every outcome is a value, and a message travels as one JSON text, a tagged object.
"""

from __future__ import annotations

from typing import TypeAlias

import msgspec
from msgspec import Raw, Struct

from kontract.core.types import Bound, Epoch, Snapshot, Span, Txid

ABSENT = 0
"""``Write.seen`` of a row that was not found, or whose id is new and unused."""


NOTHING = Raw(b"null")
"""No value: rows are JSON objects, so null can mean that. (msgspec cannot decode a union of Raw and None.)"""


class Key(Struct, frozen=True, array_like=True):
    """One row: physical table and id."""

    ptr: str
    id: str


class Predicate(Struct, frozen=True, omit_defaults=True):
    """A set of rows that was read: those of ``ptr`` that contain ``contains``, pass ``bounds`` and lie in ``span``.

    A write matters when its new value is in the set; that of a row which was read is found by its key. ``inserts``:
    only new rows matter. ``whole``: any write of the table matters, deletions too; with ``counted`` only those whose
    old or new value is in the set, because it was counted and its keys are not known.
    """

    ptr: str
    contains: Raw = Raw(b"{}")
    whole: bool = False
    bounds: tuple[Bound, ...] = ()
    span: Span | None = None
    inserts: bool = False
    counted: bool = False

    @property
    def is_narrow(self) -> bool:
        """Whether it says more than :attr:`contains` and :attr:`whole`, which is all that releases before 0.3 know."""
        return bool(self.bounds) or self.span is not None or self.inserts or self.counted


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
        """Whether the write deletes the row."""
        return bytes(self.data) == b"null"

    @property
    def may_insert(self) -> bool:
        """Whether the row may be new and needs a number in the order of insertion."""
        return not self.seen and not self.deletes


class Begin(Struct, frozen=True, tag="begin", omit_defaults=True):
    """Ask for a snapshot that includes ``after``. ``idempotent`` calls learn here whether they were already applied.

    ``session``: the caller's; an ended one gets SessionEnded. So checking for a revoked token costs no extra message.
    """

    call: str
    attempt: int = 1
    after: int = 0
    idempotent: bool = False
    session: str = ""


class Prepare(Struct, frozen=True, tag="prepare", omit_defaults=True):
    """Ask to be validated, numbered and journalled. ``snapshot`` is None when nothing was read.

    ``epoch``: of the snapshot; numbers of different epochs cannot be compared. ``result`` is the encoded answer of an
    idempotent call, stored for repeated calls. ``order``: for tables with new rows, the highest number in use that the
    worker knows of (see :mod:`kontract.core.protocol.row_order`).
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
    """Report the outcome of the apply statement: success, or unknown.

    ``epoch``: the one from prepare. ``fenced``: the statement found another epoch in the database, or missed a witness.
    ``checked``: it checked the witnesses.
    """

    txid: int
    epoch: int
    applied: bool
    fenced: bool = False
    checked: bool = False


class Leave(Struct, frozen=True, tag="leave"):
    """Give up the place in line of a call that ends without a commit after a conflict."""

    call: str


class EndSession(Struct, frozen=True, tag="end_session"):
    """Reject this session from now on, until ``until`` (ms since the epoch), when its tokens have expired anyway."""

    session: str
    until: int


class Doubt(Struct, frozen=True, tag="doubt"):
    """Report a lost database connection: the next one may reach a database that has gone back in time."""


class CheckSession(Struct, frozen=True, tag="check_session"):
    """Ask whether a session has ended, for a call that needs nothing else from the coordinator."""

    session: str


class Status(Struct, frozen=True, tag="status"):
    """Ask for the coordinator's numbers (``kontract doctor``, tests)."""


class Began(Struct, frozen=True, tag="began", omit_defaults=True):
    """A snapshot and its epoch.

    ``unsure``: this idempotent call may have committed before the coordinator's memory begins. Read its fence before
    the function runs.
    """

    snapshot: Snapshot
    epoch: Epoch
    unsure: bool = False


class Prepared(Struct, frozen=True, tag="prepared", omit_defaults=True):
    """Validated and journalled as ``txid``: apply now, with the fence ``sid``, in ``epoch``.

    ``order``: by physical table, the number of its first new row; the others follow in the order of their writes.
    ``witnesses``: fences that the apply statement must find.
    """

    txid: Txid
    sid: str
    epoch: Epoch
    order: dict[str, int] = {}
    witnesses: list[str] = []


class Conflict(Struct, frozen=True, tag="conflict", omit_defaults=True):
    """Lost to ``txid`` on ``id`` (None: on rows that a predicate covers). Retry once ``txid`` is visible.

    ``reserved``: not lost to a commit but to a caller that is ahead in line for the key.
    """

    ptr: str
    txid: int = 0
    id: str | None = None
    reserved: bool = False


class TooOld(Struct, frozen=True, tag="too_old"):
    """The snapshot is older than the coordinator's write log: begin again."""


class Busy(Struct, frozen=True, tag="busy"):
    """Too many prepared transactions of this owner: retry shortly."""


class Replayed(Struct, frozen=True, tag="replayed"):
    """This idempotent call has already committed as ``txid``, with this result (None: no longer known)."""

    txid: Txid
    result: str | None


class Committed(Struct, frozen=True, tag="committed"):
    """The transaction is in the database and visible to every snapshot from now on."""

    txid: Txid


class Aborted(Struct, frozen=True, tag="aborted"):
    """The transaction is not in the database and never will be."""

    txid: Txid


class InDoubt(Struct, frozen=True, tag="in_doubt"):
    """The fence cannot be read now. The transaction will be settled when the database answers again."""

    txid: Txid


class Fenced(Struct, frozen=True, tag="fenced"):
    """Another coordinator has taken over this owner's tables; this one has stopped."""

    epoch: int


class WentBack(Struct, frozen=True, tag="went_back"):
    """The database has gone back in time; the coordinator continues from its present state, in a new epoch."""


class Noted(Struct, frozen=True, tag="noted"):
    """The doubt was noted."""


class Unready(Struct, frozen=True, tag="unready"):
    """The coordinator could not start, for example because the database does not answer."""

    reason: str = "the database does not answer"
    """For this reason, the coordinator's shell adds what it has heard (coordination/questions.py)."""


class Left(Struct, frozen=True, tag="left"):
    """The call is no longer in line."""


class SessionEnded(Struct, frozen=True, tag="session_ended"):
    """The session has ended and may not be used any more."""


class SessionAlive(Struct, frozen=True, tag="session_alive"):
    """The session is live."""


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
