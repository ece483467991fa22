"""A standby answers, and takes no writes: that is not ready."""

from __future__ import annotations

import pytest

from kontract.core.statements import Statement
from kontract.core.transaction import sql
from kontract.ports import DatabaseError
from kontract.server.database import Pool
from support.postgres import Postgres
from support.programs import needing
from support.standby import standby


@needing("pg_basebackup")
async def test_a_standby_is_not_ready_before_it_is_promoted(checkout, reaper):
    with Postgres.started(checkout, reaper, synchronous_commit="on") as primary:
        url = primary.create_database()
        with standby(primary, reaper) as second:
            pool = Pool(second.url(url), 2)
            try:
                assert await pool.run(Statement("SELECT count(*) FROM trxs")) == [(0,)]
                for _ in range(2):
                    with pytest.raises(DatabaseError) as caught:
                        await pool.run(sql.READY)
                    assert caught.value.sqlstate == "25006"
                    assert pool.open_connections == 0, "what cannot write is not kept"
                await second.promote()
                assert await pool.run(sql.READY) == []
            finally:
                await pool.aclose()
