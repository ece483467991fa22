"""Network addresses, as far as callers are told apart by them."""

from __future__ import annotations

import ipaddress


def subscriber(client: str) -> str:
    """Return who is behind an address, empty when it is none: of IPv6 the 64 bits that one subscriber has.

    The rest of such an address costs nothing: counted whole, everybody would have 2**64 callers.
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
