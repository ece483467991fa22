"""The tests of tests/workerd/test_headers.py, against `kontract serve`."""

from support.suites import borrow
from workerd import test_headers as suite

borrow(suite, globals())
