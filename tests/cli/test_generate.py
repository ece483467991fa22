"""`kontract generate`: typed clients that the compilers accept, that refuse what is wrong, and that work."""

import json
import shutil
import subprocess
import sys
import textwrap

import pytest

from kontract.cli import generate
from kontract.cli.build import render, scan
from kontract.cli.generate import python, typescript
from kontract.cli.main import main
from kontract.cli.toolchain import node, setup
from support.serving import running_server
from support.sessions import bearer_for

NASTY = '''
import enum
from datetime import datetime
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from kontract import Context, HttpResp, backend, perm, perms, primkey, table


class Colour(enum.Enum):
    RED = "red"
    GREEN = "green"


class Cat(Struct, tag=True):
    lives: int


class Dog(Struct, tag=True):
    name: str


class Tree(Struct):
    value: int
    children: list["Tree"] = []


@table("people")
class Person(Struct):
    """Somebody."""

    id: Annotated[str, primkey]
    name: str
    nick_name: str = ""
    seen: Annotated[str, perm(perms.R__)] = ""
    password: Annotated[str, perm(perms._W_)] = ""


class Odd(Struct, rename={"import_": "import", "dash": "a-b"}):
    import_: int
    dash: str


@backend(perm=perms.R__)
async def odd(
    ctx: Context,
    pet: Cat | Dog,
    pair: tuple[int, str],
    tree: Tree,
    choice: Literal["a", "b"],
    by_name: dict[str, list[float]],
    anything: Any = None,
    *,
    colour: Colour = Colour.RED,
    at: datetime | None = None,
    count: Annotated[int, Meta(ge=1, le=9)] = 3,
) -> dict[str, Tree | None]:
    """Do something odd.

    It has a comment that ends: */
    """
    return {"tree": tree, "none": None}


@backend(perm=perms.R__)
async def save(ctx: Context, person: Person) -> Person:
    return person


@backend(name="delete", perm=perms.R__)
async def delete_it(ctx: Context, class_: int, self: str = "x") -> None:
    """Has the name of a keyword."""


@backend(name="stream", perm=perms.R__)
async def a_method_of_the_client(ctx: Context) -> int:
    return 1


@backend(name="with-dash.and.dots", perm=perms.R__)
async def with_dash(ctx: Context) -> Odd:
    return Odd(1, "x")


@backend(name="list", perm=perms.R__)
async def named_like_a_type(ctx: Context, x: list[int]) -> list[str]:
    return [str(n) for n in x]


@table("clients")
class Client(Struct):
    id: Annotated[str, primkey]


class Record(Struct):
    by: dict[str, int]


@backend(perm=perms.R__)
async def clients(ctx: Context, cast: str = "") -> list[Client]:
    return []


@backend(perm=perms.R__)
async def records(ctx: Context) -> dict[str, Record]:
    return {}


@backend(name="with_dash.and.dots", perm=perms.R__)
async def without_dash(ctx: Context) -> int:
    return 1


class Error(Struct):
    """What went wrong, of the application."""

    words: Annotated[str, Meta(min_length=1, max_length=80, pattern="^[^*]*/?$", description="For people")]
    weight: Annotated[float, Meta(gt=0, lt=10, multiple_of=0.5)] | None = None


Code = Annotated[str, Meta(pattern="^[A-Z]+$")]


class TypeError(Struct):
    code: Code


@backend(perm=perms.R__)
async def failed(ctx: Context, error: Error, other: TypeError | None = None) -> Error:
    return error


@backend(perm=perms.R__)
async def then(ctx: Context, x: int = 1) -> Record:
    """Called like what makes a promise."""
    return Record({})


@backend(perm=perms.R__)
async def strange(ctx: Context, a: Any = object(), b: Any = object()) -> None:
    """Has defaults that JSON cannot say."""


@backend(ugroup="admin", perm=perms.RW_)
async def made(ctx: Context) -> HttpResp:
    return HttpResp.created({"a": 1})
'''


@pytest.fixture(scope="module")
def nasty(tmp_path_factory, checkout):
    """An application with everything that is hard to say in another language."""
    root = tmp_path_factory.mktemp("nasty")
    (root / "src" / "app").mkdir(parents=True)
    (root / "src" / "app" / "__init__.py").write_text("")
    (root / "src" / "app" / "nasty.py").write_text(NASTY)
    (root / "wrangler.toml").write_text("")
    (root / "pyproject.toml").write_text("[project]\nname = 'nasty'\n")
    (root / "public").mkdir()
    for name in ("kontract.js", "kontract.d.ts"):
        shutil.copy(checkout.root / "public" / name, root / "public")
    shutil.copytree(checkout.root / "public" / "kontract", root / "public" / "kontract")
    return root


def generated(root, language):
    """By the command, in a process of its own: the application is imported by it."""
    done = subprocess.run(
        [sys.executable, "-m", "kontract.cli.main", "generate", language],
        cwd=root, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module", params=["nasty", "demo"])
def written(request, nasty, checkout, tmp_path_factory):
    """A folder with the generated modules of an application and the runtimes that they stand on."""
    root = nasty if request.param == "nasty" else checkout.root
    folder = tmp_path_factory.mktemp("written")
    for name in ("kontract.js", "kontract.d.ts"):
        shutil.copy(checkout.root / "public" / name, folder)
    shutil.copytree(checkout.root / "public" / "kontract", folder / "kontract")
    (folder / "api.ts").write_text(generated(root, "ts"))
    (folder / "backend.py").write_text(generated(root, "py"))
    return request.param, folder


def tsc(checkout, folder, *names):
    setup.prepare(checkout)
    command = [node.bin_folder() / "node", checkout.node_modules / "typescript" / "bin" / "tsc"]
    options = ["--strict", "--noEmit", "--target", "es2022", "--module", "nodenext", "--lib", "es2022,dom,dom.iterable"]
    options += ["--exactOptionalPropertyTypes", "--noUncheckedIndexedAccess", "--noUnusedLocals", "false"]
    done = subprocess.run(
        [*command, *options, *names], cwd=folder, capture_output=True, text=True, check=False, timeout=150
    )
    return done.stdout


def mypy(folder, *names):
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--cache-dir", folder / ".mypy", *names],
        cwd=folder, capture_output=True, text=True, check=False, timeout=170,
    )  # fmt: skip
    return done.stdout


RIGHT_AND_WRONG_TS = {
    "demo": """
        import { connect } from "./api.js";
        const api = connect({ url: "http://localhost" });
        const task: { id: string; title: string; done: boolean; created_by: string } = await api.create_task("x");
        await api.list_tasks(null, 5);
        await api.call("total", [], { idempotencyKey: null });
        const session: { token: string } = await api.auth.anonymous();
        console.log(session.token);
        const sum: number = await api.total();
        for await (const change of api.stream(["tasks", "accounts"])) {
          if (change.type === "reset") console.log(change.reason);
          else if (change.type === "delete") console.log(change.oldData, change.data satisfies null);
          else if (change.table === "tasks") console.log(change.data.title);
          else console.log(change.data.balance + sum, task.id);
          // @ts-expect-error: the row of a deletion is null
          if (change.type !== "reset" && change.table === "tasks") console.log(change.data.title);
        }
        // @ts-expect-error: a number is no title
        await api.create_task(1);
        // @ts-expect-error: a title is needed
        await api.create_task();
        // @ts-expect-error: there is no such function
        await api.create_taks("x");
        // @ts-expect-error: there is no such table
        api.stream("taks");
        // @ts-expect-error: there is no such field
        console.log(task.titel);
    """,
    "nasty": """
        import { connect, type Api, type Error, type Odd, type Tree } from "./api.js";
        import { connect as untyped } from "./kontract.js";
        const api = connect();
        const failed: Error = await api.failed({ words: "x" }, { code: "A" });
        const words: string = failed.words;
        const weight: number | null = failed.weight;
        const same: Api = await (async () => connect())();
        const plain = (await Promise.all([untyped()]))[0]!;
        console.log(words, weight, await same.call("then", [2]), await plain["whatever"]!());
        // @ts-expect-error: it is no promise, whatever the functions are called
        await api.then(1);
        // @ts-expect-error: neither is this one
        await plain.then(1);
        // @ts-expect-error: that is none of its fields
        console.log(failed.request_id);
        const tree: Tree = { value: 1, children: [{ value: 2, children: [] }] };
        const got: Record<string, Tree | null> = await api.odd(
          { type: "Cat", lives: 9 }, [1, "x"], tree, "a", { n: [1.5] }, undefined, "green", null, 3);
        await api.save({ id: "1", name: "Ann", password: "x" });
        const seen: string = (await api.save({ id: "1", name: "Ann" })).seen;
        await api.delete(1);
        const other: Odd = await api["with-dash.and.dots"]();
        console.log(other["a-b"], other.import + 1, seen, got);
        const strings: string[] = await api.list([1]);
        console.log(strings);
        // @ts-expect-error: there is no cow
        await api.odd({ type: "Cow" }, [1, "x"], tree, "a", {});
        // @ts-expect-error: a pair has two
        await api.odd({ type: "Cat", lives: 9 }, [1], tree, "a", {});
        // @ts-expect-error: c is no choice
        await api.odd({ type: "Cat", lives: 9 }, [1, "x"], tree, "c", {});
        // @ts-expect-error: callers may not set it
        await api.save({ id: "1", name: "Ann", seen: "x" });
        // @ts-expect-error: callers are not shown it
        console.log((await api.save({ id: "1", name: "Ann" })).password);
    """,
}

RIGHT_AND_WRONG_PY = {
    "demo": """
        from backend import Api, Task

        async def use(api: Api) -> None:
            task: Task = await api.create_task("x")
            tasks: list[Task] = await api.list_tasks(None, limit=5)
            balances: dict[str, int] = await api.transfer("a", "b", 1)
            print(task["title"], tasks, balances)
            await api.create_task(1)  # type: ignore[arg-type]
            await api.create_task()  # type: ignore[call-arg]
            print(task["titel"])  # type: ignore[typeddict-item]
    """,
    "nasty": """
        from backend import Api, Error, Person, Tree

        async def use(api: Api) -> None:
            tree: Tree = {"value": 1, "children": []}
            got: dict[str, Tree | None] = await api.odd(
                {"type": "Cat", "lives": 9}, [1, "x"], {"value": 1}, "a", {"n": [1.5]}, colour="green"
            )
            person: Person = await api.save({"id": "1", "name": "Ann", "password": "x"})
            strings: list[str] = await api.list_([1])
            failed: Error = await api.failed({"words": "x"}, {"code": "A"})
            print(failed["weight"], failed["request_id"])  # type: ignore[typeddict-item]
            print(got, person["seen"], strings, tree)
            await api.delete(1)
            await api.odd({"type": "Cow"}, [1], {"value": 1}, "a", {})  # type: ignore[arg-type]
            await api.save({"id": "1", "name": "Ann", "seen": "x"})  # type: ignore[typeddict-unknown-key]
            print(person["password"])  # type: ignore[typeddict-item]
    """,
}


def test_typescript_takes_what_is_right_and_refuses_what_is_wrong(written, checkout):
    """In strict mode; each wrong line is marked, and a mark without an error is one."""
    name, folder = written
    (folder / "use.mts").write_text(textwrap.dedent(RIGHT_AND_WRONG_TS[name]))
    assert tsc(checkout, folder, "api.ts", "use.mts") == ""


def test_mypy_takes_what_is_right_and_refuses_what_is_wrong(written):
    """In strict mode, which also tells of an ignored error that is none."""
    name, folder = written
    (folder / "use.py").write_text(textwrap.dedent(RIGHT_AND_WRONG_PY[name]))
    assert mypy(folder, "backend.py", "use.py").startswith("Success")


def test_the_same_application_gives_the_same_text(nasty):
    assert generated(nasty, "ts") == generated(nasty, "ts")
    assert generated(nasty, "py") == generated(nasty, "py")


CALLS = """
import { connect } from "./api.ts";
const fetch = async (_url: unknown, init?: { body?: unknown }) => {
  console.log(init!.body);
  return new Response('{"result": null}');
};
const api = connect({ url: "http://127.0.0.1:1", token: "t", fetch: fetch as typeof globalThis.fetch });
const tree = { value: 1, children: [] };
const pet = { type: "Cat" as const, lives: 9 };
await api.odd(pet, [1, "x"], tree, "a", {}, undefined, undefined, undefined, 4);
await api.odd(pet, [1, "x"], tree, "a", {}, 7, undefined, undefined, undefined);
await api.strange(undefined, undefined);
await api.strange(undefined, 1).catch((error: unknown) => console.log(String(error)));
console.log(typeof api.then, (await (async () => api)()) === api);
await api.call("then", [2]);
"""


def test_what_is_left_out_before_a_later_argument_is_what_the_function_takes(nasty, tmp_path):
    """Not null, which is what JSON makes of undefined; and a client with a function `then` is no promise."""
    shutil.copytree(nasty / "public", tmp_path, dirs_exist_ok=True)
    (tmp_path / "package.json").write_text('{"type": "module"}')
    (tmp_path / "api.ts").write_text(generated(nasty, "ts"))
    (tmp_path / "use.ts").write_text(CALLS)
    done = subprocess.run(
        [node.bin_folder() / "node", "--no-warnings", "use.ts"],
        cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    start = '[{"type":"Cat","lives":9},[1,"x"],{"value":1,"children":[]},"a",{},'
    assert done.stdout.splitlines() == [
        start + 'null,"red",null,4]',
        start + "7]",
        "[]",
        "TypeError: argument 1 is required when a later one is passed",
        "undefined true",
        "[2]",
    ]


def test_what_meta_asks_is_told_in_comments(nasty):
    """Fields and parameters, in words that an editor shows; a pattern does not end the comment."""
    text = generated(nasty, "ts")
    assert "For people. Length at least 1, length at most 80, matches `^[^*]* /?$`." in text
    assert "  /** More than 0, less than 10, a multiple of 0.5. */\n  weight" in text
    assert "   * @param count At least 1, at most 9.\n" in text
    assert "  /** Matches `^[A-Z]+$`. */\n  code: string;" in text


def test_what_is_written_works(checkout, postgres, reaper, tmp_path):
    """Node strips the types and calls a real gateway; Python does, too."""
    document = generate.describe(checkout)
    for name in ("kontract.js", "kontract.d.ts"):
        shutil.copy(checkout.root / "public" / name, tmp_path)
    shutil.copytree(checkout.root / "public" / "kontract", tmp_path / "kontract")
    (tmp_path / "package.json").write_text('{"type": "module"}')
    (tmp_path / "api.ts").write_text(typescript.render(document))
    (tmp_path / "backend.py").write_text(python.render(document))
    (tmp_path / "use.ts").write_text(
        'import { connect } from "./api.ts";\n'
        "const api = connect({ url: process.argv[2]!, token: process.argv[3]! });\n"
        'const task = await api.create_task("From TypeScript");\n'
        "console.log(JSON.stringify([task, await api.list_tasks(false, 5)]));\n"
    )
    (tmp_path / "use.py").write_text(
        "import asyncio, json, sys\nfrom backend import Api\n"
        "async def use():\n    async with Api(sys.argv[1], token=sys.argv[2]) as api:\n"
        '        task = await api.create_task("From Python")\n'
        "        assert len(await api.list_tasks(limit=1)) == 1\n"
        "        print(json.dumps([task, await api.list_tasks(limit=5)]))\n"
        "asyncio.run(use())\n"
    )
    with running_server(checkout, postgres.create_database(), tmp_path / "server", reaper) as server:
        token = bearer_for(server)["authorization"].removeprefix("Bearer ")
        programs = {
            "From TypeScript": [node.bin_folder() / "node", "--no-warnings", "use.ts"],
            "From Python": [sys.executable, "use.py"],
        }
        for title, program in programs.items():
            done = subprocess.run(
                [*program, server.url, token], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60
            )
            assert done.returncode == 0, done.stderr
            task, tasks = json.loads(done.stdout)
            assert task["title"] == title
            assert task in tasks


def test_files_that_are_listed_are_kept_up_to_date(nasty, monkeypatch, capsys):
    """`kontract generate` writes them, `kontract build --check` tells when they are not what they should be."""
    monkeypatch.chdir(nasty)
    monkeypatch.setattr(generate, "describe", lambda _checkout: json.loads(json.dumps(DOCUMENT)))
    (nasty / "pyproject.toml").write_text('[tool.kontract.generate]\nts = "public/api.ts"\npy = "clients/backend.py"\n')
    (nasty / "src" / "routes.py").write_text(render(scan(nasty / "src")))
    assert main(["build", "--check"]) == 1
    assert "public/api.ts does not match the functions" in capsys.readouterr().err
    assert main(["generate"]) == 0
    assert (nasty / "clients" / "backend.py").is_file()
    assert main(["build", "--check"]) == 0
    assert main(["generate", "--check"]) == 0
    (nasty / "public" / "api.ts").write_text("// by hand")
    assert main(["generate", "--check"]) == 1
    (nasty / "pyproject.toml").write_text('[tool.kontract.generate]\nrust = "x"\n')
    assert main(["generate"]) == 1
    assert "Known keys: ts, py." in capsys.readouterr().err
    (nasty / "pyproject.toml").write_text("")
    assert main(["generate"]) == 1


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[tool.kontract.generate]\nts = 3\n", "has ts = 3, which is not a file name"),
        ("[tool.kontract.generate]\nts = ''\n", 'has ts = "", which is not a file name'),
        ("[tool.kontract.generate]\nts = 'src'\n", 'has ts = "src", which is not a file name'),
        ("[tool.kontract.generate]\npy = ['a']\n", 'has py = ["a"], which is not a file name'),
        ("[tool.kontract.generate]\npy = 2026-01-01\n", 'has py = "2026-01-01", which is not a file name'),
        ("[tool.kontract]\ngenerate = 'ts'\n", "generate is not a table"),
        ("[tool]\nkontract = 1\n", "kontract is not a table"),
        ("tool = 1\n", "tool is not a table"),
        ("[tool", "pyproject.toml cannot be read"),
    ],
)
def test_mistakes_in_what_is_listed_are_said(nasty, monkeypatch, capsys, text, says):
    """By a sentence, before anything is imported or written."""
    monkeypatch.chdir(nasty)
    (nasty / "pyproject.toml").write_text(text)
    assert main(["generate"]) == 1
    assert says in capsys.readouterr().err


DOCUMENT = {"paths": {}, "components": {"schemas": {}}, "x-kontract-rows": {}}


@pytest.mark.parametrize(
    ("statement", "says"),
    [
        ("raise RuntimeError('not here')", "RuntimeError: not here."),
        ("raise SystemExit('set KEY first')", "SystemExit: set KEY first."),
    ],
)
def test_an_application_that_cannot_be_imported_is_said(nasty, tmp_path, statement, says):
    """With file and line, by a sentence."""
    shutil.copytree(nasty, tmp_path / "broken")
    (tmp_path / "broken" / "src" / "app" / "nasty.py").write_text(f"{NASTY}\n\n{statement}\n")
    done = subprocess.run(
        [sys.executable, "-m", "kontract.cli.main", "generate", "ts"],
        cwd=tmp_path / "broken", capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 1
    lines = NASTY.count("\n") + 3
    assert f"src/app/nasty.py:{lines}: the application cannot be imported: {says}" in done.stderr
