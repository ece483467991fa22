"""Native cryptography in workerd gives the same as on CPython: the same vectors, run inside the real runtime."""

import pytest

from support.crypto_cases import AT_LEAST, GROUPS

BATCH = 250


@pytest.mark.parametrize("group", GROUPS)
def test_published_vectors(laboratory, group):
    """A session that starts on a server must be able to go on in a Worker."""
    cases = list(GROUPS[group]())
    assert len(cases) >= AT_LEAST[group]
    answers = []
    for start in range(0, len(cases), BATCH):
        answers += laboratory.run("support.in_workerd", "crypto", cases[start : start + BATCH])
    wrong = [(case, given) for case, given in zip(cases, answers, strict=True) if given != case["gives"]]
    assert wrong == []


def test_a_password_hash_of_the_size_that_logins_use(laboratory):
    """32 MiB of work memory: the runtime's default stops below that."""
    case = {"do": "scrypt", "password": b"pw".hex(), "salt": b"salt".hex() * 4, "cost": [2**15, 8, 3, 32]}
    wanted = "7a98d89a6c58d931aed253b8ba6e64811dcd9d4426d1430519db8a6f99032fc4"
    assert laboratory.run("support.in_workerd", "crypto", [case, case]) == [wanted, wanted]
