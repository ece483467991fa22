"""The settings of `kontract serve`: flags, environment and an env file, checked once before anything is started.

Flags win over the environment, which wins over the file.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from pathlib import Path

from msgspec import Struct

from kontract.core import database_url, logs
from kontract.core.database_url import DatabaseUrlError
from kontract.gateway import config
from kontract.gateway.config import ConfigurationError
from kontract.server import env_file

COORDINATIONS = ("postgres", "tikv", "memory")
"""Where the coordinators of owners may live: shared by any number of processes, or in the memory of one."""

PREPARED = ("auto", "on", "off")

DEFAULT_PORT = 8787

DEVELOPMENT = "KONTRACT_BUILD_ANSWER"
"""Set by the commands for local use: mistakes of the application are answered to callers, and files read again."""

DEFAULT_POOL = 10
"""Connections of one process. A request has one only while a statement runs, so a few serve hundreds of requests."""

MOST_WORKERS = 256

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")

_PRIVATE_IPV6 = (ipaddress.IPv6Network("fc00::/7"), ipaddress.IPv6Network("fe80::/10"))

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class SettingsError(Exception):
    """A setting is missing or wrong. The message names it and says what to do, without secrets.

    It ends the command with exit code 2.
    """


class Settings(Struct, frozen=True):
    """Checked settings.

    ``drain_seconds``: how long connections are still accepted after SIGTERM, while ``/ready`` says no. ``metrics``:
    address and port of ``/metrics``, None for none. ``development``: a server of ``kontract serve --local``, which
    returns mistakes of the application to callers. ``environment``: all variables, for the gateway; functions see
    fewer (:func:`kontract.gateway.config.application`).
    """

    database_url: str
    host: str = "127.0.0.1"
    port: int = DEFAULT_PORT
    workers: int = 1
    pool: int = DEFAULT_POOL
    prepared: str = "auto"
    coordination: str = "postgres"
    tikv_pd_endpoint: str = ""
    trusted_proxies: tuple[Network, ...] = ()
    metrics: tuple[str, int] | None = None
    drain_seconds: float = 0.0
    log_level: str = "info"
    development: bool = False
    environment: Mapping[str, str] = {}


def read(environment: Mapping[str, str], flags: Mapping[str, str | None] | None = None) -> Settings:
    """Read and check all settings; raises SettingsError. ``flags``: variables from the command line, if any."""
    values = dict(environment) | {name: value for name, value in (flags or {}).items() if value is not None}
    _check_gateway(values)
    settings = Settings(
        database_url=_database_url(values),
        host=_host(values),
        port=_number(values, "PORT", DEFAULT_PORT, 1, 65_535, "a TCP port"),
        workers=_number(values, "KONTRACT_WORKERS", 1, 1, MOST_WORKERS, "the number of processes"),
        pool=_number(values, "KONTRACT_POOL", DEFAULT_POOL, 1, 1_000, "the database connections of one process"),
        prepared=_choice(values, "KONTRACT_PREPARED", PREPARED, "auto"),
        coordination=_choice(
            values, "KONTRACT_COORDINATION", COORDINATIONS, "tikv" if values.get("TIKV_PD_ENDPOINT") else "postgres"
        ),
        tikv_pd_endpoint=values.get("TIKV_PD_ENDPOINT", ""),
        trusted_proxies=_networks(values, "KONTRACT_TRUSTED_PROXIES"),
        metrics=_address(values, "KONTRACT_METRICS"),
        drain_seconds=_number(values, "KONTRACT_DRAIN_SECONDS", 0, 0, 600, "seconds"),
        log_level=_choice(values, "KONTRACT_LOG_LEVEL", logs.LEVELS, "info"),
        development=bool(values.get(DEVELOPMENT)),
        environment=values,
    )
    if settings.coordination == "memory" and settings.workers > 1:
        message = (
            f"KONTRACT_COORDINATION=memory is for one process, but --workers is {settings.workers}: remove one of them "
            "(without KONTRACT_COORDINATION processes share their coordinators in PostgreSQL)"
        )
        raise SettingsError(message)
    if values.get("KONTRACT_SHOW_ERRORS", "").strip() == "1" and (
        settings.trusted_proxies or not ipaddress.ip_address(settings.host).is_loopback
    ):
        message = (
            f"KONTRACT_SHOW_ERRORS reveals the application's exceptions to callers, and --host {settings.host} or "
            "KONTRACT_TRUSTED_PROXIES allows callers from other machines: remove KONTRACT_SHOW_ERRORS"
        )
        raise SettingsError(message)
    if settings.coordination == "tikv" and not settings.tikv_pd_endpoint:
        message = "KONTRACT_COORDINATION=tikv needs TIKV_PD_ENDPOINT, the address of PD, such as pd-1:2379,pd-2:2379"
        raise SettingsError(message)
    return settings


def read_env_file(path: Path) -> dict[str, str]:
    """Return the variables of a file (:mod:`kontract.server.env_file`); raises SettingsError, naming the line.

    Lines that systemd and Docker, which read such files too, would read differently are refused: a ``#`` in an unquoted
    value, and anything but an assignment.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        message = f"the env file {path} cannot be read: {reason}"
        raise SettingsError(message) from None
    wrong = [(number, "is not NAME=value") for number in [env_file.stray(text)] if number is not None]
    values: dict[str, str] = {}
    for one in env_file.assignments(text):
        doubt = one.doubt if _VARIABLE.fullmatch(one.name) else "is not NAME=value"
        if doubt:
            wrong.append((one.line, doubt))
        values[one.name] = one.value
    if wrong:
        number, reason = min(wrong)
        message = f"line {number} of the env file {path} {reason}"
        raise SettingsError(message)
    return values


def _check_gateway(values: Mapping[str, str]) -> None:
    if not values.get("KONTRACT_SECRET"):
        message = "KONTRACT_SECRET is not set: put the output of `kontract keygen` into the environment or the env file"
        raise SettingsError(message)
    try:
        config.read(values)
    except ConfigurationError as error:
        raise SettingsError(str(error)) from None


def _database_url(values: Mapping[str, str]) -> str:
    url = values.get("DATABASE_URL", "")
    if not url:
        message = f"DATABASE_URL is not set: put {database_url.EXAMPLE} into the environment or the env file"
        raise SettingsError(message)
    try:
        database_url.read(url)
    except DatabaseUrlError as error:
        raise SettingsError(str(error)) from None
    return url


def _host(values: Mapping[str, str]) -> str:
    host = values.get("KONTRACT_HOST", "") or "127.0.0.1"
    if host == "localhost":
        return "127.0.0.1"
    try:
        return str(ipaddress.ip_address(host.strip("[]")))
    except ValueError:
        message = f"--host (KONTRACT_HOST) cannot be {host!r}: it takes an IP address, such as 127.0.0.1, 0.0.0.0 or ::"
        raise SettingsError(message) from None


def _number(values: Mapping[str, str], name: str, default: int, least: int, most: int, what: str) -> int:
    text = values.get(name, "").strip()
    if not text:
        return default
    if not text.isascii() or not text.isdigit() or len(text) > 9 or not least <= int(text) <= most:
        message = f"{name} cannot be {text!r:.40}: it takes {what}, an integer from {least} to {most}"
        raise SettingsError(message)
    return int(text)


def _choice(values: Mapping[str, str], name: str, allowed: tuple[str, ...], default: str) -> str:
    text = values.get(name, "").strip().lower() or default
    if text not in allowed:
        message = f"{name} cannot be {text!r:.40}: it takes {' or '.join(allowed)}"
        raise SettingsError(message)
    return text


def _networks(values: Mapping[str, str], name: str) -> tuple[Network, ...]:
    found: list[Network] = []
    for text in values.get(name, "").replace(",", " ").split():
        try:
            found.append(ipaddress.ip_network(text, strict=False))
        except ValueError:
            message = (
                f"{name} has {text!r:.60}: it takes addresses and networks separated by commas, such as "
                "10.0.0.0/8, 192.0.2.7"
            )
            raise SettingsError(message) from None
        if _is_nearly_everybody(found[-1]):
            message = (
                f"{name} has {text}, which is far more than your proxies: everybody in it could claim any address; "
                "name only the proxies or their network, such as 10.0.0.0/8"
            )
            raise SettingsError(message)
    return tuple(found)


def _is_nearly_everybody(network: Network) -> bool:
    """Whether a network is too large to be that of proxies: larger than the largest one that anybody has."""
    if isinstance(network, ipaddress.IPv4Network):
        return network.prefixlen < 8
    return network.prefixlen < 16 and not any(network.subnet_of(private) for private in _PRIVATE_IPV6)


def _address(values: Mapping[str, str], name: str) -> tuple[str, int] | None:
    text = values.get(name, "").strip()
    if not text or text.lower() == "off":
        return None
    host, _, port = text.rpartition(":")
    try:
        address = str(ipaddress.ip_address(host.strip("[]"))) if host else "127.0.0.1"
        valid = port.isdigit() and 1 <= int(port) <= 65_535
    except ValueError:
        valid = False
    if not valid:
        message = (
            f"{name} cannot be {text!r:.60}: it takes a separate port or address:port, such as 9464 or 0.0.0.0:9464"
        )
        raise SettingsError(message)
    return address, int(port)
