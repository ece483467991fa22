"""Plays published Noise_NK vectors through both sides. The test Worker has a copy: it imports the core alone."""

from __future__ import annotations

from typing import Any

from kontract.core.security.raystream.noise import CipherState, Initiator, Responder
from kontract.core.security.raystream.suites import Suite
from kontract.ports import Crypto

Vector = dict[str, Any]


def sides(crypto: Crypto, vector: Vector) -> tuple[Initiator, Responder]:
    """Both sides of a vector, before the first message."""
    suite = next(suite for suite in Suite if suite.protocol == vector["protocol_name"])
    given = {key: bytes.fromhex(value) for key, value in vector.items() if key.startswith(("init_", "resp_"))}
    public = crypto.x25519_public(given["resp_static"])
    return (
        Initiator(crypto, suite, given["init_prologue"], given["init_remote_static"], given["init_ephemeral"]),
        Responder(crypto, suite, given["resp_prologue"], given["resp_static"], public),
    )


def play(crypto: Crypto, vector: Vector) -> dict[str, Any]:
    """Every message of a vector as the sender makes it and as the receiver reads it, and the handshake's hash."""
    initiator, responder = sides(crypto, vector)
    texts = [bytes.fromhex(message["payload"]) for message in vector["messages"]]
    first = initiator.write(texts[0])
    read = [responder.read(first)]
    responder.agree(bytes.fromhex(vector["resp_ephemeral"]))
    second = responder.write(texts[1])
    read.append(initiator.read(second))
    assert initiator.hash == responder.hash
    assert initiator.binding == responder.binding
    made = [first, second]
    cipher = next(suite for suite in Suite if suite.protocol == vector["protocol_name"]).cipher
    keys = initiator.split()
    assert keys == responder.split()
    sending, receiving = ([CipherState(crypto, cipher, key) for key in keys] for _ in range(2))
    for number, text in enumerate(texts[2:]):
        made.append(sending[number % 2].encrypt(b"", text))
        read.append(receiving[number % 2].decrypt(b"", made[-1]))
    return {
        "ciphertexts": [message.hex() for message in made],
        "payloads": [text.hex() for text in read],
        "handshake_hash": initiator.hash.hex(),
    }


def wanted(vector: Vector) -> dict[str, Any]:
    """What ``play`` must give; snow publishes no hash."""
    return {
        "ciphertexts": [message["ciphertext"] for message in vector["messages"]],
        "payloads": [message["payload"] for message in vector["messages"]],
        "handshake_hash": vector.get("handshake_hash", ""),
    }
