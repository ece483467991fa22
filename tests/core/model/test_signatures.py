"""Arguments of a call against the annotations of a function."""

import json
from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated, Any

import msgspec
import pytest
from msgspec import Meta, Struct

from kontract.core import limits
from kontract.core.errors import InvalidRequestError
from kontract.core.model.signatures import Passing, Signature
from kontract.core.model.values import hook
from support.probe import Probe


class Ctx:
    pass


class Point(Struct):
    x: int
    y: int = 0


def bind(function, *arguments):
    return Signature(function, "f", Ctx).read(json.dumps(arguments).encode()).take("the context")


def named(function, body):
    return Signature(function, "f", Ctx).read(body, Passing.BY_NAME).take("the context")


async def add(a: int, ctx: Ctx, b: Annotated[int, Meta(ge=0)] = 5, tags: list[str] = []): ...  # noqa: B006


def test_the_context_is_injected_by_its_annotation():
    """Wherever it stands and whatever its name, callers cannot send it."""
    assert bind(add, 1) == {"a": 1, "b": 5, "tags": [], "ctx": "the context"}
    assert bind(add, 1, 2, ["x"]) == {"a": 1, "b": 2, "tags": ["x"], "ctx": "the context"}


def test_the_number_of_arguments():
    """Too few and too many are told with the names."""
    for arguments in ([], [1, 2, [], 4]):
        with pytest.raises(
            InvalidRequestError, match=rf"f takes 1 to 3 arguments \(a, \[b\], \[tags\]\) but got {len(arguments)}"
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
    with pytest.raises(InvalidRequestError, match=r"f takes no arguments but got 1"):
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


def test_arguments_by_name():
    """The same values as by position, whatever their order; optional ones may be left out."""
    assert named(add, b'{"tags": ["x"], "a": 1}') == bind(add, 1, 5, ["x"])
    assert named(add, b' {"a":1} ') == bind(add, 1)

    async def nothing(ctx: Ctx): ...

    assert named(nothing, b"") == named(nothing, b"{}") == bind(nothing)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b'{"b": 1}', "f: missing arguments: a"),
        (b"", "f: missing arguments: a"),
        (b'{"a": 1, "c": 2}', "f has no argument 'c'; it takes a, b, tags"),
        (b'{"a": "1"}', "f: argument a: Expected `int`, got `str`"),
        (b'{"a": 1, "tags": ["x", 2]}', r"f: argument tags\[1\]: Expected `str`"),
        (b"[1]", "f: the request body must be an object of arguments by name"),
        (b"null", "f: the request body must be an object of arguments by name"),
        (b'{"a": 1, "a": 2}', "the duplicate name 'a'"),
    ],
)
def test_wrong_arguments_by_name_are_named(body, words):
    """A caller learns which one is missing, unknown or of the wrong type."""
    with pytest.raises(InvalidRequestError, match=words):
        named(add, body)


@pytest.mark.parametrize("body", [b"1, 2", b"1], [2", b"1 2", b"1]"])
def test_a_single_value_is_one(body):
    """What is no JSON value must not become the arguments of a call."""
    with pytest.raises(InvalidRequestError):
        Signature(add, "f", Ctx).read(body).take("the context")


def test_an_integer_may_be_written_as_a_float():
    """693.0 is an integer in JSON Schema, and some clients write it so; 693.5 is none. Text is never touched."""

    async def f(n: int, text: str = "", x: float = 0): ...

    signature = Signature(f, "f", Ctx)
    for written in (b"693.0", b"6.93e2", b"69300e-2"):
        bound = signature.read(b'[%s, "1.0 \\" 2.0", 2.5]' % written).take(None)
        assert (bound["n"], type(bound["n"]), bound["text"], bound["x"]) == (693, int, '1.0 " 2.0', 2.5)
    for other in (b"693.5", b"1e400", b"1e-400", b"1.0.0"):
        with pytest.raises(InvalidRequestError):
            signature.read(b"[%s]" % other).take(None)


def test_numbers_keep_their_digits():
    """They are decoded to what the annotation says, not to floats on the way."""

    async def f(prices: list[Decimal]): ...

    bound = Signature(f, "f", Ctx).read(b"[[90071992547409.93]]").take(None)
    assert bound == {"prices": [Decimal("90071992547409.93")]}


def test_the_bound_on_values_holds_for_arguments():
    """However they are passed."""

    async def f(x: Any): ...

    most = b"[" + b",".join([b"0"] * limits.JSON_VALUES) + b"]"
    for body, passing in ((b"[%s]" % most, Passing.BY_POSITION), (b'{"x":%s}' % most, Passing.BY_NAME)):
        with pytest.raises(InvalidRequestError, match="more than 16000 values"):
            Signature(f, "f", Ctx).read(body, passing).take(None)


async def of_numbers(ctx: Ctx, a: list[Decimal], b: list[float], c: Any = None, d: int | float = 0) -> None: ...  # noqa: PYI041


def test_no_number_is_rounded():
    """Of a Decimal all of them; where a float is declared, one that it does not hold is refused; elsewhere kept."""
    signature = Signature(of_numbers, "f", Ctx)
    body = b'[[90071992547409.93, "1.10", 5, 1E+2, 12345678901234567890], [0.1, 0.10000000000000001, 1e22], [1.5, %s]]'
    long = b"1.00000000000000000000000001"
    bound = signature.read(body % long).take(None)
    assert bound["a"] == [Decimal(n) for n in ("90071992547409.93", "1.10", "5", "1E+2", "12345678901234567890")]
    assert bound["b"] == [0.1, 0.1, 1e22]
    assert msgspec.json.encode(bound["c"], enc_hook=hook) == b"[1.5," + long + b"]"
    assert signature.read(b"[[], [], null, 9007199254740993]").take(None)["d"] == 2**53 + 1
    for number in (b"90071992547409.93", b"9007199254740993", long, b"1e-400"):
        with pytest.raises(InvalidRequestError, match=r"f: argument b\[1\]: a float cannot hold all digits"):
            signature.read(b"[[], [1.5, %s]]" % number).take(None)


@dataclass
class WithDefault:
    x: int
    y: int = 7


class Price(Struct, rename="camel"):
    net_amount: Decimal = Decimal(1)


@dataclass
class Discount:
    factor: Decimal = Decimal(1)


async def of_decimals(
    ctx: Ctx,
    a: Decimal | None = None,
    b: list[Decimal] = [],  # noqa: B006
    c: dict[str, tuple[Price, Discount]] | None = None,
) -> None: ...


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ('["NaN"]', "argument a is NaN, which is not a number"),
        ('["-snan12"]', "argument a is -sNaN12, which is not a number"),
        ('[null, ["1", "\\u0069nf"]]', "argument b[1] is Infinity, which is not a number"),
        ("[1e999999999]", "argument a has more than 400 digits"),
        ('["-1E-999999999"]', "argument a has more than 400 digits"),
        ('["0e999999999"]', "argument a has more than 400 digits"),
        ('[null, [], {"x": [{"netAmount": "Infinity"}, {}]}]', "argument c.x[0].netAmount is Infinity"),
        ('[null, [], {"x": [{}, {"factor": "1e400"}]}]', "argument c.x[1].factor has more than 400 digits"),
    ],
)  # fmt: skip
def test_a_decimal_is_a_number_that_can_be_written_down(body, says):
    """As in rows: nobody can compute with the others, and a few bytes must not become a gigabyte of digits."""
    with pytest.raises(InvalidRequestError) as caught:
        Signature(of_decimals, "f", Ctx).read(body.encode()).take(None)
    assert str(caught.value).startswith(f"f: {says}")


@pytest.mark.parametrize("text", ["1e399", "-1e-400", "9" * 400, "0." + "1" * 399, "1e199", "1e-200", "0", "-0e5"])
def test_a_decimal_of_up_to_400_digits_comes_in(text):
    bound = Signature(of_decimals, "f", Ctx).read(f'["{text}", [{text}]]'.encode()).take(None)
    assert bound == {"a": Decimal(text), "b": [Decimal(text)], "c": None, "ctx": None}


async def of_dataclass(ctx: Ctx, a: list[WithDefault]) -> None: ...


def test_defaults_of_a_dataclass_are_there():
    """Whoever stores or returns the value without its type has all of it."""
    (value,) = Signature(of_dataclass, "f", Ctx).read(b'[[{"x": 1}]]').take(None)["a"]
    assert msgspec.json.encode(value) == b'{"x":1,"y":7}'


def test_each_attempt_is_given_arguments_of_its_own():
    """A function may change what it was given; the next attempt begins with what the caller sent."""

    def f(items: list[int], ctx: Ctx) -> None: ...

    arguments = Signature(f, "f", Ctx).read(b"[[1, 2]]")
    first, second = arguments.take("first"), arguments.take("second")
    first["items"].append(3)
    assert (second, arguments.take("third")["items"]) == ({"items": [1, 2], "ctx": "second"}, [1, 2])


def test_a_body_is_decoded_once_an_attempt():
    def f(title: str, count: int = 0) -> None: ...

    signature = Signature(f, "f", Ctx)
    for body, passing in ((b'["a", 1]', Passing.BY_POSITION), (b'{"title": "a", "count": 1}', Passing.BY_NAME)):
        with Probe() as probe:
            arguments = signature.read(body, passing)
            arguments.take(None)
        assert probe.codecs == {("kontract.core.model.values", "decode"): 1}
        with Probe() as probe:
            arguments.take(None)
        assert probe.codecs == {("kontract.core.model.values", "decode"): 1}
