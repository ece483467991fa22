"""Runs one operation of a Crypto and tells its answer as text. The test Worker has a copy: it imports ports alone."""

from __future__ import annotations

from typing import Any

from kontract.ports import Cipher, Crypto, CryptoError

REFUSED = "refused"
DEFECT = "defect"


async def answer(crypto: Crypto, case: dict[str, Any]) -> str:
    """Bytes in hexadecimal, REFUSED for a CryptoError, DEFECT for a ValueError; anything else goes through."""
    given = {
        name: bytes.fromhex(value) for name, value in case.items() if name not in ("do", "cipher", "cost", "gives")
    }
    try:
        match case["do"]:
            case "x25519_public":
                result = crypto.x25519_public(given["private"])
            case "x25519":
                result = crypto.x25519(given["private"], given["public"])
            case "seal":
                cipher = Cipher(case["cipher"])
                result = crypto.seal(cipher, given["key"], given["nonce"], given["text"], given["associated"])
            case "open":
                cipher = Cipher(case["cipher"])
                result = crypto.open(cipher, given["key"], given["nonce"], given["text"], given["associated"])
            case "scrypt":
                result = await crypto.scrypt(given["password"], given["salt"], *case["cost"])
            case other:
                raise NotImplementedError(other)
    except CryptoError as error:
        return REFUSED if not error.args and error.__cause__ is None else f"says {error!r}"
    except ValueError:
        return DEFECT
    return result.hex() if type(result) is bytes else f"is {type(result)}"
