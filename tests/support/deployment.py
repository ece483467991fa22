"""What the files of a deployment say, read as the tools would read them that are not on every machine."""

from __future__ import annotations

import ast
import json
import os
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from kontract.cli.toolchain.checkout import Checkout
from kontract.gateway import config
from kontract.server import database, serve, settings
from kontract.server.env_file import parse

ROOT = Checkout.find().root
DEPLOY = ROOT / "deploy"
KUBERNETES = DEPLOY / "kubernetes"
ORDERLY_END_SECONDS = serve.FINISH_SECONDS + serve.CLOSE_SECONDS + database.CLOSE_SECONDS
"""How long the server takes at most, from SIGTERM (and KONTRACT_DRAIN_SECONDS) to its end."""

HOME = "/opt/kontract"
"""Where the application lies, in the image and on a server."""


def known() -> set[str]:
    """Every variable that the server reads: names that stand in its modules and in the gateway's configuration."""
    sources = [Path(config.__file__), *Path(settings.__file__).parent.rglob("*.py")]
    nodes = [node for path in sources for node in ast.walk(ast.parse(path.read_text()))]
    texts = {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    names = {text for text in texts if re.fullmatch(r"PORT|DATABASE_URL|(KONTRACT|TIKV)_[A-Z_]+", text)}
    return names - {settings.DEVELOPMENT}  # of a command to its own server


# --- Dockerfile ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Step:
    """One instruction; `text` is what follows its name, on one line."""

    name: str
    text: str

    def words(self) -> list[str]:
        """The words of an exec form, or of a COPY."""
        return json.loads(self.text) if self.text.startswith("[") else shlex.split(self.text)


@dataclass
class Stage:
    """A FROM and what follows it."""

    image: str
    name: str
    steps: list[Step] = field(default_factory=list)

    def all(self, name: str) -> list[Step]:
        return [step for step in self.steps if step.name == name]

    def last(self, name: str) -> Step:
        return self.all(name)[-1]


def stages(text: str) -> list[Stage]:
    """The stages of a Dockerfile; a stage called "" holds what stands before the first FROM."""
    found = [Stage("", "")]
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    for line in re.sub(r"\\\n", " ", "\n".join(lines)).splitlines():
        name, _, rest = line.strip().partition(" ")
        if name == "FROM":
            image, _, alias = rest.partition(" AS ")
            found.append(Stage(image, alias))
        elif name:
            found[-1].steps.append(Step(name, " ".join(rest.split()) if name != "RUN" else rest.strip()))
    return found


def assignments(text: str) -> dict[str, str]:
    """The KEY=VALUE of an ENV, ARG or LABEL."""
    return dict(word.partition("=")[::2] for word in shlex.split(text))


def build_context(root: Path) -> Iterator[str]:
    """The files that `docker build` would see: those that .dockerignore does not take away."""
    rules = [line for line in (root / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    compiled = [(rule.startswith("!"), _pattern(rule.removeprefix("!"))) for rule in rules]
    for folder, folders, files in os.walk(root):
        here = Path(folder).relative_to(root)
        if here == Path():  # the rest of a checkout is large
            kept = {rule[1:].split("/")[0] for rule in rules if rule.startswith("!")}
            folders[:] = [name for name in folders if name in kept]
        for name in files:
            path = (here / name).as_posix()
            ignored = False
            for included, pattern in compiled:
                if pattern.match(path):
                    ignored = not included
            if not ignored:
                yield path


def _pattern(rule: str) -> re.Pattern[str]:
    """A rule of .dockerignore: it is about a path and everything below it."""
    parts = re.escape(rule).replace(r"\*\*/", "(?:.*/)?").replace(r"\*", "[^/]*")
    return re.compile(parts + r"(?:/.*)?$")


# --- compose.yaml ----------------------------------------------------------------------------------------------------


def compose(variables: dict[str, str]) -> dict:
    """compose.yaml with its variables filled in; KeyError with the message of one that is required."""

    def fill(found: re.Match[str]) -> str:
        name, operator, rest = found[1], found[2], found[3]
        value = variables.get(name, "")
        if not value and operator == ":?":
            raise KeyError(f"{name}: {rest}")
        return value or (rest if operator == ":-" else "")

    def filled(value: object) -> object:
        match value:
            case dict():
                return {key: filled(one) for key, one in value.items()}
            case list():
                return [filled(one) for one in value]
            case str():
                return re.sub(r"\$\{(\w+)(?:(:[?-])([^}]*))?\}", fill, value)
        return value

    return filled(yaml.safe_load((ROOT / "compose.yaml").read_text()))


def env_file(path: Path) -> dict[str, str]:
    """KEY=VALUE lines; the commented ones too, since they are there to be taken in."""
    return parse(re.sub(r"^#(?=[A-Z][A-Z0-9_]*=)", "", path.read_text(), flags=re.MULTILINE))


# --- Kubernetes ------------------------------------------------------------------------------------------------------


def manifests() -> dict[Path, dict]:
    """All manifests, one a file; kustomizations are something else."""
    paths = sorted(
        path for path in KUBERNETES.rglob("*.yaml") if path.name not in ("kustomization.yaml", "secret.yaml")
    )
    return {path: yaml.safe_load(path.read_text()) for path in paths}


def manifest(kind: str) -> dict:
    (found,) = [one for one in manifests().values() if one["kind"] == kind]
    return found


# --- systemd ---------------------------------------------------------------------------------------------------------


def unit(name: str) -> dict[str, list[str]]:
    """The settings of a unit, all sections together; each may stand several times."""
    settings: dict[str, list[str]] = {}
    for line in (DEPLOY / "systemd" / name).read_text().splitlines():
        key, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            settings.setdefault(key, []).append(value)
    return settings


def seconds(text: str) -> float:
    """A duration as systemd and compose write it: 30s, 15min, 2m."""
    number, unit_ = re.fullmatch(r"(\d+)(s|min|m|h)?", text).groups()
    return float(number) * {"s": 1, None: 1, "min": 60, "m": 60, "h": 3600}[unit_]
