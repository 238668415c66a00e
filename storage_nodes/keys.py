"""Bytes of every key and value in the fold's store. Format version 1, golden-tested.

One letter per kind of row, then numbers big-endian, so that byte order is number order; values of
many numbers are little-endian columns that are searched where they lie, small ones msgpack.

    M                                    position, tail, time, hash, forgotten keys, replay hint
    S                                    open shards
    C                                    shards of the position's term that are closed
    P book, tag length, tag, seqnum      postings of a tag from `seqnum` on (tag "": all records)
    L seqnum                             rows of up to 256 frames from `seqnum` on
    F seqnum                             LocalIds of up to 256 spans of cuts from `seqnum` on
    T timestamp, seqnum                  (empty) time at which the `L` chunk at `seqnum` begins
    B book                               trim, deletion, holds of a LogBook
    R book, tag                          how far a tag is trimmed
    X book, prefix                       (empty) an ended prefix of tags
    K book, key                          what an idempotency key was used for
    V seqnum                             verdicts of the frame at `seqnum`
    E expiry, count, number              `K` and `V` rows that may go when that time is forgotten
    A seqnum                             aux data of a record
    G segment                            per LogBook the last seqnum in that journal segment
    H segment                            per LogBook the first seqnum in it, and about the bytes
    W                                    frames that are not copied here yet, after a load
    N                                    seqnums of what a person has given up

Does not know what reads or writes them.
"""

from __future__ import annotations

import struct
import sys
from array import array
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, Generic, NamedTuple, TypeVar, cast

from bokilog.codec import pack, unpack
from bokilog.conditions import KeyUse
from bokilog.errors import FormatTooNew
from bokilog.ids import Position, Term

FORMAT_VERSION: Final = 1
CHUNK_POSTINGS_MAX: Final = 4096
"""32 KiB: a read copies a whole chunk, a write of a busy tag makes one per 4096 records."""
CHUNK_ROWS_MAX: Final = 256

META: Final = b"M"
SHARDS: Final = b"S"
CLOSED: Final = b"C"
POSTINGS: Final = b"P"
ROWS: Final = b"L"
TIMES: Final = b"T"
LOCAL_IDS: Final = b"F"
BOOKS: Final = b"B"
TAG_TRIMS: Final = b"R"
ENDED: Final = b"X"
KEYS: Final = b"K"
VERDICTS: Final = b"V"
EXPIRIES: Final = b"E"
AUX: Final = b"A"
SEGMENTS: Final = b"G"
SPANS: Final = b"H"
LACKING: Final = b"W"
GIVEN_UP: Final = b"N"

_U64 = struct.Struct(">Q")
_U16 = struct.Struct(">H")
_TIME = struct.Struct(">cQQ")
_EXPIRY = struct.Struct(">cQQI")
_KEY_USE = struct.Struct("<QIQ16s")
_LITTLE = sys.byteorder == "little"

Numbers = Sequence[int]
"""A column as it lies in a value: indexed and bisected without being copied."""


# --- keys -----------------------------------------------------------------------------------------


def numbered(kind: bytes, number: int) -> bytes:
    """Key, or prefix of keys, of a kind whose first part is a number."""
    return kind + _U64.pack(number)


def number_of(key: bytes) -> int:
    """The last number of a key: its seqnum, book or segment."""
    return int.from_bytes(key[-8:], "big")


def postings_prefix(book: int, tag: str) -> bytes:
    """What the keys of a tag's chunks start with."""
    encoded = tag.encode()
    return POSTINGS + _U64.pack(book) + _U16.pack(len(encoded)) + encoded


def postings_key(prefix: bytes, seqnum: int) -> bytes:
    """Key of the chunk of a tag that begins at `seqnum`."""
    return prefix + _U64.pack(seqnum)


def tag_of(key: bytes) -> str:
    """The tag of a postings key."""
    return key[11:-8].decode()


def named(kind: bytes, book: int, name: str) -> bytes:
    """Key of something with a name in a LogBook: a tag's trim, an ended prefix, a used key."""
    return kind + _U64.pack(book) + name.encode()


def name_of(key: bytes) -> str:
    """The name in a `named` key."""
    return key[9:].decode()


def book_of(key: bytes) -> int:
    """The LogBook of a `named` key."""
    return int.from_bytes(key[1:9], "big")


def time_key(timestamp_ms: int, seqnum: int) -> bytes:
    """Key that tells when the chunk of rows at `seqnum` begins."""
    return _TIME.pack(TIMES, timestamp_ms, seqnum)


def expiry_key(expiry_ms: int, count: int, number: int) -> bytes:
    """`count` is that of the checkpoint's position, so that keys of two checkpoints differ."""
    return _EXPIRY.pack(EXPIRIES, expiry_ms, count, number)


def expiry_of(key: bytes) -> int:
    """When all rows in the list at an expiry key may go."""
    return int.from_bytes(key[1:9], "big")


# --- postings -------------------------------------------------------------------------------------


def encode_postings(postings: array[int], *, ordinal: int | None = None) -> bytes:
    """A chunk; those of all records (tag "") say how many came before them in the LogBook."""
    packed = _little(postings).tobytes()
    return packed if ordinal is None else ordinal.to_bytes(8, "little") + packed


def decode_postings(value: bytes, *, whole_book: bool) -> Numbers:
    """The seqnums of a chunk."""
    return _column("Q", memoryview(value)[8:] if whole_book else memoryview(value))


def ordinal_of(value: bytes) -> int:
    """How many visible records of the LogBook come before this chunk of all records."""
    return int.from_bytes(value[:8], "little")


# --- rows -----------------------------------------------------------------------------------------


Column = TypeVar("Column", bound=Numbers, covariant=True)


class RowColumns(NamedTuple, Generic[Column]):
    """Rows of consecutive frames, in columns: arrays in RAM, or as they lie in a value."""

    first_seqnums: Column
    timestamps_ms: Column
    segments: Column
    offsets: Column
    lengths: Column
    records: Column
    voids: dict[int, tuple[int, ...]]
    """Void units, by row; most frames have none."""


def encode_rows(rows: RowColumns[array[int]]) -> bytes:
    """A chunk of rows: a count, six columns, and the void units if there are any."""
    count = len(rows.first_seqnums)
    columns = [_little(column).tobytes() for column in rows[:6]]
    voids = pack([[row, list(units)] for row, units in rows.voids.items()]) if rows.voids else b""
    return b"".join((count.to_bytes(4, "little"), bytes(4), *columns, voids))


def decode_rows(value: bytes) -> RowColumns[Numbers]:
    """The rows of a chunk, searched where they lie."""
    count = int.from_bytes(value[:4], "little")
    view = memoryview(value)[8:]
    wide = [_column("Q", view[8 * count * i : 8 * count * (i + 1)]) for i in range(4)]
    view = view[32 * count :]
    narrow = [_column("I", view[4 * count * i : 4 * count * (i + 1)]) for i in range(2)]
    voids = view[8 * count :]
    void_rows = {row: tuple(units) for row, units in unpack(voids)} if voids else {}
    first_seqnums, timestamps_ms, segments, offsets = wide
    lengths, records = narrow
    return RowColumns(first_seqnums, timestamps_ms, segments, offsets, lengths, records, void_rows)


class SpanColumns(NamedTuple, Generic[Column]):
    """Spans of consecutive cuts, in columns: which records of which shard they order."""

    first_seqnums: Column
    terms: Column
    numbers: Column
    starts: Column
    untils: Column


def encode_ordered_spans(spans: SpanColumns[array[int]]) -> bytes:
    """A chunk of spans: five columns."""
    return b"".join(_little(column).tobytes() for column in spans)


def decode_ordered_spans(value: bytes) -> SpanColumns[Numbers]:
    """The spans of a chunk, searched where they lie."""
    view, size = memoryview(value), len(value) // 5
    return SpanColumns(*(_column("Q", view[size * i : size * (i + 1)]) for i in range(5)))


# --- small values ---------------------------------------------------------------------------------


class Meta(NamedTuple):
    """Where the fold stands."""

    space: int
    position: Position
    tail: int
    timestamp_ms: int
    chained_hash: int
    forgotten_ms: int
    """Keys whose expiry is at or before it are forgotten."""
    replay_hint: bytes


class StoredBook(NamedTuple):
    """What outlives records of a LogBook, but for what has rows of its own."""

    trim_until: int
    deleted: bool
    tag_trims: bool
    """Some tag of it was trimmed."""
    holds: Mapping[str, tuple[int, int]]
    """name -> (seqnum, expiry in ms)"""
    retention_ms: int = 0
    """0, here and below: no bound."""
    retention_bytes: int = 0


class StoredShard(NamedTuple):
    """A shard that is open in the position's term."""

    engine: str
    replicas: tuple[str, ...]
    ordered: int


class Lacking(NamedTuple):
    """Frames that the fold names and this node has no bytes of, after a load from a peer."""

    start: int
    """All of them stand in seqnums from here on..."""
    until: int
    """... up to here."""
    total_records: int
    """In all of them, at the load."""
    records: int
    """In those that are left."""


def encode_meta(meta: Meta) -> bytes:
    """Where the fold stands, behind the format's version."""
    return pack((FORMAT_VERSION, *meta))


def decode_meta(value: bytes) -> Meta:
    """Where the fold stands.

    Raises:
        FormatTooNew: a later version wrote this store.
    """
    version, *fields = unpack(value)
    if version > FORMAT_VERSION:
        raise FormatTooNew("the index store", version, FORMAT_VERSION)
    space, position, *rest = fields
    return Meta(space, Position(Term(position[0]), position[1]), *rest)


def encode_shards(shards: Mapping[int, StoredShard]) -> bytes:
    """The open shards, in one row."""
    return pack([(number, *shard) for number, shard in shards.items()])


def decode_shards(value: bytes) -> dict[int, StoredShard]:
    """Open shards by number."""
    return {
        number: StoredShard(engine, tuple(replicas), ordered)
        for number, engine, replicas, ordered in unpack(value)
    }


def encode_closed(numbers: Iterable[int]) -> bytes:
    """The closed shards of the position's term, in one row."""
    return pack(sorted(numbers))


def decode_closed(value: bytes) -> set[int]:
    """Numbers of closed shards."""
    return set(cast("list[int]", unpack(value)))


def encode_lacking(lacking: Lacking) -> bytes:
    """What is not copied here yet."""
    return pack(lacking)


def decode_lacking(value: bytes) -> Lacking:
    """What is not copied here yet."""
    return Lacking._make(cast("Iterable[int]", unpack(value)))


def encode_given_up(spans: Iterable[tuple[int, int]]) -> bytes:
    """Where each span of given up seqnums begins and ends."""
    return pack([list(span) for span in spans])


def decode_given_up(value: bytes) -> tuple[tuple[int, int], ...]:
    """The spans of `encode_given_up`."""
    return tuple((start, until) for start, until in cast("list[list[int]]", unpack(value)))


def encode_book(book: StoredBook) -> bytes:
    """What is kept of a LogBook."""
    holds = [(name, *hold) for name, hold in book.holds.items()]
    retention = (book.retention_ms, book.retention_bytes) if any(book[4:]) else ()
    return pack((book.trim_until, book.deleted, book.tag_trims, holds, *retention))


def decode_book(value: bytes) -> StoredBook:
    """What was kept of a LogBook."""
    trim_until, deleted, tag_trims, holds, *retention = unpack(value)
    found = {name: (seqnum, expiry) for name, seqnum, expiry in holds}
    return StoredBook(trim_until, deleted, tag_trims, found, *retention)


def encode_key_use(use: KeyUse) -> bytes:
    """A used key."""
    return _KEY_USE.pack(use.first_seqnum, use.records, use.expiry_ms, use.digest)


def decode_key_use(value: bytes) -> KeyUse:
    """A used key."""
    first_seqnum, records, expiry_ms, digest = _KEY_USE.unpack(value)
    return KeyUse(first_seqnum, records, digest, expiry_ms)


def encode_verdicts(verdicts: list[list[object]]) -> bytes:
    """The verdicts of a frame."""
    return pack(verdicts)


def decode_verdicts(value: bytes) -> list[list[object]]:
    """The verdicts of a frame."""
    return cast("list[list[object]]", unpack(value))


def encode_expiring(listed: list[bytes]) -> bytes:
    """A list of rows' keys."""
    return pack(listed)


def decode_expiring(value: bytes) -> list[bytes]:
    """A list of rows' keys."""
    return cast("list[bytes]", unpack(value))


def encode_segment(books: Mapping[int, int]) -> bytes:
    """`{book: last seqnum}` of a segment."""
    return pack(list(books.items()))


def decode_segment(value: bytes) -> dict[int, int]:
    """`{book: last seqnum}` of a segment."""
    return dict(cast("Iterable[tuple[int, int]]", unpack(value)))


def encode_spans(spans: Mapping[int, tuple[int, int]]) -> bytes:
    """`{book: (first seqnum, bytes)}` of a segment."""
    return pack([(book, *span) for book, span in spans.items()])


def decode_spans(value: bytes) -> dict[int, tuple[int, int]]:
    """`{book: (first seqnum, bytes)}` of a segment."""
    rows = cast("Iterable[tuple[int, int, int]]", unpack(value))
    return {book: (first, size_bytes) for book, first, size_bytes in rows}


def encode_number(number: int) -> bytes:
    """A number as a value."""
    return number.to_bytes(8, "little")


def decode_number(value: bytes) -> int:
    """A number as a value."""
    return int.from_bytes(value, "little")


def _little(numbers: array[int]) -> array[int]:
    if not _LITTLE:
        numbers = numbers[:]
        numbers.byteswap()
    return numbers


def _column(typecode: str, view: memoryview) -> Numbers:
    if _LITTLE:
        return cast("Numbers", view.cast(typecode))  # type: ignore[call-overload]  # "Q" or "I"
    numbers: array[int] = array(typecode)
    numbers.frombytes(view)
    numbers.byteswap()
    return numbers
