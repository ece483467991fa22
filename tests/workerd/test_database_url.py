"""A Worker without Hyperdrive reads DATABASE_URL as everybody does, and encrypts what the URL asks to encrypt."""

import pytest

from support.tls_front import tls_front

UNTRUSTED = "TLS to the database failed: its certificate is not signed by a public authority"


@pytest.fixture
def connected(laboratory):
    """What became of a connection to a URL, made in workerd."""
    return lambda url: laboratory.run("support.in_workerd", "connected", url)


@pytest.mark.parametrize("query", ["", "?sslmode=disable", "?sslmode=allow", "?sslmode=prefer"])
def test_a_server_without_tls_is_used_where_the_url_lets_it(connected, postgres, query):
    assert connected(postgres.server_url + query) == "connected"


@pytest.mark.parametrize("mode", ["require", "verify-full"])
def test_a_server_without_tls_is_refused_where_the_url_insists(connected, postgres, mode):
    assert connected(f"{postgres.server_url}?sslmode={mode}") == "The server does not support SSL connections"


def test_the_platform_verifies_whatever_it_encrypts(connected, postgres, tmp_path):
    """Nobody vouches for this certificate: `prefer` goes on without TLS, as in libpq; others do not."""
    with tls_front(postgres.cluster.port, tmp_path) as front:
        url = postgres.server_url.replace(f"127.0.0.1:{postgres.cluster.port}", f"localhost:{front.port}")
        assert connected(f"{url}?sslmode=require").startswith(UNTRUSTED)
        assert front.encrypted == []
        assert connected(url) == "connected"
        assert front.encrypted == [False]


@pytest.mark.parametrize("mode", ["prefer", "require", "verify-ca", "verify-full"])
def test_a_certificate_that_is_trusted_is_used(connected, postgres, trusted, mode):
    """The way of a preview, which has no Hyperdrive: the login and all that follows are encrypted."""
    with tls_front(postgres.cluster.port, trusted) as front:
        url = postgres.server_url.replace(f"127.0.0.1:{postgres.cluster.port}", f"localhost:{front.port}")
        assert connected(f"{url}?sslmode={mode}") == "connected"
        assert front.encrypted == [True]


@pytest.mark.parametrize("mode", ["require", "verify-full"])
def test_a_certificate_for_another_host_is_refused(connected, postgres, trusted, mode):
    """It is for `localhost`, and so for nobody who can answer under 127.0.0.1."""
    with tls_front(postgres.cluster.port, trusted) as front:
        url = postgres.server_url.replace(f":{postgres.cluster.port}", f":{front.port}")
        assert connected(f"{url}?sslmode={mode}").startswith(UNTRUSTED)
        assert front.encrypted == []


def test_what_cannot_be_followed_is_said(connected, postgres):
    assert "ALTER ROLE" in connected(postgres.server_url + "?options=-csearch_path%3Dx")
    assert "reads no files" in connected(postgres.server_url + "?sslrootcert=/etc/ca.pem")
    assert "sesame" not in connected("postgresql://u:sesame/x@h/n")
