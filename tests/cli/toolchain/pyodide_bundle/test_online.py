"""The published Python runtime: downloaded, tried out, and replaced by the assembled one whenever that fails.

Cloudflare's host is a stand-in on loopback. Digests are refused by the real workerd. What a good download leads to is
shown with a stand-in for workerd that takes the assembled runtime for the published one, and then runs the real one.
"""

import contextlib
import hashlib
import ssl
import stat
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from kontract.cli.toolchain import setup
from kontract.cli.toolchain.processes import free_port
from kontract.cli.toolchain.pyodide_bundle import mode, online, snapshot
from kontract.cli.toolchain.pyodide_bundle.assemble import BUNDLE_NAME
from kontract.cli.toolchain.pyodide_bundle.mode import Runtime, Source
from kontract.cli.toolchain.wrangler import DevServer
from support.proxies import certificate
from support.scratch import scratch_checkout

NAME = "pyodide_314.0.6_2026-08-17_11.capnp.bin"
CONTENT = b"a runtime" * 100_000

# It looks for a bundle that only the test knows, and says so as workerd does. On that bundle it is the real one.
WORKERD = """\
#!{python}
import hashlib, os, pathlib, sys, time
cache = pathlib.Path(next(one for one in sys.argv if "disk-cache-dir=" in one).partition("=")[2])
bundle = cache / "pyodide_1_stand-in.capnp.bin"
if not bundle.exists():
    print("pyodide.rs:117: info: Loading Pyodide bundle from internet; url = {url}", file=sys.stderr, flush=True)
    time.sleep(600)
if hashlib.sha256(bundle.read_bytes()).hexdigest() != "{sha256}":
    sys.exit("Pyodide bundle integrity check failed")
if {hangs}:
    time.sleep(600)
(cache / "{dev}").exists() or os.link(bundle, cache / "{dev}")
config = pathlib.Path(sys.argv[-1])
flags = '"python_workers_development", "experimental", "python_workers",'
config.write_text(config.read_text().replace('"python_workers",', flags))
os.execv("{workerd}", ["workerd", *sys.argv[1:]])
"""


class Host(ThreadingHTTPServer):
    """Answers every GET in the way that a test wants."""

    daemon_threads = True

    def __init__(self, how, content=CONTENT):
        self.how, self.content, self.asked = how, content, []
        super().__init__(("127.0.0.1", 0), Answer)

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/{NAME}"

    def handle_error(self, *_):
        pass


class Answer(BaseHTTPRequestHandler):
    def do_GET(self):
        host = self.server
        host.asked.append(self.path)
        if host.how == "hangs":
            time.sleep(3)
            return
        if host.how == "404":
            self.send_error(404)
            return
        self.send_response(200)
        if host.how != "no length":
            self.send_header("Content-Length", str(len(host.content)))
        self.end_headers()
        with contextlib.suppress(OSError):
            if host.how == "half":
                self.wfile.write(host.content[: len(host.content) // 2])
            elif host.how == "drips":
                for _ in range(100):
                    self.wfile.write(b"x")
                    self.wfile.flush()
                    time.sleep(0.05)
            else:
                self.wfile.write(host.content)

    def log_message(self, *_):
        pass


@contextlib.contextmanager
def serving(how, content=CONTENT, tls=None):
    with Host(how, content) as host:
        if tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*tls)
            host.socket = context.wrap_socket(host.socket, server_side=True)
        thread = threading.Thread(target=host.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield host
        finally:
            host.shutdown()
            thread.join()


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(online, "_SILENCE_SECONDS", 0.3)
    monkeypatch.setattr(online, "_DOWNLOAD_SECONDS", 1.0)


@pytest.fixture
def direct(monkeypatch):
    """No proxy of this machine's between."""
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


# --- the download ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["well", "no length"])
def test_a_good_download_is_the_whole_file(how, tmp_path, direct):
    with serving(how) as host:
        online._fetch(host.url, tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("how", "why"),
    [
        ("hangs", "failed: timed out"),
        ("404", "returned status 404"),
        ("half", "has sent 450000 of 900000 bytes"),
        ("drips", "has sent 0 MB in 1 s"),
    ],
)
def test_a_host_that_does_not_deliver_is_given_up_in_time(how, why, tmp_path, quick, direct):
    started = time.monotonic()
    with serving(how) as host, pytest.raises(online.UnusableError, match=why):
        online._fetch(host.url, tmp_path / "file")
    assert time.monotonic() - started < 8


def test_a_host_that_refuses_or_is_not_there_is_given_up(tmp_path, quick, direct):
    with pytest.raises(online.UnusableError, match="refused"):
        online._fetch(f"http://127.0.0.1:{free_port()}/{NAME}", tmp_path / "file")
    with pytest.raises(online.UnusableError, match="the download from"):
        online._fetch(f"http://no-such-host.invalid/{NAME}", tmp_path / "file")


def test_a_certificate_that_nobody_trusts_is_refused(tmp_path, direct):
    """As a company's proxy that opens TLS shows it, or somebody in between."""
    with serving("well", tls=certificate(tmp_path)) as host, pytest.raises(online.UnusableError, match="CERTIFICATE"):
        online._fetch(host.url.replace("http:", "https:"), tmp_path / "file")
    assert not (tmp_path / "file").exists()


# --- with workerd ----------------------------------------------------------------------------------------------------


@pytest.fixture
def scratch(checkout, tmp_path, monkeypatch, direct):
    """A checkout in which nothing of the published runtime is known yet."""
    monkeypatch.delenv("KONTRACT_PYODIDE", raising=False)
    setup.prepare(checkout, run=False)
    return scratch_checkout(checkout, tmp_path / "scratch")


def stand_in(scratch, url, content, *, hangs=False):
    path = scratch.root / "workerd-stand-in"
    real = mode._workerd(scratch)
    path.write_text(
        WORKERD.format(
            python=sys.executable,
            url=url.replace(NAME, "pyodide_1_stand-in.capnp.bin"),
            hangs=hangs,
            sha256=hashlib.sha256(content).hexdigest(),
            dev=BUNDLE_NAME,
            workerd=real,
        )
    )
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def published(scratch, workerd):
    """What is tried out: nothing of the runtime is in its folder."""
    subject = mode.subject(scratch, Source.ONLINE)
    folder = scratch.state / "published"
    folder.mkdir(exist_ok=True)
    return snapshot.Subject(scratch, workerd, folder, subject.date, subject.flags)


def test_workerd_says_what_it_looks_for(scratch):
    """Asked of the real one, which has not downloaded anything then."""
    url, name = online._wanted(mode.subject(scratch, Source.ONLINE))
    assert url.startswith("https://")
    assert url.endswith(f"/{name}")
    assert name.startswith("pyodide_")
    assert not (scratch.state / "pyodide" / name).exists()


def test_a_good_runtime_is_downloaded_and_tried_out_once(scratch, checkout):
    content = (checkout.state / "pyodide" / BUNDLE_NAME).read_bytes()
    with serving("well", content) as host:
        subject = published(scratch, stand_in(scratch, host.url, content))
        online.prepare(subject, print)
        online.prepare(subject, print)
    assert host.asked == ["/pyodide_1_stand-in.capnp.bin"]
    assert online.ready(subject)
    (subject.folder / "pyodide_1_stand-in.capnp.bin").unlink()
    assert not online.ready(subject), "somebody has deleted it"


def test_a_worker_that_is_not_ready_in_time_makes_it_unusable(scratch, monkeypatch):
    monkeypatch.setattr(snapshot, "_SECONDS", 1.0)
    with serving("well") as host:
        subject = published(scratch, stand_in(scratch, host.url, CONTENT, hangs=True))
        with pytest.raises(online.UnusableError, match="did not answer"):
            online.prepare(subject, print)
    assert not online._bundles(subject.folder)


def test_a_workerd_that_says_nothing_makes_it_unusable(scratch, monkeypatch):
    monkeypatch.setattr(online, "_ASK_SECONDS", 0.5)
    silent = scratch.root / "silent"
    silent.write_text("#!/bin/sh\nexec sleep 600\n")
    silent.chmod(0o755)
    with pytest.raises(online.UnusableError, match="does not say"):
        online.prepare(published(scratch, silent), print)


@pytest.mark.parametrize("how", ["hangs", "404", "half", "well"], ids=["hangs", "404", "half", "digest"])
def test_without_it_the_assembled_one_stands_in_with_one_line(scratch, monkeypatch, capsys, quick, how):
    """`well` is a whole file that is another one than Cloudflare has published: workerd refuses its digest."""
    _, name = online._wanted(mode.subject(scratch, Source.ONLINE))
    with serving(how) as host:
        monkeypatch.setattr(online, "_wanted", lambda _subject: (host.url, name))
        runtime = mode.prepare(scratch, Source.ONLINE)
    assert runtime.source is Source.OFFLINE
    (line,) = capsys.readouterr().err.splitlines()
    assert "cannot be used" in line
    assert ("integrity check failed" in line) is (how == "well")
    assert mode.choose(scratch) is Source.OFFLINE, "it is remembered"
    assert not (scratch.state / "pyodide" / name).exists(), "the next try begins from the start"


def test_a_server_that_does_not_start_on_it_starts_on_the_assembled_one(
    scratch, postgres, reaper, tmp_path, monkeypatch
):
    """The file was good once, and is half of itself today."""
    subject = mode.subject(scratch, Source.ONLINE)
    _, name = online._wanted(subject)
    (scratch.state / "pyodide" / name).write_bytes(CONTENT)
    scratch.mark(online._STAMP, online._made_from(subject))
    runtime = mode.prepare(scratch, Source.ONLINE)
    assert runtime.source is Source.ONLINE
    server = DevServer(
        scratch, runtime, free_port(), postgres.create_database(), persist_to=tmp_path / "objects", state=tmp_path,
        on_spawn=reaper.watch_group,
    )  # fmt: skip
    with serving("404") as host:
        monkeypatch.setattr(online, "_wanted", lambda _subject: (host.url, name))
        try:
            server.start()
            assert server.runtime.source is Source.OFFLINE
        finally:
            server.stop()


def test_a_server_that_does_not_start_for_another_reason_says_that(scratch, monkeypatch):
    """The runtime answers when it is tried out: it is the application's doing."""
    monkeypatch.setattr(online, "try_out", lambda _subject: None)
    assert mode.instead_of(scratch, Runtime(Source.ONLINE)) is None
    assert mode.instead_of(scratch, Runtime(Source.OFFLINE)) is None
