"""Bad input: an error of its own kind that names value and limit, and nothing happened."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from bokilog import errors, limits
from bokilog.logbook import Log, LogBook
from bokilog.record import Entry

pytestmark = pytest.mark.asyncio

TOO_BIG = limits.RECORD_BYTES_MAX + 1

# Calls that a type checker refuses too, hence the Any; what the message must name, then the error.
BAD: list[tuple[str, type[errors.UsageError], Callable[[Any], Awaitable[object]]]] = [
    ("str, not bytes", errors.InvalidData, lambda b: b.append("text")),
    ("NoneType", errors.InvalidData, lambda b: b.append(None)),
    (f"{TOO_BIG} bytes.*limit", errors.RecordTooLarge, lambda b: b.append(bytes(TOO_BIG))),
    ("is empty", errors.InvalidTag, lambda b: b.append(b"", tags="")),
    ("257 bytes.*256", errors.InvalidTag, lambda b: b.append(b"", "x" * 257)),
    ("258 bytes.*256", errors.InvalidTag, lambda b: b.append(b"", "é" * 129)),
    (r"'\$mine'.*libraries", errors.InvalidTag, lambda b: b.append(b"", ["ok", "$mine"])),
    ("5.*int, not str", errors.InvalidTag, lambda b: b.append(b"", [5])),
    ("bytes", errors.InvalidTag, lambda b: b.append(b"", b"tag")),
    ("surrogate", errors.InvalidTag, lambda b: b.append(b"", "\ud800")),
    ("65 tags.*64", errors.TooManyTags, lambda b: b.append(b"", [str(n) for n in range(65)])),
    ("at least one", errors.InvalidUnit, lambda b: b.append_batch([])),
    ("bytes", errors.InvalidUnit, lambda b: b.append_batch([b"x"])),
    ("1001 records.*1000", errors.UnitTooLarge, lambda b: b.append_batch([Entry(b"")] * 1001)),
    (
        "bytes: the limit",
        errors.UnitTooLarge,
        lambda b: b.append_batch([Entry(bytes(TOO_BIG - 1)), Entry(b"1")]),
    ),
    ("is empty", errors.InvalidTag, lambda b: b.append_batch([Entry(b"ok"), Entry(b"", "")])),
    ("-1.*seqnum", errors.InvalidCondition, lambda b: b.append(b"", unless={"t": -1})),
    ("seqnum", errors.InvalidCondition, lambda b: b.append(b"", unless={"t": 2**53})),
    ("None.*seqnum", errors.InvalidCondition, lambda b: b.append(b"", unless={"t": None})),
    ("maps", errors.InvalidCondition, lambda b: b.append(b"", unless=["t"])),
    ("is empty", errors.InvalidTag, lambda b: b.append(b"", unless={"": 0})),
    (
        "65 conditions.*64",
        errors.TooManyConditions,
        lambda b: b.append(b"", unless={str(n): 0 for n in range(65)}),
    ),
    ("is empty", errors.InvalidKey, lambda b: b.append(b"", key="")),
    ("257 bytes.*256", errors.InvalidKey, lambda b: b.append(b"", key="k" * 257)),
    ("int, not str", errors.InvalidKey, lambda b: b.append(b"", key=7)),
    ("timeout_s=-1", errors.InvalidRange, lambda b: b.append(b"", timeout_s=-1)),
    ("min_seqnum=-1", errors.InvalidRange, lambda b: b.read_next(min_seqnum=-1)),
    ("min_seqnum='1'", errors.InvalidRange, lambda b: b.read_next(min_seqnum="1")),
    ("is empty", errors.InvalidTag, lambda b: b.read_next(tag="")),
    ("wait_s=-1", errors.InvalidRange, lambda b: b.read_next(wait_s=-1)),
    ("wait_s=nan", errors.InvalidRange, lambda b: b.read_next(wait_s=float("nan"))),
    ("wait_s=None", errors.InvalidRange, lambda b: b.read_next(wait_s=None)),
    ("'eventual'", errors.InvalidSettings, lambda b: b.read_next(consistency="eventual")),
    ("max_seqnum=-5", errors.InvalidRange, lambda b: b.read_prev(max_seqnum=-5)),
    ("257 bytes.*256", errors.InvalidTag, lambda b: b.read_prev(tag="x" * 257)),
    ("seqnum=0.*1..", errors.InvalidRange, lambda b: b.read(0)),
    ("seqnum=9007199254740993", errors.InvalidRange, lambda b: b.read(2**53 + 1)),
    ("seqnum=True", errors.InvalidRange, lambda b: b.read(True)),
    ("start=-1", errors.InvalidRange, lambda b: b.read_bytes(1, -1)),
    ("until=2.*start=3", errors.InvalidRange, lambda b: b.read_bytes(1, 3, 2)),
    ("until=4.*5", errors.InvalidRange, lambda b: b.read_range(min_seqnum=5, until=4)),
    ("limit=0.*10000", errors.InvalidRange, lambda b: b.read_range(limit=0)),
    ("limit=10001.*10000", errors.InvalidRange, lambda b: b.read_range(limit=10_001)),
    ("max_bytes=0", errors.InvalidRange, lambda b: b.read_range(max_bytes=0)),
    ("is empty", errors.InvalidTag, lambda b: anext(b.scan(tag=""))),
    ("until=4.*5", errors.InvalidRange, lambda b: anext(b.scan(min_seqnum=5, until=4))),
    ("min_seqnum=-1", errors.InvalidRange, lambda b: anext(b.follow(min_seqnum=-1))),
    ("until=-1", errors.InvalidRange, lambda b: b.trim(-1)),
    ("is empty", errors.InvalidTag, lambda b: b.trim(1, "")),
    ("hold.*is empty", errors.InvalidName, lambda b: b.hold("", 1, 60)),
    ("hold.*129 bytes.*128", errors.InvalidName, lambda b: b.hold("h" * 129, 1, 60)),
    ("seqnum=0", errors.InvalidRange, lambda b: b.hold("h", 0, 60)),
    ("ttl_s=0", errors.InvalidRange, lambda b: b.hold("h", 1, 0)),
    ("ttl_s=inf", errors.InvalidRange, lambda b: b.hold("h", 1, float("inf"))),
    ("hold.*is empty", errors.InvalidName, lambda b: b.release("")),
    ("seqnum=0", errors.InvalidRange, lambda b: b.set_aux(0, b"")),
    ("65537 bytes.*65536", errors.RecordTooLarge, lambda b: b.set_aux(1, bytes(65_537))),
    ("str, not bytes", errors.InvalidData, lambda b: b.set_aux(1, "aux")),
    ("timestamp_ms=-1", errors.InvalidRange, lambda b: b.seqnum_at(-1)),
]


@pytest.mark.parametrize(("named", "error", "call"), BAD)
async def test_a_bad_call_is_refused_before_anything_happens(
    log: Log,
    book: LogBook,
    named: str,
    error: type[errors.UsageError],
    call: Callable[[LogBook], Awaitable[object]],
) -> None:
    with pytest.raises(error, match=named) as caught:
        await call(book)
    assert type(caught.value) is error
    assert caught.value.definite
    assert not caught.value.retryable
    assert book.name not in [info.book for info in await log.books()]


async def test_a_bad_position_is_refused_also_where_the_answer_is_known(book: LogBook) -> None:
    seqnum = await book.append(b"x", "t")
    for _ in range(2):
        found = await book.read_next(tag="t")
        assert found is not None
        assert found.seqnum == seqnum
    with pytest.raises(errors.InvalidRange):
        await book.read_next(tag="t", min_seqnum=-1)


@pytest.mark.parametrize("name", ["", "b" * 129, "é" * 65, "$system", "\ud800", None, 5])
async def test_a_bad_name_of_a_logbook_is_refused(log: Log, name: str) -> None:
    with pytest.raises(errors.InvalidName):
        log.book(name)
    with pytest.raises(errors.InvalidName):
        await log.create_book(name)
    with pytest.raises(errors.InvalidName):
        await log.delete_book(name)


async def test_the_longest_name_of_a_logbook_works(log: Log, book: LogBook) -> None:
    room_bytes = limits.BOOK_NAME_BYTES_MAX - len(book.name)
    long = log.book(book.name + "é" * (room_bytes // 2) + "x" * (room_bytes % 2))
    assert len(long.name.encode()) == limits.BOOK_NAME_BYTES_MAX
    await long.append(b"x")
    assert await long.read_next() is not None


async def test_an_unknown_durability_is_refused(log: Log, book: LogBook) -> None:
    with pytest.raises(errors.InvalidSettings, match="durability='none' is none of sync, flush"):
        await log.create_book(book.name, durability="none")  # type: ignore[arg-type]
    assert book.name not in [info.book for info in await log.books()]


async def test_a_refused_append_leaves_those_around_it_alone(book: LogBook) -> None:
    first = await book.append(b"first")
    with pytest.raises(errors.InvalidTag):
        await book.append_batch([Entry(b"good", "t"), Entry(b"bad", "$t")])
    last = await book.append(b"last")
    assert [record.seqnum async for record in book.scan()] == [first, last]
