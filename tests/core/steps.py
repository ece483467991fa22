"""How much Python code a function runs, counted rather than timed: the same on every machine."""

from __future__ import annotations

import gc
import sys

from kontract.core.errors import InvalidRequestError


def steps(function, *arguments) -> int:
    """How often Python code was called, or a line of it ran, within a function: compiled code counts as one step."""
    count = 0

    def trace(frame, event, argument):
        nonlocal count
        count += 1
        return trace

    before = sys.gettrace()
    gc.disable()  # other tests have callbacks that it would run in between
    sys.settrace(trace)
    try:
        function(*arguments)
    except InvalidRequestError:
        pass
    finally:
        sys.settrace(before)
        gc.enable()
    return count
