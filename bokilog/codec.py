"""msgpack, in one place: what our processes say to each other and what we store in headers.

The only module that imports msgpack, and the only one that may hold `Any`. Decides what plain
values a peer's bytes may hold: numbers, text and rows are checked here, for everybody alike.
Decoding is bounded by the bytes it is given; garbage raises `RemoteProtocolError`, never anything
else, and no error text repeats a peer's value: that may be huge, or nested deeper than `repr` goes.
"""

from __future__ import annotations

from typing import Any

import msgpack

from bokilog.errors import RemoteProtocolError

_packer = msgpack.Packer(autoreset=True)
_exact_packer = msgpack.Packer(autoreset=True, strict_types=True)
_NUMBERS_END = 1 << 63
_FEW = 4


def pack(value: Any) -> bytes:
    """Plain values (None, bool, int, float, str, bytes, list, tuple, dict) as msgpack."""
    data: bytes = _packer.pack(value)
    return data


def pack_exact(value: Any) -> bytes:
    """Plain values that come back as exactly what they are: no tuple, no subclass of a plain type.

    Raises:
        TypeError, ValueError, OverflowError: msgpack has no such value.
    """
    data: bytes = _exact_packer.pack(value)
    return data


def unpack(data: bytes | bytearray | memoryview, *, text_bytes_max: int = -1) -> Any:
    """One msgpack value; tuples come back as lists.

    Args:
        data: the whole value and nothing else.
        text_bytes_max: no text inside may be longer; checked by the decoder, at no cost. -1: any.

    Raises:
        RemoteProtocolError: not exactly one well-formed value, or text that is not UTF-8.
    """
    try:
        return msgpack.unpackb(data, strict_map_key=False, max_str_len=text_bytes_max)
    except (ValueError, TypeError, msgpack.exceptions.UnpackException) as error:
        # TypeError: a list or a map as a key of a map.
        said = str(error) or type(error).__name__  # some say nothing
        raise RemoteProtocolError(problem=f"bad msgpack: {said}") from error


# --- what was decoded, checked --------------------------------------------------------------------


def whole(value: Any) -> int:
    """A number that fits 64 bits, of either sign."""
    if type(value) is not int:
        raise unexpected(value, "a whole number")
    return value


def natural(value: Any) -> int:
    """A number in 0..2**63-1: a count, a seqnum, a time, an identity."""
    if type(value) is not int or not 0 <= value < _NUMBERS_END:
        raise unexpected(value, "a number in 0..2**63-1")
    return value


def naturals(value: Any) -> list[int]:
    """A list of numbers in 0..2**63-1."""
    if type(value) is list and len(value) <= _FEW:  # the fewer, the more the sets below cost
        for each in value:
            if type(each) is not int or not 0 <= each < _NUMBERS_END:
                raise unexpected(value, "a list of numbers in 0..2**63-1")
        return value
    if type(value) is not list or not set(map(type, value)) <= {int}:
        raise unexpected(value, "a list of numbers")
    if value and not 0 <= min(value) <= max(value) < _NUMBERS_END:
        raise unexpected(value, "a list of numbers in 0..2**63-1")
    return value


def text(value: Any) -> str:
    """A string; UTF-8 was checked by `unpack`."""
    if type(value) is not str:
        raise unexpected(value, "text")
    return value


def optional_text(value: Any) -> str | None:
    """A string or None."""
    return None if value is None else text(value)


def flag(value: Any) -> bool:
    """True or False; 0 and 1 are numbers."""
    if type(value) is not bool:
        raise unexpected(value, "a bool")
    return value


def octets(value: Any) -> bytes:
    """Bytes."""
    if type(value) is not bytes:
        raise unexpected(value, "bytes")
    return value


def listed(value: Any) -> list[Any]:
    """A list of anything."""
    if type(value) is not list:
        raise unexpected(value, "a list")
    return value


def row(value: Any, length: int) -> list[Any]:
    """A list of `length` things."""
    if type(value) is not list or len(value) != length:
        raise unexpected(value, f"a list of {length}")
    return value


def unexpected(value: Any, wanted: str) -> RemoteProtocolError:
    """The error for a value of another kind."""
    size = f" of {len(value)}" if isinstance(value, (list, dict, str, bytes)) else ""
    return RemoteProtocolError(problem=f"{type(value).__name__}{size} where {wanted} was expected")
