"""The tests of tests/workerd/test_websocket.py, against `kontract serve`."""

from support.suites import borrow
from workerd import test_websocket as suite

borrow(suite, globals())
