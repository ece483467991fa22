"""The published vectors are what the product makes, and what a second implementation makes from the document."""

import json

import msgspec
import pytest

from kontract.cli.toolchain.checkout import Checkout
from kontract.core.security import keys
from kontract.core.security.raystream.server import HandshakeServer
from kontract.core.security.raystream.suites import RaystreamError
from kontract.server.crypto import NativeCrypto
from support import raystream_reference as reference
from support.raystream_vectors import text

PATH = Checkout.find().root / "docs" / "reference" / "raystream-vectors.json"
VECTORS = json.loads(PATH.read_text(encoding="utf-8"))
DEPLOYMENT = {name: bytes.fromhex(value) for name, value in VECTORS["deployment"].items()}
SERVER = HandshakeServer(NativeCrypto(), keys.ring(DEPLOYMENT["secret"], DEPLOYMENT["previous_secret"]))

each_conversation = pytest.mark.parametrize("talk", VECTORS["conversations"], ids=lambda talk: talk["suite"])


def test_the_file_is_up_to_date():
    """A change of one byte on the wire is a new version of the protocol, not a surprise for those who have clients."""
    made = text(NativeCrypto())
    assert made == PATH.read_text(encoding="utf-8"), "run tests/support/raystream_vectors.py as it says, or undo"


def test_keys_of_the_deployment():
    """From KONTRACT_SECRET to the keys, by hand."""
    root = reference.mac(b"kontract/v1", DEPLOYMENT["secret"])
    assert root == DEPLOYMENT["root"]
    assert reference.expand(root, b"kontract/v1/raystream/static") == DEPLOYMENT["static_private"]
    assert reference.expand(root, b"kontract/v1/raystream/ticket") == DEPLOYMENT["ticket_key"]
    assert reference.public(DEPLOYMENT["static_private"]) == DEPLOYMENT["static_public"]
    previous = reference.mac(b"kontract/v1", DEPLOYMENT["previous_secret"])
    static = reference.expand(previous, b"kontract/v1/raystream/static")
    assert reference.public(static) == DEPLOYMENT["previous_static_public"]


@each_conversation
def test_another_implementation_makes_the_same_conversation(talk):
    """Handshake, ticket, requests and responses."""
    given = {name: bytes.fromhex(value) for name, value in talk.items() if isinstance(value, str) and name != "suite"}
    code = talk["suite_code"]
    made = reference.Transcript(code, DEPLOYMENT["static_private"], given["client_ephemeral_private"], given["token"])
    assert made.hello.hex() == talk["hello"]
    made.agree(given["server_ephemeral_private"])
    assert made.binding.hex() == talk["binding"]
    assert [key.hex() for key in made.split] == talk["split"]
    assert made.secret.hex() == talk["session_secret"]
    assert reference.expand(made.secret, b"kontract/raystream/v1/id")[:16].hex() == talk["session_id"]
    content = msgspec.msgpack.encode([code, made.secret, talk["now"], talk["expires"], given["principal"]])
    ticket = reference.ticket(DEPLOYMENT["ticket_key"], given["ticket_salt"], content)
    assert ticket.hex() == talk["ticket"]
    lifetime = talk["expires"] - talk["now"]
    assert made.welcome(b"\1" + lifetime.to_bytes(4, "big") + ticket).hex() == talk["welcome"]
    for number, one in enumerate(talk["requests"], start=1):
        assert one["sequence"] == number
        plaintext = reference.call(one["elapsed"], one["function"], one["headers"], bytes.fromhex(one["body"]))
        assert plaintext.hex() == one["plaintext"]
        assert reference.expand(made.secret, reference.label(b"request", number)).hex() == one["key"]
        assert reference.request(code, made.secret, ticket, number, plaintext).hex() == one["message"]
        call = reference.expand(made.secret, reference.label(b"call", number))[:20]
        assert f"ray-{call.hex()}" == one["call_id"]
        answer = reference.reply(one["status"], one["response_headers"], bytes.fromhex(one["response_body"]))
        for each in one["responses"]:
            salt = bytes.fromhex(each["salt"])
            assert answer.hex() == each["plaintext"]
            assert reference.expand(made.secret, reference.label(b"response", number, salt)).hex() == each["key"]
            assert reference.response(code, made.secret, number, salt, answer).hex() == each["message"]


def test_another_implementation_is_denied_in_the_same_words():
    """The answer to a token that is not accepted."""
    talk = VECTORS["denied"]
    made = reference.Transcript(
        1, DEPLOYMENT["static_private"], bytes.fromhex(talk["client_ephemeral_private"]), bytes.fromhex(talk["token"])
    )
    assert made.hello.hex() == talk["hello"]
    made.agree(bytes.fromhex(talk["server_ephemeral_private"]))
    payload = b"\2" + reference.reply(talk["status"], talk["headers"], bytes.fromhex(talk["body"]))
    assert made.welcome(payload).hex() == talk["welcome"]


@each_conversation
def test_the_requests_are_accepted(talk):
    """What the list below refuses differs from these in one thing each."""
    for one in talk["requests"]:
        opened = SERVER.open(bytes.fromhex(one["message"]), talk["now"] + one["elapsed"])
        assert (opened.call.function, opened.sequence) == (one["function"], one["sequence"])


@pytest.mark.parametrize("case", VECTORS["refused"], ids=lambda case: case["why"])
def test_what_must_be_refused(case):
    """Every one of them, without a word."""
    with pytest.raises(RaystreamError):
        SERVER.open(bytes.fromhex(case["message"]), case["now"])
