"""Fills python_modules/, the packages that are uploaded with the Worker, from uv.lock.

Cloudflare's own way (`pywrangler sync`) needs Pyodide's index and interpreter; this one needs PyPI alone, so it is
the way of every machine. Versions and hashes come from uv.lock; pip does the download, because it takes the Worker's
platform tag as it is and checks hashes.
"""

from __future__ import annotations

import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kontract.cli.toolchain.checkout import Checkout, digest
from kontract.cli.toolchain.problem import Problem
from kontract.cli.toolchain.processes import run_tool
from kontract.cli.toolchain.progress import Say, say, step

PLATFORM = "pyemscripten_2026_0_wasm32"  # the ABI of Pyodide 314 on PyPI (PEP 783)
PYTHON = "3.14"  # what the compatibility date of wrangler.toml selects
_ABI = "cp314"

# The markers of a requirement ("; sys_platform == ...") are about the Worker, not about this machine.
_MARKERS = {
    "implementation_name": "cpython",
    "implementation_version": "3.14.2",
    "os_name": "posix",
    "platform_machine": "wasm32",
    "platform_python_implementation": "CPython",
    "platform_release": "",
    "platform_system": "Emscripten",
    "platform_version": "",
    "python_full_version": "3.14.2",
    "python_version": PYTHON,
    "sys_platform": "emscripten",
}


@dataclass(frozen=True, slots=True)
class Pin:
    """One package of python_modules/: a version and the hash of the one wheel that fits the Worker."""

    name: str
    version: str
    wheel: str
    sha256: str

    def requirement(self) -> str:
        return f"{self.name}=={self.version} --hash=sha256:{self.sha256}"


def made_from(checkout: Checkout) -> str:
    """What python_modules depends on."""
    return digest(checkout.root / "uv.lock", Path(__file__))


def install(checkout: Checkout, tell: Say = say) -> bool:
    """Vendor the packages unless they are there already, for this uv.lock. True if something was done."""
    stamp = made_from(checkout)
    if checkout.is_fresh("python_modules", stamp) and checkout.python_modules.is_dir():
        return False
    pins = locked(checkout)
    with (
        step(f"Vendoring the Worker's packages into python_modules ({', '.join(pin.name for pin in pins)})", tell),
        checkout.replacing(checkout.python_modules, "python_modules", stamp) as work,
    ):
        _download(pins, work, checkout)
    return True


def locked(checkout: Checkout) -> list[Pin]:
    """Every package that the Worker needs, direct and transitive, as uv.lock pins it.

    Raises `Problem` naming the first one that has no wheel for the Worker.
    """
    return pins(tomllib.loads(export(checkout)))


def export(checkout: Checkout) -> str:
    """The Worker's part of uv.lock as a pylock.toml document (PEP 751)."""
    return run_tool(
        [
            uv(),
            *("export", "--quiet", "--locked", "--format", "pylock.toml", "--no-emit-project"),
            *("--no-default-groups", "--extra", "worker"),
        ],
        cwd=checkout.root,
        failed="uv could not read uv.lock.",
        fix="If pyproject.toml was edited, run `.venv/bin/uv lock` to bring uv.lock up to date.",
    )


def pins(lock: dict[str, Any]) -> list[Pin]:
    """The pins of a pylock.toml document (PEP 751) that apply to the Worker."""
    from packaging.markers import Marker

    found = []
    for package in lock.get("packages", []):
        marker = package.get("marker")
        if marker and not Marker(marker).evaluate({**_MARKERS, "extra": ""}):
            continue
        found.append(_pin(package))
    return found


def _pin(package: dict[str, Any]) -> Pin:
    from packaging.utils import parse_wheel_filename

    wheels = package.get("wheels", [])
    names = [wheel.get("name") or wheel["url"].rpartition("/")[2] for wheel in wheels]
    for name, wheel in zip(names, wheels, strict=True):
        tags = parse_wheel_filename(name)[3]
        if any(_fits(tag.interpreter, tag.abi, tag.platform) for tag in tags):
            return Pin(package["name"], package.get("version", ""), name, wheel["hashes"]["sha256"])
    raise Problem(
        f"The package {package['name']} {package.get('version', '')} has no wheel that runs in a Python Worker.",
        f"Wheels that work are pure ones (py3-none-any) and those for {_ABI}-{_ABI}-{PLATFORM}. Remove it from "
        "pyproject.toml ([project] dependencies or the extra `worker`), or replace it by a package that has one.",
        f"Wheels in uv.lock: {', '.join(names[:6]) or 'none'}{' ...' if len(names) > 6 else ''}",
    )


def _fits(interpreter: str, abi: str, platform: str) -> bool:
    """A pure wheel, one for exactly this Python in WebAssembly, or one for its stable ABI."""
    if platform == "any":
        return abi == "none" and interpreter.startswith(("py3", _ABI))
    if platform != PLATFORM:
        return False
    return (interpreter, abi) == (_ABI, _ABI) or (abi == "abi3" and interpreter.startswith("cp3"))


def _download(pins: list[Pin], work: Path, checkout: Checkout) -> None:
    requirements = work.with_name(f"{work.name}.txt")
    requirements.write_text("".join(f"{pin.requirement()}\n" for pin in pins))
    try:
        run_tool(
            [
                *(sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input"),
                *("--target", work, "--no-deps", "--no-compile", "--only-binary", ":all:", "--require-hashes"),
                *("--platform", PLATFORM, "--python-version", PYTHON, "--implementation", "cp"),
                *("--abi", _ABI, "--abi", "abi3", "--abi", "none", "--requirement", requirements),
            ],
            cwd=checkout.root,
            failed="pip could not download the Worker's packages.",
            fix="Read pip's message below; `.venv/bin/uv lock` renews a lock file whose files were withdrawn.",
        )
    finally:
        requirements.unlink(missing_ok=True)


def uv() -> Path:
    """The uv of this environment, as `make` installed it."""
    path = Path(sys.executable).with_name("uv")
    if not path.is_file():
        raise Problem("uv is not installed in .venv.", "Run `make dev`, which installs it.")
    return path
