"""The tests of tests/workerd/test_raystream_rpc.py, against `kontract serve`."""

from support.suites import borrow
from workerd import test_raystream_rpc as suite

borrow(suite, globals())
