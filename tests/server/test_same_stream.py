"""The tests of tests/workerd/test_stream.py, against `kontract serve`."""

from support.suites import borrow
from workerd import test_stream as suite

borrow(suite, globals())
