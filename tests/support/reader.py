"""Somebody who types what a page shows, and compares what comes back with what stands there."""

from __future__ import annotations

import os
import re
import subprocess
from itertools import count
from pathlib import Path

from kontract.cli.toolchain.processes import wait_until
from support.pages import SHOWN_URL

# Row ids (UUID) and request ids are new each time.
IDS = re.compile(r'[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}|(?<="request_id":")[0-9a-f]{24}(?=")')

GIT = {f"GIT_{who}_{what}": "reader@example.com" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}


class Renamed:
    """Texts with their ids replaced by numbers in order of appearance, so that equal ids stay equal."""

    def __init__(self) -> None:
        self.names: dict[str, str] = {}
        self._numbers = count(1)

    def __call__(self, text: str) -> str:
        return IDS.sub(lambda found: self.names.setdefault(found[0], f"<id {next(self._numbers)}>"), text)


class Reader:
    """Somebody in a shell: where a `cd` leads and what a line sets is there in the next."""

    def __init__(self, folder: Path | str, port: int | None) -> None:
        self.folder = folder
        self.port = port
        self._before = ""
        self._told, self._answered = Renamed(), Renamed()

    def type(self, text: str, *, may_fail: bool = False) -> str:
        """What is printed on standard output."""
        text = text.replace(SHOWN_URL, f"http://localhost:{self.port}")
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", f"{self._before}\n{text}\npwd >&2\ndeclare -p TOKEN STAFF >&2 || true"],
            cwd=self.folder,
            env={key: value for key, value in os.environ.items() if not key.lower().endswith("_proxy")} | GIT,
            capture_output=True,
            text=True,
            check=False,
            timeout=400,
        )
        assert may_fail or done.returncode == 0, done.stdout + done.stderr
        if done.returncode != 0:
            return done.stdout.strip()
        self.folder = re.findall(r"^(/.*)$", done.stderr, re.MULTILINE)[-1]
        for name, value in re.findall(r'^declare -- (TOKEN|STAFF)="(.+)"$', done.stderr, re.MULTILINE):
            self._before = re.sub(rf"^{name}=.*\n", "", self._before, flags=re.MULTILINE) + f"{name}={value}\n"
        if re.match(r"\w+\(\)", text):
            self._before += f"{text}\n"
        return done.stdout.strip()

    def compare(self, text: str) -> None:
        """Type each line after `$`; what it prints, once what was saved has arrived, is what stands below it."""
        for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
            command, _, shown = part.partition("\n")
            real = {name: found for found, name in self._answered.names.items()}
            line = IDS.sub(lambda found, real=real: real[self._told.names[found[0]]], command)
            expected = self._told(shown.strip())
            answers: list[str] = []

            def as_shown(line: str = line, expected: str = expected, answers: list[str] = answers) -> bool:
                answers.append(self.type(line, may_fail=True))
                return shape(answers[-1]) == shape(expected)

            # A call that comes before the Worker has reloaded is answered by the one of before.
            assert wait_until(as_shown, 60), f"$ {command}\n{answers[-1]}\ninstead of\n{expected}"
            assert self._answered(answers[-1]) == expected


def shape(text: str) -> str:
    """A text without its ids: `<id 3>` and the id itself look alike."""
    return re.sub(r"<id \d+>", "<id>", IDS.sub("<id>", text))
