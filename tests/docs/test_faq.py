"""The questions and answers: what is quoted as a message of Kontract is one."""

import ast
import re

import pytest

from support.pages import DOCS, ROOT, prose

FAQ = DOCS / "faq.md"
QUOTED = re.findall(r"^### `(.+)`$", prose(FAQ), re.MULTILINE)


@pytest.fixture(scope="module")
def said():
    """Every text in the code; a NUL stands for what is filled in when it is said."""
    return [text for path in (ROOT / "src" / "kontract").rglob("*.py") for text in texts(path)]


def texts(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.JoinedStr):
            yield "".join(part.value if isinstance(part, ast.Constant) else "\0" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


@pytest.mark.parametrize("message", QUOTED)
def test_a_message_that_is_quoted_is_one_of_the_code(message, said):
    """Whoever searches for what stands in the terminal has to find it here, word for word."""
    wanted = re.compile(".*".join(re.escape(part) for part in message.split("…")), re.DOTALL)
    assert any(wanted.search(text) for text in said)


def test_there_are_messages_and_every_section_is_answered():
    assert len(QUOTED) >= 20
    assert [part for part in re.split(r"^### .+$", prose(FAQ), flags=re.MULTILINE)[1:] if len(part.split()) < 4] == []
