"""Between the rows of the application (structs or dicts) and the JSON text that is stored."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any, get_args, get_type_hints

import msgspec
from msgspec import inspect

from kontract.core import incoming, limits
from kontract.core.errors import InvalidRequestError, PermissionDeniedError
from kontract.core.model import documents, fields, typed, values
from kontract.core.model.asked import UnknownFieldError, check_question
from kontract.core.model.conditions import Condition, bounds_of
from kontract.core.model.declare import TABLE, TableMeta, primkey
from kontract.core.model.kinds import ANYTHING, Kind, Record, holds, kind_of, tag_field
from kontract.core.model.perms import READ, WRITE
from kontract.core.model.shown import hidden_names, shown
from kontract.core.types import EVERY_ROW, Bound, Filter, Order, Version

_encode = documents.encode_json

ANY = inspect.AnyType()
"""What rows of a table without a struct are."""

_ID = inspect.StrType()


class RowType:
    """The type of the rows of one logical table.

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
        self.record: Record | None = None
        self._fields: dict[str, Kind] = {}
        self._unreadable: frozenset[str] = frozenset()
        self._unwritable: frozenset[str] = frozenset()
        self._hidden: frozenset[str] = frozenset()  # names at every depth
        self._has_anything = True
        self._names: dict[str, str] = {}
        if struct is not None:
            fields.check(struct, f"table {name!r}")
            meta: TableMeta | None = getattr(struct, TABLE, None)
            self.own = meta is not None and meta.rows == "own"
            self.streamed = meta is not None and meta.stream
            self._unreadable, self._unwritable = fields.without(struct, READ), fields.without(struct, WRITE)
            self._names = {field.name: field.encode_name for field in msgspec.structs.fields(struct)}
            self.key = self._names[_key_field(struct)]
            if self.key in self._unreadable:
                message = f"{struct.__name__}.{self.key} is the id of its rows: callers see ids, so it cannot be hidden"
                raise TypeError(message)
            kind = kind_of(struct)
            assert isinstance(kind, inspect.StructType)
            self.record = kind
            self._fields = {field.encode_name: field.type for field in kind.fields}
            self._hidden = hidden_names(kind)
            self._has_anything = holds(kind, ANYTHING)
            self._has_floats = holds(kind, (inspect.FloatType,))
            self._has_defaults = holds(kind, (inspect.DataclassType,))
            self._decode = values.Decoder[Any](struct).decode
            self._key_text = _encode(self.key)

    def encode(self, value: Any, row_id: str | None) -> str:
        """Validate a row and return its JSON without the id; ``row_id`` None: any id in it is ignored."""
        document = self._document(value)
        self._check_remembered(value)
        given = document.pop(self.key, None)
        if row_id is not None and given not in (None, "", row_id):
            message = f"the row has the {self.key} {given!r:.100} but is written as {row_id!r:.100}"
            raise InvalidRequestError(message)
        if self.struct is None:
            return self._encode(self._normal(document))
        self._check_held(document)
        try:
            # Constructing a struct checks nothing: only a conversion applies the constraints.
            if values.has_numbers(document):  # only JSON keeps its digits
                valid = self._read(self._encode(self._normal(document)), row_id or "")
            else:
                valid = msgspec.convert({**document, self.key: row_id or ""}, self.struct, str_keys=True)
        except msgspec.ValidationError as error:
            raise self._not_valid(error) from None
        known = {*self._names.values(), tag_field(self.record) if self.record is not None else ""}
        for name in document.keys() - known:
            message = f"table {self.name!r} has no field {name!r}; it has {self._known()}"
            raise InvalidRequestError(message)
        return self._encode(self._stored(valid))

    def merge(self, current: str, changes: dict[str, Any], row_id: str) -> str:
        """Apply changes to a stored row and return the new JSON. Stored fields the struct does not know are kept."""
        changed: dict[str, Any] = {}
        for name, value in changes.items():
            stored_as = self._names.get(name) if self.struct is not None else name
            if stored_as is None or (stored_as in self._unreadable and stored_as in self._unwritable):
                seen = self._known(without=self._unwritable | {self.key})
                message = f"table {self.name!r} has no field {name!r}; update may change {seen}"
                raise InvalidRequestError(message)
            if stored_as in self._unwritable:
                message = (
                    f"field {name!r} of table {self.name!r} cannot be changed with update, because callers may not "
                    "write it; to change it in a function, write the whole row with set"
                )
                raise PermissionDeniedError(message)
            if stored_as == self.key:
                message = f"the id of a row cannot be changed; delete it and insert it with a new {name}"
                raise InvalidRequestError(message)
            if stored_as in self._fields:
                fields.refuse_in(self._fields[stored_as], value, f"update of table {self.name!r}: {name}")
            changed[stored_as] = value
        document: dict[str, Any] = {**documents.parts(current), **self._normal(changed)}
        self._check_remembered(changed)
        if self.struct is not None:
            self._check_held(self._plain(changed, self._what))
        return self._encode(document if self.struct is None else self._merged(document, changed.keys(), row_id))

    def _merged(self, document: dict[str, Any], changed: Collection[str], row_id: str) -> dict[str, Any]:
        """Validate a changed row. Unchanged fields keep every digit that the database has."""
        try:
            valid = self._read(documents.encode(document, self._what), row_id)
        except msgspec.ValidationError as error:
            raise self._not_valid(error) from None
        for name, value in self._stored(valid).items():
            if name in changed or name not in document or self._is_respelled(name, document[name]):
                document[name] = value
        return document

    def _check_remembered(self, value: Any) -> None:
        """Raise InvalidRequestError for an object whose hidden fields the table would show, lacking a type for it."""
        place = typed.forgotten(self.record or ANY, value, "row") if self._has_anything else None
        if place is not None:
            message = (
                f"{place} of table {self.name!r} holds an object with fields that callers may not read, but its "
                "declared type does not know them; declare its struct there, or store only what callers may see"
            )
            raise InvalidRequestError(message)

    def _check_held(self, document: dict[str, Any]) -> None:
        """Raise InvalidRequestError for a number that a float field would round."""
        if not self._has_floats:
            return
        for name in document.keys() & self._fields.keys():
            place = typed.rounded(self._fields[name], document[name], name)
            if place is not None:
                message = f"{place}: a float cannot hold all digits of this number; round it, or declare a Decimal"
                raise InvalidRequestError(self._told(f"{self._what} is not valid: {message}"))

    def _is_respelled(self, name: str, raw: msgspec.Raw) -> bool:
        """Return whether a stored field can get its type's spelling: it has one, and no number would be rounded."""
        kind = self._fields.get(name)
        return kind is not None and typed.is_spelled(kind) and typed.rounded(kind, values.decode(raw), "") is None

    def respelled(self, data: str, row_id: str) -> str | None:
        """Return a stored row in the spelling of its types; None if it already has it.

        Raises msgspec.ValidationError for a row that does not match its type, or whose values have no such spelling.
        """
        fields = documents.parts(data)
        try:
            stored = self._stored(self._read(data, row_id))
        except InvalidRequestError as error:
            raise msgspec.ValidationError(error.message) from None
        fresh = {
            name: value
            for name, value in stored.items()
            if name in fields and self._is_respelled(name, fields[name]) and not _is_same(value, fields[name])
        }
        return self._encode({**fields, **fresh}) if fresh else None

    def decode(self, version: Version) -> Any:
        """Return the row as the application sees it."""
        if self.struct is None:
            document = values.decode(version.data)
            document[self.key] = version.id
            return document
        return self._read(version.data, version.id)

    def _read(self, data: str, row_id: str) -> Any:
        # The last of duplicate names counts: JSON written by others may have the id's name.
        comma = "" if data == "{}" else ","
        return self._decode(f"{data[:-1]}{comma}{self._key_text}:{_encode(row_id)}}}")

    def shown(self, version: Version) -> dict[str, Any]:
        """Return what callers see of a stored row, even one too old to be decoded."""
        document = values.decode(version.data)
        if self.record is not None:
            document = shown(self.record, document)
        return {self.key: version.id, **document, self.key: version.id}  # the row's id, whatever is stored

    def filter(self, wanted: Any) -> Filter:
        """Parse the filter of a query: fields by name, and the id separately."""
        if wanted is None:
            return EVERY_ROW
        if not isinstance(wanted, dict):
            message = f"a filter of table {self.name!r} must be an object like {{'done': false}}"
            raise InvalidRequestError(message)
        contains: dict[str, Any] = {}
        asked: list[tuple[str, str, Any]] = []
        row_id = None
        what = f"the filter of table {self.name!r}"
        conditions = {name: value for name, value in wanted.items() if isinstance(value, Condition)}
        asked_for = self._plain({name: value for name, value in wanted.items() if name not in conditions}, what)
        compared = sum(len(values) for one in conditions.values() for _, values in one.parts)
        if incoming.count(msgspec.json.encode(asked_for, enc_hook=str)) + compared > limits.FILTER_VALUES:
            message = f"{what} has more than {limits.FILTER_VALUES} values; filter by fewer, and check the rows found"
            raise InvalidRequestError(message)
        for name, value in asked_for.items():
            stored_as = self.stored_name(name)
            if stored_as == self.key:
                row_id = documents.check_id(value, self.name)
                continue
            contains[stored_as] = value
            asked.append((stored_as, name, value))
        bounds = tuple(bound for name, one in conditions.items() for bound in self._bounds(name, one, what))
        if self.struct is None:
            return Filter(documents.normal(contains, what) or None, row_id, bounds=bounds)
        return self._filter(asked, row_id, bounds, what)

    def _bounds(self, name: str, condition: Condition, what: str) -> list[Bound]:
        """Return what a condition on a field means, which is declared, or the id."""
        field = self.stored_name(name)
        kind: Kind = _ID
        order: Order | None = Order.TEXT
        if field == self.key:
            field = ""
        elif self.struct is None:
            message = (
                f"table {self.name!r} declares no fields, so {name!r} can only be compared with one value; declare its "
                "rows with @table"
            )
            raise InvalidRequestError(message)
        else:
            kind = self._fields[field]
            order = typed.order_of(kind)
        if order is None:
            without = frozenset(name for name, kind in self._fields.items() if typed.order_of(kind) is None)
            message = (
                f"{what} compares {name!r}, whose type has no order; it can compare {self._known(without=without)}"
            )
            raise InvalidRequestError(message)
        try:
            return bounds_of(condition, field, order, kind, name)
        except msgspec.ValidationError as error:
            message = f"{what} can find nothing: {error}"
            raise InvalidRequestError(message) from None

    def _filter(
        self, asked: list[tuple[str, str, Any]], row_id: str | None, bounds: tuple[Bound, ...], what: str
    ) -> Filter:
        """Return a filter with its values in the stored spelling of their fields."""
        for question in asked:
            self._check_question(*question)
        contains: dict[str, Any] = {}
        for stored_as, name, value in asked:
            try:
                contains[stored_as] = typed.wanted(self._fields[stored_as], value, name)
            except msgspec.ValidationError as error:
                message = f"{what} cannot match any row: {error}"
                raise InvalidRequestError(message) from None
        compared = [
            (name, order)
            for name, value in contains.items()
            if value is not None and (order := typed.compared_by(self._fields[name])) is not None
        ]
        spelled = frozenset(name for name, value in contains.items() if values.has_spellings(value))
        return Filter(documents.normal(contains, what) or None, row_id, tuple(compared), spelled, bounds)

    def stored_name(self, field: str) -> str:
        """Return the JSON name of a field that a query names.

        Raises InvalidRequestError for an unknown field of a declared table, and for one that callers may not read: a
        caller who may query its value can find it out.
        """
        if self.struct is None:
            return field
        stored_as = self._names.get(field)
        if stored_as is None or stored_as in self._unreadable:
            message = f"table {self.name!r} has no field {field!r} to query; it has {self._known()}"
            raise InvalidRequestError(message)
        return stored_as

    def order(self, field: str) -> tuple[str | None, Order | None]:
        """Return the order of a query: the JSON name of a field (None: the id), and how its values are compared.

        Without a declared type values are compared as JSON. Raises
        InvalidRequestError as :meth:`stored_name` does, and for a field whose values have no order.
        """
        stored_as = self.stored_name(field)
        if stored_as == self.key:
            return None, None
        if self.struct is None:
            return stored_as, None
        kind = self._fields[stored_as]
        if not typed.has_order(kind):
            without = frozenset(name for name, kind in self._fields.items() if not typed.has_order(kind))
            message = (
                f"table {self.name!r} cannot be ordered by {field!r}, whose type has no order; it can be ordered "
                "by "
                f"{self._known(without=without)}"
            )
            raise InvalidRequestError(message)
        return stored_as, typed.order_of(kind)

    def _check_question(self, stored_as: str, name: str, value: Any) -> None:
        if self.struct is None:
            return
        try:
            check_question(self._fields[stored_as], value, name)
        except UnknownFieldError as unknown:
            if unknown.known:
                known = ", ".join(unknown.known)
                message = f"table {self.name!r} has no field {unknown.path!r} to query; known fields: {known}"
            else:
                message = f"no row of table {self.name!r} can hold what the filter wants of {unknown.path!r}"
            raise InvalidRequestError(message) from None

    def _known(self, *, without: frozenset[str] = frozenset()) -> str:
        """Return the names of the fields that callers may know."""
        hidden = self._unreadable | without
        return ", ".join(sorted(name for name, stored in self._names.items() if stored not in hidden))

    @property
    def _what(self) -> str:
        return f"the row of table {self.name!r}"

    def _plain(self, value: Any, what: str) -> Any:
        try:
            return values.with_numbers(*values.plain(value))
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            message = f"{what} cannot be stored: {error}"
            raise InvalidRequestError(message) from None

    def _document(self, value: Any) -> dict[str, Any]:
        document = self._plain(value, self._what)
        if not isinstance(document, dict):
            expected = self.struct.__name__ if self.struct is not None else "a dict"
            message = f"a row of table {self.name!r} must be {expected}, not {type(value).__name__}"
            raise InvalidRequestError(message)
        return document

    def _normal(self, value: Any) -> dict[str, Any]:
        try:
            document: dict[str, Any] = documents.normal(value, self._what)
        except InvalidRequestError as error:
            raise InvalidRequestError(self._told(error.message)) from None
        return document

    def _stored(self, valid: Any) -> dict[str, Any]:
        """Return a valid row in its stored form, without its id."""
        if self._has_defaults:
            typed.completed(valid)
        document = self._normal(valid)
        document.pop(self.key, None)
        return document

    def _encode(self, document: dict[str, Any]) -> str:
        return documents.encode(document, self._what)

    def _not_valid(self, error: msgspec.ValidationError) -> InvalidRequestError:
        return InvalidRequestError(self._told(f"{self._what} is not valid: {error}"))

    def _told(self, message: str) -> str:
        """Return the message for an invalid row, without values or names of hidden fields.

        The row has fields that its function has set, and older ones that an update kept.
        """
        for name in self._hidden:
            if re.search(rf"[.`]{re.escape(name[:_STEP])}(?=[.`\[ ]|$)", message):
                return f"{self._what} is not valid: a field that callers may not read does not match its type"
        return message


def _is_same(value: Any, raw: msgspec.Raw) -> bool:
    """Return whether a stored field is exactly this value, in normal form."""
    return bool(values.decode(documents.encode_json(value)) == values.decode(raw))


_STEP = 40
"""Most characters of a name that a message about a flaw repeats (kontract.core.model.documents)."""


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
