"""Native cryptography on CPython gives what the standards and Project Wycheproof say; workerd: tests/workerd."""

import asyncio

import pytest

from kontract.server.crypto import NativeCrypto
from support.crypto_cases import AT_LEAST, GROUPS
from support.crypto_operations import answer


@pytest.mark.parametrize("group", GROUPS)
async def test_published_vectors(group):
    """Any other answer would be a protocol of our own that nobody else can speak, or a hole."""
    cases = list(GROUPS[group]())
    assert len(cases) >= AT_LEAST[group]
    wrong = [case for case in cases if await answer(NativeCrypto(), case) != case["gives"]]
    assert wrong == []


async def test_scrypt_leaves_the_event_loop_alone():
    """A login must not stop the requests beside it."""
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    counting = asyncio.create_task(count())
    await NativeCrypto().scrypt(b"password", b"salt", 2**15, 8, 3, 32)
    counting.cancel()
    assert turns > 2
