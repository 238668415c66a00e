"""Conditions: the one primitive of coordination, and each need of the table that it serves."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from bokilog.errors import ConditionFailed
from bokilog.logbook import Log, LogBook
from bokilog.record import Entry

pytestmark = pytest.mark.asyncio


async def datas(book: LogBook, tag: str | None = None) -> list[bytes]:
    return [record.data async for record in book.scan(tag=tag)]


async def refused(book: LogBook, data: bytes, tags: object, unless: object) -> ConditionFailed:
    with pytest.raises(ConditionFailed) as caught:
        await book.append(data, tags, unless=unless)  # type: ignore[arg-type]
    assert caught.value.definite
    assert not caught.value.retryable
    return caught.value


# --- the table ---


async def test_create_once_the_first_wins(book: LogBook) -> None:
    outcomes = await asyncio.gather(
        *(book.append(b"%d" % n, "step:1", unless={"step:1": 0}) for n in range(10)),
        return_exceptions=True,
    )
    assert isinstance(outcomes[0], int)
    for loser in outcomes[1:]:
        assert isinstance(loser, ConditionFailed)
        assert (loser.tag, loser.winner) == ("step:1", outcomes[0])
    assert await datas(book) == [b"0"]


async def test_compare_and_append_counts_without_losing_any(book: LogBook) -> None:
    async def increment() -> None:
        while True:
            last = await book.read_prev(tag="counter")
            value, seen = (int(last.data), last.seqnum) if last else (0, 0)
            try:
                await book.append(b"%d" % (value + 1), "counter", unless={"counter": seen})
            except ConditionFailed:
                continue
            return

    await asyncio.gather(*(increment() for _ in range(8)))
    assert await datas(book, "counter") == [b"%d" % n for n in range(1, 9)]


async def test_fencing_stops_a_zombie(book: LogBook) -> None:
    old = await book.append(b"old owner", "fence")
    await book.append(b"works", "data", unless={"fence": old})
    new = await book.append(b"new owner", "fence")
    failed = await refused(book, b"zombie", "data", {"fence": old})
    assert (failed.tag, failed.winner) == ("fence", new)
    await book.append(b"works too", "data", unless={"fence": new})
    assert await datas(book, "data") == [b"works", b"works too"]


async def test_an_optimistic_transaction_sees_every_object_it_read(book: LogBook) -> None:
    a = await book.append(b"a=1", "a")
    b = await book.append(b"b=1", "b")
    span = await book.append_batch(
        [Entry(b"a=0", "a"), Entry(b"b=2", "b")], unless={"a": a, "b": b}
    )
    failed = await refused(book, b"b=9", "b", {"a": span[0], "b": b})
    assert (failed.tag, failed.winner) == ("b", span[1])
    with pytest.raises(ConditionFailed):  # it wrote neither
        await book.append_batch([Entry(b"a=7", "a"), Entry(b"b=7", "b")], unless={"a": a})
    assert await datas(book) == [b"a=1", b"b=1", b"a=0", b"b=2"]


async def test_a_lease_passes_on_by_an_expiry_record(book: LogBook) -> None:
    granted = await book.append(b"grant one", "lease", unless={"lease": 0})
    await refused(book, b"grant two", "lease", {"lease": 0})
    expired = await book.append(b"expired", "lease", unless={"lease": granted})
    await refused(book, b"renew one", "lease", {"lease": granted})
    await book.append(b"grant two", "lease", unless={"lease": expired})
    assert await datas(book, "lease") == [b"grant one", b"expired", b"grant two"]


# --- the rules behind it ---


async def test_a_condition_is_about_greater_seqnums_only(book: LogBook) -> None:
    seqnum = await book.append(b"x", "t")
    await book.append(b"y", unless={"t": seqnum})
    failed = await refused(book, b"z", (), {"t": seqnum - 1})
    assert (failed.tag, failed.winner) == ("t", seqnum)


async def test_none_tests_the_whole_logbook(book: LogBook) -> None:
    first = await book.append(b"x", unless={None: 0})
    failed = await refused(book, b"y", "t", {None: 0})
    assert (failed.tag, failed.winner) == (None, first)
    await book.append(b"z", unless={None: first})


async def test_the_first_condition_that_fails_is_named(book: LogBook) -> None:
    a = await book.append(b"x", "a")
    b = await book.append(b"y", "b")
    failed = await refused(book, b"z", (), {"none": 0, "b": 0, "a": 0})
    assert (failed.tag, failed.winner) == ("b", b)
    failed = await refused(book, b"z", (), {"b": b, "a": 0, None: 0})
    assert (failed.tag, failed.winner) == ("a", a)


async def test_the_winner_is_the_last_visible_record(book: LogBook) -> None:
    await book.append(b"x", "t")
    last = await book.append(b"y", "t")
    assert (await refused(book, b"z", "t", {"t": 0})).winner == last


async def test_a_void_unit_is_never_visible_and_its_tags_count_nowhere(book: LogBook) -> None:
    winner = await book.append(b"winner", "t")
    with pytest.raises(ConditionFailed):
        await book.append_batch([Entry(b"void", ["t", "u"])] * 3, unless={"t": 0})
    later = await book.append(b"later", "u", unless={"u": 0, "t": winner, None: winner})
    assert await datas(book) == [b"winner", b"later"]
    assert await datas(book, "u") == [b"later"]
    newest = await book.read_prev(max_seqnum=later - 1)
    assert newest is not None
    assert newest.seqnum == winner
    for seqnum in range(winner + 1, later):
        assert await book.read(seqnum) is None


async def test_a_unit_is_decided_against_the_state_before_its_first_record(book: LogBook) -> None:
    await book.append_batch([Entry(b"a", "t"), Entry(b"b", "t")], unless={"t": 0, None: 0})
    assert await datas(book, "t") == [b"a", b"b"]


async def test_a_unit_sees_the_unit_issued_just_before(book: LogBook) -> None:
    first, second, third = await asyncio.gather(
        book.append(b"first", "t", unless={"t": 0}),
        book.append(b"second", "t", unless={"t": 0}),
        book.append(b"third", "u", unless={"u": 0}),
        return_exceptions=True,
    )
    assert isinstance(second, ConditionFailed)
    assert second.winner == first
    assert isinstance(third, int)


async def test_what_a_tag_had_last_survives_every_trim(book: LogBook) -> None:
    seqnum = await book.append(b"x", "t")
    await book.trim(seqnum + 1, "t")
    assert (await refused(book, b"y", "t", {"t": 0})).winner == seqnum
    await book.trim(seqnum + 1)
    assert (await refused(book, b"y", "t", {"t": 0})).winner == seqnum
    assert (await refused(book, b"y", "t", {None: 0})).winner == seqnum
    await book.append(b"y", "t", unless={"t": seqnum})


async def test_conditions_look_at_their_own_logbook_only(log: Log, names: Iterator[str]) -> None:
    one, other = log.book(next(names)), log.book(next(names))
    await one.append(b"x", "t")
    await other.append(b"y", "t", unless={"t": 0, None: 0})
    assert await datas(other) == [b"y"]


async def test_sixty_four_conditions_are_all_looked_at(book: LogBook) -> None:
    tags = [f"t{n}" for n in range(64)]
    await book.append(b"x", tags, unless=dict.fromkeys(tags, 0))
    last = await book.append(b"y", "t63")
    unless = dict.fromkeys(tags, last - 1)
    failed = await refused(book, b"z", (), unless)
    assert (failed.tag, failed.winner) == ("t63", last)


async def test_libraries_tags_may_be_tested(book: LogBook) -> None:
    await book.append(b"x", unless={"$library": 0})
    assert await datas(book) == [b"x"]
