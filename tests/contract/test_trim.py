"""Trims and holds: what goes, what stays, and that a gap says what it is."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import aclosing

import pytest

from bokilog.errors import Trimmed
from bokilog.logbook import LogBook
from bokilog.record import Trim

pytestmark = pytest.mark.asyncio


async def seqnums(book: LogBook, tag: str | None = None, *, reverse: bool = False) -> list[int]:
    return [record.seqnum async for record in book.scan(tag=tag, reverse=reverse)]


async def ten(book: LogBook) -> list[int]:
    return [await book.append(b"%d" % n, ("even", "odd")[n % 2]) for n in range(10)]


async def test_a_trim_takes_everything_below_it(book: LogBook) -> None:
    s = await ten(book)
    assert await book.trim(s[4]) == Trim(s[4], None)
    assert await seqnums(book) == s[4:]
    assert await seqnums(book, reverse=True) == s[:3:-1]
    assert await seqnums(book, "odd") == s[5::2]
    first = await book.read_next(tag="even")
    assert first is not None
    assert first.seqnum == s[4]
    assert await book.seqnum_at(0) == s[4]
    assert (await book.info()).trim_until == s[4]


async def test_trims_only_move_forward(book: LogBook) -> None:
    s = await ten(book)
    await book.trim(s[5])
    assert await book.trim(s[2]) == Trim(s[5], None)
    assert await book.trim(0) == Trim(s[5], None)
    assert await seqnums(book) == s[5:]


async def test_a_session_is_told_the_later_one_of_its_trims(book: LogBook) -> None:
    """Of the LogBook and of the tag, whichever level of caches knows of which."""
    s = await ten(book)
    await book.trim(s[2])
    await book.trim(s[6], "even")
    for tag, kept in (("odd", s[2]), ("even", s[6]), ("neither", s[2])):
        with pytest.raises(Trimmed) as told:
            await book.read_next(tag=tag, min_seqnum=s[0])
        assert told.value.trim_until == kept


async def test_zero_is_behind_no_trim(book: LogBook) -> None:
    s = await ten(book)
    await book.trim(s[5])
    assert await book.read_prev(max_seqnum=0) is None
    assert (await book.read_range(until=0)).records == []
    assert (await book.read_range(until=0, reverse=True)).records == []


async def test_a_trim_stops_at_the_tail(book: LogBook) -> None:
    s = await ten(book)
    done = await book.trim(s[-1] + 1_000_000)
    assert s[-1] < done.until <= await book.tail()
    assert await seqnums(book) == []
    later = await book.append(b"later")
    assert later >= done.until
    assert await seqnums(book) == [later]


READS: dict[str, Callable[[LogBook, int], Awaitable[object]]] = {
    "read": lambda book, at: book.read(at),
    "read_bytes": lambda book, at: book.read_bytes(at),
    "read_next": lambda book, at: book.read_next(min_seqnum=at),
    "read_next_of_a_tag": lambda book, at: book.read_next(tag="odd", min_seqnum=at),
    "read_next_waiting": lambda book, at: book.read_next(tag="none", min_seqnum=at, wait_s=15),
    "read_prev": lambda book, at: book.read_prev(max_seqnum=at),
    "read_range": lambda book, at: book.read_range(min_seqnum=at),
    "read_range_reverse": lambda book, at: book.read_range(min_seqnum=at, reverse=True),
    "read_range_until": lambda book, at: book.read_range(until=at),
    "scan": lambda book, at: anext(book.scan(min_seqnum=at)),
    "follow": lambda book, at: anext(book.follow(min_seqnum=at)),
}


@pytest.mark.parametrize("read", READS.values(), ids=READS.keys())
async def test_an_explicit_position_behind_a_trim_says_so(
    book: LogBook, read: Callable[[LogBook, int], Awaitable[object]]
) -> None:
    s = await ten(book)
    await book.trim(s[5])
    with pytest.raises(Trimmed) as caught:
        await read(book, s[2])
    assert caught.value.trim_until == s[5]
    assert caught.value.definite
    assert not caught.value.retryable


async def test_the_first_kept_seqnum_is_no_trimmed_position(book: LogBook) -> None:
    s = await ten(book)
    await book.trim(s[5])
    assert (await book.read_range(min_seqnum=s[5])).records[0].seqnum == s[5]
    assert (await book.read_range(until=s[5])).records == []
    at = await book.read(s[5])
    assert at is not None


async def test_a_scan_overtaken_by_a_trim_says_so(book: LogBook) -> None:
    for _ in range(3):
        await asyncio.gather(*(book.append(b"x" * 1000) for _ in range(500)))
    last = await book.append(b"last")
    async with aclosing(book.scan()) as scan:
        await anext(scan)
        await book.trim(last)
        with pytest.raises(Trimmed):  # more than a page: nobody has read it all before
            assert [record async for record in scan] == []


async def test_a_follow_overtaken_by_a_trim_says_so(book: LogBook) -> None:
    first = await book.append(b"first")
    async with aclosing(book.follow()) as follow:
        assert (await anext(follow)).seqnum == first
        later = [await book.append(b"%d" % n) for n in range(3)]
        await book.trim(later[-1])
        got: list[int] = []
        try:
            while len(got) < 3:
                got.append((await anext(follow)).seqnum)
        except Trimmed as trimmed:
            assert trimmed.trim_until == later[-1]  # noqa: PT017  # it need not have been raised:
        assert got == later[: len(got)]  # it may have fetched some before, but skips none


# --- trims of a tag ---


async def test_a_record_goes_when_its_only_tag_is_trimmed_past_it(book: LogBook) -> None:
    s = await ten(book)
    assert await book.trim(s[5], "even") == Trim(s[5], None)
    kept = [n for n in s if n in s[1::2] or n >= s[5]]
    assert await seqnums(book) == kept
    assert await seqnums(book, "even") == s[6::2]
    assert await seqnums(book, "odd") == s[1::2]


async def test_records_gone_by_trims_of_tags_leave_no_gap(book: LogBook) -> None:
    s = await ten(book)
    await book.trim(s[5], "even")
    assert await book.read(s[2]) is None
    assert await book.read_bytes(s[2]) is None
    found = await book.read_next(min_seqnum=s[2])
    assert found is not None
    assert found.seqnum == s[3]
    assert (await book.info()).trim_until <= s[0]


async def test_readers_of_a_trimmed_tag_learn_of_the_gap(book: LogBook) -> None:
    s = await ten(book)
    await book.trim(s[5], "even")
    with pytest.raises(Trimmed) as caught:
        await book.read_next(tag="even", min_seqnum=s[2])
    assert caught.value.trim_until == s[5]
    with pytest.raises(Trimmed):
        await book.read_range(tag="even", min_seqnum=s[2])
    found = await book.read_next(tag="odd", min_seqnum=s[2])
    assert found is not None


async def test_a_record_stays_while_one_of_its_tags_is_kept(book: LogBook) -> None:
    both = await book.append(b"x", ["a", "b"])
    last = await book.append(b"y", ["a", "b"])
    await book.trim(last, "a")
    assert await seqnums(book) == [both, last]
    assert await seqnums(book, "b") == [both, last]
    assert await seqnums(book, "a") == [last]
    await book.trim(last, "b")
    assert await seqnums(book) == await seqnums(book, "b") == [last]
    assert await book.read(both) is None


async def test_records_without_tags_do_not_mind_trims_of_tags(book: LogBook) -> None:
    plain = await book.append(b"plain")
    tagged = await book.append(b"tagged", "t")
    await book.trim(tagged + 1, "t")
    assert await seqnums(book) == [plain]


async def test_the_trim_of_a_tag_is_no_less_than_that_of_the_logbook(book: LogBook) -> None:
    s = await ten(book)
    await book.trim(s[6])
    assert (await book.trim(s[2], "even")).until == s[6]
    assert await seqnums(book) == s[6:]


# --- holds ---


async def test_a_trim_stops_at_a_hold_and_says_whose(book: LogBook) -> None:
    s = await ten(book)
    await book.hold("report", s[4], 3600)
    assert await book.trim(s[8]) == Trim(s[4], "report")
    assert await seqnums(book) == s[4:]
    assert await book.trim(s[8], "odd") == Trim(s[4], "report")
    assert await seqnums(book, "odd") == s[5::2]
    assert await book.trim(s[4]) == Trim(s[4], None)


async def test_the_lowest_hold_wins(book: LogBook) -> None:
    s = await ten(book)
    await book.hold("late", s[7], 3600)
    await book.hold("early", s[3], 3600)
    assert await book.trim(s[9]) == Trim(s[3], "early")
    await book.release("early")
    assert await book.trim(s[9]) == Trim(s[7], "late")
    await book.release("late")
    assert await book.trim(s[9]) == Trim(s[9], None)


async def test_a_hold_of_the_same_name_moves(book: LogBook) -> None:
    s = await ten(book)
    await book.hold("report", s[2], 3600)
    await book.hold("report", s[6], 3600)
    assert await book.trim(s[9]) == Trim(s[6], "report")


async def test_a_hold_ends_by_itself(book: LogBook) -> None:
    s = await ten(book)
    await book.hold("short", s[2], 0.02)
    await book.hold("long", s[5], 3600)
    for _ in range(500):
        if (await book.trim(s[9])).held_by != "short":
            break
        await asyncio.sleep(0.02)  # the log's own time has to pass
    assert await seqnums(book) == s[5:]


async def test_a_hold_behind_a_trim_is_refused(book: LogBook) -> None:
    s = await ten(book)
    await book.trim(s[5])
    with pytest.raises(Trimmed) as caught:
        await book.hold("report", s[4], 3600)
    assert caught.value.trim_until == s[5]
    await book.hold("report", s[5], 3600)
    assert await book.trim(s[9]) == Trim(s[5], "report")


async def test_releasing_what_is_not_held_is_no_error(book: LogBook) -> None:
    await ten(book)
    await book.release("nobody's")
