"""TiKV: what a client has to do, and the one that is built in (on tikv-python, from the extra ``tikv``).

Whoever has a client of their own brings it as a :class:`TiKVClient`, or better as an :class:`AtomicTiKVClient`;
``kontract.testing.contracts`` says whether it is one.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Awaitable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol, TypeVar

from msgspec import Struct

if TYPE_CHECKING:
    from tikv import AsyncRawClient, TLSConfig

T = TypeVar("T")

_log = logging.getLogger("kontract.tikv")

TIMEOUT_SECONDS = 5.0
"""Time limit of one operation with all its retries: half of TRANSACTION_MS, so that a caller still gets the error."""

SCAN_PAGE = 128
"""Keys of one page of a scan. TiKV sends messages of 10 MiB at most, and a shared value has up to 64 KiB."""

NO_TTL = "ttl is not enabled"
"""What TiKV says (in longer words) when ``storage.enable-ttl`` is off."""


class TiKVUnavailableError(Exception):
    """TiKV did not do what it was asked, or did not say so: a write may have taken effect, or still may later."""


class KeyValue(Struct, frozen=True):
    """A key and its value."""

    key: str
    value: str


class TiKVClient(Protocol):
    """The least a client has to offer. Keys are ordered by the bytes of their UTF-8 form.

    Every method raises whatever it likes when the cluster does not answer. Without compare-and-swap nothing is atomic
    between processes: see :func:`kontract.server.shared_tikv.create_tikv_adapter`.
    """

    async def get(self, key: str) -> str | None:
        """Return a value, None when there is none."""
        ...

    async def put(self, key: str, value: str) -> None:
        """Keep a value in place of the one before."""
        ...

    async def delete(self, key: str) -> None:
        """Forget a value, if there is one."""
        ...

    async def scan(self, prefix: str, limit: int) -> Sequence[KeyValue]:
        """Return what begins with ``prefix``, in the order of keys, at most ``limit`` of it."""
        ...


class AtomicTiKVClient(TiKVClient, Protocol):
    """A client that several nodes can share state with. All methods are linearizable."""

    async def put(self, key: str, value: str, ttl: float | None = None) -> None:
        """Keep a value, for ``ttl`` seconds or longer if given; a cluster that cannot forget keeps it."""
        ...

    async def compare_and_swap(
        self, key: str, expected: str | None, value: str, ttl: float | None = None
    ) -> tuple[bool, str | None]:
        """Keep ``value`` if what is there is ``expected`` (None: nothing); return (done, what was there before).

        Must not repeat a request by itself whose outcome it does not know: raise TiKVUnavailableError instead.
        """
        ...


class RawTiKV(Protocol):
    """Keys and values as bytes, as the coordination log needs them. What concerns one key is linearizable."""

    async def get(self, key: bytes) -> bytes | None:
        """Return a value, None when there is none."""
        ...

    async def get_many(self, keys: Sequence[bytes]) -> Mapping[bytes, bytes]:
        """Return those that are there. One answer may have 10 MiB and takes 512 keys: mind the size of the values."""
        ...

    async def put(self, key: bytes, value: bytes) -> None:
        """Keep a value."""
        ...

    async def compare_and_swap(self, key: bytes, expected: bytes | None, value: bytes) -> tuple[bool, bytes | None]:
        """Keep ``value`` if what is there is ``expected``; return (done, what was there before)."""
        ...

    async def delete_many(self, keys: Sequence[bytes]) -> None:
        """Forget those, in no order."""
        ...

    async def scan_keys(self, start: bytes, end: bytes, limit: int) -> list[bytes]:
        """Return the keys in [start, end) in order, at most ``limit`` of them."""
        ...

    async def aclose(self) -> None:
        """Give connections back. Never raises."""
        ...


class TiKVBytes:
    """The built-in client's bytes, all below one prefix. Implements :class:`RawTiKV`."""

    def __init__(self, client: AsyncRawClient, keyspace: bytes) -> None:
        """Use ``client``, which is in atomic mode: compare-and-swap is worth nothing where others write without it."""
        self._client = client
        self._keyspace = keyspace
        self._ttl = True

    async def get(self, key: bytes) -> bytes | None:
        """Return a value."""
        return await _asked(self._client.get(self._keyspace + key))

    async def get_many(self, keys: Sequence[bytes]) -> Mapping[bytes, bytes]:
        """Return those that are there."""
        found = await _asked(self._client.get_many([self._keyspace + key for key in keys]))
        return {key[len(self._keyspace) :]: value for key, value in found.items()}

    async def put(self, key: bytes, value: bytes, ttl: float | None = None) -> None:
        """Keep a value."""
        if ttl is not None and self._ttl:
            try:
                await _asked(self._client.put(self._keyspace + key, value, ttl=ttl))
            except _NoTTLError:
                self._without_ttl()
            else:
                return
        await _asked(self._client.put(self._keyspace + key, value))

    async def delete(self, key: bytes) -> None:
        """Forget a value."""
        await _asked(self._client.delete(self._keyspace + key))

    async def scan(self, prefix: bytes, limit: int) -> list[tuple[bytes, bytes]]:
        """Return what begins with ``prefix``."""
        start, end = self._keyspace + prefix, _after(self._keyspace + prefix)
        pairs: list[tuple[bytes, bytes]] = []
        while len(pairs) < limit:
            page = await _asked(self._page(start, end, min(SCAN_PAGE, limit - len(pairs))))
            pairs += page
            if len(page) < SCAN_PAGE:
                break
            start = page[-1][0] + b"\0"
        return [(key[len(self._keyspace) :], value) for key, value in pairs]

    async def _page(self, start: bytes, end: bytes, limit: int) -> list[tuple[bytes, bytes]]:
        return [pair async for pair in self._client.scan(start, end, limit=limit)]

    async def compare_and_swap(
        self, key: bytes, expected: bytes | None, value: bytes, ttl: float | None = None
    ) -> tuple[bool, bytes | None]:
        """Keep a value if what is there is expected."""
        if ttl is not None and self._ttl:
            try:
                return await _asked(self._client.compare_and_swap(self._keyspace + key, expected, value, ttl=ttl))
            except _NoTTLError:
                self._without_ttl()
        return await _asked(self._client.compare_and_swap(self._keyspace + key, expected, value))

    async def delete_many(self, keys: Sequence[bytes]) -> None:
        """Forget several."""
        await _asked(self._client.delete_many([self._keyspace + key for key in keys]))

    async def scan_keys(self, start: bytes, end: bytes, limit: int) -> list[bytes]:
        """Return keys."""
        return await _asked(self._keys(self._keyspace + start, self._keyspace + end, limit))

    async def _keys(self, start: bytes, end: bytes, limit: int) -> list[bytes]:
        return [key[len(self._keyspace) :] async for key in self._client.scan_keys(start, end, limit=limit)]

    async def aclose(self) -> None:
        """Close connections."""
        with contextlib.suppress(Exception):  # whatever it is, there is nothing to be done about it any more
            await self._client.close()

    def _without_ttl(self) -> None:
        self._ttl = False
        _log.warning(
            "TiKV does not expire values: set storage.enable-ttl = true (on a new cluster), or expired values of "
            "ctx.shared stay in it, invisible"
        )


class TiKV:
    """The built-in client. Implements :class:`AtomicTiKVClient`; ``raw`` is the same as bytes."""

    def __init__(self, raw: TiKVBytes) -> None:
        """Use ``raw``."""
        self.raw = raw

    async def get(self, key: str) -> str | None:
        """Return a value."""
        value = await self.raw.get(key.encode())
        return None if value is None else value.decode()

    async def put(self, key: str, value: str, ttl: float | None = None) -> None:
        """Keep a value."""
        await self.raw.put(key.encode(), value.encode(), ttl)

    async def delete(self, key: str) -> None:
        """Forget a value."""
        await self.raw.delete(key.encode())

    async def scan(self, prefix: str, limit: int) -> list[KeyValue]:
        """Return what begins with ``prefix``."""
        return [KeyValue(key.decode(), value.decode()) for key, value in await self.raw.scan(prefix.encode(), limit)]

    async def compare_and_swap(
        self, key: str, expected: str | None, value: str, ttl: float | None = None
    ) -> tuple[bool, str | None]:
        """Keep a value if what is there is expected."""
        wanted = None if expected is None else expected.encode()
        swapped, before = await self.raw.compare_and_swap(key.encode(), wanted, value.encode(), ttl)
        return swapped, None if before is None else before.decode()

    async def aclose(self) -> None:
        """Close connections."""
        await self.raw.aclose()


def connect_tikv(
    endpoints: str | Iterable[str],
    *,
    keyspace: str = "kontract/",
    timeout: float = TIMEOUT_SECONDS,
    environment: Mapping[str, str] | None = None,
) -> TiKV:
    """Return a client for the cluster whose PD is at ``endpoints`` ("host:2379", several separated by commas).

    It connects at its first use, and belongs to the event loop of that. Everything is kept below ``keyspace``: two
    installations share a cluster by different ones. ``timeout``: seconds for one operation with its repetitions.
    ``environment``: TIKV_CA, TIKV_CERT and TIKV_KEY name PEM files for TLS; the last two, for clusters that ask who
    comes, go together.

    Raises ValueError for settings that cannot work, ImportError when the extra is not installed.
    """
    try:
        from tikv import AsyncRawClient
    except ImportError as error:
        raise ImportError("the client for TiKV is not installed: it comes with the extra kontract[tikv]") from error

    addresses = endpoints.split(",") if isinstance(endpoints, str) else list(endpoints)
    addresses = [address.strip() for address in addresses if address.strip()]
    if not addresses:
        raise ValueError("TIKV_PD_ENDPOINT names no PD server; it must be like pd-1:2379,pd-2:2379")
    if not keyspace:
        raise ValueError("a keyspace must be a non-empty string")
    try:
        client = AsyncRawClient(addresses, timeout=timeout, atomic=True, tls=_tls(environment or {}))
    except OSError as error:
        raise ValueError(f"a file of TIKV_CA, TIKV_CERT or TIKV_KEY cannot be read: {error}") from error
    return TiKV(TiKVBytes(client, keyspace.encode()))


def _tls(environment: Mapping[str, str]) -> TLSConfig | None:
    from tikv import TLSConfig

    ca, cert, key = (environment.get(name) or None for name in ("TIKV_CA", "TIKV_CERT", "TIKV_KEY"))
    if ca is None:
        if cert or key:
            raise ValueError("TIKV_CERT and TIKV_KEY need TIKV_CA, the certificate of the cluster's CA")
        return None
    if (cert is None) != (key is None):
        raise ValueError("TIKV_CERT and TIKV_KEY go together: set both, or none")
    return TLSConfig(ca=ca, cert=cert, key=key)


class _NoTTLError(Exception):
    """The cluster has TTL turned off; nothing was done."""


async def _asked(answer: Awaitable[T]) -> T:
    """Await an operation of tikv-python; whatever keeps it from an answer is one error."""
    from tikv import ServerError, TiKVError

    try:
        return await answer
    except ServerError as error:
        if NO_TTL in str(error):
            raise _NoTTLError from error
        raise TiKVUnavailableError(str(error)) from error
    except TiKVError as error:
        raise TiKVUnavailableError(f"{type(error).__name__}: {error}") from error


def _after(prefix: bytes) -> bytes:
    """Return the first key behind all that begin with ``prefix``. UTF-8 has no byte 0xff, so there is one."""
    return prefix[:-1] + bytes([prefix[-1] + 1])
