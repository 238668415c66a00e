"""Single reads: what is there, what is not, and what a read waits for."""

from __future__ import annotations

import asyncio

import pytest

from bokilog.errors import ConditionFailed
from bokilog.limits import SEQNUM_MAX
from bokilog.logbook import Log, LogBook
from bokilog.record import Consistency, Entry, Record

pytestmark = pytest.mark.asyncio


def seqnum_of(record: Record | None) -> int | None:
    return None if record is None else record.seqnum


async def test_a_logbook_that_does_not_exist_reads_as_empty(book: LogBook) -> None:
    assert await book.read_next() is None
    assert await book.read_next(tag="t", min_seqnum=5) is None
    assert await book.read_prev() is None
    assert await book.read(1) is None
    assert await book.read_bytes(1) is None
    page = await book.read_range()
    assert (page.records, page.more) == ([], False)
    assert [record async for record in book.scan()] == []
    assert await book.tail() >= 1
    assert await book.seqnum_at(0) >= 1


async def test_next_and_prev_find_neighbours(book: LogBook) -> None:
    a, b, c = [await book.append(b"x", tag) for tag in ("t", "u", "t")]
    assert seqnum_of(await book.read_next()) == a
    assert seqnum_of(await book.read_next(min_seqnum=a + 1)) == b
    assert seqnum_of(await book.read_next(tag="t", min_seqnum=a + 1)) == c
    assert seqnum_of(await book.read_next(tag="t", min_seqnum=c)) == c
    assert await book.read_next(tag="t", min_seqnum=c + 1) is None
    assert await book.read_next(tag="none") is None
    assert seqnum_of(await book.read_prev()) == c
    assert seqnum_of(await book.read_prev(tag="u")) == b
    assert seqnum_of(await book.read_prev(tag="t", max_seqnum=c - 1)) == a
    assert seqnum_of(await book.read_prev(tag="t", max_seqnum=c)) == c
    assert await book.read_prev(tag="u", max_seqnum=a) is None
    assert await book.read_prev(max_seqnum=0) is None


async def test_the_ends_of_the_range_of_seqnums_are_positions(book: LogBook) -> None:
    seqnum = await book.append(b"x", "t")
    assert await book.read_next(min_seqnum=SEQNUM_MAX) is None
    assert seqnum_of(await book.read_prev(max_seqnum=SEQNUM_MAX)) == seqnum
    assert await book.read(SEQNUM_MAX) is None


async def test_a_seqnum_of_another_logbook_is_nobodys_here(log: Log, book: LogBook) -> None:
    other = log.book(book.name + "-other")
    theirs = await other.append(b"theirs")
    ours = await book.append(b"ours")
    assert seqnum_of(await book.read(ours)) == ours
    if theirs != ours:
        found = await book.read(theirs)
        assert found is None


@pytest.mark.parametrize("consistency", ["session", "linearizable"])
async def test_every_kind_of_read_sees_an_acknowledged_append(
    book: LogBook, consistency: Consistency
) -> None:
    seqnum = await book.append(b"data", "t")
    next_one = await book.read_next(tag="t", consistency=consistency)
    newest = await book.read_prev(tag="t", consistency=consistency)
    exact = await book.read(seqnum, consistency=consistency)
    page = await book.read_range(tag="t", consistency=consistency)
    assert next_one == newest == exact == page.records[0]
    assert await book.read_bytes(seqnum, consistency=consistency) == b"data"
    assert [record async for record in book.scan(consistency=consistency)] == page.records


@pytest.mark.parametrize(
    ("start", "until"),
    [
        (0, None),
        (0, 0),
        (0, 1),
        (65_535, 65_537),
        (65_536, 131_072),
        (1, 299_999),
        (299_999, None),
        (299_999, 400_000),
        (300_000, None),
        (300_001, 300_005),
    ],
)
async def test_a_byte_range_of_a_large_record(book: LogBook, start: int, until: int | None) -> None:
    data = b"".join(n.to_bytes(4, "big") for n in range(75_000))
    seqnum = await book.append(data)
    assert await book.read_bytes(seqnum, start, until) == data[start:until]


async def test_a_byte_range_of_a_record_inside_a_unit(book: LogBook) -> None:
    span = await book.append_batch([Entry(b"aaa"), Entry(b"bcd"), Entry(b"")])
    assert await book.read_bytes(span[1], 1, 3) == b"cd"
    assert await book.read_bytes(span[2]) == b""


# --- waiting ---


async def test_a_waiting_read_returns_the_append_it_waited_for(book: LogBook) -> None:
    readings = [
        asyncio.ensure_future(book.read_next(tag="t", wait_s=15)),
        asyncio.ensure_future(book.read_prev(tag="t", wait_s=15)),
    ]
    page = asyncio.ensure_future(book.read_range(tag="t", wait_s=15))
    await asyncio.sleep(0)
    await book.append(b"not this", "u")
    seqnum = await book.append(b"this", "t")
    assert [seqnum_of(await reading) for reading in readings] == [seqnum, seqnum]
    assert [record.seqnum for record in (await page).records] == [seqnum]


async def test_a_waiting_read_wakes_on_a_logbook_that_exists_already(book: LogBook) -> None:
    before = await book.append(b"x", "t")
    reading = asyncio.ensure_future(book.read_next(tag="t", min_seqnum=before + 1, wait_s=15))
    await asyncio.sleep(0)
    seqnum = await book.append(b"y", "t")
    assert seqnum_of(await reading) == seqnum


async def test_a_read_at_the_tail_waits_for_that_seqnum(book: LogBook) -> None:
    tail = await book.append(b"x") + 1
    reading = asyncio.ensure_future(book.read(tail, wait_s=15))
    await asyncio.sleep(0)
    seqnum = await book.append(b"y")
    assert seqnum_of(await reading) == (tail if seqnum == tail else None)


async def test_a_void_unit_does_not_wake_a_read_with_a_record(book: LogBook) -> None:
    last = await book.append(b"x", "t")
    reading = asyncio.ensure_future(book.read_next(tag="t", min_seqnum=last + 1, wait_s=15))
    with pytest.raises(ConditionFailed):
        await book.append(b"void", "t", unless={"t": 0})
    seqnum = await book.append(b"y", "t")
    assert seqnum_of(await reading) == seqnum


async def test_when_the_wait_is_over_there_is_none(book: LogBook) -> None:
    await book.append(b"x", "t")
    assert await book.read_next(tag="u", wait_s=0.01) is None
    assert await book.read_prev(tag="u", wait_s=0.01) is None
    assert await book.read(SEQNUM_MAX, wait_s=0.01) is None
    page = await book.read_range(tag="u", wait_s=0.01)
    assert (page.records, page.more) == ([], False)


async def test_a_cancelled_wait_does_no_harm(book: LogBook) -> None:
    reading = asyncio.ensure_future(book.read_next(tag="t", wait_s=15))
    await asyncio.sleep(0)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    seqnum = await book.append(b"x", "t")
    assert seqnum_of(await book.read_next(tag="t", wait_s=15)) == seqnum


# --- time, tail, aux ---


async def test_a_time_becomes_the_first_seqnum_not_before_it(book: LogBook) -> None:
    seqnums = [await book.append(b"%d" % n) for n in range(5)]
    records = [record async for record in book.scan()]
    assert await book.seqnum_at(0) == seqnums[0]
    for record in records:
        first = next(r.seqnum for r in records if r.timestamp_ms >= record.timestamp_ms)
        assert await book.seqnum_at(record.timestamp_ms) == first
    assert await book.seqnum_at(records[-1].timestamp_ms + 3_600_000) > seqnums[-1]


async def test_the_tail_never_goes_back(book: LogBook) -> None:
    tails = [await book.tail()]
    for _ in range(5):
        seqnum = await book.append(b"x")
        tails.append(await book.tail())
        assert tails[-1] > seqnum
    assert tails == sorted(tails)


async def test_aux_data_stands_beside_its_record(book: LogBook) -> None:
    seqnum = await book.append(b"x", "t")
    await book.set_aux(seqnum, bytearray(b"view"))
    for record in (await book.read(seqnum), await book.read_next(tag="t"), await book.read_prev()):
        assert record is not None
        assert (record.data, record.aux) == (b"x", b"view")
    await book.set_aux(seqnum, b"newer")
    record = await book.read(seqnum)
    assert record is not None
    assert record.aux == b"newer"


async def test_aux_data_without_a_record_is_not_kept(book: LogBook) -> None:
    seqnum = await book.append(b"x")
    await book.set_aux(SEQNUM_MAX, b"nowhere")
    assert await book.read(SEQNUM_MAX) is None
    record = await book.read(seqnum)
    assert record is not None
    assert record.aux is None
