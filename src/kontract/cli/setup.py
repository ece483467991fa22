"""`kontract setup`: what `kontract dev` does before it starts anything; also the first step of `make test`."""

from __future__ import annotations

import argparse

from kontract.cli.toolchain import setup
from kontract.cli.toolchain.checkout import Checkout


def configure(parser: argparse.ArgumentParser) -> None:
    del parser  # no options


def run(args: argparse.Namespace) -> int:
    del args
    setup.prepare(Checkout.find())
    return 0
