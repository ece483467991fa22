"""The stream in a real browser when connections are cut, the Worker is killed, or the log begins anew."""

from __future__ import annotations

import itertools
import json
import random
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from support.browser import SECONDS
from support.demo_page import add_task, has_task, ready
from support.line import line_to

# What a page of the site writes down: every transaction that the client delivers, as [txid, [ids of rows]].
LISTEN = """(async () => {
    const { connect } = await import("/kontract.js");
    window.heard = [];
    window.resets = 0;
    window.opened = 0;
    const api = connect({ anonymous: true });
    await new Promise((resolve) => {
        window.listening = api.stream("tasks", {
            onReady: () => resolve((window.opened += 1)),
            onReset: () => (window.resets += 1),
            onTransaction: (changes, { txid }) => window.heard.push([txid, changes.map(({ id }) => id)]),
        });
    });
})()"""


@pytest.mark.long
def test_cut_again_and_again_the_stream_loses_and_repeats_nothing(site, visitor, call):
    """Connections end at moments of chance while rows are written: each commit is delivered once, in order."""
    visitor.network_may_fail = True
    dice = random.Random(5)
    written: list[str] = []
    more, done = threading.Condition(), threading.Event()

    def write() -> None:
        while not done.is_set():
            row = call("create_task", f"cut {len(written)}")["id"]
            with more:
                written.append(row)
                more.notify()

    with line_to(site.port) as line, ThreadPoolExecutor(1) as pool:
        tab = visitor.tab(f"{line.url}/")
        tab.run(LISTEN)
        writing = pool.submit(write)
        try:
            for opened in range(1, 9):
                tab.wait(f"window.opened >= {opened}")
                with more:
                    for _ in range(dice.randint(0, 4)):
                        assert more.wait(SECONDS), "rows are written all the while"
                line.cut()
        finally:
            done.set()
        writing.result(SECONDS)
        last = call("create_task", "the last")["id"]
        tab.wait(f"window.heard.at(-1)?.[1].includes({json.dumps(last)})")
        heard = tab.run("window.heard")
        assert tab.run("window.resets") == 0
    ids = list(itertools.chain.from_iterable(ids for _, ids in heard))
    assert ids == [*written, last]
    txids = [txid for txid, _ in heard]
    assert txids == sorted(set(txids))


def test_the_page_says_that_the_connection_is_lost_and_catches_up(site, visitor, call):
    """What happened meanwhile is there when it is back; the page is the same page, and was not read anew."""
    visitor.network_may_fail = True
    with line_to(site.port) as line:
        tab = visitor.demo(line.url)
        add_task(tab, "Before")
        tab.run("window.same = true")
        line.down()
        tab.wait("document.querySelector('#state').dataset.state === 'waiting'")
        assert tab.text("#state").startswith("Connection lost. Next try in ")
        call("create_task", "Meanwhile")
        reads = sum(url.endswith("/rpc/list_tasks") for url in tab.requests)
        line.up()
        tab.wait(has_task("Meanwhile"))
        tab.wait("document.querySelector('#state').textContent === 'Live'")
        assert tab.run("window.same")
        assert sum(url.endswith("/rpc/list_tasks") for url in tab.requests) == reads


def test_a_change_that_is_made_without_a_connection_fails_with_a_sentence_and_is_not_lost(site, visitor):
    """What was typed stays, and can be sent again."""
    visitor.network_may_fail = True
    with line_to(site.port) as line:
        tab = visitor.demo(line.url)
        line.down()
        tab.click("#task-title")
        tab.type("Typed in a tunnel")
        tab.press("Enter")
        tab.wait("document.querySelector('#task-error').textContent.startsWith('The server cannot be reached.')")
        assert tab.run("document.querySelector('#task-title').value") == "Typed in a tunnel"
        line.up()
        tab.press("Enter")
        tab.wait(has_task("Typed in a tunnel"))
        assert tab.text("#task-error") == ""


@pytest.mark.long
def test_a_worker_that_is_killed_and_comes_back(site, visitor, call):
    """The page reconnects by itself and goes on; the tab's session outlives it."""
    visitor.network_may_fail = True
    tab = visitor.demo(site.url)
    tab.wait("document.querySelector('#who').textContent")
    user = tab.text("#who")
    site.kill()
    tab.wait("document.querySelector('#state').dataset.state === 'waiting'")
    site.start()
    call("create_task", "After the restart")
    tab.wait(has_task("After the restart"))
    add_task(tab, "And from here")
    assert tab.text("#who") == user


@pytest.mark.long
def test_a_log_that_begins_anew_is_read_anew(site, visitor, call):
    """The object has lost its journal: the page is told, says so, reads everything again, and goes on."""
    visitor.network_may_fail = True
    tab = visitor.demo(site.url)
    add_task(tab, "Will be kept")
    task = next(one for one in call("list_tasks", None, 1000) if one["title"] == "Will be kept")
    site.kill()
    shutil.rmtree(site.persist_to)
    site.start()
    call("rename_task", task["id"], "Was kept")
    tab.wait(has_task("Was kept"))
    tab.wait("document.querySelector('#commits .reset')")
    add_task(tab, "New log, new task")
    ready(tab)
