"""Scans and follows over a fake engine: pages ahead, bounds, trims, catching up, speed."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

import pytest

from bokilog.client import follow as following
from bokilog.client.follow import POLL_S
from bokilog.errors import Closed, Trimmed, UnknownLogBook
from bokilog.messages import AppendFrame, Message, Read, ReadReply
from bokilog.record import CaughtUp, Record
from tests.unit.client.fake_engine import FakeEngine
from tests.unit.client.opened import existing, opened, until

pytestmark = pytest.mark.asyncio

PAGE_RECORDS = 20


@pytest.fixture(autouse=True)
def small_pages(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    if "costs" not in request.node.name:
        monkeypatch.setattr(following, "PAGE_RECORDS", PAGE_RECORDS)


def reads(engine: FakeEngine) -> list[Read]:
    return [message for message in engine.received if isinstance(message, Read)]


async def many(book: object, count: int) -> list[int]:
    appends = [book.append(b"%d" % i, "t") for i in range(count)]  # type: ignore[attr-defined]
    return list(await asyncio.gather(*appends))


async def test_a_scan_ends_at_the_tail_it_started_with() -> None:
    async with existing() as (_, book):
        seqnums = await many(book, PAGE_RECORDS + 10)
        found: list[int] = []
        async for record in book.scan(tag="t"):
            if not found:
                await many(book, 5)
            found.append(record.seqnum)
        assert found == seqnums


async def test_the_next_page_is_asked_for_while_one_is_consumed() -> None:
    async with existing() as (engine, book):
        await many(book, 3 * PAGE_RECORDS)
        engine.received.clear()
        async with aclosing(book.scan(tag="t")) as scan:
            await anext(scan)
            await asyncio.sleep(0.005)
            assert len(reads(engine)) == 2  # one ahead, not all of it
        assert book._client.stats().requests == 0


async def test_a_scan_in_reverse_takes_the_newest_first() -> None:
    async with existing() as (_, book):
        seqnums = await many(book, PAGE_RECORDS + 500)
        assert [r.seqnum async for r in book.scan(tag="t", reverse=True)] == seqnums[::-1]
        some = book.scan(tag="t", min_seqnum=seqnums[3], until=seqnums[7], reverse=True)
        assert [r.seqnum async for r in some] == seqnums[6:2:-1]


async def test_a_scan_behind_a_trim_says_so_and_one_from_the_start_does_not() -> None:
    async with existing() as (_, book):
        seqnums = await many(book, 10)
        await book.trim(seqnums[5])
        assert [r.seqnum async for r in book.scan()] == seqnums[5:]
        with pytest.raises(Trimmed):
            [r async for r in book.scan(min_seqnum=seqnums[1])]
        await book.trim(await book.tail())
        assert [r async for r in book.scan()] == []


async def test_a_scan_whose_log_book_is_deleted_under_it_does_not_end_as_if_all_were_read() -> None:
    async with opened() as (_, log):
        book = log.book("orders")
        await many(book, 3 * PAGE_RECORDS)
        async with aclosing(book.scan()) as scan:
            await anext(scan)
            await log.delete_book("orders")
            with pytest.raises(UnknownLogBook):
                async for _ in scan:
                    pass


async def test_a_follow_catches_up_says_so_and_goes_on() -> None:
    async with existing() as (_, book):
        seqnums = await many(book, 3)
        async with aclosing(book.follow(tag="t", caught_up=True)) as follow:
            found = [await anext(follow) for _ in range(4)]
            assert [r.seqnum for r in found[:3]] == seqnums
            assert found[3] == CaughtUp(await book.tail())
            late = await book.append(b"late", "t")
            following = [await anext(follow), await anext(follow)]
            assert isinstance(following[0], Record) and following[0].seqnum == late
            assert isinstance(following[1], CaughtUp)


async def test_a_follow_waits_by_one_long_poll_that_survives_a_reconnect() -> None:
    engine = FakeEngine()
    async with existing(engine) as (_, book):
        async with aclosing(book.follow(tag="t")) as follow:
            waiting = asyncio.create_task(anext(follow))
            await asyncio.sleep(0.02)
            assert [read.wait_ms for read in reads(engine)] == [0, int(POLL_S * 1_000)]
            engine.disconnect()
            engine.connect()
            seqnum = await book.append(b"x", "t")
            assert (await waiting).seqnum == seqnum
        assert book._client.stats().requests == 0


async def test_a_follow_of_nothing_yet_starts_with_the_first_record() -> None:
    async with opened() as (_, log):
        book = log.book("late")
        async with aclosing(book.follow(caught_up=True)) as follow:
            assert await anext(follow) == CaughtUp(1)
            waiting = asyncio.create_task(anext(follow))
            await asyncio.sleep(0.01)
            seqnum = await book.append(b"x")
            assert (await waiting).seqnum == seqnum


async def test_a_follow_overtaken_by_a_trim_says_so() -> None:
    async with existing() as (_, book):
        seqnums = await many(book, 2 * PAGE_RECORDS + 5)
        async with aclosing(book.follow(tag="t")) as follow:
            await anext(follow)
            await book.trim(seqnums[-1])
            with pytest.raises(Trimmed):
                async for _ in follow:
                    pass


async def test_a_follow_ends_with_the_log() -> None:
    async with opened() as (_, log):
        book = log.book("orders")
        await book.append(b"x")
        async with aclosing(book.follow()) as follow:
            await anext(follow)
            waiting = asyncio.create_task(anext(follow))
            await asyncio.sleep(0.01)
            await log.aclose()
            with pytest.raises(Closed):
                await waiting


async def test_a_follow_whose_page_came_just_before_the_end_ends_too() -> None:
    async with opened() as (engine, log):
        book = log.book("orders")
        await book.append(b"x")
        async with aclosing(book.follow()) as follow:
            await anext(follow)
            waiting = asyncio.create_task(anext(follow))
            await until(lambda: log.client.stats().requests)
            engine.answering = False
            appending = asyncio.create_task(book.append(b"y"))
            await until(lambda: any(isinstance(sent, AppendFrame) for sent in engine.inbox))
            engine.answer()
            await log.aclose()  # without a turn of the loop in between
            assert (await waiting).seqnum == await appending
            async with asyncio.timeout(5):
                with pytest.raises(Closed):
                    await anext(follow)


class Endless(FakeEngine):
    """Answers every read of a tag with a full page at once."""

    def handle(self, message: Message) -> list[Message]:
        if not isinstance(message, Read) or message.tag != "endless":
            return super().handle(message)
        start, count = max(message.start, 1), message.limit
        return [
            ReadReply(
                message.request,
                self.spaces[0].position,
                start + 10 * count,
                0,
                start + count,
                True,
                list(range(start, start + count)),
                ["endless"] * count,
                [1] * count,
                None,
                [b"x" * 1024] * count,
            )
        ]


async def test_following_takes_one_message_per_full_page() -> None:
    engine = Endless()
    async with existing(engine) as (_, book), aclosing(book.follow(tag="endless")) as follow:
        count = 0
        async for _ in follow:
            count += 1
            if count == 20_000:
                break
        asked = [each for each in reads(engine) if each.tag == "endless"]
        pages = count // asked[0].limit
        assert pages <= len(asked) <= pages + 2, "one page is asked for ahead, no more"
