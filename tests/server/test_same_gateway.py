"""The tests of tests/workerd/test_gateway.py, against `kontract serve`."""

from __future__ import annotations

import pytest

from support.serving import running_server
from support.suites import borrow
from workerd import test_gateway as suite


@pytest.fixture(scope="module")
def deployed(checkout, postgres, reaper, tmp_path_factory):
    """A server with one origin that browsers may call from."""
    origins = {"KONTRACT_CORS_ORIGINS": "https://app.example.com"}
    folder = tmp_path_factory.mktemp("deployed")
    with running_server(checkout, postgres.create_database(), folder, reaper, **origins) as server:
        yield server


borrow(suite, globals(), without=["test_a_wrong_secret_stops_the_start_with_a_sentence"])
