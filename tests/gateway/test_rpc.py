"""What a call decodes and encodes on its way through the gateway of a server: nothing twice, and nothing in between."""

from __future__ import annotations

from collections import Counter

import pytest
import pytest_asyncio

from support.api import apis
from support.probe import Probe

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def api(postgres):
    async with apis(postgres) as make:
        api = make()
        await api.result("create_task", "warm")
        yield api


async def codecs_of(api, function: str, *args, **headers: str) -> Counter[str]:
    """How often a call encodes and decodes JSON, by module; the function has been called before."""
    assert (await api.rpc(function, *args, **headers)).status < 300
    with Probe() as probe:
        assert (await api.rpc(function, *args, **headers)).status < 300
    found: Counter[str] = Counter()
    for (module, name), times in probe.codecs.items():
        if name.removeprefix("json_") in ("encode", "decode"):
            found[module.removeprefix("kontract.")] += times
    return found


async def test_a_read_decodes_its_body_its_row_and_its_result(api):
    """The result is encoded, read as what is declared, and encoded as what that gave. The rest of it is values."""
    task = await api.result("create_task", "x")
    assert await codecs_of(api, "get_task", task["id"]) == {
        "gateway.tokens": 1,  # the claims
        "core.model.values": 3,  # the arguments, the row, the result
        "core.model.documents": 1,  # the row's id
        "gateway.results": 2,
    }


async def test_a_write_says_nothing_in_json_to_its_coordinator(api):
    """It is in this process, and so is what it keeps."""
    assert await codecs_of(api, "create_task", "x") == {
        "gateway.tokens": 1,
        "core.model.values": 3,  # the arguments, the row that is returned, the result
        "core.model.documents": 2,  # the row, and its id
        "gateway.results": 2,
    }
