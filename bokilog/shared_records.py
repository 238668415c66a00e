"""Records that processes of one machine read from their engine's memory, without a message.

    header   magic, version, slots, ring bytes, incarnation of the engine, hits, misses
    slots    key, where its entry lies, the entry's bytes, its checksum
    ring     entries: book, time, bytes of tags; tags; data

A key is (log space, seqnum); its slot is found by hashing it. Numbers are in the machine's own
order, since nobody else reads them: those of the header and of slots are also one array of them.

Decides the layout, and when what was read may be used. One process writes, any number read, and
nobody waits for anybody: a reader copies an entry and then looks whether it is whole and still the
one it asked for. One checksum tells both: it covers all of the entry, and its seed is the key. What
is not, or not here, is a miss, and the caller asks the engine by message.

Invariants: an entry is written before its slot; no entry wraps around the end of the ring. Only
visible records are published, and bytes of a seqnum never change, so nothing is invalidated but
what a loss makes untrue (`forget`), and records that get aux data, which is not kept here (`drop`).

Does not know: files, mappings, sessions, trims. Source: LIMITS point 12 (0.4 us for a record in
another process's memory, beside 7 us for one message each way).
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final, TypeAlias

from xxhash import xxh3_64_intdigest

from bokilog.codec import pack, unpack
from bokilog.limits import KIB, MIB, SEQNUM_MAX

if TYPE_CHECKING:
    from mmap import mmap  # made by the shell

MAGIC: Final = 0x5352_4C4F_474B_4F42  # "BOKGOLRS" as it lies in memory
VERSION: Final = 3
BYTES_MIN: Final = 1 * MIB
_HEADER: Final = struct.Struct("=QIIQQQQQ")
_HITS: Final = 5  # these two are places of numbers, not of bytes
_MISSES: Final = 6
_HEADER_BYTES: Final = 64
_SLOT: Final = struct.Struct("=QQQQ")
_SLOT_BYTES: Final = _SLOT.size
_ENTRY: Final = struct.Struct("=QQI")
_ENTRY_BYTES: Final = _ENTRY.size
_HITS_TOLD: Final = 16
"""A reader counts so many hits before it tells of them: one at a time cost 5 % of each read."""
_SPACE_SHIFT: Final = 53  # seqnums have 53 bits
_SPACE_SPREAD: Final = 0x9E37
_MASK: Final = 2**64 - 1
_SLOT_PER_BYTES: Final = 512
"""One slot for so many bytes of the ring: twice as many as records of 1 KiB fit."""
DATA_BYTES_MAX: Final = 64 * KIB
"""Of a record that is published: larger ones would push all others out, to save little."""

assert _HEADER.size <= _HEADER_BYTES
assert struct.calcsize("=QIIQQQ") == _HITS * 8 == _MISSES * 8 - 8
assert SEQNUM_MAX < 1 << _SPACE_SHIFT


SharedRecord: TypeAlias = tuple[bytes, str | list[str] | None, int]
"""(data, tags, time in ms): a record as it lies in memory. A plain tuple, since one is made for
each read."""


class _Layout:
    """Where things lie in memory of a certain size."""

    __slots__ = ("ring_at", "ring_bytes", "slots", "slots_bits")

    def __init__(self, size_bytes: int) -> None:
        self.slots_bits = max(1, (size_bytes // _SLOT_PER_BYTES).bit_length() - 1)
        self.slots = 1 << self.slots_bits
        self.ring_at = _HEADER_BYTES + self.slots * _SLOT.size
        self.ring_bytes = (size_bytes - self.ring_at) & ~7


class SharedWriter:
    """The engine's side.

    Args:
        memory: zeros or an earlier writer's; at least `BYTES_MIN`, and of the same size for all.
        incarnation: of the engine, so that readers know whose memory it is.
    """

    __slots__ = ("_layout", "_memory", "_next", "_words", "published_count")

    def __init__(self, memory: mmap, incarnation: int) -> None:
        assert len(memory) >= BYTES_MIN
        self._memory = memory
        self._words = _words_of(memory)
        self._layout = layout = _Layout(len(memory))
        self._next = layout.ring_at
        self.published_count = 0
        self.forget()
        head = (MAGIC, VERSION, 0, layout.slots, layout.ring_bytes, incarnation, 0, 0)
        _HEADER.pack_into(memory, 0, *head)

    @property
    def hits(self) -> int:
        """How often readers have found a record, as far as they have told. They all write it, so
        what one tells while another does may be forgotten."""
        return self._words[_HITS]

    @property
    def misses(self) -> int:
        """How often they did not find one, as roughly."""
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
        memory, layout = self._memory, self._layout
        if len(data) > DATA_BYTES_MAX:
            return
        key = space << _SPACE_SHIFT | seqnum
        slot_at = _slot_at(space, seqnum, layout.slots_bits)
        found_key, at, size, check = _SLOT.unpack_from(memory, slot_at)
        if found_key == key and xxh3_64_intdigest(memory[at : at + size], key) == check:
            return
        tag_bytes = pack(tags) if tags else b""
        entry = b"".join((_ENTRY.pack(book, timestamp_ms, len(tag_bytes)), tag_bytes, data))
        size = len(entry)
        at = self._next
        if at + size > layout.ring_at + layout.ring_bytes:
            at = layout.ring_at
        self._next = at + (size + 7 & ~7)
        memory[at : at + size] = entry
        words, word = self._words, slot_at >> 3
        words[word] = 0  # between keys no key: what is found is one entry's, or none's
        words[word + 1], words[word + 2] = at, size
        words[word + 3] = xxh3_64_intdigest(entry, key)
        words[word] = key
        self.published_count += 1

    def drop(self, space: int, seqnum: int) -> None:
        """Not to be read from here any more: the record has aux data now."""
        word = _slot_at(space, seqnum, self._layout.slots_bits) >> 3
        if self._words[word] == space << _SPACE_SHIFT | seqnum:
            self._words[word] = 0

    def forget(self) -> None:
        """What was published may not be true any more: none of it is found."""
        ring_at = self._layout.ring_at
        self._memory[_HEADER_BYTES:ring_at] = bytes(ring_at - _HEADER_BYTES)


class SharedReader:
    """A worker's side."""

    __slots__ = ("_layout", "_memory", "_slots_bits", "_told_count", "_words", "hit_count")

    def __init__(self, memory: mmap) -> None:
        self._memory = memory
        self._words = _words_of(memory)
        self._layout = _Layout(len(memory))
        self._slots_bits = self._layout.slots_bits
        self.hit_count = 0
        self._told_count = 0  # of them

    def is_of(self, incarnation: int) -> bool:
        """Whether this memory is written by that start of an engine, in this layout."""
        magic, version, _, slots, ring_bytes, writer, _, _ = _HEADER.unpack_from(self._memory)
        layout = self._layout
        told = (magic, version, slots, ring_bytes, writer)
        return told == (MAGIC, VERSION, layout.slots, layout.ring_bytes, incarnation)

    def find(self, space: int, book: int, seqnum: int) -> SharedRecord | None:
        """The record at a seqnum from 1 to `SEQNUM_MAX`, or None: ask the engine.

        A slot that was torn is nothing to fear: a slice ends with the memory, and its checksum is
        another one.
        """
        memory = self._memory
        key = space << _SPACE_SHIFT | seqnum
        slot = _SLOT.unpack_from(memory, _slot_at(space, seqnum, self._slots_bits))
        found_key, at, size, check = slot
        if found_key == key:
            entry = memory[at : at + size]
            if xxh3_64_intdigest(entry, key) == check:
                found_book, timestamp_ms, tags_size = _ENTRY.unpack_from(entry)
                if found_book == book:
                    self.hit_count = hits = self.hit_count + 1
                    if not hits % _HITS_TOLD:
                        self._tell()
                    if not tags_size:
                        return entry[_ENTRY_BYTES:], None, timestamp_ms
                    data_at = _ENTRY_BYTES + tags_size
                    return entry[data_at:], unpack(entry[_ENTRY_BYTES:data_at]), timestamp_ms
        self._words[_MISSES] = self._words[_MISSES] + 1 & _MASK
        self._tell()
        return None

    def _tell(self) -> None:
        words, hits = self._words, self.hit_count
        words[_HITS] = words[_HITS] + hits - self._told_count & _MASK
        self._told_count = hits


def _words_of(memory: mmap) -> memoryview:
    return memoryview(memory)[: len(memory) & ~7].cast("Q")


def _slot_at(space: int, seqnum: int, slots_bits: int) -> int:
    """Where its slot is. Seqnums that follow each other, be it in steps of a power of two (every
    n-th record is this LogBook's), have slots of their own."""
    spread = (seqnum ^ seqnum >> slots_bits) + space * _SPACE_SPREAD
    return _HEADER_BYTES + (spread & (1 << slots_bits) - 1) * _SLOT_BYTES
