"""The tests of tests/workerd/test_transactions.py, against `kontract serve`."""

from support.suites import borrow
from workerd import test_transactions as suite

borrow(suite, globals())
