"""raystream inside workerd: the same bytes as on CPython, from the same fixed randomness."""

import json
from pathlib import Path

import support
from support.noise_nk import wanted


def test_published_noise_vectors(laboratory):
    """The handshake as everybody else speaks it."""
    vectors = json.loads((Path(support.__file__).parent / "noise_nk.json").read_text())["vectors"]
    played = laboratory.run("support.in_workerd", "noise", vectors)
    for vector, one in zip(vectors, played, strict=True):
        assert one == wanted(vector) | {"handshake_hash": vector.get("handshake_hash", one["handshake_hash"])}


def test_the_vectors_of_the_documentation(laboratory, checkout):
    """Keys, tickets, requests and responses: a session may begin on a server and go on in a Worker."""
    written = (checkout.root / "docs" / "reference" / "raystream-vectors.json").read_text(encoding="utf-8")
    assert laboratory.run("support.in_workerd", "raystream", None) == written
