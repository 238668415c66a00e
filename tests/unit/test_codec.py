"""What decoding gives is plain, bounded and checked; what it refuses is one kind of error."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from bokilog.codec import (
    flag,
    listed,
    natural,
    naturals,
    octets,
    optional_text,
    pack,
    row,
    text,
    unexpected,
    unpack,
    whole,
)
from bokilog.errors import RemoteProtocolError


def test_plain_values_come_back() -> None:
    value = [None, True, -1, 2**63, 1.5, "é", b"x", [1, [2]], {"a": 1, 2: b"b"}]
    assert unpack(pack(value)) == value
    assert unpack(memoryview(pack((1, (2,))))) == [1, [2]], "tuples come back as lists"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        pack(1) + b"\0",
        pack("abc")[:-1],
        b"\xc1",
        b"\xa1\xff",  # text that is not UTF-8
        b"\xdd\xff\xff\xff\xff",  # a list that would not fit anywhere
        b"\xdb\xff\xff\xff\xff",
        b"\x81\x90\x00",  # a map with a list as its key
        b"\x91" * 5000 + b"\xc0",  # nested deeper than anybody nests
        b"\xd6\xff" + b"\xff" * 3,
    ],
)
def test_garbage_is_a_protocol_error(data: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        unpack(data)


def test_text_over_its_limit_is_refused_wherever_it_stands() -> None:
    assert unpack(pack(["é" * 2]), text_bytes_max=4) == ["é" * 2]
    for value in (["x" * 5], [["é" * 3]], {"xxxxx": 1}):
        with pytest.raises(RemoteProtocolError):
            unpack(pack(value), text_bytes_max=4)


def test_what_could_not_be_packed_leaves_nothing_behind() -> None:
    with pytest.raises(TypeError):
        pack(["lost", object()])
    assert unpack(pack("kept")) == "kept"


@pytest.mark.parametrize(
    ("check", "taken", "refused"),
    [
        (whole, [0, -(2**63), 2**64 - 1], [True, None, 1.0, "1"]),
        (natural, [0, 2**63 - 1], [-1, 2**63, True, None, 1.0]),
        (naturals, [[], [0, 2**63 - 1]], [None, (1,), [True], [-1], [2**63], [1, "2"], {1: 2}]),
        (text, ["", "a"], [None, b"a", 1]),
        (optional_text, [None, "a"], [b"a", 0]),
        (flag, [True, False], [0, 1, None]),
        (octets, [b"", b"a"], ["a", None, bytearray(b"a")]),
        (listed, [[], [1]], [(), None, {}]),
        (lambda value: row(value, 2), [[1, 2]], [[1], [1, 2, 3], (1, 2), None, "ab"]),
    ],
)
def test_checks_take_exactly_their_kind(
    check: Callable[[object], object], taken: list[object], refused: list[object]
) -> None:
    for value in taken:
        assert check(value) == value
    for value in refused:
        with pytest.raises(RemoteProtocolError):
            check(value)


def test_an_error_names_the_kind_and_the_size_but_never_the_value() -> None:
    nested: list[object] = []
    for _ in range(100_000):
        nested = [nested]
    assert unexpected(nested, "text").problem == "list of 1 where text was expected"
    assert unexpected("x" * 1000, "bytes").problem == "str of 1000 where bytes was expected"
    assert unexpected(None, "text").problem == "NoneType where text was expected"
    while nested:  # so that freeing it does not recurse
        nested = nested.pop()  # type: ignore[assignment]
