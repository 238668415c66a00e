"""Record frames: the bytes of one client tick's units, as they travel and as they are journalled.

A frame is `header | columns | payload`. The client makes columns and payload, the engine writes the
header (that is how the records get their LocalIds), and from there on the same bytes are forwarded,
journalled, read and sent to a peer: nobody re-encodes them.

Invariants:
- The header's checksum covers header and columns; the columns hold a checksum per record, so
  identity covers every byte of the frame through its columns (P29). Payload bytes are hashed by
  the client, once more on arrival at the engine, and by whoever reads them: never by a storage
  node that writes.

Does not know: what may stand in columns (`columns.py`), seqnums, files, sockets. Format version 1;
the bytes are golden-tested because they are meant to stay.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

from xxhash import xxh3_64_intdigest

from bokilog.columns import Columns, first_bad_record
from bokilog.errors import RemoteProtocolError
from bokilog.ids import LogSpaceId, Shard, Term
from bokilog.named import NamedTuple
from bokilog.record import Buffer

ITEM_FRAME = 1
"""A frame's kind as an item of a journal."""
MAGIC = b"bkF1"
HEADER = struct.Struct("<4sBBHIIQQIIIIQ")
"""magic, version, flags, reserved, space, term, shard number, first count, records, units, columns
bytes, reserved, payload bytes. Then an xxh3-64 over these bytes and the columns."""
HEADER_BYTES = HEADER.size + 8
VERSION = 1
FLAG_VERDICT = 1
"""Some unit of the frame has a condition, a key or a library's tag: its outcome is decided in the
fold, not by the order alone."""


class Frame:
    """A frame with its LocalIds: columns and payload of `records` records of `shard` from `first`
    on."""

    __slots__ = (
        "columns",
        "first",
        "header",
        "payload",
        "records",
        "shard",
        "size_bytes",
        "until",
    )

    def __init__(
        self,
        *,
        shard: Shard,
        first: int,
        columns: Columns,
        payload: Sequence[Buffer],
        header: bytes = b"",
    ) -> None:
        self.shard = shard
        self.first = first
        self.columns = columns
        self.payload = payload
        """The records' bytes in order: one buffer each (as a client in this process made them), or
        one for all."""
        self.records = records = len(columns.tags)
        self.until = first + records
        """First count after the frame: where progress stands once it is held (P9)."""
        self.header = header or encode_header(shard=shard, first=first, columns=columns)
        self.size_bytes = HEADER_BYTES + len(columns.encoded) + columns.payload_bytes
        """Of the whole frame, as it is journalled."""

    @property
    def checksum(self) -> int:
        """The frame's identity: over header and columns, and through these over every byte."""
        return int.from_bytes(self.header[-8:], "little")

    def record(self, index: int, offset: int) -> Buffer:
        """The bytes of one record; `offset` is where it starts in the payload."""
        if len(self.payload) == self.records:
            return self.payload[index]
        return memoryview(self.payload[0])[offset : offset + self.columns.lengths[index]]

    def buffers(self) -> list[Buffer]:
        """The frame as it is journalled and sent: header, columns, payload."""
        return [self.header, self.columns.encoded, *self.payload]


class Head(NamedTuple):
    """What a header says."""

    shard: Shard
    first: int
    records: int
    units: int
    columns_bytes: int
    payload_bytes: int
    flags: int

    @property
    def frame_bytes(self) -> int:
        """Bytes of the whole frame."""
        return HEADER_BYTES + self.columns_bytes + self.payload_bytes


def encode_header(*, shard: Shard, first: int, columns: Columns) -> bytes:
    """The engine's part of a frame: it gives the records their LocalIds."""
    encoded = columns.encode()
    flags = FLAG_VERDICT if columns.needs_verdict else 0
    fixed = HEADER.pack(
        MAGIC,
        VERSION,
        flags,
        0,
        *shard,  # log space, term, number
        first,
        len(columns.tags),
        columns.units,
        len(encoded),
        0,
        columns.payload_bytes,
    )
    return fixed + xxh3_64_intdigest(fixed + encoded).to_bytes(8, "little")


def decode_head(data: Buffer) -> Head:
    """The header at the start of `data`; its checksum is not looked at yet.

    Raises:
        RemoteProtocolError: too short, another magic, or a newer version.
    """
    if len(data) < HEADER_BYTES:
        raise RemoteProtocolError(problem="a frame shorter than its header")
    (
        magic,
        version,
        flags,
        _,
        space,
        term,
        number,
        first,
        records,
        units,
        columns_bytes,
        _,
        payload_bytes,
    ) = HEADER.unpack_from(data)
    if magic != MAGIC or version != VERSION:
        raise RemoteProtocolError(problem=f"not a frame of version {VERSION}")
    shard = Shard(LogSpaceId(space), Term(term), number)
    return Head(shard, first, records, units, columns_bytes, payload_bytes, flags)


def decode_frame(data: Buffer | Sequence[Buffer]) -> Frame:
    """A frame from its bytes: either whole, or as (header, columns, payload...) buffers.

    Header and columns are verified and checked; payload bytes are not hashed: whoever reads them
    does (P29).

    Raises:
        RemoteProtocolError: the bytes are not one whole, consistent frame.
    """
    header, encoded, payload = _parts(data)
    frame = decode_columns(header, encoded)
    if len(payload[0]) != frame.columns.payload_bytes:
        raise RemoteProtocolError(problem="a frame whose payload is not as long as its columns say")
    frame.payload = payload
    return frame


def decode_columns(header: bytes, encoded: bytes) -> Frame:
    """A frame without its payload, from verified header and columns.

    Signed columns that do not decode, as an engine of another version may send them, are
    `malformed` here and on every other replica: were they refused, that engine would send them for
    ever, and nothing after them would be ordered (P34).

    Raises:
        RemoteProtocolError: the bytes are not what the engine signed.
    """
    head = decode_head(header)
    if len(header) != HEADER_BYTES:
        raise RemoteProtocolError(problem="a frame whose header is longer than a header")
    if len(encoded) != head.columns_bytes:
        raise RemoteProtocolError(problem="a frame whose columns are cut short")
    signed = xxh3_64_intdigest(header[:-8] + encoded)
    if signed != int.from_bytes(header[-8:], "little"):
        raise RemoteProtocolError(problem="a frame whose header checksum is wrong")
    try:
        columns = Columns.decode(encoded)
    except RemoteProtocolError as error:
        columns = _malformed(head, encoded, error.problem)
    else:
        if not _agree(head, columns):
            columns = _malformed(head, encoded, "a header and columns that disagree")
    return Frame(shard=head.shard, first=head.first, columns=columns, payload=(), header=header)


def _malformed(head: Head, encoded: bytes, problem: str) -> Columns:
    return Columns.malformed(
        encoded,
        problem,
        units=head.units,
        records=head.records,
        payload_bytes=head.payload_bytes,
    )


def _agree(head: Head, columns: Columns) -> bool:
    flagged = head.flags == FLAG_VERDICT
    # Without a condition or a key the flag does not count: it used not to stand for tags.
    fits = flagged == columns.needs_verdict or not (flagged or columns.unless or columns.keys)
    said = (head.records, head.units, head.payload_bytes)
    return fits and (columns.records, columns.units, columns.payload_bytes) == said


def one_buffer(payload: Sequence[Buffer]) -> list[Buffer]:
    """A payload as exactly one buffer: on a wire or a disk there are no cuts between records."""
    return list(payload) if len(payload) == 1 else [b"".join(payload)]


def _parts(data: Buffer | Sequence[Buffer]) -> tuple[bytes, bytes, list[Buffer]]:
    if isinstance(data, bytes | bytearray | memoryview):
        head = decode_head(data)
        view = memoryview(data)
        columns_until = HEADER_BYTES + head.columns_bytes
        payload = view[columns_until : columns_until + head.payload_bytes]
        if len(view) != head.frame_bytes:
            raise RemoteProtocolError(problem="a frame whose lengths do not add up")
        return bytes(view[:HEADER_BYTES]), bytes(view[HEADER_BYTES:columns_until]), [payload]
    if len(data) < 2:
        raise RemoteProtocolError(problem="a frame without columns")
    return bytes(data[0]), bytes(data[1]), one_buffer(data[2:])


def verify_frame(data: Buffer) -> bool:
    """Whether `data` is one whole frame, payload included: what a journal asks before it counts a
    group (P30)."""
    try:
        frame = decode_frame(data)
    except RemoteProtocolError:
        return False
    payload = memoryview(frame.payload[0])
    return first_bad_record(frame.columns, payload) is None
