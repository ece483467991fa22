"""Nobody types figures into the pages of benchmarks: they are what the renderer makes of the results that are kept."""

import importlib
import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

BENCH = Path(__file__).resolve().parents[2] / "bench"


@pytest.fixture(scope="module")
def bench():
    """The modules of bench/, which is a folder of programs and no package."""
    sys.path.insert(0, str(BENCH))
    try:
        yield {name: importlib.import_module(name) for name in ("records", "page", "all")}
    finally:
        sys.path.remove(str(BENCH))
        for name in [name for name, one in sys.modules.items() if str(BENCH) in str(getattr(one, "__file__", None))]:
            del sys.modules[name]


@pytest.fixture
def page(bench):
    return bench["page"]


@pytest.fixture
def record(bench):
    return bench["records"].Record


def part(name="core", *records, problem=""):
    return {
        "name": name,
        "command": f".venv/bin/python bench/{name}.py",
        "seconds": 1.0,
        "load": [0.5, 1.0],
        "problem": problem,
        "records": [one if isinstance(one, dict) else vars(one) for one in records],
        "output": f"what {name} printed",
    }


def test_the_pages_are_what_the_results_give(page):
    """A figure that was typed, or results without their pages, would differ."""
    results = json.loads(page.RESULTS.read_text(encoding="utf-8"))
    assert len(page.PAGES) == 2
    for template, made in page.PAGES.items():
        wanted = page.render(template.read_text(encoding="utf-8"), results)
        assert made.read_text(encoding="utf-8") == wanted, "run .venv/bin/python bench/all.py --render"


def test_the_first_page_has_ten_figures_and_fits_a_screen(page):
    """All of them were measured, and each name says what the figure is of."""
    (first, *_) = page.PAGES.values()
    text = first.read_text(encoding="utf-8")
    rows = re.findall(r"^\| .* \| \d[^|]* \|.*\|$", text, re.MULTILINE)
    assert len(rows) == len(page.TEN) == 10
    assert len(text.splitlines()) <= 50


def test_a_figure_that_was_not_measured_is_said_to_be_missing(page):
    """On the first page, too."""
    assert page.ten([part("core")]).count("(Not part of this run.)") == 10


@pytest.mark.parametrize("name", ["page.md", "figures.md"])
def test_the_explanations_hold_no_figures(page, name):
    """A measured number in a template would stay when the measurement changes."""
    template = (BENCH / name).read_text(encoding="utf-8").replace("127.0.0.1", "")
    text = re.sub(r"`[^`]*`", "", template)
    assert re.findall(r"\d+(?:[.,]\d+)*\s*(?:%|ms|µs|s|KiB|MiB|times|x|of)\b|\d+\.\d+", text) == []


def test_every_part_has_its_place_in_the_page(page, bench):
    """A part that is measured and not shown would be found by nobody."""
    templates = "".join(template.read_text(encoding="utf-8") for template in page.PAGES)
    shown = re.findall(r"\{\{output ([\w-]+)\}\}", templates)
    assert sorted(shown) == sorted(one.name for one in bench["all"].PARTS)


def test_what_is_kept_names_no_folder_of_a_machine(page):
    """Results are published."""
    assert not re.search(r"/(?:root|home|work|tmp|Users)/", page.RESULTS.read_text(encoding="utf-8"))


def test_an_aim_is_judged_by_the_median(page, record):
    """ "met?" follows from value and aim alone."""
    reached = record("echo", 4.0, "times", peer="FastAPI", low=1.5, high=4.5, aim="at least 4")
    rows = [replace(reached, value=value) for value in (4.0, 3.99)]
    exact = [record("echo", value, "statements", aim="exactly 1") for value in (1.0, 2.0)]
    most = record("hot", 11, "attempts", aim="at most 10")
    thousands = record("core", 49_999, "cycles a second", aim="at least 50,000")
    met = [row[5] for row in page.cells(part("core", *rows, *exact, most, thousands, record("x", 1.0, "s")))]
    assert met == ["yes", "**no**", "yes", "**no**", "**no**", "**no**", ""]
    assert page.cells(part("core", reached))[0][3] == "4.00 (1.50-4.50) times"


def test_an_aim_nobody_understands_is_refused(record):
    """It would be a row without an answer."""
    with pytest.raises((KeyError, ValueError)):
        record("echo", 1.0, "times", aim="about 2")


def test_a_part_that_failed_is_a_row(page):
    """Whoever reads the table sees that something is missing."""
    text = page.table([part("serve", problem="There is no program `wrk` | none."), part("core")])
    assert "not measured" in text
    assert "There is no program `wrk` \\| none." in text


def test_a_part_that_was_not_run_is_said_to_be_missing(page):
    """Else the page would be silent about it."""
    results = {"parts": [part("core")]}
    made = page.render("{{output core}} {{output serve}}", results)
    assert made == "```text\nwhat core printed\n``` (Not part of this run.)"


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("raise SystemExit('There is no wrk. Install it.')", "There is no wrk. Install it."),
        ("print('Starting ...', file=__import__('sys').stderr); raise SystemExit('broken')", "broken"),
        (
            "print('  what it does, said on the way.', file=__import__('sys').stderr); raise SystemExit('broken')",
            "broken",
        ),
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("pass", "It measured nothing."),
    ],
)
def test_a_program_that_fails_does_not_end_the_run(bench, monkeypatch, tmp_path, code, expected):
    """One that is missing something is told by its own words."""
    (tmp_path / "bench").mkdir()
    (tmp_path / "bench" / "broken.py").write_text(code)
    monkeypatch.setattr(bench["page"], "ROOT", tmp_path)
    done = bench["all"].run(bench["all"].Part("broken", "broken"), quick=True)
    assert done["problem"] == expected
    assert done["records"] == []


# A shell that starts something in the background lets it ignore Ctrl-C, and what that starts as well.
STOPPABLE = "import signal\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"


def test_a_program_that_hangs_is_stopped(bench, monkeypatch, tmp_path):
    """The others shall have their turn."""
    (tmp_path / "bench").mkdir()
    (tmp_path / "bench" / "hangs.py").write_text(f"{STOPPABLE}signal.pause()\n")
    monkeypatch.setattr(bench["page"], "ROOT", tmp_path)
    monkeypatch.setattr(bench["all"], "LONGEST", 0.5)
    done = bench["all"].run(bench["all"].Part("hangs", "hangs"), quick=True)
    assert done["problem"] == "It took more than 0 s and was stopped."


def test_what_is_stopped_may_stop_its_servers(bench):
    """Servers are in groups of their own: only the program itself can stop them, at Ctrl-C."""
    code = f"{STOPPABLE}try:\n    print('ready', flush=True)\n    signal.pause()\n"
    code += "finally:\n    print('stopped its servers')\n"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert process.stdout.readline() == "ready\n"
    bench["all"]._stop(process)
    assert process.communicate()[0] == "stopped its servers\n"
