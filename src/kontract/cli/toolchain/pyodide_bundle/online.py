"""The runtime that Cloudflare publishes: downloaded here, tried out, and given up for the assembled one if it fails.

workerd would download it by itself, at its first start, without a time limit and without HTTPS_PROXY. So it is asked
where it would look, and finds the file on its disk; it checks the file's digest, which is compiled into it. Then a
Worker has to answer once. Packages are vendored in the same way in any case (vendor.py).
"""

from __future__ import annotations

import contextlib
import dataclasses
import http.client
import os
import re
import subprocess
import tempfile
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

from kontract.cli.toolchain.checkout import digest
from kontract.cli.toolchain.progress import Say, step
from kontract.cli.toolchain.pyodide_bundle import snapshot
from kontract.cli.toolchain.pyodide_bundle.snapshot import NoAnswerError, Subject

_STAMP = "pyodide-online"
_LOOKS_FOR = re.compile(r"url = (\S+/(pyodide_[\w.-]+\.capnp\.bin))")
_ASK_SECONDS = 20.0  # workerd says what it looks for within half a second
_SILENCE_SECONDS = 10.0  # of a host that has nothing more to say
_DOWNLOAD_SECONDS = 120.0  # for 14 MB
_PIECE = 1 << 16
_MAIN = """from workers import Response, WorkerEntrypoint


class Default(WorkerEntrypoint):
    async def fetch(self, request):
        return Response(%r)
"""


class UnusableError(Exception):
    """The published runtime does not end in a Worker that answers; why, in a sentence."""


def ready(subject: Subject) -> bool:
    """Whether the published runtime is here and a Worker has answered on it."""
    return subject.checkout.is_fresh(_STAMP, _made_from(subject)) and bool(_bundles(subject.folder))


def prepare(subject: Subject, tell: Say) -> None:
    """Download it and try it out, unless both were done; raises UnusableError."""
    if ready(subject):
        return
    with step("Downloading and testing the Python runtime that Cloudflare publishes", tell):
        try:
            _download(subject)
            try_out(subject)
        except BaseException:
            forget(subject)
            raise
    subject.checkout.mark(_STAMP, _made_from(subject))


def try_out(subject: Subject) -> None:
    """Let a Worker answer on the runtime that is here; raises UnusableError."""
    scratch = subject.checkout.state / "tmp"
    scratch.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="online-", dir=scratch) as work:
        made = Path(work)
        vendored = [one for one in snapshot.sources(subject.checkout) if one[0].startswith("python_modules/")]
        config = snapshot.write_config(subject, made, vendored, _MAIN % snapshot.READY)
        try:
            snapshot.answers(subject, made, config, "--verbose")
        except NoAnswerError as error:
            raise UnusableError(str(error)) from error


def forget(subject: Subject) -> None:
    """Remove what was downloaded: the next try begins from the start."""
    subject.checkout.forget(_STAMP)
    for path in _bundles(subject.folder):
        path.unlink(missing_ok=True)


def _made_from(subject: Subject) -> str:
    found = subject.workerd.stat()
    return digest(f"{subject.workerd} {found.st_size} {found.st_mtime_ns}", subject.date, " ".join(subject.flags))


def _bundles(folder: Path) -> list[Path]:
    return [path for path in folder.glob("pyodide_*.capnp.bin") if path.name != "pyodide_dev.capnp.bin"]


def _download(subject: Subject) -> None:
    url, name = _wanted(subject)
    target = subject.folder / name
    if target.is_file():
        return
    part = target.with_suffix(f".{os.getpid()}.part")
    try:
        _fetch(url, part)
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)


def _wanted(subject: Subject) -> tuple[str, str]:
    """What workerd would download, as it says itself before it begins: (URL, name of the file)."""
    scratch = subject.checkout.state / "tmp"
    scratch.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="online-", dir=scratch) as work:
        empty = Path(work)
        asked = dataclasses.replace(subject, folder=empty)
        config = snapshot.write_config(asked, empty, [], _MAIN % "")
        command = snapshot.command(asked, empty, config, "--verbose", control=1)
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
        )
        limit = threading.Timer(_ASK_SECONDS, process.kill)
        limit.start()
        try:
            assert process.stderr is not None
            for line in process.stderr:
                if found := _LOOKS_FOR.search(line):
                    return found[1].rstrip(";"), found[2]
        finally:
            limit.cancel()
            process.kill()  # before its own download has begun in earnest
            process.communicate()
    raise UnusableError("workerd does not say which runtime it needs.")


def _fetch(url: str, target: Path) -> None:
    """Download a file: whole, within the time, and never from a host that has fallen silent. Raises UnusableError."""
    end = time.monotonic() + _DOWNLOAD_SECONDS
    host = url.partition("://")[2].partition("/")[0]
    try:
        with urllib.request.urlopen(url, timeout=_SILENCE_SECONDS) as answer, target.open("wb") as file:  # noqa: S310 - workerd's
            expected = answer.headers.get("Content-Length")
            received = 0
            while piece := answer.read1(_PIECE):
                received += file.write(piece)
                if time.monotonic() > end:
                    raise UnusableError(f"{host} has sent {received >> 20} MB in {_DOWNLOAD_SECONDS:.0f} s.")
        if expected is not None and received != int(expected):
            raise UnusableError(f"{host} has sent {received} of {expected} bytes.")
    except urllib.error.HTTPError as error:
        with contextlib.closing(error):
            raise UnusableError(f"{host} returned status {error.code}.") from error
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        raise UnusableError(f"the download from {host} failed: {reason}.") from error
