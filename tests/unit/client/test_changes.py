"""Trims, holds and aux data: what is proposed, and what is forgotten here afterwards."""

from __future__ import annotations

import pytest

from bokilog.client import changes
from bokilog.client.living import Asker
from bokilog.errors import RemoteProtocolError, Trimmed, UnknownLogBook
from bokilog.limits import SEQNUM_MAX
from bokilog.messages import Answer, Message, Propose, SetAux
from bokilog.metalog import Hold, Release, Trim as TrimEntry
from tests.unit.client.fake_engine import FakeEngine
from tests.unit.client.opened import existing, opened

pytestmark = pytest.mark.asyncio


def proposed(engine: FakeEngine) -> list[object]:
    return [message.entry for message in engine.received if isinstance(message, Propose)]


def number(asker: Asker) -> int:
    assert asker.route is not None
    return asker.route.number


async def test_each_call_is_one_entry_for_the_log_book() -> None:
    async with existing() as (engine, book):
        asker = book._asker()
        seqnum = await book.append(b"x", "t")
        await changes.hold(asker, "report", seqnum, 0.0015, timeout_s=None)
        await changes.release(asker, "report", timeout_s=None)
        await changes.trim(asker, seqnum, "t", timeout_s=None)
        hold, release, trim = proposed(engine)
        assert isinstance(hold, Hold) and isinstance(release, Release)
        assert (hold.book, hold.name, hold.seqnum) == (number(asker), "report", seqnum)
        assert hold.ttl_ms == 2, "no less than what was asked for"
        assert (release.book, release.name) == (number(asker), "report")
        assert isinstance(trim, TrimEntry)
        assert (trim.book, trim.tag, trim.until) == (number(asker), "t", seqnum)


async def test_a_trim_of_everything_asks_for_what_a_seqnum_can_be_and_is_told_where_it_ends() -> (
    None
):
    async with existing() as (engine, book):
        tail = await book.tail()
        done = await changes.trim(book._asker(), 1 << 80, None, timeout_s=None)
        (trim,) = proposed(engine)
        assert isinstance(trim, TrimEntry) and trim.until == SEQNUM_MAX
        assert done == (tail, None)


async def test_after_a_trim_nothing_below_it_is_answered_from_memory() -> None:
    async with existing() as (_, book):
        asker = book._asker()
        seqnums = [await book.append(b"%d" % index, "t") for index in range(3)]
        for seqnum in seqnums:
            await book.read(seqnum)
        book_number, cache = number(asker), asker.client.core.cache

        def kept() -> list[bool]:
            return [cache.record(book_number, seqnum, 0) is not None for seqnum in seqnums]

        await changes.trim(asker, seqnums[1], None, timeout_s=None)
        assert kept() == [False, True, True]
        assert asker.session.trim_until(book_number) == seqnums[1]
        await changes.trim(asker, seqnums[2], "t", timeout_s=None)
        assert kept() == [False, False, True]
        assert asker.session.trim_until(book_number) == seqnums[1], "a tag's trim is not its"


async def test_aux_data_is_read_again_once_it_was_set() -> None:
    async with existing() as (engine, book):
        seqnum = await book.append(b"x")
        await book.read(seqnum)
        asker = book._asker()
        await changes.set_aux(asker, seqnum, b"view", timeout_s=None)
        (message,) = [each for each in engine.received if isinstance(each, SetAux)]
        assert (message.book, message.seqnum, message.aux) == (number(asker), seqnum, b"view")
        assert asker.client.core.cache.record(number(asker), seqnum, 0) is None


@pytest.mark.parametrize("values", [[], [3], ["3", None], [3, None, None]], ids=repr)
async def test_an_answer_to_a_trim_that_is_none_is_the_engines_fault(values: list[object]) -> None:
    class Odd(FakeEngine):
        def handle(self, message: Message) -> list[Message]:
            if isinstance(message, Propose):
                return [Answer(message.request, self.spaces[0].position, values)]
            return super().handle(message)

    async with existing(Odd()) as (_, book):
        with pytest.raises(RemoteProtocolError, match="a trim was answered"):
            await changes.trim(book._asker(), 1, None, timeout_s=None)


async def test_nothing_is_changed_of_a_log_book_that_does_not_exist_nor_is_it_created() -> None:
    async with opened() as (engine, log):
        asker = log.book("nothing")._asker()
        for call in (
            changes.trim(asker, 1, None, timeout_s=None),
            changes.hold(asker, "h", 1, 1.0, timeout_s=None),
            changes.release(asker, "h", timeout_s=None),
            changes.set_aux(asker, 1, b"", timeout_s=None),
        ):
            with pytest.raises(UnknownLogBook):
                await call
        assert proposed(engine) == []
        assert await log.books() == []


async def test_a_hold_behind_a_trim_of_a_living_log_book_is_refused() -> None:
    async with existing() as (_, book):
        seqnum = await book.append(b"x")
        await changes.trim(book._asker(), seqnum, None, timeout_s=None)
        with pytest.raises(Trimmed):
            await changes.hold(book._asker(), "late", seqnum - 1, 1.0, timeout_s=None)


async def test_a_trim_that_a_deleted_log_book_answers_goes_to_the_next_of_its_name() -> None:
    engine = FakeEngine()
    async with existing(engine) as (_, book):
        await book.append(b"x")
        asker = book._asker()
        async with opened(engine) as (_, other):
            await other.delete_book("orders")
            seqnum = await other.book("orders").append(b"new")
        engine.attach(book._client)
        assert await changes.trim(asker, seqnum, None, timeout_s=None) == (seqnum, None)
        assert asker.route is not None and not asker.route.live
