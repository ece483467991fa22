"""The frame's header: what is defined is accepted, and nothing else."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from kontract.core import limits
from kontract.core.security.raystream.frames import MAX_SEQUENCE, FrameType, attach_ticket, detach_ticket, header, parse
from kontract.core.security.raystream.suites import RaystreamError

KINDS = st.sampled_from(FrameType)


def sequence_of(kind: FrameType) -> int:
    return 7 if kind.numbered else 0


def test_the_header_is_that_of_the_documentation():
    """Byte by byte, as another implementation writes it."""
    made = header(FrameType.REQUEST, 0x01020304, 0x0A0B0C0D)
    assert made.hex() == "01030000010203040a0b0c0d00000000"
    assert [kind.value for kind in FrameType] == [1, 2, 3, 4]


@given(KINDS, st.integers(1, MAX_SEQUENCE), st.binary(max_size=100))
def test_a_frame_comes_apart_into_what_it_was_made_of(kind, number, payload):
    """All types, all sequence numbers."""
    sequence = number if kind.numbered else 0
    head = header(kind, sequence, len(payload))
    frame = parse(head + payload, kind)
    assert (frame.header, frame.sequence, frame.payload) == (head, sequence, payload)


@pytest.mark.parametrize("kind", FrameType)
def test_a_frame_of_another_type_is_refused(kind):
    """A request replayed as a response, a welcome as a hello, and so on."""
    for other in FrameType:
        if other is not kind:
            with pytest.raises(RaystreamError):
                parse(header(kind, sequence_of(kind), 0), other)


@pytest.mark.parametrize("kind", FrameType)
@pytest.mark.parametrize(
    "position", [0, 1, 2, 3, 8, 9, 10, 11, 12, 13, 14, 15], ids=lambda position: f"byte {position}"
)
def test_every_bit_that_is_not_defined_must_be_zero(kind, position):
    """Version, type, flags, length and reserved: whatever is sent now could mean something later."""
    good = header(kind, sequence_of(kind), 4) + b"body"
    parse(good, kind)
    for bit in range(8):
        bad = bytearray(good)
        bad[position] ^= 1 << bit
        with pytest.raises(RaystreamError):
            parse(bytes(bad), kind)


@pytest.mark.parametrize(
    ("kind", "sequence", "refused"),
    [
        (FrameType.HELLO, 0, False),
        (FrameType.HELLO, 1, True),
        (FrameType.WELCOME, 0, False),
        (FrameType.WELCOME, MAX_SEQUENCE, True),
        (FrameType.REQUEST, 0, True),
        (FrameType.REQUEST, 1, False),
        (FrameType.REQUEST, MAX_SEQUENCE, False),
        (FrameType.RESPONSE, 0, True),
        (FrameType.RESPONSE, 1, False),
        (FrameType.RESPONSE, MAX_SEQUENCE, False),
    ],
)
def test_the_edges_of_the_sequence(kind, sequence, refused):
    """0 belongs to the handshake, everything else to requests and responses."""
    if refused:
        with pytest.raises(RaystreamError):
            parse(header(kind, sequence, 0), kind)
    else:
        assert parse(header(kind, sequence, 0), kind).sequence == sequence


@given(KINDS, st.binary(max_size=64))
@example(FrameType.HELLO, bytes(16))
def test_anything_may_arrive(kind, message):
    """One error, or a frame that is made of exactly these bytes."""
    try:
        frame = parse(message, kind)
    except RaystreamError:
        return
    assert header(kind, frame.sequence, len(frame.payload)) + frame.payload == message


@given(st.binary(max_size=300), st.binary(max_size=50))
def test_ticket_and_frame_come_apart(ticket, frame):
    """Whatever they hold."""
    assert detach_ticket(attach_ticket(ticket, frame)) == (ticket, frame)


@pytest.mark.parametrize("message", [b"", b"\0", b"\0\x01", b"\0\x05four", b"\xff\xff" + bytes(65_534)])
def test_a_ticket_that_is_not_all_there(message):
    """Nothing is read beyond the end."""
    with pytest.raises(RaystreamError):
        detach_ticket(message)


def test_a_ticket_of_the_largest_size():
    """At the limit and one byte above it."""
    largest = bytes(limits.RAYSTREAM_TICKET_BYTES)
    assert detach_ticket(attach_ticket(largest, b"f")) == (largest, b"f")
    with pytest.raises(RaystreamError):
        detach_ticket(attach_ticket(largest + b"x", b"f"))
