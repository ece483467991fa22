"""docs/reference/python-client.md tells the truth: its examples run, and its tables are those of the code."""

from __future__ import annotations

import ast
import asyncio
import inspect
import re
import subprocess
import types

import httpx
import pytest

import kontract.client
from kontract.client import Client, ClientError, Retries
from kontract.client.client import TIMEOUT, Options
from kontract.client.errors import CLASSES
from kontract.client.retries import RETRIED
from kontract.core.errors import Code
from support.pages import DOCS, ROOT, SHOWN_URL, blocks
from support.sessions import SECRET

TEXT = (DOCS / "reference" / "python-client.md").read_text(encoding="utf-8")


PAGES = ["reference/python-client.md", "how-to/connect-from-python.md", "how-to/encrypt-calls.md"]


@pytest.mark.parametrize("page", PAGES)
async def test_the_examples_run(page, make_site, monkeypatch):
    """One after the other, as somebody would type them into `python -m asyncio`."""
    site = await make_site()
    for name in ("ALL_PROXY", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "http_proxy", "https_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("BACKEND_TOKEN", made_by(blocks(DOCS / page), monkeypatch))
    opened: list[Client] = []
    enter = Client.__init__

    def watched(self, *args, **options) -> None:
        enter(self, *args, **options)
        opened.append(self)

    monkeypatch.setattr(Client, "__init__", watched)
    about = await asyncio.to_thread(httpx.get, f"{site.url}/.well-known/kontract", trust_env=False)
    module = types.ModuleType("example")
    module.SERVER_KEY = about.json()["raystream"]["public_keys"][0]
    shown = [block.text for block in blocks(DOCS / page) if block.kind == "python"]
    try:
        for block in shown:
            source = block.replace(SHOWN_URL, site.url)
            code = compile(source, "python-client.md", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
            if (done := eval(code, module.__dict__)) is not None:
                await done
    finally:
        for client in opened:
            await client.aclose()
    assert shown
    assert len(opened) >= len(shown) - 1


def made_by(shown, monkeypatch) -> str:
    """What the command of a page prints, for the secret of the tests."""
    commands = [block.text for block in shown if block.kind == "bash token"]
    if not commands:
        return ""
    monkeypatch.setenv("KONTRACT_SECRET", SECRET)
    command = ["bash", "-euo", "pipefail", "-c", *commands]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=60).stdout.strip()


def test_the_table_of_errors_is_that_of_the_code():
    """Each code, its class, and whether it is tried again."""
    rows = [f"| `{code.name}` | `{CLASSES[code].__name__}` | {'yes ' if code in RETRIED else ''}|" for code in Code]
    assert "| Code | Class | Retried |\n|---|---|---|\n" + "\n".join(rows) + "\n\n" in TEXT


def test_the_clients_own_errors_are_all_there():
    """A class that is missing would be found in a log first."""
    own = {
        name for name, one in vars(kontract.client).items() if isinstance(one, type) and issubclass(one, ClientError)
    }
    assert own - {"ClientError"} <= set(re.findall(r"^\| `(\w+Error)` \| [^`]", TEXT, re.MULTILINE))


def test_defaults_and_options_are_those_of_the_code():
    """Numbers in two places drift apart."""
    shown = ", ".join(f"{name}={getattr(Retries(), name)}" for name in Retries.__struct_fields__)
    assert f"`Retries({shown})` are the defaults" in TEXT
    assert f"`timeout={TIMEOUT}` seconds" in TEXT
    taken = set(inspect.signature(Client.__init__).parameters) - {"self", "url", "token"}
    table = TEXT[TEXT.index("| Option | Default |") :]
    assert taken == set(Options.__annotations__)
    assert {
        name for cell in re.findall(r"^\| (`.*?) \|", table, re.MULTILINE) for name in re.findall(r"\w+", cell)
    } == taken


def test_the_methods_are_all_there():
    """Their names are those that no function can be called by as an attribute."""
    for name in vars(Client):
        if not name.startswith("_") and name not in ("call", "aclose"):
            assert re.search(rf"^\| `(await )?(Client|api)\.{name}\b", TEXT, re.MULTILINE), name
