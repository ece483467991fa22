"""raystream: encrypted RPC on top of TLS. ``docs/reference/raystream.md`` is the specification, byte by byte.

The protocol without I/O: ``noise`` is the handshake, ``frames`` and ``payloads`` the wire format, ``schedule`` the
keys, ``tickets`` what the server issues instead of keeping sessions, ``client`` and ``server`` the two sides. Time and
randomness are arguments; a :class:`kontract.ports.Crypto` does the cryptography.
"""
