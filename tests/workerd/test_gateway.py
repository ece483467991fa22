"""What the gateway answers in the real runtime when something is wrong, and to whom it answers at all."""

from __future__ import annotations

import gzip

import httpx
import pytest

from kontract.cli.toolchain.checkout import Checkout
from kontract.cli.toolchain.problem import Problem
from kontract.cli.toolchain.reaper import Reaper
from kontract.cli.toolchain.wrangler import DevServer
from support.postgres import Postgres
from support.sessions import bearer_for
from support.worker import running_worker


@pytest.fixture(scope="session")
def deployed(
    checkout: Checkout, postgres: Postgres, reaper: Reaper, tmp_path_factory: pytest.TempPathFactory
) -> DevServer:
    """A Worker configured as a deployed one is: one origin that browsers may call from."""
    more = "KONTRACT_CORS_ORIGINS=https://app.example.com\n"
    folder = tmp_path_factory.mktemp("deployed")
    with running_worker(checkout, postgres.create_database(), folder, reaper, more) as server:
        yield server


def post(server: DevServer, path: str, body: bytes | str = b"[]", **headers: str) -> httpx.Response:
    """POST as the developer of tenant-1, unless the headers say otherwise."""
    sent = bearer_for(server) | {name.lower().replace("_", "-"): value for name, value in headers.items()}
    return httpx.post(f"{server.url}{path}", content=body, headers=sent, timeout=60, trust_env=False)


@pytest.mark.parametrize(
    ("path", "body", "status", "code", "says"),
    [
        ("/rpc/nope", b"[]", 404, "NOT_FOUND", "nope"),
        ("/rpc/", b"[]", 404, "NOT_FOUND", "POST /rpc/<function>"),
        ("/rpc/..%2fhealth", b"[]", 404, "NOT_FOUND", "no such function"),
        ("/rpc/create_task%00", b"[]", 404, "NOT_FOUND", "no such function"),
        ("/rpc/__init__", b"[]", 404, "NOT_FOUND", "__init__"),
        ("/nowhere", b"", 404, "NOT_FOUND", "call functions with"),
        ("/rpc/create_task", b"{", 400, "INVALID_REQUEST", "not valid JSON"),
        ("/rpc/create_task", b"\xff\xfe", 400, "INVALID_REQUEST", "not valid JSON"),
        ("/rpc/create_task", b"", 400, "INVALID_REQUEST", "but got 0"),
        ("/rpc/create_task", b'["a", "b"]', 400, "INVALID_REQUEST", "but got 2"),
        ("/rpc/create_task", b"[7]", 400, "INVALID_REQUEST", "argument title"),
        ("/rpc/create_task", b'[""]', 400, "INVALID_REQUEST", "length >= 1"),
        ("/rpc/create_task", rb'["a\u0000b"]', 400, "INVALID_REQUEST", "NUL"),
        ("/rpc/get_task", b'[{"a": 1}]', 400, "INVALID_REQUEST", "argument id"),
        ("/rpc/get_task", b"[" * 40 + b"]" * 40, 400, "INVALID_REQUEST", "nested deeper"),
        ("/rpc/get_task", b"[" * 100_000, 400, "INVALID_REQUEST", ""),
        ("/rpc/get_task", b'["none"]', 404, "NOT_FOUND", "none"),
        ("/call/nope", b"{}", 404, "NOT_FOUND", "nope"),
        ("/call/", b"{}", 404, "NOT_FOUND", "POST /call/<function>"),
        ("/call/create_task", b"{}", 400, "INVALID_REQUEST", "missing arguments: title"),
        ("/call/create_task", b'{"titel": "x"}', 400, "INVALID_REQUEST", "no argument 'titel'; it takes title"),
        ("/call/create_task", b'{"title": 7}', 400, "INVALID_REQUEST", "argument title"),
        ("/call/create_task", b'["x"]', 400, "INVALID_REQUEST", "an object of arguments by name"),
        ("/rpc/get_task", b"[" + b"[]," * 340_000 + b"0]", 400, "INVALID_REQUEST", "more than 16000 values"),
        ("/rpc/create_task", b'["' + b"x" * 1024 * 1024 + b'"]', 413, "PAYLOAD_TOO_LARGE", "1048576 bytes"),
    ],
)
def test_each_mistake_has_its_own_answer(worker, path, body, status, code, says):
    """Status, code and a sentence; never a traceback, never SQL."""
    response = post(worker, path, body)
    assert (response.status_code, response.json()["error"]) == (status, code), response.text
    assert says in response.json()["message"]
    assert response.json()["request_id"] == response.headers["x-request-id"]
    for leak in ("Traceback", "SELECT", "/session/"):
        assert leak not in response.text


def test_a_body_without_a_length_is_cut_off_at_the_limit(worker):
    """Chunked bodies are counted while they arrive."""

    def chunks():
        for _ in range(20):
            yield b"x" * 100_000

    response = httpx.post(
        f"{worker.url}/rpc/create_task", content=chunks(), headers=bearer_for(worker), timeout=60, trust_env=False
    )
    assert response.status_code == 413


def test_the_wrong_method_is_told_the_right_one(worker):
    """405 with Allow, for functions and for the health check."""
    response = httpx.get(f"{worker.url}/rpc/create_task", trust_env=False)
    assert (response.status_code, response.headers["allow"]) == (405, "POST, OPTIONS")
    assert post(worker, "/health").status_code == 405


def test_health_counts_the_functions_and_ready_asks_the_database(worker):
    """The probes of an operator."""
    assert httpx.get(f"{worker.url}/health", trust_env=False).json() == {"status": "ok", "routes": 11}
    assert httpx.get(f"{worker.url}/ready", trust_env=False).json() == {"status": "ok", "routes": 11}


def test_one_value_is_an_array_of_one_argument(worker):
    """Both forms of the body of the deployment document."""
    assert post(worker, "/rpc/create_task", b'"single"').json()["result"]["title"] == "single"


def test_arguments_may_come_by_name(worker):
    """The same function, the same answer."""
    response = post(worker, "/call/create_task", b'{"title": "by name"}')
    assert response.json()["result"]["title"] == "by name"
    assert response.headers["x-kontract-txid"].isdecimal()
    listed = post(worker, "/call/list_tasks", b'{"limit": 1}').json()["result"]
    assert listed == post(worker, "/rpc/list_tasks", b"[null, 1]").json()["result"]


def test_a_compressed_body_is_415(worker):
    """Neither runtime unpacks it, so neither can be made to unpack too much."""
    for path in ("/call/create_task", "/rpc/create_task", "/auth/login"):
        response = post(worker, path, gzip.compress(b"[]"), content_encoding="gzip")
        assert (response.status_code, response.json()["error"]) == (415, "UNSUPPORTED_MEDIA_TYPE")
        assert response.headers["accept-encoding"] == "identity"


def test_nobody_is_answered_without_a_token(worker):
    """Whatever other headers say, and whether or not there is such a function."""
    for path in ("/rpc/list_tasks", "/rpc/nope"):
        for headers in ({}, {"X-Kontract-Owner": "tenant-1"}, {"Authorization": "Bearer tenant-1"}):
            response = httpx.post(f"{worker.url}{path}", content=b"[]", headers=headers, timeout=60, trust_env=False)
            assert (response.status_code, response.json()["error"]) == (401, "UNAUTHORIZED")


def test_browsers_may_call_from_the_configured_origin_only(deployed):
    """CORS by exact origin: no wildcard, no suffix."""
    for origin, allowed in [
        ("https://app.example.com", True),
        ("https://app.example.com.evil.example", False),
        ("http://app.example.com", False),
        ("null", False),
    ]:
        preflight = httpx.options(
            f"{deployed.url}/rpc/list_tasks",
            headers={"Origin": origin, "Access-Control-Request-Method": "POST"},
            trust_env=False,
        )
        assert preflight.status_code == 204
        assert ("access-control-allow-origin" in preflight.headers) is allowed
        assert preflight.headers["vary"] == "Origin"


def test_a_wrong_secret_stops_the_start_with_a_sentence(checkout, postgres, reaper, tmp_path):
    """The message says what to do, and not what the secret was."""
    with (
        pytest.raises(Problem) as problem,
        running_worker(checkout, postgres.create_database(), tmp_path, reaper, "KONTRACT_SECRET=hunter2\n"),
    ):
        pass
    text = problem.value.render()
    assert "KONTRACT_SECRET must be 64 hexadecimal digits" in text
    assert "hunter2" not in text
