"""Appends over a fake engine: order, batching, refusals, lost connections, deadlines."""

from __future__ import annotations

import asyncio

import pytest

from bokilog.client import room
from bokilog.client.books import BOOKS_TAG, Deleted, encode_deleted, name_tag
from bokilog.client.logbook import ClientLogBook
from bokilog.errors import (
    AppendUnknown,
    Closed,
    ConditionFailed,
    InvalidTag,
    KeyReused,
    LocalProtocolError,
    NodeUnreachable,
    Overloaded,
    ReadOnly,
    RecordTooLarge,
)
from bokilog.limits import FRAME_BYTES_MAX
from bokilog.messages import AppendFrame, FrameOrdered, Leaving, Message, Read
from bokilog.record import Buffer, Entry, Unit
from tests.unit.client.fake_engine import FakeEngine
from tests.unit.client.opened import existing, opened, until

pytestmark = pytest.mark.asyncio

Task = asyncio.Task[int]


def issue(
    book: ClientLogBook[Buffer],
    *datas: bytes,
    key: str | None = None,
    timeout_s: float | None = None,
) -> list[Task]:
    """Appends that are all under way, in this order."""
    return [asyncio.create_task(book.append(d, key=key, timeout_s=timeout_s)) for d in datas]


async def turn(count: int = 3) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


def payloads(engine: FakeEngine) -> list[list[bytes]]:
    return [[bytes(data) for data in frame.payload] for frame in engine.frames()]


async def outcome(task: Task) -> object:
    try:
        return await task
    except Exception as error:
        return type(error)


async def test_the_appends_of_one_tick_are_one_frame_in_their_order() -> None:
    async with existing() as (engine, book):
        seqnums = await asyncio.gather(*(book.append(b"%d" % i, f"t{i}") for i in range(5)))
        (frame,) = engine.frames()
        assert frame.columns.tags == [f"t{i}" for i in range(5)]
        assert payloads(engine) == [[b"0", b"1", b"2", b"3", b"4"]]
        assert seqnums == list(range(seqnums[0], seqnums[0] + 5))


async def test_a_tick_larger_than_a_frame_is_several_frames_and_one_order() -> None:
    async with existing() as (engine, book):
        third = FRAME_BYTES_MAX // 3 + 1
        sizes = [third, third, third, FRAME_BYTES_MAX * 2, third, 10]
        seqnums = await asyncio.gather(*(book.append(bytes(size)) for size in sizes))
        assert [[len(data) for data in frame] for frame in payloads(engine)] == [
            [third, third],
            [third],
            [FRAME_BYTES_MAX * 2],
            [third, 10],
        ]
        assert seqnums == sorted(seqnums)


async def test_units_conditions_and_keys_keep_their_places_in_a_split_tick() -> None:
    async with existing() as (engine, book):
        half = bytes(FRAME_BYTES_MAX // 2)
        results = await asyncio.gather(
            book.append_batch([Entry(b"a", "x"), Entry(half, "y")]),
            book.append(b"b", "x", unless={"x": 0}),
            book.append_batch([Entry(half), Entry(b"c", ["p", "q"])], key="k"),
            book.append(b"d", "z", unless={"z": 0}),
            return_exceptions=True,
        )
        assert len(engine.frames()) == 2
        first, failed, second, last = results
        assert isinstance(first, range) and len(first) == 2
        assert isinstance(failed, ConditionFailed) and failed.winner == first[0]
        assert isinstance(second, range) and len(second) == 2
        assert last == second[-1] + 1
        assert (await book.read(second[1])).tags == ("p", "q")  # type: ignore[union-attr]


async def test_two_log_books_of_a_log_space_share_the_frame_of_a_tick() -> None:
    async with opened() as (engine, log):
        a, b = log.book("a"), log.book("b", session=log.session())
        await asyncio.gather(a.append(b"1"), b.append(b"1"))
        await asyncio.gather(a.append(b"2"), b.append(b"2"))
        engine.received.clear()
        await asyncio.gather(a.append(b"3"), b.append(b"4"), a.append_batch([Entry(b"5")] * 2))
        (frame,) = engine.frames()
        assert isinstance(frame.columns.books, list) and len(set(frame.columns.books)) == 2
        assert [r.data async for r in a.scan()] == [b"1", b"2", b"3", b"5", b"5"]
        assert [r.data async for r in b.scan()] == [b"1", b"2", b"4"]


async def test_appends_keep_their_order_while_their_log_book_is_being_created() -> None:
    async with opened() as (_, log):
        book = log.book("new")
        tasks = [asyncio.create_task(book.append(b"%d" % i)) for i in range(3)]
        while not tasks[0].done():
            tasks.append(asyncio.create_task(book.append(b"%d" % len(tasks))))
            await asyncio.sleep(0)
        seqnums = await asyncio.gather(*tasks)
        assert seqnums == sorted(seqnums)


async def test_the_session_has_seen_its_appends() -> None:
    async with existing() as (engine, book):
        await book.append(b"x")
        await book.read_next(tag="none")
        (read,) = [message for message in engine.received if isinstance(message, Read)]
        assert read.position == engine.spaces[0].position


async def test_a_refused_frame_comes_back_with_all_later_ones_in_order() -> None:
    """P4: after refusing one the engine refuses all later ones until it returns."""
    engine = FakeEngine()
    async with existing(engine) as (_, book):
        engine.answering = False
        first = issue(book, b"1", b"2")
        await turn()
        second = issue(book, b"3")
        await turn()
        engine.refusing = Overloaded(0.001)
        engine.answer()
        third = issue(book, b"4")
        await turn()
        assert payloads(engine) == [[b"1", b"2"], [b"3"]]  # nothing new before they return
        engine.refusing, engine.answering = None, True
        seqnums = await asyncio.gather(*first, *second, *third)
        assert seqnums == sorted(seqnums)
        assert payloads(engine)[2:] == [[b"1", b"2", b"3", b"4"]]
        numbers = [frame.number for frame in engine.frames()]
        assert numbers[2] == numbers[0]  # it returned


async def test_nothing_is_sent_again_before_every_later_frame_was_refused() -> None:
    """A late refusal of the first sending must not be taken for one of the second."""
    engine = FakeEngine()
    async with existing(engine) as (_, book):
        engine.answering = False
        tasks = issue(book, b"1")
        await turn()
        tasks += issue(book, b"2")
        await turn()
        engine.refusing = Overloaded(0.001)
        engine.answer(1)
        await asyncio.sleep(0.03)
        assert len(engine.frames()) == 2
        engine.answer()
        engine.refusing, engine.answering = None, True
        assert len(set(await asyncio.gather(*tasks))) == 2
        assert len(engine.spaces[0].books) == 2  # the system's and this one
        assert [r.data async for r in book.scan()] == [b"first", b"1", b"2"]


async def test_a_refusal_that_lasts_ends_as_the_definite_error_it_gave() -> None:
    engine = FakeEngine()
    async with existing(engine) as (_, book):
        engine.refusing = Overloaded(0.001)
        with pytest.raises(Overloaded):
            await book.append(b"x", timeout_s=0.03)
        engine.refusing = ReadOnly("the disk is full")
        with pytest.raises(ReadOnly, match="disk is full"):
            await book.append(b"x", timeout_s=0.03)
        engine.refusing = None
        assert await book.append(b"y") > 0
        assert [r.data async for r in book.scan()] == [b"first", b"y"]


async def test_a_frame_that_is_wrong_in_itself_fails_alone() -> None:
    """P4: one unit's final error refuses no frame."""
    engine = FakeEngine()
    async with existing(engine) as (_, book):
        engine.answering = False
        bad = issue(book, b"bad")
        await turn()
        engine.refusing = LocalProtocolError("not like this")
        engine.answer()
        engine.refusing, engine.answering = None, True
        assert await outcome(bad[0]) is LocalProtocolError
        assert await book.append(b"good") > 0


async def test_a_lost_connection_leaves_keyless_appends_unknown_and_sends_keyed_ones_again() -> (
    None
):
    """P23: a client never re-sends a keyless append whose outcome is unknown."""
    engine = FakeEngine()
    async with existing(engine) as (_, book):
        engine.answering = False
        plain, keyed = issue(book, b"plain"), issue(book, b"keyed", key="k")
        await turn()
        engine.handle(engine.inbox.popleft())  # ordered, but the answer is lost
        engine.disconnect()
        waiting = issue(book, b"waiting")
        await turn()
        assert [type(e).__name__ for e in await asyncio.gather(*plain, return_exceptions=True)] == [
            "AppendUnknown"
        ]
        engine.answering = True
        engine.connect()
        first, second = await asyncio.gather(*keyed, *waiting)
        assert first < second
        assert [r.data async for r in book.scan()] == [b"first", b"plain", b"keyed", b"waiting"]


async def test_why_a_logbook_could_not_be_created_is_told() -> None:
    async with opened() as (engine, log):
        engine.refusing = ReadOnly("the disk is full")
        task = asyncio.create_task(log.book("orders").append(b"first", timeout_s=60))
        core = log.client.core
        await until(lambda: core._lanes and core._lanes[0].refusal)
        core.tick(asyncio.get_running_loop().time() + 61)
        with pytest.raises(ReadOnly, match="the disk is full"):
            await task


async def test_what_was_not_sent_leaves_after_a_reconnect_in_the_order_of_issue() -> None:
    engine = FakeEngine()
    async with existing(engine) as (_, book):
        engine.disconnect()
        tasks = issue(book, b"1", b"2")
        await turn()
        tasks += issue(book, b"3")
        await turn()
        assert engine.frames() == []
        engine.connect()
        seqnums = await asyncio.gather(*tasks)
        assert seqnums == sorted(seqnums)
        assert payloads(engine) == [[b"1", b"2", b"3"]]


async def test_an_engine_that_is_about_to_stop_is_left_once_all_is_answered() -> None:
    """So that no outcome is unknown: what it has is answered, the rest goes to the next one."""
    engine = FakeEngine()
    async with existing(engine) as (_, book):
        engine.answering = False
        (sent,) = issue(book, b"sent")
        await turn()
        engine.tell(Leaving("it is about to stop"))
        (waiting,) = issue(book, b"waiting")
        await turn()
        assert payloads(engine) == [[b"sent"]]
        engine.answer()
        assert not engine.up
        first = await sent
        assert not waiting.done()
        engine.answering = True
        engine.connect()
        assert await waiting > first
        assert [r.data async for r in book.scan()] == [b"first", b"sent", b"waiting"]


async def test_an_engine_that_is_about_to_stop_is_left_at_once_when_nothing_is_under_way() -> None:
    engine = FakeEngine()
    async with existing(engine) as (_, book):
        engine.tell(Leaving("it is about to stop"))
        assert not engine.up
        tasks = issue(book, b"next")
        engine.connect()
        assert await tasks[0] > 0


async def test_without_an_engine_an_append_ends_definitely_in_time() -> None:
    engine = FakeEngine()
    async with existing(engine) as (_, book):
        engine.disconnect("it was unplugged")
        with pytest.raises(NodeUnreachable, match="unplugged"):
            await book.append(b"x", timeout_s=0.03)
        engine.connect()
        assert [r.data async for r in book.scan()] == [b"first"]


async def test_an_unanswered_append_is_unknown_in_time() -> None:
    engine = FakeEngine()
    async with existing(engine) as (_, book):
        engine.answering = False
        with pytest.raises(AppendUnknown):
            await book.append(b"x", timeout_s=0.02)
        with pytest.raises(AppendUnknown):
            await book.append_batch([Entry(b"x")], key="k", timeout_s=0.02)


async def test_the_default_timeout_counts_for_appends_that_name_none() -> None:
    engine = FakeEngine()
    async with existing(engine, timeout_s=0.05) as (_, book):
        engine.disconnect()
        tasks = issue(book, b"a", b"b")
        longer = issue(book, b"c", timeout_s=5.0)
        assert [await outcome(task) for task in tasks] == [NodeUnreachable, NodeUnreachable]
        engine.connect()
        assert await longer[0] > 0
        assert payloads(engine) == [[b"c"]]  # those that were given up are never sent


async def test_a_keyed_append_whose_retry_runs_out_of_time_is_unknown() -> None:
    engine = FakeEngine()
    async with existing(engine) as (_, book):
        engine.answering = False
        (keyed,) = issue(book, b"x", key="k", timeout_s=0.05)
        await turn()
        engine.disconnect()
        assert await outcome(keyed) is AppendUnknown  # the first attempt may have got through


async def test_a_lost_frame_is_unknown_unless_its_units_have_keys() -> None:
    engine = FakeEngine()
    async with existing(engine) as (_, book):
        engine.losing = engine.answering = True
        plain, keyed = issue(book, b"plain"), issue(book, b"keyed", key="k")
        assert await outcome(plain[0]) is AppendUnknown
        engine.losing = False
        assert await keyed[0] > 0


async def test_appends_beyond_what_may_be_in_flight_wait_in_order_for_room(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(room, "INFLIGHT_RECORDS_MAX", 20)
    engine = FakeEngine()
    async with existing(engine) as (_, book):
        engine.answering = False
        tasks = []
        for _ in range(5):
            tasks += issue(book, *[b"x"] * 7)
            await turn()
        assert sum(frame.columns.records for frame in engine.frames()) == 14
        with pytest.raises(Overloaded):
            await book.append(b"late", timeout_s=0.02)
        engine.answering = True
        engine.answer()
        seqnums = await asyncio.gather(*tasks)
        assert seqnums == sorted(seqnums)


async def test_a_cancelled_append_disturbs_nobody_and_may_still_be_ordered() -> None:
    async with existing() as (_, book):
        tasks = issue(book, b"1", b"2", b"3")
        await asyncio.sleep(0)
        tasks[1].cancel()
        first, third = await tasks[0], await tasks[2]
        assert third == first + 2


async def test_verdicts_before_or_after_the_order_give_the_same_outcomes() -> None:
    class Late(FakeEngine):
        def _append(self, frame: AppendFrame) -> list[Message]:
            replies = super()._append(frame)
            return sorted(replies, key=lambda reply: not isinstance(reply, FrameOrdered))

    for engine in (FakeEngine(), Late()):
        async with existing(engine) as (_, book):
            results = await asyncio.gather(
                book.append(b"a", "t"),
                book.append(b"b", "t", unless={"t": 0}),
                book.append(b"c", key="k"),
                book.append(b"c", key="k"),
                book.append(b"d", key="k"),
                return_exceptions=True,
            )
            a, b, c, again, reused = results
            assert isinstance(a, int) and isinstance(c, int)
            assert isinstance(b, ConditionFailed) and (b.tag, b.winner) == ("t", a)
            assert again == c
            assert isinstance(reused, KeyReused) and (reused.key, reused.seqnum) == ("k", c)


async def test_appends_that_meet_a_deletion_go_to_the_next_log_book_in_their_order() -> None:
    engine = FakeEngine()
    async with opened(engine) as (_, log):
        book = log.book("orders")
        await book.append(b"old")
        engine.answering = False
        tasks = issue(book, b"1", b"2")
        await turn()
        tasks += issue(book, b"3")
        await turn()
        number = engine.frames()[-1].columns.book_of(0)
        engine.spaces[0].deleted.add(number)
        engine.spaces[0].books[0].append(_deletion(number), seqnum=engine.spaces[0].tail)
        engine.spaces[0].tail += 1
        engine.answer(1)
        tasks += issue(book, b"4")
        await turn()
        engine.answering = True
        engine.answer()
        seqnums = await asyncio.gather(*tasks)
        assert seqnums == sorted(seqnums)
        assert [r.data async for r in book.scan()] == [b"1", b"2", b"3", b"4"]


async def test_p15_a_deletion_whose_record_was_given_up_is_recorded_again() -> None:
    """Its log space knows of it, the system LogBook does not: appends would go to that LogBook for
    ever, and be void (simulator, seed 50064 with losses)."""
    engine = FakeEngine()
    async with opened(engine) as (_, log):
        book = log.book("orders")
        old = (await book.info()).number if await book.append(b"old") else 0
        engine.spaces[0].deleted.add(old)
        await asyncio.wait_for(book.append(b"new"), 5)
        assert [r.data async for r in book.scan()] == [b"new"]
        assert (await book.info()).number > old
        assert [info.book for info in await log.books()] == ["orders"]


def _deletion(number: int) -> Unit:
    return Unit([encode_deleted(Deleted(number))], [(name_tag("orders"), BOOKS_TAG)], 0)


async def test_bad_arguments_are_refused_before_anything_is_sent() -> None:
    async with existing() as (engine, book):
        for tags in ("", "$mine", "x" * 257, ["a", 1], b"x"):
            with pytest.raises(InvalidTag):
                await book.append(b"x", tags)  # type: ignore[arg-type]
        with pytest.raises(RecordTooLarge):
            await book.append(bytes((64 << 20) + 1))
        await turn()
        assert engine.received == []


async def test_a_list_of_tags_is_looked_at_each_time() -> None:
    async with existing() as (_, book):
        tags = ["a"]
        first = await book.append(b"x", tags)
        tags.append("b")
        second = await book.append(b"x", tags)
        assert (await book.read(first)).tags == ("a",)  # type: ignore[union-attr]
        assert (await book.read(second)).tags == ("a", "b")  # type: ignore[union-attr]


async def test_closing_lets_appends_finish_and_refuses_new_ones() -> None:
    engine = FakeEngine()
    async with opened(engine) as (_, log):
        book = log.book("orders")
        await book.append(b"0")
        tasks = issue(book, b"1", b"2")
        await asyncio.sleep(0)
        await log.aclose()
        assert all(isinstance(result, int) for result in await asyncio.gather(*tasks))
        with pytest.raises(Closed):
            await book.append(b"3")
        assert engine.closed


async def test_what_follows_appends_told_together_leaves_at_the_end_of_that_turn() -> None:
    async with existing() as (engine, book):

        async def twice(data: bytes) -> None:
            await book.append(data)
            await book.append(data)

        engine.silent = lambda message: True
        tasks = [asyncio.create_task(twice(data)) for data in (b"a", b"b")]
        await turn()
        assert payloads(engine) == [[b"a", b"b"]]
        [frame] = engine.frames()
        position = engine.spaces[0].position
        engine.tell(FrameOrdered(0, frame.number, 100, position, 1))
        await turn(1)
        assert payloads(engine) == [[b"a", b"b"]] * 2
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
