"""The tests of tests/workerd/test_assets.py, against `kontract serve`."""

from support.suites import borrow
from workerd import test_assets as suite

borrow(suite, globals(), without=["test_no_file_can_take_a_path_of_the_worker"])
