"""Event streams in a browser: our parser reads what its own EventSource reads, and EventSource reads what we send."""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from kontract.cli.toolchain.checkout import Checkout
from support.worker import running_worker

PUBLIC = Checkout.find().root / "public"

PIECES = [
    *("data: a", "data:b", "data", "data:", "data:  two spaces", "data: é✓🐍", "data: a\0b", ": comment", ":"),
    *("event: add", "event", "event:message", "id: 1", "id: 2", "id", "id: \0", "id:  x y ", "retry: 100000"),
    *(
        "unknown: field",
        "Data: upper",
        "data : space",
        " data: space",
        "data:\ttab",
        "\ufeffdata: mark",
        "data: \u2028x",
    ),
]
ENDS = ["\n", "\r", "\r\n"]

# A page of the test's own server: what EventSource is given and what the parser makes of the same bytes.
COMPARE = """async (number) => {
    const { EventStreamParser } = await import("/kontract/sse.js");
    const theirs = [];
    const source = new EventSource(`/stream/${number}`);
    const note = (event) => theirs.push([event.type, event.data, event.lastEventId]);
    for (const name of ["message", "add"]) source.addEventListener(name, note);
    await new Promise((resolve) => source.addEventListener("error", resolve, { once: true }));
    source.close();

    const ours = [];
    const parser = new EventStreamParser({ onEvent: (one) => ours.push([one.type, one.data, one.lastEventId]) });
    for await (const chunk of (await fetch(`/stream/${number}`)).body) parser.push(chunk);
    return [theirs, ours];
}"""


def stream(number: int) -> list[bytes]:
    """A stream made of everything that the standard knows, cut anywhere."""
    chance = random.Random(number)
    # Not a mark that a line end follows at once: after that Chromium, unlike the standard, forgets a line.
    text = "\ufeffdata: marked\n" * (chance.random() < 0.3)
    for _ in range(chance.randint(1, 60)):
        text += (chance.choice(PIECES) if chance.random() < 0.7 else "") + chance.choice(ENDS)
    data = (text + "\n\ndata: last\n\n").encode() + b"data: \xff\xe2\x82\n\n" * (chance.random() < 0.3)
    cuts = sorted(chance.randint(0, len(data)) for _ in range(chance.randint(0, 8)))
    return [data[start:end] for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True)]


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path.startswith("/stream/"):
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.end_headers()
            for chunk in stream(int(self.path.rpartition("/")[2])):
                self.wfile.write(chunk)
                self.wfile.flush()
            return
        kind = "text/javascript" if self.path.endswith(".js") else "text/html"
        body = (
            (PUBLIC / self.path.lstrip("/")).read_bytes()
            if kind == "text/javascript"
            else b"<link rel=icon href=data:>"
        )
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """A server of event streams, of the client's modules, and of an empty page."""
    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=http.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{http.server_port}"
    http.shutdown()
    http.server_close()
    thread.join()


def test_the_parser_reads_what_event_source_reads(visitor, server):
    """Streams of chance, byte for byte the same for both: events, their names, data and ids agree."""
    tab = visitor.tab(f"{server}/")
    events = 0
    for number in range(150):
        theirs, ours = tab.run(f"({COMPARE})({number})")
        assert ours == theirs, f"stream {number}: {b''.join(stream(number))!r}"
        events += len(theirs)
    assert events > 300


def test_event_source_reads_the_stream_of_the_worker(site, visitor, call):
    """The browser's own client, with a ticket in place of a token, is told what ours is told."""
    tab = visitor.tab(f"{site.url}/")
    tab.run("""(async () => {
        const { connect } = await import("/kontract.js");
        const api = connect({ anonymous: true });
        const token = (await api.auth.anonymous()).token;
        const headers = { Authorization: `Bearer ${token}` };
        const { ticket } = await (await fetch("/stream/ticket", { method: "POST", headers })).json();
        window.theirs = [];
        window.ours = [];
        const source = (window.source = new EventSource(`/stream?table=tasks&ticket=${ticket}`));
        source.onmessage = ({ data, lastEventId }) => window.theirs.push([JSON.parse(data), lastEventId]);
        await new Promise((resolve) => source.addEventListener("ready", resolve));
        await new Promise((resolve) => {
            const how = { onReady: resolve, onTransaction: (changes, at) => window.ours.push([changes, at.position]) };
            window.stream = api.stream("tasks", how);
        });
    })()""")
    for title in ("Käse", 'quotes " and \\ and \u2028', "🐍"):
        task = call("create_task", title)
        call("toggle_task", task["id"])
    tab.wait("window.theirs.length === 6 && window.ours.length === 6")
    theirs, ours = tab.run("window.theirs"), tab.run("window.ours")
    assert [change for change, _ in theirs] == [change for changes, _ in ours for change in changes]
    assert [position for _, position in theirs] == [position for _, position in ours]
    assert len(json.dumps(theirs)) > 500


def test_a_page_of_another_origin(browser, visitor, server, checkout, postgres, reaper, tmp_path):
    """Where KONTRACT_CORS_ORIGINS names it, it can call, see what a call cost, listen, and come back with an id."""
    visitor.network_may_fail = True  # the Worker stops before its listeners do
    more = f"KONTRACT_CORS_ORIGINS={server}\n"
    with running_worker(checkout, postgres.create_database(), tmp_path, reaper, more) as worker:
        tab = visitor.tab(f"{server}/")
        visitor.hosts.add(worker.url.removeprefix("http://"))
        heard = tab.run(f"""(async () => {{
            const {{ connect }} = await import("{worker.url}/kontract.js");
            const infos = [];
            const api = connect({{ url: "{worker.url}", anonymous: true, onCall: (info) => infos.push(info) }});
            let first;
            await new Promise((resolve) => (first = api.stream("tasks", {{ onReady: resolve }})));
            const one = await api.create_task("one");
            for await (const change of first) if (change.id === one.id) break;
            const two = await api.create_task("two");
            const seen = [];
            for await (const {{ id }} of api.stream("tasks", {{ since: first.position }})) {{
                seen.push(id);
                if (id === two.id) break;
            }}
            return [seen, [one.id, two.id], infos.map(({{ txid }}) => txid), infos[0].roundTrips.coordinator];
        }})()""")
        seen, made, txids, coordinator = heard
        assert seen == made, "the loop was left within the first transaction, so that one comes again"
        assert txids == [1, 2]
        assert coordinator >= 2


def test_sealed_calls_in_a_browser(site, visitor):
    """WebCrypto and the server agree; a key that is not the server's is noticed; nothing can be read on the way."""
    visitor.network_may_fail = True
    tab = visitor.tab(f"{site.url}/")
    task, sent, refused = tab.run("""(async () => {
        const { connect } = await import("/kontract.js");
        const sent = [];
        const spying = (url, init) => {
            sent.push([url, new TextDecoder("latin1").decode(init.body ?? new Uint8Array())]);
            return fetch(url, init);
        };
        const { raystream } = await (await fetch("/.well-known/kontract")).json();
        const token = (await connect({ anonymous: true }).auth.anonymous()).token;
        const api = connect({ token, secure: true, serverKey: raystream.public_keys[0], fetch: spying });
        const task = await api.create_task("a secret matter");
        await Promise.all([api.get_task(task.id), api.total(), api.list_tasks()]);
        const wrong = connect({ token, secure: true, serverKey: "A".repeat(42) + "E", attempts: 1 });
        const refused = await wrong.total().catch(({ code }) => code);
        return [task, sent, refused];
    })()""")
    assert task["title"] == "a secret matter"
    assert [url.rpartition("/")[2] for url, _ in sent] == ["handshake", "rpc", "rpc", "rpc", "rpc"]
    assert not [body for _, body in sent if "secret" in body or "create_task" in body]
    assert refused == "RAYSTREAM"
