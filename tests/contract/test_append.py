"""Appends: what was acknowledged stands where its seqnum says, in the order it was issued."""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Iterator

import pytest

from bokilog.limits import FRAME_BYTES_MAX, UNIT_RECORDS_MAX
from bokilog.logbook import Log, LogBook
from bokilog.record import Entry, Record

pytestmark = pytest.mark.asyncio


async def everything(book: LogBook, tag: str | None = None) -> list[Record]:
    return [record async for record in book.scan(tag=tag)]


async def test_a_record_stands_at_its_seqnum_with_all_it_had(book: LogBook) -> None:
    seqnum = await book.append(b"data", ["b", "a", "b"])
    record = await book.read(seqnum)
    assert record is not None
    assert (record.seqnum, record.data, record.tags) == (seqnum, b"data", ("b", "a"))
    assert record.aux is None
    assert type(record.data) is bytes
    assert record.timestamp_ms > 0


class Colour(enum.StrEnum):
    RED = "red"


async def test_a_member_of_an_enum_of_text_is_its_text(log: Log, book: LogBook) -> None:
    red = Colour.RED
    seqnum = await book.append(b"1", red)
    span = await book.append_batch([Entry(b"2", red), Entry(b"3", [red, "b"])])
    assert [record.tags for record in await everything(book)] == [("red",), ("red",), ("red", "b")]
    assert [record.seqnum for record in await everything(book, "red")] == [seqnum, *span]
    assert [record.seqnum for record in await everything(book, red)] == [seqnum, *span]
    assert await book.append(b"k", key=red) == await book.append(b"k", key="red")


async def test_seqnums_are_positive_and_grow(book: LogBook) -> None:
    seqnums = [await book.append(b"%d" % n) for n in range(20)]
    assert seqnums[0] >= 1
    assert seqnums == sorted(set(seqnums))


async def test_timestamps_never_go_back(book: LogBook) -> None:
    for n in range(20):
        await book.append(b"%d" % n)
    times = [record.timestamp_ms for record in await everything(book)]
    assert times == sorted(times)


async def test_appends_not_awaited_keep_the_order_they_were_issued_in(book: LogBook) -> None:
    seqnums = await asyncio.gather(*(book.append(b"%d" % n, f"t{n % 3}") for n in range(300)))
    assert seqnums == sorted(set(seqnums))
    assert [r.data for r in await everything(book)] == [b"%d" % n for n in range(300)]
    assert [r.data for r in await everything(book, "t1")] == [b"%d" % n for n in range(1, 300, 3)]


async def test_appends_of_several_logbooks_keep_their_orders(
    log: Log, names: Iterator[str]
) -> None:
    books = [log.book(next(names)) for _ in range(3)]
    await asyncio.gather(*(books[n % 3].append(b"%d" % n) for n in range(90)))
    for index, book in enumerate(books):
        assert [r.data for r in await everything(book)] == [b"%d" % n for n in range(index, 90, 3)]


async def test_a_unit_has_contiguous_seqnums_and_its_own_tags(book: LogBook) -> None:
    entries: list[Entry] = [Entry(b"a", "x"), Entry(b"b"), Entry(bytearray(b"c"), ["x", "y"])]
    span = await book.append_batch(entries)
    assert type(span) is range
    assert len(span) == 3
    records = await everything(book)
    assert [(r.seqnum, r.data, r.tags) for r in records] == [
        (span[0], b"a", ("x",)),
        (span[1], b"b", ()),
        (span[2], b"c", ("x", "y")),
    ]
    assert len({record.timestamp_ms for record in records}) == 1


async def test_units_issued_together_do_not_mix(book: LogBook) -> None:
    spans = await asyncio.gather(
        *(book.append_batch([Entry(b"%d.%d" % (n, m)) for m in range(7)]) for n in range(40))
    )
    assert [span.start for span in spans] == sorted(span.start for span in spans)
    assert [record.data for record in await everything(book)] == [
        b"%d.%d" % (n, m) for n in range(40) for m in range(7)
    ]


async def test_the_largest_number_of_records_is_one_unit(book: LogBook) -> None:
    span = await book.append_batch([Entry(b"%d" % n) for n in range(UNIT_RECORDS_MAX)])
    assert len(span) == UNIT_RECORDS_MAX
    last = await book.read_prev()
    assert last is not None
    assert (last.seqnum, last.data) == (span[-1], b"999")


async def test_many_records_come_back_complete(book: LogBook) -> None:
    await asyncio.gather(
        *(book.append_batch([Entry(b"%d" % (n + m)) for m in range(100)])
          for n in range(0, 3000, 100))
    )  # fmt: skip
    assert [int(record.data) for record in await everything(book)] == list(range(3000))


@pytest.mark.parametrize("size_bytes", [0, 1, 65_535, 65_536, 65_537, 300 << 10])
async def test_a_record_of_any_size_comes_back_whole(book: LogBook, size_bytes: int) -> None:
    data = bytes(range(256)) * (size_bytes // 256 + 1)
    seqnum = await book.append(data[:size_bytes], "t")
    record = await book.read_next(tag="t")
    assert record is not None
    assert (record.seqnum, record.data) == (seqnum, data[:size_bytes])


async def test_a_unit_larger_than_a_frame_goes_as_one(book: LogBook) -> None:
    half = b"x" * (FRAME_BYTES_MAX // 2 + 1)
    before, span, after = await asyncio.gather(
        book.append(b"before"),
        book.append_batch([Entry(half, "t"), Entry(b"y", "t"), Entry(half, "t")]),
        book.append(b"after"),
    )
    assert before < span.start
    assert span[-1] < after
    assert [len(r.data) for r in await everything(book, "t")] == [len(half), 1, len(half)]


@pytest.mark.parametrize("tag", ["é" * 128, "a b\n\0c", "x" * 256, "日本", "-", "a/b#c"])
async def test_any_text_is_a_tag(book: LogBook, tag: str) -> None:
    await book.append(b"other", tag[:-1] + "?")
    seqnum = await book.append(b"this", tag)
    record = await book.read_next(tag=tag)
    assert record is not None
    assert (record.seqnum, record.tags) == (seqnum, (tag,))


async def test_sixty_four_tags_each_find_the_record(book: LogBook) -> None:
    tags = [f"t{n}" for n in range(64)]
    seqnum = await book.append(b"x", tags)
    for tag in tags:
        record = await book.read_next(tag=tag)
        assert record is not None
        assert record.seqnum == seqnum


async def test_a_mutable_buffer_is_copied_when_the_call_starts(book: LogBook) -> None:
    buffer = bytearray(b"before")
    appending = asyncio.ensure_future(book.append(buffer))
    await asyncio.sleep(0)  # the call has started
    buffer[:] = b"after!"
    record = await book.read(await appending)
    assert record is not None
    assert record.data == b"before"


async def test_cancelling_one_append_does_no_harm_to_the_others(book: LogBook) -> None:
    appends = [asyncio.ensure_future(book.append(b"%d" % n)) for n in range(9)]
    await asyncio.sleep(0)
    appends[4].cancel()
    await asyncio.gather(*appends, return_exceptions=True)
    await book.append(b"9")
    kept = [int(record.data) for record in await everything(book)]
    assert [n for n in kept if n != 4] == [0, 1, 2, 3, 5, 6, 7, 8, 9]
    assert kept == sorted(kept)  # the cancelled one is there once, in its place, or not at all


async def test_an_acknowledged_append_lies_below_the_tail(book: LogBook) -> None:
    seqnum = await book.append(b"x")
    assert await book.tail() > seqnum
    assert await book.append(b"y") >= seqnum + 1
