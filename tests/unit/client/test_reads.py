"""Reads over a fake engine: what is asked, what is answered from before, waits, sessions."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

import pytest

from bokilog.client import reads as asked
from bokilog.client.requests import WAIT_MS_MAX
from bokilog.client.spans import first_of, page_of
from bokilog.errors import (
    HistoryChanged,
    InvalidToken,
    NotReady,
    ReadTimeout,
    RemoteProtocolError,
    Trimmed,
    UnknownLogBook,
    to_wire,
)
from bokilog.messages import (
    Answer,
    AppendFrame,
    Message,
    Propose,
    Read,
    ReadReply,
    RequestFailed,
    SeqnumAt,
)
from bokilog.metalog import DeleteBook
from bokilog.record import CaughtUp, Record
from tests.unit.client.fake_engine import FakeEngine
from tests.unit.client.opened import existing, opened, until

pytestmark = pytest.mark.asyncio


def reads(engine: FakeEngine) -> list[Read]:
    return [message for message in engine.received if isinstance(message, Read)]


async def test_a_record_read_once_is_answered_again_without_a_message() -> None:
    async with existing() as (engine, book):
        seqnum = await book.append(b"x", "t")
        await book.append(b"y", "t")
        first = await book.read_next(tag="t", min_seqnum=seqnum)
        asked = len(engine.received)
        assert await book.read_next(tag="t", min_seqnum=seqnum) == first
        assert await book.read(seqnum) == first
        assert await book.read(seqnum, wait_s=1) == first
        assert await book.read_bytes(seqnum) == b"x"
        assert len(engine.received) == asked


async def test_none_newest_and_linearizable_reads_always_ask() -> None:
    """P27: only a record inside a closed fact may be answered at any known position."""
    async with existing() as (engine, book):
        seqnum = await book.append(b"x", "t")
        for _ in range(2):
            engine.received.clear()
            assert await book.read_next(tag="none") is None
            assert await book.read(seqnum + 1) is None
            assert (await book.read_prev(tag="t")).seqnum == seqnum  # type: ignore[union-attr]
            assert await book.read_next(tag="t", min_seqnum=seqnum + 1) is None
            assert await book.read(seqnum, consistency="linearizable") is not None
            assert len(reads(engine)) == 5
        assert reads(engine)[-1].linearizable


async def test_a_known_record_costs_no_message() -> None:
    async with existing() as (engine, book):
        seqnum = await book.append(b"x", "t")
        await book.read_next(tag="t")
        asked = len(reads(engine))
        for _ in range(300):
            assert await book.read_next(tag="t", min_seqnum=seqnum) is not None
        assert len(reads(engine)) == asked


async def test_what_was_trimmed_by_this_session_is_not_answered_from_before() -> None:
    async with existing() as (_, book):
        seqnums = [await book.append(b"%d" % i, "t") for i in range(4)]
        for seqnum in seqnums:
            await book.read(seqnum)
        await book.read_next(tag="t")
        await book.trim(seqnums[2])
        with pytest.raises(Trimmed):
            await book.read(seqnums[1])
        with pytest.raises(Trimmed):
            await book.read_next(tag="t", min_seqnum=seqnums[1])
        assert (await book.read_next(tag="t")).seqnum == seqnums[2]  # type: ignore[union-attr]
        await book.trim(seqnums[3], "t")
        assert await book.read(seqnums[2]) is None
        assert (await book.read_next(tag="t")).seqnum == seqnums[3]  # type: ignore[union-attr]


async def test_a_token_that_has_seen_a_trim_is_not_answered_below_it() -> None:
    """P27: a session carries each `trim_until` it has seen; no level answers below it."""
    engine = FakeEngine()
    async with existing(engine) as (_, book):
        seqnum = await book.append(b"x")
        await book.read(seqnum)
        async with opened(engine) as (_, other):
            trimmer = other.book("orders")
            await trimmer.trim(seqnum + 1)
            token = other.session(other.client.default_session.token).token
            book._session.merge(token)
        engine.attach(book._client)
        with pytest.raises(Trimmed):
            await book.read(seqnum)


async def test_aux_that_was_set_here_is_seen_here() -> None:
    async with existing() as (_, book):
        seqnum = await book.append(b"x")
        assert (await book.read(seqnum)).aux is None  # type: ignore[union-attr]
        await book.set_aux(seqnum, bytearray(b"view"))
        assert (await book.read(seqnum)).aux == b"view"  # type: ignore[union-attr]


async def test_a_wait_is_woken_by_an_append_and_ends_without_one() -> None:
    async with existing() as (_, book):
        tail = await book.tail()
        waiting = asyncio.create_task(book.read_next(tag="t", wait_s=5))
        at = asyncio.create_task(book.read(tail, wait_s=5))
        await asyncio.sleep(0.01)
        seqnum = await book.append(b"x", "t")
        for found in (await waiting, await at):
            assert found is not None and found.seqnum == seqnum
        assert await book.read_next(tag="none", wait_s=0.02) is None


async def test_the_budget_of_a_wait_survives_a_reconnect() -> None:
    engine = FakeEngine()
    async with existing(engine) as (_, book):
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        waiting = asyncio.create_task(book.read_next(tag="t", wait_s=60))
        await until(lambda: reads(engine))
        engine.disconnect()
        await asyncio.sleep(0.02)
        engine.connect()
        first, second = reads(engine)
        assert first.request == second.request
        passed_ms = (loop.time() - began_s) * 1_000
        assert 60_000 - passed_ms <= second.wait_ms <= first.wait_ms - 18 <= 60_000
        await book.append(b"x", "t")
        assert (await waiting) is not None
        assert await book.read_next(tag="t", wait_s=float("inf")) is not None
        forever = asyncio.create_task(book.read_next(tag="u", wait_s=float("inf")))
        await asyncio.sleep(0.01)
        assert reads(engine)[-1].wait_ms == WAIT_MS_MAX
        forever.cancel()


async def test_a_wait_goes_on_although_an_engine_has_ended_it_early() -> None:
    class Impatient(FakeEngine):
        waits = 2

        def handle(self, message: Message) -> list[Message]:
            if isinstance(message, Read) and message.wait_ms and self.waits:
                self.waits -= 1
                message = message._replace(wait_ms=0)
            return super().handle(message)

    engine = Impatient()
    async with existing(engine) as (_, book):
        waiting = asyncio.create_task(book.read_next(tag="t", wait_s=60))
        await until(lambda: len(reads(engine)) == 3)
        await book.append(b"x", "t")
        found = await waiting
        assert found is not None and found.data == b"x"


async def test_a_wait_for_a_seqnum_ends_when_the_tail_has_passed_it() -> None:
    """Nothing can come there any more."""
    async with existing() as (engine, book):
        seqnum = await book.append(b"x", "t")
        span = page_of("u", 1, seqnum, limit=1, max_bytes=1, reverse=False)
        reply, records = await asked.read_page(book._asker(), span, wait_s=60)
        assert reply is not None and reply.tail > seqnum and records == []
        assert len(reads(engine)) == 1


async def test_a_page_is_known_to_cache_and_session_when_its_caller_has_it() -> None:
    engine = FakeEngine()
    async with existing(engine) as (_, book):
        first, second = [await book.append(b"%d" % index) for index in range(2)]
        async with opened(engine) as (_, other):
            await other.book("orders").trim(first)
        engine.attach(book._client)
        client, _, session, route, _ = book._asker()
        assert route is not None and session.trim_until(route.number) == 0
        _, records = await asked.read_page(book._asker(), first_of(None, second))
        assert session.trim_until(route.number) == first
        assert records == [client.core.cache.record(route.number, second, 0)]


@pytest.mark.parametrize("values", [[], ["3"], [3, 4]], ids=repr)
async def test_an_answer_about_times_that_is_none_is_the_engines_fault(
    values: list[object],
) -> None:
    class Odd(FakeEngine):
        def handle(self, message: Message) -> list[Message]:
            if isinstance(message, SeqnumAt):
                return [Answer(message.request, self.spaces[0].position, values)]
            return super().handle(message)

    async with existing(Odd()) as (_, book):
        with pytest.raises(RemoteProtocolError, match="seqnum_at was answered"):
            await book.seqnum_at(0)


async def test_reads_wait_for_a_log_book_to_be_created_and_written() -> None:
    engine = FakeEngine()
    async with opened(engine) as (_, log):
        waiting = asyncio.create_task(log.book("late").read_next(tag="t", wait_s=5))
        await asyncio.sleep(0.01)
        asked = len(engine.received)
        await asyncio.sleep(0.03)
        assert len(engine.received) == asked  # it waits, it does not poll
        await log.book("late").append(b"other")
        seqnum = await log.book("late").append(b"x", "t")
        found = await waiting
        assert found is not None and found.seqnum == seqnum


async def test_a_name_without_a_log_book_reads_as_an_empty_one() -> None:
    """P5."""
    async with opened() as (_, log):
        book = log.book("nothing")
        assert await book.read_next() is None
        assert await book.read_prev() is None
        assert await book.read(5) is None
        assert await book.read_bytes(5) is None
        assert await book.read_range() == ([], 0, False)
        assert [r async for r in book.scan()] == []
        assert await book.tail() == 1
        assert await book.seqnum_at(0) == 1
        assert await book.read_next(wait_s=0.01) is None
        for call in (book.trim(1), book.info(), book.set_aux(1, b""), book.release("h")):
            with pytest.raises(UnknownLogBook):
                await call


async def test_an_unanswered_read_times_out_and_its_late_answer_is_dropped() -> None:
    engine = FakeEngine()
    async with existing(engine) as (_, book):
        engine.answering = False
        with pytest.raises(ReadTimeout, match=r"timeout_s=0.02"):
            await book.read_next(tag="t", timeout_s=0.02)
        engine.answer()
        assert book._client.stats().requests == 0


async def test_an_unavailable_engine_is_asked_again_until_the_deadline() -> None:
    class Starting(FakeEngine):
        failures = 2

        def handle(self, message: Message) -> list[Message]:
            if isinstance(message, Read) and message.tag == "t" and self.failures:
                self.failures -= 1
                error = to_wire(NotReady("starting"))
                return [RequestFailed(message.request, error, self.spaces[0].position)]
            return super().handle(message)

    engine = Starting()
    async with existing(engine) as (_, book):
        await book.append(b"x", "t")
        assert (await book.read_next(tag="t")) is not None
        engine.failures = 10_000
        with pytest.raises(NotReady):
            await book.read_next(tag="t", timeout_s=0.05, consistency="linearizable")


async def test_a_cancelled_read_leaves_nothing_behind() -> None:
    async with existing() as (_, book):
        task = asyncio.create_task(book.read_next(tag="t", wait_s=60))
        await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert book._client.stats().requests == 0


async def test_a_stale_route_is_found_out_when_the_log_book_was_deleted_elsewhere() -> None:
    engine = FakeEngine()
    async with existing(engine) as (_, book):
        old = (await book.info()).number
        async with opened(engine) as (_, other):
            await other.delete_book("orders")
            engine.attach(book._client)
            assert await book.read_next(consistency="linearizable") is None
            with pytest.raises(UnknownLogBook):
                await book.trim(1)
            engine.attach(other.client)
            await other.book("orders").append(b"new")
        engine.attach(book._client)
        assert [r.data async for r in book.scan(consistency="linearizable")] == [b"new"]
        assert (await book.info()).number != old


async def test_a_follow_goes_on_with_the_next_log_book_of_its_name() -> None:
    async with opened() as (_, log):
        book = log.book("orders")
        await book.append(b"1")
        async with aclosing(book.follow(caught_up=True)) as follow:
            assert (await anext(follow)).data == b"1"  # type: ignore[union-attr]
            assert isinstance(await anext(follow), CaughtUp)
            await log.delete_book("orders")
            await book.append(b"2")
            following = asyncio.create_task(_data(follow))
            assert await asyncio.wait_for(following, 5) == b"2"


async def _data(follow: object) -> bytes:
    async for each in follow:  # type: ignore[attr-defined]
        if isinstance(each, Record):
            return each.data
    raise AssertionError("a follow does not end")


async def test_a_range_of_bytes_costs_no_more_than_it_is() -> None:
    async with existing() as (engine, book):
        seqnum = await book.append(b"0123456789")
        assert await book.read_bytes(seqnum, 2, 5) == b"234"
        assert await book.read_bytes(seqnum, 8) == b"89"
        assert await book.read_bytes(seqnum, 20, 30) == b""
        first = reads(engine)[0]
        assert (first.bytes_start, first.bytes_until) == (2, 5)


async def test_sessions_carry_what_was_seen_to_another_client() -> None:
    engine = FakeEngine()
    async with existing(engine) as (_, book):
        await book.append(b"x")
        token = book._session.token
        async with opened(engine) as (_, other):
            session = other.session(token)
            engine.received.clear()
            await other.book("orders", session=session).read_next(tag="t")
            assert all(read.position == engine.spaces[0].position for read in reads(engine))
            with pytest.raises(InvalidToken):
                other.session("nonsense")


async def test_a_session_from_before_a_restore_is_refused() -> None:
    """P15: the history id changes, and an old token gets `HistoryChanged`."""
    engine = FakeEngine()
    async with existing(engine) as (_, book):
        log_session = book._client.core.session(None)
        old = log_session.token
        engine.disconnect()
        engine.history = "restored"
        engine.connect()
        for call in (book.read_next(), book.append(b"x"), book.info()):
            with pytest.raises(HistoryChanged):
                await call
        with pytest.raises(HistoryChanged):
            book._client.core.session(old)
        fresh = book._client.core.session(None)
        fresh.merge(fresh.token)


async def test_replies_that_hold_views_of_a_message_give_bytes() -> None:
    class Views(FakeEngine):
        def handle(self, message: Message) -> list[Message]:
            return [
                reply._replace(payload=[memoryview(b) for b in reply.payload])
                if isinstance(reply, ReadReply)
                else reply
                for reply in super().handle(message)
            ]

    async with existing(Views()) as (_, book):
        seqnum = await book.append(b"x")
        found = await book.read(seqnum)
        assert found is not None and type(found.data) is bytes


async def test_trims_holds_and_info() -> None:
    async with existing() as (engine, book):
        seqnums = [await book.append(b"x") for _ in range(5)]
        await book.hold("report", seqnums[1], 60)
        assert await book.trim(seqnums[3]) == (seqnums[1], "report")
        with pytest.raises(Trimmed):
            await book.hold("late", 1, 60)
        await book.release("report")
        assert await book.trim(seqnums[3]) == (seqnums[3], None)
        info = await book.info()
        assert (info.trim_until, info.tail) == (seqnums[3], engine.spaces[0].tail)
        engine.now_ms += 10
        late = await book.append(b"late")
        assert await book.seqnum_at(engine.now_ms) == late
        assert await book.seqnum_at(0) == seqnums[3]
        assert await book.seqnum_at(engine.now_ms + 1) == await book.tail()


async def delete_by_half(engine: FakeEngine) -> None:
    """As if whoever deleted the LogBook had died before its log space knew."""
    async with opened(engine) as (_, other):
        await other.delete_book("orders")
        engine.spaces[0].deleted.clear()
    engine.received.clear()


async def test_a_deletion_whose_entry_is_missing_is_proposed_again_by_who_reads_it() -> None:
    """P5: whoever misses the `DeleteBook` entry appends it again."""
    engine = FakeEngine()
    async with existing(engine) as (_, book):
        number = (await book.info()).number
        await delete_by_half(engine)
        async with opened(engine) as (_, third):
            assert await third.book("orders").read_next() is None
            await asyncio.sleep(0.01)
        entries = [message.entry for message in engine.received if isinstance(message, Propose)]
        assert [type(entry) for entry in entries] == [DeleteBook]
        assert number in engine.spaces[0].deleted


async def test_p5_a_name_is_used_again_only_once_its_deletion_is_told() -> None:
    """1. Who deletes a LogBook dies before its log space knows. 2. Somebody appends to that name,
    and so makes the next one: from then on nobody meets the deletion any more. 3. Followers of the
    first one would wait for ever."""
    engine = FakeEngine()
    async with existing(engine) as (_, book):
        number = (await book.info()).number
        await delete_by_half(engine)
        async with opened(engine) as (_, third):
            await third.create_book("orders")
        told = [
            isinstance(message, Propose) and isinstance(message.entry, DeleteBook)
            for message in engine.received
        ]
        created = [isinstance(message, AppendFrame) for message in engine.received]
        assert told.index(True) < created.index(True)
        assert number in engine.spaces[0].deleted
