""".dev.vars: the secret of this machine. It is never deployed."""

from __future__ import annotations

import re
import secrets
from pathlib import Path

from kontract.cli.toolchain.checkout import write_atomically
from kontract.cli.toolchain.problem import Problem
from kontract.core.security import keys
from kontract.server.env_file import parse

SECRET_FORM = re.compile(r"[0-9a-fA-F]{64}")

_TEMPLATE = """\
# Written by `kontract dev` for this machine. wrangler reads it in development only; nothing here is deployed.
KONTRACT_SECRET={secret}
"""


def new_secret() -> str:
    """32 random bytes as 64 hexadecimal digits."""
    return secrets.token_hex(32)


def line(name: str, value: str, *, expanded: bool = False) -> str:
    """Return the assignment of a value in such a file; raises Problem for a value that no quotes can hold.

    ``expanded``: for a file that wrangler takes by ``--env-file``, where ``$NAME`` stands for a variable.
    """
    written = value.replace("$", "\\$") if expanded else value
    for quote in "'\"`":
        text = f"{name}={quote}{written}{quote}\n"
        after = f"{name}_={quote}{quote}\n"  # a quote that is not closed would go on there
        if parse(text + after) == {name: written, f"{name}_": ""}:
            return text
    raise Problem(
        f"The value of {name} has all kinds of quotes or a carriage return, which a .dev.vars file cannot hold.",
        "Encode it, for example as base64, and decode it in the application.",
    )


def write(path: Path) -> None:
    """Write a new file with a new secret, readable only by its owner."""
    write_atomically(path, _TEMPLATE.format(secret=new_secret()), 0o600)


def ensure(path: Path) -> bool:
    """Write the file if it is missing, else check it. Return True if it was written."""
    if not path.exists():
        write(path)
        return True
    check(path)
    return False


def check(path: Path) -> None:
    """Raise `Problem` unless KONTRACT_SECRET is set and well formed. The message never shows the value."""
    renew = (
        f"Put the line that `.venv/bin/kontract keygen` prints into {path.name}, or delete the file to get a fresh "
        "one (tokens made with the old secret stop working)."
    )
    secret = parse(path.read_text(encoding="utf-8", errors="replace")).get("KONTRACT_SECRET", "")
    if not secret:
        raise Problem(f"{path.name} has no KONTRACT_SECRET.", renew)
    if not SECRET_FORM.fullmatch(secret):
        raise Problem(
            f"KONTRACT_SECRET in {path.name} is malformed: it must be 64 hexadecimal digits (32 random bytes) but has "
            f"{len(secret)} characters.",
            renew,
        )
    if keys.is_guessable(bytes.fromhex(secret)):
        raise Problem(f"KONTRACT_SECRET in {path.name} is a guessable pattern, not a secret.", renew)
