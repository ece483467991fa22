"""What callers may query in stored JSON: what they see of it, because a value that can be queried can be found out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from msgspec import inspect

from kontract.core.model.fields import without
from kontract.core.model.kinds import (
    ANYTHING,
    RECORDS,
    Kind,
    alternatives,
    class_of,
    is_array,
    kind_of,
    tag_field,
    tag_of,
)
from kontract.core.model.perms import READ
from kontract.core.model.shown import is_scalar


class UnknownFieldError(Exception):
    """A query names something that callers do not see. ``path``: its name; ``known``: the names that exist."""

    def __init__(self, path: str, known: Sequence[str] = ()) -> None:
        """Keep the path and the known names."""
        super().__init__(path)
        self.path = path
        self.known = known


def check_question(kind: Kind, wanted: Any, path: str) -> None:
    """Raise UnknownFieldError when a filter (decoded JSON) queries something that callers do not see.

    ``wanted`` is compared by containment, so the elements of a list may be in any place.
    """
    _ask(alternatives(kind), wanted, path)


def _ask(kinds: Sequence[Kind], wanted: Any, path: str) -> None:
    if wanted is None or any(isinstance(one, ANYTHING) for one in kinds):
        return
    if isinstance(wanted, dict):
        _ask_object(kinds, wanted, path)
    elif isinstance(wanted, list):
        inner = [part for one in kinds for part in _elements(one, path)]
        if wanted and not inner:
            raise UnknownFieldError(path)
        for item in wanted:
            _ask(inner, item, path)
    elif not any(is_scalar(one) for one in kinds):
        raise UnknownFieldError(path)


def _ask_object(kinds: Sequence[Kind], wanted: dict[str, Any], path: str) -> None:
    records = [one for one in kinds if isinstance(one, RECORDS) and not is_array(one)]
    dicts = [one.value_type for one in kinds if isinstance(one, (inspect.DictType, inspect.FrozenDictType))]
    if not records and not dicts:
        raise UnknownFieldError(path)
    hidden = frozenset(name for one in records for name in without(class_of(one), READ))
    fields: dict[str, list[Kind]] = {}
    for one in records:
        if tag_of(one) is not None:
            fields.setdefault(tag_field(one), []).append(_TEXT)
        for field in one.fields:
            if field.encode_name not in hidden:
                fields.setdefault(field.encode_name, []).extend(alternatives(field.type))
    for name, value in wanted.items():
        inner = fields.get(name, []) + [of for one in dicts for of in alternatives(one)]
        where = f"{path}.{name:.100}"
        if not inner:
            raise UnknownFieldError(where, sorted(fields))
        _ask(inner, value, where)


_TEXT = kind_of(str)


def _elements(kind: Kind, path: str) -> Sequence[Kind]:
    if isinstance(kind, inspect.TupleType):
        return [of for item in kind.item_types for of in alternatives(item)]
    if isinstance(kind, inspect.CollectionType):
        return alternatives(kind.item_type)
    if isinstance(kind, RECORDS) and is_array(kind):
        if without(class_of(kind), READ):  # an element may stand in any place, also in a hidden one
            raise UnknownFieldError(path)
        return [_TEXT, *(of for field in kind.fields for of in alternatives(field.type))]
    return ()
