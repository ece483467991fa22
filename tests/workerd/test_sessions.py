"""Sessions in the real runtime: ways in, refresh, and an end that no restart undoes."""

from __future__ import annotations

import itertools
import os

import httpx
import pytest

from kontract.cli.toolchain.wrangler import DevServer

PASSWORD = "correct horse battery"
NUMBERS = itertools.count(1)


class Caller:
    """Somebody with a connection to the Worker; sync, one request after the other."""

    def __init__(self, worker: DevServer, granted: dict | None = None) -> None:
        self._worker = worker
        self.granted = granted or {}

    def ask(self, method: str, path: str, body: object = None, token: str | None = None) -> httpx.Response:
        token = self.granted.get("token") if token is None else token
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        url = f"{self._worker.url}{path}"
        return httpx.request(method, url, json=body, headers=headers, timeout=60, trust_env=False)

    def auth(self, way: str, body: object = None, status: int = 200, **more: str) -> dict:
        response = self.ask("GET" if way == "me" else "POST", f"/auth/{way}", body, **more)
        assert response.status_code == status, response.text
        return response.json() if response.content else {}

    def rpc(self, name: str, *args: object, **more: str) -> httpx.Response:
        return self.ask("POST", f"/rpc/{name}", list(args), **more)

    def refresh(self, refresh_token: str, status: int = 200) -> dict:
        return self.auth("refresh", {"refresh_token": refresh_token}, status, token="")


@pytest.fixture
def nobody(worker: DevServer) -> Caller:
    return Caller(worker)


@pytest.fixture
def anonymous(worker: DevServer, nobody: Caller) -> Caller:
    return Caller(worker, nobody.auth("anonymous", status=201))


@pytest.fixture
def account(worker: DevServer, nobody: Caller) -> tuple[str, Caller]:
    """A name, and a session of the account of that name."""
    name = f"ann-{os.getpid()}-{next(NUMBERS)}"
    return name, Caller(worker, nobody.auth("register", {"name": name, "password": PASSWORD}, 201))


def refused(response: httpx.Response) -> None:
    """401 in the gateway's form, without a word about why."""
    assert (response.status_code, response.json()["error"]) == (401, "UNAUTHORIZED"), response.text
    assert response.json()["message"] == "the token is not valid"
    assert response.headers["www-authenticate"] == 'Bearer error="invalid_token"'


def test_an_anonymous_session_calls_functions_and_owns_what_it_makes(worker, anonymous):
    """201 with everything a client needs; rows carry the user, and another session is another user."""
    assert set(anonymous.granted) == {"token", "expires_in", "refresh_token", "owner", "user"}
    assert anonymous.granted["owner"] == "tenant-1"
    made = anonymous.rpc("create_task", "mine")
    assert made.json()["result"]["created_by"] == anonymous.granted["user"]
    me = anonymous.auth("me")
    assert (me["user"], me["owner"], me["anonymous"]) == (anonymous.granted["user"], "tenant-1", True)
    assert Caller(worker).auth("anonymous", status=201)["user"] != anonymous.granted["user"]


def test_an_account_is_registered_once_and_logged_in_by_its_password_alone(nobody, account):
    """The same user each time, another session each time; a wrong password and a wrong name look the same."""
    name, first = account
    again = nobody.auth("login", {"name": name.upper(), "password": PASSWORD})
    assert again["user"] == first.granted["user"]
    assert again["token"] != first.granted["token"]
    assert Caller(first._worker, again).auth("me")["anonymous"] is False
    wrong = [
        nobody.auth("login", {"name": who, "password": password}, 401)
        for who, password in [(name, PASSWORD + "!"), (name + "-x", PASSWORD), ("", PASSWORD)]
    ]
    assert {(said["error"], said["message"]) for said in wrong} == {
        ("UNAUTHORIZED", "the name or the password is wrong")
    }
    assert nobody.auth("register", {"name": name, "password": PASSWORD}, 409)["error"] == "ALREADY_EXISTS"


def test_an_anonymous_user_keeps_its_rows_when_it_is_linked_to_an_account(nobody, anonymous):
    """The user stays; the session from before is over, and the account opens the door from now on."""
    name = f"linked-{os.getpid()}-{next(NUMBERS)}"
    task = anonymous.rpc("create_task", "from before").json()["result"]
    linked = anonymous.auth("link", {"name": name, "password": PASSWORD})
    assert linked["user"] == anonymous.granted["user"] == task["created_by"]
    assert nobody.auth("login", {"name": name, "password": PASSWORD})["user"] == linked["user"]
    refused(anonymous.rpc("list_tasks"))


def test_a_refresh_gives_new_tokens_and_a_lost_answer_can_be_asked_for_again(worker, anonymous):
    """The same user and session; the refresh token before the newest is good for a minute more."""
    old = anonymous.granted
    new = anonymous.refresh(old["refresh_token"])
    assert new["user"] == old["user"]
    assert new["refresh_token"] != old["refresh_token"]
    assert Caller(worker, new).rpc("list_tasks").status_code == 200
    assert Caller(worker, new).auth("me")["sid"] == anonymous.auth("me")["sid"]
    assert anonymous.refresh(old["refresh_token"])["user"] == old["user"]
    anonymous.refresh(old["token"], 401)  # of the other kind


def test_a_refresh_token_that_is_used_again_ends_the_session(worker, account):
    """Two have it, and nobody knows who is the thief: neither goes on, with access or with refresh tokens."""
    name, first = account
    second = first.refresh(first.granted["refresh_token"])
    third = first.refresh(second["refresh_token"])
    assert Caller(worker, third).rpc("list_tasks").status_code == 200
    first.refresh(first.granted["refresh_token"], 401)
    for granted in (first.granted, second, third):
        refused(Caller(worker, granted).rpc("list_tasks"))
        first.refresh(granted["refresh_token"], 401)
    # The account is not locked: its owner comes back by the password.
    back = Caller(worker, first.auth("login", {"name": name, "password": PASSWORD}))
    assert back.rpc("list_tasks").status_code == 200


@pytest.mark.timeout(400)
def test_logout_holds_everywhere_and_after_a_restart(worker, account):
    """204, and then nothing takes the session any more; also not a Worker and an object that have started anew."""
    name, one = account
    other = Caller(worker, one.auth("login", {"name": name, "password": PASSWORD}))
    one.auth("logout", status=204)

    def over() -> None:
        refused(one.rpc("list_tasks"))
        refused(one.rpc("create_task", "never"))
        refused(one.ask("GET", "/auth/me"))
        refused(one.ask("GET", "/stream?table=tasks"))
        refused(one.ask("POST", "/stream/ticket"))
        refused(one.ask("GET", "/openapi.json"))
        one.refresh(one.granted["refresh_token"], 401)

    over()
    worker.kill()
    worker.start()
    over()
    assert other.rpc("list_tasks").status_code == 200, "another session of the same user is another session"
    other.auth("logout", status=204)
    refused(other.rpc("list_tasks"))
