"""Arguments and results make the round trip, and a wrong argument is named."""

from __future__ import annotations

import dataclasses
import datetime
import inspect
import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import msgspec
import pydantic
import pytest
from hypothesis import given, settings, strategies as st

from bokilog.call_errors import InvalidArguments, ResultUnusable
from bokilog.codec import pack
from bokilog.functions.runtime.messages import Encoding
from bokilog.functions.runtime.values import Values


@dataclasses.dataclass
class Order:
    item: str
    prices: list[float]
    due: datetime.date | None = None


class RushOrder(Order):
    pass


class Model(pydantic.BaseModel):
    at: datetime.datetime
    data: dict[str, int] = {}


class Struct(msgspec.Struct):
    name: str
    tags: set[str] = set()


def iter_of_nothing() -> Iterator[int]:
    yield from ()


class Opaque:
    """Nothing that JSON or msgpack could hold."""

    def __init__(self, value: int) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Opaque) and other.value == self.value

    __hash__ = None  # type: ignore[assignment]


def values_of(function: Callable[..., object]) -> Values:
    signature = inspect.signature(function, eval_str=True)
    return Values(
        function.__name__, list(signature.parameters.values()), result=signature.return_annotation
    )


def anything(*args, **kwargs):  # type: ignore[no-untyped-def]
    """Takes whatever comes."""


def typed(order: Order, count: int = 1, *, when: datetime.datetime | None = None) -> Order: ...  # type: ignore[empty-body]
def raw(data: bytes) -> bytes: ...  # type: ignore[empty-body]
def opaque(value: Opaque) -> Opaque: ...  # type: ignore[empty-body]
def models(model: Model, structs: list[Struct]) -> dict[str, Model]: ...  # type: ignore[empty-body]
def many(first: int, *rest: Order, **more: set[int]) -> None: ...


def round_trip(function: Callable[..., object], *args: object, **kwargs: object) -> Any:
    values = values_of(function)
    encoding, payload = values.encode_arguments(args, kwargs)
    positional, named = values.decode_arguments(encoding, memoryview(payload))
    return encoding, positional, named


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False)
    | st.text(max_size=8) | st.binary(max_size=8),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.text(max_size=4) | st.integers(0, 9), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip


@given(args=st.lists(PLAIN, max_size=3), kwargs=st.dictionaries(st.text("abc"), PLAIN, max_size=2))
@settings(max_examples=40, deadline=None)
def test_plain_values_come_back_exactly_as_they_were(args: Any, kwargs: Any) -> None:
    assert round_trip(anything, *args, **kwargs) == (Encoding.MSGPACK, args, kwargs)


@given(value=PLAIN)
@settings(max_examples=40, deadline=None)
def test_plain_results_come_back_exactly_as_they_were(value: object) -> None:
    values = values_of(anything)
    back = values.decode_result(*values.encode_result(value))
    assert back == value
    assert type(back) is type(value)


@pytest.mark.parametrize(
    "value", [(1, 2), {1, 2}, [(1,)], Opaque(3), 2**70, datetime.date(2026, 1, 2), lambda: 3]
)
def test_what_msgpack_would_change_goes_by_pickle(value: object) -> None:
    encoding, positional, _ = round_trip(anything, value)
    assert encoding == Encoding.PICKLE
    assert type(positional[0]) is type(value)


def test_typed_arguments_travel_in_their_plain_form() -> None:
    order = Order("tea", [1.5], datetime.date(2026, 1, 2))
    when = datetime.datetime(2026, 1, 2, 3, 4)
    encoding, positional, named = round_trip(typed, order, when=when)
    assert (encoding, positional, named) == (Encoding.MSGPACK, [order], {"when": when})


def test_models_travel_and_come_back_as_models() -> None:
    model = Model(at=datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC), data={"a": 1})
    structs = [Struct("x", {"t"}), Struct("y")]
    assert round_trip(models, model, structs=structs) == (
        Encoding.MSGPACK,
        [model],
        {"structs": structs},
    )
    values = values_of(models)
    encoding, payload = values.encode_result({"a": model})
    assert encoding == Encoding.MSGPACK
    assert values.decode_result(encoding, payload) == {"a": model}


def test_a_subclass_is_not_cut_down_to_what_the_annotation_says() -> None:
    rush = RushOrder("tea", [])
    encoding, positional, _ = round_trip(typed, rush)
    assert (encoding, type(positional[0])) == (Encoding.PICKLE, RushOrder)
    values = values_of(typed)
    encoding, payload = values.encode_result(rush)
    assert encoding == Encoding.PICKLE
    assert type(values.decode_result(encoding, payload)) is RushOrder


def test_several_arguments_of_one_parameter_are_converted_each() -> None:
    orders = [Order("a", []), Order("b", [])]
    assert round_trip(many, 1, *orders, x={1, 2}) == (
        Encoding.MSGPACK,
        [1, *orders],
        {"x": {1, 2}},
    )


def test_the_bytes_of_a_single_argument_travel_as_they_are() -> None:
    data = b"\x00" * 100
    assert values_of(raw).encode_arguments([data], {}) == (Encoding.RAW, data)
    assert values_of(raw).encode_arguments([data], {})[1] is data
    assert round_trip(raw, data) == (Encoding.RAW, [data], {})


def test_types_without_a_plain_form_are_for_python_callers_only() -> None:
    assert round_trip(opaque, Opaque(3)) == (Encoding.PICKLE, [Opaque(3)], {})
    with pytest.raises(InvalidArguments, match=r"argument 'value'.*only Python callers can give"):
        values_of(opaque).decode_arguments(Encoding.JSON, b'{"value": 3}')


JSON_ORDER = {"item": "tea", "prices": [1, 2.5], "due": "2026-01-02"}


@pytest.mark.parametrize(
    ("encoding", "body"),
    [
        (Encoding.JSON, json.dumps({"order": JSON_ORDER, "count": 2}).encode()),
        (Encoding.JSON, json.dumps([JSON_ORDER, 2]).encode()),
        (Encoding.MSGPACK, pack({"order": JSON_ORDER, "count": 2})),
        (Encoding.MSGPACK, pack([[JSON_ORDER], {"count": 2}])),
    ],
)
def test_bodies_of_http_become_typed_arguments(encoding: Encoding, body: bytes) -> None:
    positional, named = values_of(typed).decode_arguments(encoding, body)
    order = named.get("order", positional[0] if positional else None)
    assert order == Order("tea", [1.0, 2.5], datetime.date(2026, 1, 2))


def test_an_empty_body_is_no_arguments() -> None:
    assert values_of(anything).decode_arguments(Encoding.JSON, b"") == ([], {})


def one(number: int, *, flag: bool) -> None: ...


WRONG: Sequence[tuple[Callable[..., object], object, str, str]] = [
    (one, {"flag": True}, "number", "is missing"),
    (one, {"number": 1}, "flag", "is missing"),
    (one, {"number": 1, "flag": True, "nmber": 1}, "nmber", "did you mean 'number'"),
    (one, [1, 2], "#2", "is one too many"),
    (one, {"number": "1", "flag": True}, "number", "'1' is str, not int"),
    (typed, {"order": {"item": "x"}}, "order", "prices"),
    (typed, {"order": {**JSON_ORDER, "more": 1}}, "order", "no field 'more'"),
    (typed, {"order": 3}, "order", "not dict"),
    (models, {"model": {"at": "x"}, "structs": []}, "model", "at"),
    (models, {"model": {"at": "2026-01-02T00:00:00"}, "structs": [{}]}, "structs", "name"),
    (raw, {"data": "?"}, "data", "is not usable"),
]


@pytest.mark.parametrize(("function", "body", "argument", "problem"), WRONG)
def test_a_wrong_argument_is_named(
    function: Callable[..., object], body: object, argument: str, problem: str
) -> None:
    with pytest.raises(InvalidArguments) as caught:
        values_of(function).decode_arguments(Encoding.JSON, json.dumps(body).encode())
    assert caught.value.function == function.__name__
    assert caught.value.argument == argument
    assert problem in caught.value.problem


@pytest.mark.parametrize(
    ("encoding", "body"),
    [
        (Encoding.JSON, b"{"),
        (Encoding.JSON, b"3"),
        (Encoding.JSON, b"\xff"),
        (Encoding.JSON, b"[" * 100_000),
        (Encoding.MSGPACK, b"\xc1"),
        (Encoding.MSGPACK, pack([1, 2])),
        (Encoding.MSGPACK, pack({1: 2})),
        (Encoding.PICKLE, b"garbage"),
        (Encoding.RAW, b"xx"),
        (77, b""),
    ],
)
def test_garbage_is_refused_as_arguments(encoding: int, body: bytes) -> None:
    with pytest.raises(InvalidArguments):
        values_of(one).decode_arguments(encoding, body)


@given(body=st.binary(max_size=40), encoding=st.sampled_from([0, 1, 2]))
@settings(max_examples=100, deadline=None)
def test_no_bytes_raise_anything_else(body: bytes, encoding: int) -> None:
    for function in (one, typed, raw):
        try:
            values_of(function).decode_arguments(encoding, body)
        except InvalidArguments:
            pass


def test_an_argument_that_cannot_travel_is_named_before_anything_is_sent() -> None:
    generator = iter_of_nothing()
    with pytest.raises(InvalidArguments, match="argument '#2' cannot be sent: generator"):
        values_of(anything).encode_arguments([1, generator], {})


@pytest.mark.parametrize("asked", [Encoding.JSON, Encoding.RAW])
def test_results_for_http_are_json(asked: Encoding) -> None:
    order = Order("tea", [1.5], datetime.date(2026, 1, 2))
    encoding, payload = values_of(anything).encode_result({"order": order}, asked)
    assert encoding == Encoding.JSON
    assert json.loads(payload) == {"order": {"item": "tea", "prices": [1.5], "due": "2026-01-02"}}


def test_bytes_are_results_as_they_are_for_everybody() -> None:
    for asked in (Encoding.JSON, Encoding.RAW, Encoding.MSGPACK, Encoding.PICKLE):
        assert values_of(anything).encode_result(b"x", asked) == (Encoding.RAW, b"x")
    assert values_of(anything).decode_result(Encoding.RAW, memoryview(b"x")) == b"x"


@pytest.mark.parametrize(
    ("value", "asked"),
    [
        (Opaque(1), Encoding.JSON),
        (float("nan"), Encoding.JSON),
        (iter_of_nothing(), Encoding.MSGPACK),
    ],
)
def test_a_result_that_cannot_be_sent_is_said_so(value: object, asked: Encoding) -> None:
    with pytest.raises(ResultUnusable, match="anything is over, but its result"):
        values_of(anything).encode_result(value, asked)


def test_a_result_of_another_version_is_said_so() -> None:
    with pytest.raises(ResultUnusable, match="cannot be read here"):
        values_of(typed).decode_result(Encoding.MSGPACK, pack({"other": 1}))


def test_the_signature_is_shown_as_people_write_it() -> None:
    shown = values_of(one).signature
    assert shown == "(number: int, *, flag: bool) -> None"


@pytest.mark.parametrize(
    ("data", "said"), [(b"\xc1", "is bad msgpack: FormatError"), (b"\x92", "is bad msgpack: ")]
)
def test_bytes_that_are_no_msgpack_are_the_callers_own_mistake(data: bytes, said: str) -> None:
    def named(name: str) -> None: ...

    with pytest.raises(InvalidArguments, match=said) as caught:
        values_of(named).decode_arguments(Encoding.MSGPACK, data)
    assert "the other side" not in str(caught.value)
