"""LogBooks: creating, conflicts, races, deleting, listing; through a fake engine."""

from __future__ import annotations

import asyncio
import os

import pytest

from bokilog.client.admin import ClientLog
from bokilog.client.session import Session
from bokilog.errors import (
    BokilogError,
    Closed,
    InvalidName,
    InvalidRange,
    InvalidToken,
    LogBookConflict,
    NodeUnreachable,
    UnknownLogBook,
    WrongLoop,
)
from bokilog.messages import AppendFrame, Message, Read
from tests.unit.client.fake_engine import FakeEngine
from tests.unit.client.opened import existing, opened, until

pytestmark = pytest.mark.asyncio


async def test_creating_again_alike_changes_nothing_and_otherwise_is_a_conflict() -> None:
    async with opened() as (engine, log):
        first = await log.create_book("a", durability="flush")
        assert await log.create_book("a", durability="flush") == first
        assert len(engine.frames()) == 1
        with pytest.raises(LogBookConflict, match="durability=flush, not sync"):
            await log.create_book("a")
        await log.book("a").append(b"x")
        assert [len(engine.frames(space)) for space in (0, 1, 2)] == [1, 1, 0]


async def test_of_two_who_create_at_once_one_wins_and_both_use_it() -> None:
    engine = FakeEngine()
    async with opened(engine) as (_, log):
        infos = await asyncio.gather(*(log.create_book("a") for _ in range(5)))
        assert len(set(infos)) == 1
        outcomes = await asyncio.gather(
            log.create_book("b", durability="memory"),
            log.book("b").append(b"x"),
            return_exceptions=True,
        )
        assert sum(isinstance(each, LogBookConflict) for each in outcomes) <= 1
        assert len([info for info in await log.books() if info.book == "b"]) == 1


async def test_a_lost_answer_to_a_creation_is_settled_by_reading_again() -> None:
    engine = FakeEngine()
    async with opened(engine) as (_, log):
        engine.answering = False
        task = asyncio.create_task(log.book("a").append(b"x"))
        for _ in range(50):
            await asyncio.sleep(0)
            if engine.inbox and isinstance(engine.inbox[0], AppendFrame):
                break
            engine.answer()
        engine.handle(engine.inbox.popleft())  # created, but nobody is told
        engine.disconnect()
        engine.answering = True
        engine.connect()
        assert await task > 0
        assert len(await log.books()) == 1


async def test_a_log_book_that_cannot_be_created_says_why_to_all_who_wait() -> None:
    engine = FakeEngine()
    async with opened(engine, timeout_s=0.05) as (_, log):
        engine.silent = lambda message: isinstance(message, Read)
        results = await asyncio.gather(
            *(log.book("a").append(b"x") for _ in range(3)), return_exceptions=True
        )
        assert all(isinstance(r, BokilogError) and r.definite for r in results)
        engine.disconnect("it burnt down")
        with pytest.raises(NodeUnreachable, match="burnt"):
            await log.book("a").append(b"x", timeout_s=0.02)


async def test_names_sessions_and_retention_are_checked() -> None:
    async with opened() as (_, log):
        for name in ("", "$system", "x" * 129):
            with pytest.raises(InvalidName):
                log.book(name)
        with pytest.raises(InvalidRange, match="retention_s=0"):
            await log.create_book("a", retention_s=0)
        with pytest.raises(InvalidRange, match="retention_bytes=0"):
            await log.create_book("a", retention_bytes=0)
        with pytest.raises(InvalidToken):
            log.book("a", session=object())  # type: ignore[call-overload]
        assert isinstance(log.session(), Session)


async def test_libraries_may_write_their_own_tags() -> None:
    async with opened() as (_, log):
        book = log.book("a", system_tags=True)
        for _ in range(2):
            await book.append(b"x", "$mine")
        assert len([r async for r in book.scan(tag="$mine")]) == 2


async def test_deleting_and_creating_again_is_another_log_book() -> None:
    async with opened() as (_, log):
        book = log.book("a")
        await book.append(b"old")
        old = await book.info()
        await log.delete_book("a")
        assert await book.read_next() is None
        assert await log.books() == []
        with pytest.raises(UnknownLogBook):
            await log.delete_book("a")
        with pytest.raises(UnknownLogBook):
            await book.trim(1)
        await book.append(b"new")
        assert [r.data async for r in book.scan()] == [b"new"]
        new = await book.info()
        assert new.number > old.number
        assert await log.books() == [new]


async def test_a_lost_answer_to_a_deletion_is_settled_by_reading_again() -> None:
    engine = FakeEngine()
    async with existing(engine) as (_, book):
        log = ClientLog(book._client)

        def cut(message: Message) -> bool:
            if isinstance(message, AppendFrame):
                engine.handle(message)
                asyncio.get_running_loop().call_soon(engine.disconnect)
                asyncio.get_running_loop().call_soon(engine.connect)
                engine.silent = lambda message: False
                return True
            return False

        engine.silent = cut
        await log.delete_book("orders")
        assert await log.books() == []


async def test_many_log_books_are_listed_by_name() -> None:
    async with opened() as (_, log):
        for name in ("c", "a", "b"):
            await log.create_book(name)
        await log.delete_book("b")
        assert [info.book for info in await log.books()] == ["a", "c"]


async def test_after_the_end_every_call_is_refused() -> None:
    async with opened() as (_, log):
        book = log.book("a")
        seqnum = await book.append(b"x")
        await book.read(seqnum)
        await log.aclose()
        await log.aclose()
        for call in (
            *(book.append(b"x"), book.read(seqnum), book.tail(), book.trim(1), book.read_next()),
            *(log.books(), log.create_book("b"), log.delete_book("a")),
        ):
            with pytest.raises(Closed):
                await call
        for generator in (book.scan(), book.follow()):
            with pytest.raises(Closed):
                await anext(generator)


async def test_a_call_of_several_steps_ends_with_the_log_between_two_of_them() -> None:
    async with opened() as (engine, log):
        await log.create_book("a")
        engine.answering = False
        creating = asyncio.create_task(log.create_book("b", retention_s=60.0))
        deleting = asyncio.create_task(log.delete_book("a"))
        await until(lambda: len(engine.inbox) == 2)
        engine.answer()
        await log.aclose()  # before either has seen the answer to its first step
        async with asyncio.timeout(5):
            for call in (creating, deleting):
                with pytest.raises(Closed):
                    await call


async def test_what_a_call_learns_after_the_end_opens_no_short_way() -> None:
    async with opened() as (engine, log):
        await log.create_book("a")
        await log.book("a").append(b"x")
        log.client.core.forget_routes()
        book = log.book("a")
        engine.answering = False
        reading = asyncio.create_task(book.read_next())
        await until(lambda: engine.inbox)
        log.client.refuse(lambda: Closed("the log"))  # as at the begin of `aclose`, which lingers
        engine.answering = True
        engine.answer()
        found = await reading
        assert found is not None
        with pytest.raises(Closed):
            await book.append(b"y")
        with pytest.raises(Closed):
            await book.read(found.seqnum)


async def test_another_loop_and_the_child_of_a_fork_are_refused() -> None:
    async with opened() as (_, log):
        book = log.book("a")
        await book.append(b"1")
        seqnum = await book.append(b"2")
        await book.read(seqnum)

        def elsewhere() -> list[type]:
            async def use() -> list[type]:
                reads = (book.read(seqnum), book.tail(), log.books())
                calls = (log.aclose(), book.append(b"x"), *reads)
                outcomes = await asyncio.gather(*calls, return_exceptions=True)
                return [type(outcome) for outcome in outcomes]

            return asyncio.run(use())

        assert await asyncio.to_thread(elsewhere) == [WrongLoop] * 5
        assert await book.append(b"3") > seqnum  # it was not closed either
        log.client.forked()
        for call in (book.append(b"x"), book.read(seqnum), book.tail()):
            with pytest.raises(WrongLoop, match="before a fork"):
                await call


@pytest.mark.slow
async def test_a_fork_is_noticed_by_itself() -> None:
    async with opened() as (_, log):
        await log.book("a").append(b"1")
        ours, theirs = os.pipe()
        child = os.fork()
        if child == 0:  # nothing of the loop is touched here
            refused = log.client._refusal is not None
            os.write(theirs, b"refused" if refused else b"missed")
            os._exit(0)
        await asyncio.to_thread(os.waitpid, child, 0)
        assert os.read(ours, 20) == b"refused"
        os.close(ours)
        os.close(theirs)
        assert await log.book("a").append(b"2") > 0
