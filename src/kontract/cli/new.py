"""`kontract new ../my-app`: make your own project from this clone."""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import tempfile
import tomllib
from collections.abc import Iterator
from pathlib import Path

from kontract.cli import starter
from kontract.cli.main import COMMANDS
from kontract.cli.toolchain.checkout import Checkout, out_of_space
from kontract.cli.toolchain.problem import Problem
from kontract.cli.toolchain.progress import say

TEMPLATE_NAME = "my-kontract-app"
"""The name of the Worker in the wrangler.toml of a clone."""

# A Worker's name is the first label of its address on workers.dev, so 63 characters at most (RFC 1035). The longest
# suffix is that of a preview, "-pr-" with a number of five digits. Kubernetes requires a letter first.
LONGEST_NAME = 54
NAME = re.compile(rf"[a-z](?:[a-z0-9-]{{0,{LONGEST_NAME - 2}}}[a-z0-9])?")

COPIED = (
    "src/",
    "sql/",
    "public/",
    "deploy/",
    "tests/app/",
    ".github/workflows/",
    ".dockerignore",
    ".editorconfig",
    ".gitignore",
    ".pre-commit-config.yaml",
    "Dockerfile",
    "Makefile",
    "compose.yaml",
    "package-lock.json",
    "package.json",
    "pyproject.toml",
    "uv.lock",
    "wrangler.toml",
)
"""What a project needs from a clone: these files, and everything that git tracks in these folders."""

RELEASE = ".github/workflows/release.yml"
"""Of Kontract itself: a project is deployed, not published."""

DEMO = ("src/app/", "tests/app/", "public/demo/", "public/index.html", "sql/migrations/", "sql/schema.lock.json")

RENAMED = ("deploy/", "Dockerfile", "compose.yaml")
"""Files that name a deployment's parts after Kontract: services, images, databases, folders on a server."""

_COMMANDS = "|".join(COMMANDS)
_OURS = re.compile(
    # The program and its package keep their name,
    rf'(?P<program>(?<=bin/)kontract\b|\["kontract"\]|\bkontract(?=\.gateway)|\bkontract(?= (?:{_COMMANDS})\b))'
    # roles and databases are SQL names,
    r"|(?P<sql>(?:(?<=postgresql://)|(?<=:5432/)|(?<=POSTGRES_USER: )|(?<=POSTGRES_DB: )|(?<=--username=)|(?<=dbname=)"
    r"|(?<=ROLE ))kontract|^kontract(?= = host)|kontract(?=_))"
    # and everything else names the application.
    r"|kontract-app|kontract",
    re.MULTILINE,
)

# Two names of physical tables, and the rows of `storage` that point to them.
_DEMO_TABLE = re.compile(r"\btbl_(?:tasks|accounts)_\w+")


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", help="folder to create, for example ../my-app; the project gets its name")
    parser.add_argument("--name", help="another name for the project (lower case letters, digits, hyphens)")
    parser.add_argument("--without-demo", action="store_true", help="with one function instead of the demo")


def run(args: argparse.Namespace) -> int:
    if not args.folder.strip():
        raise Problem("No folder was given for the project.", "Name one: make new NAME=../my-app.")
    checkout = Checkout.find()
    target = Path(args.folder).expanduser().resolve()  # without the .. of ../my-app
    name = args.name or target.name
    _check(checkout, target, name)
    create(checkout, target, name, demo=not args.without_demo)
    say(f"Made {target}.")
    _commit(target, _version(checkout))
    say(f"\n  cd {args.folder}\n  make dev\n")
    return 0


def create(checkout: Checkout, target: Path, name: str, *, demo: bool) -> None:
    """Make the project in ``target``, a new or empty folder; after a failure it is as it was."""
    target.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    work.chmod(0o755)
    try:
        for path in _tracked(checkout):
            if not demo and path.startswith(DEMO):
                continue
            new = work / (path.replace("kontract", name) if path.startswith("deploy/") else path)
            new.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(checkout.root / path, new)
            _adapt(new, path, name, demo=demo)
        _write(work, "README.md", starter.README.format(name=name, version=_version(checkout)))
        _write(work, "tests/conftest.py", starter.CONFTEST)
        if not demo:
            for path, text in starter.WITHOUT_DEMO.items():
                _write(work, path, text.replace("{name}", name) if path.endswith(".html") else text)
        work.rename(target)  # also replaces an empty folder
    except OSError as error:
        raise out_of_space(error, target.parent) from error
    finally:
        shutil.rmtree(work, ignore_errors=True)


# --- checks ----------------------------------------------------------------------------------------------------------


def _check(checkout: Checkout, target: Path, name: str) -> None:
    if tomllib.loads(checkout.wrangler_toml.read_text(encoding="utf-8")).get("name") != TEMPLATE_NAME:
        raise Problem(
            f"{checkout.root} is already a project: its Worker has its own name.",
            "Run the command in a clone of Kontract itself.",
        )
    if not NAME.fullmatch(name):
        raise Problem(
            f"{name!r} cannot be the name of a Worker.",
            f"Use lower case letters, digits and hyphens, starting with a letter, {LONGEST_NAME} characters at most; "
            "--name sets a name other than the folder's.",
        )
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise Problem(f"{target} already exists.", "Name a folder that does not exist, or an empty one.")
    if checkout.root in target.parents:
        raise Problem(f"{target} is inside this clone.", "Name a folder outside it, for example ../my-app.")


# --- files -----------------------------------------------------------------------------------------------------------


def _tracked(checkout: Checkout) -> Iterator[str]:
    """Return the paths to copy: only files that git tracks, so secrets and notes left in the clone stay there."""
    try:
        listed = _git(checkout.root, "ls-files", "-z", "--cached")
    except OSError:
        raise Problem(
            "git is not installed.", "Install git: `kontract new` copies the tracked files and commits them."
        ) from None
    if listed.returncode != 0:
        raise Problem(
            f"{checkout.root} is not a git repository.",
            "Run the command in a clone: git clone, then make new.",
            listed.stderr,
        )
    for path in filter(None, listed.stdout.split("\0")):
        if path.startswith(COPIED) and path != RELEASE and (checkout.root / path).is_file():
            yield path


def _write(folder: Path, path: str, text: str) -> None:
    file = folder / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")


def _adapt(file: Path, path: str, name: str, *, demo: bool) -> None:
    """Adapt the files that differ in a project."""
    change = {
        "wrangler.toml": lambda text: text.replace(TEMPLATE_NAME, name),
        "package.json": lambda text: text.replace('"name": "kontract"', f'"name": "{name}"'),
        "package-lock.json": lambda text: text.replace('"name": "kontract"', f'"name": "{name}"'),
        ".github/workflows/ci.yml": _without_programs,
        ".github/workflows/deploy.yml": _without_programs,
    }.get(path)
    if path.startswith(RENAMED):
        change = lambda text: _renamed(text, name)  # noqa: E731 - as those above
    if path.startswith("sql/") and path.endswith(".sql") and not demo:
        change = without_demo_tables
    if change is not None:
        file.write_text(change(file.read_text(encoding="utf-8")), encoding="utf-8")


def _renamed(text: str, name: str) -> str:
    def other(found: re.Match[str]) -> str:
        if found["program"]:
            return found[0]
        return name.replace("-", "_") if found["sql"] else name

    # A project does not have this page.
    return _OURS.sub(other, re.sub(r"^Documentation=file:.*\n", "", text, flags=re.MULTILINE))


def _without_programs(text: str) -> str:
    """Return the workflow without the step that installs what Kontract's own tests need."""
    return re.sub(
        r" +# What some tests need.*?(?=^ +- name: (?:Rules|Tests))", "", text, flags=re.DOTALL | re.MULTILINE
    )


def without_demo_tables(text: str) -> str:
    """Return SQL without the statements about the demo's tables; an INSERT keeps its other rows."""
    kept: list[str] = []
    for statement in re.split(r"(?<=;)\n", text):
        if not _DEMO_TABLE.search(_uncommented(statement)):
            kept.append(statement)
            continue
        lines = statement.split("\n")
        rows = [line for line in lines if line.startswith("  (")]
        others = [line for line in rows if not _DEMO_TABLE.search(line)]
        if others:
            rest = "\n".join(line for line in lines if line in others or line not in rows)
            kept.append(re.sub(r",(?=\s*\n?ON CONFLICT|\s*;)", "", rest))
        else:
            kept.append("\n".join(line for line in lines if not line or line.startswith("--")))
    whole = re.sub(r"\n{3,}", "\n\n", "\n".join(kept))
    return whole.replace("two system tables, the demo's tables, and where", "two system tables, and where")


def _uncommented(statement: str) -> str:
    return re.sub(r"--.*", "", statement)


# --- git -------------------------------------------------------------------------------------------------------------


def _commit(target: Path, version: str) -> None:
    """Make a repository with one commit, unless one is around it or git has no author configured."""
    if _git(target, "rev-parse", "--is-inside-work-tree").returncode == 0:
        say("It is inside a git repository: add and commit it there.")
        return
    for arguments in (["init", "--quiet"], ["symbolic-ref", "HEAD", "refs/heads/main"], ["add", "--all"]):
        done = _git(target, *arguments)
        if done.returncode != 0:
            raise Problem(
                f"git {' '.join(arguments)} failed in {target}.", "The project itself is complete.", done.stderr
            )
    done = _git(target, "commit", "--quiet", "--message", f"Start from Kontract {version}")
    if done.returncode == 0:
        say("It is a git repository with one commit.")
    else:
        say(
            "It is a git repository without a commit, because `git commit` failed (git config user.name and "
            f'user.email?). Then: git commit --message "Start from Kontract {version}"'
        )


def _git(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=False)


def _version(checkout: Checkout) -> str:
    """Return Kontract's version, and the commit of the clone."""
    with (checkout.root / "pyproject.toml").open("rb") as file:
        version = str(tomllib.load(file)["project"]["version"])
    commit = _git(checkout.root, "rev-parse", "--short", "HEAD")
    return f"{version} ({commit.stdout.strip()})" if commit.returncode == 0 else version
