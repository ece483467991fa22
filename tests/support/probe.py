"""Counting what Python code does, without changing it: calls of JSON codecs, and what is asked of the event loop."""

from __future__ import annotations

import sys
from collections import Counter
from types import FrameType, TracebackType
from typing import Any, Self

import msgspec

CODECS = (msgspec.json.Encoder, msgspec.json.Decoder)
OF_THE_LOOP = {"create_future", "create_task", "ensure_future", "call_soon", "call_later", "call_at"}


class Probe:
    """A profile of one thread. ``codecs``: calls of msgspec's JSON, by the module that makes them and what they do."""

    def __init__(self) -> None:
        self.codecs: Counter[tuple[str, str]] = Counter()
        self.loop: Counter[str] = Counter()

    def __enter__(self) -> Self:
        sys.setprofile(self._hook)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        sys.setprofile(None)

    def _hook(self, frame: FrameType, event: str, called: Any) -> None:
        if event == "c_call":
            module = getattr(called, "__module__", "") or ""
            if isinstance(getattr(called, "__self__", None), CODECS) or module.startswith("msgspec"):
                self.codecs[frame.f_globals.get("__name__", "?"), called.__name__] += 1
        elif event == "call" and frame.f_code.co_name in OF_THE_LOOP:
            self.loop[frame.f_code.co_name] += 1
