"""What `bokilog.open` refuses before it touches a disk, and what its log leaves over."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from bokilog.errors import InvalidSettings
from bokilog.ids import LogSpaceId
from bokilog.shapes.embedded import open as open_log
from bokilog.storage_nodes import answers
from bokilog.storage_nodes.waiting import WaitingRoom
from tests.unit.client.opened import until


@pytest.mark.parametrize(
    ("said", "problem"),
    [
        (5, "directory=5 is neither a str nor a path"),
        (b"x", "directory=b'x' is neither a str nor a path"),
        ("a\0", "has a NUL"),
        ("", "is empty"),
        (Path(os.fsdecode(b"bad\xff")), "is not UTF-8"),
    ],
)
def test_what_is_no_path_is_not_opened(said: object, problem: str) -> None:
    with pytest.raises(InvalidSettings, match=problem):
        asyncio.run(_opened(said))


async def _opened(said: object) -> None:
    await open_log(said)  # type: ignore[arg-type]


def test_a_wait_that_was_given_up_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    rooms: list[WaitingRoom] = []

    class Seen(WaitingRoom):
        def __init__(self, space: LogSpaceId) -> None:
            super().__init__(space)
            rooms.append(self)

    monkeypatch.setattr(answers, "WaitingRoom", Seen)

    async def give_up() -> None:
        async with open_log() as log:
            book = log.book("b")
            await book.append(b"a", tags="other")
            waits = asyncio.ensure_future(book.read_next(tag="t", wait_s=600))
            await until(lambda: any(rooms))
            waits.cancel()
            await until(lambda: not any(rooms))

    asyncio.run(give_up())
