"""Typed values: round trips, one encoding per value, errors where they belong."""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import enum
import uuid
from typing import Literal

import pytest

from bokilog.client.codecs import Codec, codec_for
from bokilog.errors import DecodeError, InvalidData, InvalidSettings
from bokilog.record import Entry
from tests.unit.client.opened import opened


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


@dataclasses.dataclass
class Line:
    item: str
    price: decimal.Decimal
    blob: bytes = b""


@dataclasses.dataclass
class Order:
    id: uuid.UUID
    lines: list[Line]
    at: datetime.datetime
    colours: set[str]
    colour: Colour = Colour.RED
    note: str | None = None
    kind: Literal["new", "old"] = "new"
    sizes: tuple[int, ...] = ()
    pair: tuple[str, float] = ("", 0.0)
    parent: Order | None = None
    by_name: dict[str, Line] = dataclasses.field(default_factory=dict)


LINE = Line("x", decimal.Decimal("1.10"), b"\x00\xff")
ORDER = Order(
    id=uuid.UUID(int=5),
    lines=[LINE],
    at=datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.UTC),
    colours={"b", "a", "c"},
    colour=Colour.BLUE,
    sizes=(1, 2),
    pair=("p", 2.5),
    parent=Order(uuid.UUID(int=6), [], datetime.datetime(2026, 1, 1), set()),
    by_name={"b": LINE, "a": LINE},
)


def test_a_dataclass_and_all_it_holds_comes_back() -> None:
    codec = codec_for(Order)
    assert codec is not None
    assert codec.decode(codec.encode(ORDER)) == ORDER


@pytest.mark.parametrize(
    ("value_type", "codec", "one", "same"),
    [
        (dict, None, {"b": 1, "a": [1, {"y": 0, "x": 0}]}, {"a": [1, {"x": 0, "y": 0}], "b": 1}),
        (None, "json", {"b": 1, "a": 2}, {"a": 2, "b": 1}),
        (None, "msgpack", {"b": 1, "a": {"d": 1, "c": b"x"}}, {"a": {"c": b"x", "d": 1}, "b": 1}),
        (set[str], None, {"a", "b"}, {"b", "a"}),
    ],
)
def test_one_value_has_one_encoding(
    value_type: type | None, codec: str | None, one: object, same: object
) -> None:
    """A key names a unit by its bytes (P22)."""
    found: Codec[object] | None = codec_for(value_type, codec)
    assert found is not None
    assert found.encode(one) == found.encode(same)
    assert found.decode(found.encode(one)) == one


def test_text_and_bytes() -> None:
    text = codec_for(str)
    assert text is not None
    assert text.decode(text.encode("Grüße")) == "Grüße"
    assert codec_for(bytes) is None
    assert codec_for(None, "bytes") is None


def test_what_a_type_does_not_have_is_refused_when_it_is_appended() -> None:
    for value_type, value in ((Order, {"id": 1}), (dict, [1]), (str, 5), (list, [object()])):
        codec = codec_for(value_type)
        assert codec is not None
        with pytest.raises(InvalidData):
            codec.encode(value)
    json: Codec[object] | None = codec_for(None, "json")
    assert json is not None
    with pytest.raises(InvalidData):
        json.encode(float("nan"))


@pytest.mark.parametrize("data", [b"", b"[]", b"{", b'{"item": 5}', b'{"item": "x", "price": "?"}'])
def test_what_does_not_decode_raises(data: bytes) -> None:
    codec = codec_for(Line)
    assert codec is not None
    with pytest.raises((TypeError, ValueError, ArithmeticError)):
        codec.decode(data)


@pytest.mark.parametrize("arguments", [(None, "pickle"), (None, object()), (dict, "json")])
def test_an_unknown_type_or_codec_is_named(arguments: tuple[type, str]) -> None:
    with pytest.raises(InvalidSettings):
        codec_for(*arguments)


def test_anything_that_json_has_is_an_object() -> None:
    codec = codec_for(object)
    assert codec is not None
    assert codec.decode(codec.encode([1, "x"])) == [1, "x"]


def test_a_type_without_a_form_is_refused_when_the_log_book_is_made() -> None:
    with pytest.raises(InvalidSettings, match="complex"):
        codec_for(complex)


def test_msgspec_structs_and_pydantic_models_where_they_are_installed() -> None:
    msgspec = pytest.importorskip("msgspec")
    struct = msgspec.defstruct("Point", [("x", int), ("y", dict[str, int])])
    codec = codec_for(struct)
    assert codec is not None
    value = struct(1, {"b": 1, "a": 2})
    assert codec.decode(codec.encode(value)) == value
    assert codec.encode(value) == codec.encode(struct(1, {"a": 2, "b": 1}))


def test_pydantic_models_where_it_is_installed() -> None:
    pydantic = pytest.importorskip("pydantic")
    model = pydantic.create_model("Point", x=(int, ...), y=(dict[str, int], ...))
    codec = codec_for(model)
    assert codec is not None
    assert codec.decode(codec.encode(model(x=1, y={"a": 2}))) == model(x=1, y={"a": 2})


@pytest.mark.asyncio
async def test_a_typed_log_book_takes_values_and_decodes_them_lazily() -> None:
    async with opened() as (_, log):
        lines, raw = log.book("lines", type=Line), log.book("lines")
        seqnum = await lines.append(LINE, "t", key="k")
        assert await lines.append(LINE, "t", key="k") == seqnum
        await lines.append_batch([Entry(LINE, "t"), Entry(LINE)])
        bad = await raw.append(b"not a line", "t")
        found = [record async for record in lines.scan(tag="t")]
        assert [record.value for record in found[:2]] == [LINE, LINE]
        assert found[2].data == b"not a line"
        with pytest.raises(DecodeError, match=str(bad)):
            _ = found[2].value
        again = await lines.read(seqnum)  # from the cache, which both handles share
        assert again is not None and again.value == LINE
        plain = await raw.read(seqnum)
        assert plain is not None and plain.value == plain.data
        follow = lines.follow(tag="t")
        first = await anext(follow)
        await follow.aclose()
        assert first.value == LINE
        with pytest.raises(InvalidData):
            await lines.append({"item": 1})  # type: ignore[arg-type]
