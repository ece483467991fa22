"""The adapter layer under the document's names."""

from __future__ import annotations

import subprocess
import sys

import pytest

import kontract.server
from support.tikv.clients import Plain


@pytest.mark.parametrize("name", kontract.server.__all__)
def test_every_name_is_there(name):
    """From where it is, once it is asked for."""
    assert getattr(kontract.server, name).__name__ == name


def test_the_list_is_complete():
    """What is promised and what is found are the same."""
    assert sorted(kontract.server._HOMES) == sorted(kontract.server.__all__)
    with pytest.raises(AttributeError, match="nothing"):
        _ = kontract.server.nothing


def test_importing_it_imports_little():
    """Neither drivers nor gRPC: only the built-in client needs that, and says so where the extra is not installed."""
    code = (
        "import sys, kontract.server; assert 'asyncpg' not in sys.modules;"
        "from kontract.server import create_tikv_adapter, SharedStorage, TiKVClient, connect_tikv;"
        "import kontract.server.shared_log.tikv, kontract.testing.contracts;"
        "assert 'grpc' not in sys.modules and 'tikv' not in sys.modules;"
        "sys.modules['tikv'] = None;"
        "\ntry: connect_tikv('pd:2379')"
        "\nexcept ImportError as error: assert 'kontract[tikv]' in str(error)"
        "\nelse: raise AssertionError"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


async def test_the_documents_example():
    """A client of one's own, an adapter over it, and shared storage over that."""
    from kontract.server import SharedStorage, create_tikv_adapter

    do_stub, kv = create_tikv_adapter(Plain())
    shared = SharedStorage(do_stub, kv)
    await shared.set("greeting", {"text": "hello"}, ttl=60)
    assert await shared.get("greeting") == {"text": "hello"}
    assert [await shared.incr("visits") for _ in range(3)] == [1, 2, 3]
    assert await shared.delete("greeting")
