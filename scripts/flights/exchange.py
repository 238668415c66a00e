"""What one task hands to the next stage: one record, cut into partitions that are read one by one.

Decides the bytes of that record and how they travel through a LogBook. All of a task's partitions
go into a single append (write combining: M tasks and N readers cost M writes, not M x N), and a
reader fetches the header and then the byte range of its own partition, nothing else.

    preamble    magic 4s, version u16, zero u16, partitions u32, header bytes u32, checksum u64
    entries     per partition: start u64, until u64 (in the record), rows u64, checksum u64
    partitions  back to back, in order; here each is an Arrow IPC stream

All numbers are little-endian; checksums are xxh3-64, that of the header over everything in it but
itself. Invariants: partitions follow each other without gaps, the last one ends the record, and
nothing is returned whose checksum was not compared. Does not know jobs, stages or who reads.
Source: Lambada's write combining and Starling's partitioned objects; differs from the first in that
the offsets stand in the object and not in its name.
"""

import asyncio
import struct
from collections import OrderedDict
from collections.abc import Sequence
from itertools import pairwise
from typing import Final, NamedTuple

import pyarrow as pa
import xxhash

from bokilog import AppendUnknown, CorruptRecord, DataLost, Trimmed
from bokilog.limits import RECORD_BYTES_MAX
from bokilog.logbook import LogBook

MAGIC: Final = b"BKXP"
VERSION: Final = 1
PARTITIONS_MAX: Final = 10_000  # a header of 320 KB: more belongs into a second exchange

_PREAMBLE: Final = struct.Struct("<4sHHIIQ")
_ENTRY: Final = struct.Struct("<QQQQ")
_HEADERS_KEPT: Final = 1_024  # each is a few entries; a worker meets one per task of its parents
_APPEND_TRIES: Final = 3
# Measured once on the outputs of scan_flights, on two busy cores: 44 % fewer bytes on their way to
# every replica, for 2.5 ms of writing and 2 ms of reading a MB; zstd: 70 % fewer, for 7 ms a MB.
_COMPRESSION: Final = "lz4"


class ExchangeCorrupt(Exception):
    """Bytes that are no partitioned record, or not the ones that were written."""


class OutputGone(Exception):
    """The output at `seqnum` cannot be read any more, from any replica."""

    def __init__(self, seqnum: int, reason: str) -> None:
        super().__init__(f"the output at seqnum {seqnum} is gone: {reason}")
        self.seqnum = seqnum


class Part(NamedTuple):
    """One partition, as it is written."""

    rows: int
    data: bytes


class Slice(NamedTuple):
    """Where one partition stands in its record."""

    start: int
    until: int
    rows: int
    checksum: int


class Written(NamedTuple):
    """What became of a task's tables; `part_bytes` has one entry per partition."""

    seqnum: int
    rows: int
    part_bytes: tuple[int, ...]


# --- the bytes ------------------------------------------------------------------------------------


def header_bytes(partitions: int) -> int:
    """The size of the header of a record of so many partitions."""
    return _PREAMBLE.size + partitions * _ENTRY.size


def encode(parts: Sequence[Part]) -> bytes:
    """One partitioned record.

    Raises:
        ValueError: no partition, or more bytes or partitions than a record can have.
    """
    if not 1 <= len(parts) <= PARTITIONS_MAX:
        raise ValueError(f"{len(parts)} partitions: a record has 1 to {PARTITIONS_MAX}")
    size = header_bytes(len(parts))
    total = size + sum(len(part.data) for part in parts)
    if total > RECORD_BYTES_MAX:
        limit = f"the limit is {RECORD_BYTES_MAX} bytes: split the stage into more tasks"
        raise ValueError(f"the output of one task has {total} bytes, {limit}")
    entries, start = [], size
    for part in parts:
        until = start + len(part.data)
        entries.append(_ENTRY.pack(start, until, part.rows, _checksum(part.data)))
        start = until
    body = b"".join(entries)
    head = _PREAMBLE.pack(MAGIC, VERSION, 0, len(parts), size, 0)
    head = _PREAMBLE.pack(MAGIC, VERSION, 0, len(parts), size, _header_checksum(head, body))
    return b"".join([head, body, *(part.data for part in parts)])


def decode_header(data: bytes) -> tuple[Slice, ...]:
    """Where the partitions of a record stand; `data` is its header, or more of it.

    Raises:
        ExchangeCorrupt: it is no header of this format, was cut short, or a bit of it changed.
    """
    if len(data) < _PREAMBLE.size:
        raise ExchangeCorrupt(f"a header of {len(data)} bytes: it has at least {_PREAMBLE.size}")
    magic, version, zero, count, size, checksum = _PREAMBLE.unpack_from(data)
    if magic != MAGIC:
        raise ExchangeCorrupt(f"it starts with {magic!r}, not with {MAGIC!r}")
    if version != VERSION or zero:
        raise ExchangeCorrupt(f"format {version}.{zero}: this version reads {VERSION}.0")
    if not 1 <= count <= PARTITIONS_MAX or size != header_bytes(count):
        raise ExchangeCorrupt(f"a header of {size} bytes for {count} partitions")
    if len(data) < size:
        raise ExchangeCorrupt(f"the header ends after {len(data)} of {size} bytes")
    body = data[_PREAMBLE.size : size]
    if checksum != _header_checksum(data[: _PREAMBLE.size], body):
        raise ExchangeCorrupt("the header does not match its checksum")
    slices = tuple(Slice(*entry) for entry in _ENTRY.iter_unpack(body))
    _check_layout(slices, size)
    return slices


def checked(slices: Sequence[Slice], number: int, data: bytes) -> bytes:
    """The bytes of partition `number`, which they are.

    Raises:
        ExchangeCorrupt: `data` is shorter, or a bit of it changed.
    """
    wanted = slices[number]
    if len(data) != wanted.until - wanted.start:
        size = wanted.until - wanted.start
        raise ExchangeCorrupt(f"partition {number} has {len(data)} bytes instead of {size}")
    if _checksum(data) != wanted.checksum:
        raise ExchangeCorrupt(f"partition {number} does not match its checksum")
    return data


def _check_layout(slices: Sequence[Slice], size: int) -> None:
    """A header can be whole and still be nonsense, if whoever wrote it was wrong."""
    for before, after in pairwise([Slice(0, size, 0, 0), *slices]):
        if after.start != before.until or after.until < after.start:
            raise ExchangeCorrupt(f"a partition at [{after.start}, {after.until})")


def _header_checksum(head: bytes, body: bytes) -> int:
    return _checksum(head[: _PREAMBLE.size - 8] + body)  # the checksum itself is the last 8


def _checksum(data: bytes) -> int:
    return xxhash.xxh3_64_intdigest(data)


# --- tables ---------------------------------------------------------------------------------------


def to_part(table: pa.Table) -> Part:
    """One table as an Arrow IPC stream."""
    sink = pa.BufferOutputStream()
    options = pa.ipc.IpcWriteOptions(compression=_COMPRESSION)
    with pa.ipc.new_stream(sink, table.schema, options=options) as writer:
        writer.write_table(table.combine_chunks())
    return Part(table.num_rows, sink.getvalue().to_pybytes())


def to_table(data: bytes) -> pa.Table:
    """The table that `to_part` wrote."""
    with pa.ipc.open_stream(pa.BufferReader(data)) as reader:
        return reader.read_all()


def _encode_tables(tables: Sequence[pa.Table]) -> tuple[bytes, list[Part]]:
    parts = [to_part(table) for table in tables]
    return encode(parts), parts


# --- through a LogBook ----------------------------------------------------------------------------


class Exchange:
    """The outputs of tasks, in one LogBook whose records can all be made again.

    Keeps the headers it has read; partitions are read once each, so they are not kept.
    """

    def __init__(self, book: LogBook) -> None:
        self._book = book
        self._headers: OrderedDict[int, tuple[Slice, ...]] = OrderedDict()

    async def write(self, tables: Sequence[pa.Table], *, tags: Sequence[str], key: str) -> Written:
        """Append one partitioned record, whose partitions are `tables`.

        Args:
            tables: one per partition.
            tags: what the record can be found by.
            key: makes a retry after an unknown outcome settle on one record.
        """
        data, parts = await asyncio.to_thread(_encode_tables, tables)
        seqnum = await append_settled(self._book, data, tags=tags, key=key)
        return Written(seqnum, sum(p.rows for p in parts), tuple(len(p.data) for p in parts))

    async def read(self, seqnum: int, number: int, *, partitions: int) -> pa.Table:
        """Partition `number` of the record at `seqnum`, which has `partitions` of them.

        Raises:
            OutputGone: the record is not there any more, or not as it was written.
        """
        try:
            slices = await self._header(seqnum, partitions)
            wanted = slices[number]
            data = await self._book.read_bytes(seqnum, wanted.start, wanted.until)
            if data is None:
                raise OutputGone(seqnum, "no such record")
            return to_table(checked(slices, number, data))
        except (DataLost, CorruptRecord, Trimmed, ExchangeCorrupt, pa.ArrowInvalid) as error:
            raise OutputGone(seqnum, str(error)) from error

    async def _header(self, seqnum: int, partitions: int) -> tuple[Slice, ...]:
        known = self._headers.get(seqnum)
        if known is not None:
            self._headers.move_to_end(seqnum)
            return known
        # Linearizable, since another worker wrote it and told us through another LogBook: our
        # session has not seen it yet. From here on it has, and the partitions need no such care.
        data = await self._book.read_bytes(
            seqnum, 0, header_bytes(partitions), consistency="linearizable"
        )
        if data is None:
            raise OutputGone(seqnum, "no such record")
        slices = decode_header(data)
        if len(slices) != partitions:
            raise ExchangeCorrupt(f"{len(slices)} partitions instead of {partitions}")
        self._headers[seqnum] = slices
        if len(self._headers) > _HEADERS_KEPT:
            self._headers.popitem(last=False)
        return slices


async def append_settled(
    book: LogBook,
    data: bytes,
    *,
    tags: Sequence[str],
    key: str,
    unless: dict[str | None, int] | None = None,
) -> int:
    """Append once, whatever happens on the way: the key lets a retry find the first attempt.

    Raises as `LogBook.append`; `AppendUnknown` only when every try ended that way.
    """
    for _ in range(_APPEND_TRIES - 1):
        try:
            return await book.append(data, tags, unless=unless, key=key)
        except AppendUnknown:
            continue
    return await book.append(data, tags, unless=unless, key=key)
