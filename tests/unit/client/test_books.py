"""What the system LogBook says, and where LogBooks live."""

from __future__ import annotations

import pytest

from bokilog.client.books import (
    Created,
    Deleted,
    decode,
    encode_created,
    encode_deleted,
    name_tag,
    space_of,
)
from bokilog.codec import pack
from bokilog.errors import FormatTooNew, NotSupported, RemoteProtocolError
from bokilog.limits import BOOK_NAME_BYTES_MAX, TAG_BYTES_MAX

SPACES: list[list[object]] = [[3, "sync"], [0, "sync"], [1, "flush"], [2, "memory"]]


def test_records_of_version_1_are_as_they_were() -> None:
    created = encode_created(Created("orders", "flush", 60))
    assert created.hex() == (
        "87a17601a26f70a6637265617465a46e616d65a66f7264657273aa6475726162696c697479a5666c757368"
        "ad6b65795f686f72697a6f6e5f733cab726574656e74696f6e5f73c0af726574656e74696f6e5f6279746573c0"
    )
    deleted = encode_deleted(Deleted(7))
    assert deleted.hex() == "83a17601a26f70a664656c657465a66e756d62657207"
    assert decode(created) == Created("orders", "flush", 60)
    assert decode(deleted) == Deleted(7)


@pytest.mark.parametrize(
    "plain",
    [
        5,
        {},
        {"v": 1},
        {"v": 1, "op": "delete", "number": "x"},
        {"v": 1, "op": "create", "name": "x", "durability": "paper", "key_horizon_s": 1},
        {"v": 1, "op": "create", "name": 1, "durability": "sync", "key_horizon_s": 1},
    ],
)
def test_garbage_is_a_protocol_error(plain: object) -> None:
    with pytest.raises(RemoteProtocolError):
        decode(pack(plain))


def test_a_later_version_is_named() -> None:
    with pytest.raises(FormatTooNew):
        decode(pack({"v": 2}))


def test_a_log_book_lives_in_a_log_space_of_its_class_fixed_by_its_number() -> None:
    assert space_of(0, "sync", SPACES) == 0
    assert [space_of(number, "sync", SPACES) for number in (1, 2, 3, 4)] == [3, 0, 3, 0]
    assert space_of(9, "memory", SPACES) == 2
    with pytest.raises(NotSupported, match="memory"):
        space_of(1, "memory", [[0, "sync"]])


def test_every_name_makes_a_valid_tag() -> None:
    assert len(name_tag("x" * BOOK_NAME_BYTES_MAX).encode()) <= TAG_BYTES_MAX
