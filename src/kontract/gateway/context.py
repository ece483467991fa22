"""The context of a call: ``ctx``."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from kontract.core.model.perms import ALL
from kontract.core.transaction.storage import Storage
from kontract.core.transaction.transaction import Transaction
from kontract.gateway.counters import CallCounters
from kontract.gateway.shared_storage import SharedStorage
from kontract.ports import Log

if TYPE_CHECKING:
    from kontract.gateway.scope import Scope

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Session:
    """Who calls: the tenant and the principal inside it.

    ``perm``: the most the session may do. ``expires_at``: when its token expires, in seconds since the Unix epoch; 0
    for a caller without a token, whose ``sid`` is empty.
    """

    sid: str
    owner: str
    user: str
    is_anonymous: bool
    ugroups: frozenset[str] = frozenset()
    perm: int = ALL
    expires_at: int = 0


@dataclass(slots=True)
class Context:
    """The call and its transaction. Injected into every parameter annotated with ``Context``.

    ``client``: the caller's network address, empty where the platform does not know it. ``shared``: small values that
    all requests of the owner see at once, outside the transaction. ``log(level, event, **fields)`` writes a line to
    the log. ``counters`` is for middleware that limits: ``await ctx.counters.count_within(key, seconds)`` counts a call
    and returns the number of calls in the window that the first one opened, and the seconds until the window ends.
    """

    session: Session
    method: str
    path: str
    headers: Mapping[str, str]
    route: str
    request_id: str
    perm: int
    env: Mapping[str, str]
    client: str
    log: Log
    _scope: Scope
    _shared: SharedStorage | None = None
    _storage: Storage | None = None
    _transaction: Transaction | None = None
    _after_commit: list[Callable[[], Any]] = field(default_factory=list)

    @property
    def sid(self) -> str:
        """The session's id."""
        return self.session.sid

    @property
    def owner(self) -> str:
        """The tenant whose tables ``storage`` shows."""
        return self.session.owner

    @property
    def user(self) -> str:
        """The authenticated user, who owns the rows that the call creates."""
        return self.session.user

    @property
    def is_anonymous(self) -> bool:
        """Whether the user has no account."""
        return self.session.is_anonymous

    @property
    def ugroups(self) -> frozenset[str]:
        """The groups of the user."""
        return self.session.ugroups

    @property
    def storage(self) -> Storage:
        """The owner's tables, inside the transaction of this attempt."""
        if self._storage is None:
            message = "ctx.storage can only be used inside a backend function"
            raise RuntimeError(message)
        return self._storage

    @property
    def shared(self) -> SharedStorage:
        """Small values that all requests of the owner see at once."""
        if self._shared is None:
            platform = self._scope.platform
            stub = platform.shared(self.owner)
            self._shared = SharedStorage(stub, platform.kv, owner=self.owner, spawn=platform.spawn)
        return self._shared

    @property
    def counters(self) -> CallCounters:
        """Counts that all requests of the owner share, for middleware that limits."""
        return self._scope.counters(self.owner)

    @property
    def current_txid(self) -> int:
        """Versions with a lower txid are visible; 0 before the first read."""
        snapshot = self._transaction.snapshot if self._transaction is not None else None
        return 0 if snapshot is None else snapshot + 1

    def now(self) -> datetime:
        """Return the platform's time in UTC, to the millisecond. Tests can stop and move this clock."""
        return _EPOCH + timedelta(milliseconds=self._scope.platform.clock.now())

    def after_commit(self, action: Callable[[], Any]) -> None:
        """Call ``action`` (a function, sync or async) once, after this transaction has committed.

        It is not called when the function fails; each attempt starts without the actions of the previous one. Its
        errors are logged: the caller has already got the answer. Middleware does not need it: code after
        ``call_next`` runs after the commit.
        """
        if self._transaction is None or self._transaction.is_closed:
            message = "ctx.after_commit can only be used inside a backend function"
            raise RuntimeError(message)
        self._after_commit.append(action)

    def wait_until(self, work: Awaitable[Any]) -> None:
        """Let the awaitable ``work`` continue after the response; it must not use ``storage``."""
        self._scope.platform.spawn(work)

    def start_attempt(self, transaction: Transaction, storage: Storage) -> None:
        """Bind a new attempt's transaction and drop the actions of the previous attempt. For the gateway."""
        self._transaction = transaction
        self._storage = storage
        self._after_commit = []

    async def committed(self, failed: Callable[[Exception], None]) -> None:
        """Run the actions planned for after the commit. For the gateway."""
        actions, self._after_commit = self._after_commit, []
        for action in actions:
            try:
                done = action()
                if inspect.isawaitable(done):
                    await done
            except Exception as error:  # noqa: BLE001 - the application's code; the commit stands whatever it does
                failed(error)

    def has_plans(self) -> bool:
        """Return whether there are actions for after the commit. For the gateway."""
        return bool(self._after_commit)
