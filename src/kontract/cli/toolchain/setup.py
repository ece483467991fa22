"""The set-up that `kontract dev`, `kontract setup` and the tests share. Doing it again is cheap and changes nothing."""

from __future__ import annotations

import sys

from kontract.cli.toolchain import node, vendor
from kontract.cli.toolchain.checkout import Checkout
from kontract.cli.toolchain.problem import Problem
from kontract.cli.toolchain.progress import Say, say, warn
from kontract.cli.toolchain.pyodide_bundle import mode, online

MINIMUM_PYTHON = (3, 11)


def check_python(found: tuple[int, ...] = sys.version_info[:3]) -> None:
    if found < MINIMUM_PYTHON:
        version, wanted = ".".join(map(str, found)), ".".join(map(str, MINIMUM_PYTHON))
        raise Problem(
            f"Python {version} is too old: Kontract needs {wanted} or later.",
            f"Install Python {wanted}+ and run `make dev PYTHON=python{wanted}`.",
        )


def prepare(checkout: Checkout, tell: Say = say, *, run: bool = True) -> mode.Runtime:
    """Everything but the database: node_modules, python_modules, the Python runtime of workerd.

    `run`: the Worker will run here, and is to start quickly.
    """
    check_python()
    with checkout.setting_up(tell):
        node.install(checkout, tell)
        source = mode.choose(checkout)
        if source is mode.Source.ONLINE:
            try:
                online.sync(checkout, tell)
            except Problem as problem:
                # The fallback stands in only where nobody insisted on the network.
                if mode.forced():
                    raise
                warn(f"  {problem.what} Falling back to packages from PyPI.")
                source = mode.Source.OFFLINE
                mode.remember(checkout, source)  # and do not wait for the same failure at every start
        if source is mode.Source.OFFLINE:
            vendor.install(checkout, tell)
        runtime = mode.prepare(checkout, source, tell)
        if run:
            mode.take_snapshot(checkout, source, tell)
        return runtime
