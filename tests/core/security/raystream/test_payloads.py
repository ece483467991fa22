"""What is sealed: every call, reply and verdict survives the way, and one form of each is accepted."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from kontract.core import limits
from kontract.core.security.raystream.payloads import (
    Reply,
    SealedCall,
    SealedGrant,
    decode_call,
    decode_reply,
    decode_verdict,
    encode_call,
    encode_reply,
    encode_verdict,
)
from kontract.core.security.raystream.suites import RaystreamError

NAMES = st.from_regex(r"\A[A-Za-z_][A-Za-z0-9_.-]{0,127}\Z")
VALUES = st.from_regex(r"\A([!-~\x80-\xff]([\t -~\x80-\xff]*[!-~\x80-\xff])?)?\Z").filter(lambda text: len(text) < 4097)
HEADERS = st.dictionaries(
    st.from_regex(r"\A[a-z0-9!#$%&'*+.^_`|~-]{1,64}\Z"), VALUES, max_size=limits.RAYSTREAM_HEADERS
)
CALLS = st.builds(SealedCall, NAMES, HEADERS, st.binary(max_size=300), st.integers(0, 2**32 - 1))
REPLIES = st.builds(Reply, st.integers(100, 599), HEADERS, st.binary(max_size=300))
VERDICTS = st.one_of(REPLIES, st.builds(SealedGrant, st.integers(0, 2**32 - 1), st.binary(min_size=1, max_size=300)))

CODECS = [
    (encode_call, decode_call, CALLS),
    (encode_reply, decode_reply, REPLIES),
    (encode_verdict, decode_verdict, VERDICTS),
]
each_codec = pytest.mark.parametrize(("encode", "decode", "things"), CODECS, ids=["call", "reply", "verdict"])


def test_the_bytes_are_those_of_the_documentation():
    """As another implementation writes them."""
    call = SealedCall("create_task", {"idempotency-key": "k1"}, b'["Buy milk"]', 1500)
    assert encode_call(call) == (b'\x00\x00\x05\xdc\x0bcreate_task\x01\x0fidempotency-key\x00\x02k1["Buy milk"]')
    assert encode_reply(Reply(404, {}, b"{}")) == b"\x01\x94\x00{}"
    assert encode_verdict(SealedGrant(3_600_000, b"ticket")) == b"\x01\x00\x36\xee\x80ticket"
    assert encode_verdict(Reply(401, {}, b"{}")) == b"\x02\x01\x91\x00{}"


@each_codec
def test_everything_survives(encode, decode, things):
    """What is decoded is what was encoded."""

    @given(things)
    def check(thing):
        assert decode(encode(thing)) == thing

    check()


@each_codec
def test_anything_may_arrive(encode, decode, things):
    """One error, or something that has exactly this form: no two forms mean the same."""

    @given(
        st.one_of(
            st.binary(max_size=100), st.tuples(things, st.data()).map(lambda pair: mutate(encode(pair[0]), pair[1]))
        )
    )
    @example(b"")
    def check(data):
        try:
            thing = decode(data)
        except RaystreamError:
            return
        assert encode(thing) == data

    check()


def mutate(encoded: bytes, data: st.DataObject) -> bytes:
    """A byte changed, left out, put in, or the end cut off."""
    at = data.draw(st.integers(0, len(encoded) - 1))
    byte = data.draw(st.binary(min_size=1, max_size=1))
    how = data.draw(st.sampled_from(["change", "drop", "insert", "cut"]))
    after = {"change": encoded[at + 1 :], "drop": encoded[at + 1 :], "insert": encoded[at:], "cut": b""}[how]
    return encoded[:at] + (byte if how in ("change", "insert") else b"") + after


@each_codec
def test_headers_that_are_cut_off(encode, decode, things):
    """Where bytes are missing, the rest is not taken for something else."""
    headers = b"\x02\x01a\x00\x01x\x01b\x00\x01y"
    front = {"encode_call": b"\0\0\0\0\x01f", "encode_reply": b"\0\xc8", "encode_verdict": b"\x02\0\xc8"}[
        encode.__name__
    ]
    assert decode(front + headers).headers == {"a": "x", "b": "y"}
    for size in range(len(front + headers)):
        with pytest.raises(RaystreamError):
            decode((front + headers)[:size])


@pytest.mark.parametrize(
    "headers",
    [
        b"\x01\x00\x00\x00",  # a name of no length
        b"\x01\x01A\x00\x00",  # upper case
        b"\x01\x02a:\x00\x00",
        b"\x01\x01\n\x00\x00",
        b"\x01\x01a\x00\x01\n",
        b"\x01\x01a\x00\x04x\r\ny",
        b"\x01\x01a\x00\x01\x00",
        b"\x01\x01a\x00\x02 x",  # leading and trailing space is none of the value's
        b"\x01\x01a\x00\x02x ",
        b"\x01\x01a\x00\x01\x7f",
        b"\x02\x01a\x00\x00\x01a\x00\x00",  # twice the same
        b"\x01\x41" + b"a" * 65 + b"\x00\x00",
        b"\x01\x01a\x10\x01" + b"x" * 4097,
        bytes([limits.RAYSTREAM_HEADERS + 1]) + b"".join(b"\x01%c\x00\x00" % (97 + n % 26) for n in range(33)),
    ],
)
def test_headers_that_http_would_not_carry(headers):
    """A line break in a value would become a header of its own at the next hop."""
    with pytest.raises(RaystreamError):
        decode_reply(b"\0\xc8" + headers)
    with pytest.raises(RaystreamError):
        decode_call(b"\0\0\0\0\x01f" + headers)


@pytest.mark.parametrize("name", [b"", b"1f", b"a/b", b"..", b"a b", b"a\0", b"\xc3\xa4", b"f" * 129])
def test_names_that_no_function_has(name):
    """The same names as in a path: nothing can be smuggled past the look-up."""
    with pytest.raises(RaystreamError):
        decode_call(b"\0\0\0\0" + bytes([len(name)]) + name + b"\0")


@pytest.mark.parametrize("status", [0, 99, 600, 65_535])
def test_statuses_that_http_has_not(status):
    """They would break the client that turns them into answers."""
    with pytest.raises(RaystreamError):
        decode_reply(status.to_bytes(2, "big") + b"\0")
    with pytest.raises(ValueError, match="status"):
        encode_reply(Reply(status, {}, b""))


@pytest.mark.parametrize(
    "verdict", [b"", b"\0", b"\x03", b"\x01", b"\x01\0\0\0", b"\x01\0\0\0\0", b"\x02", b"\x01\0\0\0\0" + bytes(8_193)]
)
def test_verdicts_that_are_none(verdict):
    """A ticket of no length, one that is too long, another kind."""
    with pytest.raises(RaystreamError):
        decode_verdict(verdict)


@pytest.mark.parametrize(
    "headers",
    [
        {"a b": "x"},
        {"ä": "x"},
        {"": "x"},
        {"a": "x\r\nb: y"},
        {"a": " x"},
        {"a": "€"},
        {"a": "x", "A": "y"},
        {"a": "x" * 4097},
    ],
)
def test_headers_that_cannot_be_sent(headers):
    """Said before anything is sealed, to the program that wrote them."""
    with pytest.raises(ValueError, match="header"):
        encode_reply(Reply(200, headers, b""))


@pytest.mark.parametrize("function", ["", "a/b", "ä", "f" * 129])
def test_functions_that_cannot_be_called(function):
    """Said before a number is used up."""
    with pytest.raises(ValueError, match="name of a function"):
        encode_call(SealedCall(function, {}, b"", 0))


def test_too_many_headers():
    """At the limit and one above it."""
    most = {f"h{n}": "" for n in range(limits.RAYSTREAM_HEADERS)}
    assert decode_reply(encode_reply(Reply(200, most, b""))).headers == most
    with pytest.raises(ValueError, match="more than"):
        encode_reply(Reply(200, {**most, "one": ""}, b""))
