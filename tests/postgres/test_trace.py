"""Traces from a request to its log line and to the statements that PostgreSQL sees."""

import json

import pytest

from kontract.server.database import AsyncpgDatabase
from support.api import apis

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


@pytest.fixture
async def api(postgres):
    async with apis(postgres) as make:
        yield make()


@pytest.mark.parametrize(
    ("sent", "kept", "in_sql"),
    [
        (f"00-{TRACE}-00f067aa0ba902b7-01", True, True),
        (f"00-{TRACE}-00f067aa0ba902b7-00", True, False),
        ("00-*/;DROP TABLE trxs;--", False, False),
        (None, False, False),
    ],
)
async def test_a_trace_reaches_the_log_and_if_it_is_recorded_sql(api, monkeypatch, sent, kept, in_sql):
    """A changing comment defeats caches of statements; nothing but hexadecimal digits comes from outside."""
    texts = []
    run = AsyncpgDatabase.run

    async def spy(self, statement):
        texts.append(statement.text)
        return await run(self, statement)

    monkeypatch.setattr(AsyncpgDatabase, "run", spy)
    await api.rpc("create_task", "warm")
    texts.clear()
    assert (await api.rpc("create_task", "private title", traceparent=sent)).status == 200
    lines = [line for line in api.log if line["event"] == "request"]
    assert len(lines) == 2, "one line a request"
    line = lines[-1]
    assert (line["trace_id"] == TRACE) is kept
    comment = f" /*traceparent='00-{TRACE}-{line['span_id']}-01'*/"
    assert texts
    assert [text.endswith(comment) for text in texts] == [in_sql] * len(texts)
    assert in_sql or [text for text in texts if "/*" in text or "DROP" in text] == []
    assert "private title" not in json.dumps(lines)
    assert list(line)[:6] == ["level", "event", "request_id", "method", "path", "function"]
