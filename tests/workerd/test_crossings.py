"""What crosses between JavaScript and Python in one piece: bodies of requests, and which log lines at all."""

import pytest


def test_a_body_is_read_until_it_ends_or_is_too_large(laboratory):
    """One byte more than allowed is enough to know; what follows is not read. A body that was cut off is none."""
    streams = [[], [0, 0], [10], [3, 4, 3], [11], [4, 4, 4, 10_000], [5, -1]]
    read = laboratory.run("support.in_workerd", "read", {"streams": streams, "most": 10})
    assert read == [0, 0, 10, 10, 11, 12, -1]


@pytest.mark.parametrize(
    ("level", "written"),
    [
        (None, ["error", "warning"]),
        ("error", ["error"]),
        ("debug", ["debug", "error", "info", "warning"]),
        ("loud", ["error", "info", "warning"]),
    ],
)
def test_the_level_of_log_lines_is_that_of_the_variable(laboratory, level, written):
    """As on servers; a level that there is not is the usual one. The laboratory has `warning` in its .dev.vars."""
    assert laboratory.run("support.in_workerd", "logged", level) == written
