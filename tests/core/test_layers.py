"""The layers: what each may import, what is called what, and where a module's tests are."""

from __future__ import annotations

import ast
import importlib.util
from collections import defaultdict
from pathlib import Path

import kontract

PACKAGE = Path(kontract.__file__).parent
TESTS = Path(__file__).parent.parent

JOBS = {"crypto.py", "database.py", "feed.py", "http.py", "journal.py", "runtime.py", "shared.py"}
"""What every platform has to do, and what it is called on both."""

OF_ONE_PLATFORM = {
    "cloudflare": {"durable_object.py", "kv.py", "modules.py"},
    "server": {
        "adapter.py", "assets.py", "body.py", "clients.py", "connect.py", "env_file.py", "exporter.py", "metrics.py",
        "prepared.py", "serve.py", "settings.py", "shared_postgres.py", "shared_tikv.py", "sockets.py", "streams.py",
        "system.py", "tikv.py", "timed.py", "websocket.py", "workers.py",
    },
}  # fmt: skip
"""What only one of them has to do: workerd serves files, reads HTTP and starts processes by itself."""

SAME_NAME = {
    "ClientSocket": "the same job on both platforms",
    "NativeCrypto": "the same job on both platforms",
    "StreamOutlet": "the same job on both platforms",
    "Page": "what a query returns, public; and a page of events, between nodes and their streams",
    "RuntimeAdapter": "the public class for programs that make a gateway by hand; the port is what it becomes",
    "Session": "of a call in the gateway, of a login in the client; both are public",
    "Stream": "the gateway's end, and the client's",
    "Tokens": "what makes and reads them, and the pair that a client keeps",
    "Problem": "bootstrap.py runs before anything of the package can be imported",
}
"""Public classes that share a name, each with its reason."""

COVERED = {
    "errors": "gateway/test_hostile.py",
    "events": "core/protocol/test_hub.py",
    "limits": "gateway/test_limits.py",
    "messages": "core/protocol/test_coordinator.py",
    "pace": "server/test_hostile_sockets.py",
    "statements": "core/transaction/test_sql.py",
    "types": "core/transaction/test_sql.py",
    "model/asked": "core/model/test_shown.py",
    "model/declare": "cli/test_build.py",
    "model/page": "postgres/test_queries.py",
    "model/kinds": "core/model/test_shown.py",
    "model/values": "core/model/test_documents.py",
    "model/perms": "gateway/test_permissions.py",
    "model/typed": "postgres/test_values_db.py",
    "protocol/audience": "core/protocol/test_hub.py",
    "protocol/collection": "postgres/test_collection.py",
    "protocol/commands": "core/protocol/test_machine.py",
    "protocol/idempotency": "postgres/test_repeats.py",
    "protocol/live": "core/protocol/test_coordinator.py",
    "protocol/ranges": "postgres/test_ranges_db.py",
    "protocol/records": "core/protocol/test_coordinator.py",
    "protocol/refusal": "gateway/test_ended_sessions.py",
    "protocol/replicated": "core/protocol/test_machine.py",
    "protocol/row_order": "postgres/test_row_order.py",
    "security/raystream/client": "core/security/raystream/test_sessions.py",
    "security/raystream/schedule": "core/security/raystream/test_vectors.py",
    "security/raystream/server": "core/security/raystream/test_sessions.py",
    "security/raystream/suites": "core/security/raystream/test_vectors.py",
    "shared/counters": "contract/test_shared_state.py",
    "transaction/catalog": "core/transaction/test_transaction.py",
    "transaction/cursors": "postgres/test_queries.py",
    "transaction/read_set": "core/transaction/test_transaction.py",
    "transaction/write_set": "core/transaction/test_transaction.py",
    "transaction/fences": "core/transaction/test_sql.py",
    "transaction/storage": "core/transaction/test_transaction.py",
    "transaction/store": "postgres/test_store.py",
    "transaction/select/allowed": "core/transaction/test_select.py",
    "transaction/select/expressions": "core/transaction/test_select.py",
    "transaction/select/reader": "core/transaction/test_select.py",
    "transaction/select/refusals": "core/transaction/test_select.py",
    "transaction/select/selection": "core/transaction/test_select.py",
    "transaction/select/sizes": "postgres/test_exec_bytes.py",
    "transaction/select/text": "core/transaction/test_select.py",
    "transaction/select/shown": "postgres/test_hidden_fields.py",
    "transaction/select/writer": "core/transaction/test_select.py",
}
"""Modules of the core without a test file of their own name, and where they are tested instead."""

PROMISES = {
    "test_cost": "what calls cost, across modules",
    "test_layers": "this file",
    "test_numbers": "what numbers cost, across modules",
    "test_purity": "what the core may import",
    "security/raystream/test_sessions": "client and server against each other",
    "security/raystream/test_vectors": "published test vectors",
}
"""Test files of the core that are about a promise rather than one module."""


def layers():
    """The script that draws the picture in docs/explanation/architecture.md."""
    found = importlib.util.spec_from_file_location("layers", TESTS.parent / "docs" / "layers.py")
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


def names(folder: str) -> set[str]:
    return {path.name for path in (PACKAGE / folder).glob("*.py")} - {"__init__.py"}


def test_layers_import_only_what_is_below_them():
    """A circle between layers would make each of them depend on all others."""
    drawn = layers()
    order = list(drawn.LAYERS)
    upwards = [
        f"{name} imports {other}"
        for name, path in drawn.modules().items()
        for other in sorted(drawn.imported(path))
        if order.index(drawn.layer_of(other)) < order.index(drawn.layer_of(name))
    ]
    assert upwards == []


def test_both_platforms_call_the_same_job_the_same():
    assert names("cloudflare") & names("server") == JOBS
    assert names("cloudflare") - JOBS == OF_ONE_PLATFORM["cloudflare"]
    assert names("server") - JOBS == OF_ONE_PLATFORM["server"]


def test_a_class_has_a_name_of_its_own():
    """A reader who meets a name twice has to find out which one is meant. The commands are a program of their own."""
    places = defaultdict(list)
    for path in PACKAGE.rglob("*.py"):
        inside = path.relative_to(PACKAGE).parts
        if inside[0] == "cli" and path.name != "bootstrap.py":
            continue
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places[node.name].append("/".join(inside))
    assert {name for name, found in places.items() if len(found) > 1} <= set(SAME_NAME), places


def test_no_module_outgrows_a_reader():
    """One noun a module; what is past this many lines has two."""
    lengths = {path: len(path.read_text().splitlines()) for path in PACKAGE.rglob("*.py")}
    assert {path.relative_to(PACKAGE).as_posix(): length for path, length in lengths.items() if length > 650} == {}


def test_a_module_of_the_core_has_its_tests_where_one_looks():
    core, here = PACKAGE / "core", TESTS / "core"
    modules = {path.relative_to(core).with_suffix("").as_posix() for path in core.rglob("*.py")}
    modules = {name for name in modules if not name.endswith("__init__")}
    tests = {path.relative_to(here).with_suffix("").as_posix() for path in here.rglob("test_*.py")}
    mirrored = {name for name in modules if str(Path(name).parent / f"test_{Path(name).name}") in tests}

    assert modules - mirrored == set(COVERED), "a module without tests of its own name is named in COVERED"
    assert [where for where in COVERED.values() if not (TESTS / where).exists()] == []
    packages = {path.parent.relative_to(core).as_posix() for path in core.rglob("__init__.py")}
    alone = {name for name in tests if name.replace("test_", "") not in modules | packages}
    assert alone == set(PROMISES), "a test file that mirrors no module is named in PROMISES"
