"""Files of variables: one reader, which takes them as wrangler does."""

from __future__ import annotations

import itertools
import json
import random
import subprocess

import pytest

from kontract.cli.toolchain import dev_vars, node
from kontract.server.env_file import assignments, parse, stray

CASES = [
    "A=1\nB = 2 \n export C=3\nD: 4\nE:5\n",
    'A=\'one # two\'\nB="x\\ny\\r\\tz"\nC=`it\'s "so"`\n',
    "A=plain # comment\nB=a#b\nC=#\nD='a'#b\nE='a' # b\n",
    "A='two\nlines'\nB=\"two\r\nlines\"\nC=3\r\nD=4\rE=5",
    "A='open\nB=2\n",
    "A='it\\'s'\nB='ends\\'\nC='x'\n",
    "A=\nB=\n'next'\nC\n=3\n",
    "A.B-C=1\n1A=2\nÄ=3\n=4\nA B=5\n",
    "\ufeffA=1\u2028B=2\u2029C=\u00a03\u00a0\n\x1cD=4\x85\n",
    'A="a" "b"\nB=\'\'\nC=""\nD=\'a\'b\'\n',
    "A=$HOME\nB=${A:-x}\nC=\\$A\n",
    "export\tA=1\nexport B\nexport=3\n#A=4\n # B=5\n",
    "A=1\nA=2\n",
]
PIECES = [
    *("A", "B", "export ", "=", " = ", ": ", "'", '"', "`", "\\", "\\n", "\\'", "#", " # ", "x", "é", " ", "\t", "\n"),
    *("\r\n", "\r", "\u2028", "\u00a0", "\ufeff", "\x1c", "\x85", "\v", "$A", "1", ".", "-"),
]

# What `wrangler dev` gives to a Worker of the files of its argument, of each kind that it takes.
READ = """
import { unstable_getVarsForDev as vars } from "wrangler";
import { readFileSync, writeFileSync } from "node:fs";
const { folder, texts, expanded } = JSON.parse(readFileSync(0, "utf8"));
const found = texts.map((text) => {
  writeFileSync(`${folder}/.dev.vars`, text);
  const given = vars(`${folder}/wrangler.toml`, expanded ? [".dev.vars"] : undefined, {}, undefined, true);
  return Object.fromEntries(Object.entries(given).map(([name, { value }]) => [name, value]));
});
console.log(JSON.stringify(found));
"""


def of_wrangler(checkout, folder, texts, *, expanded=False):
    """What the real wrangler makes of files with these texts."""
    done = subprocess.run(
        ["node", "--input-type=module", "-e", READ],
        input=json.dumps({"folder": str(folder), "texts": texts, "expanded": expanded}),
        cwd=checkout.root,
        env=node.environment(node.bin_folder()),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.rstrip("\n").rpartition("\n")[2])


def test_every_file_is_read_as_wrangler_reads_it(checkout, tmp_path):
    """Written cases and generated ones, of quotes, comments, escapes and white space of all kinds."""
    chance = random.Random(14)
    generated = ["".join(chance.choices(PIECES, k=chance.randint(3, 25))) for _ in range(4_000)]
    generated += ["A=" + "".join(some) + "\nB='y'\n" for some in itertools.product(PIECES, repeat=2)]
    texts = [*CASES, *generated]
    for text, theirs in zip(texts, of_wrangler(checkout, tmp_path, texts), strict=True):
        assert parse(text) == theirs, repr(text)


VALUES = [
    "",
    "a # b",
    "it's",
    'say "x"',
    "`'",
    "$HOME",
    "${HOME:-x}",
    "a\\$b",
    "a\\",
    "it's\\n",
    "two\nlines",
    " x ",
    "\\",
]


@pytest.mark.parametrize("expanded", [False, True])
def test_what_the_commands_write_is_read_by_wrangler_as_it_was_meant(checkout, tmp_path, expanded):
    """In .dev.vars, and in a file for --env-file, where wrangler expands variables."""
    texts = [dev_vars.line("NAME", value, expanded=expanded) for value in VALUES]
    found = of_wrangler(checkout, tmp_path, texts, expanded=expanded)
    assert [one["NAME"] for one in found] == VALUES


def test_lines_are_counted_for_messages():
    """In assignments and before what is none, over values of several lines."""
    text = "# c\n\nA='1\n2'\r\nB=2\n"
    assert [(one.line, one.name) for one in assignments(text)] == [(3, "A"), (5, "B")]
    assert stray(text) is None
    assert stray(text + "nonsense\nC=3\n") == 6
    assert stray("A=1\n\n  what\n") == 3
