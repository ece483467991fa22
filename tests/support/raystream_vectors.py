"""Makes raystream-vectors.json: a whole conversation in each suite, from fixed randomness, and what is refused.

Run: .venv/bin/python tests/support/raystream_vectors.py > docs/reference/raystream-vectors.json

The test Worker has a copy, to make the same file inside workerd: so the core alone is imported at the top.
"""

from __future__ import annotations

import json
from typing import Any

from kontract.core.security import hkdf, keys
from kontract.core.security.raystream import frames, payloads, schedule
from kontract.core.security.raystream.client import ClientHandshake, SealedSession
from kontract.core.security.raystream.frames import FrameType
from kontract.core.security.raystream.payloads import Reply, SealedCall
from kontract.core.security.raystream.server import HandshakeServer, Randoms
from kontract.core.security.raystream.suites import PROLOGUE, Suite
from kontract.ports import Crypto

SECRET, PREVIOUS = bytes(range(32)), bytes(range(32, 64))
NOW, EXPIRES = 1_800_000_000_000, 1_800_000_600_000
TOKEN = b"eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhbm4ifQ.c2lnbmF0dXJl"
PRINCIPAL = b"what the server remembers"

CALLS = [
    SealedCall("get_task", {}, b'["018f"]', 12),
    SealedCall("create_task", {"idempotency-key": "k-1", "x-request-id": "r1"}, '["Käse kaufen"]'.encode(), 1_500),
    SealedCall("total", {}, b"", 599_999),
]
REPLIES = [
    Reply(200, {"content-type": "application/json"}, b'{"result":{"id":"018f"}}'),
    Reply(201, {"content-type": "application/json", "x-kontract-txid": "7"}, '{"result":"Käse"}'.encode()),
    Reply(204, {}, b""),
]


def number(label: int) -> bytes:
    """32 bytes in place of random ones."""
    return bytes([label]) * 32


def generate(crypto: Crypto) -> dict[str, Any]:
    """All vectors; bytes are in hexadecimal."""
    ring = keys.ring(SECRET, PREVIOUS)
    server = HandshakeServer(crypto, ring)
    return {
        "about": "Test vectors of raystream, version 1. raystream.md beside them explains every field; bytes are "
        "hexadecimal.",
        "prologue": PROLOGUE.hex(),
        "deployment": {
            "secret": SECRET.hex(),
            "root": hkdf.extract(b"kontract/v1", SECRET).hex(),
            "static_private": ring.current.raystream_static.hex(),
            "static_public": server.public_keys[0].hex(),
            "ticket_key": ring.current.raystream_ticket.hex(),
            "previous_secret": PREVIOUS.hex(),
            "previous_static_public": server.public_keys[1].hex(),
        },
        "conversations": [conversation(crypto, server, suite) for suite in Suite],
        "denied": denied(crypto, server),
        "refused": refused(crypto, server),
    }


def conversation(crypto: Crypto, server: HandshakeServer, suite: Suite) -> dict[str, Any]:
    """A handshake, three requests, and two answers to each."""
    handshake = ClientHandshake(crypto, server.public_keys[0], number(0x11), suite)
    hello = handshake.hello(TOKEN)
    welcome = server.begin(hello).grant(PRINCIPAL, NOW, EXPIRES, Randoms(number(0x22), number(0x33)))
    session = handshake.finish(welcome)
    assert isinstance(session, SealedSession)
    initiator = handshake._initiator
    return {
        "suite": suite.protocol,
        "suite_code": suite.code,
        "token": TOKEN.hex(),
        "client_ephemeral_private": number(0x11).hex(),
        "server_ephemeral_private": number(0x22).hex(),
        "hello": hello.hex(),
        "now": NOW,
        "expires": EXPIRES,
        "principal": PRINCIPAL.hex(),
        "ticket_salt": number(0x33).hex(),
        "ticket": session._ticket.hex(),
        "welcome": welcome.hex(),
        "binding": initiator.binding.hex(),
        "split": [key.hex() for key in initiator.split()],
        "session_secret": session._secret.hex(),
        "session_id": session.id,
        "requests": [exchange(server, session, call, reply) for call, reply in zip(CALLS, REPLIES, strict=True)],
    }


def exchange(server: HandshakeServer, session: SealedSession, call: SealedCall, reply: Reply) -> dict[str, Any]:
    """A request and two answers of two servers to it."""
    sealed = session.seal(call)
    opened = server.open(sealed.message, NOW + call.elapsed)
    responses = []
    for label in (0x44, 0x55):
        salt = number(label + sealed.sequence)
        message = opened.reply(reply, salt)
        assert session.open(sealed.sequence, message) == reply
        responses.append(
            {
                "salt": salt.hex(),
                "key": schedule.response_key(session._secret, sealed.sequence, salt).hex(),
                "plaintext": payloads.encode_reply(reply).hex(),
                "message": message.hex(),
            }
        )
    return {
        "sequence": sealed.sequence,
        "elapsed": call.elapsed,
        "function": call.function,
        "headers": dict(call.headers),
        "body": call.body.hex(),
        "plaintext": payloads.encode_call(call).hex(),
        "key": schedule.request_key(session._secret, sealed.sequence).hex(),
        "call_id": opened.call_id,
        "message": sealed.message.hex(),
        "status": reply.status,
        "response_headers": dict(reply.headers),
        "response_body": reply.body.hex(),
        "responses": responses,
    }


def denied(crypto: Crypto, server: HandshakeServer) -> dict[str, Any]:
    """A handshake with a token that is not accepted."""
    handshake = ClientHandshake(crypto, server.public_keys[0], number(0x66))
    hello = handshake.hello(b"expired")
    reply = Reply(401, {"content-type": "application/json"}, b'{"error":"UNAUTHORIZED"}')
    welcome = server.begin(hello).deny(reply, number(0x77))
    return {
        "suite": Suite.CHACHAPOLY.protocol,
        "token": b"expired".hex(),
        "client_ephemeral_private": number(0x66).hex(),
        "server_ephemeral_private": number(0x77).hex(),
        "hello": hello.hex(),
        "welcome": welcome.hex(),
        "status": reply.status,
        "headers": dict(reply.headers),
        "body": reply.body.hex(),
    }


def refused(crypto: Crypto, server: HandshakeServer) -> list[dict[str, Any]]:
    """Requests of the first conversation that a server refuses at the time ``now``, each for another reason."""
    handshake = ClientHandshake(crypto, server.public_keys[0], number(0x11))
    welcome = server.begin(handshake.hello(TOKEN)).grant(PRINCIPAL, NOW, EXPIRES, Randoms(number(0x22), number(0x33)))
    session = handshake.finish(welcome)
    assert isinstance(session, SealedSession)
    message = session.seal(CALLS[0]).message
    ticket, frame = frames.detach_ticket(message)
    stale = session.seal(SealedCall("total", {}, b"", 600_000)).message

    def changed(position: int, value: int) -> bytes:
        return frames.attach_ticket(ticket, frame[:position] + bytes([value]) + frame[position + 1 :])

    cases = {
        "version 2": (changed(0, 2), NOW),
        "type response": (changed(1, FrameType.RESPONSE), NOW),
        "a flag": (changed(3, 1), NOW),
        "sequence 0": (changed(7, 0), NOW),
        "another sequence": (changed(7, 2), NOW),
        "a length that is not the rest's": (changed(11, frame[11] ^ 1), NOW),
        "a reserved byte": (changed(15, 1), NOW),
        "a changed ciphertext": (changed(16, frame[16] ^ 1), NOW),
        "a changed tag": (changed(len(frame) - 1, frame[-1] ^ 1), NOW),
        "a byte too many": (message + b"\0", NOW),
        "a byte too few": (message[:-1], NOW),
        "no ticket": (frames.attach_ticket(b"", frame), NOW),
        "a changed ticket": (frames.attach_ticket(ticket[:-1] + bytes([ticket[-1] ^ 1]), frame), NOW),
        "a request that is 30,001 ms late": (message, NOW + CALLS[0].elapsed + 30_001),
        "an expired ticket": (stale, EXPIRES),
    }
    return [{"why": why, "message": bad.hex(), "now": now} for why, (bad, now) in cases.items()]


def text(crypto: Crypto) -> str:
    """The file."""
    return json.dumps(generate(crypto), indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    from kontract.server.crypto import NativeCrypto

    print(text(NativeCrypto()), end="")
