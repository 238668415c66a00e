"""The bytes of a partitioned record, and what a reader fetches of it."""

from __future__ import annotations

import pyarrow as pa
import pytest

from bokilog.limits import RECORD_BYTES_MAX
from scripts.flights import exchange
from scripts.flights.exchange import (
    Exchange,
    ExchangeCorrupt,
    OutputGone,
    Part,
    checked,
    decode_header,
    encode,
    header_bytes,
)
from tests.contract.reference_log import AsyncReferenceBook, AsyncReferenceLog

PARTS = [Part(2, b"first"), Part(0, b""), Part(7, b"third one")]
GOLDEN = bytes.fromhex(
    "424b58500100000003000000780000005ab8339893f509b9"  # preamble
    "78000000000000007d00000000000000020000000000000053aab0161c0f0f37"  # first: [120, 125), 2 rows
    "7d000000000000007d000000000000000000000000000000c294d3380580062d"  # second: [125, 125), 0 rows
    "7d00000000000000860000000000000007000000000000008cd18ee28eff2f77"  # third: [125, 134), 7 rows
    "66697273747468697264206f6e65"  # the bytes
)


def test_bytes_of_a_record_never_change() -> None:
    assert encode(PARTS) == GOLDEN


def test_header_says_where_each_partition_stands() -> None:
    data = encode(PARTS)
    slices = decode_header(data[: header_bytes(3)])
    assert [
        (s.rows, checked(slices, i, data[s.start : s.until])) for i, s in enumerate(slices)
    ] == [(part.rows, part.data) for part in PARTS]
    assert slices[-1].until == len(data)


@pytest.mark.parametrize("position", range(header_bytes(3)))
def test_any_flipped_bit_of_the_header_is_found(position: int) -> None:
    data = bytearray(encode(PARTS))
    data[position] ^= 0x10
    with pytest.raises(ExchangeCorrupt):
        decode_header(bytes(data))


def test_flipped_bit_of_a_partition_is_found_and_named() -> None:
    data = bytearray(encode(PARTS))
    slices = decode_header(bytes(data))
    data[-1] ^= 1
    with pytest.raises(ExchangeCorrupt, match="partition 2 does not match its checksum"):
        checked(slices, 2, bytes(data[slices[2].start : slices[2].until]))
    checked(slices, 0, bytes(data[slices[0].start : slices[0].until]))


@pytest.mark.parametrize("size", [0, 5, 23, 24, header_bytes(3) - 1])
def test_header_that_was_cut_short_is_refused(size: int) -> None:
    with pytest.raises(ExchangeCorrupt):
        decode_header(encode(PARTS)[:size])


def test_partition_that_was_cut_short_is_refused() -> None:
    slices = decode_header(encode(PARTS))
    with pytest.raises(ExchangeCorrupt, match="4 bytes instead of 5"):
        checked(slices, 0, b"firs")


def test_other_records_and_later_formats_are_refused() -> None:
    with pytest.raises(ExchangeCorrupt, match="starts with"):
        decode_header(b"{" * 100)
    with pytest.raises(ExchangeCorrupt, match=r"format 2\.0"):
        decode_header(exchange.MAGIC + b"\2\0" + bytes(100))


def test_what_does_not_fit_is_refused_before_it_is_sent() -> None:
    with pytest.raises(ValueError, match="0 partitions"):
        encode([])
    with pytest.raises(ValueError, match=f"limit is {RECORD_BYTES_MAX} bytes"):
        encode([Part(1, bytes(RECORD_BYTES_MAX))])


# --- through a LogBook ----------------------------------------------------------------------------

TABLES = [
    pa.table({"origin": ["EWR", None], "delay": pa.array([3, None], pa.int32())}),
    pa.table({"origin": pa.array([], pa.string()), "delay": pa.array([], pa.int32())}),
]


class Watched(AsyncReferenceBook):
    """Remembers which bytes were asked for."""

    def __init__(self, log: AsyncReferenceLog) -> None:
        super().__init__(log, "exchange", log.session())
        self.ranges: list[tuple[int, int | None]] = []

    async def read_bytes(self, seqnum, start=0, until=None, **options):  # type: ignore[no-untyped-def]
        self.ranges.append((start, until))
        return await super().read_bytes(seqnum, start, until, **options)


@pytest.mark.asyncio
async def test_reader_fetches_the_header_once_and_its_partitions_only() -> None:
    book = Watched(AsyncReferenceLog())
    both = Exchange(book)
    written = await both.write(TABLES, tags=["job:j"], key="k")
    assert (await both.read(written.seqnum, 0, partitions=2)).equals(TABLES[0])
    assert (await both.read(written.seqnum, 1, partitions=2)).equals(TABLES[1])
    header, first, second = header_bytes(2), *written.part_bytes
    assert book.ranges == [
        (0, header),
        (header, header + first),
        (header + first, header + first + second),
    ]
    assert written.rows == 2


@pytest.mark.asyncio
async def test_output_that_is_not_there_or_is_no_output_is_gone() -> None:
    book = Watched(AsyncReferenceLog())
    other = await book.append(b"something else")
    with pytest.raises(OutputGone, match=f"seqnum {other} is gone"):
        await Exchange(book).read(other, 0, partitions=1)
    with pytest.raises(OutputGone, match="no such record"):
        await Exchange(book).read(other + 1, 0, partitions=1)


@pytest.mark.asyncio
async def test_output_with_another_number_of_partitions_is_gone() -> None:
    both = Exchange(Watched(AsyncReferenceLog()))
    written = await both.write(TABLES, tags=[], key="k")
    with pytest.raises(OutputGone, match="is gone"):
        await both.read(written.seqnum, 0, partitions=1)
