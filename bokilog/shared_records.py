"""Records that processes of one machine read from their engine's memory, without a message.

    header   magic, version, slots, ring bytes, incarnation of the engine, head, uses
    slots    u64 key, u64 place; a key is (log space, seqnum), a slot is found by hashing it
    ring     entries: place, book, seqnum, time, lengths, checksum; then tags and data

Decides the layout, and when what was read may be used. One process writes, any number read, and
nobody waits for anybody: a reader copies an entry and then looks whether it is whole (its checksum
covers all of it) and still the one it asked for. What is not, or not here, is a miss, and the
caller asks the engine by message.

Invariants: an entry is written before its slot; no entry wraps around the end of the ring; places
grow for ever, so an overwritten entry is known by its place. Only visible records are published,
and bytes of a seqnum never change, so nothing is invalidated but what a loss makes untrue
(`forget`), and records that get aux data, which is not kept here (`drop`).

Does not know: files, mappings, sessions, trims. Source: LIMITS point 12 (0.4 us for a record in
another process's memory, beside 7 us for one message each way).
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

import xxhash

from bokilog.codec import pack, unpack
from bokilog.limits import KIB, MIB

MAGIC: Final = 0x5352_4C4F_474B_4F42  # "BOKGOLRS" as it lies in memory
VERSION: Final = 1
BYTES_MIN: Final = 1 * MIB
_HEADER: Final = struct.Struct("<QIIQQQQQ")
_HEAD_AT: Final = 40
_USES_AT: Final = 48
_HEADER_BYTES: Final = 64
_SLOT: Final = struct.Struct("<QQ")
_NUMBER: Final = struct.Struct("<Q")
_ENTRY: Final = struct.Struct("<QQQQII")  # place, book, seqnum, time, tags bytes, data bytes
_SPACE_SHIFT: Final = 53  # seqnums have 53 bits
_SPREAD: Final = 0x9E37_79B9_7F4A_7C15
_MASK: Final = 2**64 - 1
_SLOT_PER_BYTES: Final = 512
"""One slot for so many bytes of the ring: twice as many as records of 1 KiB fit."""
DATA_BYTES_MAX: Final = 64 * KIB
"""Of a record that is published: larger ones would push all others out, to save little."""

assert _HEADER.size <= _HEADER_BYTES
assert struct.calcsize("<QIIQQQ") == _HEAD_AT
assert _USES_AT == _HEAD_AT + 8


class SharedRecord(NamedTuple):
    """A record as it lies in memory."""

    data: bytes
    tags: str | list[str] | None
    timestamp_ms: int


class _Layout:
    """Where things lie in memory of a certain size."""

    __slots__ = ("ring_at", "ring_bytes", "slots", "slots_mask")

    def __init__(self, size_bytes: int) -> None:
        slots = 1 << max(1, (size_bytes // _SLOT_PER_BYTES).bit_length() - 1)
        self.slots = slots
        self.slots_mask = slots - 1
        self.ring_at = _HEADER_BYTES + slots * _SLOT.size
        self.ring_bytes = (size_bytes - self.ring_at) & ~7


class SharedWriter:
    """The engine's side.

    Args:
        memory: zeros or an earlier writer's; at least `BYTES_MIN`, and of the same size for all.
        incarnation: of the engine, so that readers know whose memory it is.
    """

    __slots__ = ("_head", "_layout", "_memory", "published_count")

    def __init__(self, memory: memoryview, incarnation: int) -> None:
        assert len(memory) >= BYTES_MIN
        self._memory = memory
        self._layout = _Layout(len(memory))
        self._head = 0
        self.published_count = 0
        layout = self._layout
        memory[_HEADER_BYTES : layout.ring_at] = bytes(layout.ring_at - _HEADER_BYTES)
        head = (MAGIC, VERSION, 0, layout.slots, layout.ring_bytes, incarnation, 0, 0)
        _HEADER.pack_into(memory, 0, *head)

    @property
    def uses(self) -> int:
        """How often readers have looked for anything. They all write it, so one that counts while
        another does may be forgotten; it tells whether it is worth while to publish."""
        (count,) = _NUMBER.unpack_from(self._memory, _USES_AT)
        return int(count)

    def add(
        self,
        space: int,
        seqnum: int,
        *,
        book: int,
        data: bytes | bytearray | memoryview,
        tags: str | list[str] | None,
        timestamp_ms: int,
    ) -> None:
        """Publish a visible record; one that is there already, or is too large, is not written."""
        memory, layout = self._memory, self._layout
        size = len(data)
        if size > DATA_BYTES_MAX:
            return
        key = space << _SPACE_SHIFT | seqnum
        slot_at = _slot_at(key, layout.slots_mask)
        known, place = _SLOT.unpack_from(memory, slot_at)
        if known == key and self._head - place <= layout.ring_bytes:
            return
        tag_bytes = b"" if not tags else pack(tags)
        length = (_ENTRY.size + _NUMBER.size + len(tag_bytes) + size + 7) & ~7
        place = self._head
        left = layout.ring_bytes - place % layout.ring_bytes
        if left < length:
            place += left
        at = layout.ring_at + place % layout.ring_bytes
        # The head goes first: a reader of what is about to be overwritten sees that it is.
        self._head = place + length
        _NUMBER.pack_into(memory, _HEAD_AT, self._head)
        entry = _ENTRY.pack(place, book, seqnum, timestamp_ms, len(tag_bytes), size)
        memory[at : at + _ENTRY.size] = entry
        at += _ENTRY.size
        _NUMBER.pack_into(memory, at, _check(entry, tag_bytes, data))
        at += _NUMBER.size
        memory[at : at + len(tag_bytes)] = tag_bytes
        at += len(tag_bytes)
        memory[at : at + size] = data
        _SLOT.pack_into(memory, slot_at, key, place)
        self.published_count += 1

    def drop(self, space: int, seqnum: int) -> None:
        """Not to be read from here any more: the record has aux data now."""
        key = space << _SPACE_SHIFT | seqnum
        slot_at = _slot_at(key, self._layout.slots_mask)
        if _SLOT.unpack_from(self._memory, slot_at)[0] == key:
            _SLOT.pack_into(self._memory, slot_at, 0, 0)

    def forget(self) -> None:
        """What was published may not be true any more: none of it is found."""
        ring_at = self._layout.ring_at
        self._memory[_HEADER_BYTES:ring_at] = bytes(ring_at - _HEADER_BYTES)
        self._head += self._layout.ring_bytes + 8  # readers who have a place already see it as old
        self._head += -self._head % 8
        _NUMBER.pack_into(self._memory, _HEAD_AT, self._head)


class SharedReader:
    """A worker's side."""

    __slots__ = ("_layout", "_memory", "hit_count", "miss_count")

    def __init__(self, memory: memoryview) -> None:
        self._memory = memory
        self._layout = _Layout(len(memory))
        self.hit_count = 0
        self.miss_count = 0

    def is_of(self, incarnation: int) -> bool:
        """Whether this memory is written by that start of an engine, in this layout."""
        magic, version, _, slots, ring_bytes, writer, _, _ = _HEADER.unpack_from(self._memory)
        layout = self._layout
        told = (magic, version, slots, ring_bytes, writer)
        return told == (MAGIC, VERSION, layout.slots, layout.ring_bytes, incarnation)

    def find(self, space: int, book: int, seqnum: int) -> SharedRecord | None:
        """The record, or None: ask the engine."""
        (uses,) = _NUMBER.unpack_from(self._memory, _USES_AT)
        _NUMBER.pack_into(self._memory, _USES_AT, (uses + 1) & _MASK)
        found = self._whole(space, book, seqnum)
        if found is None:
            self.miss_count += 1
        else:
            self.hit_count += 1
        return found

    def _whole(self, space: int, book: int, seqnum: int) -> SharedRecord | None:
        memory, layout = self._memory, self._layout
        key = space << _SPACE_SHIFT | seqnum
        known, place = _SLOT.unpack_from(memory, _slot_at(key, layout.slots_mask))
        (head,) = _NUMBER.unpack_from(memory, _HEAD_AT)
        if known != key or head - place > layout.ring_bytes:
            return None
        at = layout.ring_at + place % layout.ring_bytes
        entry = bytes(memory[at : at + _ENTRY.size])
        if len(entry) < _ENTRY.size:
            return None  # the place was torn: it points at the very end
        found_place, found_book, found_seqnum, timestamp_ms, tags, size = _ENTRY.unpack(entry)
        same = found_place == place and found_seqnum == seqnum and found_book == book
        if not same or size > DATA_BYTES_MAX or at + _ENTRY.size + _NUMBER.size > len(memory):
            return None
        at += _ENTRY.size
        (check,) = _NUMBER.unpack_from(memory, at)
        at += _NUMBER.size
        tag_bytes = bytes(memory[at : at + tags]) if tags else b""
        at += tags
        data = bytes(memory[at : at + size])
        if _check(entry, tag_bytes, data) != check:
            return None
        return SharedRecord(data, unpack(tag_bytes) if tags else None, timestamp_ms)


def _slot_at(key: int, mask: int) -> int:
    return _HEADER_BYTES + ((key * _SPREAD & _MASK) >> 24 & mask) * _SLOT.size


def _check(entry: bytes, tag_bytes: bytes, data: bytes | bytearray | memoryview) -> int:
    seed = xxhash.xxh3_64_intdigest(entry)
    if tag_bytes:
        seed = xxhash.xxh3_64_intdigest(tag_bytes, seed)
    return xxhash.xxh3_64_intdigest(data, seed)
