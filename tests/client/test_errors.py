"""What callers catch: each code has its class, and whatever else comes back is an error with a sentence, too."""

from __future__ import annotations

from copy import copy

import pytest

from kontract import ConflictError, HttpError, NotFoundError, UnavailableError
from kontract.client import Answer, UnknownCodeError
from kontract.client.errors import CLASSES, error_of
from kontract.core import errors
from kontract.core.errors import Code
from support.scripted import refused

NOW = 1_800_000_000_000  # Fri, 15 Jan 2027 08:00:00 GMT


@pytest.mark.parametrize("code", Code, ids=lambda code: code.name)
def test_each_code_becomes_its_class(code):
    """A caller catches what the function raised, and finds everything that the answer said."""
    error = error_of(refused(code, details={"key": "k"}, retry_after="7"), NOW)
    named = [one for one in vars(errors).values() if isinstance(one, type) and vars(one).get("code") is code]
    assert type(error) is (named[0] if named and code is not Code.INTERNAL else CLASSES[code])
    assert (error.error_code, error.status, error.message) == (code, code.status, f"about {code.name}")
    assert (error.details, error.request_id, error.retry_after) == ({"key": "k"}, "r-1", 7.0)
    assert error.maybe_applied is (code is Code.COMMIT_UNKNOWN)


def test_codes_that_share_a_status_share_a_class():
    """Who catches ConflictError catches every 409, and who catches UnavailableError every 503."""
    for code, kind in CLASSES.items():
        if code.status in (409, 503):
            assert kind is {409: ConflictError, 503: UnavailableError}[code.status]
        elif kind is not HttpError:
            assert kind.code.status == code.status


def test_an_unknown_code_keeps_its_status_and_its_name():
    """A later gateway may have codes that this client does not know."""
    error = error_of(refused("TEAPOT", 418, details={"a": 1}), NOW)
    assert type(error) is UnknownCodeError
    assert isinstance(error, HttpError)
    assert (error.status, error.code_name, error.message) == (418, "TEAPOT", "about TEAPOT")
    assert (error.details, error.request_id, error.maybe_applied) == ({"a": 1}, "r-1", False)


@pytest.mark.parametrize(
    "body", [b"", b"<html>Bad gateway</html>", b"[]", b'{"error": 7}', b'{"error": "NOT_FOUND"}', b"\xff\xfe", b"null"]
)
def test_a_proxys_page_is_an_error_without_a_code(body):
    """It is nobody's NotFoundError, and whether the call arrived is not known."""
    error = error_of(Answer(502, {"x-request-id": "r-2"}, body), NOW)
    assert type(error) is UnknownCodeError
    assert (error.status, error.code_name, error.request_id, error.maybe_applied) == (502, "", "r-2", True)
    assert "502" in error.message


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("0", 0.0),
        ("120", 120.0),
        ("Fri, 15 Jan 2027 08:00:30 GMT", 30.0),
        ("Fri, 15 Jan 2027 07:00:00 GMT", 0.0),
        ("", None),
        ("soon", None),
        ("-1", None),
        ("1.5", None),
        ("\u0663", None),
        ("Fri, 99 Jan 2027 08:00:30 GMT", None),
    ],
)
def test_retry_after_is_seconds_or_a_date(header, seconds):
    """Both forms of RFC 9110; nonsense is nothing."""
    assert error_of(refused(Code.RATE_LIMITED, retry_after=header), NOW).retry_after == seconds


def test_errors_can_be_copied():
    """Several callers may wait for one refresh; each gets an error of its own."""
    for error in (error_of(refused(Code.BUSY, retry_after="1"), NOW), error_of(refused("TEAPOT", 418), NOW)):
        assert vars(copy(error)) == vars(error)
        assert type(copy(error)) is type(error)
        assert copy(error).status == error.status


def test_the_classes_are_those_of_the_gateway():
    """`except NotFoundError` from `kontract` works on both sides."""
    assert CLASSES[Code.NOT_FOUND] is NotFoundError
    assert set(CLASSES) == set(Code)
