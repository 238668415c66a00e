"""Durable calls on a real log: hosts in this process, functions that are coroutines of the test."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
import pytest_asyncio

import bokilog
from bokilog.call_errors import (
    CallCancelled,
    CallTimeout,
    FunctionFailed,
    UnknownCall,
)
from bokilog.client.admin import ClientLog
from bokilog.codec import pack, unpack
from bokilog.errors import BokilogError, KeyReused, NotSupported, to_wire
from bokilog.functions.books import app_book, ensure_app_book
from bokilog.functions.calls.call import Call
from bokilog.functions.calls.claims import ClaimsSettings
from bokilog.functions.calls.finding import find_call, list_calls
from bokilog.functions.calls.node import DurableCalls
from bokilog.functions.calls.records import (
    CALLS,
    SNAPSHOT,
    Claimed,
    Finished,
    Spawned,
    decode,
)
from bokilog.functions.calls.spawning import redrive, spawn
from bokilog.functions.runtime.messages import Done, Flag, FunctionRows, Item, Start
from bokilog.functions.runtime.options import FunctionOptions
from bokilog.shapes.local_cluster import LocalCluster

pytestmark = pytest.mark.asyncio
APP = "shop"
USUAL = ClaimsSettings(rank_delay_s=0.05)
QUICK = ClaimsSettings(ttl_ms=400, rank_delay_s=0.05)
"""For the one test that waits for the end of a lease: a busy machine may lose others by it."""
Body = Callable[["Running"], Awaitable[object]]


class Running:
    """A call of a fake runner: its body gets this, and may `put` items."""

    def __init__(self, start: Start, body: Body, on_item: Callable[[Item], None] | None) -> None:
        self.start = start
        self.done: asyncio.Future[Done] = asyncio.get_running_loop().create_future()
        self.credits = 64
        self.room = asyncio.Event()
        self.room.set()
        self._on_item = on_item
        self._place = 0
        self._task = asyncio.ensure_future(self._run(body))
        self.cancelled = ""

    async def _run(self, body: Body) -> None:
        error, payload = [], b""
        try:
            payload = pack(await body(self))
        except BokilogError as failed:
            error = to_wire(failed)
        except asyncio.CancelledError:
            error = to_wire(CallCancelled(self.start.function, self.cancelled))
        self.done.set_result(Done(0, 0, "", error, 0, 1, False, payload))

    def put(self, value: object) -> None:
        assert self._on_item is not None
        assert self.credits > 0
        self.credits -= 1
        if not self.credits:
            self.room.clear()
        self._on_item(Item(0, self._place, 0, pack(value)))
        self._place += 1

    @property
    def arguments(self) -> object:
        return unpack(self.start.payload)

    def credit(self, count: int) -> None:
        self.credits += count
        self.room.set()

    def cancel(self, reason: str) -> None:
        self.cancelled = reason
        self._task.cancel()


class Runner:
    """Runs what the test wrote."""

    def __init__(
        self, *, options: dict[str, FunctionOptions] | None = None, **bodies: Body
    ) -> None:
        self.bodies = bodies
        self.options = options or {}
        self.started: list[Start] = []

    def start(self, start: Start, *, on_item: Callable[[Item], None] | None = None) -> Running:
        self.started.append(start)
        return Running(start, self.bodies[start.function], on_item)

    def functions(self) -> FunctionRows:
        return [
            [name, self.options.get(name, FunctionOptions()).to_plain(), "()", ""]
            for name in self.bodies
        ]


@asynccontextmanager
async def hosts(
    log: ClientLog, *runners: Runner, settings: ClaimsSettings = USUAL, drain_s: float = 1.0
) -> AsyncGenerator[list[DurableCalls], None]:
    names = [f"host-{number}" for number in range(len(runners))]
    running = [
        DurableCalls(log, APP, runner, name, settings=settings)
        for name, runner in zip(names, runners, strict=True)
    ]
    try:
        for each in running:
            each.set_hosts(names)
            await each.start()
        yield running
    finally:
        for each in running:
            await each.aclose(drain_s)
        for each in running:
            assert each.error is None, each.error


@pytest_asyncio.fixture
async def log() -> AsyncGenerator[ClientLog, None]:
    async with bokilog.open() as opened:
        await ensure_app_book(opened, APP)
        yield opened


async def double(running: Running) -> object:
    (value,) = running.arguments  # type: ignore[misc]
    return value * 2  # type: ignore[has-type]


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110  # whatever it is, it is not an event
            await asyncio.sleep(0.01)


async def kinds(log: ClientLog, tag: str = CALLS) -> list[type]:
    return [type(decode(each.data)) async for each in log.book(app_book(APP)).scan(tag=tag)]


async def test_a_spawned_call_is_run_and_its_result_waits_for_whoever_asks(log: ClientLog) -> None:
    async with hosts(log, Runner(double=double)):
        call = await spawn(log, APP, "double", pack([21]), 0, trace="t", token="")
        assert await call.result(5) == 42
        again = await find_call(log, APP, call.id)
        assert (again.function, await again.result(5)) == ("double", 42)
        status = await again.status()
        assert (status.state, status.host, status.attempt) == ("finished", "host-0", 0)
    assert await kinds(log) == [Spawned, Claimed, Finished]
    assert await list_calls(log, APP) == []


async def test_a_call_is_accepted_before_there_is_a_host(log: ClientLog) -> None:
    call = await spawn(log, APP, "double", pack([2]), 0)
    assert (await call.status()).state == "waiting"
    with pytest.raises(CallTimeout):
        await call.result(0.01)
    assert [(each.id, each.state) for each in await list_calls(log, APP)] == [(call.id, "waiting")]
    async with hosts(log, Runner(double=double)):
        assert await call.result(5) == 4


async def test_spawn_is_one_append_and_waiting_is_one_blocked_read(log: ClientLog) -> None:
    before = (await log.book(app_book(APP)).info()).tail
    call = await spawn(log, APP, "double", pack([2]), 0)
    assert (await log.book(app_book(APP)).info()).tail == before + 1
    waiting = asyncio.ensure_future(call.result(5))
    async with hosts(log, Runner(double=double)):
        assert await waiting == 4


async def test_a_key_gives_the_first_call_and_refuses_other_arguments(log: ClientLog) -> None:
    runner = Runner(double=double)
    async with hosts(log, runner):
        first = await spawn(log, APP, "double", pack([2]), 0, key="order-1", trace="one")
        second = await spawn(log, APP, "double", pack([2]), 0, key="order-1", trace="two")
        assert first.id == second.id
        assert [await first.result(5), await second.result(5)] == [4, 4]
        assert await (await spawn(log, APP, "double", pack([2]), 0, key="order-1")).result(5) == 4
        with pytest.raises(KeyReused, match="order-1"):
            await spawn(log, APP, "double", pack([3]), 0, key="order-1")
        assert len(runner.started) == 1


async def test_large_arguments_and_results_are_records_of_their_own(log: ClientLog) -> None:
    async def length(running: Running) -> object:
        assert running.start.encoding == 4
        return b"x" * 400_000

    async with hosts(log, Runner(length=length)):
        payload = pack([b"y" * 300_000])
        call = await spawn(log, APP, "length", payload, 0, key="large")
        again = await spawn(log, APP, "length", payload, 0, key="large")
        assert call.id == again.id
        assert await call.result(5) == b"x" * 400_000
    sizes = [len(each.data) async for each in log.book(app_book(APP)).scan(tag=CALLS)]
    assert max(sizes) < 1_000


async def test_what_a_function_raises_is_retried_then_raised_and_kept_as_dead(
    log: ClientLog,
) -> None:
    attempts: list[int] = []

    async def fails(running: Running) -> object:
        attempts.append(running.start.attempt)
        if len(attempts) < 4:
            raise FunctionFailed("fails", "ValueError", "no")
        return "at last"

    async with hosts(log, Runner(fails=fails)):
        call = await spawn(log, APP, "fails", b"", 0, retries=2, retry_delay_s=0.01)
        with pytest.raises(FunctionFailed, match="no"):
            await call.result(5)
        assert attempts == [0, 1, 2]
        (dead,) = await list_calls(log, APP, dead=True)
        assert (dead.id, dead.function, dead.state) == (call.id, "fails", "failed")
        assert dead.error == "fails raised ValueError: no"
        again = await redrive(log, APP, call.id)
        assert await again.result(5) == "at last"
        assert await list_calls(log, APP, dead=True) == []
        with pytest.raises(NotSupported, match="it is finished, not dead"):
            await redrive(log, APP, call.id)


async def test_a_call_can_be_cancelled_while_it_waits_and_while_it_runs(log: ClientLog) -> None:
    async def forever(running: Running) -> object:
        await asyncio.sleep(60)
        return None

    call = await spawn(log, APP, "forever", b"", 0)
    assert await call.cancel("not today") is True
    assert await call.cancel("again") is False
    with pytest.raises(CallCancelled, match="not today"):
        await call.result(5)
    runner = Runner(forever=forever)
    async with hosts(log, runner):
        running = await spawn(log, APP, "forever", b"", 0)
        await until(lambda: bool(runner.started))
        assert await running.cancel("enough") is True
        with pytest.raises(CallCancelled, match="enough"):
            await running.result(5)
        assert len(runner.started) == 1


async def test_streams_are_records_that_can_be_read_on_from_any_place(log: ClientLog) -> None:
    async def counts(running: Running) -> object:
        assert running.start.flags & Flag.STREAM
        for value in range(200):
            await running.room.wait()
            running.put(value)
        return None

    async with hosts(log, Runner(counts=counts)):
        call = await spawn(log, APP, "counts", b"", 0, stream=True)
        items = [item async for item in call.items()]
        assert [item.value for item in items] == list(range(200))
        later = await find_call(log, APP, call.id)
        rest = [item.value async for item in later.items(items[120].seqnum + 1)]
        assert rest == list(range(121, 200))
        plain = await spawn(log, APP, "counts", b"", 0)
        with pytest.raises(NotSupported):
            await anext(plain.items())
        await plain.cancel()


async def test_a_stream_that_is_started_again_says_nothing_twice(log: ClientLog) -> None:
    async def counts(running: Running) -> object:
        for value in range(10):
            running.put(value)
            if value == 4 and running.start.attempt == 0:
                raise FunctionFailed("counts", "OSError", "half way")
        return None

    async with hosts(log, Runner(counts=counts)):
        call = await spawn(log, APP, "counts", b"", 0, stream=True, retries=1, retry_delay_s=0.01)
        assert [item.value async for item in call.items()] == list(range(10))
        failing = await spawn(log, APP, "counts", b"", 0, stream=True)
        items = failing.items()
        assert [(await anext(items)).value for _ in range(5)] == list(range(5))
        with pytest.raises(FunctionFailed):
            await anext(items)


@pytest.mark.slow
async def test_a_host_that_dies_is_replaced_once_its_lease_is_over(log: ClientLog) -> None:
    async def hangs(running: Running) -> object:
        await asyncio.sleep(60)
        return None

    async def works(running: Running) -> object:
        return "done"

    dead, living = Runner(work=hangs), Runner(work=works)
    victim = DurableCalls(log, APP, dead, "host-9", settings=QUICK)
    await victim.start()
    call = await spawn(log, APP, "work", b"", 0, retries=1)
    await until(lambda: bool(dead.started))
    victim._stop(None)  # as a kill would: nothing more is said
    async with hosts(log, living):
        assert await call.result(5) == "done"
        status = await call.status()
        assert (status.host, status.attempt) == ("host-0", 1)
    await victim.aclose(0)


async def test_a_host_that_goes_down_gives_its_calls_away(log: ClientLog) -> None:
    async def slow(running: Running) -> object:
        await asyncio.sleep(0.0 if running.start.attempt or len(second.started) else 60)
        return "done"

    first, second = Runner(slow=slow), Runner(slow=slow)
    settings = ClaimsSettings(ttl_ms=60_000)
    leaving = DurableCalls(log, APP, first, "leaving", settings=settings)
    await leaving.start()
    call = await spawn(log, APP, "slow", b"", 0)
    await until(lambda: bool(first.started))
    async with hosts(log, second, settings=settings):
        await leaving.aclose(drain_s=0.01)
        assert await call.result(5) == "done"
    assert leaving.error is None


@pytest.mark.slow
async def test_schedules_fire_once_over_several_hosts(log: ClientLog) -> None:
    async def ticks(running: Running) -> object:
        return None

    options = {"ticks": FunctionOptions(schedule="every 1s", retries=3)}
    runners = [Runner(options=options, ticks=ticks) for _ in range(3)]
    async with hosts(log, *runners):
        await until(lambda: sum(len(each.started) for each in runners) >= 2)
    spawned = [
        step.due_ms
        async for each in log.book(app_book(APP)).scan(tag="schedule:ticks")
        if isinstance(step := decode(each.data), Spawned)
    ]
    assert len(set(spawned)) == len(spawned) >= 2
    assert all(due_ms % 1_000 == 0 for due_ms in spawned)


async def test_a_new_host_begins_at_the_newest_snapshot(log: ClientLog) -> None:
    async with hosts(log, Runner(double=double)) as (host,):
        calls = [await spawn(log, APP, "double", pack([n]), 0) for n in range(20)]
        assert [await each.result(5) for each in calls] == [2 * n for n in range(20)]
        waiting = await spawn(log, APP, "unknown", b"", 0)
        await until(lambda: host.stats().open_count == 1)
        for _ in range(2):
            assert await host._replay.snapshot()
            assert await (await spawn(log, APP, "double", pack([1]), 0)).result(5) == 2
            await until(lambda: host.stats().open_count == 1)
        await host.hold()
    book = log.book(app_book(APP))
    info = await book.info()
    found = [each async for each in book.scan(tag=SNAPSHOT)]
    assert len(found) == 2
    assert await book.read_next(tag=CALLS) is not None
    held = await book.trim(info.tail)
    assert held.held_by == "durable calls"
    assert [each.id for each in await list_calls(log, APP)] == [waiting.id]


async def test_an_unknown_call_is_said_to_be_unknown(log: ClientLog) -> None:
    with pytest.raises(UnknownCall, match="no call 'feedfacefeedface'"):
        await find_call(log, APP, "feedfacefeedface")
    ghost = Call(log, log.book(app_book(APP)), "feedfacefeedface", function="f", since=1)
    with pytest.raises(UnknownCall):
        await ghost.cancel()


@pytest.mark.slow
async def test_calls_on_a_cluster_are_spread_and_all_finished(
    shared_cluster: LocalCluster,
) -> None:
    async with bokilog.connect(shared_cluster.url) as log:
        await ensure_app_book(log, APP)
        runners = [Runner(double=double) for _ in range(3)]
        async with hosts(log, *runners, settings=ClaimsSettings()):
            calls = await asyncio.gather(
                *(spawn(log, APP, "double", pack([n]), 0) for n in range(200))
            )
            results = await asyncio.gather(*(each.result(10) for each in calls))
        assert results == [2 * n for n in range(200)]
        assert sum(len(each.started) for each in runners) == 200
        assert all(runner.started for runner in runners)
