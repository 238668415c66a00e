"""Typed LogBooks: values to bytes and back.

Decides which codec a type gets. Every encoding here is deterministic (one value, one sequence of
bytes, in every process), because a `key` names a unit by its bytes: keys of mappings are sorted,
and a set, whose order differs from process to process, is written sorted.

Does not know: records, LogBooks. pydantic and msgspec are used when a type is theirs; neither is
needed to be installed otherwise.
"""

from __future__ import annotations

import base64
import dataclasses
import datetime
import decimal
import enum
import json
import sys
import types
import typing
import uuid
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Final, Generic, Literal, NamedTuple, Protocol, TypeVar, cast

from bokilog.codec import pack, unpack
from bokilog.errors import BokilogError, InvalidData, InvalidSettings

T = TypeVar("T")


class Codec(Protocol[T]):
    """How values of one type become the data of records; any object with these two will do."""

    def encode(self, value: T) -> bytes:
        """The value's bytes; the same bytes for the same value, in every process."""
        ...

    def decode(self, data: bytes) -> T:
        """The value of these bytes; may raise anything, which readers get as `DecodeError`."""
        ...


class FunctionCodec(Generic[T]):
    """A codec of two functions; what goes wrong while encoding is `InvalidData`."""

    __slots__ = ("_decode", "_encode", "name")

    def __init__(
        self, name: str, encode: Callable[[T], bytes], decode: Callable[[bytes], T]
    ) -> None:
        self.name = name
        self._encode = encode
        self._decode = decode

    def __repr__(self) -> str:
        return f"<codec {self.name}>"

    def encode(self, value: T) -> bytes:
        """See `Codec`."""
        try:
            return self._encode(value)
        except BokilogError:
            raise
        except Exception as error:  # a user's type may raise anything; here it becomes one error
            problem = f"{value!r:.80}, which {self.name} cannot encode: {error}"
            raise InvalidData(problem) from error

    def decode(self, data: bytes) -> T:
        """See `Codec`."""
        return self._decode(data)


def codec_for(
    value_type: type[T] | None = None, codec: Codec[T] | str | None = None
) -> Codec[T] | None:
    """The codec of a typed LogBook; None: the data is bytes as they are.

    Args:
        value_type: `bytes`, `str`, a dataclass, a pydantic model, a msgspec Struct, or anything
            that JSON has (`dict`, `list`, `int`, `float`, `bool`, or a generic of these).
        codec: "bytes", "str", "json", "msgpack", or an object with `encode` and `decode`.

    Raises:
        InvalidSettings: both, or neither a known type nor a codec.
    """
    if codec is not None:
        if value_type is not None:
            raise InvalidSettings("codec", repr(codec), "was given together with `type`: give one")
        return cast("Codec[T] | None", _named(codec) if isinstance(codec, str) else _given(codec))
    if value_type is None or value_type is bytes:
        return None
    if value_type is str:
        return cast("Codec[T]", STR)
    found = _of_library(value_type)
    return cast("Codec[T]", found) if found is not None else _of_plain(value_type)


def _named(codec: str) -> Codec[object] | None:
    if codec == "bytes":
        return None
    named: dict[str, Codec[object]] = {
        "str": cast("Codec[object]", STR),
        "json": JSON,
        "msgpack": MSGPACK,
    }
    if codec not in named:
        problem = f"is none of bytes, {', '.join(named)}, nor an object with encode and decode"
        raise InvalidSettings("codec", repr(codec), problem)
    return named[codec]


def _given(codec: object) -> object:
    if not callable(getattr(codec, "encode", None)) or not callable(getattr(codec, "decode", None)):
        problem = "has no `encode` and `decode`"
        raise InvalidSettings("codec", repr(codec), problem)
    return codec


class PlainForm(NamedTuple):
    """How values of one type become what JSON and msgpack have, and back."""

    to_plain: Callable[[object], object]
    """Raises `InvalidData`: the value has no such form."""
    from_plain: Callable[[object], object]
    """May raise anything: the value is not of the type."""


def plain_form(value_type: object) -> PlainForm:
    """The plain form of a type: for values that are a part of something encoded as a whole.

    >>> plain_form(set[int]).to_plain({2, 1})
    [1, 2]

    Raises:
        InvalidSettings: the type has none.
    """
    return PlainForm(_plain, _builder(value_type))


def to_json(value: object) -> bytes:
    """What JSON has, or a type known here, as JSON.

    Raises:
        InvalidData: the value has no form in JSON.
    """
    try:
        return _to_json(_plain(value))
    except (ValueError, RecursionError) as error:
        raise InvalidData(f"{value!r:.80}, which has no form in JSON: {error}") from error


# --- plain values ---------------------------------------------------------------------------------


def _to_json(value: object) -> bytes:
    text = json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )
    return text.encode()


def _sorted_keys(value: object) -> object:
    if isinstance(value, Mapping):
        return {key: _sorted_keys(value[key]) for key in sorted(value)}
    if isinstance(value, list | tuple):
        return [_sorted_keys(item) for item in value]
    return value


def _from_json(data: bytes) -> object:
    value: object = json.loads(data)
    return value


def _from_msgpack(data: bytes) -> object:
    value: object = unpack(data)
    return value


STR = FunctionCodec[str]("str", lambda value: value.encode(), lambda data: data.decode())
JSON = FunctionCodec[object]("json", _to_json, _from_json)
MSGPACK = FunctionCodec[object]("msgpack", lambda value: pack(_sorted_keys(value)), _from_msgpack)


# --- pydantic and msgspec, where they are ---------------------------------------------------------


def _of_library(value_type: type[T]) -> FunctionCodec[T] | None:
    """A codec by the library the type is made with; such a type exists only if it is imported."""
    name = getattr(value_type, "__name__", repr(value_type))
    dump = getattr(value_type, "model_dump_json", None)
    validate = getattr(value_type, "model_validate_json", None)
    if "pydantic" in sys.modules and callable(dump) and callable(validate):

        def encode_model(value: T) -> bytes:
            _demand_type(value, value_type)
            text: str = dump(value)
            return _to_json(json.loads(text))

        return FunctionCodec(f"pydantic model {name}", encode_model, validate)
    if "msgspec" in sys.modules and hasattr(value_type, "__struct_fields__"):
        from msgspec.json import Decoder, Encoder

        encoder, decoder = Encoder(order="deterministic"), Decoder(value_type)

        def encode_struct(value: T) -> bytes:
            _demand_type(value, value_type)
            return encoder.encode(value)

        return FunctionCodec(f"msgspec struct {name}", encode_struct, decoder.decode)
    return None


def _demand_type(value: object, value_type: type) -> None:
    if not isinstance(value, value_type):
        raise InvalidData(f"{type(value).__name__}, not {value_type.__name__}: {value!r:.80}")


# --- dataclasses and what they hold, as JSON ------------------------------------------------------


def _of_plain(value_type: type[T]) -> FunctionCodec[T]:
    name = getattr(value_type, "__name__", repr(value_type))
    build = _builder(value_type)
    is_class = isinstance(value_type, type) and not isinstance(value_type, types.GenericAlias)

    def encode(value: T) -> bytes:
        if is_class:
            _demand_type(value, value_type)
        return _to_json(_plain(value))

    def decode(data: bytes) -> T:
        return cast("T", build(json.loads(data)))

    return FunctionCodec(name, encode, decode)


def _plain(value: object) -> object:
    """A value as JSON has it; what JSON has not becomes a string that its type reads back."""
    if value is None or (
        isinstance(value, bool | int | float | str) and not isinstance(value, enum.Enum)
    ):
        return value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [field.name for field in dataclasses.fields(value) if field.init]
        return {name: _plain(getattr(value, name)) for name in names}
    if isinstance(value, enum.Enum):
        return _plain(value.value)
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, datetime.datetime | datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, uuid.UUID | decimal.Decimal):
        return str(value)
    if isinstance(value, Mapping):
        return {_key(key): _plain(item) for key, item in value.items()}
    if isinstance(value, set | frozenset):
        return sorted((_plain(item) for item in value), key=_to_json)
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return _plain_of_library(value)


def _plain_of_library(value: object) -> object:
    dump = getattr(value, "model_dump_json", None)
    if callable(dump) and not isinstance(value, type):
        text: str = dump()
        return _from_json(text.encode())
    if hasattr(type(value), "__struct_fields__"):
        from msgspec import to_builtins

        plain: object = to_builtins(value)
        return plain
    raise InvalidData(f"{type(value).__name__}, which has no form in JSON: {value!r:.80}")


def _key(key: object) -> str:
    plain = _plain(key)
    if not isinstance(plain, str):
        raise InvalidData(f"a mapping with the key {key!r:.40}: in JSON keys are text")
    return plain


Build = Callable[[object], object]
_BY_TEXT: dict[type, Callable[[str], object]] = {
    datetime.datetime: datetime.datetime.fromisoformat,
    datetime.date: datetime.date.fromisoformat,
    datetime.time: datetime.time.fromisoformat,
    uuid.UUID: uuid.UUID,
    decimal.Decimal: decimal.Decimal,
}


def _builder(value_type: object) -> Build:
    """What makes a value of the type from what JSON gave; made once per typed LogBook.

    Raises:
        InvalidSettings: the type, or one inside it, has no form in JSON.
    """
    origin, arguments = typing.get_origin(value_type), typing.get_args(value_type)
    if origin is typing.Annotated:
        return _builder(arguments[0])
    if origin in (typing.Union, types.UnionType):
        return _union(list(arguments))
    if origin is Literal:
        return _one_of(arguments)
    if origin is not None:
        return _generic(origin, arguments)
    if anything_goes(value_type):
        return lambda value: value
    if value_type is None or value_type is type(None):
        return _one_of((None,))
    if isinstance(value_type, type):
        return _class(value_type)
    raise InvalidSettings("type", repr(value_type), "has no codec here: give `codec=`")


def anything_goes(value_type: object) -> bool:
    """Whether a type says nothing about its values: `object`, `Any`, a type variable."""
    return (
        value_type is object
        or getattr(typing, "Any", None) is value_type
        or isinstance(value_type, TypeVar)
    )


def _class(value_type: type) -> Build:
    if dataclasses.is_dataclass(value_type):
        return _dataclass(value_type)
    if issubclass(value_type, enum.Enum):
        return value_type
    if value_type is bytes:  # as they are where the form has bytes: JSON has none, msgpack does
        return lambda value: value if type(value) is bytes else _decoded(_checked(value, str))
    if value_type in _BY_TEXT:
        parse = _BY_TEXT[value_type]
        return lambda value: parse(_checked(value, str))
    if value_type is float:
        return lambda value: float(_checked(value, int, float))
    if value_type in (bool, int, str):
        return lambda value: _checked(value, value_type)
    if value_type in (dict, list):
        return lambda value: _checked(value, value_type)
    if value_type in (tuple, set, frozenset):
        return lambda value: value_type(_checked(value, list))
    if typing.is_typeddict(value_type):
        return lambda value: _checked(value, dict)
    return _class_of_library(value_type)


def _class_of_library(value_type: type) -> Build:
    validate = getattr(value_type, "model_validate_json", None)
    if callable(validate):
        # By way of JSON: a strict model takes a date as text only from there.
        return lambda value: validate(_to_json(value))
    if hasattr(value_type, "__struct_fields__"):
        from msgspec import convert

        return lambda value: convert(value, value_type)
    raise InvalidSettings("type", value_type.__name__, "has no codec here: give `codec=`")


def _decoded(text: str) -> bytes:
    return base64.b64decode(text, validate=True)


def _dataclass(value_type: type) -> Build:
    fields: dict[str, Build] = {}

    def build(value: object) -> object:
        if not fields:  # at first use, so that a dataclass may hold its own kind
            hints = typing.get_type_hints(value_type, include_extras=True)
            for field in dataclasses.fields(value_type):
                if field.init:
                    fields[field.name] = _builder(hints[field.name])
        given = _checked(value, dict)
        for name in given:
            if name not in fields:
                raise ValueError(f"{value_type.__name__} has no field {name!r}")
        return value_type(**{name: fields[name](item) for name, item in given.items()})

    return build


def _union(arguments: list[object]) -> Build:
    builders = [_builder(argument) for argument in arguments]

    def build(value: object) -> object:
        problems = []
        for each in builders:
            try:
                return each(value)
            except (TypeError, ValueError, KeyError) as error:
                problems.append(str(error))
        raise ValueError(f"{value!r:.40} is none of its types: {'; '.join(problems)}")

    return build


def _one_of(allowed: tuple[object, ...]) -> Build:
    def build(value: object) -> object:
        for one in allowed:
            if value == one and type(value) is type(one):
                return one
        raise ValueError(f"{value!r:.40} is none of {allowed!r}")

    return build


_SEQUENCES: Final = (list, Sequence, Collection, Iterable)
_MAPPINGS: Final = (dict, Mapping)


def _generic(origin: object, arguments: tuple[object, ...]) -> Build:
    if origin in (*_SEQUENCES, set, frozenset) and len(arguments) == 1:
        item = _builder(arguments[0])
        make = cast("Callable[[list[object]], object]", list if origin in _SEQUENCES else origin)
        return lambda value: make([item(each) for each in _checked(value, list)])
    if origin is tuple and len(arguments) == 2 and arguments[1] is Ellipsis:
        each_item = _builder(arguments[0])
        return lambda value: tuple(each_item(each) for each in _checked(value, list))
    if origin is tuple:
        items = [_builder(argument) for argument in arguments]
        return lambda value: tuple(
            build(each) for build, each in zip(items, _checked(value, list), strict=True)
        )
    if origin in _MAPPINGS and len(arguments) == 2:
        keys, values = _builder(arguments[0]), _builder(arguments[1])
        return lambda value: {
            keys(key): values(each) for key, each in _checked(value, dict).items()
        }
    raise InvalidSettings("type", repr(origin), "has no codec here: give `codec=`")


def _checked(value: object, *kinds: type[T]) -> T:
    if type(value) not in kinds:
        names = " or ".join(kind.__name__ for kind in kinds)
        raise TypeError(f"{value!r:.40} is {type(value).__name__}, not {names}")
    return cast("T", value)
