"""``exec``: one SELECT of the application on one logical table, parsed by sqlglot and rewritten by this package.

:func:`~kontract.core.transaction.select.reader.read` parses the text; what comes out is walked by
:class:`~kontract.core.transaction.select.writer.Writer`, which knows a short list of nodes, and of each the arguments
it may have. A node, an argument, a function, a type or a name that is not listed is refused. What is sent to PostgreSQL
is only what ``Writer`` wrote:

- every table is :data:`VIEW`, the rows of this one table at the snapshot, under an alias of our own making;
- every column is looked up in the tables in scope and written qualified and quoted;
- every function is on the list and written with its schema, every cast names a type of ``pg_catalog``;
- literals are quoted so that they mean the same whatever ``standard_conforming_strings`` says.

So sqlglot need not be right about everything: what it misreads is refused or means something else, but it cannot reach
another table. Nothing on the lists looks at a clock, a session, a file or a catalog, or can wait; the answer depends on
rows and parameters alone, and may be cached with its snapshot.
"""

from __future__ import annotations

from kontract.core.statements import Param, Selection
from kontract.core.transaction.select.allowed import COLUMNS, VIEW
from kontract.core.transaction.select.refusals import TOO_LARGE, explain, stop, too_large
from kontract.core.transaction.select.selection import parse, rows

__all__ = ["COLUMNS", "TOO_LARGE", "VIEW", "Param", "Selection", "explain", "parse", "rows", "stop", "too_large"]
