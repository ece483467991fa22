"""The entries of the shared log: batches of commands, as JSON."""

from __future__ import annotations

from typing import TypeAlias

import msgspec
from msgspec import Raw, Struct

from kontract.core.messages import Prepare, Request

LEFT_BEHIND = 2
"""Of a batch in which the database has gone back: what nodes of version 1 remember of calls may be gone. They stop."""

NARROW = 3
"""Of a batch with a read set that nodes of version 1 and 2 would take for a wider one, so that they would decide
otherwise. They stop."""

NEWEST = NARROW
"""The highest version of a batch that this release understands. Others than those above have VERSION."""

VERSION = 1
"""Of the state machine. Nodes replay each other's entries, so all of them must come to the same state.

Raise it with every change that lets a coordinator decide otherwise than before; ``tests/core/protocol/test_machine.py``
fails when that was forgotten. Then the first new node restarts the owner in a higher epoch, and old nodes stop.
"""


class Start(Struct, frozen=True, tag="start"):
    """A node has raised the epoch in PostgreSQL: begin or continue in it, above ``last_txid``.

    ``generation`` names the event log that begins here. ``order``: the rows' numbers, by table; None from a node of a
    release that does not know them. ``left_behind``: the database has gone back in time, was reset or replaced; nothing
    remembered of calls holds any more.
    """

    epoch: int
    last_txid: int
    generation: str
    order: dict[str, int] | None = None
    left_behind: bool = False


class Ask(Struct, frozen=True, tag="ask"):
    """A message from one of the node's callers, who waits under ``ticket``."""

    ticket: int
    request: Request


class Forget(Struct, frozen=True, tag="forget"):
    """Callers of the node have gone."""

    tickets: list[int]


class Resolved(Struct, frozen=True, tag="resolved"):
    """The content of the fence of ``txid``; None: the database did not answer."""

    txid: int
    fence: int | None


class EpochRead(Struct, frozen=True, tag="epoch_read"):
    """The content of the epoch row; None: the database did not answer."""

    current: int | None


class Tick(Struct, frozen=True, tag="tick"):
    """Time has passed: something is due."""


class Claim(Struct, frozen=True, tag="claim"):
    """The node wants to do the due work of the collection; the first claim wins."""


class Collected(Struct, frozen=True, tag="collected"):
    """What was due up to ``up_to`` has been removed (``stage`` 0: nothing was). ``rest``: nothing more is due."""

    stage: int
    up_to: int
    rest: bool


Command: TypeAlias = Start | Ask | Forget | Resolved | EpochRead | Tick | Claim | Collected


class CommandBatch(Struct, frozen=True):
    """Commands of one node, in order. ``number``: of the node's batches; a repeated number is skipped."""

    node: str
    number: int
    commands: list[Command]
    version: int = VERSION


class Encoded(Struct, frozen=True):
    """A command as it will stand in a batch: it is encoded once, to know its size, and joined with others as text."""

    text: Raw
    version: int

    @property
    def size(self) -> int:
        """Its bytes."""
        return len(bytes(self.text))


class _EncodedBatch(Struct, frozen=True):
    """A CommandBatch whose commands are text already."""

    node: str
    number: int
    commands: list[Raw]
    version: int


_encode = msgspec.json.Encoder().encode


def encode(command: Command) -> Encoded:
    """Encode a command, and note which version of a batch it needs."""
    return Encoded(Raw(_encode(command)), _version_for(command))


def _version_for(command: Command) -> int:
    if isinstance(command, Start) and command.left_behind:
        return LEFT_BEHIND
    if isinstance(command, Ask) and isinstance(command.request, Prepare):
        return NARROW if any(one.is_narrow for one in command.request.predicates) else VERSION
    return VERSION


def encode_batch(node: str, number: int, given: list[Encoded]) -> bytes:
    """Return a batch of the version that its commands need."""
    version = max(command.version for command in given)
    return _encode(_EncodedBatch(node, number, [command.text for command in given], version))


_decode = msgspec.json.Decoder(CommandBatch).decode


class _Version(Struct):
    version: int


_decode_version = msgspec.json.Decoder(_Version).decode


def version_of(text: bytes) -> int:
    """Return the version of a batch, or of a checkpoint, whatever else is in it."""
    return _decode_version(text).version


def decode_batch(batch: bytes) -> CommandBatch:
    """Decode a batch; raises msgspec.ValidationError for what nobody has written.

    One of another version may hold commands that are not known here: it is returned without any.
    """
    try:
        decoded: CommandBatch = _decode(batch)
    except msgspec.ValidationError:
        version = version_of(batch)
        if VERSION <= version <= NEWEST:
            raise
        return CommandBatch("", 0, [], version)
    return decoded
