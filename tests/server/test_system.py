"""Random bytes from a pool: none is given out twice, to no thread and to no process."""

from __future__ import annotations

import os
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from kontract.server.system import BLOCK_BYTES, POOLED_BYTES, SystemRandomness


@pytest.mark.parametrize("size", [1, 16, BLOCK_BYTES, BLOCK_BYTES + 1, POOLED_BYTES + 1])
def test_as_many_random_bytes_come_as_were_asked_for(size):
    found = [SystemRandomness().token(size) for _ in range(300)]
    assert {len(one) for one in found} == {size}
    assert len(set(found)) > (250 if size > 1 else 100)


def test_no_bytes_are_given_out_twice():
    """By several threads at once, over many fillings of the pool."""
    randomness = SystemRandomness()

    def take(_):
        return [randomness.token(16) for _ in range(2_000)]

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(8) as threads:
            found = [one for some in threads.map(take, range(8)) for one in some]
    finally:
        sys.setswitchinterval(interval)
    assert len(set(found)) == len(found)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing forks here")
def test_a_forked_process_gives_out_other_bytes_than_its_parent():
    SystemRandomness().token(8)  # the pool is filled
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.write(writing, SystemRandomness().token(16))
        os._exit(0)
    os.waitpid(child, 0)
    theirs = os.read(reading, 16)
    os.close(reading)
    os.close(writing)
    assert theirs != SystemRandomness().token(16)
