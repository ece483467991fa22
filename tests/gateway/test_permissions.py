"""Who may do what: each rule written out here, and every combination of what they speak about asked of the gateway.

The rules are this module's own; nothing of them is taken from the code under test.
"""

from __future__ import annotations

import itertools
import json
from typing import Annotated, Any

import msgspec
import pytest
import pytest_asyncio
from msgspec import Struct

from kontract import Context, HttpError, backend, perm, perms, primkey, table
from kontract.core.errors import Code
from kontract.gateway.http import Response
from support.api import Api, apis
from support.sessions import bearer

pytestmark = pytest.mark.asyncio(loop_scope="module")

R, W, X = 4, 2, 1
BITS = range(8)

# --- who calls what --------------------------------------------------------------------------------------------------

CALLERS: dict[str, dict[str, Any] | None] = {
    "no token": None,
    "anonymous": {"user": "guest", "anonymous": True},
    "ann": {"user": "ann"},
    "bob": {"user": "bob"},
    "another tenant": {"user": "ann", "owner": "tenant-2"},
    "editor": {"user": "ann", "ugroups": ["editors"]},
    "admin": {"user": "ann", "ugroups": ["admins"]},
    "both": {"user": "ann", "ugroups": ["admins", "editors"]},
}
GROUPS = (None, "editors", "admins")


def endpoint(bits: int, group: str | None, public: bool) -> Any:  # noqa: FBT001
    async def answer(ctx: Context) -> list:
        return [ctx.owner, ctx.user, ctx.is_anonymous]

    answer.__name__ = f"of_{bits}_{group}_{public}"
    return backend(perm=bits, ugroup=group, public=public)(answer)


ENDPOINTS = [endpoint(*of) for of in itertools.product(BITS, GROUPS, (False, True))]


def admitted(caller: str, token_bits: int, bits: int, group: str | None, public: bool) -> tuple[int, str]:  # noqa: FBT001
    """The first two rules: who gets through to a function at all. (status, error code)"""
    who = CALLERS[caller]
    if who is None and not public:
        return 401, "UNAUTHORIZED"
    groups = who.get("ugroups", []) if who is not None else []
    if group is not None and group not in groups:
        return 403, "FORBIDDEN"
    # Callers without a token have all bits in public functions.
    for bit in (R, W, X):
        if bits & bit and who is not None and not token_bits & bit:
            return 403, "PERMISSION_DENIED"
    return 200, ""


# --- operations on tables --------------------------------------------------------------------------------------------

OWNERS = {"a0": "ann", "b0": "bob", "a1": "ann", "b1": "bob", "a2": "ann", "b2": "bob"}  # in order of insertion
N = {"a0": 9, "b0": 9, "a1": 1, "b1": 2, "a2": 3, "b2": 1}
GONE = ("a0", "b0")
MODES = ("all", "own")
KINDS = ("versioned", "plain")


def row_struct(mode: str, kind: str, bits: int) -> type[Struct]:
    name = f"{mode}_{kind}_{bits}"
    fields = [
        ("id", Annotated[str, primkey]),
        ("n", int),
        ("pin", Annotated[str, perm(perms._W_)], ""),
        ("by", Annotated[str, perm(perms.R__)], ""),
    ]
    return table(name, rows=mode)(msgspec.defstruct(name, fields, module=__name__))


STRUCTS = [row_struct(*of) for of in itertools.product(MODES, KINDS, BITS)]


async def listed(rows: Any) -> list:
    return [row.id async for row in rows]


SQL = "SELECT id, data->>'n' AS n, data->>'pin' AS pin, data->>'by' AS by, _owner FROM {0} ORDER BY id"

READING = {
    "get a1": lambda t: t.get("a1"),
    "get b1": lambda t: t.get("b1"),
    "get b0": lambda t: t.get("b0"),
    "get none": lambda t: t.get("none"),
    "iterate": listed,
    "query": lambda t: listed(t.query()),
    "query n=1": lambda t: listed(t.query({"n": 1})),
    "query id=b1": lambda t: listed(t.query({"id": "b1"})),
    "query n=1 id=b2": lambda t: listed(t.query({"n": 1, "id": "b2"})),
    "query by n": lambda t: listed(t.query(order_by="n", descending=True)),
    "query limit 2": lambda t: listed(t.query(limit=2)),
    "query after a2": lambda t: listed(t.query(after="a2")),
    "query by n after b1": lambda t: listed(t.query(order_by="n", after="b1")),
    "query pin": lambda t: listed(t.query({"pin": "a1-pin"})),
    "query by pin": lambda t: listed(t.query(order_by="pin")),
    "count": lambda t: t.count(),
    "count n=1": lambda t: t.count({"n": 1}),
    "count pin": lambda t: t.count({"pin": "a1-pin"}),
    "exec": lambda t: t.exec(SQL.format(t.name)),
    "exec count": lambda t: t.exec(f"SELECT count(*) AS c, max(data->>'pin') AS m FROM {t.name}"),
    "history a1": lambda t: t.history("a1"),
    "history b1": lambda t: t.history("b1"),
    "history b0": lambda t: t.history("b0"),
    "history none": lambda t: t.history("none"),
}
NEW = {"n": 5, "pin": "new", "by": "function"}
WRITING = {
    "set a1": lambda t: t.set("a1", NEW),
    "set b1": lambda t: t.set("b1", NEW),
    "set b0": lambda t: t.set("b0", NEW),
    "set new": lambda t: t.set("new", NEW),
    "insert b1": lambda t: t.insert("b1", NEW),
    "insert b0": lambda t: t.insert("b0", NEW),
    "insert new": lambda t: t.insert("new", NEW),
    "update a1": lambda t: t.update("a1", n=6, pin="changed"),
    "update b1": lambda t: t.update("b1", n=6, pin="changed"),
    "update none": lambda t: t.update("none", n=6),
    "update a1 by": lambda t: t.update("a1", by="eve"),
    "delete a1": lambda t: t.delete("a1"),
    "delete b1": lambda t: t.delete("b1"),
    "delete none": lambda t: t.delete("none"),
    "push": lambda t: t.push(NEW),
    "pop": lambda t: t.pop(),
    "shift": lambda t: t.shift(),
}
OPERATIONS = READING | WRITING

TOGETHER = [
    ["set a1", "delete b1", "insert new", "push", "update none", "delete none"],
    ["update a1", "set b1", "set new", "set b0", "update a1 by"],
    ["update b1", "insert b1", "insert b0", "delete a1"],
    ["pop"],
    ["shift"],
]
"""Changes that do not get in each other's way: each group is one call."""


def runner(bits: int) -> Any:
    async def run(ctx: Context, name: str, operations: list[str], keep: bool = False) -> list:  # noqa: FBT001, FBT002
        said: list = []
        for operation in operations:
            try:
                said.append(await OPERATIONS[operation](ctx.storage[name]))
            except HttpError as error:
                said.append({"error": error.error_code.name, "message": error.message})
        if keep:
            return said
        raise HttpError("nothing is kept", code=Code.UNSUPPORTED_MEDIA_TYPE, details={"said": said})

    run.__name__ = f"run_{bits}"
    return backend(perm=bits)(run)


RUNNERS = [runner(bits) for bits in BITS]

# --- the rules of tables ---------------------------------------------------------------------------------------------

DENIED = "PERMISSION_DENIED"


def refused(operation: str, bits: int, table_bits: int, exists: bool) -> str | None:  # noqa: FBT001
    """Which error the bits of the function and those of the table in storage mean for an operation."""
    reads = operation in READING or operation.partition(" ")[0] in ("update", "pop", "shift")
    if reads and not bits & R:
        return DENIED
    # A function without W and without X runs read-only.
    if operation in WRITING and not bits & (W | X):
        return DENIED
    if not exists:
        return "NOT_FOUND"
    needs = (R if reads else 0) | (W if operation in WRITING else 0) | (X if operation.startswith("exec") else 0)
    return DENIED if needs & ~table_bits else None


class View:
    """What one user sees of a table, and what becomes of it."""

    def __init__(self, owner: str, user: str, mode: str) -> None:
        self.user = user
        tenant_2 = {"a1": ("ann", 7)}
        rows = {i: (OWNERS[i], N[i]) for i in OWNERS} if owner == "tenant-1" else tenant_2
        self.mode = mode
        self.live = {i: row for i, row in rows.items() if i not in GONE}
        self.gone = {i: row for i, row in rows.items() if i in GONE}
        self.mine = [i for i, (by, _) in self.live.items() if mode == "all" or by == user]

    def row(self, row_id: str, **changes: Any) -> dict:
        _, n = self.live.get(row_id) or self.gone[row_id]
        return {"id": row_id, "n": n, "by": "function", **changes}

    def expected(self, operation: str) -> Any:
        """The answer, as a caller sees it: without the pins."""
        what, _, of = operation.partition(" ")
        target = of.split()[0] if of else ""
        seen = sorted(self.mine)
        unknown = {"error": "INVALID_REQUEST"}
        if "pin" in operation:
            return unknown
        if what in ("iterate", "query", "count"):
            ids = {
                "n=1": [i for i in seen if self.live[i][1] == 1],
                "id=b1": [i for i in seen if i == "b1"],
                "n=1 id=b2": [i for i in seen if i == "b2" and self.live[i][1] == 1],
                "by n": sorted(seen, key=lambda i: (self.live[i][1], i), reverse=True),
                "limit 2": seen[:2],
                "after a2": [i for i in seen if i > "a2"],
                "by n after b1": sorted(
                    [i for i in seen if (self.live[i][1], i) > (2, "b1")], key=lambda i: (self.live[i][1], i)
                )
                if "b1" in seen
                else unknown,
                "": seen,
            }[of]
            return len(ids) if what == "count" else ids
        if operation == "exec":
            return [
                {"id": i, "n": str(self.live[i][1]), "pin": None, "by": "function", "_owner": self.live[i][0]}
                for i in seen
            ]
        if operation == "exec count":
            return [{"c": len(seen), "m": None}]
        if what == "history":
            by, _ = (self.live | self.gone).get(target, ("", 0))
            if not by or (self.mode == "own" and by != self.user):
                return []
            return [{"txid": 1, "deleted_txid": 2 if target in self.gone else None, "value": self.row(target)}]
        if what == "get":
            return self.row(target) if target in self.mine else None
        if what in ("set", "insert"):
            somebody_elses = target in self.live and target not in self.mine
            taken = somebody_elses or (what == "insert" and target in self.live)
            return {"error": "ALREADY_EXISTS"} if taken else None
        if what == "update":
            if target not in self.mine:
                return {"error": "NOT_FOUND"}
            return {"error": DENIED} if of.endswith("by") else self.row(target, n=6)
        if what == "delete":
            return target in self.mine
        if what == "push":
            return "an id"
        order = [i for i in OWNERS if i in self.mine]  # pop and shift go by insertion
        return self.row(order[-1 if what == "pop" else 0]) if order else None

    def after(self, operation: str) -> dict[str, tuple[str, int]]:
        """The live rows (whose, n) once it has been committed."""
        what, _, of = operation.partition(" ")
        rows, said = dict(self.live), self.expected(operation)
        if isinstance(said, dict) and "error" in said:
            return rows
        if what in ("set", "insert"):
            rows[of] = (rows[of][0] if of in rows else self.user, 5)
        elif what == "update":
            rows[of] = (rows[of][0], 6)
        elif what == "push":
            rows["an id"] = (self.user, 5)
        elif what == "delete" and said:
            del rows[of]
        elif what in ("pop", "shift") and said:
            del rows[said["id"]]
        return rows


# --- asking ----------------------------------------------------------------------------------------------------------

PTRS = {(owner, mode, kind): f"tbl_{mode}_{kind}_{owner[-1]}" for owner in ("tenant-1", "tenant-2")
        for mode in MODES for kind in KINDS}  # fmt: skip


async def fill(api: Api, ptr: str, rows: dict[str, tuple[str, int]]) -> None:
    await api.sql.execute(f"TRUNCATE {ptr} RESTART IDENTITY")
    for row_id, (owner, n) in rows.items():
        data = json.dumps({"n": n, "pin": f"{row_id}-pin", "by": "function"})
        await api.sql.execute(
            f"INSERT INTO {ptr} (id, data, _txid, _deleted_txid, _owner) VALUES ($1, $2, 1, $3, $4)",
            row_id, data, 2 if row_id in GONE else None, owner,
        )  # fmt: skip


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def api(postgres, ddl):
    async with apis(postgres, [*ENDPOINTS, *RUNNERS], STRUCTS) as make:
        api = make()
        database = api.platform.open_database()  # one connection for all calls: they come one after the other
        api.platform.open_database = lambda: database
        aclose, database.aclose = database.aclose, nothing
        for (owner, mode, kind), ptr in PTRS.items():
            await api.sql.execute(ddl[kind].format(ptr=ptr))
            await fill(api, ptr, View(owner, "", "all").gone | View(owner, "", "all").live)
            for bits in BITS:
                name = f"{mode}_{kind}_{bits}" if owner == "tenant-1" else f"{owner}/{mode}_{kind}_{bits}"
                await api.sql.execute(
                    "INSERT INTO storage (id, ptr, owner, permissions) VALUES ($1, $2, $3, $4)", name, ptr, owner, bits
                )
        yield api
        await aclose()


async def nothing() -> None:
    """Close nothing."""


def said_by(response: Response) -> list:
    body = json.loads(response.body)
    assert response.status in (200, 415), body
    return body["result"] if response.status == 200 else body["details"]["said"]


def without_words(said: Any) -> Any:
    """An outcome without the sentence of an error, and a new id as the word that stands for it."""
    if isinstance(said, dict) and "error" in said:
        return {"error": said["error"]}
    return "an id" if isinstance(said, str) and len(said) == 36 else said


async def test_who_gets_through_to_a_function(api):
    """Callers x bits of their tokens x bits, group and publicity of functions."""
    cells = 0
    for caller, who in CALLERS.items():
        for token_bits in BITS if who is not None else (7,):
            headers = {"authorization": None} if who is None else bearer(**who, perm=token_bits)
            for bits, group, public in itertools.product(BITS, GROUPS, (False, True)):
                response = await api.rpc(f"of_{bits}_{group}_{public}", **headers)
                status, code = admitted(caller, token_bits, bits, group, public)
                cell = (caller, token_bits, bits, group, public)
                body = json.loads(response.body)
                assert (response.status, body.get("error", "")) == (status, code), cell
                if status == 200:
                    owner, user = (who or {}).get("owner", "tenant-1"), (who or {"user": "public"})["user"]
                    assert body["result"] == [owner, user, who is None or "anonymous" in who], cell
                cells += 1
    print(f"{cells} cells")
    assert cells == (7 * 8 + 1) * 48


@pytest.mark.parametrize("kind", KINDS)
async def test_what_each_operation_answers(api, kind):
    """Operations x bits of functions x bits of tables x row rules x callers, another tenant among them."""
    cells = 0
    users = [("tenant-1", "ann"), ("tenant-1", "bob"), ("tenant-1", "guest"), ("tenant-2", "ann"), ("tenant-3", "ann")]
    for (owner, user), mode, table_bits, bits in itertools.product(users, MODES, BITS, BITS):
        view, headers = View(owner, user, mode), bearer(owner=owner, user=user)
        verdicts = {operation: refused(operation, bits, table_bits, owner != "tenant-3") for operation in OPERATIONS}
        # What is refused or reads is asked in one call; none of the changes is kept.
        changing = [[o for o in group if verdicts[o] is None] for group in TOGETHER]
        together = [o for o in OPERATIONS if o in READING or verdicts[o] is not None]
        for operations in filter(None, [together, *changing]):
            response = await api.rpc(f"run_{bits}", f"{mode}_{kind}_{table_bits}", operations, **headers)
            for operation, said in zip(operations, said_by(response), strict=True):
                verdict = verdicts[operation]
                expected = view.expected(operation) if verdict is None else {"error": verdict}
                if "pin" in operation and operation in READING:
                    expected = {"error": "INVALID_REQUEST"}  # what is wrong with the question is said first
                assert without_words(said) == expected, (owner, user, mode, table_bits, bits, operation)
                cells += 1
    print(f"{cells} cells")
    assert cells == 5 * 2 * 8 * 8 * len(OPERATIONS)


@pytest.mark.parametrize("kind", KINDS)
async def test_what_each_change_leaves_behind(api, kind):
    """The rows in the database and whose they are, after each change of each user has been committed."""
    for user, mode, operation in itertools.product(("ann", "bob", "guest"), MODES, WRITING):
        view, ptr = View("tenant-1", user, mode), PTRS["tenant-1", mode, kind]
        await fill(api, ptr, view.gone | view.live)
        response = await api.rpc("run_6", f"{mode}_{kind}_7", [operation], True, **bearer(user=user))
        assert without_words(said_by(response)[0]) == view.expected(operation)
        found = await api.sql.fetch(f"SELECT id, _owner, data->>'n' FROM {ptr} WHERE _deleted_txid IS NULL")
        left = {without_words(row_id): (owner, int(n)) for row_id, owner, n in found}
        assert left == view.after(operation), (user, mode, operation)
        await fill(api, ptr, view.gone | view.live)


@pytest.mark.parametrize("kind", KINDS)
async def test_missing_and_forbidden_rows_look_the_same(api, kind):
    """Word for word, but for the id that was asked for; the same number of statements, too."""
    pairs = [("get b1", "get none"), ("history b1", "history none"), ("update b1", "update none"),
             ("delete b1", "delete none"), ("query by n after b1", "query by n after none")]  # fmt: skip
    OPERATIONS.setdefault("query by n after none", lambda t: listed(t.query(order_by="n", after="none")))
    await api.rpc("run_6", f"own_{kind}_7", ["count"], **bearer(user="ann"))
    for forbidden, missing in pairs:
        answers = []
        for operation in (forbidden, missing):
            response = await api.rpc("run_6", f"own_{kind}_7", [operation], **bearer(user="ann"))
            statements = response.headers["Server-Timing"].partition("db;dur=")[2].partition('desc="')[2].split()[0]
            text = json.dumps(said_by(response)).replace("'b1'", "?").replace("'none'", "?")
            answers.append((text, statements))
        assert answers[0] == answers[1]
