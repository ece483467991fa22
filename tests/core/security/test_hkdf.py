"""HKDF-SHA256 against RFC 5869 and Project Wycheproof."""

import pytest

from kontract.core.security import hkdf
from support.wycheproof import HKDF, cases

# RFC 5869, appendix A.1 to A.3: input key material, salt, info, length, pseudorandom key, output.
RFC_5869 = [
    (
        "0b" * 22,
        "000102030405060708090a0b0c",
        "f0f1f2f3f4f5f6f7f8f9",
        42,
        "077709362c2e32df0ddc3f0dc47bba6390b6c73bb50f9c3122ec844ad7c2b3e5",
        "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865",
    ),
    (
        bytes(range(0x50)).hex(),
        bytes(range(0x60, 0xB0)).hex(),
        bytes(range(0xB0, 0x100)).hex(),
        82,
        "06a6b88c5853361a06104c9ceb35b45cef760014904671014a193f40c15fc244",
        (
            "b11e398dc80327a1c8e7f78c596a49344f012eda2d4efad8a050cc4c19afa97c59045a99cac7827271cb41c65e590e09da3275600c2f09"
            "b8367793a9aca3db71cc30c58179ec3e87c14c01d5c1f3434f1d87"
        ),
    ),
    (
        "0b" * 22,
        "",
        "",
        42,
        "19ef24a32c717b167f33a91d6f648bdf96596776afdb6377ac434c1c293ccb04",
        "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8",
    ),
]


@pytest.mark.parametrize(("material", "salt", "info", "length", "key", "output"), RFC_5869)
def test_the_vectors_of_the_rfc(material, salt, info, length, key, output):
    """Another implementation derives the same keys."""
    extracted = hkdf.extract(bytes.fromhex(salt), bytes.fromhex(material))
    assert extracted.hex() == key
    assert hkdf.expand(extracted, bytes.fromhex(info), length).hex() == output


def test_wycheproof():
    """Edge cases of lengths included; what is longer than HKDF can give is refused."""
    for case in cases(HKDF):
        key = hkdf.extract(bytes.fromhex(case["salt"]), bytes.fromhex(case["ikm"]))
        if case["result"] == "invalid":
            with pytest.raises(ValueError, match="8160"):
                hkdf.expand(key, bytes.fromhex(case["info"]), case["size"])
        else:
            assert hkdf.expand(key, bytes.fromhex(case["info"]), case["size"]).hex() == case["okm"], case["tcId"]


@pytest.mark.parametrize("length", [0, -1, 8161])
def test_a_length_that_hkdf_has_not(length):
    """Never silently shorter than asked for."""
    with pytest.raises(ValueError, match="8160"):
        hkdf.expand(bytes(32), b"", length)


def test_hmac():
    """RFC 4231, test case 2."""
    wanted = "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
    assert hkdf.hmac_sha256(b"Jefe", b"what do ya want for nothing?").hex() == wanted
