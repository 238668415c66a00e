"""Pages, scans and follows: every visible record once, in order, from either end."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

import pytest

from bokilog.errors import ConditionFailed
from bokilog.logbook import LogBook
from bokilog.record import CaughtUp, Entry, Page, Record

pytestmark = pytest.mark.asyncio


async def filled(book: LogBook, count: int = 20) -> list[int]:
    """Records 0..count-1, tagged by parity; every third unit has a void one behind it."""
    seqnums = []
    for n in range(count):
        seqnums.append(await book.append(b"%d" % n, ("even", "odd")[n % 2]))
        if n % 3 == 0:
            with pytest.raises(ConditionFailed):
                await book.append(b"void", ["even", "odd"], unless={None: 0})
    return seqnums


async def paged(
    book: LogBook,
    *,
    tag: str | None = None,
    min_seqnum: int = 0,
    until: int | None = None,
    limit: int = 100,
    max_bytes: int = 1 << 20,
    reverse: bool = False,
) -> list[Page]:
    """All pages of a range; holds each to its bounds and to moving on."""
    pages = []
    while True:
        page = await book.read_range(
            tag=tag,
            min_seqnum=min_seqnum,
            until=until,
            limit=limit,
            max_bytes=max_bytes,
            reverse=reverse,
        )
        pages.append(page)
        assert len(page.records) <= limit
        size_bytes = sum(len(record.data) for record in page.records)
        assert len(page.records) <= 1 or size_bytes <= max_bytes
        if not page.more:
            return pages
        if reverse:
            assert until is None or page.next_seqnum < until
            until = page.next_seqnum
        else:
            assert page.next_seqnum > min_seqnum
            min_seqnum = page.next_seqnum


def flat(pages: list[Page]) -> list[int]:
    return [record.seqnum for page in pages for record in page.records]


@pytest.mark.parametrize("limit", [1, 2, 7, 20, 10_000])
@pytest.mark.parametrize("reverse", [False, True])
async def test_pages_of_any_size_make_the_whole(book: LogBook, limit: int, reverse: bool) -> None:
    seqnums = await filled(book)
    for tag, expected in ((None, seqnums), ("odd", seqnums[1::2]), ("none", [])):
        pages = await paged(book, tag=tag, limit=limit, reverse=reverse)
        assert flat(pages) == (expected[::-1] if reverse else expected)


@pytest.mark.parametrize("reverse", [False, True])
async def test_ranges_are_half_open(book: LogBook, reverse: bool) -> None:
    seqnums = await filled(book)
    low, high = seqnums[4], seqnums[9]
    expected = seqnums[4:9][::-1] if reverse else seqnums[4:9]
    assert flat(await paged(book, min_seqnum=low, until=high, limit=2, reverse=reverse)) == expected
    pages = await paged(book, tag="even", min_seqnum=low + 1, until=high + 1, reverse=reverse)
    assert sorted(flat(pages)) == [seqnums[6], seqnums[8]]
    assert flat(await paged(book, min_seqnum=low, until=low, reverse=reverse)) == []


@pytest.mark.parametrize("reverse", [False, True])
async def test_bytes_bound_a_page_but_for_its_first_record(book: LogBook, reverse: bool) -> None:
    span = await book.append_batch([Entry(b"x" * size) for size in (10, 500, 10, 10, 80, 10)])
    pages = await paged(book, max_bytes=100, reverse=reverse)
    assert flat(pages) == (list(span)[::-1] if reverse else list(span))
    assert all(len(page.records) < 4 for page in pages)


async def test_a_large_record_is_a_page_of_its_own(book: LogBook) -> None:
    seqnum = await book.append(b"x" * (300 << 10))
    page = await book.read_range(max_bytes=1)
    assert [record.seqnum for record in page.records] == [seqnum]
    assert not page.more


async def test_an_exhausted_page_continues_with_what_comes_later(book: LogBook) -> None:
    seqnums = await filled(book, 4)
    pages = await paged(book, tag="even")
    assert flat(pages) == seqnums[0::2]
    assert pages[-1].next_seqnum > seqnums[2]
    later = [await book.append(b"later", tag) for tag in ("odd", "even", "even")]
    pages = await paged(book, tag="even", min_seqnum=pages[-1].next_seqnum)
    assert flat(pages) == later[1:]


async def test_an_exhausted_empty_page_moves_too(book: LogBook) -> None:
    seqnums = await filled(book, 4)
    page = (await paged(book, tag="none", min_seqnum=seqnums[0]))[-1]
    assert page.next_seqnum > seqnums[0]
    assert page.next_seqnum <= await book.tail()


async def test_a_range_beyond_the_tail_is_empty(book: LogBook) -> None:
    last = (await filled(book, 2))[-1]
    page = await book.read_range(min_seqnum=last + 1000, until=last + 2000)
    assert (page.records, page.more) == ([], False)
    assert last + 1000 <= page.next_seqnum <= last + 2000


# --- scan ---


@pytest.mark.parametrize("reverse", [False, True])
async def test_a_scan_yields_everything_once(book: LogBook, reverse: bool) -> None:
    seqnums = await filled(book, 10)
    got = [record.seqnum async for record in book.scan(reverse=reverse)]
    assert got == (seqnums[::-1] if reverse else seqnums)
    got = [
        record.seqnum
        async for record in book.scan(tag="odd", min_seqnum=seqnums[2], until=seqnums[9])
    ]
    assert got == [seqnums[3], seqnums[5], seqnums[7]]


async def test_a_scan_ends_at_the_tail_it_started_with(book: LogBook) -> None:
    seqnums = await filled(book, 3)
    got = []
    async for record in book.scan():
        got.append(record.seqnum)
        await book.append(b"meanwhile")
        assert len(got) < 50
    assert got == seqnums


async def test_a_scan_left_early_does_no_harm(book: LogBook) -> None:
    seqnums = await filled(book, 5)
    async with aclosing(book.scan()) as scan:
        async for record in scan:
            assert record.seqnum == seqnums[0]
            break
    assert [record.seqnum async for record in book.scan()] == seqnums


# --- follow ---


async def test_a_follow_yields_what_is_there_and_what_comes(book: LogBook) -> None:
    seqnums = await filled(book, 4)
    async with aclosing(book.follow(tag="even")) as follow:
        assert [(await anext(follow)).seqnum for _ in range(2)] == seqnums[0::2]
        await book.append(b"odd one", "odd")
        for n in range(3):
            seqnum = await book.append(b"later %d" % n, "even")
            record = await anext(follow)
            assert (record.seqnum, record.data) == (seqnum, b"later %d" % n)


async def test_a_follow_waits_for_the_first_record_of_a_logbook(book: LogBook) -> None:
    async with aclosing(book.follow()) as follow:
        waiting = asyncio.ensure_future(anext(follow))
        await asyncio.sleep(0)
        seqnum = await book.append(b"first")
        assert (await waiting).seqnum == seqnum


async def test_a_follow_from_a_position_skips_nothing(book: LogBook) -> None:
    seqnums = await filled(book, 6)
    async with aclosing(book.follow(min_seqnum=seqnums[3])) as follow:
        assert [(await anext(follow)).seqnum for _ in range(3)] == seqnums[3:]


async def test_a_follow_says_when_it_has_caught_up(book: LogBook) -> None:
    seqnums = await filled(book, 3)
    async with aclosing(book.follow(caught_up=True)) as follow:
        got: list[int] = []
        item: Record | CaughtUp = await anext(follow)
        while not isinstance(item, CaughtUp) or len(got) < 3:
            if isinstance(item, Record):
                got.append(item.seqnum)
            item = await anext(follow)
        assert got == seqnums
        assert item.seqnum > seqnums[-1]
        later = await book.append(b"later")
        items = [await anext(follow)]
        while not (isinstance(items[-1], CaughtUp) and items[-1].seqnum > later):
            items.append(await anext(follow))
        assert [i.seqnum for i in items if isinstance(i, Record)] == [later]


async def test_several_follows_see_one_order(book: LogBook) -> None:
    async def take(count: int) -> list[int]:
        async with aclosing(book.follow()) as follow:
            return [(await anext(follow)).seqnum for _ in range(count)]

    followers = [asyncio.ensure_future(take(60)) for _ in range(3)]
    seqnums = await asyncio.gather(*(book.append(b"%d" % n) for n in range(60)))
    for follower in followers:
        assert await follower == seqnums
