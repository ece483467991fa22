"""A short-lived cache of table pointers."""

from __future__ import annotations

from collections.abc import Callable

from kontract.core import limits
from kontract.core.errors import NotFoundError
from kontract.core.types import TablePointer
from kontract.ports import Clock, Store


class Catalog:
    """Pointers of all owners that a process has seen. It holds no connection: every look-up brings its own store."""

    def __init__(self, clock: Clock) -> None:
        """Begin empty."""
        self._clock = clock
        self._known: dict[tuple[str, str], tuple[TablePointer, float]] = {}

    async def pointer(self, store: Store, owner: str, name: str) -> TablePointer:
        """Return the pointer of the table ``name`` of ``owner``; raises NotFoundError if there is none."""
        cached = self._known.get((owner, name))
        if cached is not None and self._clock.elapsed() < cached[1]:
            return cached[0]
        pointer = await store.lookup(owner, name)
        if pointer is None:
            self._known.pop((owner, name), None)
            message = f"there is no table {name!r}; create it with: kontract migrate new, then kontract migrate"
            raise NotFoundError(message)
        self._known[owner, name] = (pointer, self._clock.elapsed() + limits.POINTER_CACHE_MS)
        return pointer

    def forget(self, owner: str) -> None:
        """Drop the entries of ``owner``: a statement found a table that was not as expected."""
        self._drop(lambda key: key[0] == owner)

    def _drop(self, doomed: Callable[[tuple[str, str]], bool]) -> None:
        for key in [key for key in self._known if doomed(key)]:
            del self._known[key]
