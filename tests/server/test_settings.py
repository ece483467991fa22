"""What is wrong with a configuration is said in one sentence, before anything is started."""

from __future__ import annotations

import ipaddress
import secrets
import socket
import sys
from pathlib import Path

import pytest

from kontract.core.security import keys
from kontract.gateway import config
from kontract.server import settings
from kontract.server.serve import application
from kontract.server.settings import SettingsError
from support.serving import new_server
from support.sessions import SECRET

GOOD = {
    "DATABASE_URL": "postgresql://u:p4ss@db.example/app",
    "KONTRACT_SECRET": SECRET,
}


def test_defaults():
    """One process on the loopback, nothing trusted, nothing exported."""
    read = settings.read(GOOD)
    assert (read.host, read.port, read.workers, read.pool, read.prepared) == ("127.0.0.1", 8787, 1, 10, "auto")
    assert (read.trusted_proxies, read.metrics, read.drain_seconds) == ((), None, 0)
    assert read.environment == GOOD


def test_everything_that_can_be_said():
    read = settings.read(
        GOOD
        | {
            "KONTRACT_HOST": "::",
            "PORT": "80",
            "KONTRACT_POOL": "50",
            "KONTRACT_PREPARED": "OFF",
            "KONTRACT_TRUSTED_PROXIES": "10.0.0.0/8, 192.0.2.7 2001:db8::/32",
            "KONTRACT_METRICS": "9464",
            "KONTRACT_DRAIN_SECONDS": "5",
            "KONTRACT_LOG_LEVEL": "warning",
        }
    )
    assert (read.host, read.port, read.pool, read.prepared, read.drain_seconds) == ("::", 80, 50, "off", 5)
    networks = [ipaddress.ip_network(text) for text in ("10.0.0.0/8", "192.0.2.7/32", "2001:db8::/32")]
    assert list(read.trusted_proxies) == networks
    assert (read.metrics, read.log_level) == (("127.0.0.1", 9464), "warning")
    assert settings.read(GOOD | {"KONTRACT_METRICS": "[::]:9464"}).metrics == ("::", 9464)


def test_flags_win_over_the_environment_and_it_wins_over_the_file(tmp_path):
    file = tmp_path / "env"
    file.write_text(
        "# a comment\n\nexport PORT=\"1000\"\nKONTRACT_POOL = 7\nKONTRACT_OWNER='file'\nEMPTY=\n"
        "X='a=b # c'\nTWO=\"1\n2\"\n"
    )
    read = settings.read(
        settings.read_env_file(file) | GOOD | {"PORT": "2000"}, {"PORT": "3000", "KONTRACT_POOL": None}
    )
    assert (read.port, read.pool, read.environment["KONTRACT_OWNER"]) == (3000, 7, "file")
    assert (read.environment["EMPTY"], read.environment["X"], read.environment["TWO"]) == ("", "a=b # c", "1\n2")


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"DATABASE_URL": ""}, "DATABASE_URL is not set"),
        ({"DATABASE_URL": "mysql://u:p4ss@h/d"}, "DATABASE_URL does not start with postgresql://"),
        ({"DATABASE_URL": "postgresql://u:p4ss@h:port/d"}, "a port that is not a number"),
        ({"KONTRACT_SECRET": ""}, "KONTRACT_SECRET is not set"),
        ({"KONTRACT_SECRET": "hunter2"}, "KONTRACT_SECRET must be 64 hexadecimal digits"),
        ({"KONTRACT_OWNER": "_x"}, "KONTRACT_OWNER must name the tenant"),
        ({"KONTRACT_SIGN_UP": "everybody"}, "KONTRACT_SIGN_UP takes"),
        ({"KONTRACT_CORS_ORIGINS": "*"}, "KONTRACT_CORS_ORIGINS has '*'"),
        ({"KONTRACT_HOST": "example.com"}, "--host (KONTRACT_HOST) cannot be 'example.com'"),
        ({"PORT": "http"}, "PORT cannot be 'http'"),
        ({"PORT": "0"}, "PORT cannot be '0'"),
        ({"PORT": "65536"}, "PORT cannot be '65536'"),
        ({"PORT": "٣"}, "PORT cannot be"),
        ({"KONTRACT_WORKERS": "0"}, "KONTRACT_WORKERS cannot be '0'"),
        (
            {"KONTRACT_COORDINATION": "memory", "KONTRACT_WORKERS": "2"},
            "KONTRACT_COORDINATION=memory is for one process",
        ),
        ({"KONTRACT_COORDINATION": "tikv"}, "KONTRACT_COORDINATION=tikv needs TIKV_PD_ENDPOINT"),
        ({"KONTRACT_POOL": "many"}, "KONTRACT_POOL cannot be 'many'"),
        ({"KONTRACT_PREPARED": "yes"}, "KONTRACT_PREPARED cannot be 'yes'"),
        ({"KONTRACT_COORDINATION": "zookeeper"}, "KONTRACT_COORDINATION cannot be 'zookeeper'"),
        ({"KONTRACT_TRUSTED_PROXIES": "10.0.0.0/8, all"}, "KONTRACT_TRUSTED_PROXIES has 'all'"),
        ({"KONTRACT_METRICS": "on"}, "KONTRACT_METRICS cannot be 'on'"),
        ({"KONTRACT_METRICS": "localhost:9464"}, "KONTRACT_METRICS cannot be 'localhost:9464'"),
        ({"KONTRACT_DRAIN_SECONDS": "-1"}, "KONTRACT_DRAIN_SECONDS cannot be '-1'"),
        ({"KONTRACT_LOG_LEVEL": "all"}, "KONTRACT_LOG_LEVEL cannot be 'all'"),
    ],
)
def test_each_mistake_is_named(wrong, says):
    """With the variable and what to do, and without a secret."""
    with pytest.raises(SettingsError) as caught:
        settings.read(GOOD | wrong)
    text = str(caught.value)
    assert says in text
    assert "\n" not in text
    assert "p4ss" not in text
    assert "hunter2" not in text


@pytest.mark.parametrize("line", ["PORT", "=1", "1PORT=2", "P-ORT=1", "PORT: 1", "PORT=1#2", "PORT=1 # why"])
def test_a_line_of_the_file_that_is_none_is_named(tmp_path, line):
    file = tmp_path / "env"
    file.write_text(f"A=1\n{line}\n")
    with pytest.raises(SettingsError, match="line 2 of the env file"):
        settings.read_env_file(file)
    with pytest.raises(SettingsError, match="cannot be read: No such file"):
        settings.read_env_file(tmp_path / "none")


def ends_with(server) -> str:
    """Start a server that cannot start; return what it said, which must be one line."""
    server.lines.clear()
    server.spawn()
    assert server.wait() == 2
    [line] = server.lines
    assert line.startswith("kontract serve: ")
    return line


def test_a_start_that_cannot_succeed_says_why(checkout, postgres, reaper, tmp_path):
    """Exit code 2 and one sentence on standard error: no tables, no such database, no URL, the port taken."""
    server = new_server(checkout, postgres.create_database(empty=True), tmp_path / "b", reaper)
    assert "run: kontract migrate" in ends_with(server)
    server.database_url = postgres.server_url.replace("/postgres", "/none-such")
    assert "SQLSTATE 3D000" in ends_with(server)
    server.database_url = ""
    assert "DATABASE_URL is not set" in ends_with(server)
    server.database_url = postgres.url
    with socket.create_server(("127.0.0.1", server.port)):
        assert f"127.0.0.1:{server.port} (" in ends_with(server)


def test_an_application_that_was_not_compiled_is_said(tmp_path, monkeypatch):
    """And what to do about it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if not (Path(path) / "routes.py").exists()])
    monkeypatch.delitem(sys.modules, "routes", raising=False)
    with pytest.raises(SettingsError, match="run: kontract build"):
        application()


@pytest.mark.parametrize(
    "networks",
    ["0.0.0.0/0", "::/0", "10.0.0.0/8, 0.0.0.0/0", "0.0.0.0/1,128.0.0.0/1", "2000::/3", "64.0.0.0/2", "2000::/8"],
)
def test_proxies_that_are_nearly_everybody_are_refused(networks):
    """Whoever is in it could claim any address, and so have any number of logins."""
    with pytest.raises(SettingsError, match="far more than your proxies"):
        settings.read(GOOD | {"KONTRACT_TRUSTED_PROXIES": networks})


@pytest.mark.parametrize(
    "networks", ["10.0.0.0/8", "173.245.48.0/20", "2400:cb00::/32", "fc00::/7", "fd00::/8", "fe80::/10"]
)
def test_networks_that_proxies_have_are_taken(networks):
    assert len(settings.read(GOOD | {"KONTRACT_TRUSTED_PROXIES": networks}).trusted_proxies) == 1


@pytest.mark.parametrize(
    "public",
    [
        {"KONTRACT_HOST": "0.0.0.0"},
        {"KONTRACT_HOST": "::"},
        {"KONTRACT_HOST": "192.0.2.1"},
        {"KONTRACT_TRUSTED_PROXIES": "10.0.0.0/8"},
    ],
)
def test_errors_are_shown_on_this_machine_alone(public):
    """Not where others can call; on the loopback without a proxy they may be."""
    with pytest.raises(SettingsError, match="remove KONTRACT_SHOW_ERRORS"):
        settings.read(GOOD | {"KONTRACT_SHOW_ERRORS": "1"} | public)
    settings.read(GOOD | {"KONTRACT_SHOW_ERRORS": "0"} | public)
    for host in ("127.0.0.1", "::1", "127.9.9.9"):
        settings.read(GOOD | {"KONTRACT_SHOW_ERRORS": "1", "KONTRACT_HOST": host})


@pytest.mark.parametrize("value", ["true", "yes", "2", "on"])
def test_what_shows_no_errors_is_not_taken_for_it(value):
    """A word that would do nothing is a mistake, not a setting."""
    with pytest.raises(SettingsError, match="KONTRACT_SHOW_ERRORS"):
        settings.read(GOOD | {"KONTRACT_SHOW_ERRORS": value})


@pytest.mark.parametrize(
    "secret",
    [
        "0" * 64, "ff" * 32, "ab" * 32, "0123456789abcdef" * 4, "00112233445566778899aabbccddeeff" * 2,
        bytes(range(32)).hex(), bytes(range(0, 64, 2)).hex(), bytes(range(32, 0, -1)).hex(),
        b"password-password-password-passw".hex(), (b"x" * 20 + b"abcdefghijkl").hex(),
    ],
)  # fmt: skip
@pytest.mark.parametrize("name", ["KONTRACT_SECRET", "KONTRACT_SECRET_PREVIOUS"])
def test_a_secret_that_is_a_pattern_is_refused(name, secret):
    """Whoever guesses it makes tokens for every tenant."""
    with pytest.raises(SettingsError, match=f"^{name} is a guessable pattern") as caught:
        settings.read(GOOD | {name: secret})
    assert secret not in str(caught.value)


def test_secrets_of_chance_are_taken():
    for _ in range(2_000):
        assert not keys.is_guessable(secrets.token_bytes(32))


@pytest.mark.parametrize("previous", [SECRET, SECRET.upper()])
def test_the_secret_before_is_another_one(previous):
    """The same again looks like a rotation, and is none."""
    with pytest.raises(SettingsError, match="is the same as KONTRACT_SECRET"):
        settings.read(GOOD | {"KONTRACT_SECRET_PREVIOUS": previous})


def test_what_functions_find_in_their_environment():
    """Nothing of the gateway, its database and its tools, and no copy of a secret under another name."""
    other = "9" + SECRET[1:]
    given = GOOD | {
        "KONTRACT_SECRET_PREVIOUS": other,
        "KONTRACT_OWNER": "tenant-1",
        "TIKV_KEY": "/etc/tikv.pem",
        "TIKV_PD_ENDPOINT": "pd:2379",
        "PGPASSWORD": "p4ss",
        "CLOUDFLARE_API_TOKEN": "t",
        "CLOUDFLARE_HYPERDRIVE_LOCAL_CONNECTION_STRING_HYPERDRIVE": "postgresql://u:p@h/d",
        "WRANGLER_LOG": "debug",
        "POSTGRES_URL": GOOD["DATABASE_URL"],
        "COPY": f"secret={SECRET}",
        "COPY_OF_THE_OLD": other,
        "MAIL_KEY": "m-1",
        "PAGE_SIZE": "20",
        "DATABASE_URL_OF_THE_SHOP": "postgresql://shop@elsewhere/shop",
        "EMPTY": "",
    }
    seen = config.read(settings.read(given).environment).application
    own = ("MAIL_KEY", "PAGE_SIZE", "DATABASE_URL_OF_THE_SHOP", "EMPTY")
    assert dict(seen) == {name: given[name] for name in own}
    with pytest.raises(TypeError):
        seen["MAIL_KEY"] = "changed"
