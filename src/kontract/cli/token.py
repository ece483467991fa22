"""`kontract token`: make a session token with the deployment's secret, or decode one."""

from __future__ import annotations

import argparse
import os
import time
from datetime import UTC, datetime

from kontract.cli.toolchain import dev_vars
from kontract.cli.toolchain.checkout import Checkout
from kontract.cli.toolchain.problem import Problem
from kontract.core import limits
from kontract.core.errors import UnauthorizedError
from kontract.core.model.perms import NAMES, name_of
from kontract.gateway import config
from kontract.gateway.config import OWNER, ConfigurationError
from kontract.gateway.context import Session
from kontract.gateway.tokens import Kind, Tokens
from kontract.gateway.transact import uuid7
from kontract.server import env_file
from kontract.server.system import SystemClock, SystemRandomness


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--owner", default="tenant-1", help="the tenant it is for (default: tenant-1)")
    parser.add_argument("--user", default="developer", help="the user it is for (default: developer)")
    parser.add_argument("--group", action="append", default=[], help="a group of the user; may be repeated")
    parser.add_argument("--perm", choices=sorted(NAMES), default="RWX", help="the most it may do (default: RWX)")
    parser.add_argument("--hours", type=float, default=1.0, help="hours until it expires (default: 1)")
    parser.add_argument("--read", metavar="TOKEN", help="decode this token instead, if it is valid here")


def run(args: argparse.Namespace) -> int:
    try:
        tokens = Tokens(config.read_keys(_secret()))
    except ConfigurationError as error:
        raise Problem(str(error), "Set the variable to the secret of the deployment.") from None
    now = time.time_ns() // 1_000_000
    if args.read:
        print(_described(tokens, args.read, now))
        return 0
    if not OWNER.fullmatch(args.owner):
        raise Problem(
            f"{args.owner!r} is not a valid tenant.",
            "Use letters, digits, dots, dashes and underscores, such as tenant-1.",
        )
    if not args.user or not 0 < args.hours <= 24 * 366:
        raise Problem("A token needs a user and a lifetime of 0 to 8784 hours.", "Correct --user or --hours.")
    groups = frozenset(args.group)
    if len(groups) > limits.GROUPS or "" in groups:
        raise Problem(
            f"A token takes at most {limits.GROUPS} groups with non-empty names but got {len(groups)}.",
            "Name only the groups that functions require.",
        )
    session = Session(
        uuid7(SystemClock(), SystemRandomness()),
        args.owner,
        args.user,
        is_anonymous=False,
        ugroups=groups,
        perm=NAMES[args.perm],
    )
    token = tokens.make(session, Kind.ACCESS, now, max(1, round(args.hours * 3600)), SystemRandomness())
    if len(token) > limits.TOKEN_BYTES:
        # Servers reject longer tokens unread.
        raise Problem(
            f"The token would have {len(token)} characters; servers accept {limits.TOKEN_BYTES} at most.",
            "Shorten the names of the user and of the groups.",
        )
    print(token)
    return 0


def _secret() -> dict[str, str]:
    """Return the variables with the secret: those of the environment, else those of .dev.vars."""
    if os.environ.get("KONTRACT_SECRET"):
        return dict(os.environ)
    path = Checkout.find().root / ".dev.vars"
    if not path.is_file():
        raise Problem(
            "There is no KONTRACT_SECRET to sign with.",
            "Set it in the environment to the secret of the deployment, or run `make dev` once: it writes .dev.vars.",
        )
    dev_vars.check(path)
    return env_file.parse(path.read_text(encoding="utf-8"))


def _described(tokens: Tokens, token: str, now: int) -> str:
    for kind in Kind:
        try:
            claims = tokens.read(token.strip(), kind, now)
        except UnauthorizedError:
            continue
        ends = datetime.fromtimestamp(claims.exp, UTC).isoformat(sep=" ")
        groups = ", ".join(claims.ugroups) or "none"
        return (
            f"{kind.value} token of user {claims.sub!r} of tenant {claims.owner!r}; groups: {groups}; "
            f"{'anonymous; ' if claims.anon else ''}may do {name_of(claims.perm)}; session {claims.sid}; "
            f"valid until {ends}"
        )
    raise Problem(
        "The token is not valid here.",
        "It has expired, was changed, or was signed with another secret. Make a new one.",
    )
