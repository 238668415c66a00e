"""Retention by age and by bytes: trims that the service makes, under the rules of all trims."""

from __future__ import annotations

import asyncio

import pytest

from bokilog.errors import InvalidRange, LogBookConflict, Trimmed
from bokilog.limits import RETENTION_BYTES_MAX, RETENTION_S_MAX
from bokilog.logbook import Log, LogBook

pytestmark = pytest.mark.asyncio
PATIENCE_S = 15.0


async def trimmed_to(book: LogBook, seqnum: int) -> None:
    """Return once the first kept seqnum is `seqnum`; it never passes it."""
    async with asyncio.timeout(PATIENCE_S):
        while (until := (await book.info()).trim_until) != seqnum:
            assert until < seqnum
            await asyncio.sleep(0.02)


async def test_a_logbook_says_what_it_keeps(log: Log, book: LogBook) -> None:
    created = await log.create_book(book.name, retention_s=3600, retention_bytes=10_000)
    assert (created.retention_s, created.retention_bytes) == (3600, 10_000)
    info = await book.info()
    assert (info.retention_s, info.retention_bytes) == (3600, 10_000)
    listed = {each.book: each.retention_s for each in await log.books()}
    assert listed[book.name] == 3600
    again = await log.create_book(book.name, retention_s=3600, retention_bytes=10_000)
    assert again.number == created.number


async def test_another_retention_is_a_conflict(log: Log, book: LogBook) -> None:
    await log.create_book(book.name, retention_s=60)
    with pytest.raises(LogBookConflict, match="retention_s=60, not 61"):
        await log.create_book(book.name, retention_s=61)
    with pytest.raises(LogBookConflict, match="retention_bytes=None, not 5"):
        await log.create_book(book.name, retention_s=60, retention_bytes=5)


@pytest.mark.parametrize("value", [0, -1, float("nan"), RETENTION_S_MAX + 1, "1", True])
async def test_an_age_outside_its_limits_is_refused(log: Log, book: LogBook, value: float) -> None:
    with pytest.raises(InvalidRange, match="retention_s"):
        await log.create_book(book.name, retention_s=value)


@pytest.mark.parametrize("value", [0, -1, 1.5, RETENTION_BYTES_MAX + 1, "1", True])
async def test_a_size_outside_its_limits_is_refused(log: Log, book: LogBook, value: int) -> None:
    with pytest.raises(InvalidRange, match="retention_bytes"):
        await log.create_book(book.name, retention_bytes=value)


@pytest.mark.slow
@pytest.mark.parametrize("durability", ["sync", "memory"])
async def test_p25_the_newest_records_that_have_the_bytes_stay(
    log: Log, book: LogBook, durability: str
) -> None:
    await log.create_book(book.name, retention_bytes=25, durability=durability)  # type: ignore[arg-type]
    seqnums = [await book.append(b"0123456789", tags="t") for _ in range(6)]
    await trimmed_to(book, seqnums[3])
    assert [record.seqnum async for record in book.scan()] == seqnums[3:]
    with pytest.raises(Trimmed):
        await book.read(seqnums[0])
    seqnums.append(await book.append(b"0123456789"))
    await trimmed_to(book, seqnums[4])


@pytest.mark.slow
async def test_p25_records_past_their_age_go_also_when_nothing_is_appended(
    log: Log, book: LogBook
) -> None:
    await log.create_book(book.name, retention_s=1)
    seqnum = await book.append(b"x", tags="t")
    assert await book.read_next() is not None
    await trimmed_to(book, seqnum + 1)
    assert await book.read_next(tag="t") is None
    assert await book.append(b"y", unless={"t": seqnum}) > seqnum  # tag state survives (P20)


@pytest.mark.slow
async def test_p25_a_hold_keeps_back_what_retention_lets_go(log: Log, book: LogBook) -> None:
    await log.create_book(book.name, retention_bytes=1)
    first = await book.append(b"0123456789")
    await book.hold("report", first, 60)
    seqnums = [first] + [await book.append(b"0123456789") for _ in range(3)]
    await trimmed_to(book, first)
    assert [record.seqnum async for record in book.scan()] == seqnums
    await book.release("report")
    await trimmed_to(book, seqnums[3])


@pytest.mark.slow
async def test_a_deleted_logbook_keeps_its_retention_to_itself(log: Log, book: LogBook) -> None:
    await log.create_book(book.name, retention_bytes=1)
    await book.append(b"0123456789")
    await log.delete_book(book.name)
    seqnums = [await book.append(b"0123456789") for _ in range(3)]
    info = await book.info()
    assert (info.retention_bytes, info.trim_until) == (None, 0)
    assert [record.seqnum async for record in book.scan()] == seqnums
