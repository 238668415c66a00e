"""What `bokilog.open` refuses before it touches a disk, and what its log leaves over."""

from __future__ import annotations

import asyncio
import gc
import os
from pathlib import Path

import pytest

from bokilog.errors import InvalidRange, InvalidSettings
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


async def _opened(said: object, timeout_s: float | None = 1) -> None:
    await open_log(said, timeout_s=timeout_s)  # type: ignore[arg-type]


def test_a_log_without_a_timeout_is_refused_before_its_directory_is_in_use(tmp_path: Path) -> None:
    for timeout_s in (None, -1, 10**5_000):
        with pytest.raises(InvalidRange, match="timeout_s="):
            asyncio.run(_opened(tmp_path / "log", timeout_s))
    assert not (tmp_path / "log").exists()


def test_a_log_that_nobody_closed_is_named_and_its_directory_free_again(tmp_path: Path) -> None:
    def leave_open() -> int:
        async def opened() -> int:
            log = await open_log(tmp_path / "log")
            return await log.book("b").append(b"x")

        first = asyncio.run(opened())
        gc.collect()
        return first

    async def opened_again() -> int:
        async with open_log(tmp_path / "log") as log:
            return await log.book("b").append(b"y")

    with pytest.warns(ResourceWarning, match=r"the log in '.*log' was not closed"):
        first = leave_open()
    assert asyncio.run(opened_again()) > first


def test_a_close_that_was_cancelled_gives_the_directory_back(tmp_path: Path) -> None:
    async def closed_after(turns: int) -> int:
        log = await open_log(tmp_path / "log")
        seqnum = await log.book("b").append(b"x")
        closing = asyncio.ensure_future(log.aclose())
        for _ in range(turns):
            await asyncio.sleep(0)
        closing.cancel()
        await asyncio.wait([closing])
        return seqnum

    seqnums = [asyncio.run(closed_after(turns)) for turns in range(1, 6)]
    assert asyncio.run(_all_of(tmp_path / "log")) == seqnums


async def _all_of(path: Path) -> list[int]:
    async with open_log(path) as log:
        return [record.seqnum async for record in log.book("b").scan()]


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
