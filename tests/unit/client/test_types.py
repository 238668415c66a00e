"""What type checkers say of the public calls: mypy reads this file, and pytest runs it.

What is wrong stands here with the error that is expected of it, and mypy refuses one that is not
there any more.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator
from dataclasses import dataclass
from typing import Any, assert_type

import pytest

import bokilog
from bokilog import CaughtUp, Entry, InvalidData, Record, sync


@dataclass
class Order:
    """What a typed LogBook takes."""

    number: int


@pytest.mark.asyncio
async def test_of_log_books_and_what_they_take() -> None:
    async with bokilog.open() as log:
        plain, typed = log.book("plain"), log.book("typed", type=Order)
        assert_type(await plain.append(b"x"), int)
        assert_type(await plain.append_batch([Entry(b"x"), Entry(bytearray(b"y"), "t")]), range)
        assert_type(await typed.append(Order(1)), int)
        assert_type(await typed.append_batch([Entry(Order(1), "t"), Entry(Order(2))]), range)
        assert_type(await plain.read(1), Record | None)
        with pytest.raises(InvalidData):
            await plain.append_batch([Entry(Order(1))])  # type: ignore[arg-type]
        with pytest.raises(InvalidData):
            await plain.append("text")  # type: ignore[arg-type]
        entries: list[Entry] = [Entry(b"x"), Entry(memoryview(b"y"))]
        assert_type(entries[0].data, bytes | bytearray | memoryview)
        await plain.append_batch(entries)


@pytest.mark.asyncio
async def test_of_follow() -> None:
    async with bokilog.open() as log:
        book = log.book("b")
        assert_type(book.follow(), AsyncGenerator[Record, None])
        follow = book.follow(caught_up=True)
        assert_type(follow, AsyncGenerator[Record | CaughtUp, None])
        await follow.aclose()


def test_of_the_blocking_face() -> None:
    with sync.open() as log:
        plain, typed = log.book("plain"), log.book("typed", type=Order)
        assert_type(plain.append(b"x", "t"), int)
        assert_type(typed.append_batch([Entry(Order(1))]), range)
        with pytest.raises(InvalidData):
            plain.append_batch([Entry(Order(1))])  # type: ignore[arg-type]
        follow = plain.follow()
        assert_type(follow, Generator[Record, None, None])
        assert_type(plain.follow(caught_up=True), Generator[Record | CaughtUp, None, None])
        assert_type(next(follow).data, bytes)
        follow.close()


def test_an_entry_is_still_a_named_tuple() -> None:
    entry = Entry(b"x", tags="t")
    data, tags = entry
    assert (data, tags) == (b"x", "t")
    assert entry._replace(data=b"y") == Entry(b"y", "t")
    assert repr(entry) == "Entry(data=b'x', tags='t')"
    generic: Any = Entry[bytes]
    assert generic(b"x") == Entry(b"x")
