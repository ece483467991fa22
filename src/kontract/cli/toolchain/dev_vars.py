""".dev.vars: the secret of this machine. It is never deployed."""

from __future__ import annotations

import re
import secrets
from pathlib import Path

from kontract.cli.toolchain.checkout import write_atomically
from kontract.cli.toolchain.problem import Problem
from kontract.core import keys

SECRET_FORM = re.compile(r"[0-9a-fA-F]{64}")

_TEMPLATE = """\
# Written by `kontract dev` for this machine. wrangler reads it in development only; nothing here is deployed.
KONTRACT_SECRET={secret}
"""


def new_secret() -> str:
    """32 random bytes as 64 hexadecimal digits."""
    return secrets.token_hex(32)


def line(name: str, value: str) -> str:
    """Return a line of such a file; raises Problem for a value that no quotes can hold."""
    quote = next((mark for mark in "'\"`" if mark not in value), None)
    if quote is None or "\n" in value:
        raise Problem(
            f"The value of {name} has a line break, or all kinds of quotes: a .dev.vars file cannot hold it.",
            "Encode it, for example as base64, and decode it in the application.",
        )
    return f"{name}={quote}{value}{quote}\n"


def write(path: Path) -> None:
    """A new file with a new secret, readable by its owner alone."""
    write_atomically(path, _TEMPLATE.format(secret=new_secret()), 0o600)


def ensure(path: Path) -> bool:
    """Write the file if it is absent; check the one that is there. True if it was written."""
    if not path.exists():
        write(path)
        return True
    check(path)
    return False


def check(path: Path) -> None:
    """Raise `Problem` unless KONTRACT_SECRET is there and well formed. The value itself is never shown."""
    renew = (
        f"Put the line that `.venv/bin/kontract keygen` prints into {path.name}, or delete the file to get a fresh "
        "one (tokens made with the old secret stop working)."
    )
    secret = parse(path.read_text(encoding="utf-8", errors="replace")).get("KONTRACT_SECRET", "")
    if not secret:
        raise Problem(f"{path.name} has no KONTRACT_SECRET.", renew)
    if not SECRET_FORM.fullmatch(secret):
        raise Problem(
            f"KONTRACT_SECRET in {path.name} is malformed: it must be 64 hexadecimal digits (32 random bytes), and has "
            f"{len(secret)} characters.",
            renew,
        )
    if keys.is_guessable(bytes.fromhex(secret)):
        raise Problem(f"KONTRACT_SECRET in {path.name} is a pattern that can be guessed, not a secret.", renew)


def parse(text: str) -> dict[str, str]:
    """KEY=VALUE lines as wrangler reads them: comments, `export` and one pair of quotes are taken off."""
    values = {}
    for line in text.splitlines():
        key, equals, value = line.strip().removeprefix("export ").partition("=")
        if not equals or key.startswith("#"):
            continue
        value = value.strip()
        if len(value) >= 2 and value[0] == value[-1] and value[0] in "\"'`":
            value = value[1:-1]
        else:
            value = value.partition(" #")[0].rstrip()
        values[key.strip()] = value
    return values
