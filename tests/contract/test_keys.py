"""Keys: a retry settles what the first attempt did, and never does it twice."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from bokilog.errors import ConditionFailed, KeyReused
from bokilog.logbook import Log, LogBook
from bokilog.record import Entry

pytestmark = pytest.mark.asyncio


async def datas(book: LogBook) -> list[bytes]:
    return [record.data async for record in book.scan()]


async def test_a_known_key_returns_the_first_seqnum(book: LogBook) -> None:
    first = await book.append(b"pay", "order:1", key="k")
    await book.append(b"other")
    assert await book.append(b"pay", "order:1", key="k") == first
    assert await datas(book) == [b"pay", b"other"]


async def test_a_known_key_returns_the_first_span(book: LogBook) -> None:
    unit = [Entry(b"a", "x"), Entry(b"b")]
    first = await book.append_batch(unit, key="k")
    assert await book.append_batch(unit, key="k") == first
    assert await datas(book) == [b"a", b"b"]


async def test_retries_issued_together_are_one_record(book: LogBook) -> None:
    seqnums = await asyncio.gather(*(book.append(b"pay", key="k") for _ in range(10)))
    assert len(set(seqnums)) == 1
    assert await datas(book) == [b"pay"]


@pytest.mark.parametrize(
    "unit",
    [
        [Entry(b"PAY", "t")],
        [Entry(b"pay", "u")],
        [Entry(b"pay", ["t", "u"])],
        [Entry(b"pay")],
        [Entry(b"pay", "t"), Entry(b"")],
        [Entry(b"p", "t"), Entry(b"ay", "t")],
    ],
)
async def test_a_key_with_other_bytes_or_tags_is_refused(book: LogBook, unit: list[Entry]) -> None:
    first = await book.append(b"pay", "t", key="k")
    with pytest.raises(KeyReused) as caught:
        await book.append_batch(unit, key="k")
    assert (caught.value.key, caught.value.seqnum) == ("k", first)
    assert caught.value.definite
    assert await datas(book) == [b"pay"]


async def test_the_key_is_decided_before_the_conditions(book: LogBook) -> None:
    first = await book.append(b"x", "t", key="k", unless={"t": 0})
    assert await book.append(b"x", "t", key="k", unless={"t": 0}) == first
    assert await book.append(b"x", "t", key="k") == first
    with pytest.raises(KeyReused):
        await book.append(b"y", "t", key="k", unless={"t": 0})


async def test_a_void_unit_does_not_use_up_its_key(book: LogBook) -> None:
    winner = await book.append(b"w", "t")
    with pytest.raises(ConditionFailed):
        await book.append(b"x", key="k", unless={"t": 0})
    seqnum = await book.append(b"y", key="k", unless={"t": winner})
    assert await book.append(b"y", key="k") == seqnum
    assert await datas(book) == [b"w", b"y"]


async def test_a_key_is_remembered_after_its_record_was_trimmed(book: LogBook) -> None:
    first = await book.append(b"x", key="k")
    await book.trim(first + 1)
    assert await book.append(b"x", key="k") == first
    assert await datas(book) == []


async def test_keys_belong_to_their_logbook(log: Log, names: Iterator[str]) -> None:
    one, other = log.book(next(names)), log.book(next(names))
    await one.append(b"a", key="k")
    await other.append(b"b", key="k")
    assert (await datas(one), await datas(other)) == ([b"a"], [b"b"])


async def test_keys_are_compared_whole(book: LogBook) -> None:
    keys = ["k", "k ", "K", "é" * 128, "é" * 127]
    seqnums = [await book.append(b"x", key=key) for key in keys]
    assert len(set(seqnums)) == len(keys)
