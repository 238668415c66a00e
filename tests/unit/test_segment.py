"""A segment's bytes: golden headers, whole groups only, and which segments follow which."""

import struct

import pytest
from xxhash import xxh3_64_intdigest

from bokilog.errors import FormatTooNew
from bokilog.segment import (
    GROUP_HEADER_BYTES,
    NOWHERE,
    SEGMENT_END_OFFSET,
    SEGMENT_HEADER_BYTES,
    End,
    FoundSegment,
    GroupHeader,
    Place,
    SegmentEnd,
    SegmentHeader,
    checksum,
    decode_group,
    decode_group_header,
    decode_segment_end,
    decode_segment_header,
    encode_group_header,
    encode_segment_end,
    encode_segment_header,
    encode_word,
    find_groups,
    follow_chain,
    is_corruption,
    scan_segment,
    segment_end,
)

GENERATION = 1025
PAGE = SegmentHeader(
    generation=GENERATION,
    number=7,
    previous_end=Place(5, 0x12345),
    previous_group=99,
    synced=Place(5, 0x12300),
    continues=True,
)
WORDS = [encode_word(1, 5), encode_word(255, 0)]
HEADER = GroupHeader(
    generation=GENERATION,
    offset=SEGMENT_HEADER_BYTES,
    number=100,
    synced=Place(5, 0x12345),
    item_count=2,
    body_bytes=21,
    framing=checksum(b"".join(WORDS)),
)
END = SegmentEnd(generation=GENERATION, number=7, offset=0x20000, last_group=120)


def group(number: int, offset: int, items: list[bytes], synced: Place = NOWHERE) -> bytes:
    words = [encode_word(1, len(item)) for item in items]
    body = b"".join(word + item for word, item in zip(words, items, strict=True))
    framing = checksum(b"".join(words))
    header = GroupHeader(GENERATION, offset, number, synced, len(items), len(body), framing)
    return encode_group_header(header) + body


def segment(*groups: list[bytes]) -> tuple[bytes, list[int]]:
    """A segment of these groups, numbered from 100, and the offsets of all group ends."""
    data = encode_segment_header(PAGE)
    ends = [len(data)]
    for number, items in enumerate(groups, 100):
        data += group(number, len(data), items, Place(7, len(data)))
        ends.append(len(data))
    return data, ends


def sealed(data: bytes) -> bytes:
    return struct.pack("<Q", xxh3_64_intdigest(data)) + data


def verify(_kind: int, view: memoryview) -> bool:
    expected: int = struct.unpack_from("<Q", view)[0] if len(view) >= 8 else -1
    return xxh3_64_intdigest(view[8:]) == expected


def numbers(data: bytes, until: int | None = None) -> list[int]:
    until = len(data) if until is None else until
    found = scan_segment(
        data,
        start=SEGMENT_HEADER_BYTES,
        until=until,
        generation=GENERATION,
        number=100,
        verify=verify,
    )
    return [each.header.number for each in found]


def flip(data: bytes, bit: int) -> bytes:
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


# --- golden bytes: version 1 is meant to stay ---


def test_segment_header_bytes_are_golden() -> None:
    data = encode_segment_header(PAGE)
    assert (
        data[:80].hex()
        == (
            "89424f4b49534547" + "01000000" + "01000000"  # magic, version, flags
            "0104000000000000" + "0700000000000000"  # generation, number
            "0500000000000000" + "4523010000000000"  # previous segment, its end
            "6300000000000000"  # its last group
            "0500000000000000" + "0023010000000000"  # synced: segment, offset
            "23edd7ebe1dd61d2"  # xxh3-64
        )
    )
    assert data[80:] == bytes(SEGMENT_HEADER_BYTES - 80)
    assert decode_segment_header(data) == PAGE


def test_group_header_bytes_are_golden() -> None:
    data = encode_group_header(HEADER)
    assert (
        data.hex()
        == (
            "89424f4b49475250"  # magic
            "0104000000000000"
            + "0010000000000000"
            + "6400000000000000"  # generation, offset, number
            "0500000000000000" + "4523010000000000"  # synced: segment, offset
            "1500000000000000" + "b5468615e1761ee8"  # body bytes, checksum of the words
            "02000000" + "00000000"  # items, reserved
            "aee9634f75effa2f"  # xxh3-64
        )
    )
    assert len(data) == GROUP_HEADER_BYTES
    assert decode_group_header(data) == HEADER


def test_segment_end_and_word_bytes_are_golden() -> None:
    data = encode_segment_end(END)
    assert (
        data.hex()
        == (
            "89424f4b49454e44"
            + "0104000000000000"
            + "0700000000000000"  # magic, generation, number
            "0000020000000000" + "7800000000000000"  # end, last group
            "14a160b9faa265e0"  # xxh3-64
        )
    )
    assert [word.hex() for word in WORDS] == ["0500000000000001", "00000000000000ff"]


@pytest.mark.parametrize(("kind", "length"), [(-1, 0), (256, 0), (0, -1), (0, 1 << 56)])
def test_a_word_names_the_value_that_does_not_fit(kind: int, length: int) -> None:
    with pytest.raises(ValueError, match=f"kind {kind} and {length} bytes"):
        encode_word(kind, length)


# --- headers ---


def test_no_flipped_bit_of_a_header_passes() -> None:
    page, header = encode_segment_header(PAGE)[:80], encode_group_header(HEADER)
    assert all(decode_segment_header(flip(page, bit)) is None for bit in range(80 * 8))
    assert all(decode_group_header(flip(header, bit)) is None for bit in range(80 * 8))


def test_a_cut_header_is_none() -> None:
    page, header = encode_segment_header(PAGE)[:80], encode_group_header(HEADER)
    assert all(decode_segment_header(page[:size]) is None for size in range(80))
    assert all(decode_group_header(header[:size]) is None for size in range(80))


def test_a_newer_segment_is_named_not_misread() -> None:
    fields = encode_segment_header(PAGE)[:72]
    newer = fields[:8] + struct.pack("<I", 2) + fields[12:]
    with pytest.raises(FormatTooNew, match="format 2: this version reads up to 1"):
        decode_segment_header(newer + struct.pack("<Q", xxh3_64_intdigest(newer)))
    assert decode_segment_header(newer + fields[:8]) is None, "a flipped version is no version"


def test_a_noted_end_counts_only_for_its_own_generation() -> None:
    page = bytearray(encode_segment_header(PAGE))
    note = encode_segment_end(END)
    page[SEGMENT_END_OFFSET : SEGMENT_END_OFFSET + len(note)] = note
    assert decode_segment_header(page) == PAGE
    assert decode_segment_end(page, PAGE) == END
    assert decode_segment_end(page, PAGE._replace(generation=GENERATION + 1)) is None
    assert decode_segment_end(page, None) is None


# --- groups ---


def test_groups_come_whole_and_in_order() -> None:
    data, ends = segment([b"one", b""], [], [b"two"])
    found = list(
        scan_segment(
            data,
            start=SEGMENT_HEADER_BYTES,
            until=len(data),
            generation=GENERATION,
            number=100,
            verify=None,
        )
    )
    assert [each.header.end for each in found] == ends[1:]
    assert [[data[a:b] for _, a, b in each.items] for each in found] == [
        [b"one", b""],
        [],
        [b"two"],
    ]


def test_a_group_torn_at_any_byte_does_not_count() -> None:
    data, ends = segment([sealed(b"a" * 40)], [sealed(b"b" * 30), sealed(b"c")])
    for cut in range(ends[1], ends[2]):
        assert numbers(data[:cut]) == [100]
        assert numbers(data[:cut].ljust(len(data), b"\0")) == [100], "the file was allocated ahead"
    assert numbers(data) == [100, 101]


def test_a_group_with_any_flipped_bit_does_not_count() -> None:
    data, ends = segment([sealed(b"a")], [sealed(b"bc"), sealed(b"d")], [sealed(b"e")])
    for bit in range(ends[1] * 8, ends[2] * 8):
        assert numbers(flip(data, bit)) == [100]


def test_nothing_past_the_fixed_end_counts() -> None:
    data, ends = segment([sealed(b"a")], [sealed(b"b")])
    assert numbers(data, until=ends[1]) == [100]
    assert numbers(data, until=ends[2] - 1) == [100]


def test_groups_of_another_generation_number_or_place_do_not_count() -> None:
    data, ends = segment([sealed(b"a")])
    other = GroupHeader(GENERATION - 1, ends[1], 101, NOWHERE, 0, 0, checksum(b""))
    assert numbers(data + encode_group_header(other)) == [100]
    skipped = other._replace(generation=GENERATION, number=102)
    assert numbers(data + encode_group_header(skipped)) == [100]
    copied = other._replace(generation=GENERATION, offset=ends[1] + 8)
    assert numbers(data + encode_group_header(copied)) == [100]
    assert numbers(data + encode_group_header(copied._replace(offset=ends[1]))) == [100, 101]


def test_more_items_than_bytes_is_no_group() -> None:
    header = HEADER._replace(item_count=4_000_000_000)
    data = encode_segment_header(PAGE) + encode_group_header(header) + bytes(21)
    assert decode_group(data, SEGMENT_HEADER_BYTES, len(data)) is None


def test_later_groups_are_found_by_magic_at_their_own_place_only() -> None:
    inner, _ = segment([sealed(b"x")], [sealed(b"y")])
    data, ends = segment([b"a"], [inner], [b"c"])  # a payload that is a journal itself
    broken = flip(data, ends[1] * 8)
    found = find_groups(broken, start=ends[1], until=len(data), oldest=GENERATION)
    assert [header.offset for header in found] == [ends[2]]
    newer = find_groups(broken, start=ends[1], until=len(data), oldest=GENERATION + 1)
    assert list(newer) == []


def test_a_bad_place_is_corruption_iff_somebody_knew_it_synced() -> None:
    bad = Place(7, 5000)
    assert not is_corruption(bad, [])
    assert not is_corruption(bad, [Place(6, 9999), Place(7, 5000)])
    assert is_corruption(bad, [NOWHERE, Place(7, 5001)])
    assert is_corruption(bad, [Place(8, 0)])


# --- segments ---


def found(
    number: int, previous: int | None, *, end: int | None = None, group: int = 0
) -> FoundSegment:
    """A segment that follows `previous`, which ended at 5000 (None: its header is unreadable)."""
    page = (
        None
        if previous is None
        else SegmentHeader(number, number, Place(previous, 5000), group, NOWHERE, False)
    )
    note = None if end is None else SegmentEnd(number, number, end, 3)
    return FoundSegment(number, page, note)


def chain(*segments: FoundSegment) -> tuple[list[int], list[int]]:
    result = follow_chain(segments)
    return [each.number for each in result.segments], list(result.superseded)


def test_segments_follow_their_headers() -> None:
    assert chain() == ([], [])
    assert chain(found(1, 0), found(2, 1), found(4, 2)) == ([1, 2, 4], [])


def test_what_a_later_header_skips_is_superseded() -> None:
    assert chain(found(1, 0), found(2, 1), found(3, None), found(4, 1)) == ([1, 4], [2, 3])
    assert chain(found(1, None), found(2, 0)) == ([2], [1])


def test_an_unreadable_header_stays_in_the_chain_to_be_judged() -> None:
    assert chain(found(1, 0), found(2, None), found(3, 2)) == ([1, 2, 3], [])
    assert chain(found(1, 0), found(2, None)) == ([1, 2], [])


def test_a_missing_segment_is_in_order_if_its_end_was_noted_below() -> None:
    assert chain(found(1, 0, end=6000), found(3, 2)) == ([1, 3], [])
    assert chain(found(3, 2), found(4, 3)) == ([3, 4], []), "all below were released"
    missing = follow_chain([found(1, 0), found(3, 2)]).segments
    assert missing == (found(1, 0), FoundSegment(2, None, None), found(3, 2))


def test_a_segment_ends_where_the_next_header_or_its_note_says() -> None:
    assert segment_end(found(1, 0), None) is None
    assert segment_end(found(1, 0), found(2, 1, group=9)) == End(5000, 9)
    assert segment_end(found(1, 0), found(3, 2)) is None
    assert segment_end(found(1, 0, end=6000), found(3, 2)) == End(6000, 3)
