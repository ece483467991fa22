"""The client's address: that of the socket, or the one that a trusted proxy reports."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from functools import lru_cache

from kontract.server.settings import Network


class Clients:
    """Tells the address of a caller. Throttles hang on it, so only the proxies named in the settings are believed."""

    def __init__(self, proxies: Sequence[Network]) -> None:
        """Believe what ``proxies`` say in X-Forwarded-For."""
        self._proxies = tuple(proxies)
        self._is_proxy = lru_cache(maxsize=4_096)(self._look)

    def address(self, peer: str, forwarded: str | None) -> str:
        """Return the address of the caller. ``peer``: the socket's "host:port"; ``forwarded``: X-Forwarded-For.

        Each proxy appends the address that it was called from. Read from the right, the first one that is no trusted
        proxy is the caller: everything to the left of it was written by the caller.
        """
        host = plain(peer.rpartition(":")[0].strip("[]"))
        if not forwarded or not self._proxies:
            return host
        for said in reversed(forwarded.split(",")):
            if not self._is_proxy(host):
                return host
            hop = plain(_without_port(said.strip()))
            if not hop:  # not an address: use the last known hop
                return host
            host = hop
        return host

    def _look(self, host: str) -> bool:
        try:
            address = ipaddress.ip_address(host)
        except ValueError:
            return False
        return any(address.version == network.version and address in network for network in self._proxies)


@lru_cache(maxsize=4_096)
def plain(text: str) -> str:
    """Return an address in its usual form, IPv4 inside IPv6 as IPv4; empty if it is not an address."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return ""
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(address)


def _without_port(text: str) -> str:
    """Return the address of ``192.0.2.7:443`` or ``[2001:db8::7]:443``, as some proxies write it."""
    if text.startswith("["):
        return text[1:].partition("]")[0]
    host, colon, _ = text.partition(":")
    return host if colon and "." in host else text
