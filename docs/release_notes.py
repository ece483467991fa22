"""The notes of a release: that version's part of CHANGELOG.md. ``make release`` keeps them in dist/notes.md."""

from __future__ import annotations

import os
import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent


def notes(changelog: str, version: str) -> str:
    """Return what changed in a version; raises ValueError when it has no dated section, or an empty one."""
    head = rf"^## \[{re.escape(version)}\] - \d{{4}}-\d{{2}}-\d{{2}}\n"
    found = re.search(rf"{head}(.*?)(?=^## |\Z)", changelog, re.MULTILINE | re.DOTALL)
    if found is None or not found[1].strip():
        message = f"CHANGELOG.md has no section '## [{version}] - <date>' with changes: write it before the release"
        raise ValueError(message)
    return found[1].strip() + "\n"


def main() -> int:
    """Print the notes of the version in pyproject.toml, which must be that of the tag where there is one."""
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    tag = os.environ["GITHUB_REF_NAME"] if os.environ.get("GITHUB_REF_TYPE") == "tag" else f"v{version}"
    if tag != f"v{version}":
        print(f"the tag is {tag}, but pyproject.toml says {version}: change one of them", file=sys.stderr)
        return 1
    try:
        print(notes((ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), version), end="")
    except ValueError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
