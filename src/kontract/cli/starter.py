"""What `kontract new` writes itself: texts of a new project, by path."""

from __future__ import annotations

README = """\
# {name}

A serverless Python backend, made with Kontract: functions in `src/app` are transactions over PostgreSQL. They run on
Cloudflare Workers, and on your own servers.

You need Python 3.11 or later, make and git:

| Command | What it does |
|---|---|
| `make dev` | sets up and runs everything on <http://localhost:8787> |
| `make test` | sets up and runs the tests in `tests/` |
| `make lint types` | rules, format and types |
| `make deploy-check` | what would be deployed, without an account |
| `make migrate`, `make deploy` | the database in `DATABASE_URL`, then the Worker (`ENV=production`) |

```text
src/app/          the functions and tables          sql/              the schema
tests/            their tests                       public/           files served at /
wrangler.toml     the Worker and its environments   .github/          tests, deployment, previews
src/kontract/     Kontract itself, and src/entry.py, src/session_do.py: do not edit these, so that you can upgrade
deploy/, Dockerfile, compose.yaml                   your own servers
```

Made from Kontract {version}. Pages that comments name, such as docs/how-to/deploy.md, are Kontract's documentation, in
the repository that this was made from; docs/how-to/start-a-project.md there says how to take over a later version.
Kontract's licence is in `src/kontract/LICENSE`; yours is for you to choose.
"""

CONFTEST = '''\
"""Fixtures for all tests: `api`, `app` and `worker` (docs/how-to/test-your-app.md)."""

pytest_plugins = ["kontract.testing.pytest"]
'''

APP = '''\
"""The application: backend functions and tables."""
'''

HELLO = '''\
"""The first function. Put others beside it, in as many modules as you like."""

from typing import Annotated

from msgspec import Meta

from kontract import Context, backend, perms


@backend(public=True, perm=perms.R__)
async def hello(ctx: Context, name: Annotated[str, Meta(min_length=1, max_length=100)] = "world") -> str:
    """Greet somebody."""
    return f"Hello, {name}!"
'''

TEST_HELLO = '''\
"""The first tests: the application in this process, and in workerd."""

import pytest

from kontract import InvalidRequestError


async def test_it_greets(api):
    assert await api.hello() == "Hello, world!"
    assert await api.hello("Ann") == "Hello, Ann!"


async def test_a_name_is_required(api):
    with pytest.raises(InvalidRequestError):
        await api.hello("")


async def test_it_greets_in_workerd(worker):
    async with worker.as_user("ann") as ann:
        assert await ann.hello("Ann") == "Hello, Ann!"
'''

PAGE = """\
<!doctype html>
<html lang="en">
  <head>
    <meta charset="utf-8">
    <meta name="viewport" content="width=device-width, initial-scale=1">
    <meta name="color-scheme" content="light dark">
    <title>{name}</title>
    <script type="module" src="page.js"></script>
  </head>
  <body>
    <h1>{name}</h1>
    <p id="greeting">...</p>
  </body>
</html>
"""

PAGE_SCRIPT = """\
import { connect } from "./kontract.js";

const greeting = document.querySelector("#greeting");
try {
  greeting.textContent = await connect().hello("there");
} catch (error) {
  greeting.textContent = `No answer: ${error.message}`;
}
"""

WITHOUT_DEMO = {
    "src/app/__init__.py": APP,
    "src/app/hello.py": HELLO,
    "tests/app/test_hello.py": TEST_HELLO,
    "public/index.html": PAGE,
    "public/page.js": PAGE_SCRIPT,
}
"""What a project without the demo has instead."""
