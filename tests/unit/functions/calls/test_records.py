"""Bytes and tags of each kind of record."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from bokilog.codec import pack, unpack
from bokilog.errors import FormatTooNew
from bokilog.functions.calls import records
from bokilog.functions.calls.records import (
    CallRecord,
    Cancelled,
    Claimed,
    DeadLettered,
    Expired,
    Extended,
    Finished,
    ItemYielded,
    Passed,
    Retried,
    Spawned,
    decode,
    decode_as,
    encode,
    encode_reference,
    keyed_call_id,
    scheduled_call_id,
    tags_of,
)
from bokilog.functions.runtime import references

ID = "00000000000000aa"
GOLDEN: list[tuple[CallRecord, str]] = [
    (
        Spawned(ID, "f", 0, b"\x01", 60_000, 3, 500, 1, 2, "key", "f", 9, "a", "tok", "tr"),
        "dc00110101b030303030303030303030303030306161a16600c40101cdea6003cd01f40102a36b65"
        "79a16609a161a3746f6ba27472",
    ),
    (
        Claimed(ID, "a/1", 0, 10_000),
        "960102b030303030303030303030303030306161a3612f3100cd2710",
    ),
    (
        Extended(ID, "a/1", 0, 10_000),
        "960103b030303030303030303030303030306161a3612f3100cd2710",
    ),
    (
        Expired(ID, "a/1", 0, "b/2"),
        "960104b030303030303030303030303030306161a3612f3100a3622f32",
    ),
    (
        Finished(ID, "a/1", 1, 0, "tok", [], 7, b"\xc0"),
        "9a0105b030303030303030303030303030306161a3612f310100a3746f6b9007c401c0",
    ),
    (
        Retried(ID, "a/1", 1, 500, [105, "f", "gone"]),
        "970106b030303030303030303030303030306161a3612f3101cd01f49369a166a4676f6e65",
    ),
    (
        DeadLettered(ID, "a/1", 2, "why", 3, "tok", [105, "f", "gone"], b"\x80"),
        "9a0107b030303030303030303030303030306161a3612f3102a377687903a3746f6b9369a166a467"
        "6f6e65c40180",
    ),
    (
        Cancelled(ID, "enough"),
        "940108b030303030303030303030303030306161a6656e6f756768",
    ),
    (
        ItemYielded(ID, 0, 4, 0, b"\x05"),
        "970109b030303030303030303030303030306161000400c40105",
    ),
    (
        Passed("f", 9, "first seen"),
        "95010aa16609aa6669727374207365656e",
    ),
]


def test_every_kind_has_its_bytes_for_ever() -> None:
    assert {type(record) for record, _ in GOLDEN} == set(records.KINDS)
    for record, data in GOLDEN:
        assert encode(record).hex() == data
        assert decode(bytes.fromhex(data)) == record


@given(st.binary(max_size=64) | st.builds(pack, st.lists(st.integers(0, 12) | st.text(max_size=4))))
def test_any_bytes_are_a_record_or_none(data: bytes) -> None:
    try:
        found = decode(data)
    except FormatTooNew:
        return
    assert found is None or decode(encode(found)) == found


@pytest.mark.parametrize(("record", "data"), GOLDEN, ids=lambda each: type(each).__name__)
def test_a_field_too_few_or_of_another_kind_is_no_record(record: CallRecord, data: str) -> None:
    kind = records.KINDS[type(record)]
    assert decode(pack([1, kind, *record[:-1]])) is None
    assert decode(pack([1, kind, *[None] * len(record)])) is None


def test_a_later_version_is_refused_by_name() -> None:
    with pytest.raises(FormatTooNew, match="a record of a call has format 2"):
        decode(pack([2, 1, "what it may be"]))


def test_one_kind_may_be_asked_for() -> None:
    data = encode(Cancelled(ID, "enough"))
    assert decode_as(Cancelled, data) == Cancelled(ID, "enough")
    assert decode_as(Finished, data) is None


def test_steps_carry_the_tags_that_they_are_found_by() -> None:
    spawned, claimed, *_ = [record for record, _ in GOLDEN]
    finished, dead, item, passed = (GOLDEN[place][0] for place in (4, 6, 8, 9))
    call = ("calls", f"call:{ID}")
    assert tags_of(spawned) == (*call, "schedule:f")
    assert tags_of(claimed) == call
    assert tags_of(finished) == (*call, f"end:{ID}")
    assert tags_of(finished, stream=True) == (*call, f"end:{ID}", f"items:{ID}")
    assert tags_of(dead) == (*call, f"end:{ID}", "dead")
    assert tags_of(item) == (f"items:{ID}",)
    assert tags_of(passed) == ("calls", "schedule:f")


def test_a_key_names_one_call_of_one_function() -> None:
    assert keyed_call_id("f", "order-1") == keyed_call_id("f", "order-1") == "e256ad984e244b8d"
    assert keyed_call_id("f", "order-1") != keyed_call_id("g", "order-1")
    assert scheduled_call_id("f", 60_000) != scheduled_call_id("f", 120_000)


def test_a_reference_says_where_the_payload_is() -> None:
    reference = encode_reference("functions/shop", 17, encoding=1, host="a")
    assert unpack(reference) == ["functions/shop", 17, 1, "a"]
    assert references.host_of(reference) == "a"
