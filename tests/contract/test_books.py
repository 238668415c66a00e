"""LogBooks themselves: made by hand or by the first append, listed, described, deleted."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from bokilog.errors import Closed, KeyReused, LogBookConflict, UnknownLogBook
from bokilog.limits import KEY_HORIZON_S
from bokilog.logbook import Log, LogBook
from bokilog.record import DURABILITIES, Durability

pytestmark = pytest.mark.asyncio


class Shown(str):
    """Text that is formatted as other text, as members of some enums are."""

    __slots__ = ()

    def __format__(self, spec: str) -> str:
        return "Shown"


async def test_a_logbook_is_the_one_of_its_text(log: Log, book: LogBook) -> None:
    made = await log.create_book(Shown(book.name))
    assert await log.create_book(book.name) == made


async def listed(log: Log) -> list[str]:
    return [info.book for info in await log.books()]


async def test_a_logbook_has_its_name(log: Log, book: LogBook) -> None:
    assert log.book(book.name).name == book.name


async def test_looking_at_a_logbook_does_not_create_it(log: Log, book: LogBook) -> None:
    await book.read_next()
    await book.tail()
    assert book.name not in await listed(log)


async def test_the_first_append_creates_a_logbook_with_defaults(log: Log, book: LogBook) -> None:
    seqnum = await book.append(b"x")
    assert book.name in await listed(log)
    info = await book.info()
    assert (info.book, info.durability) == (book.name, "sync")
    assert (info.retention_s, info.retention_bytes) == (None, None)
    assert info.key_horizon_s == KEY_HORIZON_S
    assert info.trim_until <= seqnum < info.tail


@pytest.mark.parametrize("durability", DURABILITIES)
async def test_a_logbook_made_by_hand_keeps_its_class(
    log: Log, book: LogBook, durability: Durability
) -> None:
    created = await log.create_book(book.name, durability=durability)
    assert (created.book, created.durability) == (book.name, durability)
    assert (await book.info()).number == created.number
    seqnum = await book.append(b"x", "t", unless={"t": 0})
    record = await book.read_next(tag="t")
    assert record is not None
    assert (record.seqnum, record.data) == (seqnum, b"x")


async def test_creating_again_alike_changes_nothing(log: Log, book: LogBook) -> None:
    first = await log.create_book(book.name, durability="flush")
    again = await log.create_book(book.name, durability="flush")
    assert again.number == first.number


async def test_creating_again_otherwise_is_a_conflict(log: Log, book: LogBook) -> None:
    await book.append(b"x")
    with pytest.raises(LogBookConflict, match="durability=sync, not memory") as caught:
        await log.create_book(book.name, durability="memory")
    assert (caught.value.book, caught.value.name) == (book.name, "durability")
    assert (await book.info()).durability == "sync"


async def test_books_are_listed_by_name(log: Log, names: Iterator[str]) -> None:
    mine = [next(names) + suffix for suffix in ("-b", "-é", "-a")]
    for name in mine:
        await log.book(name).append(b"x")
    every = await listed(log)
    assert every == sorted(every)
    assert set(mine) <= set(every)
    assert not [name for name in every if name.startswith("$")]


async def test_a_logbook_that_does_not_exist_cannot_be_changed(log: Log, book: LogBook) -> None:
    for call in (
        book.info,
        lambda: book.trim(1),
        lambda: book.hold("h", 1, 60),
        lambda: book.release("h"),
        lambda: book.set_aux(1, b"x"),
        lambda: log.delete_book(book.name),
    ):
        with pytest.raises(UnknownLogBook) as caught:
            await call()
        assert caught.value.book == book.name
    assert book.name not in await listed(log)


async def test_a_deleted_logbook_is_gone(log: Log, book: LogBook) -> None:
    seqnum = await book.append(b"x", "t")
    await log.delete_book(book.name)
    assert book.name not in await listed(log)
    assert await book.read_next() is None
    assert await book.read_prev(tag="t") is None
    assert await book.read(seqnum) is None
    with pytest.raises(UnknownLogBook):
        await book.info()


async def test_a_logbook_made_again_is_empty_and_another_one(log: Log, book: LogBook) -> None:
    old = await book.append(b"old", "t", key="k")
    before = await book.info()
    await book.trim(old + 1, "t")
    await log.delete_book(book.name)
    await log.create_book(book.name, durability="flush")
    after = await book.info()
    assert after.number != before.number
    assert after.durability == "flush"
    assert [record async for record in book.scan()] == []
    new = await book.append(b"new", "t", key="k", unless={"t": 0, None: 0})  # nothing remembered
    assert [record.seqnum async for record in book.scan(tag="t")] == [new]
    with pytest.raises(KeyReused):
        await book.append(b"old", "t", key="k")


async def test_an_append_after_a_deletion_makes_the_logbook_anew(log: Log, book: LogBook) -> None:
    await book.append(b"old")
    before = await book.info()
    await log.delete_book(book.name)
    new = await book.append(b"new", unless={None: 0})
    assert (await book.info()).number != before.number
    assert [(r.seqnum, r.data) async for r in book.scan()] == [(new, b"new")]


async def test_deleting_one_logbook_leaves_the_others(log: Log, names: Iterator[str]) -> None:
    one, other = log.book(next(names)), log.book(next(names))
    await one.append(b"x")
    await other.append(b"y")
    await log.delete_book(one.name)
    record = await other.read_next()
    assert record is not None
    assert record.data == b"y"


async def test_a_closed_log_says_so(log: Log, book: LogBook) -> None:
    await book.append(b"x")
    await log.aclose()
    await log.aclose()
    for call in (
        lambda: book.append(b"y"),
        book.read_next,
        book.tail,
        log.books,
        lambda: anext(book.scan()),
        lambda: log.create_book(book.name),
    ):
        with pytest.raises(Closed):
            await call()
