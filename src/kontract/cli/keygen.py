"""`kontract keygen`: a fresh secret on stdout, for .dev.vars or for `wrangler secret put`."""

from __future__ import annotations

import argparse

from kontract.cli.toolchain.dev_vars import new_secret


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--bare", action="store_true", help="print only the value, for use in a pipe")


def run(args: argparse.Namespace) -> int:
    secret = new_secret()
    print(secret if args.bare else f"KONTRACT_SECRET={secret}")
    return 0
