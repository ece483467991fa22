"""One database and one gateway for all tests of a module: they keep apart by users, names and addresses."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
import pytest_asyncio

from support.api import apis
from support.auth import FUNCTIONS, Auth, Clock, Note, answer
from support.cheap import CheapCrypto
from support.sessions import OWNER

VERSIONED = """
CREATE TABLE {ptr} (
  id TEXT COLLATE "C" NOT NULL, data JSONB NOT NULL DEFAULT '{{}}', _txid BIGINT NOT NULL, _deleted_txid BIGINT,
  _owner TEXT NOT NULL, _order SERIAL, PRIMARY KEY (id, _txid)
);
CREATE UNIQUE INDEX {ptr}_live ON {ptr} (id) WHERE _deleted_txid IS NULL;
"""

PLAIN = """
CREATE TABLE {ptr} (
  id TEXT PRIMARY KEY, data JSONB NOT NULL DEFAULT '{{}}', _txid BIGINT NOT NULL, _deleted_txid BIGINT,
  _owner TEXT NOT NULL, _order SERIAL
);
"""


@pytest.fixture(scope="session")
def ddl() -> dict[str, str]:
    """CREATE TABLE of each kind; `.format(ptr=...)`."""
    return {"versioned": VERSIONED, "plain": PLAIN}


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def make(postgres, ddl):
    async with apis(postgres, FUNCTIONS, [Note], answered_outside=(answer,)) as make:
        first = make()
        await first.sql.execute(ddl["versioned"].format(ptr="tbl_notes"))
        for owner, name in ((OWNER, "notes"), ("tenant-2", "tenant-2/notes")):
            await first.sql.execute("INSERT INTO storage (id, ptr, owner) VALUES ($1, 'tbl_notes', $2)", name, owner)
        yield make


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def auth_of_module(make):
    api = make()
    crypto = api.platform.crypto = CheapCrypto()
    one = Auth(api, crypto)
    yield one
    # Whatever the tests of this module did: nothing of it is written down, nor told to anybody.
    written = json.dumps(api.log) + b"".join(one.errors).decode()
    assert len(one.secrets) > 50
    assert [secret for secret in one.secrets if secret and secret in written] == []


@pytest.fixture
def auth(auth_of_module) -> Iterator[Auth]:
    """With the cheap hash and the right time, whatever the test before did."""
    auth_of_module.api.platform.clock = Clock()
    auth_of_module.crypto.asked.clear()
    yield auth_of_module
    auth_of_module.api.platform.clock = Clock()
