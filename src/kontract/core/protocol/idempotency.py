"""Repeated calls under one key: what is remembered, and who can say that a call is new.

A committed call is remembered twice: in the coordinator's journal, and beside its fence in PostgreSQL, which outlives
the journal. Both for FENCE_RETENTION_MS. A coordinator whose journal is younger than that cannot know every call of
that time; it says so (:attr:`~kontract.core.messages.Began.unsure`), and the fence is asked before the function runs.

A call that writes no row is remembered, too: its commit writes only the fence. For the coordinator the fence is then
the row that it writes (:func:`fence_of`): two simultaneous repetitions conflict on it.

There is one exception. The clients give every call a key, to retry it on their own when its answer is lost. Such a key
(:data:`OF_CLIENT`) ends with the call: no application has seen an answer, so a run that wrote nothing may be followed
by another one. Otherwise a read would cost a commit.
"""

from __future__ import annotations

from kontract.core import limits
from kontract.core.messages import Write

FENCES = "trxs"
"""The table of fences. It cannot be a table of an application: it has no columns for versions."""

BRIEF = "ray-"
"""Prefix of calls whose copies can only arrive within seconds (an older sealed request is refused): their records are
removed with all others, not after a day. Their fences stay as long as any, so none is applied twice; their results are
not stored with them."""


KEYED, BRIEFLY_KEYED = "idem-", "auto-"
"""Prefix of calls with a key: from the application, or made by a client for one call."""

OF_CLIENT = "auto-"
"""Prefix of keys that a client makes for one call (docs/reference/http.md). All clients use it."""

_REPEATED_WITHIN = {BRIEF: 2 * limits.RAYSTREAM_FRESH_MS, BRIEFLY_KEYED: limits.CLIENT_KEY_MS}


def fence_of(call: str) -> Write:
    """Return the write that stands for the fence of a call that changes no row. No stream has a nameless table."""
    return Write(table="", ptr=FENCES, id=call)


def began_at(generation: str) -> int:
    """Return when the journal of this event log began, in milliseconds: shells name generations by their time."""
    return int(generation[1:], 16)


def may_be_older(call: str, since: int | None, now: int) -> bool:
    """Return whether an unknown call may be older than the journal, which began at ``since`` (None: no beginning)."""
    within = next((ms for start, ms in _REPEATED_WITHIN.items() if call.startswith(start)), limits.FENCE_RETENTION_MS)
    return since is not None and now - since < within
