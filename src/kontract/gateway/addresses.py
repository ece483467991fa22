"""Network addresses, for telling callers apart."""

from __future__ import annotations

import ipaddress
from functools import lru_cache


@lru_cache(maxsize=4_096)
def subscriber(client: str) -> str:
    """Return the subscriber's part of an address: for IPv6 the first 64 bits. Empty if it is not an address.

    One subscriber can use all of the other 64 bits: counted whole, each would be 2**64 callers.
    """
    try:
        address = ipaddress.ip_address(client)
    except ValueError:
        return ""
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        return str(ipaddress.ip_network((int(address), 64), strict=False))
    return str(address)
