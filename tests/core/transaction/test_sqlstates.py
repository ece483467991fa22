"""Every error of PostgreSQL is somebody's: the caller's, the operator's, or the moment's."""

from __future__ import annotations

import asyncpg
import pytest

from kontract.core.errors import Code, Fault
from kontract.core.transaction import sqlstates
from kontract.core.transaction.sqlstates import CLASSES, EXACT, Fix, meaning


def codes() -> set[str]:
    """All codes of appendix A, as asyncpg lists them (generated from PostgreSQL's errcodes.txt)."""
    found = (getattr(each, "sqlstate", None) for each in vars(asyncpg.exceptions).values())
    return {code for code in found if isinstance(code, str)}


ALL = sorted(codes())


def test_the_list_is_whole():
    assert len(ALL) > 230
    assert {"23505", "25006", "40001", "57P03", "P0001", "XX000"} <= set(ALL)


@pytest.mark.parametrize("code", ALL)
def test_every_code_means_something(code):
    """None falls to the rule for codes of no class: those come from the user's own triggers."""
    assert code in EXACT or code[:2] in CLASSES
    found = meaning(code)
    answer = sqlstates.to_http_error(code)
    if found.fix is Fix.CALLER:
        assert found.code.fault is Fault.CALLER
    else:
        assert found.code.fault is not Fault.CALLER
    if found.fix is Fix.RETRY:
        assert sqlstates.refusal(code, "") is None, "another attempt may succeed"
    else:
        refused = sqlstates.refusal(code, "")
        assert refused is not None, "one attempt"
        assert (refused.error_code, refused.message) == (answer.error_code, answer.message)
    assert code not in answer.message
    assert answer.message == answer.message.strip()
    assert answer.message


@pytest.mark.parametrize("code", [*CLASSES, *EXACT])
def test_nothing_in_the_table_is_superfluous(code):
    newer_or_no_error = ("00", "10", "25P04")
    assert any(each.startswith(code) for each in ALL) or code in newer_or_no_error
    if code in EXACT:
        assert EXACT[code] is not CLASSES[code[:2]]


CALLER, OPERATOR, RETRY = Fix.CALLER, Fix.OPERATOR, Fix.RETRY


@pytest.mark.parametrize(
    ("code", "fix", "answer", "ends"),
    [
        ("22001", CALLER, Code.INVALID_REQUEST, False),
        ("23502", CALLER, Code.INVALID_REQUEST, False),
        ("23503", CALLER, Code.INVALID_REQUEST, False),
        ("23505", CALLER, Code.ALREADY_EXISTS, False),
        ("23514", CALLER, Code.INVALID_REQUEST, False),
        ("23P01", CALLER, Code.ALREADY_EXISTS, False),
        ("44000", CALLER, Code.INVALID_REQUEST, False),
        ("54000", CALLER, Code.PAYLOAD_TOO_LARGE, False),
        ("P0001", CALLER, Code.INVALID_REQUEST, False),
        ("KW042", CALLER, Code.INVALID_REQUEST, False),  # RAISE EXCEPTION .. USING ERRCODE
        ("P0002", OPERATOR, Code.INTERNAL, False),
        ("P0004", OPERATOR, Code.INTERNAL, False),
        ("42501", OPERATOR, Code.INTERNAL, False),
        ("42P01", OPERATOR, Code.UNAVAILABLE, False),
        ("42601", OPERATOR, Code.INTERNAL, False),
        ("25006", OPERATOR, Code.UNAVAILABLE, True),
        ("28P01", OPERATOR, Code.UNAVAILABLE, True),
        ("3D000", OPERATOR, Code.UNAVAILABLE, True),
        ("53100", OPERATOR, Code.UNAVAILABLE, False),
        ("57P04", OPERATOR, Code.UNAVAILABLE, True),
        ("XX001", OPERATOR, Code.UNAVAILABLE, False),
        ("08006", RETRY, Code.UNAVAILABLE, True),
        ("25P02", RETRY, Code.UNAVAILABLE, True),
        ("25P03", RETRY, Code.UNAVAILABLE, True),
        ("40001", RETRY, Code.UNAVAILABLE, False),
        ("40P01", RETRY, Code.UNAVAILABLE, False),
        ("53300", RETRY, Code.UNAVAILABLE, True),
        ("55P03", RETRY, Code.UNAVAILABLE, False),
        ("57014", RETRY, Code.DEADLINE_EXCEEDED, False),
        ("57P01", RETRY, Code.UNAVAILABLE, True),
        ("57P03", RETRY, Code.UNAVAILABLE, True),
        ("57P05", RETRY, Code.UNAVAILABLE, True),
        ("XX000", RETRY, Code.INTERNAL, False),
    ],
)
def test_whose_they_are(code, fix, answer, ends):
    found = meaning(code)
    assert (found.fix, found.code, sqlstates.ends_connection(code)) == (fix, answer, ends)


def test_a_clash_with_the_protocols_own_keys_is_tried_again():
    assert sqlstates.refusal("23505", "tbl_tasks_5f0c1d_live") is None
    assert sqlstates.refusal("23505", "trxs_pkey") is None
    named = sqlstates.refusal("23505", "one_email")
    assert named is not None
    assert "constraint 'one_email' of the database: there is such a row already" in named.message
