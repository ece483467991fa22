"""What is tried again, with which key, after which pauses, and what is said about the outcome in the end."""

from __future__ import annotations

import math

import pytest

from kontract import ConflictError, NotFoundError, UnavailableError
from kontract.client import (
    Answer,
    ConnectionFailedError,
    InvalidAnswerError,
    Retries,
    UnknownCodeError,
    UnsealedAnswerError,
)
from kontract.core.errors import Code, HttpError
from support.scripted import LoadedDice, ok, refused, scripted

AGAIN = {Code.CONFLICT, Code.UNAVAILABLE, Code.BUSY, Code.COMMIT_UNKNOWN, Code.DEADLINE_EXCEEDED}


def lost() -> ConnectionFailedError:
    error = ConnectionFailedError("lost")
    error.maybe_applied = True
    return error


def unsent() -> ConnectionFailedError:
    return ConnectionFailedError("refused")


def unsealed(status: int) -> UnsealedAnswerError:
    error = UnsealedAnswerError("not sealed")
    error.status = status
    return error


@pytest.mark.parametrize("code", Code, ids=lambda code: code.name)
async def test_the_codes_that_pass_are_tried_again(code):
    """FENCED is not: it lasts until somebody acts. Nor is RATE_LIMITED: waiting is the caller's decision."""
    api, script, _ = scripted(refused(code), ok(1))
    if code in AGAIN:
        assert await api.f() == 1
    else:
        with pytest.raises(HttpError):
            await api.f()
    assert len(script.sent) == (2 if code in AGAIN else 1)


@pytest.mark.parametrize("status", [502, 503, 504, 520, 524, 530])
async def test_a_proxy_without_its_server_is_tried_again(status):
    """Its page has no code, but its status says it."""
    api, script, _ = scripted(Answer(status, {}, b"<html>"), unsealed(status), ok(1))
    assert await api.f() == 1
    assert len(script.sent) == 3


@pytest.mark.parametrize(
    "answer", [Answer(500, {}, b"<html>"), Answer(404, {}, b""), unsealed(404), Answer(200, {}, b"<html>")]
)
async def test_strange_answers_are_not_tried_again(answer):
    """The next one would be as strange."""
    api, script, _ = scripted(answer)
    with pytest.raises((UnknownCodeError, UnsealedAnswerError, InvalidAnswerError)):
        await api.f()
    assert len(script.sent) == 1


async def test_every_attempt_of_a_call_has_the_same_key_and_the_same_words():
    """That is what makes it apply once; another call has another key."""
    api, script, _ = scripted(lost(), unsent(), refused(Code.COMMIT_UNKNOWN), ok(), ok())
    await api.f("x", 1)
    await api.f("x", 1)
    one, other = script.keys()[0], script.keys()[-1]
    assert script.keys() == [one] * 4 + [other]
    assert one
    assert one != other
    assert {(function, body) for function, _, body in script.sent} == {("f", b'["x",1]')}


async def test_the_callers_own_key_is_used():
    """It may come from an order number, and outlive this program."""
    api, script, _ = scripted(lost(), ok())
    await api.call("f", idempotency_key="order-17")
    assert script.keys() == ["order-17"] * 2


async def test_a_call_that_is_not_repeated_carries_no_key():
    """A key costs the coordinator a record for 24 hours."""
    api, script, _ = scripted(lost(), ok(), retries=Retries.none())
    with pytest.raises(ConnectionFailedError):
        await api.f()
    await api.call("f", idempotency_key="k")
    assert script.keys() == [None, "k"]


@pytest.mark.parametrize("key", ["", "with space", "ümlaut", "x" * 256, "line\nbreak"])
async def test_keys_that_the_gateway_would_refuse_are_refused_here(key):
    """A line break would even be a header of its own."""
    api, script, _ = scripted()
    with pytest.raises(ValueError, match="idempotency key"):
        await api.call("f", idempotency_key=key)
    assert script.sent == []


async def test_pauses_double_up_to_the_longest():
    """And there are so many attempts, no more."""
    policy = Retries(attempts=7, seconds=1000, first_pause=0.1, longest_pause=1)
    api, script, clock = scripted(*[unsent() for _ in range(8)], retries=policy)
    with pytest.raises(ConnectionFailedError):
        await api.f()
    assert len(script.sent) == 7
    assert [round(pause) for pause in clock.slept] == [100, 200, 400, 800, 1000, 1000]


async def test_pauses_are_jittered_over_their_full_length():
    """Callers who failed together do not come back together."""
    api, _, clock = scripted(unsent(), unsent(), ok(), random=LoadedDice(0.25))
    await api.f()
    assert clock.slept == [25, 50]


async def test_retry_after_comes_on_top_of_the_pause():
    """Never earlier than the server asked for."""
    api, _, clock = scripted(refused(Code.BUSY, retry_after="3"), refused(Code.UNAVAILABLE, retry_after="1"), ok())
    await api.f()
    assert clock.slept == [3100, 1200]


async def test_no_attempt_begins_after_the_time_is_over():
    """Whatever the number of attempts."""
    policy = Retries(attempts=1000, seconds=10, first_pause=1, longest_pause=4)
    api, script, clock = scripted(*[unsent() for _ in range(9)], retries=policy)
    start = clock.now()
    with pytest.raises(ConnectionFailedError):
        await api.f()
    assert clock.slept == [1000, 2000, 4000, 3000], "the last pause ends with the time"
    assert clock.now() - start == 10_000
    assert len(script.sent) == 5


async def test_a_server_that_restarts_is_waited_for():
    """As long as `seconds` says, however many attempts that are: five of them were over after a second and a half."""
    api, script, clock = scripted(*[unsent() for _ in range(10)], ok(1))
    start = clock.now()
    assert await api.f() == 1
    assert clock.now() - start == pytest.approx(26_300)
    assert len(script.sent) == 11


async def test_what_attempts_take_counts():
    """A server that is slow to refuse is asked less often."""

    def slow():
        clock.time += 20_000
        return refused(Code.DEADLINE_EXCEEDED)

    api, script, clock = scripted(slow, slow, slow, ok())
    with pytest.raises(HttpError):
        await api.f()
    assert len(script.sent) == 2


async def test_nobody_waits_for_a_retry_after_that_is_too_long():
    """The caller learns at once that it will take longer."""
    api, _, clock = scripted(refused(Code.UNAVAILABLE, retry_after="3600"))
    with pytest.raises(UnavailableError) as caught:
        await api.f()
    assert caught.value.retry_after == 3600
    assert clock.slept == []


@pytest.mark.parametrize(
    ("answers", "kind", "maybe"),
    [
        ([unsent()] * 20, ConnectionFailedError, False),
        ([lost()] + [unsent()] * 20, ConnectionFailedError, True),
        ([refused(Code.CONFLICT)] * 20, ConflictError, False),
        ([lost()] + [refused(Code.CONFLICT)] * 20, ConflictError, True),
        ([refused(Code.COMMIT_UNKNOWN), refused(Code.FENCED)], UnavailableError, True),
        ([refused(Code.COMMIT_UNKNOWN)] + [refused(Code.UNAVAILABLE)] * 20, UnavailableError, True),
        ([Answer(504, {}, b""), refused(Code.NOT_FOUND)], NotFoundError, True),
        ([refused(Code.NOT_FOUND)], NotFoundError, False),
        ([unsent(), refused(Code.NOT_FOUND)], NotFoundError, False),
        ([Answer(200, {}, b"<html>")], InvalidAnswerError, True),
    ],
)
async def test_an_attempt_whose_outcome_is_open_is_never_forgotten(answers, kind, maybe):
    """A 503 after a lost answer is no promise that nothing was written."""
    api, _, _ = scripted(*answers)
    with pytest.raises(kind) as caught:
        await api.f()
    assert caught.value.maybe_applied is maybe


@pytest.mark.parametrize(
    "wrong", [{"attempts": 0}, {"seconds": -1}, {"first_pause": 0}, {"first_pause": 2, "longest_pause": 1}]
)
def test_a_policy_that_makes_no_sense_is_refused(wrong):
    """Zero attempts would return nothing at all."""
    with pytest.raises(ValueError, match="is invalid"):
        Retries(**wrong)


async def test_a_thousand_attempts_are_no_overflow():
    """The power of two is bounded."""
    policy = Retries(attempts=1200, seconds=math.inf)
    api, script, _ = scripted(*[unsent() for _ in range(1199)], ok(1), retries=policy)
    assert await api.f() == 1
    assert len(script.sent) == 1200
