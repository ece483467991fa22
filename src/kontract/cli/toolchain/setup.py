"""The set-up that `kontract dev`, `kontract setup` and the tests share. Repeating it is cheap and changes nothing."""

from __future__ import annotations

import sys

from kontract.cli.toolchain import node, vendor
from kontract.cli.toolchain.checkout import Checkout
from kontract.cli.toolchain.problem import Problem
from kontract.cli.toolchain.progress import Say, say
from kontract.cli.toolchain.pyodide_bundle import mode

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

    `run`: the Worker will run here and should start fast.
    """
    check_python()
    with checkout.setting_up(tell):
        node.install(checkout, tell)
        vendor.install(checkout, tell)
        runtime = mode.prepare(checkout, mode.choose(checkout), tell)
        if run:
            mode.take_snapshot(checkout, runtime.source, tell)
        return runtime
