"""The tests of tests/workerd/test_gateway.py, against `kontract serve`."""

from support.suites import borrow
from workerd import test_gateway as suite

borrow(suite, globals())
