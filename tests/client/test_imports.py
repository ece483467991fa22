"""A program that calls a gateway installs no driver, no server and nothing of the Worker."""

from __future__ import annotations

import json
import subprocess
import sys

FOREIGN = ("asyncpg", "sqlglot", "jwt", "js", "pyodide", "workers", "routes", "app", "granian")


def loaded(statement: str) -> set[str]:
    """The modules that a fresh interpreter has after a statement."""
    code = f"{statement}\nimport json, sys\nprint(json.dumps(list(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout))


def test_importing_the_client_loads_nothing_of_the_server():
    """Beyond what `import kontract` loads there are the client itself, and time and randomness of CPython."""
    modules = loaded("import kontract.client")
    assert [name for name in modules if name.split(".")[0] in FOREIGN] == []
    more = {name for name in modules - loaded("import kontract") if name.startswith("kontract.")}
    assert {name for name in more if not name.startswith("kontract.client")} == {
        "kontract.server",
        "kontract.server.system",
    }


def test_the_check_sees_what_is_loaded():
    """The test above would pass for ever if it could not see an import."""
    assert "asyncpg" in loaded("import kontract.client, kontract.server.database")
