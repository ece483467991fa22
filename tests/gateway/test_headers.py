"""What a function says in its headers, and what the gateway says in the same ones."""

from __future__ import annotations

import pytest

from kontract import Context, HttpError, HttpResp, backend
from kontract.core.errors import Code
from support.api import Api, apis
from support.sessions import ENVIRONMENT

ORIGIN = "https://app.example.com"

GIVEN = {
    "vary": "Accept-Language",
    "cache-control": "public, max-age=60",
    "server-timing": 'app;dur=1;desc="a, b"',
    "access-control-expose-headers": "X-Mine",
    "x-mine": "1",
    "x-request-id": "forged",
    "x-content-type-options": "none",
}


@backend()
async def answer(ctx: Context) -> HttpResp:
    await ctx.storage.accounts.count()
    return HttpResp(200, "x", dict(GIVEN))


@backend()
async def fail(ctx: Context) -> None:
    raise HttpError("<b>no</b>", code=Code.FORBIDDEN, headers={"content-type": "text/html", "vary": "Accept"})


@pytest.fixture
async def api(postgres):
    async with apis(postgres, [answer, fail]) as make:
        yield make({**ENVIRONMENT, "KONTRACT_CORS_ORIGINS": ORIGIN})


def headers_of(response) -> dict[str, str]:
    names = [name.lower() for name in response.headers]
    assert len(set(names)) == len(names), "each name once, in whatever case"
    return {name.lower(): value for name, value in response.headers.items()}


async def test_the_document_varies_with_token_and_origin(api: Api):
    """A cache that kept one caller's document for another would show functions that it may not call."""
    for origin in (None, ORIGIN, "https://elsewhere.example"):
        response = await api.send("GET", "/openapi.json", origin=origin)
        assert headers_of(response)["vary"] == "Authorization, Origin"
        again = await api.send("GET", "/openapi.json", origin=origin, if_none_match=response.headers["ETag"])
        assert (again.status, headers_of(again)["vary"]) == (304, "Authorization, Origin")


async def test_what_a_function_says_is_not_lost(api: Api):
    """Lists are joined; what is the gateway's alone to say is said by it, and nothing twice."""
    found = headers_of(await api.rpc("answer", origin=ORIGIN))
    assert found["vary"] == "Accept-Language, Origin"
    assert found["cache-control"] == "public, max-age=60"
    assert found["server-timing"].startswith('app;dur=1;desc="a, b", coord;dur=')
    assert found["access-control-expose-headers"].startswith("X-Mine, X-Request-Id, ")
    assert found["access-control-allow-origin"] == ORIGIN
    assert found["x-request-id"] != "forged"
    assert found["x-content-type-options"] == "nosniff"


async def test_an_error_is_json_whatever_its_headers_say(api: Api):
    """Its sentence may repeat what a caller sent: as HTML it would be a script."""
    found = headers_of(await api.rpc("fail"))
    assert (found["content-type"], found["vary"]) == ("application/json", "Accept, Origin")
