"""Sessions: what a caller has seen is never unseen, wherever its token goes."""

from __future__ import annotations

import pytest

from bokilog.errors import ConditionFailed, InvalidToken, Trimmed
from bokilog.logbook import Log, LogBook

pytestmark = pytest.mark.asyncio


def through(log: Log, book: LogBook, token: str | None = None) -> LogBook:
    """The same LogBook as a new session sees it."""
    return log.book(book.name, session=log.session(token))


async def test_a_token_is_short_text_that_makes_a_session(log: Log, book: LogBook) -> None:
    session = log.session()
    await log.book(book.name, session=session).append(b"x")
    token = session.token
    assert type(token) is str
    assert token.isascii()
    assert token.isprintable()
    assert 0 < len(token) <= 4096
    assert log.session(token).token == token


async def test_another_session_made_from_a_token_reads_what_was_written(
    log: Log, book: LogBook
) -> None:
    writer = log.session()
    mine = log.book(book.name, session=writer)
    for n in range(20):
        seqnum = await mine.append(b"%d" % n, "t")
        reader = through(log, book, writer.token)
        newest = await reader.read_prev(tag="t")
        assert newest is not None
        assert newest.seqnum == seqnum
        assert await through(log, book, writer.token).read(seqnum) == newest
        assert len((await through(log, book, writer.token).read_range()).records) == n + 1


async def test_a_session_reads_its_own_writes(log: Log, book: LogBook) -> None:
    mine = log.book(book.name, session=log.session())
    for n in range(20):
        seqnum = await mine.append(b"%d" % n, f"t{n % 2}")
        newest = await mine.read_prev()
        assert newest is not None
        assert newest.seqnum == seqnum


async def test_what_was_read_travels_with_the_token(log: Log, book: LogBook) -> None:
    seqnum = await book.append(b"x", "t")
    reader = log.session()
    seen = await log.book(book.name, session=reader).read_next(tag="t", wait_s=15)
    assert seen is not None
    again = await through(log, book, reader.token).read_prev(tag="t")
    assert again is not None
    assert again.seqnum == seqnum


async def test_a_refused_append_moves_its_session_too(log: Log, book: LogBook) -> None:
    winner = await book.append(b"x", "t")
    loser = log.session()
    with pytest.raises(ConditionFailed):
        await log.book(book.name, session=loser).append(b"y", "t", unless={"t": 0})
    seen = await through(log, book, loser.token).read_prev(tag="t")
    assert seen is not None
    assert seen.seqnum == winner


async def test_a_merged_session_has_seen_both(log: Log, book: LogBook) -> None:
    one, other, third = log.session(), log.session(), log.session()
    a = await log.book(book.name, session=one).append(b"a", "a")
    b = await log.book(book.name, session=other).append(b"b", "b")
    third.merge(one.token)
    third.merge(other.token)
    merged = third.token
    third.merge(one.token)  # older news change nothing
    assert third.token == merged
    reader = log.book(book.name, session=third)
    assert [record.seqnum async for record in reader.scan()] == [a, b]


async def test_a_session_never_sees_a_trimmed_record_again(log: Log, book: LogBook) -> None:
    seqnums = [await book.append(b"%d" % n) for n in range(4)]
    trimmer = log.session()
    await log.book(book.name, session=trimmer).trim(seqnums[2])
    reader = through(log, book, trimmer.token)
    assert [record.seqnum async for record in reader.scan()] == seqnums[2:]
    with pytest.raises(Trimmed):
        await reader.read(seqnums[0])


async def test_linearizable_reads_see_what_anybody_was_told(log: Log, book: LogBook) -> None:
    reader = log.book(book.name, session=log.session())
    for n in range(10):
        seqnum = await through(log, book).append(b"%d" % n, "t")
        newest = await reader.read_prev(tag="t", consistency="linearizable")
        assert newest is not None
        assert newest.seqnum == seqnum


async def test_sessions_of_one_log_start_from_what_was_ordered(log: Log, book: LogBook) -> None:
    seqnum = await book.append(b"x")
    record = await through(log, book).read_next(consistency="linearizable")
    assert record is not None
    assert record.seqnum == seqnum


@pytest.mark.parametrize("token", ["", "nonsense", "x" * 5000, "é", 5])
async def test_what_is_no_token_is_refused(log: Log, token: str) -> None:
    with pytest.raises(InvalidToken):
        log.session(token)
    with pytest.raises(InvalidToken):
        log.session().merge(token)
