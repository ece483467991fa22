"""No block of code stands in a page untried: it is run here or by a test that is named here, or says why it is not.

What follows the language in a fence says what becomes of the block:

- a path (``python src/app/letters.py``): it is that file. In the guides, all of them make one project here, whose tests
  (``python tests/app/test_letters.py``) are run as `make test` would;
- ``account``, ``root``, ``engine``, ``cluster``, ``bench``: it needs what there is not where tests run;
- anything else: its page has a test of its own, below.
"""

import asyncio
import os
import re
import shutil
import subprocess
import sys
import tomllib

import asyncpg
import pytest

from kontract.cli.toolchain import node as toolchain
from kontract.cli.toolchain import setup
from support.pages import DOCS, ROOT, blocks, pages

BLOCKS = [block for page in pages() for block in blocks(page)]

# What is not code.
FOR_THE_EYE = {"text", "{toctree}", "{eval-rst}"}

# What tests do not have. Their commands and options are checked by the tests of their pages.
NOT_HERE = {
    "bash account": "a Cloudflare account",
    "bash root": "root on a server with systemd",
    "bash engine": "a container engine",
    "bash cluster": "a Kubernetes cluster",
    "bash bench": "a quarter of an hour of a machine that does nothing else",
}

# What is run below.
RUN_HERE = {
    "docs/how-to/deploy.md": r"bash",
    "docs/how-to/migrations.md": r"console",
    "docs/how-to/observe.md": r"toml",
    "docs/how-to/typed-clients.md": r"bash run|toml|typescript",
    "docs/reference/tables.md": r"sql",
}

# The page, the kinds of its blocks, and who runs them: the file, and what has to stand in it.
ELSEWHERE = [
    ("README.md", r"bash clone|console|python", "docs/test_readme.py", "README"),
    ("docs/how-to/write-a-function.md", r"(python|sql) notes", "docs/test_examples.py", '"write-a-function.md"'),
    ("docs/index.md", r"python transfer", "docs/test_examples.py", '"python transfer"'),
    ("docs/how-to/middleware.md", r"python middleware", "docs/test_examples.py", '"python middleware"'),
    ("docs/reference/http.md", r"console", "docs/test_examples.py", '"http.md"'),
    ("docs/tutorial/quick-start.md", r"bash dev|console", "docs/test_tutorial.py", '"quick-start.md"'),
    ("docs/tutorial/booking.md", r".*", "docs/test_tutorial.py", '"booking.md"'),
    ("docs/reference/python-client.md", r"python", "client/test_docs.py", '"python-client.md"'),
    (
        "docs/how-to/connect-from-python.md",
        r"python|bash token",
        "client/test_docs.py",
        '"how-to/connect-from-python.md"',
    ),
    ("docs/how-to/encrypt-calls.md", r"python", "client/test_docs.py", '"how-to/encrypt-calls.md"'),
    ("docs/how-to/encrypt-calls.md", r"js", "browser/test_docs.py", '"how-to/encrypt-calls.md"'),
    ("docs/how-to/encrypt-calls.md", r"bash keys", "client/test_docs.py", "/.well-known/kontract"),
    ("docs/how-to/connect-from-a-page.md", r"js", "browser/test_docs.py", '"how-to/connect-from-a-page.md"'),
    ("docs/reference/python-client.md", r"bash install", "deploy/test_package.py", "```bash install"),
    ("docs/reference/javascript-client.md", r"js", "browser/test_docs.py", '"javascript-client.md"'),
    ("docs/reference/raystream.md", r"json", "docs/test_raystream.py", "```json"),
    (
        "docs/reference/raystream.md",
        r"bash vectors",
        "core/security/raystream/test_vectors.py",
        '"raystream-vectors.json"',
    ),
    ("docs/how-to/migrations.md", r"sql seeds", "cli/test_migrations.py", "```sql seeds"),
    ("docs/how-to/test-your-app.md", r"python( tests)?", "docs/test_how_to.py", '"python tests"'),
    ("docs/how-to/start-a-project.md", r"bash new", "cli/test_new.py", '["make", "new", f"NAME='),
    ("docs/how-to/start-a-project.md", r"bash (later|merge)", "cli/test_new.py", "```bash merge"),
    ("docs/how-to/deploy.md", r"bash preview", "cli/test_preview.py", '["preview", *arguments, "--dry-run"]'),
    ("docs/how-to/self-hosting.md", r"bash (install|compose)", "deploy/test_self_hosting.py", '"bash install"'),
    ("docs/how-to/several-nodes.md", r"bash nodes|sql roles|toml", "deploy/test_self_hosting.py", '"bash nodes"'),
    ("docs/how-to/operate.md", r"sql coordination", "deploy/test_self_hosting.py", '"sql coordination"'),
    ("docs/how-to/own-platform.md", r"python \w+", "deploy/test_self_hosting.py", '"python gateway"'),
]


def named(block):
    return block.name


def elsewhere(block):
    page = block.page.relative_to(ROOT).as_posix()
    return [entry for entry in ELSEWHERE if entry[0] == page and re.fullmatch(entry[1], block.kind)]


def is_file(block):
    """Whether it is a file of the project that the guides make together."""
    path = block.kind.partition(" ")[2]
    return block.page.parent == DOCS / "how-to" and re.fullmatch(r"(src/app|tests/app|public)/[\w.]+", path) is not None


def chosen(block):
    why = NOT_HERE.get(block.kind)
    marks = [pytest.mark.skip(reason=f"needs {why}")] if why else []
    return pytest.param(block, id=block.name, marks=marks)


@pytest.mark.parametrize("block", [chosen(block) for block in BLOCKS])
def test_a_block_is_run_or_says_why_not(block):
    """A block of a new kind fails until somebody has thought about it."""
    if block.kind in FOR_THE_EYE or is_file(block):
        return
    if re.fullmatch(RUN_HERE.get(block.page.relative_to(ROOT).as_posix(), "-"), block.kind):
        return
    assert elsewhere(block), f"nobody runs this block ({block.kind!r}); what follows its language should say who does"


@pytest.mark.parametrize("entry", ELSEWHERE, ids=lambda entry: f"{entry[0]} {entry[1]}")
def test_who_is_said_to_run_them_is_there(entry):
    page, _, test, proof = entry
    assert any(elsewhere(block) == [entry] for block in BLOCKS), "nothing is left for it to run"
    assert (ROOT / page).is_file()
    assert proof in (ROOT / "tests" / test).read_text(encoding="utf-8")


@pytest.mark.parametrize("block", [one for one in BLOCKS if one.kind == "text"], ids=named)
def test_no_command_hides_in_a_block_for_the_eye(block):
    """Which would be a way around all of this."""
    hidden = re.findall(r"^(?:\$ |make |kontract [a-z]|\.venv/bin/|wrangler ).*", block.text, re.MULTILINE)
    assert hidden == []


# --- the guides' project ---------------------------------------------------------------------------------------------


def page_of(name):
    return blocks(DOCS / name)


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A clone with the files of the guides in it, and the migrations that their tables need."""
    folder = tmp_path_factory.mktemp("project")
    for name in ("pyproject.toml", "wrangler.toml", "Makefile", "uv.lock"):
        shutil.copy2(ROOT / name, folder / name)
    for name in ("src", "sql", "public", "tests/app"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / ".venv").symlink_to(ROOT / ".venv")
    (folder / "tests" / "conftest.py").write_text('pytest_plugins = ["kontract.testing.pytest"]\n')
    first, *others = [[*filter(is_file, page_of(f"how-to/{name}.md"))] for name in GUIDES]
    write(folder, first)
    for block in page_of("how-to/migrations.md"):
        if block.kind == "console":
            compare(folder, block.text)
    for guide in others:
        write(folder, guide)
    run(folder, ".venv/bin/kontract migrate new guides")
    return folder


# The pages whose blocks are files. What the first one types must find no other table that is new.
GUIDES = ["migrations", *sorted({one.page.stem for one in BLOCKS if is_file(one)} - {"migrations"})]


def write(folder, files):
    for block in files:
        path = folder / block.kind.partition(" ")[2]
        assert not path.exists(), f"{block.name}: another page has that file"
        path.write_text(block.text + "\n")


def run(folder, text, **more):
    """What a shell prints for it, in that folder."""
    inherited = {name: value for name, value in os.environ.items() if name not in ("DATABASE_URL", "MAKELEVEL")}
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", text],
        cwd=folder,
        env={**inherited, "PYTHONPATH": str(folder / "src"), "WRANGLER_SEND_METRICS": "false", **more},
        capture_output=True,
        text=True,
        check=False,
        timeout=170,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def compare(folder, text):
    for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        command, _, shown = part.partition("\n")
        assert run(folder, command).strip() == shown.strip(), command


def files_of(language):
    return [one.kind.partition(" ")[2] for one in BLOCKS if is_file(one) and one.kind.startswith(f"{language} ")]


def test_the_guides_make_an_application_that_passes_its_tests(project):
    """Written as files, migrated and tested as their readers would."""
    shown = [path for path in files_of("python") if path.startswith("tests/")]
    assert len(shown) >= 4
    run(project, ".venv/bin/kontract build")
    said = run(project, f"{sys.executable} -m pytest -q -p no:cacheprovider {' '.join(shown)}")
    assert int(re.search(r"(\d+) passed", said)[1]) >= 7


def test_the_guides_are_clean(project):
    """People copy from them: the linter of the template has no objection."""
    paths = " ".join(files_of("python"))
    run(project, f"{sys.executable} -m ruff check --no-cache {paths}")
    run(project, f"{sys.executable} -m ruff format --no-cache --check {paths}")


def test_typed_clients_are_made_and_used_as_shown(project):
    """The commands, the setting, and the program: tsc checks it in strict mode."""
    shown = page_of("how-to/typed-clients.md")
    for block in shown:
        if block.kind == "bash run":
            run(project, f"mkdir -p clients; {block.text}")
    with (project / "pyproject.toml").open("a") as file:
        file.writelines(f"\n{block.text}\n" for block in shown if block.kind == "toml")
    run(project, ".venv/bin/kontract build; .venv/bin/kontract generate; .venv/bin/kontract build --check")
    (program,) = [block.text for block in shown if block.kind == "typescript"]
    (project / "public" / "shown.ts").write_text(program)
    node = toolchain.bin_folder() / "node"
    compiler = ROOT / "node_modules" / "typescript" / "bin" / "tsc"
    options = "--strict --noEmit --target es2022 --module es2022 --moduleResolution bundler --lib es2022,dom --allowJs"
    run(project, f"{node} {compiler} {options} public/shown.ts")


@pytest.mark.parametrize(
    "block",
    [
        pytest.param(one, id=named(one), marks=pytest.mark.long if one.text == "make deploy-check" else ())
        for one in page_of("how-to/deploy.md")
        if one.kind == "bash"
    ],
)
def test_a_step_of_a_deployment_needs_no_account(block, checkout, postgres, tmp_path):
    """Those that are not marked as needing one."""
    setup.prepare(checkout)
    run(ROOT, block.text, DATABASE_URL=postgres.create_database(empty=True), WRANGLER_LOG_PATH=str(tmp_path))


def test_the_setting_for_logs_fits_into_wrangler_toml():
    """A section of an environment that there is, and that has none of that name."""
    (block,) = [one for one in page_of("how-to/observe.md") if one.kind == "toml"]
    ours = (ROOT / "wrangler.toml").read_text()
    assert tomllib.loads(f"{ours}\n{block.text}")["env"]["production"]["observability"] == {"enabled": True}


def test_a_plain_table_is_adopted_as_the_page_says(postgres):
    """Made by the SQL that stands there, by the command that stands below it."""
    url = postgres.create_database()
    (block,) = [one for one in page_of("reference/tables.md") if one.kind == "sql"]

    async def make():
        connection = await asyncpg.connect(url)
        await connection.execute(block.text)
        await connection.close()

    asyncio.run(make())
    run(ROOT, ".venv/bin/kontract table adopt notes --owner tenant-1", DATABASE_URL=url)
    assert re.search(r"notes.*versioned", run(ROOT, ".venv/bin/kontract table list", DATABASE_URL=url))


def test_the_benchmarks_know_their_options():
    """Of the commands that take too long for here."""
    told = run(ROOT, ".venv/bin/python bench/all.py --help")
    named_ = {option for one in BLOCKS if one.kind == "bash bench" for option in re.findall(r"--\w+", one.text)}
    assert named_ >= {"--quick", "--write"}
    assert [option for option in named_ if not re.search(rf"{option}\b", told)] == []
