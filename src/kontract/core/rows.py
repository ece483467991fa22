"""Between the rows of the application (structs or dicts) and the JSON text that is stored."""

from __future__ import annotations

from typing import Any, get_args, get_type_hints

import msgspec

from kontract.core import documents
from kontract.core.declare import TABLE, TableMeta, primkey
from kontract.core.errors import InvalidRequestError, PermissionDeniedError
from kontract.core.fields import without
from kontract.core.perms import READ, WRITE
from kontract.core.types import Filter, Version


class RowType:
    """How the rows of one logical table look to the application.

    Rows of a declared table are instances of its struct; others are dicts with the id under ``"id"``. The stored JSON
    never repeats the id.
    """

    def __init__(self, name: str, struct: type[msgspec.Struct] | None = None) -> None:
        """Describe table ``name``; raises TypeError when the struct is not usable as a row."""
        self.name = name
        self.struct = struct
        self.key = "id"
        self.own = False
        self.streamed = False
        self.unreadable: frozenset[str] = frozenset()
        self._unwritable: frozenset[str] = frozenset()
        self._names: dict[str, str] = {}
        if struct is not None:
            meta: TableMeta | None = getattr(struct, TABLE, None)
            self.own = meta is not None and meta.rows == "own"
            self.streamed = meta is not None and meta.stream
            self.unreadable, self._unwritable = without(struct, READ), without(struct, WRITE)
            fields = msgspec.structs.fields(struct)
            self._names = {field.name: field.encode_name for field in fields}
            self.key = self._names[_key_field(struct)]

    def encode(self, value: Any, row_id: str | None) -> str:
        """Validate a row and return its JSON without the id; ``row_id`` None: any id in it is ignored."""
        document = self._document(value)
        given = document.pop(self.key, None)
        if row_id is not None and given not in (None, "", row_id):
            message = f"the row says its {self.key} is {given!r:.100}, but it is written as {row_id!r:.100}"
            raise InvalidRequestError(message)
        return self._encode(document, row_id or "")

    def merge(self, current: str, changes: dict[str, Any], row_id: str) -> str:
        """Apply changes to a stored row and return the new JSON. Stored fields the struct does not know are kept."""
        document = msgspec.json.decode(current)
        for name, value in changes.items():
            stored_as = self._names.get(name) if self.struct is not None else name
            if stored_as is None:
                known = ", ".join(sorted(self._names))
                message = f"table {self.name!r} has no field {name!r}; it has {known}"
                raise InvalidRequestError(message)
            if stored_as in self._unwritable:
                message = (
                    f"field {name!r} of table {self.name!r} cannot be changed with update, because callers may not "
                    "write it; a function that means to change it writes the whole row with set"
                )
                raise PermissionDeniedError(message)
            if stored_as == self.key:
                message = f"the id of a row cannot be changed; delete it and insert it with a new {name}"
                raise InvalidRequestError(message)
            document[stored_as] = msgspec.to_builtins(value)
        return self._encode(document, row_id, keep_unknown=True)

    def decode(self, version: Version) -> Any:
        """Return the row as the application sees it."""
        document = msgspec.json.decode(version.data)
        document[self.key] = version.id
        if self.struct is None:
            return document
        return msgspec.convert(document, self.struct)

    def filter(self, wanted: Any) -> Filter:
        """Return what a query's filter means: fields by name, the id apart."""
        if wanted is None:
            return Filter()
        if not isinstance(wanted, dict):
            message = f"a filter of table {self.name!r} must be an object like {{'done': false}}"
            raise InvalidRequestError(message)
        contains: dict[str, Any] = {}
        row_id = None
        for name, value in msgspec.to_builtins(wanted).items():
            stored_as = self.stored_name(name)
            if stored_as == self.key:
                row_id = documents.check_id(value, self.name)
            else:
                contains[stored_as] = value
        documents.check(contains, f"the filter of table {self.name!r}")
        return Filter(contains or None, row_id)

    def stored_name(self, field: str) -> str:
        """Return the JSON name of a field that a query asks for.

        Raises InvalidRequestError for an unknown field of a declared table, and likewise for one that callers may not
        read: whoever may ask for its value can find it out.
        """
        if self.struct is None:
            return field
        stored_as = self._names.get(field)
        if stored_as is None or stored_as in self.unreadable:
            known = ", ".join(sorted(name for name, stored in self._names.items() if stored not in self.unreadable))
            message = f"table {self.name!r} has no field {field!r} to ask for; it has {known}"
            raise InvalidRequestError(message)
        return stored_as

    def _document(self, value: Any) -> dict[str, Any]:
        document = msgspec.to_builtins(value)
        if not isinstance(document, dict):
            expected = self.struct.__name__ if self.struct is not None else "a dict"
            message = f"a row of table {self.name!r} must be {expected}, not {type(value).__name__}"
            raise InvalidRequestError(message)
        return document

    def _encode(self, document: dict[str, Any], row_id: str, *, keep_unknown: bool = False) -> str:
        what = f"the row of table {self.name!r}"
        if self.struct is not None:
            try:
                # Structs check nothing when they are made by hand: only a conversion applies the constraints.
                valid = msgspec.convert({**document, self.key: row_id}, self.struct)
            except msgspec.ValidationError as error:
                message = f"{what} is not valid: {error}"
                raise InvalidRequestError(message) from None
            if not keep_unknown:
                for name in document.keys() - set(self._names.values()):
                    fields = ", ".join(sorted(self._names))
                    message = f"table {self.name!r} has no field {name!r}; it has {fields}"
                    raise InvalidRequestError(message)
            known = msgspec.to_builtins(valid)
            del known[self.key]
            document = {**document, **known} if keep_unknown else known
        return documents.encode(document, what)


def _key_field(struct: type[msgspec.Struct]) -> str:
    hints = get_type_hints(struct, include_extras=True)
    marked = [name for name, hint in hints.items() if primkey in get_args(hint)[1:]]
    if not marked and "id" in hints:
        marked = ["id"]
    if len(marked) != 1:
        message = f"{struct.__name__} must mark one field as its id: id: Annotated[str, primkey]"
        raise TypeError(message)
    if get_type_hints(struct)[marked[0]] is not str:
        message = f"{struct.__name__}.{marked[0]} is the id of its rows and must be a str"
        raise TypeError(message)
    return marked[0]


def row_type(struct: type[msgspec.Struct]) -> RowType:
    """Return the row type of a struct that was declared with ``@table``."""
    meta: TableMeta = getattr(struct, TABLE)
    return RowType(meta.name, struct)
