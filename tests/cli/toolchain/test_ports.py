"""A taken port is a sentence that names the program and another port."""

import os
import socket

import pytest

from kontract.cli.toolchain.ports import check_free, owner
from kontract.cli.toolchain.problem import Problem
from kontract.cli.toolchain.processes import free_port


@pytest.fixture
def taken():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


def test_a_free_port_passes():
    check_free(free_port())


def test_a_taken_port_names_the_process(taken):
    with pytest.raises(Problem) as caught:
        check_free(taken)

    assert f"Port {taken} is taken by process {os.getpid()} (" in caught.value.what
    assert "PORT=8788 make dev" in caught.value.fix


def test_a_port_taken_on_all_addresses_is_found():
    with socket.socket() as listener:
        listener.bind(("0.0.0.0", 0))
        listener.listen()
        with pytest.raises(Problem, match="is taken"):
            check_free(listener.getsockname()[1])


def test_a_port_of_nobody_has_no_owner():
    assert owner(free_port()) is None


@pytest.mark.parametrize("port", [0, -1, 65536])
def test_what_is_no_port_is_a_problem(port):
    with pytest.raises(Problem, match="is not a TCP port"):
        check_free(port)
