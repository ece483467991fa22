"""Parses DATABASE_URL, libpq's connection URI, for every command and both runtimes.

Drivers parse such URLs differently: where a password ends, which parameters exist, whether TLS is used. So only this
module parses them. The meaning is libpq's (PostgreSQL documentation, "Connection URIs" and "Parameter Key
Words"; a test asks libpq itself). What a driver gets is :attr:`DatabaseUrl.canonical`, in which every special character
is percent-encoded and every parameter is one that counts.

Three things differ from libpq, each for safety: user, host and database must be named; a special character that libpq
would take for the end of a part is refused, because a mistyped password would become part of a host name; and
``channel_binding=require``, which
the drivers here lack, requires a verified certificate instead.

No message contains any part of the URL.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from urllib.parse import quote, unquote_to_bytes, urlencode

from msgspec import Struct

SSL_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
"""libpq's levels of TLS, the weakest first. Without one in the URL libpq uses ``prefer``."""

EXAMPLE = "postgresql://user:password@host:5432/name"

_FOLLOWED = frozenset(
    {
        "application_name",
        "connect_timeout",
        "ssl_max_protocol_version",
        "ssl_min_protocol_version",
        "sslcert",
        "sslcrl",
        "sslkey",
        "sslmode",
        "sslnegotiation",
        "sslpassword",
        "sslrootcert",
        "target_session_attrs",
    }
)

_PLACES = frozenset({"host", "port", "user", "password", "dbname"})
"""Parts of the address that may also be written as parameters."""

# Accepted without an effect. A value in the tuple is the only kind that has none; an empty tuple accepts any.
_WITHOUT_EFFECT: Mapping[str, tuple[str, ...]] = {
    "channel_binding": ("disable", "prefer", "require"),  # `require` is handled separately
    "client_encoding": ("auto", "utf8", "UTF8", "UTF-8", "utf-8"),
    "fallback_application_name": (),
    "gssencmode": ("disable", "prefer"),
    "gssdelegation": ("0",),
    "gsslib": (),
    "krbsrvname": (),
    "load_balance_hosts": ("disable",),
    "sslcertmode": ("allow", "disable"),
    "sslcompression": ("0",),
    "sslsni": ("1",),
    # How a silent connection is noticed: the system's business, and out of reach in a Worker.
    "keepalives": (),
    "keepalives_count": (),
    "keepalives_idle": (),
    "keepalives_interval": (),
    "tcp_user_timeout": (),
    # Not PostgreSQL's: settings of Prisma's and other pools, in the URLs that providers hand out.
    "connection_limit": (),
    "pgbouncer": (),
    "pool_timeout": (),
    "schema": ("public",),
    "socket_timeout": (),
    "statement_cache_size": (),
    "uselibpqcompat": (),
}

_ROLE_SETTING = "Set it for the role instead: ALTER ROLE name IN DATABASE name SET ..."

_REFUSED: Mapping[str, str] = {
    "hostaddr": "Write the address instead of the host.",
    "options": _ROLE_SETTING,
    "passfile": "Write the password into the URL; without one ~/.pgpass is read.",
    "replication": "Connections for replication cannot run statements.",
    "require_auth": "Let pg_hba.conf on the server choose the method.",
    "requirepeer": "It is only for Unix sockets.",
    "schema": f"Tables are found by the role's search_path. {_ROLE_SETTING}",
    "search_path": _ROLE_SETTING,
    "service": "Write host, user and database into the URL.",
    "statement_timeout": _ROLE_SETTING,
}

_HOST = re.compile(r"[A-Za-z0-9._-]+|[0-9A-Fa-f:.]+(%[A-Za-z0-9._-]+)?|/.*")
_DEFAULT_PORT = 5432


class DatabaseUrlError(ValueError):
    """A URL that cannot be used. ``what`` and ``fix`` are sentences without any part of the URL."""

    def __init__(self, what: str, fix: str) -> None:
        """``what``: what is wrong; ``fix``: what to do."""
        super().__init__(f"{what} {fix}")
        self.what = what
        self.fix = fix


class DatabaseUrl(Struct, frozen=True):
    """Where a database is and how to connect to it.

    ``hosts``: host names, addresses or folders of Unix sockets, each with its port, tried in order. ``password``: None
    if the URL has none. ``parameters``: the other parameters that libpq follows, by its key words; ``sslmode`` is among
    them only if the URL has one or needs one.
    """

    user: str
    password: str | None
    hosts: tuple[tuple[str, int], ...]
    database: str
    parameters: Mapping[str, str]

    @property
    def sslmode(self) -> str:
        """The level of TLS, one of :data:`SSL_MODES`."""
        return self.parameters.get("sslmode", "prefer")

    @property
    def connect_seconds(self) -> float | None:
        """How long connecting may take, in seconds (libpq's ``connect_timeout``); None if the URL does not say."""
        seconds = int(self.parameters.get("connect_timeout", "0"))
        return float(seconds) if seconds > 0 else None

    @property
    def canonical(self) -> str:
        """The URL in the form that every driver parses alike, without ``connect_timeout`` and ``application_name``."""
        own = ("connect_timeout", "application_name")
        return self._text({name: value for name, value in self.parameters.items() if name not in own})

    @property
    def for_hyperdrive(self) -> str:
        """The URL for Hyperdrive, which takes one host and no parameter but the level of TLS.

        Raises DatabaseUrlError for several hosts, Unix sockets and your own certificates.
        """
        self.only_host("Hyperdrive")
        mode = "prefer" if self.sslmode == "allow" else self.sslmode
        return self._text({"sslmode": mode})

    def only_host(self, who: str) -> tuple[str, int]:
        """Return the one host and port; raises DatabaseUrlError if ``who`` does not support the URL."""
        if len(self.hosts) > 1:
            raise DatabaseUrlError(
                f"DATABASE_URL names several hosts, but {who} connects to only one.",
                "Name one host: the primary, or a proxy that finds it.",
            )
        [(host, port)] = self.hosts
        if host.startswith("/"):
            raise DatabaseUrlError(
                f"DATABASE_URL points to a Unix socket, but {who} reaches databases only by TCP.",
                f"Name a host and a port ({EXAMPLE}), and let PostgreSQL listen there (listen_addresses).",
            )
        for name in ("sslcert", "sslkey", "sslcrl", "target_session_attrs"):
            if self.parameters.get(name, "any") != "any":
                raise DatabaseUrlError(
                    f"DATABASE_URL has the parameter {name}, which {who} does not support.", "Leave it out."
                )
        if self.parameters.get("sslrootcert", "system") != "system":
            raise DatabaseUrlError(
                f"DATABASE_URL names a file in sslrootcert, but {who} reads no files.",
                "Remove it, or use a certificate from a public authority.",
            )
        return host, port

    def _text(self, parameters: Mapping[str, str]) -> str:
        password = "" if self.password is None else f":{quote(self.password, safe='')}"
        login = f"{quote(self.user, safe='')}{password}"
        query = dict(parameters)
        if any(host.startswith("/") for host, _ in self.hosts):  # a folder can only be in a parameter
            query["host"] = ",".join(host for host, _ in self.hosts)
            query["port"] = ",".join(str(port) for _, port in self.hosts)
            where = ""
        else:
            where = ",".join(f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in self.hosts)
        tail = f"?{urlencode(query, quote_via=quote)}" if query else ""
        return f"postgresql://{login}@{where}/{quote(self.database, safe='')}{tail}"


@lru_cache(maxsize=32)
def read(text: str) -> DatabaseUrl:
    """Parse a URL; raises DatabaseUrlError, also for what libpq accepts but a driver here does not support."""
    text = text.strip()
    scheme, separator, rest = text.partition("://")
    if not separator or scheme not in ("postgresql", "postgres"):
        raise DatabaseUrlError("DATABASE_URL does not start with postgresql://.", f"It has the form {EXAMPLE}.")
    if re.search(r"[\x00-\x20\x7f]", rest):
        raise DatabaseUrlError("DATABASE_URL has a space or a control character.", _encode("Write a space as %20"))
    login, rest = _login(rest)
    # From here on nothing belongs to the user or the password, unless a character in them was not encoded.
    address, _, query = rest.partition("?")
    where, _, database = address.partition("/")
    if "@" in address or "/" in database:
        raise DatabaseUrlError(
            "DATABASE_URL has a special character that is not percent-encoded.", _encode("Write @ as %40 and / as %2F")
        )
    parameters = _parameters(query)
    places = {name: parameters.pop(name) for name in _PLACES if name in parameters}
    login |= {name: places[name] for name in ("user", "password") if name in places}
    found = DatabaseUrl(
        user=login.get("user", ""),
        password=login.get("password") or None,
        hosts=_hosts(where, places),
        database=places.get("dbname", _decode(database)),
        parameters=_checked(parameters),
    )
    if not found.user or not found.database:
        raise DatabaseUrlError("DATABASE_URL lacks a user or a database.", f"It has the form {EXAMPLE}.")
    return found


def _login(rest: str) -> tuple[dict[str, str], str]:
    """Split user and password off: they end at the first ``@``, if that comes before the first slash."""
    end = re.search(r"[@/]", rest)
    if end is None or end[0] == "/":
        return {}, rest
    user, colon, password = rest[: end.start()].partition(":")
    login = {"user": _decode(user)} | ({"password": _decode(password)} if colon else {})
    return login, rest[end.end() :]


def _hosts(where: str, places: Mapping[str, str]) -> tuple[tuple[str, int], ...]:
    names: list[str] = []
    ports: list[str] = []
    for one in where.split(",") if where else []:
        host, port = re.fullmatch(r"(\[[^\]]*\]|[^:]*)(?::(.*))?", one, re.DOTALL).groups()  # type: ignore[union-attr]
        names.append(_decode(host.strip("[]")))
        ports.append(_decode(port or ""))
    if "host" in places:
        names = places["host"].split(",")
        ports = ports if len(ports) == len(names) else [""] * len(names)
    if "port" in places:
        given = places["port"].split(",")
        ports = given * len(names) if len(given) == 1 else given
    if not names or not all(names):
        raise DatabaseUrlError("DATABASE_URL lacks a host.", f"It has the form {EXAMPLE}.")
    if len(names) != len(ports) or not all(_HOST.fullmatch(name) for name in names):
        raise DatabaseUrlError(
            "DATABASE_URL has an invalid host, or not a port for each host.",
            _encode(f"It has the form {EXAMPLE}"),
        )
    return tuple((name, _port(port)) for name, port in zip(names, ports, strict=True))


def _port(text: str) -> int:
    if not text:
        return _DEFAULT_PORT
    if not re.fullmatch(r"[0-9]{1,5}", text) or not 1 <= int(text) <= 65_535:
        raise DatabaseUrlError(
            "DATABASE_URL has a port that is not a number from 1 to 65535.", _encode(f"It has the form {EXAMPLE}")
        )
    return int(text)


def _parameters(query: str) -> dict[str, str]:
    """Return the parameters by name; the last one of a name counts."""
    found: dict[str, str] = {}
    for number, one in enumerate(query.split("&") if query else [], 1):
        name, equals, value = one.partition("=")
        name = _decode(name)
        known = name in _FOLLOWED or name in _PLACES or name in _WITHOUT_EFFECT or name in _REFUSED or name == "ssl"
        if not equals or "=" in value or not known:
            # It may be the rest of a password, so it is not shown.
            raise DatabaseUrlError(
                f"DATABASE_URL has a parameter that PostgreSQL does not know (number {number} after the `?`).",
                _encode("Remove it, or correct its spelling"),
            )
        if name == "ssl":
            if _decode(value) != "true":
                raise DatabaseUrlError("DATABASE_URL has an unsupported value of ssl.", "Write sslmode=...")
            name, value = "sslmode", "require"  # JDBC's, in whose place libpq takes this one
        found[name] = _decode(value)
    return found


def _checked(parameters: dict[str, str]) -> dict[str, str]:
    """Refuse what is not supported everywhere, and remove what has no effect."""
    for name in sorted(parameters):
        value = parameters[name]
        if name == "options" and value.startswith("endpoint="):
            continue  # Neon's, for clients that name no host when TLS begins; all drivers here do
        harmless = _WITHOUT_EFFECT.get(name)
        if harmless is not None and (not harmless or value in harmless):
            continue
        if name in _REFUSED:
            raise DatabaseUrlError(f"DATABASE_URL has the parameter {name}, which is not supported.", _REFUSED[name])
        if harmless is not None:
            raise DatabaseUrlError(
                f"DATABASE_URL has an unsupported value of {name}.",
                f"Remove it, or use {' or '.join(dict.fromkeys(harmless))}.",
            )
    followed = {name: value for name, value in parameters.items() if name in _FOLLOWED and value}
    _check_tls(followed, binding=parameters.get("channel_binding") == "require")
    if not re.fullmatch(r"-?[0-9]{1,9}", followed.get("connect_timeout", "0")):
        raise DatabaseUrlError("DATABASE_URL has a connect_timeout that is not a number.", "It is in seconds.")
    attributes = ("any", "read-write", "read-only", "primary", "standby", "prefer-standby")
    if followed.get("target_session_attrs", "any") not in attributes:
        raise DatabaseUrlError(
            "DATABASE_URL has an unknown target_session_attrs.", f"Use one of {', '.join(attributes)}."
        )
    return followed


def _check_tls(followed: dict[str, str], *, binding: bool) -> None:
    mode = followed.get("sslmode")
    if mode is not None and mode not in SSL_MODES:
        raise DatabaseUrlError("DATABASE_URL has an unknown sslmode.", f"Use one of {', '.join(SSL_MODES)}.")
    if followed.get("sslnegotiation", "postgres") not in ("postgres", "direct"):
        raise DatabaseUrlError("DATABASE_URL has an unknown sslnegotiation.", "Use postgres or direct.")
    if binding:
        # It keeps a man in the middle from using the login, and so does a certificate that is verified.
        if mode == "disable":
            raise DatabaseUrlError("DATABASE_URL requires channel_binding but turns TLS off.", "Remove one of the two.")
        mode = followed["sslmode"] = "verify-full"
        followed.setdefault("sslrootcert", "system")
    if followed.get("sslrootcert") == "system":
        if mode not in (None, "verify-full"):
            raise DatabaseUrlError(
                "DATABASE_URL has sslrootcert=system with a weaker sslmode than verify-full.",
                "Write sslmode=verify-full, or remove sslmode (libpq rejects the others, too).",
            )
        followed["sslmode"] = "verify-full"


def _decode(text: str) -> str:
    if re.search(r"%(?![0-9A-Fa-f]{2})|%00", text):
        raise DatabaseUrlError(
            "DATABASE_URL has a % that does not begin a percent-encoding.", _encode("Write % as %25")
        )
    try:
        return unquote_to_bytes(text).decode()
    except UnicodeDecodeError:
        raise DatabaseUrlError(
            "DATABASE_URL has percent-encoded bytes that are not UTF-8.", _encode("Correct it")
        ) from None


def _encode(what: str) -> str:
    return f"{what}; a password with special characters must be percent-encoded."
