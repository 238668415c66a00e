"""Bytes of a journal's segments: headers, groups, items, and which of them count after a crash.

A segment is a header page, then groups. A *group* is what one sync covers: a header, then items as
they were received, each behind one word that holds its kind and length. Decides whether a place
holds a whole group (P30), how segments follow each other, and whether a bad place is a torn tail
(nobody was told about it) or corruption (somebody was).

Invariants:
- A group counts whole or not at all. Its header hashes itself and the items' words; the items'
  bytes carry their own checksums, so that nobody hashes a payload again: `Verify` asks them.
- Group numbers are consecutive over the whole journal; numbers and offsets of dropped groups are
  used again, by another generation or after their header was wiped.
- A segment's end is fixed by the header of the segment that follows it, never by what follows in
  its own file.
- Bytes that had to move (a failed sync, P7) stand in the next segment at the same distance: offset
  `end + n` of the old segment is offset `SEGMENT_HEADER_BYTES + n` of the new one (`CONTINUES`).

Does not know: files, syncs, what an item means. Format version 1; the bytes are golden-tested
because they are meant to stay. Source: P7, P30, P31; LIMITS point 6 (own segments against a
general store). Differs from Boki, which leaves all this to its key-value store.
"""

import struct
from collections.abc import Callable, Iterable, Iterator
from typing import Final

from xxhash import xxh3_64_intdigest

from bokilog.errors import FormatTooNew
from bokilog.named import NamedTuple
from bokilog.record import Buffer

Verify = Callable[[int, memoryview], bool]
"""Whether an item of that kind is whole: its own checksums match. Must answer, not raise."""

FORMAT_VERSION: Final = 1
# One page: writing the first group never shares a block with what `seal` writes later.
SEGMENT_HEADER_BYTES: Final = 4096
# In a sector of its own inside the header page, so that a torn write cannot reach the header.
SEGMENT_END_OFFSET: Final = 2048
GROUP_HEADER_BYTES: Final = 80
WORD_BYTES: Final = 8
KIND_MAX: Final = 255
ITEM_BYTES_MAX: Final = (1 << 56) - 1

_SEGMENT: Final = struct.Struct("<8sII7Q")
_GROUP: Final = struct.Struct("<8s7QII")
_END: Final = struct.Struct("<8s4Q")
_SUM: Final = struct.Struct("<Q")
# The first byte is no UTF-8, so that text in a payload never looks like a header.
_SEGMENT_MAGIC: Final = b"\x89BOKISEG"
_GROUP_MAGIC: Final = b"\x89BOKIGRP"
_END_MAGIC: Final = b"\x89BOKIEND"
_CONTINUES: Final = 1

assert _GROUP.size + _SUM.size == GROUP_HEADER_BYTES
assert _SEGMENT.size + _SUM.size <= SEGMENT_END_OFFSET
assert SEGMENT_END_OFFSET + _END.size + _SUM.size <= SEGMENT_HEADER_BYTES


class Place(NamedTuple):
    """An offset in a segment; places order as the journal does. `Place(0, 0)` is before all."""

    segment: int
    offset: int


NOWHERE: Final = Place(0, 0)


class SegmentHeader(NamedTuple):
    """First bytes of a segment; made durable together with its first group."""

    generation: int
    """Never used before in this journal, so that bytes of a recycled file are told apart."""
    number: int
    previous_end: Place
    """The segment before this one and where it ends: what its file holds from there on is void."""
    previous_group: int
    """The last group before this segment."""
    synced: Place
    """Everything before it was known to be synced when this was written."""
    continues: bool
    """The first groups lay past `previous_end` before, and stand here at the same distance."""


class SegmentEnd(NamedTuple):
    """Written into a segment's header page before the segment that follows it is recycled."""

    generation: int
    number: int
    offset: int
    last_group: int


class GroupHeader(NamedTuple):
    """First bytes of a group."""

    generation: int
    offset: int
    """Its own: a copy of a segment inside a payload does not look like a group."""
    number: int
    synced: Place
    """Everything before it was known to be synced when this was written."""
    item_count: int
    body_bytes: int
    framing: int
    """Checksum over the words of all items, one after the other."""

    @property
    def end(self) -> int:
        """Offset of the first byte behind the group."""
        return self.offset + GROUP_HEADER_BYTES + self.body_bytes


class Item(NamedTuple):
    """Kind of an item and the range of its bytes, `[start, until)`, in the segment."""

    kind: int
    start: int
    until: int


class Group(NamedTuple):
    """A whole group. One without items is what a clean stop writes."""

    header: GroupHeader
    items: tuple[Item, ...]


# --- bytes ----------------------------------------------------------------------------------------


def encode_segment_header(header: SegmentHeader) -> bytes:
    """The header page, `SEGMENT_HEADER_BYTES` long."""
    fields = _SEGMENT.pack(
        _SEGMENT_MAGIC,
        FORMAT_VERSION,
        _CONTINUES if header.continues else 0,
        header.generation,
        header.number,
        *header.previous_end,
        header.previous_group,
        *header.synced,
    )
    return _signed(fields).ljust(SEGMENT_HEADER_BYTES, b"\0")


def decode_segment_header(data: Buffer) -> SegmentHeader | None:
    """The header that `data` starts with, or None if there is none or it does not verify.

    Raises `FormatTooNew` for a header that verifies and has a higher version: every version keeps
    magic, version and the place of the checksum.
    """
    if not _verifies(data, _SEGMENT.size):
        return None
    magic, version, flags, generation, number, *rest = _SEGMENT.unpack_from(data)
    if magic != _SEGMENT_MAGIC:
        return None
    if version > FORMAT_VERSION:
        raise FormatTooNew("a journal segment", version, FORMAT_VERSION)
    segment, end, group, synced, offset = rest
    return SegmentHeader(
        generation=generation,
        number=number,
        previous_end=Place(segment, end),
        previous_group=group,
        synced=Place(synced, offset),
        continues=bool(flags & _CONTINUES),
    )


def encode_segment_end(end: SegmentEnd) -> bytes:
    """What goes to `SEGMENT_END_OFFSET` of the segment whose successor is to be recycled."""
    return _signed(_END.pack(_END_MAGIC, *end))


def decode_segment_end(page: Buffer, header: SegmentHeader | None) -> SegmentEnd | None:
    """The end noted in a header page, or None; one of an older generation does not count."""
    data = memoryview(page)[SEGMENT_END_OFFSET:]
    if header is None or not _verifies(data, _END.size):
        return None
    magic, *fields = _END.unpack_from(data)
    end = SegmentEnd(*fields)
    mine = (end.generation, end.number) == (header.generation, header.number)
    return end if mine and magic == _END_MAGIC else None


def encode_group_header(header: GroupHeader) -> bytes:
    """`GROUP_HEADER_BYTES` bytes."""
    generation, offset, number, (segment, until), item_count, body_bytes, framing = header
    fields = _GROUP.pack(
        *(_GROUP_MAGIC, generation, offset, number, segment, until),
        *(body_bytes, framing, item_count, 0),
    )
    return fields + _SUM.pack(xxh3_64_intdigest(fields))


def decode_group_header(data: Buffer, offset: int = 0) -> GroupHeader | None:
    """The group header at `offset` of `data`, or None if there is none or it does not verify."""
    field_bytes = bytes(data[offset : offset + GROUP_HEADER_BYTES])
    if not _verifies(field_bytes, _GROUP.size):
        return None
    magic, generation, own, number, segment, until, *rest = _GROUP.unpack_from(field_bytes)
    if magic != _GROUP_MAGIC:
        return None
    body_bytes, framing, item_count, _reserved = rest
    return GroupHeader(
        *(generation, own, number, Place(segment, until)), item_count, body_bytes, framing
    )


def encode_word(kind: int, length: int) -> bytes:
    """What stands before an item's bytes; 56 bits of length, 8 of kind."""
    if not 0 <= kind <= KIND_MAX or not 0 <= length <= ITEM_BYTES_MAX:
        raise ValueError(
            f"item of kind {kind} and {length} bytes: at most {KIND_MAX} and {ITEM_BYTES_MAX}"
        )
    return (kind << 56 | length).to_bytes(WORD_BYTES, "little")


def checksum(data: Buffer) -> int:
    """The checksum of all journal structures: xxh3-64."""
    return xxh3_64_intdigest(data)


def _signed(fields: bytes) -> bytes:
    return fields + _SUM.pack(xxh3_64_intdigest(fields))


def _verifies(data: Buffer, size: int) -> bool:
    if len(data) < size + _SUM.size:
        return False
    expected: int = _SUM.unpack_from(data, size)[0]
    return xxh3_64_intdigest(data[:size]) == expected


# --- groups of one segment ------------------------------------------------------------------------


def decode_group(data: bytes, offset: int, until: int) -> Group | None:
    """The group at `offset` that ends at or before `until`, its framing verified, or None."""
    header = decode_group_header(data, offset)
    if header is None or header.offset != offset or header.end > min(until, len(data)):
        return None
    if header.item_count * WORD_BYTES > header.body_bytes:
        return None
    items = []
    words = []
    start = offset + GROUP_HEADER_BYTES
    for _ in range(header.item_count):
        word = data[start : start + WORD_BYTES]
        number = int.from_bytes(word, "little")
        start += WORD_BYTES
        end = start + (number & ITEM_BYTES_MAX)
        if end > header.end:
            return None
        items.append(Item(number >> 56, start, end))
        words.append(word)
        start = end
    if start != header.end or checksum(b"".join(words)) != header.framing:
        return None
    return Group(header, tuple(items))


def scan_segment(
    data: bytes, *, start: int, until: int, generation: int, number: int, verify: Verify | None
) -> Iterator[Group]:
    """Whole groups from `start` on, in order; ends at the first place that holds none.

    Args:
        data: the segment, from its first byte.
        start: offset of the first group.
        until: where the segment ends, or its length if no other segment says so.
        generation: of the segment; groups of another one do not count.
        number: of the group expected at `start`.
        verify: asked for every item; None if they were verified before.
    """
    view = memoryview(data)
    while (group := decode_group(data, start, until)) is not None:
        if group.header.generation != generation or group.header.number != number:
            return
        if verify and not all(verify(kind, view[a:b]) for kind, a, b in group.items):
            return
        yield group
        start = group.header.end
        number += 1


def find_groups(data: bytes, *, start: int, until: int, oldest: int) -> Iterator[GroupHeader]:
    """Headers that verify by themselves anywhere in `[start, until)`, of generation >= `oldest`."""
    at = data.find(_GROUP_MAGIC, start, until)
    while at >= 0:
        header = decode_group_header(data, at)
        if header is not None and header.offset == at and header.generation >= oldest:
            yield header
        at = data.find(_GROUP_MAGIC, at + 1, until)


def is_corruption(bad: Place, claims: Iterable[Place]) -> bool:
    """Whether a bad place was known to be synced: else it is the torn tail of a crash (P30)."""
    return any(claim > bad for claim in claims)


# --- the chain of segments ------------------------------------------------------------------------


class FoundSegment(NamedTuple):
    """What a segment file's header page says; `header` is None if it does not verify."""

    number: int
    header: SegmentHeader | None
    noted_end: SegmentEnd | None


class Chain(NamedTuple):
    """Which segments count, oldest first, and which are void: a later header skips them."""

    segments: tuple[FoundSegment, ...]
    superseded: tuple[int, ...]


def follow_chain(found: Iterable[FoundSegment]) -> Chain:
    """Follow the headers from the newest segment back.

    A missing segment is in order if the one below it carries its end: that was noted before the
    missing one was recycled. Else it is put into the chain without a header, a bad place to judge.
    """
    segments: list[FoundSegment] = []
    superseded: list[int] = []
    wanted: int | None = None  # the segment that the one above says it follows
    for each in sorted(found, reverse=True):
        if wanted is not None and each.number > wanted:
            superseded.append(each.number)
            continue
        if wanted is not None and each.number < wanted and each.noted_end is None:
            segments.append(FoundSegment(wanted, None, None))
        segments.append(each)
        wanted = each.header.previous_end.segment if each.header is not None else None
    return Chain(tuple(reversed(segments)), tuple(reversed(superseded)))


class End(NamedTuple):
    """Where a segment ends and the number of its last group."""

    offset: int
    last_group: int


def segment_end(segment: FoundSegment, following: FoundSegment | None) -> End | None:
    """What other headers, or its own note, say of a segment's end; None: nothing yet."""
    if following is not None and following.header is not None:
        header = following.header
        if header.previous_end.segment == segment.number:
            return End(header.previous_end.offset, header.previous_group)
    if segment.noted_end is not None:
        return End(segment.noted_end.offset, segment.noted_end.last_group)
    return None
