"""The parser of server-sent events against the cases of the standard (WHATWG HTML, section 9.2.6)."""

from __future__ import annotations

import random

import pytest

from kontract.client.sse import Parser, ServerSentEvent
from kontract.gateway import sse

CASES = [
    # (stream, events as (event, data, id))
    ("data: YHOO\ndata: +2\ndata: 10\n\n", [("message", "YHOO\n+2\n10", "")]),
    (
        ": test stream\n\ndata: first event\nid: 1\n\ndata:second event\nid\n\ndata:  third event\n\n",
        [("message", "first event", "1"), ("message", "second event", ""), ("message", " third event", "")],
    ),
    ("data\n\ndata\ndata\n\ndata:", [("message", "", ""), ("message", "\n", "")]),
    ("data:test\n\ndata: test\n\n", [("message", "test", ""), ("message", "test", "")]),
    ("event: add\ndata: 73857293\n\nevent: remove\ndata: 2153\n\n", [("add", "73857293", ""), ("remove", "2153", "")]),
    ("\ufeffdata: bom\n\n", [("message", "bom", "")]),
    ("data: a\n\ufeffdata: b\n\n", [("message", "a", "")]),
    (
        "data: cr\r\rdata: crlf\r\n\r\ndata: mixed\r\n\n",
        [("message", "cr", ""), ("message", "crlf", ""), ("message", "mixed", "")],
    ),
    ("id: 1\n\ndata: later\n\n", [("message", "later", "1")]),
    ("id: a\0b\ndata: x\n\n", [("message", "x", "")]),
    ("id: 7\ndata: x\n\nid\ndata: y\n\n", [("message", "x", "7"), ("message", "y", "")]),
    ("event: lonely\n\ndata: x\n\n", [("message", "x", "")]),
    ("nonsense: x\ndata: é ü 🎈\nData: no\n\n", [("message", "é ü 🎈", "")]),
    ("data: unfinished\n", []),
    ("retry: 1500\ndata: a\n\n", [("message", "a", "")]),
    ("data: a:b: c\n\n", [("message", "a:b: c", "")]),
]


def parse(data: bytes, sizes) -> list[tuple[str, str, str]]:
    parser, events = Parser(), []
    while data:
        size = next(sizes)
        events += parser.feed(data[:size])
        data = data[size:]
    return [(event.event, event.data, event.id) for event in events]


@pytest.mark.parametrize("cut", ["whole", "bytes", "random"])
@pytest.mark.parametrize(("text", "events"), CASES)
def test_the_standards_cases_however_they_are_cut(text, events, cut):
    """Pieces end anywhere: between CR and LF, and within a character."""
    dice = random.Random(text)
    sizes = {"whole": iter([10_000]), "bytes": iter(lambda: 1, 0), "random": iter(lambda: dice.randint(1, 7), 0)}[cut]
    assert parse(text.encode(), sizes) == events


@pytest.mark.parametrize(
    ("field", "retry"), [("1500", 1500), ("", None), ("-1", None), ("1.5", None), ("x", None), ("٣", None)]
)
def test_only_digits_are_a_time(field, retry):
    parser = Parser()
    parser.feed(f"retry: {field}\n\n".encode())
    assert parser.retry == retry


def test_a_connection_goes_on_with_the_id_of_the_one_before():
    assert Parser("g1-7").feed(b"data: x\n\n") == [ServerSentEvent("message", "x", "g1-7")]


def test_what_the_gateway_writes_is_what_is_read():
    """The encoder against the parser: values with line breaks and every kind of character."""
    value = {"text": "line\r\nbreak\n\u2028é🎈\x7f", "n": [1, None]}
    (event,) = Parser().feed(sse.event(value, name="ready", id="g1-5"))
    assert (event.event, event.id) == ("ready", "g1-5")
    assert "\n" not in event.data
    for bad in ({"name": "a\nb"}, {"id": "1\n2"}, {"id": "a\0"}):
        with pytest.raises(ValueError, match="one line"):
            sse.event({}, **bad)
