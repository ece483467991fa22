"""A real browser, and the Worker with its page. Without a browser on the machine these tests are skipped."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from kontract.cli.toolchain.checkout import Checkout
from kontract.cli.toolchain.reaper import Reaper
from kontract.cli.toolchain.wrangler import DevServer
from support.browser import Browser, Tab
from support.demo_page import ready
from support.postgres import Postgres
from support.programs import needing, program
from support.sessions import bearer_for
from support.worker import running_worker

# What a server that has too much to do answers, and a client repeats by itself. Whether it got through, tests see.
REPEATED = re.compile(r"Failed to load resource: the server responded with a status of (409|503|504) ")


@pytest.fixture(scope="session")
@needing("chromium")
def browser(reaper: Reaper, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """Chromium without a window."""
    with Browser.started(program("chromium"), tmp_path_factory.mktemp("chromium"), reaper) as running:
        yield running


@pytest.fixture(scope="session")
def site(
    browser: Browser,
    checkout: Checkout,
    postgres: Postgres,
    reaper: Reaper,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[DevServer]:
    """The Worker whose page is looked at. (It asks for the browser first: without one there is no need to start it.)"""
    del browser
    with running_worker(checkout, postgres.create_database(), tmp_path_factory.mktemp("site"), reaper) as server:
        yield server


class Visitor:
    """Somebody with a browser: tabs that share a session, and a look at what they asked for."""

    def __init__(self, browser: Browser, stack: ExitStack) -> None:
        self._browser = browser
        self._stack = stack
        self.context = browser.new_context()
        self.tabs: list[Tab] = []
        self.hosts: set[str] = set()
        self.network_may_fail = False

    def tab(self, url: str, **size: int) -> Tab:
        """A new tab on a page of `url`."""
        tab = self._stack.enter_context(self._browser.tab(self.context, url, **size))
        self.tabs.append(tab)
        self.hosts.add(urlsplit(url).netloc)
        return tab

    def demo(self, url: str, **size: int) -> Tab:
        """The demo page, when it stands: the stream is open and both tables were read."""
        tab = self.tab(f"{url}/", **size)
        ready(tab)
        return tab

    def check(self) -> None:
        """What holds for every visit: no warning, no error, and no word to anybody else."""
        for tab in self.tabs:
            assert {urlsplit(url).netloc for url in tab.requests if not url.startswith("data:")} <= self.hosts
            console = [text for text in tab.console if not (REPEATED.match(text) or self._expected(text))]
            assert console == []

    def _expected(self, text: str) -> bool:
        """Chromium notes every request that fails, whatever the page makes of it."""
        return self.network_may_fail and text.startswith(("Failed to load resource", "WebSocket connection to "))


@pytest.fixture
def visitor(browser: Browser) -> Iterator[Visitor]:
    """Somebody new, without a session. What went wrong in a tab fails the test at its end."""
    with visit(browser) as somebody:
        yield somebody


@pytest.fixture(scope="module")
def guest(browser: Browser) -> Iterator[Visitor]:
    """A visitor for all tests of a module: what goes wrong in a tab fails the last of them."""
    with visit(browser) as somebody:
        yield somebody


@contextmanager
def visit(browser: Browser) -> Iterator[Visitor]:
    """Somebody new, who is asked at the end whether all was well."""
    with ExitStack() as stack:
        somebody = Visitor(browser, stack)
        yield somebody
        somebody.check()


@pytest.fixture(scope="session")
def call(site: DevServer) -> Callable[..., Any]:
    """Calls a function from outside of the browser."""

    def post(name: str, *args: object) -> object:
        headers = bearer_for(site)
        response = httpx.post(
            f"{site.url}/rpc/{name}", content=json.dumps(args), headers=headers, timeout=60, trust_env=False
        )
        assert response.status_code in (200, 201), response.text
        return response.json()["result"]

    return post


@pytest.fixture
def no_tasks(call: Callable[..., Any]) -> None:
    """Deletes the tasks of earlier tests."""
    for task in call("list_tasks", None, 1000):
        call("delete_task", task["id"])


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave these tests more time than others: they start a browser and a Worker, and wait for what people wait for."""
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent) and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(600))
