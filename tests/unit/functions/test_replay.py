"""The fold-and-snapshot loop, on the reference log."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

import pytest

from bokilog.client.follow import Turn
from bokilog.codec import natural, pack, unpack
from bokilog.errors import DataLost, FormatTooNew, Trimmed
from bokilog.functions.replay import WORTH, Folded, Gap, Replay, Restored, Step
from bokilog.record import CaughtUp, Record
from tests.contract.reference_log import AsyncReferenceBook, AsyncReferenceLog

pytestmark = pytest.mark.asyncio


class Sum:
    """The sum of the numbers in the records, and how many there were."""

    def __init__(self) -> None:
        self.total = self.count = 0

    def apply(self, record: Record) -> int:
        self.total += int(record.data)
        self.count += 1
        return self.total

    def snapshot(self) -> bytes:
        return pack([self.total, self.count])

    def restore(self, snapshot: bytes | None) -> None:
        self.total, self.count = (0, 0) if snapshot is None else map(natural, unpack(snapshot))


def replay_of(book: AsyncReferenceBook, *, every: int = 3, trims: bool = True) -> Replay[int]:
    return Replay(book, Sum(), tag="n", snapshot_tag="snap", every_records=every, trims=trims)


def total(replay: Replay[int]) -> int:
    fold = replay._fold
    assert isinstance(fold, Sum)
    return fold.total


async def add(book: AsyncReferenceBook, *numbers: int) -> list[int]:
    return [await book.append(b"%d" % number, ["n", "also"]) for number in numbers]


async def caught_up(steps: AsyncGenerator[Step[int], None]) -> list[Step[int]]:
    """The steps up to the tail."""
    found: list[Step[int]] = []
    async with asyncio.timeout(5):
        async for step in steps:
            if isinstance(step, CaughtUp):
                break
            found.append(step)
    return found


def changes_of(steps: list[Step[int]]) -> list[int]:
    """What the fold made of each record."""
    folded = [each for each in steps if isinstance(each, Folded)]
    return [change for each in folded for change in each.changes]


async def snapshots(book: AsyncReferenceBook) -> int:
    return len([each async for each in book.scan(tag="snap")])


async def test_every_record_is_folded_once_and_in_order() -> None:
    book = AsyncReferenceLog().book("b")
    await add(book, 1, 2)
    await book.append(b"100", "other")
    async with aclosing(replay_of(book).steps()) as steps:
        found = await caught_up(steps)
        assert found[0] == Restored(0)
        assert changes_of(found) == [1, 3]
        await add(book, 4)
        assert changes_of(await caught_up(steps)) == [7]


async def test_records_that_come_together_are_one_step_with_a_change_each() -> None:
    log = AsyncReferenceLog()
    await add(log.book("b"), 1, 2, 4)

    class Paged(AsyncReferenceBook):
        async def follow_pages(self, **options: object):  # type: ignore[no-untyped-def]
            page = await self.read_range(tag="n")
            yield Turn(page.records, page.next_seqnum)

    replay = replay_of(Paged(log, "b", log.book("b")._session))
    async with aclosing(replay.steps()) as steps:
        _, folded = await caught_up(steps)
    assert isinstance(folded, Folded)
    assert [int(each.data) for each in folded.records] == [1, 2, 4]
    assert folded.changes == [1, 3, 7]
    assert await snapshots(log.book("b")) == 1, "three are worth one"


async def test_a_new_fold_begins_at_the_newest_snapshot() -> None:
    book = AsyncReferenceLog().book("b")
    await add(book, 1, 2, 3, 4)
    async with aclosing(replay_of(book).steps()) as steps:
        await caught_up(steps)
    assert await snapshots(book) == 1
    late = replay_of(book)
    async with aclosing(late.steps()) as steps:
        restored, *rest = await caught_up(steps)
        assert restored == Restored(4)
        assert changes_of(rest) == [10]


async def test_snapshots_take_a_quarter_of_the_bytes_of_the_records_they_stand_for() -> None:
    book = AsyncReferenceLog().book("b")

    class Large(Sum):
        def snapshot(self) -> bytes:
            return b"x" * 50

    replay = Replay(book, Large(), tag="n", snapshot_tag="snap", every_records=3)
    async with aclosing(replay.steps()) as steps:
        for number in range(1, 201):
            await add(book, number)
        await caught_up(steps)
    written = [len(each.data) async for each in book.scan(tag="snap")]
    records = [len(each.data) async for each in book.scan(tag="also")]
    assert replay.snapshots_count == len(written) > 1
    assert WORTH * sum(written[1:]) <= sum(records), "all but the first, whose size nobody knew"


async def test_of_two_that_write_a_snapshot_one_does_and_both_know() -> None:
    book = AsyncReferenceLog().book("b")
    first, second = replay_of(book, every=0), replay_of(book, every=0)
    async with aclosing(first.steps()) as one, aclosing(second.steps()) as two:
        await add(book, 1)
        await caught_up(one)
        await caught_up(two)
        assert [await first.snapshot(), await second.snapshot()] == [True, False]
        assert await second.snapshot() is False  # nothing new
        await add(book, 2)
        await caught_up(two)
        assert await second.snapshot() is True
        assert (first.refused_count, second.refused_count) == (0, 1)


async def test_what_only_older_folds_need_is_let_go_and_one_snapshot_more_is_kept() -> None:
    book = AsyncReferenceLog().book("b")
    replay = replay_of(book, every=0)
    positions = []
    async with aclosing(replay.steps()) as steps:
        for number in range(1, 5):
            await add(book, number)
            await caught_up(steps)
            assert await replay.snapshot()
            positions.append(replay.position)
    assert await snapshots(book) == 2
    assert replay.kept_from == positions[-2]
    first = await book.read_next(tag="n")
    assert first is not None
    assert first.data == b"4"
    assert len([each async for each in book.scan(tag="also")]) == 4, "other tags keep their records"


async def test_a_snapshot_that_is_none_is_passed_over() -> None:
    book = AsyncReferenceLog().book("b")
    replay = replay_of(book, every=0)
    async with aclosing(replay.steps()) as steps:
        await add(book, 1, 2)
        await caught_up(steps)
        await replay.snapshot()
    await book.append(b"junk", "snap")
    await book.append(pack([1, 99, b"junk"]), "snap")
    await add(book, 3)
    late = replay_of(book)
    await late.to_tail()
    assert total(late) == 6


async def test_a_snapshot_of_a_later_version_is_refused_by_name() -> None:
    book = AsyncReferenceLog().book("b")
    await book.append(pack([2, 1, b""]), "snap")
    with pytest.raises(FormatTooNew, match="a snapshot has format 2"):
        await replay_of(book).to_tail()


async def test_who_is_behind_a_trim_goes_on_from_a_snapshot() -> None:
    book = AsyncReferenceLog().book("b")
    behind, ahead = replay_of(book, every=0), replay_of(book, every=0)
    await add(book, 1)
    async with aclosing(behind.steps()) as steps:
        await caught_up(steps)
    await add(book, 2, 3)
    async with aclosing(ahead.steps()) as steps:
        await caught_up(steps)
        await ahead.snapshot()
    await book.trim(ahead.position, "n")
    await add(book, 4)
    assert await gone_on(behind) == Restored(ahead.position)
    assert total(behind) == 10


async def test_without_a_snapshot_it_says_what_is_gone_and_keeps_what_it_has() -> None:
    book = AsyncReferenceLog().book("b")
    replay = replay_of(book, every=0)
    await add(book, 1)
    async with aclosing(replay.steps()) as steps:
        await caught_up(steps)
    (*_, last) = await add(book, 2, 3, 4)
    await book.trim(last, "n")
    gap = await gone_on(replay)
    assert isinstance(gap, Gap)
    assert f"the first kept seqnum is {last}" in str(gap.error)
    assert total(replay) == 5


async def gone_on(replay: Replay[int]) -> Step[int]:
    """How `steps` goes on where a follow cannot; then the rest up to the tail."""
    with pytest.raises(Trimmed) as caught:
        await anext(replay._follow())
    step = await replay._behind_a_trim(caught.value)
    async with aclosing(replay._follow()) as steps:
        async for each in steps:
            if isinstance(each, CaughtUp):
                break
    return step


async def test_a_record_that_is_lost_is_left_out_and_said() -> None:
    log = AsyncReferenceLog()
    book = log.book("b")
    seqnums = await add(book, 1, 2, 3)

    class Damaged(AsyncReferenceBook):
        def follow(self, **options: object):  # type: ignore[no-untyped-def]
            return self._followed(options)

        async def _followed(self, options: dict[str, object]) -> AsyncGenerator[object, None]:
            follow = AsyncReferenceBook.follow(self, **options)  # type: ignore[call-overload]
            async with aclosing(follow) as records:
                async for record in records:
                    if isinstance(record, Record) and record.seqnum == seqnums[1]:
                        raise DataLost(record.seqnum)
                    yield record

    replay = replay_of(Damaged(log, "b", book._session))
    async with aclosing(replay.steps()) as steps:
        found = await caught_up(steps)
    assert [type(each) for each in found] == [Restored, Folded, Gap, Folded]
    assert total(replay) == 4


async def test_to_tail_writes_nothing() -> None:
    book = AsyncReferenceLog().book("b")
    await add(book, *range(1, 11))
    replay = replay_of(book, every=1)
    await replay.to_tail()
    assert total(replay) == 55
    assert await snapshots(book) == 0


async def test_what_the_fold_raises_comes_out() -> None:
    book = AsyncReferenceLog().book("b")
    await book.append(b"no number", "n")
    with pytest.raises(ValueError, match="no number"):
        async with aclosing(replay_of(book).steps()) as steps:
            await caught_up(steps)
