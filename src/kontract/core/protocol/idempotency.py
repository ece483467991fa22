"""Calls that are repeated under one key: what is remembered of them, and who can say that there is nothing.

A committed call is remembered twice: in the coordinator's journal, and beside its fence in PostgreSQL, which outlives
the journal. Both for FENCE_RETENTION_MS. A coordinator whose journal is younger than that cannot know every call of
that time; it says so (:attr:`~kontract.core.messages.Began.unsure`), and the fence is asked before the function runs.

A call that writes no row is remembered all the same: its commit writes nothing but the fence. To the coordinator the
fence is then the row that it writes (:func:`fence_of`): two repetitions at once are in conflict over it.

There is one exception. The clients give every call a key, to repeat it by themselves when its answer is lost. Such a
key (:data:`OF_CLIENT`) ends with the call: nobody has seen an answer and asks again, so a run that wrote nothing may be
followed by another one. A read would otherwise cost a commit.
"""

from __future__ import annotations

from kontract.core import limits
from kontract.core.messages import Write

FENCES = "trxs"
"""The table of fences. No table of an application is it: it has no columns for versions."""

BRIEF = "ray-"
"""What calls begin with whose copies can only come within seconds (a sealed request is refused when it is older): their
records go with all others, not after a day. Their fences stay as long as any, so none is applied twice; their results
are not kept beside them."""


KEYED, BRIEFLY_KEYED = "idem-", "auto-"
"""What calls begin with that have a key: of the application, or made by a client for the time of one call."""

OF_CLIENT = "auto-"
"""What keys begin with that a client makes for one call (docs/reference/http.md). All clients know it."""

_REPEATED_WITHIN = {BRIEF: 2 * limits.RAYSTREAM_FRESH_MS, BRIEFLY_KEYED: limits.CLIENT_KEY_MS}


def fence_of(call: str) -> Write:
    """Return the write that stands for the fence of a call which changes no row. No stream has a table without name."""
    return Write(table="", ptr=FENCES, id=call)


def began_at(generation: str) -> int:
    """Return when the journal of this event log began, in milliseconds: shells name generations by their time."""
    return int(generation[1:], 16)


def may_be_older(call: str, since: int | None, now: int) -> bool:
    """Whether a call that is not known may have been committed before the journal began; None: it has no beginning."""
    within = next((ms for start, ms in _REPEATED_WITHIN.items() if call.startswith(start)), limits.FENCE_RETENTION_MS)
    return since is not None and now - since < within
