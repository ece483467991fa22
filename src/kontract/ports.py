"""What a platform must bring: the Protocols that adapters implement, and nothing else.

``kontract.cloudflare`` implements them for workerd, ``kontract.server`` for CPython, the tests' simulation with a
scheduler of its own. Errors that adapters may raise are here, too, because they are part of the contract.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from enum import Enum
from types import TracebackType
from typing import Any, Protocol

from kontract.core.errors import HttpError
from kontract.core.events import Frame, Subscription
from kontract.core.messages import Answer, Request
from kontract.core.select import Selection
from kontract.core.shared import SharedAnswer, SharedRequest
from kontract.core.sql import ApplyPlan, Page, Pending, Statement
from kontract.core.types import Filter, Snapshot, TablePointer, Txid, Version


class DatabaseError(Exception):
    """PostgreSQL answered with an error: the statement has had no effect. ``sqlstate`` is its five-character code.

    ``constraint``: the name of the constraint or unique index that was violated, if that is what happened.
    """

    def __init__(self, sqlstate: str, message: str, constraint: str = "") -> None:
        """Keep code and message; neither may reach a caller."""
        super().__init__(f"{sqlstate}: {message}")
        self.sqlstate = sqlstate
        self.message = message
        self.constraint = constraint


class DatabaseUnavailableError(Exception):
    """No connection, or none any more: whether a statement under way took effect is not known."""


class CoordinatorUnavailableError(Exception):
    """The coordinator did not answer: whether it took the message is not known."""


class Database(Protocol):
    """A connection (or a pool) that runs one statement at a time per transaction."""

    async def run(self, statement: Statement) -> Sequence[Sequence[Any]]:
        """Run a statement and return its rows; raises DatabaseError or DatabaseUnavailableError."""
        ...

    def warm(self) -> None:
        """Start connecting, if that takes time, and return at once; errors surface at the first statement."""
        ...

    async def aclose(self) -> None:
        """Give the connection back. Never raises."""
        ...


class Store(Protocol):
    """The database as the transaction protocol sees it. ``SqlStore`` implements it over a Database."""

    def warm(self) -> None:
        """Start connecting in the background."""
        ...

    async def lookup(self, owner: str, name: str) -> TablePointer | None:
        """Find a logical table; None when the owner has none of that name."""
        ...

    async def read_row(self, pointer: TablePointer, row_id: str, snapshot: Snapshot) -> Version | None:
        """Read one row; raises SnapshotTooOldError."""
        ...

    async def query(
        self, pointer: TablePointer, wanted: Filter, snapshot: Snapshot, page: Page, pending: Sequence[Pending]
    ) -> list[Version]:
        """Read a page of rows under one's own writes (those have txid 0); raises SnapshotTooOldError."""
        ...

    async def end_row(
        self, pointer: TablePointer, snapshot: Snapshot, pending: Sequence[Pending], *, last: bool
    ) -> Version | None:
        """Read the row inserted last (or first) under one's own writes; raises SnapshotTooOldError."""
        ...

    async def count(self, pointer: TablePointer, wanted: Filter, snapshot: Snapshot, pending: Sequence[Pending]) -> int:
        """Count rows under one's own writes; raises SnapshotTooOldError."""
        ...

    async def select(
        self, pointer: TablePointer, selection: Selection, snapshot: Snapshot, pending: Sequence[Pending]
    ) -> list[str]:
        """Run a checked SELECT under one's own writes and return its rows as JSON text, at most one over the limit.

        Raises SnapshotTooOldError, and InvalidRequestError for what PostgreSQL cannot evaluate.
        """
        ...

    async def history(self, pointer: TablePointer, row_id: str, snapshot: Snapshot) -> list[tuple[Version, int | None]]:
        """Read the versions of a row, oldest first, each with the txid that ended it; raises SnapshotTooOldError."""
        ...

    async def apply(self, plan: ApplyPlan) -> ApplyOutcome:
        """Run the apply statement; raises ApplyRefusedError when the database answered with an error."""
        ...

    async def resolve(self, sid: str, owner: str, txid: int) -> int | None:
        """Write or read the fence; None when the database did not answer."""
        ...

    async def committed(self, call: str) -> tuple[Txid, str | None] | None:
        """Return txid and kept result of an idempotent call that was committed; None: it was not."""
        ...

    async def aclose(self) -> None:
        """Give the connection back. Never raises."""
        ...


class SnapshotTooOldError(Exception):
    """A version newer than the snapshot has replaced what it would have shown (plain tables): begin again."""


class ApplyRefusedError(Exception):
    """PostgreSQL refused the apply statement; its DatabaseError is the cause.

    ``answer``: what the caller is told when no other attempt can do better, for example a constraint of the table.
    Another apply of the same transaction may still have succeeded: the fence decides, as always.
    """

    def __init__(self, answer: HttpError | None) -> None:
        """Carry the answer, None when another attempt may succeed."""
        super().__init__("the database refused the commit")
        self.answer = answer


class ApplyOutcome(Enum):
    """What a worker knows after it sent the apply statement. Only APPLIED is certain."""

    APPLIED = "applied"
    FAILED = "failed"
    FENCED = "fenced"
    WENT_BACK = "went back"


class CoordinatorStub(Protocol):
    """The coordinator of one owner, wherever it runs."""

    async def ask(self, request: Request) -> Answer:
        """Send one message and wait for its answer; raises CoordinatorUnavailableError."""
        ...


class ClientGoneError(Exception):
    """Whoever listened has left, or reads too slowly to be kept."""


class FeedClosedError(Exception):
    """The line to the owner's object is closed, or nothing came in time that had to come."""


class Feed(Protocol):
    """An open line to the changes of one owner."""

    async def resume(self, since: str | None) -> None:
        """Ask for the page after a position; raises FeedClosedError."""
        ...

    async def next(self, milliseconds: float) -> Frame | None:
        """Return the next frame, None when none comes in time; raises FeedClosedError."""
        ...

    def close(self) -> None:
        """Hang up. Never raises."""
        ...


class Outlet(Protocol):
    """Where a streamed response is written to. ``separate``: each write is a message, so they must not be joined."""

    separate: bool

    async def write(self, data: bytes) -> None:
        """Write, and wait until there is room for more; raises ClientGoneError."""
        ...

    async def close(self) -> None:
        """End the response. Never raises."""
        ...


class Socket(Outlet, Protocol):
    """A client's WebSocket: what is written are text messages."""

    async def receive(self) -> str:
        """Wait for a message; raises ClientGoneError."""
        ...


class DOStub(Protocol):
    """The state that all requests of one owner share, wherever it is kept (the owner's Durable Object)."""

    async def shared(self, request: SharedRequest) -> SharedAnswer:
        """Send one request and wait for its answer; raises CoordinatorUnavailableError."""
        ...


class KVStore(Protocol):
    """A key-value store that may be slow to show what was written (Workers KV). Values are text."""

    async def get(self, key: str) -> str | None:
        """Return a value, or None; also None when the store does not answer."""
        ...

    async def put(self, key: str, value: str, ttl: float | None = None) -> None:
        """Keep a value, for ``ttl`` seconds if given. Never raises: it is a copy."""
        ...

    async def delete(self, key: str) -> None:
        """Forget a value. Never raises."""
        ...


class Clock(Protocol):
    """Time of one process, in milliseconds."""

    def now(self) -> int:
        """Milliseconds since the Unix epoch."""
        ...

    def elapsed(self) -> float:
        """Milliseconds of a clock that never goes back, with fractions."""
        ...

    async def sleep(self, milliseconds: float) -> None:
        """Pause the calling task."""
        ...


class Randomness(Protocol):
    """Random bytes fit for secrets, and cheap random numbers."""

    def token(self, size: int) -> bytes:
        """Return ``size`` cryptographically random bytes."""
        ...

    def uniform(self) -> float:
        """Return a number in [0, 1)."""
        ...


class Mutex(Protocol):
    """Mutual exclusion between the tasks of one transaction (asyncio.Lock fits)."""

    async def __aenter__(self) -> Any:
        """Wait for one's turn."""
        ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> Any:
        """Let the next one in."""
        ...


class CryptoError(Exception):
    """What was asked cannot be done with these bytes. There is one, without detail: detail helps attackers alone."""


class Cipher(Enum):
    """An AEAD cipher with a 32-byte key, a 12-byte nonce and a 16-byte tag at the end; values are OpenSSL's names."""

    CHACHA20_POLY1305 = "chacha20-poly1305"
    AES_256_GCM = "aes-256-gcm"


class Crypto(Protocol):
    """Cryptography that a platform does natively. A wrong size of key or nonce is a defect: ValueError.

    What Python's standard library has everywhere is not here: HMAC and HKDF are in :mod:`kontract.core.hkdf`, and
    ``hmac.compare_digest`` compares in constant time.
    """

    @property
    def hashes_at_once(self) -> int:
        """How many :meth:`scrypt` may run at the same time in one process without keeping others from working."""
        ...

    @property
    def hash_rest_ms(self) -> int:
        """How long others get to work between two of them: 0 where they do so beside it."""
        ...

    def x25519_public(self, private: bytes) -> bytes:
        """Return the public key (32 bytes) of a private key (any 32 bytes; RFC 7748, section 6.1)."""
        ...

    def x25519(self, private: bytes, public: bytes) -> bytes:
        """Return the shared secret, 32 bytes; raises CryptoError when it would be zero (RFC 7748, section 6.1)."""
        ...

    def seal(self, cipher: Cipher, key: bytes, nonce: bytes, plaintext: bytes, associated: bytes) -> bytes:
        """Return ciphertext and tag. A nonce must never be used twice with one key."""
        ...

    def open(self, cipher: Cipher, key: bytes, nonce: bytes, sealed: bytes, associated: bytes) -> bytes:
        """Return the plaintext of ciphertext and tag; raises CryptoError for everything that was not sealed so."""
        ...

    async def scrypt(self, password: bytes, salt: bytes, n: int, r: int, p: int, length: int) -> bytes:
        """Derive a key from a password (RFC 7914). Takes ``128 * n * r`` bytes of memory, and long, on purpose."""
        ...


class Log(Protocol):
    """Structured log lines."""

    def __call__(self, level: str, event: str, **fields: Any) -> None:
        """Write one JSON line: ``level`` is debug, info, warning or error."""
        ...


class RuntimeAdapter(Protocol):
    """A platform, as the gateway uses it."""

    @property
    def clock(self) -> Clock:
        """Time."""
        ...

    @property
    def random(self) -> Randomness:
        """Randomness."""
        ...

    @property
    def crypto(self) -> Crypto:
        """Native cryptography. On Workers it can be used inside a request only."""
        ...

    @property
    def log(self) -> Log:
        """Where log lines go."""
        ...

    @property
    def environment(self) -> Mapping[str, str]:
        """Variables and secrets."""
        ...

    def coordinator(self, owner: str) -> CoordinatorStub:
        """Return the way to the coordinator of ``owner``."""
        ...

    def shared(self, owner: str) -> DOStub:
        """Return the way to the shared state of ``owner``."""
        ...

    @property
    def kv(self) -> KVStore | None:
        """The warm tier of the shared state; None where there is none."""
        ...

    async def open_feed(self, owner: str, subscription: Subscription) -> Feed:
        """Connect to the changes of ``owner``; raises CoordinatorUnavailableError, RateLimitedError."""
        ...

    def open_database(self) -> Database:
        """Return a database for one request; it connects when first used."""
        ...

    def mutex(self) -> Mutex:
        """Return a new lock for one transaction."""
        ...

    def spawn(self, work: Awaitable[Any]) -> None:
        """Let ``work`` go on after the response has been sent."""
        ...

    async def within(self, milliseconds: float, work: Awaitable[Any]) -> Any:
        """Await ``work``, at most so long; raises TimeoutError."""
        ...


CallNext = Callable[[], Awaitable[Any]]
"""What a middleware awaits to run the rest of the chain."""
