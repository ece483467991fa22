"""W3C Trace Context: what is not valid to the letter starts a new trace."""

import pytest

from kontract.core.trace import begin, parse

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
GOOD = f"00-{TRACE}-{PARENT}-01"


@pytest.mark.parametrize(
    ("text", "sampled"),
    [
        (GOOD, True),
        (f"00-{TRACE}-{PARENT}-00", False),
        (f"00-{TRACE}-{PARENT}-03", True),
        (f"cc-{TRACE}-{PARENT}-01", True),
        (f"cc-{TRACE}-{PARENT}-01-what the future holds", True),
    ],
)
def test_valid_parents_are_continued(text, sampled):
    assert parse(text) == (TRACE, sampled)


@pytest.mark.parametrize(
    "text",
    [
        "",
        GOOD.upper(),
        f"ff{GOOD[2:]}",
        f"{GOOD}-more",
        f"cc{GOOD[2:]}.more",
        f"cc{GOOD[2:]}0",
        GOOD[:-1],
        f"{GOOD}\n",
        f"00-{'0' * 32}-{PARENT}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"{GOOD}, {GOOD}",
        f" {GOOD}",
        GOOD.replace("-", "_"),
        f"00-{TRACE[:-1]}-{PARENT}-01",
        f"00-{TRACE[:-1]}g-{PARENT}-01",
        f"00-{TRACE[:-1]}\uff11-{PARENT}-01",
        "*/; DROP",
    ],
)
def test_everything_else_starts_a_new_trace(text):
    assert parse(text) is None
    span = begin(text, bytes(range(24)))
    assert (span.trace_id, span.span_id, span.sampled) == (bytes(range(16)).hex(), bytes(range(16, 24)).hex(), False)


def test_the_span_is_our_own_and_is_passed_on_as_parent():
    assert begin(GOOD, bytes(24)).traceparent == f"00-{TRACE}-{'0' * 16}-01"
