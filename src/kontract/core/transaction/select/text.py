"""Literals of SQL."""

from __future__ import annotations


def quoted(text: str) -> str:
    """Return a literal that means the same with and without ``standard_conforming_strings``."""
    doubled = text.replace("'", "''")
    if "\\" not in doubled:
        return f"'{doubled}'"
    # A space, so that the E belongs to nothing before it.
    return " E'" + doubled.replace("\\", "\\\\") + "'"
