"""Records that processes of one machine read from their engine's memory, without a message.

    header   magic, version, slots, ring bytes, incarnation of the engine, head, uses, misses
    slots    u64 key, u64 place; a key is (log space, seqnum), a slot is found by hashing it
    ring     entries: place, book, seqnum, checksum; then what it covers: time, lengths, tags, data

Numbers are in the machine's own order, since nobody else reads them: those of the header and of
slots are taken out of one array.

Decides the layout, and when what was read may be used. One process writes, any number read, and
nobody waits for anybody: a reader copies an entry and then looks whether it is whole (its checksum
covers what is not compared) and still the one it asked for. What is not, or not here, is a miss,
and the caller asks the engine by message.

Invariants: an entry is written before its slot; no entry wraps around the end of the ring; places
grow for ever, so an overwritten entry is known by its place. Only visible records are published,
and bytes of a seqnum never change, so nothing is invalidated but what a loss makes untrue
(`forget`), and records that get aux data, which is not kept here (`drop`).

Does not know: files, mappings, sessions, trims. Source: LIMITS point 12 (0.4 us for a record in
another process's memory, beside 7 us for one message each way).
"""

from __future__ import annotations

import struct
from typing import Final, TypeAlias

import xxhash

from bokilog.codec import pack, unpack
from bokilog.limits import KIB, MIB

MAGIC: Final = 0x5352_4C4F_474B_4F42  # "BOKGOLRS" as it lies in memory
VERSION: Final = 2
BYTES_MIN: Final = 1 * MIB
_HEADER: Final = struct.Struct("=QIIQQQQQQ")
_HEAD: Final = 5  # these three are places of numbers, not of bytes
_USES: Final = 6
_MISSES: Final = 7
_HEADER_BYTES: Final = 64
_SLOT_BYTES: Final = 16
_ENTRY: Final = struct.Struct("=QQQQQII")  # place, book, seqnum, checksum, time, tags, data bytes
_SPACE_SHIFT: Final = 53  # seqnums have 53 bits
_SPREAD: Final = 0x9E37_79B9_7F4A_7C15
_MASK: Final = 2**64 - 1
_SLOT_PER_BYTES: Final = 512
"""One slot for so many bytes of the ring: twice as many as records of 1 KiB fit."""
DATA_BYTES_MAX: Final = 64 * KIB
"""Of a record that is published: larger ones would push all others out, to save little."""

assert _HEADER.size <= _HEADER_BYTES
assert struct.calcsize("=QIIQQQ") == _HEAD * 8
assert _MISSES == _USES + 1 == _HEAD + 2


SharedRecord: TypeAlias = tuple[bytes, str | list[str] | None, int]
"""(data, tags, time in ms): a record as it lies in memory. A plain tuple, since one is made for
each read."""


class _Layout:
    """Where things lie in memory of a certain size."""

    __slots__ = ("ring_at", "ring_bytes", "slots", "slots_mask")

    def __init__(self, size_bytes: int) -> None:
        slots = 1 << max(1, (size_bytes // _SLOT_PER_BYTES).bit_length() - 1)
        self.slots = slots
        self.slots_mask = slots - 1
        self.ring_at = _HEADER_BYTES + slots * _SLOT_BYTES
        self.ring_bytes = (size_bytes - self.ring_at) & ~7


class SharedWriter:
    """The engine's side.

    Args:
        memory: zeros or an earlier writer's; at least `BYTES_MIN`, and of the same size for all.
        incarnation: of the engine, so that readers know whose memory it is.
    """

    __slots__ = ("_head", "_layout", "_memory", "_words", "published_count")

    def __init__(self, memory: memoryview, incarnation: int) -> None:
        assert len(memory) >= BYTES_MIN
        self._memory = memory
        self._words = _words_of(memory)
        self._layout = _Layout(len(memory))
        self._head = 0
        self.published_count = 0
        layout = self._layout
        memory[_HEADER_BYTES : layout.ring_at] = bytes(layout.ring_at - _HEADER_BYTES)
        head = (MAGIC, VERSION, 0, layout.slots, layout.ring_bytes, incarnation, 0, 0, 0)
        _HEADER.pack_into(memory, 0, *head)

    @property
    def uses(self) -> int:
        """How often readers have looked for anything. They all write it, so one that counts while
        another does may be forgotten; it tells whether it is worth while to publish."""
        return self._words[_USES]

    @property
    def misses(self) -> int:
        """How often they did not find it, counted as roughly."""
        return self._words[_MISSES]

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
        memory, words, layout = self._memory, self._words, self._layout
        size = len(data)
        if size > DATA_BYTES_MAX:
            return
        key = space << _SPACE_SHIFT | seqnum
        slot = _slot_of(key, layout.slots_mask)
        if words[slot] == key and self._head - words[slot + 1] <= layout.ring_bytes:
            return
        tag_bytes = b"" if not tags else pack(tags)
        length = (_ENTRY.size + len(tag_bytes) + size + 7) & ~7
        place = self._head
        left = layout.ring_bytes - place % layout.ring_bytes
        if left < length:
            place += left
        at = layout.ring_at + place % layout.ring_bytes
        # The head goes first: a reader of what is about to be overwritten sees that it is.
        self._head = place + length
        words[_HEAD] = self._head
        check = _check(timestamp_ms, tag_bytes, data)
        tags_size = len(tag_bytes)
        _ENTRY.pack_into(memory, at, place, book, seqnum, check, timestamp_ms, tags_size, size)
        at += _ENTRY.size
        memory[at : at + tags_size] = tag_bytes
        at += tags_size
        memory[at : at + size] = data
        words[slot] = 0  # between keys no key: what is found is one entry's, or none's
        words[slot + 1] = place
        words[slot] = key
        self.published_count += 1

    def drop(self, space: int, seqnum: int) -> None:
        """Not to be read from here any more: the record has aux data now."""
        key = space << _SPACE_SHIFT | seqnum
        slot = _slot_of(key, self._layout.slots_mask)
        if self._words[slot] == key:
            self._words[slot] = 0

    def forget(self) -> None:
        """What was published may not be true any more: none of it is found."""
        ring_at = self._layout.ring_at
        self._memory[_HEADER_BYTES:ring_at] = bytes(ring_at - _HEADER_BYTES)
        self._head += self._layout.ring_bytes + 8  # readers who have a place already see it as old
        self._head += -self._head % 8
        self._words[_HEAD] = self._head


class SharedReader:
    """A worker's side."""

    __slots__ = (
        "_layout",
        "_memory",
        "_ring_at",
        "_ring_bytes",
        "_slots_mask",
        "_words",
        "hit_count",
    )

    def __init__(self, memory: memoryview) -> None:
        self._memory = memory
        self._words = _words_of(memory)
        self._layout = layout = _Layout(len(memory))
        self._ring_at, self._ring_bytes = layout.ring_at, layout.ring_bytes
        self._slots_mask = layout.slots_mask
        self.hit_count = 0

    def is_of(self, incarnation: int) -> bool:
        """Whether this memory is written by that start of an engine, in this layout."""
        magic, version, _, slots, ring_bytes, writer, _, _, _ = _HEADER.unpack_from(self._memory)
        layout = self._layout
        told = (magic, version, slots, ring_bytes, writer)
        return told == (MAGIC, VERSION, layout.slots, layout.ring_bytes, incarnation)

    def find(self, space: int, book: int, seqnum: int) -> SharedRecord | None:
        """The record, or None: ask the engine."""
        words = self._words
        words[_USES] = words[_USES] + 1 & _MASK
        key = space << _SPACE_SHIFT | seqnum
        slot = _slot_of(key, self._slots_mask)
        if words[slot] == key:
            found = self._whole(words[slot + 1], book, seqnum)
            if found is not None:
                self.hit_count += 1
                return found
        words[_MISSES] = words[_MISSES] + 1 & _MASK
        return None

    def _whole(self, place: int, book: int, seqnum: int) -> SharedRecord | None:
        """What lies at a place, if that is the whole record. Lengths that were torn are nothing to
        fear: a slice ends with the memory, and its checksum is another one."""
        memory = self._memory
        if self._words[_HEAD] - place > self._ring_bytes:
            return None
        at = self._ring_at + place % self._ring_bytes
        if at + _ENTRY.size > len(memory):
            return None  # the place was torn: it points at the very end
        entry = _ENTRY.unpack_from(memory, at)
        found_place, found_book, found_seqnum, check, timestamp_ms, tags, size = entry
        same = found_seqnum == seqnum and found_place == place and found_book == book
        if not same or size > DATA_BYTES_MAX:
            return None
        at += _ENTRY.size
        tag_bytes = b""
        if tags:
            tag_bytes = memory[at : at + tags].tobytes()
            at += tags
        data = memory[at : at + size].tobytes()
        if _check(timestamp_ms, tag_bytes, data) != check or len(data) != size:
            return None
        return data, unpack(tag_bytes) if tags else None, timestamp_ms


def _words_of(memory: memoryview) -> memoryview:
    return memory[: len(memory) & ~7].cast("Q")


def _slot_of(key: int, mask: int) -> int:
    """Where its two numbers are."""
    return (_HEADER_BYTES >> 3) + ((key * _SPREAD & _MASK) >> 24 & mask) * 2


def _check(timestamp_ms: int, tag_bytes: bytes, data: bytes | bytearray | memoryview) -> int:
    seed = xxhash.xxh3_64_intdigest(tag_bytes, timestamp_ms) if tag_bytes else timestamp_ms
    return xxhash.xxh3_64_intdigest(data, seed)
