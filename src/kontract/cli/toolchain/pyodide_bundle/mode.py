"""Decides where workerd gets its Python runtime from: the network, or the bundle assembled here."""

from __future__ import annotations

import os
import shlex
import stat
import threading
import time
import tomllib
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

from kontract.cli.toolchain.checkout import Checkout, write_atomically
from kontract.cli.toolchain.problem import Problem
from kontract.cli.toolchain.progress import Say, say, warn
from kontract.cli.toolchain.pyodide_bundle import online, snapshot
from kontract.cli.toolchain.pyodide_bundle.assemble import assemble
from kontract.cli.toolchain.pyodide_bundle.snapshot import Wish

HOSTS = ("pyodide-capnp-bin.edgeworker.net",)  # where workerd's runtime is published
_PROBE_SECONDS = 2.5
_CACHE = "pyodide-source"
_REMEMBERED_SECONDS = 24 * 3600  # a laptop that was offline this morning need not be tomorrow
# The version named `dev` is selected by these two flags; wrangler.toml carries neither.
DEVELOPMENT_FLAGS = ("python_workers_development", "experimental")


class Source(Enum):
    """Where the Python runtime of workerd comes from."""

    ONLINE = "online"
    OFFLINE = "offline"


@dataclass(frozen=True, slots=True)
class Runtime:
    """What `wrangler dev` must be given, beside its usual arguments, to find its Python runtime."""

    source: Source
    arguments: tuple[str, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)


def choose(checkout: Checkout) -> Source:
    """KONTRACT_PYODIDE if set; else what an earlier run in this checkout found; else a probe of the download hosts."""
    if wanted := forced():
        return wanted
    cache = checkout.state / _CACHE
    if cache.is_file() and time.time() - cache.stat().st_mtime < _REMEMBERED_SECONDS:
        known = cache.read_text().strip()
        if known in (source.value for source in Source):
            return Source(known)
    source = Source.ONLINE if reachable(HOSTS) else Source.OFFLINE
    remember(checkout, source)
    return source


def remember(checkout: Checkout, source: Source) -> None:
    """Keep what was found for the next runs of this checkout."""
    write_atomically(checkout.state / _CACHE, source.value)


def forced() -> Source | None:
    """What KONTRACT_PYODIDE asks for, if it is set."""
    text = os.environ.get("KONTRACT_PYODIDE", "")
    if not text:
        return None
    try:
        return Source(text)
    except ValueError:
        raise Problem(
            f"KONTRACT_PYODIDE cannot be {text!r}.", "Set it to `online` or `offline`, or unset it."
        ) from None


def reachable(hosts: tuple[str, ...], seconds: float = _PROBE_SECONDS) -> bool:
    """True if every host answers HTTPS within the time. Any status counts: it is the network that is asked about."""
    answered: set[str] = set()

    def ask(host: str) -> None:
        if _answers(host, seconds):
            answered.add(host)

    # Daemon threads, and one deadline for all: looking up a name has no timeout of its own and can take a minute.
    askers = [threading.Thread(target=ask, args=(host,), daemon=True) for host in hosts]
    for asker in askers:
        asker.start()
    end = time.monotonic() + seconds
    for asker in askers:
        asker.join(max(0.0, end - time.monotonic()))
    return answered == set(hosts)


def _answers(host: str, seconds: float) -> bool:
    import urllib.error
    import urllib.request

    try:
        # urllib goes through HTTPS_PROXY if one is set, as the downloads themselves do.
        urllib.request.urlopen(urllib.request.Request(f"https://{host}/", method="HEAD"), timeout=seconds).close()
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
    return True


def prepare(checkout: Checkout, source: Source, tell: Say = say) -> Runtime:
    """Make what the source needs and say how to start `wrangler dev` with it.

    The published runtime is used if a Worker answers on it; otherwise the assembled one is used, and a line says so.
    Raises `Problem` if KONTRACT_PYODIDE requires the published one.
    """
    folder = checkout.state / "pyodide"
    folder.mkdir(parents=True, exist_ok=True)
    if source is Source.ONLINE:
        try:
            online.prepare(subject(checkout, source), tell)
        except online.UnusableError as error:
            if forced():
                raise Problem(
                    f"The Python runtime that Cloudflare publishes cannot be used: {error}",
                    "KONTRACT_PYODIDE requires it: unset it to use a runtime assembled from npm's pyodide.",
                ) from error
            warn(
                f"  The Python runtime that Cloudflare publishes cannot be used ({error}): using one assembled from "
                "npm's pyodide."
            )
            source = Source.OFFLINE
            remember(checkout, source)  # and do not wait for the same failure at every start
            assemble(checkout.node_modules / "pyodide", folder)
    elif source is Source.OFFLINE:
        tell(
            "  Using a Python runtime assembled from npm's pyodide: Cloudflare's download is not usable here "
            "(KONTRACT_PYODIDE=online requires it)."
        )
        assemble(checkout.node_modules / "pyodide", folder)
    flags = tuple(_flags(checkout, source))
    return Runtime(
        source,
        ("--compatibility-flags", *flags) if source is Source.OFFLINE else (),
        {"MINIFLARE_WORKERD_PATH": str(_wrapper(checkout, folder))},
    )


def instead_of(checkout: Checkout, runtime: Runtime, tell: Say = say) -> Runtime | None:
    """Return another runtime for one on which the Worker has not started; None when it was not the runtime's fault."""
    if runtime.source is not Source.ONLINE:
        return None
    published = subject(checkout, Source.ONLINE)
    try:
        online.try_out(published)
    except online.UnusableError:
        online.forget(published)
        return prepare(checkout, Source.ONLINE, tell)
    return None


def take_snapshot(checkout: Checkout, source: Source, tell: Say = say) -> None:
    """Make starts and reloads fast (snapshot.py), for runs of the Worker, not for uploads."""
    if wants_snapshot(checkout, source):
        snapshot.take(subject(checkout, source), tell)


def wants_snapshot(checkout: Checkout, source: Source) -> bool:
    """Whether one should be taken."""
    return snapshot.wish() is Wish.TAKE and not snapshot.is_fresh(subject(checkout, source))


def subject(checkout: Checkout, source: Source) -> snapshot.Subject:
    """What a snapshot of this checkout is of."""
    date = str(_config(checkout).get("compatibility_date", ""))
    flags = tuple(_flags(checkout, source))
    return snapshot.Subject(checkout, _workerd(checkout), checkout.state / "pyodide", date, flags)


def _config(checkout: Checkout) -> dict[str, Any]:
    return tomllib.loads(checkout.wrangler_toml.read_text(encoding="utf-8"))


def _flags(checkout: Checkout, source: Source) -> list[str]:
    """The flags of wrangler.toml, which are replaced as soon as any is given on the command line, and those of ours."""
    flags = [str(flag) for flag in _config(checkout).get("compatibility_flags", [])]
    return [*flags, *(DEVELOPMENT_FLAGS if source is Source.OFFLINE else ())]


def _wrapper(checkout: Checkout, folder: Path) -> Path:
    """A program that miniflare starts in workerd's place: the real one, told where Python and its snapshot are.

    miniflare restarts it for every reload. A snapshot that is older than a file it was made of is left alone.
    """
    script = folder / "workerd"
    package = checkout.root / "src" / "kontract"
    parts = [path for path in (package / name for name in snapshot.LOCAL) if path.is_dir()]
    quote = shlex.quote
    text = (
        "#!/bin/sh\n"
        "# Written by `kontract dev`: workerd, told to look for its Python runtime in this folder.\n"
        "umask 077\n"  # what Durable Objects keep is nobody else's
        'here=$(dirname "$0")\n'
        f"workerd={quote(str(_workerd(checkout)))}\n"
        "edited() {\n"
        f"  find -H {quote(str(package))} {quote(str(checkout.python_modules))}"
        + "".join(f" -path {quote(str(part))} -prune -o" for part in parts)
        + f""" -type f ! -name '*.pyc' -newer "$here/{snapshot.NAME}" -print 2>/dev/null\n"""
        "}\n"
        'if [ "$1" = serve ]; then\n'
        "  shift\n"
        f'  if [ "$KONTRACT_SNAPSHOT" != {Wish.OFF.value} ] && [ -f "$here/{snapshot.NAME}" ] '
        '&& [ -z "$(edited | head -n 1)" ]; then\n'
        f'    set -- --python-snapshot-dir="$here" --python-load-snapshot={snapshot.NAME} "$@"\n'
        "  fi\n"
        '  exec "$workerd" serve --pyodide-bundle-disk-cache-dir="$here" "$@"\n'
        "fi\n"
        'exec "$workerd" "$@"\n'
    )
    if not script.is_file() or script.read_text() != text:
        write_atomically(script, text, 0o755)
    script.chmod(stat.S_IRWXU | stat.S_IRGRP | stat.S_IXGRP | stat.S_IROTH | stat.S_IXOTH)
    return script


def _workerd(checkout: Checkout) -> Path:
    """The native binary for this machine; npm installed exactly one."""
    found = sorted((checkout.node_modules / "@cloudflare").glob("workerd-*/bin/workerd"))
    if not found:
        raise Problem(
            "workerd is not in node_modules: npm has no build for this machine.",
            "workerd exists for Linux (glibc) and macOS on x64 and arm64; on another system use a container.",
        )
    return found[0]
