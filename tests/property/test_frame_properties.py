"""Whatever bytes arrive: columns that the fold can use, or one kind of error (P29, P34)."""

from __future__ import annotations

from typing import cast

from hypothesis import given, settings, strategies as st

from bokilog.codec import pack, unpack
from bokilog.columns import Columns, Tags, first_bad_record
from bokilog.errors import RemoteProtocolError
from bokilog.frame import (
    FLAG_VERDICT,
    decode_frame,
    decode_head,
    verify_frame,
)
from bokilog.limits import CONDITIONS_MAX, TAG_BYTES_MAX, TAGS_MAX, UNIT_RECORDS_MAX
from tests.frames import SHARD, columns_of, frame_of

FEW = settings(max_examples=20, deadline=None)

tag_texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)
record_tags = st.none() | tag_texts | st.lists(tag_texts, min_size=1, max_size=4, unique=True)
# Values at and over every edge; drawing from a list costs a tenth of building them.
EDGES: list[object] = [
    *(None, True, False, 0, 1, 2, -1, 2**32, 2**63 - 1, 2**63, 2**64 - 1, -(2**63), 1.5),
    *("", "t", "abc", "$w", "x" * 256, "x" * 257, "é" * 128, b"", b"abc", bytes(8), bytes(16)),
    *([], {}, [[]], [0], [0, 1], ["t"], ["t", "t"], ["t", None], [None], {"t": 1}, {1: 2}),
    *([0, 0, 1, None], [0, 1, "t", 9], [[0, 0, 1, None]], [[0, [["t", 5]]]], [3, 40], [1, 3, 5]),
    *([[1, 0, 2]], [[1, 2, 0]], [[5, 44]], [[0, "k", bytes(16), 1]], [[1, 3, 40, 99]]),
]
plain = st.sampled_from(EDGES) | st.lists(st.sampled_from(EDGES), max_size=6)


@st.composite
def usual_columns(draw: st.DrawFn) -> tuple[Columns, list[bytes]]:
    """Columns of a client that keeps the rules."""
    payload = draw(st.lists(st.binary(max_size=40), min_size=1, max_size=8))
    tags: list[Tags] = [draw(record_tags) for _ in payload]
    unit_records = None
    units = len(payload)
    if draw(st.booleans()):
        cuts = sorted(draw(st.sets(st.integers(1, units - 1)))) if units > 1 else []
        unit_records = [b - a for a, b in zip([0, *cuts], [*cuts, units], strict=True)]
        units = len(unit_records)
    numbers = st.integers(0, 2**63 - 1)
    books = draw(numbers | st.lists(numbers, min_size=units, max_size=units))
    some = st.sets(st.integers(0, units - 1), max_size=2)
    tests = st.lists(st.tuples(st.none() | tag_texts, numbers), min_size=1, max_size=3)
    digests = st.binary(min_size=16, max_size=16)
    columns = columns_of(
        payload,
        tags=tags,
        books=books,
        unit_records=unit_records,
        unless=[(unit, draw(tests)) for unit in draw(some)],
        keys=[(unit, draw(tag_texts), draw(digests), draw(numbers)) for unit in draw(some)],
    )
    return columns, payload


def fields(columns: Columns) -> list[object]:
    return [getattr(columns, name) for name in Columns.__slots__]


def check_usable(columns: Columns) -> None:
    """Everything that the fold relies on, said once more and in the plainest way (P34)."""
    records = columns.records
    assert records == len(columns.lengths) == len(columns.sums) > 0
    bounds = columns.unit_bounds()
    assert len(bounds) == columns.units
    assert bounds[-1][1] == records
    assert all(0 < until - start <= UNIT_RECORDS_MAX for start, until in bounds)
    for unit in range(columns.units):
        book = columns.book_of(unit)
        assert type(book) is int
        assert 0 <= book < 2**63
    for tags in columns.tags:
        several = [tags] if isinstance(tags, str) else tags or []
        assert len(set(several)) == len(several) <= TAGS_MAX
        assert all(type(tag) is str and 0 < len(tag.encode()) <= TAG_BYTES_MAX for tag in several)
        assert tags is None or several
    for unit, tests in columns.unless:
        assert 0 <= unit < columns.units
        assert 0 < len(tests) <= CONDITIONS_MAX
        for tag, after in tests:
            assert tag is None or 0 < len(tag.encode()) <= TAG_BYTES_MAX
            assert type(after) is int
            assert 0 <= after < 2**63
    for unit, key, digest, horizon_s in columns.keys:
        assert 0 <= unit < columns.units
        assert key
        assert len(digest) == 16
        assert 0 <= horizon_s < 2**63
    assert len(dict(columns.unless)) == len(columns.unless)
    assert len({unit for unit, *_ in columns.keys}) == len(columns.keys)


def decoded(data: bytes) -> Columns | None:
    """Usable columns, or None for the only error there may be."""
    try:
        columns = Columns.decode(data)
    except RemoteProtocolError:
        return None
    check_usable(columns)
    return columns


@FEW
@given(usual_columns())
def test_usual_columns_come_back(usual: tuple[Columns, list[bytes]]) -> None:
    columns, payload = usual
    again = decoded(columns.encode())
    assert again is not None
    assert fields(again) == fields(columns)
    assert first_bad_record(again, memoryview(b"".join(payload))) is None


@FEW
@given(usual_columns(), st.integers(0, 2**63))
def test_usual_frames_come_back(usual: tuple[Columns, list[bytes]], first: int) -> None:
    columns, payload = usual
    data = b"".join(map(bytes, frame_of(columns, payload, first=first).buffers()))
    frame, head = decode_frame(data), decode_head(data)
    assert fields(frame.columns) == fields(columns)
    assert (head.shard, head.first, head.records) == (SHARD, first, len(payload))
    assert bool(head.flags & FLAG_VERDICT) == columns.needs_verdict
    assert verify_frame(data)


@settings(max_examples=30, deadline=None)
@given(st.binary(max_size=120))
def test_p34_any_bytes_are_columns_or_refused(data: bytes) -> None:
    decoded(data)


@settings(max_examples=30, deadline=None)
@given(plain)
def test_p34_any_plain_value_is_columns_or_refused(value: object) -> None:
    decoded(pack(value))


@settings(max_examples=30, deadline=None)
@given(usual_columns(), st.integers(0, 7), plain)
def test_p34_columns_with_one_part_exchanged_are_usable_or_refused(
    usual: tuple[Columns, list[bytes]], place: int, value: object
) -> None:
    parts = unpack(usual[0].encode())
    parts[place] = value
    decoded(pack(parts))


@settings(max_examples=30, deadline=None)
@given(usual_columns(), st.data())
def test_p34_columns_with_something_inside_exchanged_are_usable_or_refused(
    usual: tuple[Columns, list[bytes]], data: st.DataObject
) -> None:
    parts = unpack(usual[0].encode())
    inside = cast("list[object]", parts)
    while lists := [place for place, part in enumerate(inside) if isinstance(part, list) and part]:
        inside = cast("list[object]", inside[data.draw(st.sampled_from(lists))])
        if data.draw(st.booleans()):
            break
    inside[data.draw(st.integers(0, len(inside) - 1))] = data.draw(plain)
    decoded(pack(parts))


@settings(max_examples=30, deadline=None)
@given(usual_columns(), st.integers(0, 10**6), st.integers(1, 255))
def test_p34_columns_with_a_changed_byte_are_usable_or_refused(
    usual: tuple[Columns, list[bytes]], place: int, flip: int
) -> None:
    encoded = bytearray(usual[0].encode())
    encoded[place % len(encoded)] ^= flip
    decoded(bytes(encoded))


@FEW
@given(usual_columns(), st.integers(0, 10**6), st.integers(1, 255))
def test_p29_a_frame_with_a_changed_byte_is_refused_or_found_bad(
    usual: tuple[Columns, list[bytes]], place: int, flip: int
) -> None:
    columns, payload = usual
    data = bytearray(b"".join(map(bytes, frame_of(columns, payload).buffers())))
    data[place % len(data)] ^= flip
    assert not verify_frame(bytes(data))


@FEW
@given(st.lists(st.binary(max_size=100), max_size=4), st.binary(max_size=200))
def test_any_buffers_are_no_frame(buffers: list[bytes], data: bytes) -> None:
    for what in (buffers, data):
        try:
            decode_frame(what)
        except RemoteProtocolError:
            continue
        raise AssertionError("random bytes carry no checksum")
