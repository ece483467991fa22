"""Makes .venv from uv.lock. Run by `make` with the system's Python, before anything is installed.

Standard library only, and written so that Python 3.6 can still read it and say that it is too old.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import threading
import time

UV_VERSION = "0.13.8"
MINIMUM_PYTHON = (3, 11)
NEEDED_BYTES = 1300 * 1024 * 1024  # .venv 620 MB, uv's download cache as much again
_OFFLINE = ("dns error", "name resolution", "network is unreachable", "connection refused", "failed to fetch")
_OFFLINE += ("newconnectionerror", "connection error", "could not connect", "client error (connect)", "max retries")
_NO_SPACE = ("no space left on device", "enospc", "disk quota exceeded")


class Problem(Exception):  # noqa: N818 - it is shown to people
    """What is wrong, what to do about it, and the tool's output."""

    def __init__(self, what, fix, detail=""):
        super().__init__(what)
        self.what, self.fix, self.detail = what, fix, detail.strip()


def main(root, python_version=sys.version_info[:3]):
    try:
        check_python(python_version)
        bootstrap(root)
    except Problem as problem:
        print("Problem: " + problem.what, file=sys.stderr)
        print("What to do: " + problem.fix, file=sys.stderr)
        if problem.detail:
            print("\n" + "\n".join("  | " + line for line in problem.detail.splitlines()[-30:]), file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Stopped.", file=sys.stderr)
        return 130
    return 0


def check_python(found):
    if tuple(found) < MINIMUM_PYTHON:
        raise Problem(
            "Python %s is too old: Kontract needs 3.11 or later." % ".".join(str(part) for part in found),
            "Install Python 3.11+ and name it: `make dev PYTHON=python3.12`.",
        )


def bootstrap(root):
    venv = os.path.join(root, ".venv")
    ready = os.path.join(venv, "ready")
    made_from = fingerprint(root)
    if read(ready) == made_from and starts(os.path.join(venv, "bin", "python")):
        os.utime(ready, None)  # newer than what make compares it with
        return
    check_space(root)
    if os.path.exists(ready):
        os.remove(ready)  # until all is done: a run that is cut off begins here again
    python = os.path.join(venv, "bin", "python")
    if not starts(python, "import pip"):
        step(
            "Creating .venv",
            [sys.executable, "-m", "venv", "--clear", venv],
            root,
            "Python could not create a virtual environment.",
            "On Debian and Ubuntu install the package python3-venv; then run the command again.",
        )
    uv = os.path.join(venv, "bin", "uv")
    if version_of(uv) != UV_VERSION:
        step(
            "Installing uv %s" % UV_VERSION,
            [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "uv==" + UV_VERSION],
            root,
            "pip could not install uv %s." % UV_VERSION,
            "Read pip's message below.",
        )
    step(
        "Installing the tools of uv.lock",
        [uv, "sync", "--locked", "--python", python],
        root,
        "uv could not install the packages of uv.lock.",
        "If pyproject.toml was edited, run `.venv/bin/uv lock` to bring uv.lock up to date.",
        {"UV_PROJECT_ENVIRONMENT": venv, "UV_PYTHON_DOWNLOADS": "never"},
    )
    with open(ready + ".part", "w") as file:
        file.write(made_from)
    os.replace(ready + ".part", ready)


def fingerprint(root):
    total = hashlib.sha256(UV_VERSION.encode())
    for name in ("pyproject.toml", "uv.lock"):
        with open(os.path.join(root, name), "rb") as file:
            total.update(hashlib.sha256(file.read()).digest())
    return total.hexdigest()


def check_space(root):
    free = shutil.disk_usage(root).free
    if free < NEEDED_BYTES:
        raise Problem(
            "Only %d MB are free on the disk of %s; the tools need %d MB." % (free >> 20, root, NEEDED_BYTES >> 20),
            "Free some space and run the command again; nothing was changed.",
        )


def step(text, command, root, failed, fix, more_env=None):
    """Run one tool to its end, with a sign of life every ten seconds; its output is shown only if it fails."""
    print("  %s ..." % text, flush=True)
    started, done = time.time(), threading.Event()

    def tick():
        while not done.wait(10):
            print("    still running: %s (%d s)" % (text, time.time() - started), flush=True)

    threading.Thread(target=tick, daemon=True).start()
    try:
        result = subprocess.run(
            command,
            cwd=root,
            env=dict(os.environ, **(more_env or {})),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            universal_newlines=True,
        )
    except OSError as error:
        raise Problem(failed, fix, str(error))
    finally:
        done.set()
    if result.returncode != 0:
        output = result.stdout.lower()
        if any(sign in output for sign in _NO_SPACE):
            fix = "The disk is full: free some space and run the command again."
        elif any(sign in output for sign in _OFFLINE):
            fix = (
                "The package registry could not be reached: check the network (or the proxy settings), then try again."
            )
        raise Problem(failed, fix, result.stdout)


def starts(python, code="pass"):
    try:
        return subprocess.run([python, "-c", code], stderr=subprocess.DEVNULL).returncode == 0
    except OSError:
        return False


def version_of(uv):
    try:
        result = subprocess.run([uv, "--version"], stdout=subprocess.PIPE, universal_newlines=True)
    except OSError:
        return ""
    words = result.stdout.split()
    return words[1] if len(words) > 1 else ""


def read(path):
    try:
        with open(path) as file:
            return file.read()
    except OSError:
        return ""


if __name__ == "__main__":
    here = os.path.abspath(__file__)
    for _ in range(5):  # src/kontract/cli/toolchain/bootstrap.py
        here = os.path.dirname(here)
    sys.exit(main(here))
