"""docs/viewer.py: what is kept of a release of Swagger UI, and what its style becomes."""

import base64
import hashlib
import importlib.util
import io
import json
import tarfile

from kontract.cli.toolchain.checkout import Checkout

ROOT = Checkout.find().root


def viewer():
    spec = importlib.util.spec_from_file_location("viewer", ROOT / "docs" / "viewer.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


SVG = '<svg xmlns="http://www.w3.org/2000/svg" fill="#fff"/>'
STYLE = (
    'a{background:url("data:image/svg+xml;charset=utf-8,'
    '<svg xmlns=\\"http://www.w3.org/2000/svg\\" fill=\\"%23fff\\"/>")}'
    f"b{{background:url(data:image/png;base64,{base64.b64encode(b'PNG').decode()})}}"
    "\n/*# sourceMappingURL=swagger-ui.css.map*/"
)


def package(**files: str) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for name, text in files.items():
            member = tarfile.TarInfo(f"package/{name}")
            member.size = len(text.encode())
            archive.addfile(member, io.BytesIO(text.encode()))
    return packed.getvalue()


def test_images_of_the_style_become_files():
    """With the bytes that the browser would have made of them."""
    style, images = viewer().with_files(STYLE)
    name = f"{hashlib.sha256(SVG.encode()).hexdigest()[:12]}.svg"
    assert images == {name: SVG.encode()}
    assert style == f"a{{background:url({name})}}b{{background:none}}\n"


def test_a_release_is_kept_with_its_licences_and_sums():
    """The script as it is, and nothing that no page asks for."""
    texts = {name: f"the {name}" for name in (*viewer().KEPT, "swagger-ui.js", "index.html")}
    files = viewer().made_of(
        package(**{"package.json": json.dumps({"version": "1.2.3"}), "swagger-ui.css": STYLE}, **texts)
    )
    for name, kept in viewer().KEPT.items():
        assert files[kept] == f"the {name}".encode()
    assert "swagger-ui.js" not in files
    version, *sums = files["VERSION.txt"].decode().splitlines()
    assert version == "swagger-ui-dist 1.2.3"
    assert len(sums) == len(files) - 1
    assert f"{hashlib.sha256(b'the LICENSE').hexdigest()}  LICENSE.txt" in sums
