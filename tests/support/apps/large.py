"""A larger application: arguments and results of every kind that a document can describe, in several groups."""

import enum
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Annotated, Any, Literal, NamedTuple, TypedDict
from uuid import UUID

from msgspec import Meta, Struct

from kontract import ConflictError, Context, HttpResp, NotFoundError, Page, RowId, backend, perm, perms, primkey, table


class Colour(enum.Enum):
    RED = "red"
    GREEN = "green"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Cat(Struct, tag="cat"):
    """A cat."""

    lives: Annotated[int, Meta(ge=0, le=9)] = 9


class Dog(Struct, tag="dog"):
    """A dog."""

    name: Annotated[str, Meta(min_length=1)]


class Tree(Struct):
    """A node and what hangs below it."""

    value: int
    children: list["Tree"] = []


class Point(Struct, array_like=True, forbid_unknown_fields=True):
    """A struct that is an array."""

    x: float
    y: float = 0.0


class Pair(NamedTuple):
    """A tuple with names."""

    left: int
    right: str


class Options(TypedDict, total=False):
    """A dict with names."""

    dark: bool
    size: int


@dataclass
class Box:
    """A dataclass."""

    width: int
    label: str = ""


@table("books")
class Book(Struct):
    """A row with fields of every permission."""

    id: Annotated[str, primkey]
    title: Annotated[str, Meta(min_length=1, max_length=50)]
    price: Annotated[int, Meta(ge=0, le=10**9)] = 0
    added_by: Annotated[str, perm(perms.R__)] = ""
    secret: Annotated[str, perm(perms._W_)] = ""


class Shelf(Struct):
    """Rows within another struct."""

    name: str
    books: list[Book] = []


# --- arguments -------------------------------------------------------------------------------------------------------


@backend(egroup="arguments", public=True, perm=perms.R__)
async def plain(ctx: Context, text: str, number: int, real: float, yes: bool) -> list[Any]:
    """Take the plain types."""
    return [text, number, real, yes]


@backend(egroup="arguments", perm=perms.R__)
async def bounded(
    ctx: Context,
    code: Annotated[str, Meta(pattern="^[a-z]{2,4}$")],
    share: Annotated[float, Meta(gt=0, lt=1)],
    dozen: Annotated[int, Meta(multiple_of=12, ge=0)] = 0,
    few: Annotated[list[int], Meta(max_length=3)] = [],  # noqa: B006 - an argument's default is copied
) -> str:
    """Take what is bounded."""
    return code


@backend(egroup="arguments", perm=perms.R__)
async def chosen(ctx: Context, colour: Colour, level: Level = Level.LOW, word: Literal["a", "b", 3] = "a") -> Colour:
    """Take one of several."""
    return colour


@backend(egroup="arguments", perm=perms.R__)
async def nested(ctx: Context, tree: Tree, pet: Cat | Dog, shelf: Shelf | None = None) -> Tree:
    """Take structs within structs."""
    return tree


@backend(egroup="arguments", perm=perms.R__)
async def odd_shapes(
    ctx: Context, point: Point, pair: Pair, options: Options, box: Box, three: tuple[int, str, bool]
) -> Point:
    """Take arrays and objects that are Python's own."""
    return point


@backend(egroup="arguments", perm=perms.R__)
async def dated(
    ctx: Context, day: date, at: Annotated[datetime, Meta(tz=True)] | None = None, key: UUID | None = None
) -> date:
    """Take days, times and keys."""
    return day


@backend(egroup="arguments", perm=perms.R__)
async def anything(ctx: Context, value: Any = None) -> Any:
    """Take anything at all."""
    return value


@backend(egroup="arguments", perm=perms.R__)
async def only_a_list(ctx: Context, values: list[int]) -> int:
    """Take a list, which cannot stand by itself at /rpc."""
    return len(values)


@backend(egroup="arguments", perm=perms.R__)
async def list_or_one(ctx: Context, values: list[int] | int | None = None) -> int:
    """Take a list or one."""
    return 0


@backend(egroup="arguments", perm=perms.R__)
async def by_name(
    ctx: Context, scores: dict[str, float], tags: set[str] | None = None, *, strict: bool = False
) -> dict[str, float]:
    """Take dicts and sets."""
    return scores


# --- results ---------------------------------------------------------------------------------------------------------


@backend(egroup="results", perm=perms.R__)
async def nothing(ctx: Context) -> None:
    """Return nothing."""


@backend(egroup="results", perm=perms.R__)
async def unsaid(ctx: Context):
    """Return what no annotation says."""
    return {"a": [1, None]}


@backend(egroup="results", perm=perms.R__)
async def page_of_books(ctx: Context) -> Page[Book]:
    """Return a generic struct."""
    return Page([Book("1", "A", 5, "ann", "s")], "1")


@backend(egroup="results", perm=perms.R__)
async def several(ctx: Context, which: Annotated[int, Meta(ge=0, le=3)] = 0) -> Cat | Dog | None:
    """Return one of several."""
    return [Cat(), Dog("Rex"), None, Cat(3)][which]


@backend(egroup="results", perm=perms.R__)
async def triple(ctx: Context) -> tuple[int, str, Pair]:
    """Return a tuple."""
    return 1, "x", Pair(1, "y")


@backend(egroup="results", perm=perms.R__)
async def many(ctx: Context) -> dict[str, list[Tree | None]]:
    """Return containers."""
    return {"a": [Tree(1, [Tree(2)]), None]}


@backend(egroup="results", perm=perms.R__)
async def now(ctx: Context) -> datetime:
    """Return the time."""
    return datetime(2040, 1, 1, tzinfo=UTC)


@backend(egroup="results", perm=perms.R__)
async def boxed(ctx: Context) -> Box:
    """Return a dataclass."""
    return Box(1, "x")


@backend(egroup="results", perm=perms.RW_)
async def make(ctx: Context, title: Annotated[str, Meta(min_length=1, max_length=50)]) -> HttpResp:
    """Return 201 with a place."""
    return HttpResp.created({"title": title}, "/books/1")


@backend(egroup="results", perm=perms.R__)
async def empty(ctx: Context) -> HttpResp:
    """Return 204."""
    return HttpResp.no_content()


@backend(egroup="results", perm=perms.R__)
async def elsewhere(ctx: Context) -> HttpResp:
    """Return 303."""
    return HttpResp.redirect("/health")


@backend(egroup="results", perm=perms.R__)
async def perhaps(ctx: Context, there: bool) -> HttpResp | Book:
    """Return a row, or a status."""
    return Book("1", "A") if there else HttpResp.ok({"there": False})


# --- rows ------------------------------------------------------------------------------------------------------------


@backend(egroup="books", perm=perms.RW_)
async def keep_book(ctx: Context, id: RowId, title: Annotated[str, Meta(min_length=1, max_length=50)]) -> Book:
    """Keep a book."""
    await ctx.storage.books.set(id, Book(id, title, added_by=ctx.user))
    return await ctx.storage.books.get(id)


@backend(egroup="books", perm=perms.RW_)
async def store_book(ctx: Context, book: Book) -> str:
    """Keep a book that the caller has made, under an id of ours."""
    return await ctx.storage.books.push(book)


@backend(egroup="books", perm=perms.R__)
async def get_book(ctx: Context, id: RowId) -> Book:
    """Return a book."""
    book = await ctx.storage.books.get(id)
    if book is None:
        raise NotFoundError("there is no such book")
    return book


@backend(egroup="books", perm=perms.RW_)
async def drop_book(ctx: Context, id: RowId) -> bool:
    """Remove a book, if nobody minds."""
    if id == "kept":
        raise ConflictError("this one stays")
    return await ctx.storage.books.delete(id)


@backend(ugroup="admin", egroup="books", perm=perms.RWX)
async def burn_books(ctx: Context) -> int:
    """Remove all books; for the group admin."""
    return 0
