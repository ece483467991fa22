"""The development secret: written once, private, and refused when malformed without being shown."""

import pytest

from kontract.cli import main
from kontract.cli.toolchain import dev_vars
from kontract.cli.toolchain.problem import Problem
from kontract.server import env_file
from support.sessions import SECRET


def test_a_missing_file_is_written_private_and_with_a_fresh_secret(tmp_path):
    first, second = tmp_path / "one", tmp_path / "two"

    assert dev_vars.ensure(first)
    assert dev_vars.ensure(second)

    values = [env_file.parse(path.read_text()) for path in (first, second)]
    assert values[0]["KONTRACT_SECRET"] != values[1]["KONTRACT_SECRET"]
    for value in values:
        assert dev_vars.SECRET_FORM.fullmatch(value.pop("KONTRACT_SECRET"))
        assert value == {}
    assert first.stat().st_mode & 0o777 == 0o600


def test_a_file_that_is_there_stays_as_it_is(tmp_path):
    path = tmp_path / ".dev.vars"
    text = f'# mine\nexport KONTRACT_SECRET="{SECRET}" \nOTHER=1 # why\n'
    path.write_text(text)

    assert not dev_vars.ensure(path)
    assert path.read_text() == text
    assert env_file.parse(text) == {"KONTRACT_SECRET": SECRET, "OTHER": "1"}


@pytest.mark.parametrize("secret", ["abc", "x" * 64, "0" * 63, "0" * 65, "hunter2 is my password"])
def test_a_malformed_secret_is_refused_and_not_shown(tmp_path, secret):
    path = tmp_path / ".dev.vars"
    path.write_text(f"KONTRACT_SECRET={secret}\n")

    with pytest.raises(Problem, match="64 hexadecimal digits") as caught:
        dev_vars.ensure(path)

    assert secret not in caught.value.render()
    assert "kontract keygen" in caught.value.fix


@pytest.mark.parametrize("secret", ["0" * 64, "ab" * 32, "0123456789abcdef" * 4])
def test_a_secret_that_is_a_pattern_is_refused(tmp_path, secret):
    path = tmp_path / ".dev.vars"
    path.write_text(f"KONTRACT_SECRET={secret}\n")
    with pytest.raises(Problem, match="a guessable pattern") as caught:
        dev_vars.ensure(path)
    assert secret not in caught.value.render()


@pytest.mark.parametrize("text", ["", "OTHER=1\n", "KONTRACT_SECRET=\n", "# KONTRACT_SECRET=abc\n"])
def test_a_missing_secret_says_how_to_get_one(tmp_path, text):
    path = tmp_path / ".dev.vars"
    path.write_text(text)

    with pytest.raises(Problem, match="has no KONTRACT_SECRET"):
        dev_vars.ensure(path)


def test_keygen_prints_what_the_file_accepts(tmp_path, capsys):
    assert main.main(["keygen"]) == 0
    (tmp_path / ".dev.vars").write_text(capsys.readouterr().out)
    dev_vars.check(tmp_path / ".dev.vars")

    assert main.main(["keygen", "--bare"]) == 0
    assert dev_vars.SECRET_FORM.fullmatch(capsys.readouterr().out.strip())


@pytest.mark.parametrize(
    "value",
    [
        "",
        "plain",
        "two words",
        "a # b",
        "it's",
        'say "x"',
        "`'",
        "a=b",
        " padded ",
        "a\\",
        "it's\\n",
        "two\nlines",
        "$HOME",
    ],
)
def test_a_line_is_read_as_it_was_meant(value):
    assert env_file.parse(dev_vars.line("NAME", value)) == {"NAME": value}


@pytest.mark.parametrize("value", ["two\r\nlines", "'\"`#"])
def test_a_value_that_no_line_can_hold_is_refused(value):
    with pytest.raises(Problem, match="cannot hold"):
        dev_vars.line("NAME", value)
