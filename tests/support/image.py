"""Runs the steps of the Dockerfile by hand, in an empty folder and with this machine's Python.

What stands for the base image is a virtual environment. /opt/kontract becomes a folder of the same name below a
temporary one. The steps that need root in an image of their own (groupadd) are left out. What this cannot show: that
the base image exists, and how BuildKit caches.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from support.deployment import HOME, ROOT, Stage, Step, assignments, build_context, stages


class Image:
    """`folder`: what the final stage holds at /opt/kontract; `environment`: its variables; `skipped`: RUN left out."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._base = root / "base"
        self.folder = root / "image" / HOME.strip("/")
        self.environment: dict[str, str] = {}
        self.skipped: list[str] = []
        self._kept: dict[str, Path] = {}

    def build(self, text: str) -> None:
        """Run every stage; what a stage leaves is put aside for COPY --from."""
        subprocess.run([sys.executable, "-m", "venv", self._base], check=True, timeout=120)
        _, *all_ = stages(text)
        for stage in all_:
            shutil.rmtree(self._root / "image", ignore_errors=True)
            self.environment = {"PATH": f"{self._base}/bin:{os.defpath}"}
            for step in stage.steps:
                self._run(step)
            kept = self._root / f"kept-{stage.name or 'final'}"
            if stage.name:
                (self._root / "image").rename(kept)
                self._kept[stage.name] = kept

    def here(self, text: str) -> str:
        """A text with the application's place in the image replaced by where it is."""
        return text.replace(HOME, str(self.folder))

    def command(self, stage: Stage, *arguments: str) -> list[str]:
        """What the container runs: ENTRYPOINT with CMD, or with `arguments` in its place."""
        words = stage.last("ENTRYPOINT").words() + list(arguments or stage.last("CMD").words())
        program = shutil.which(words[0], path=self.environment["PATH"])
        assert program, f"{words[0]} is not in {self.environment['PATH']}"
        return [program, *map(self.here, words[1:])]

    def _run(self, step: Step) -> None:
        match step.name:
            case "ARG" | "ENV":
                for key, value in assignments(step.text).items():
                    self.environment[key] = self.here(value).replace("$PATH", self.environment["PATH"])
            case "WORKDIR":
                assert step.text == HOME, "one place in all stages: a virtual environment knows where it is"
                self.folder.mkdir(parents=True)
            case "COPY":
                self._copy(step.words())
            case "RUN" if step.text.startswith("groupadd"):
                self.skipped.append(step.text)
            case "RUN":
                # A mirror of PyPI that this machine is set up for is the network's business, not the image's.
                outside = {key: value for key, value in os.environ.items() if key.startswith(("PIP_", "UV_", "SSL_"))}
                done = subprocess.run(
                    ["sh", "-c", self.here(step.text)],
                    cwd=self.folder if self.folder.exists() else self._root,
                    env={"HOME": str(self._root)} | outside | self.environment,
                    capture_output=True,
                    text=True,
                    timeout=600,
                    check=False,
                )
                assert done.returncode == 0, f"RUN {step.text}\n{done.stdout}{done.stderr}"

    def _copy(self, words: list[str]) -> None:
        if words[0].startswith("--from="):
            kept = self._kept[words[0].removeprefix("--from=")]
            source, target = words[1:]
            shutil.copytree(kept / source.strip("/"), Path(self.here(target)), symlinks=True, dirs_exist_ok=True)
            return
        *sources, target = words
        for path in build_context(ROOT):
            for source in sources:
                if path == source:
                    place = self.folder / target / Path(path).name
                elif path.startswith(f"{source}/"):
                    place = self.folder / target / path.removeprefix(f"{source}/")
                else:
                    continue
                place.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / path, place)
