"""Limits of time as a test needs them, in the server that serves this: they hold once this module is imported."""

from kontract import Context, backend, perms
from kontract.server import body

body.BODY_SECONDS = 0.3


@backend(perm=perms.R__)
async def hurry(ctx: Context) -> None:
    """Import this module."""
