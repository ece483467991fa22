"""A database URL means what libpq means, for every driver, or it is refused without showing any part of it."""

import asyncpg.connect_utils
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kontract.core.database_url import SSL_MODES, DatabaseUrlError, read
from support import libpq

# As providers and tools hand them out (names and passwords are made up).
HANDED_OUT = {
    "Neon": "postgresql://alex:AbC123dEf@ep-cool-darkness-123456.us-east-2.aws.neon.tech/dbname"
    "?sslmode=require&channel_binding=require",
    "Neon for old clients": "postgres://alex:AbC123dEf@ep-cool-123456.us-east-2.aws.neon.tech/dbname"
    "?options=endpoint%3Dep-cool-123456&sslmode=require",
    "Supabase, direct": "postgresql://postgres:pass@db.abcdefghijkl.supabase.co:5432/postgres",
    "Supabase, pooler": "postgres://postgres.abcdefghijkl:pass@aws-0-eu-central-1.pooler.supabase.com:6543/postgres"
    "?pgbouncer=true&connection_limit=1",
    "Prisma": "postgresql://janedoe:pass@localhost:5432/mydb?schema=public&connection_limit=5&pool_timeout=10",
    "PlanetScale": "postgresql://u.x:pscale_pw_abc@host.pg.psdb.cloud:6432/postgres"
    "?sslmode=verify-full&sslrootcert=system",
    "Render": "postgresql://u:p@dpg-abc-a.frankfurt-postgres.render.com/db?ssl=true",
    "Crunchy Bridge": "postgres://application:p@p.abc.db.postgresbridge.com:5432/postgres?sslmode=prefer",
    "keepalives": "postgresql://u:p@h/n?keepalives=1&keepalives_idle=30&keepalives_interval=10&keepalives_count=5",
    "timeouts": "postgresql://u:p@h/n?connect_timeout=10&gssencmode=disable&tcp_user_timeout=5000",
    "IPv6": "postgresql://u:p@[2001:db8::1]:5433/n",
    "no password": "postgresql://u@127.0.0.1/n",
    "a colon in the password": "postgresql://u:a:b@h/n",
    "a question mark in the password": "postgresql://u:a?b@h/n",
    "a hash in the password": "postgresql://u:a#b@h/n",
    "encoded": "postgresql://us%40er:a%2Fb%3Fc%23d%25@h/na%20me",
    "parts as parameters": "postgresql:///?host=h&port=5433&user=u&password=p&dbname=n",
    "a socket": "postgresql://u@/n?host=/var/run/postgresql",
    "a socket, encoded": "postgresql://u@%2Fvar%2Frun%2Fpostgresql/n",
    "several hosts": "postgresql://u:p@a:1,b,[::1]:3/n?target_session_attrs=read-write",
    "several hosts, one port": "postgresql://u:p@/n?host=a,b&port=6432",
    "the last one counts": "postgresql://u:p@h/n?sslmode=disable&sslmode=require",
}


def as_libpq(url):
    """A URL as read here, in the words of libpq."""
    found = read(url)
    return {
        "user": found.user,
        "host": ",".join(host for host, _ in found.hosts),
        "dbname": found.database,
        **({} if found.password is None else {"password": found.password}),
    }


# What libpq does not know: other tools' parameters, which have no effect.
FOREIGN = ("pgbouncer", "connection_limit", "pool_timeout", "schema")


def for_libpq(url):
    base, mark, query = url.partition("?") if "@" not in url.partition("?")[2] else (url, "", "")
    return base + mark + "&".join(one for one in query.split("&") if one.partition("=")[0] not in FOREIGN)


@pytest.mark.parametrize("url", HANDED_OUT.values(), ids=HANDED_OUT)
def test_urls_as_they_are_handed_out_mean_what_libpq_means(url):
    asked = libpq.parse(for_libpq(url))
    assert asked is not None

    assert as_libpq(url) == {name: asked[name] for name in ("user", "host", "dbname", "password") if name in asked}
    ports = [int(port or 5432) for port in asked.get("port", "").split(",")]
    hosts = read(url).hosts
    assert [port for _, port in hosts] == (ports if len(ports) == len(hosts) else ports * len(hosts))


PARTS = st.text(st.characters(codec="utf-8", exclude_characters="\x00", exclude_categories=("Cs",)), min_size=1)
HOSTS = st.from_regex(r"[a-z][a-z0-9.-]{0,20}", fullmatch=True)


@given(PARTS, PARTS, PARTS, HOSTS, st.integers(1, 65535), st.sampled_from(SSL_MODES))
def test_the_canonical_form_is_the_same_to_everybody(user, password, database, host, port, mode):
    """What is read is written so that libpq and asyncpg read the very same."""
    from urllib.parse import quote

    given_url = (
        f"postgresql://{quote(user, safe='')}:{quote(password, safe='')}@{host}:{port}/{quote(database, safe='')}"
    )
    url = read(f"{given_url}?sslmode={mode}&keepalives=1&pgbouncer=true")
    assert (url.user, url.password, url.database, url.hosts) == (user, password, database, ((host, port),))

    asked = libpq.parse(url.canonical)
    assert (asked["user"], asked["password"]) == (user, password)
    assert (asked["host"], asked["port"], asked["dbname"], asked["sslmode"]) == (host, str(port), database, mode)
    assert read(url.canonical) == url
    assert read(url.for_hyperdrive).password == password
    if mode in ("disable", "prefer"):
        addresses, params = asyncpg_reads(url.canonical)
        assert addresses == [(host, port)]
        assert (params.user, params.password, params.database) == (user, password, database)
        assert not params.server_settings


def asyncpg_reads(url):
    return asyncpg.connect_utils._parse_connect_dsn_and_args(
        dsn=url, host=None, port=None, user=None, password=None, passfile=None, database=None, ssl=None,
        service=None, servicefile=None, direct_tls=None, server_settings=None, target_session_attrs=None,
        krbsrvname=None, gsslib=None,
    )  # fmt: skip


@given(st.text(st.sampled_from("ab:/@?#[]%,&=.1 "), max_size=25))
def test_what_is_read_is_never_something_else_than_libpq_reads(tail):
    """Odd characters in odd places: refused, or understood as libpq does."""
    url = f"postgresql://{tail}"
    try:
        found = as_libpq(url)
    except DatabaseUrlError:
        return
    asked = libpq.parse(url.strip())
    assert asked is not None
    assert found == {name: asked.get(name, "") for name in found}


REFUSED = {
    "another scheme": ("mysql://u:sesame@h/n", "does not start with postgresql://"),
    "libpq's other form": ("host=localhost password=sesame", "does not start with postgresql://"),
    "a slash in the password": ("postgresql://u:sesame/mustard@h/n", "percent-encoded"),
    "a slash and digits": ("postgresql://u:12/sesame@h/n", "percent-encoded"),
    "an at sign in the password": ("postgresql://u:sesame@mustard@h/n", "percent-encoded"),
    "both": ("postgresql://u:p@sesame/mustard@h/n", "percent-encoded"),
    "a question mark after an at sign": ("postgresql://u:p@sesame?mustard@h/n", "percent-encoded"),
    "a percent sign": ("postgresql://u:sesame%mustard@h/n", "does not begin a percent-encoding"),
    "a space": ("postgresql://u:sesame mustard@h/n", "space"),
    "a zero": ("postgresql://u:sesame%00@h/n", "does not begin a percent-encoding"),
    "not UTF-8": ("postgresql://u:sesame%ff@h/n", "not UTF-8"),
    "no host": ("postgresql://u:sesame@/n", "lacks a host"),
    "no user": ("postgresql://h/n", "lacks a user"),
    "or a database": ("postgresql://u:sesame@h", "or a database"),
    "a port in words": ("postgresql://u:sesame@h:mustard/n", "a port that is not a number"),
    "port 0": ("postgresql://u:sesame@h:0/n", "a port that is not a number"),
    "two ports for three hosts": ("postgresql://u:sesame@/n?host=a,b,c&port=1,2", "a port for each host"),
    "a host that is none": ("postgresql://u:p@sesame!mustard/n", "an invalid host"),
    "an unknown parameter": ("postgresql://u:p@h/n?sesame=mustard", "number 1 after"),
    "a parameter without a value": ("postgresql://u:p@h/n?sslmode=disable&sesame", "number 2 after"),
    "options": ("postgresql://u:p@h/n?options=-csearch_path%3Dsesame", "ALTER ROLE"),
    "search_path": ("postgresql://u:p@h/n?search_path=sesame", "ALTER ROLE"),
    "Prisma's schema": ("postgresql://u:p@h/n?schema=sesame", "schema"),
    "statement_timeout": ("postgresql://u:p@h/n?statement_timeout=1", "ALTER ROLE"),
    "service": ("postgresql://u:p@h/n?service=sesame", "service"),
    "passfile": ("postgresql://u:p@h/n?passfile=sesame", "passfile"),
    "hostaddr": ("postgresql://u:p@h/n?hostaddr=127.0.0.1", "hostaddr"),
    "GSS alone": ("postgresql://u:p@h/n?gssencmode=require", "gssencmode"),
    "an unknown sslmode": ("postgresql://u:p@h/n?sslmode=sesame", "verify-full"),
    "system roots with a weak mode": ("postgresql://u:p@h/n?sslmode=require&sslrootcert=system", "weaker sslmode"),
    "binding without TLS": ("postgresql://u:p@h/n?sslmode=disable&channel_binding=require", "turns TLS off"),
    "an unknown target": ("postgresql://u:p@h/n?target_session_attrs=sesame", "read-write"),
    "a time in words": ("postgresql://u:p@h/n?connect_timeout=sesame", "in seconds"),
}


@pytest.mark.parametrize(("url", "says"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_followed_is_refused_without_showing_it(url, says):
    with pytest.raises(DatabaseUrlError, match=says) as caught:
        read(url)

    assert "sesame" not in str(caught.value)
    assert "mustard" not in str(caught.value)
    assert caught.value.__cause__ is None, "a traceback would show it"


def test_channel_binding_becomes_a_verified_certificate():
    """The drivers have no channel binding; what it is for is that nobody stands in between."""
    url = read(HANDED_OUT["Neon"])

    assert (url.sslmode, url.parameters["sslrootcert"]) == ("verify-full", "system")


@pytest.mark.parametrize(
    "query",
    [
        "ssl=true",
        "ssl=true&sslmode=verify-full",
        "sslmode=verify-full&ssl=true",
        "sslmode=disable&ssl=true",
        "ssl=true&sslmode=disable",
        "sslmode=require&sslmode=verify-ca",
        *(f"ssl={value}" for value in ("1", "on", "require", "verify-full", "no-verify", "false", "True", "")),
    ],
)
def test_no_spelling_asks_for_less_tls_than_libpq_takes_it_for(query):
    """`ssl=true&sslmode=verify-full` verifies, and `ssl=require` (other drivers') does not go on without encryption."""
    url = f"postgresql://u:p@h/n?{query}"
    asked = libpq.parse(url)
    if asked is None:
        with pytest.raises(DatabaseUrlError, match="unsupported value of ssl"):
            read(url)
    else:
        assert read(url).sslmode == asked["sslmode"]


def test_system_roots_mean_the_full_check():
    assert read("postgresql://u:p@h/n?sslrootcert=system").sslmode == "verify-full"


def test_tls_is_preferred_where_the_url_does_not_say():
    assert read("postgresql://u:p@h/n").sslmode == "prefer"
    assert "sslmode=prefer" in read("postgresql://u:p@h/n").for_hyperdrive
    assert "sslmode" not in read("postgresql://u:p@h/n").canonical, "PGSSLMODE counts on CPython, as for psql"


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ("", ""),
        ("?sslrootcert=/etc/ca.pem&sslmode=verify-full", "reads no files"),
        ("?sslcert=/etc/me.pem", "sslcert"),
        ("?target_session_attrs=read-write", "target_session_attrs"),
        ("?target_session_attrs=any", ""),
    ],
)
def test_a_worker_says_what_it_cannot_follow(query, says):
    url = read(f"postgresql://u:p@h/n{query}")
    if not says:
        assert url.only_host("a Worker") == ("h", 5432)
        return
    with pytest.raises(DatabaseUrlError, match=says):
        url.only_host("a Worker")


def test_hyperdrive_takes_one_host():
    with pytest.raises(DatabaseUrlError, match="several hosts"):
        _ = read("postgresql://u:p@a,b/n").for_hyperdrive
    with pytest.raises(DatabaseUrlError, match="Unix socket"):
        _ = read("postgresql://u:p@/n?host=/tmp").for_hyperdrive


@pytest.mark.parametrize(("seconds", "found"), [("10", 10.0), ("0", None), ("-1", None), (None, None)])
def test_how_long_connecting_may_take(seconds, found):
    query = "" if seconds is None else f"?connect_timeout={seconds}"
    assert read(f"postgresql://u:p@h/n{query}").connect_seconds == found
