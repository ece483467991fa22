"""A memory snapshot of workerd's Python with the gateway imported: what every start and reload then begins from.

A deployed Worker restores such a snapshot, which Cloudflare takes of it when it is uploaded. `wrangler dev` starts
Python and imports everything again for each edit: seconds of processor time. workerd can save and load snapshots
itself (`--python-save-snapshot`, `--python-load-snapshot`), so one is taken of a Worker that imports what the main
module imports of the gateway and of python_modules, and nothing of the application. The application's main module has
another name, so it and whatever it imports of src/ come from their files, edited or not.

The snapshot is tried out before it is used. Whatever goes wrong costs the time that it would have saved, and a
sentence.
"""

from __future__ import annotations

import ast
import contextlib
import hashlib
import http.client
import json
import os
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from kontract.cli.toolchain.checkout import Checkout
from kontract.cli.toolchain.problem import Problem
from kontract.cli.toolchain.progress import Say, step

NAME = "snapshot.bin"
_STAMP = "snapshot"
_MAIN = "_kontract_snapshot.py"  # not the name of the application's main module, which must come from its file
READY = "the snapshot's Worker"
_SECONDS = 60.0  # 5 on a quiet machine
LOCAL = ("cli", "server", "testing")  # parts of the gateway's package that no Worker imports
_CONFIG = """using Workerd = import "/workerd/workerd.capnp";
const config :Workerd.Config = (
  services = [(name = "main", worker = .worker)],
  sockets = [(name = "http", address = "127.0.0.1:0", http = (), service = "main")],
);
const worker :Workerd.Worker = (
  modules = [%(modules)s],
  compatibilityDate = %(date)s,
  compatibilityFlags = [%(flags)s],
);
"""
_WORKER = """from workers import Response, WorkerEntrypoint

%(imports)s


class Default(WorkerEntrypoint):
    async def fetch(self, request):
        return Response(%(answer)r)
"""


class Wish(Enum):
    """What KONTRACT_SNAPSHOT asks for."""

    TAKE = ""
    KEEP = "keep"  # use the one that is there for as long as it can be used, and take no other
    OFF = "off"


def wish() -> Wish:
    """Raises Problem."""
    text = os.environ.get("KONTRACT_SNAPSHOT", "")
    try:
        return Wish(text)
    except ValueError:
        raise Problem(f"KONTRACT_SNAPSHOT cannot be {text!r}.", "Set it to `keep` or `off`, or unset it.") from None


Module = tuple[str, Path, str]
"""Name, file, and kind (workerd.capnp, `Worker.Module`)."""


@dataclass(frozen=True, slots=True)
class Subject:
    """What a snapshot is of."""

    checkout: Checkout
    workerd: Path
    folder: Path  # with the bundle; where the snapshot goes
    date: str  # of compatibility
    flags: tuple[str, ...]


def is_fresh(subject: Subject) -> bool:
    """Whether the one that is there is of the same things as one that would be taken now. If so, it is made as young.

    Files may have become newer and the same again, by `git switch` for example.
    """
    now, snapshot = time.time(), subject.folder / NAME
    made_from = _fingerprint(subject, sources(subject.checkout))
    if not snapshot.is_file() or not subject.checkout.is_fresh(_STAMP, made_from):
        return False
    os.utime(snapshot, (now, now))
    return True


def take(subject: Subject, tell: Say) -> None:
    """Take it and try it out; one that fails leaves none, and is told."""
    started = time.time()
    checkout, snapshot = subject.checkout, subject.folder / NAME
    modules = sources(checkout)
    made_from = _fingerprint(subject, modules)
    checkout.forget(_STAMP)
    snapshot.unlink(missing_ok=True)
    scratch = checkout.state / "tmp"
    scratch.mkdir(parents=True, exist_ok=True)
    with (
        step("Taking a snapshot of the Python runtime, for faster starts and reloads", tell),
        tempfile.TemporaryDirectory(prefix="snapshot-", dir=scratch) as work,
    ):
        made = Path(work)
        try:
            main = _WORKER % {"imports": "\n".join(imports(checkout)), "answer": READY}
            config = write_config(subject, made, modules, main)
            for how in ("--python-save-snapshot", f"--python-load-snapshot={NAME}"):
                answers(subject, made, config, how, leaves=NAME)
            os.utime(made / NAME, (started, started))  # what is edited from now on is newer (mode.py compares)
            (made / NAME).replace(snapshot)
        except NoAnswerError as error:
            tell(f"    No snapshot: {error} Starts and reloads take a few seconds longer; nothing else changes.")
            return
    checkout.mark(_STAMP, made_from)


class NoAnswerError(Exception):
    """A Worker did not answer, and why."""


def sources(checkout: Checkout) -> list[Module]:
    """The modules of the Worker that are not the application's."""
    src, vendored = checkout.root / "src", checkout.python_modules
    package = src / "kontract"
    found: list[Module] = []
    for path in sorted(package.rglob("*")):
        part = path.relative_to(package).parts[0]
        if path.suffix in (".py", ".js") and part not in LOCAL:
            kind = "pythonModule" if path.suffix == ".py" else "esModule"
            found.append((path.relative_to(src).as_posix(), path, kind))
    packages = (path for path in sorted(vendored.rglob("*")) if path.is_file() and path.suffix not in (".pyc", ".pyi"))
    found += [(f"python_modules/{path.relative_to(vendored).as_posix()}", path, "data") for path in packages]
    return found


def imports(checkout: Checkout) -> list[str]:
    """What the Worker's main modules import of the gateway and of the packages, as statements."""
    vendored = {path.name.removesuffix(".py") for path in checkout.python_modules.iterdir()} | {"kontract"}
    names: set[str] = set()
    for path in (checkout.root / "src" / "entry.py", checkout.root / "src" / "session_do.py"):
        with contextlib.suppress(SyntaxError, OSError):  # `kontract build` tells about those
            for node in ast.parse(path.read_text(encoding="utf-8")).body:
                if isinstance(node, ast.Import):
                    names.update(alias.name for alias in node.names)
                elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                    names.add(node.module)
    return [f"import {name}" for name in sorted(names) if name.partition(".")[0] in vendored]


def _fingerprint(subject: Subject, modules: list[Module]) -> str:
    digest = hashlib.sha256()
    for path in (subject.workerd, Path(__file__)):
        digest.update(f"{path.name} {path.stat().st_size} {path.stat().st_mtime_ns}\n".encode())
    digest.update("\n".join([subject.date, *subject.flags, *imports(subject.checkout)]).encode())
    for name, path, _kind in modules:
        if name.startswith("kontract/"):
            digest.update(name.encode() + path.read_bytes())
        else:
            found = path.stat()
            digest.update(f"{name} {found.st_size} {found.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def write_config(subject: Subject, folder: Path, modules: list[Module], main: str) -> Path:
    """Write a configuration of workerd for a Worker whose main module has the text ``main``."""
    root, path_of_main = subject.checkout.root, folder / _MAIN
    path_of_main.write_text(main, encoding="utf-8")
    written = ",\n    ".join(
        f"(name = {_text(name)}, {kind} = embed {_text('/' + path.relative_to(root).as_posix())})"
        for name, path, kind in ((_MAIN, path_of_main, "pythonModule"), *modules)
    )
    config = folder / "config.capnp"
    flags = ", ".join(map(_text, subject.flags))
    config.write_text(_CONFIG % {"modules": written, "date": _text(subject.date), "flags": flags}, encoding="utf-8")
    return config


def _text(text: str) -> str:
    """A string of Cap'n Proto's language, whose escapes are C's."""
    return json.dumps(text, ensure_ascii=False)


def command(subject: Subject, made: Path, config: Path, how: str, control: int) -> list[str | Path]:
    """workerd, with its snapshots in ``made``, telling the descriptor ``control`` where it listens."""
    return [
        *(subject.workerd, "serve", "--experimental", f"--control-fd={control}", f"-I{subject.checkout.root}"),
        *(f"--pyodide-bundle-disk-cache-dir={subject.folder}", f"--python-snapshot-dir={made}", how, config),
    ]


def answers(subject: Subject, made: Path, config: Path, how: str, leaves: str = "log") -> None:
    """Run workerd until its Worker has answered; raises NoAnswerError: not at all, not in time, or no such file."""
    reading, writing = os.pipe()
    log = made / "log"
    try:
        with log.open("w") as output:
            process = subprocess.Popen(
                command(subject, made, config, how, writing),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=(writing,),
            )
        os.close(writing)
        writing = -1
        try:
            port = next(ports(reading), None)  # none when it has ended
            if port is None or _get(port) != READY:
                raise NoAnswerError(_reason(log))
        finally:
            process.kill()  # it holds nothing that could be lost
            process.wait()
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise NoAnswerError(_reason(log) if log.is_file() else f"{error}.") from error
    finally:
        for descriptor in (reading, writing):
            if descriptor >= 0:
                os.close(descriptor)
    if not (made / leaves).is_file():
        raise NoAnswerError(_reason(log))


def ports(descriptor: int) -> Iterator[int]:
    """The ports that workerd says it listens on, once its Workers are there."""
    os.set_blocking(descriptor, False)
    text, end = b"", time.monotonic() + _SECONDS
    while time.monotonic() < end:
        try:
            part = os.read(descriptor, 4096)
        except BlockingIOError:
            time.sleep(0.02)
            continue
        if not part:
            return
        text += part
        *lines, text = text.split(b"\n")
        for line in lines:
            said = json.loads(line)
            if said.get("event") == "listen":
                yield int(said["port"])


def _get(port: int) -> str:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # never through HTTP_PROXY
    with opener.open(f"http://127.0.0.1:{port}/", timeout=_SECONDS) as response:
        return bytes(response.read()).decode()


def _reason(log: Path) -> str:
    """What workerd said at the end, in a line."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return f"workerd says: {lines[-1][:300]}." if lines else "workerd did not answer."
