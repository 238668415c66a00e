"""Durable calls for those who make them, wait for them and look for them: over a log in memory.

No host runs here: a test appends the steps that hosts would.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import pytest

import bokilog
from bokilog.call_errors import CallCancelled, CallTimeout, UnknownCall
from bokilog.client.admin import ClientLog
from bokilog.codec import pack
from bokilog.errors import (
    AppendUnknown,
    ConditionFailed,
    InvalidRange,
    KeyReused,
    NotSupported,
    Overloaded,
    to_wire,
)
from bokilog.functions.books import app_book, ensure_app_book
from bokilog.functions.calls.call import Call, decode_plain
from bokilog.functions.calls.finding import find_call, list_calls
from bokilog.functions.calls.records import (
    INLINE_BYTES_MAX,
    CallRecord,
    Claimed,
    DeadLettered,
    Finished,
    ItemYielded,
    Spawned,
    decode,
    encode,
    tags_of,
)
from bokilog.functions.calls.spawning import redrive, spawn
from bokilog.functions.runtime.messages import Encoding

pytestmark = pytest.mark.asyncio

APP = "shop"
WHY = to_wire(Overloaded(0.5, "the call"))


class Calls:
    """The calls of an app, and the steps that hosts would append."""

    def __init__(self, log: ClientLog) -> None:
        self.log = log
        self.book = log.book(app_book(APP))

    async def spawn(
        self, payload: bytes = b"", *, key: str | None = None, stream: bool = False
    ) -> Call:
        return await spawn(self.log, APP, "f", payload, Encoding.MSGPACK, key=key, stream=stream)

    async def step(self, step: CallRecord, *, stream: bool = False) -> int:
        return await self.book.append(encode(step), tags_of(step, stream=stream))

    async def finish(self, call: Call, value: object, *, stream: bool = False) -> int:
        return await self.step(finished(call.id, value), stream=stream)

    async def give_up(self, call: Call) -> int:
        return await self.step(DeadLettered(call.id, "a/1", 1, "no", 0, "", WHY, b""))

    async def steps(self) -> list[CallRecord | None]:
        return [decode(record.data) async for record in self.book.scan()]


@asynccontextmanager
async def opened() -> AsyncGenerator[Calls, None]:
    async with bokilog.open() as log:
        assert isinstance(log, ClientLog)
        await ensure_app_book(log, APP)
        yield Calls(log)


# --- how a call begins ----------------------------------------------------------------------------


async def test_a_call_is_accepted_by_one_record() -> None:
    async with opened() as calls:
        call = await calls.spawn(b"arguments")
        (step,) = await calls.steps()
        assert isinstance(step, Spawned)
        assert (step.call_id, step.function, step.payload) == (call.id, "f", b"arguments")


async def test_the_same_key_is_the_same_call_and_other_arguments_under_it_are_refused() -> None:
    async with opened() as calls:
        first = await calls.spawn(b"1", key="k")
        again = await calls.spawn(b"1", key="k")
        assert again.id == first.id
        with pytest.raises(KeyReused) as refused:
            await calls.spawn(b"2", key="k")
        assert refused.value.key == "k"
        assert len(await calls.steps()) == 1


async def test_large_arguments_are_a_record_of_their_own() -> None:
    async with opened() as calls:
        large = bytes(INLINE_BYTES_MAX + 1)
        await calls.spawn(large, key="k")
        await calls.spawn(large, key="k")
        kept, spawned = [record async for record in calls.book.scan()]
        assert kept.data == large
        step = decode(spawned.data)
        assert isinstance(step, Spawned)
        assert step.encoding == Encoding.REFERENCE and len(step.payload) < 1_000


async def test_the_log_book_of_an_app_is_made_once_whoever_made_it_and_how() -> None:
    async with bokilog.open() as log:
        assert isinstance(log, ClientLog)
        await log.create_book(app_book(APP), durability="flush")
        await ensure_app_book(log, APP)
        assert (await log.book(app_book(APP)).info()).durability == "flush"


# --- waiting --------------------------------------------------------------------------------------


async def test_a_result_is_waited_for() -> None:
    async with opened() as calls:
        call = await calls.spawn()
        waiting = asyncio.create_task(call.result())
        await calls.finish(call, [1, 2])
        assert await waiting == [1, 2]
        assert await call.result(0) == [1, 2], "as often as one likes"


async def test_a_call_that_is_not_over_in_time_goes_on() -> None:
    async with opened() as calls:
        call = await calls.spawn()
        assert await call.outcome(wait_s=0) is None
        with pytest.raises(CallTimeout):
            await call.result(0)
        await calls.finish(call, "late")
        assert await call.result() == "late"


async def test_a_time_to_wait_that_is_none_is_named_as_it_was_given() -> None:
    async with opened() as calls:
        call = await calls.spawn()
        with pytest.raises(InvalidRange, match="timeout_s=-1"):
            await call.result(-1)


async def test_a_call_that_failed_raises_why() -> None:
    async with opened() as calls:
        call = await calls.spawn()
        await calls.give_up(call)
        with pytest.raises(Overloaded):
            await call.result()


async def test_a_cancelled_call_is_over_and_is_cancelled_once() -> None:
    async with opened() as calls:
        call = await calls.spawn()
        await calls.step(Claimed(call.id, "a/1", 0, 500))
        assert await call.cancel("not wanted")
        assert not await call.cancel()
        with pytest.raises(CallCancelled, match="not wanted"):
            await call.result()
        assert (await call.status()).state == "cancelled"


async def test_a_finished_call_cannot_be_cancelled() -> None:
    async with opened() as calls:
        call = await calls.spawn()
        await calls.finish(call, 1)
        assert not await call.cancel()
        assert await call.result() == 1


@pytest.mark.parametrize("ordered", [True, False])
async def test_who_hears_nothing_of_a_cancellation_still_learns_whether_it_was_his(
    ordered: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened() as calls:
        call = await calls.spawn()
        append = type(calls.book).append
        unknown = True

        async def lossy(book: Any, *arguments: Any, **named: Any) -> int:
            nonlocal unknown
            if not unknown:
                return await append(book, *arguments, **named)
            unknown = False
            if ordered:
                await append(book, *arguments, **named)
            else:
                await append(book, encode(finished(call.id, 1)), tags_of(finished(call.id, 1)))
            raise AppendUnknown("the connection was lost")

        monkeypatch.setattr(type(calls.book), "append", lossy)
        assert await call.cancel("not wanted") is ordered
        assert (await call.status()).state == ("cancelled" if ordered else "finished")


def finished(call_id: str, value: object) -> Finished:
    return Finished(call_id, "a/1", 0, Encoding.MSGPACK, "", [], 7, pack(value))


async def test_items_of_two_attempts_are_one_stream() -> None:
    async with opened() as calls:
        call = await calls.spawn(stream=True)
        for attempt, places in ((0, (0, 1)), (1, (0, 1, 2))):
            for place in places:
                payload = pack([attempt, place])
                await calls.step(
                    ItemYielded(call.id, attempt, place, Encoding.MSGPACK, payload), stream=True
                )
        await calls.finish(call, None, stream=True)
        items = [item async for item in call.items()]
        assert [item.value for item in items] == [[0, 0], [0, 1], [1, 2]]
        rest = [item async for item in call.items(items[0].seqnum + 1)]
        assert [item.value for item in rest] == [[0, 1], [1, 2]]


async def test_a_call_that_yields_nothing_has_no_items() -> None:
    async with opened() as calls:
        call = await calls.spawn()
        with pytest.raises(NotSupported):
            await anext(call.items())


@pytest.mark.parametrize(
    ("encoding", "payload", "value"),
    [
        (Encoding.MSGPACK, pack({"a": 1}), {"a": 1}),
        (Encoding.JSON, b"[1]", [1]),
        (Encoding.RAW, b"raw", b"raw"),
    ],
)
async def test_plain_values_need_no_knowledge_of_the_function(
    encoding: Encoding, payload: bytes, value: object
) -> None:
    assert decode_plain(encoding, payload) == value


async def test_what_only_python_reads_is_not_unpickled_for_just_anybody() -> None:
    with pytest.raises(NotSupported):
        decode_plain(Encoding.PICKLE, b"")


# --- finding --------------------------------------------------------------------------------------


async def test_a_call_is_found_by_its_id_and_waits_as_its_own_handle_does() -> None:
    async with opened() as calls:
        call = await calls.spawn()
        found = await find_call(calls.log, APP, call.id)
        assert (found.id, found.function) == (call.id, "f")
        await calls.finish(call, 3)
        assert await found.result() == 3
        assert await (await find_call(calls.log, APP, call.id)).result() == 3


@pytest.mark.parametrize("call_id", ["0" * 16, "x" * 65, ""])
async def test_a_call_that_never_was_is_unknown(call_id: str) -> None:
    async with opened() as calls:
        with pytest.raises(UnknownCall):
            await find_call(calls.log, APP, call_id)


async def test_open_calls_are_listed_oldest_first_and_dead_ones_apart() -> None:
    async with opened() as calls:
        first, second, third = [await calls.spawn() for _ in range(3)]
        await calls.step(Claimed(second.id, "a/1", 0, 500))
        await calls.give_up(third)
        found = await list_calls(calls.log, APP)
        assert [(each.id, each.state) for each in found] == [
            (first.id, "waiting"),
            (second.id, "running"),
        ]
        (dead,) = await list_calls(calls.log, APP, dead=True)
        assert (dead.id, dead.function, dead.state) == (third.id, "f", "failed")


# --- driven again ---------------------------------------------------------------------------------


async def test_a_dead_call_is_driven_again_and_is_not_dead_any_more() -> None:
    async with opened() as calls:
        call = await calls.spawn(b"arguments")
        await calls.give_up(call)
        again = await redrive(calls.log, APP, call.id)
        assert await list_calls(calls.log, APP, dead=True) == []
        assert [each.id for each in await list_calls(calls.log, APP)] == [call.id]
        assert await again.outcome(wait_s=0) is None, "its first end is not the one"
        await calls.finish(call, "at last")
        assert await again.result() == "at last"


async def test_only_what_is_dead_is_driven_again() -> None:
    async with opened() as calls:
        call = await calls.spawn()
        with pytest.raises(NotSupported, match="waiting"):
            await redrive(calls.log, APP, call.id)
        with pytest.raises(UnknownCall):
            await redrive(calls.log, APP, "0" * 16)


async def test_of_two_who_drive_a_call_again_at_once_one_does() -> None:
    async with opened() as calls:
        call = await calls.spawn()
        await calls.give_up(call)
        results = await asyncio.gather(
            *[redrive(calls.log, APP, call.id) for _ in range(2)], return_exceptions=True
        )
        spawned = [step for step in await calls.steps() if isinstance(step, Spawned)]
        assert len(spawned) == 2, "once at first, once again"
        assert all(isinstance(each, (Call, ConditionFailed)) for each in results)
