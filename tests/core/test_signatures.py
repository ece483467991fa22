"""Arguments of a call against the annotations of a function."""

from typing import Annotated

import pytest
from msgspec import Meta, Struct

from kontract.core.errors import InvalidRequestError
from kontract.core.signatures import Signature


class Ctx:
    pass


class Point(Struct):
    x: int
    y: int = 0


def bind(function, *arguments):
    return Signature(function, "f", Ctx).bind(list(arguments), "the context")


async def add(a: int, ctx: Ctx, b: Annotated[int, Meta(ge=0)] = 5, tags: list[str] = []): ...  # noqa: B006


def test_the_context_is_injected_by_its_annotation():
    """Wherever it stands and whatever its name, callers cannot send it."""
    assert bind(add, 1) == {"a": 1, "b": 5, "tags": [], "ctx": "the context"}
    assert bind(add, 1, 2, ["x"]) == {"a": 1, "b": 2, "tags": ["x"], "ctx": "the context"}


def test_the_number_of_arguments():
    """Too few and too many are told with the names."""
    for arguments in ([], [1, 2, [], 4]):
        with pytest.raises(
            InvalidRequestError, match=rf"f takes \(a, \[b\], \[tags\]\), but {len(arguments)} argument"
        ):
            bind(add, *arguments)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["1"], "argument a: Expected `int`"),
        ([True], "argument a"),
        ([1.5], "argument a"),
        ([None], "argument a"),
        ([1, -1], "argument b"),
        ([1, 1, ["x", 2]], r"argument tags\[1\]"),
        ([1, 1, {"x": 1}], "argument tags"),
    ],
)
def test_wrong_types_name_the_argument(arguments, words):
    """A caller learns which one, and what was expected."""
    with pytest.raises(InvalidRequestError, match=words):
        bind(add, *arguments)


def test_structs_are_built_from_objects():
    """Nested errors carry the path."""

    async def f(p: Point, ps: dict[str, Point] = {}): ...  # noqa: B006

    assert bind(f, {"x": 1}) == {"p": Point(1), "ps": {}}
    with pytest.raises(InvalidRequestError, match=r"argument p\.x"):
        bind(f, {"x": "1"})
    with pytest.raises(InvalidRequestError, match=r"argument ps\[\.\.\.\]\.x"):
        bind(f, {"x": 1}, {"a": {"x": "1"}})


def test_default_values_are_not_shared_between_calls():
    """A handler that appends to its default must not change the next call's."""
    bind(add, 1)["tags"].append("x")
    assert bind(add, 1)["tags"] == []


def test_a_function_without_arguments():
    """Only the context, or nothing at all."""

    async def f(): ...

    assert bind(f) == {}
    with pytest.raises(InvalidRequestError, match=r"f takes \(\), but 1 argument came"):
        bind(f, 1)


def test_functions_that_cannot_be_called_over_rpc():
    """Found when the function is loaded, with a sentence."""

    async def star(*rest: int): ...
    async def stars(**rest: int): ...
    async def bare(a): ...

    for function, words in ((star, r"\*rest"), (stars, r"\*rest"), (bare, "type annotation")):
        with pytest.raises(TypeError, match=words):
            Signature(function, "f", Ctx)


def test_a_required_parameter_after_an_optional_one_is_refused():
    """Python allows it for keyword-only parameters, but the arguments of a call have an order."""

    async def odd(ctx: Ctx, *, a: int = 1, b: int): ...

    async def fine(a: int = 1, *, ctx: Ctx): ...

    with pytest.raises(TypeError, match="f: parameter b has no default but follows one that has"):
        bind(odd)
    assert bind(fine) == {"a": 1, "ctx": "the context"}
