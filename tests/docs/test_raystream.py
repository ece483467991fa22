"""The page of raystream agrees with the code in every name, number and label; tests/core checks the vectors."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from kontract.cli.toolchain.checkout import Checkout
from kontract.core import limits
from kontract.core.security.raystream import schedule, tickets
from kontract.core.security.raystream.frames import HEADER_BYTES, FrameType
from kontract.core.security.raystream.suites import PROLOGUE, Suite
from kontract.gateway import raystream

ROOT = Checkout.find(Path(__file__).parent).root
TEXT = (ROOT / "docs" / "reference" / "raystream.md").read_text(encoding="utf-8")


def test_the_numbers_are_those_of_the_code():
    """Whoever writes a client reads them here."""
    for said in (
        f"{limits.RAYSTREAM_HELLO_BYTES:,} bytes (a token has at most {limits.TOKEN_BYTES:,})",
        f"| ticket | {limits.RAYSTREAM_TICKET_BYTES:,} bytes, valid for at most {limits.RAYSTREAM_TICKET_MS:,} ms |",
        f"{limits.RAYSTREAM_REQUEST_BYTES:,} bytes; the body inside at most {limits.BODY_BYTES:,}",
        f"within {limits.RAYSTREAM_FRESH_MS:,} ms",
        f"At most {limits.RAYSTREAM_HEADERS} headers",
        f"at most {limits.HEADER_BYTES:,} bytes of ISO 8859-1",
        f"a header of {HEADER_BYTES} bytes",
        f"`[A-Za-z_][A-Za-z0-9_.-]{{0,{limits.FUNCTION_NAME_LENGTH - 1}}}`",
        f"the {len(PROLOGUE)} bytes `{PROLOGUE.decode()}`",
    ):
        assert said in TEXT


@pytest.mark.parametrize("suite", Suite, ids=lambda suite: suite.name)
def test_the_suites(suite):
    """Bytes and names."""
    assert f"| `0x{suite.code:02x}` | `{suite.protocol}` |" in TEXT


def test_the_types_of_frames():
    """Bytes and names."""
    assert ", ".join(f"`0x{kind.value:02x}` {kind.name}" for kind in FrameType) in TEXT


def test_labels_and_paths():
    """A label with a typing error is a protocol that nobody speaks."""
    for name in ("id", "request", "response", "call"):
        assert f'"{schedule._LABEL.decode()}{name}"' in TEXT
    assert f'label = "{tickets._LABEL.decode()}"' in TEXT
    for path in raystream.PATHS:
        assert f"`{'GET' if path == raystream.WELL_KNOWN else 'POST'} {path}`" in TEXT
    assert raystream.REFUSED in " ".join(TEXT.split())


def test_the_example_of_the_well_known_answer():
    """Valid JSON with the names that the gateway uses."""
    example = json.loads(re.search(r"```json\n(.*?)```", TEXT, re.DOTALL)[1])["raystream"]
    assert example["suites"] == [suite.protocol for suite in Suite]
    assert (example["handshake"], example["rpc"]) == (raystream.HANDSHAKE, raystream.RPC)
    assert set(example) == {"versions", "suites", "public_keys", "handshake", "rpc"}


def test_files():
    """What it points to is there."""
    for path in re.findall(r"`((?:tests|docs)/[\w./-]+\.(?:py|json))`", TEXT):
        assert (ROOT / path).is_file(), path
    assert set(re.findall(r"`(raystream-[\w.-]+)`", TEXT)) == {"raystream-vectors.json"}
