"""Whose address counts: throttles hang on it."""

from __future__ import annotations

import ipaddress

import pytest

from kontract.server.clients import Clients

PROXIES = [ipaddress.ip_network(text) for text in ("10.0.0.0/8", "192.0.2.7/32", "2001:db8:1::/48")]


@pytest.mark.parametrize(
    ("peer", "forwarded", "address"),
    [
        ("203.0.113.5:4711", None, "203.0.113.5"),
        ("203.0.113.5:4711", "198.51.100.1", "203.0.113.5"),  # no proxy: what it says of itself is nothing
        ("10.0.0.1:80", None, "10.0.0.1"),
        ("10.0.0.1:80", "", "10.0.0.1"),
        ("10.0.0.1:80", "198.51.100.1", "198.51.100.1"),
        ("10.0.0.1:80", "6.6.6.6, 198.51.100.1, 192.0.2.7", "198.51.100.1"),
        ("10.0.0.1:80", "6.6.6.6,198.51.100.1", "198.51.100.1"),
        ("10.0.0.1:80", "10.0.0.2, 10.0.0.3", "10.0.0.2"),  # everybody is a proxy: the first of them
        ("10.0.0.1:80", "198.51.100.1, unknown", "10.0.0.1"),
        ("10.0.0.1:80", "198.51.100.1, ", "10.0.0.1"),
        ("10.0.0.1:80", "198.51.100.1:4711", "198.51.100.1"),
        ("[::ffff:10.0.0.1]:80", "::ffff:198.51.100.1", "198.51.100.1"),
        ("[2001:db8:1::1]:80", "[2001:db8:2::2]:4711", "2001:db8:2::2"),
        ("[2001:db8:1::1]:80", "2001:DB8:2:0::2", "2001:db8:2::2"),
        ("[2001:db8:2::2]:80", "198.51.100.1", "2001:db8:2::2"),
        ("", "198.51.100.1", ""),
    ],
)
def test_the_first_from_the_right_that_is_no_trusted_proxy(peer, forwarded, address):
    assert Clients(PROXIES).address(peer, forwarded) == address


def test_without_proxies_nothing_is_believed():
    assert Clients([]).address("10.0.0.1:80", "198.51.100.1") == "10.0.0.1"
