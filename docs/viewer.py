"""Takes Swagger UI, the viewer of ``/docs``, from its npm package into ``public/docs/swagger-ui``.

Run by hand for another version: ``python docs/viewer.py 5.35.0``. The script is taken as it is. The style sheet's
images become files, because the pages' policy lets no image in that is written as ``data:``.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import subprocess
import sys
import tarfile
import tempfile
import urllib.parse
from pathlib import Path

FOLDER = Path(__file__).parents[1] / "public" / "docs" / "swagger-ui"
KEPT = {name: name for name in ("swagger-ui-bundle.js", "swagger-ui-bundle.js.LICENSE.txt")}
KEPT |= {"LICENSE": "LICENSE.txt", "NOTICE": "NOTICE.txt"}  # names that servers know the type of
STYLE = "swagger-ui.css"

_IMAGE = re.compile(r'url\((?:"(data:(?:[^"\\]|\\.)*)"|(data:[^)]*))\)')
_MAP = re.compile(r"\s*/\*# sourceMappingURL=.*?\*/\s*$")


def made_of(package: bytes) -> dict[str, bytes]:
    """Return the files to keep of an npm package (a .tgz), by their names."""
    with tarfile.open(fileobj=io.BytesIO(package)) as archive:

        def member(name: str) -> bytes:
            found = archive.extractfile(f"package/{name}")
            assert found is not None, f"the package has no {name}"
            return found.read()

        version = json.loads(member("package.json"))["version"]
        style, images = with_files(member(STYLE).decode())
        files = {kept: member(name) for name, kept in KEPT.items()} | images | {STYLE: style.encode()}
    sums = "".join(f"{hashlib.sha256(files[name]).hexdigest()}  {name}\n" for name in sorted(files))
    return files | {"VERSION.txt": f"swagger-ui-dist {version}\n{sums}".encode()}


def with_files(style: str) -> tuple[str, dict[str, bytes]]:
    """Return a style sheet whose images are files, and the files."""
    images: dict[str, bytes] = {}

    def taken(found: re.Match[str]) -> str:
        head, _, data = (found[1] or found[2]).partition(",")
        if not head.startswith("data:image/svg+xml"):
            return "none"  # grids for debugging, which nothing uses
        body = _unquoted(data)
        name = f"{hashlib.sha256(body).hexdigest()[:12]}.svg"
        images[name] = body
        return f"url({name})"

    return _MAP.sub("\n", _IMAGE.sub(taken, style)), images


def _unquoted(data: str) -> bytes:
    return urllib.parse.unquote_to_bytes(re.sub(r"\\(.)", r"\1", data))


def main(version: str) -> None:
    """Take a version, in the place of the one that is there."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(["npm", "pack", "--silent", f"swagger-ui-dist@{version}"], cwd=folder, check=True)
        (package,) = Path(folder).glob("*.tgz")
        files = made_of(package.read_bytes())
    FOLDER.mkdir(parents=True, exist_ok=True)
    for old in FOLDER.iterdir():
        old.unlink()
    for name, body in files.items():
        (FOLDER / name).write_bytes(body)


if __name__ == "__main__":
    main(sys.argv[1])
