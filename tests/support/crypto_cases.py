"""What every implementation of the port Crypto must give: published vectors, as operations and their answers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from kontract.ports import Cipher
from support import wycheproof
from support.crypto_operations import DEFECT, REFUSED

Case = dict[str, Any]
"""``do`` and its arguments (bytes in hexadecimal), and what it ``gives``: bytes, REFUSED or DEFECT."""

# RFC 7748, section 6.1: private and public keys of Alice and Bob, and what they share.
ALICE = "77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a"
ALICE_PUBLIC = "8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a"
BOB = "5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb"
BOB_PUBLIC = "de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f"
SHARED = "4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742"

# RFC 8439, section 2.8.2.
SUNSCREEN = (
    b"Ladies and Gentlemen of the class of '99: If I could offer you only one tip for the future, "
    b"sunscreen would be it."
).hex()
SUNSCREEN_SEALED = (
    "d31a8d34648e60db7b86afbc53ef7ec2a4aded51296e08fea9e2b5a736ee62d63dbea45e8ca9671282fafb69da92728b1a71de0a9e060b2905"
    "d6a5b67ecd3b3692ddbd7f2d778b8c9803aee328091b58fab324e4fad675945585808b4831d7bc3ff4def08e4b7a9de576d26586cec64b6116"
    "1ae10b594f09e26a7e902ecbd0600691"
)

# RFC 7914, section 12: password, salt, (n, r, p, length), key.
SCRYPT = [
    (
        b"password",
        b"NaCl",
        [1024, 8, 16, 64],
        (
            "fdbabe1c9d3472007856e7190d01e9fe7c6ad7cbc8237830e77376634b3731622eaf30d92e22a3886ff109279d9830dac727afb94a83ee6d"
            "8360cbdfa2cc0640"
        ),
    ),
    (
        b"pleaseletmein",
        b"SodiumChloride",
        [16384, 8, 1, 64],
        (
            "7023bdcb3afd7348461c06cd81fd38ebfda8fbba904f8e3ea9b543f6545da1f2d5432955613f0fcf62d49705242a9af9e61e85dc0d651e40"
            "dfcf017b45575887"
        ),
    ),
]


def rfcs() -> Iterator[Case]:
    """The vectors of the standards."""
    for private, public in ((ALICE, ALICE_PUBLIC), (BOB, BOB_PUBLIC)):
        yield {"do": "x25519_public", "private": private, "gives": public}
    for private, public in ((ALICE, BOB_PUBLIC), (BOB, ALICE_PUBLIC)):
        yield {"do": "x25519", "private": private, "public": public, "gives": SHARED}
    keys = {
        "cipher": Cipher.CHACHA20_POLY1305.value,
        "key": bytes(range(0x80, 0xA0)).hex(),
        "nonce": "070000004041424344454647",
        "associated": "50515253c0c1c2c3c4c5c6c7",
    }
    yield {"do": "seal", **keys, "text": SUNSCREEN, "gives": SUNSCREEN_SEALED}
    yield {"do": "open", **keys, "text": SUNSCREEN_SEALED, "gives": SUNSCREEN}
    for password, salt, cost, key in SCRYPT:
        yield {"do": "scrypt", "password": password.hex(), "salt": salt.hex(), "cost": cost, "gives": key}


def edges() -> Iterator[Case]:
    """What no published vector asks for: sizes that are wrong, sealed texts shorter than a tag, empty ones."""
    zero = {"key": "00" * 32, "nonce": "00" * 12, "associated": ""}
    for cipher in Cipher:
        name = {"cipher": cipher.value}
        for size in (0, 1, 15, 16, 17):
            yield {"do": "open", **name, **zero, "text": "00" * size, "gives": REFUSED}
        for change in (
            {"key": "00" * 31},
            {"key": "00" * 16},
            {"nonce": "00" * 11},
            {"nonce": "00" * 8},
            {"nonce": ""},
        ):
            yield {"do": "seal", **name, **zero, **change, "text": "00", "gives": DEFECT}
            yield {"do": "open", **name, **zero, **change, "text": "00" * 17, "gives": DEFECT}
    for size in (0, 31, 33):
        yield {"do": "x25519_public", "private": "01" * size, "gives": DEFECT}
        yield {"do": "x25519", "private": "01" * size, "public": BOB_PUBLIC, "gives": DEFECT}
        yield {"do": "x25519", "private": ALICE, "public": "01" * size, "gives": DEFECT}
    # Points of small order (RFC 7748, section 6.1; all that encode one are in Wycheproof's LowOrderPublic).
    for public in (
        "00" * 32,
        "01" + "00" * 31,
        "ec" + "ff" * 30 + "7f",
        "ed" + "ff" * 30 + "7f",
        "ee" + "ff" * 30 + "7f",
    ):
        yield {"do": "x25519", "private": ALICE, "public": public, "gives": REFUSED}


def x25519() -> Iterator[Case]:
    """Wycheproof's."""
    for case in wycheproof.cases(wycheproof.X25519):
        shared = case["shared"]
        yield {
            "do": "x25519",
            "private": case["private"],
            "public": case["public"],
            "gives": shared if any(bytes.fromhex(shared)) else REFUSED,
        }


def aead() -> Iterator[Case]:
    """Wycheproof's, for both ciphers; other key sizes than 256 bits and other nonces than 96 are a caller's defect."""
    for cipher, name in [
        (Cipher.CHACHA20_POLY1305, wycheproof.CHACHA20_POLY1305),
        (Cipher.AES_256_GCM, wycheproof.AES_GCM),
    ]:
        for case in wycheproof.cases(name):
            keys = {"cipher": cipher.value, "key": case["key"], "nonce": case["iv"], "associated": case["aad"]}
            sealed = case["ct"] + case["tag"]
            if (case["keySize"], case["ivSize"]) != (256, 96):
                yield {"do": "seal", **keys, "text": case["msg"], "gives": DEFECT}
            elif case["result"] == "valid":
                yield {"do": "seal", **keys, "text": case["msg"], "gives": sealed}
                yield {"do": "open", **keys, "text": sealed, "gives": case["msg"]}
            else:
                yield {"do": "open", **keys, "text": sealed, "gives": REFUSED}


GROUPS = {"rfcs": rfcs, "edges": edges, "x25519": x25519, "aead": aead}
AT_LEAST = {"rfcs": 8, "edges": 44, "x25519": 518, "aead": 700}
"""How many there are at least: an empty file of vectors would pass for ever."""
