"""A program outside calls the functions of a real host: typed, streamed, mapped, by record."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

import bokilog
from bokilog.codec import pack
from bokilog.errors import NotReady
from bokilog.framing import WireMessage
from bokilog.functions.books import data_book
from bokilog.functions.runtime.messages import (
    CALLS_VERSION,
    CallMessage,
    Done,
    Greeted,
    Greeting,
    Leaving,
    Start,
    decode,
    encode,
)
from bokilog.functions.runtime.outside import AppConnection
from bokilog.io.link import Link, LinkCallbacks
from bokilog.io.transport import dial
from tests.integration.apps.typed_app import (
    Order,
    app,
    buy,
    count,
    end_once,
    imported_since,
    note,
    note_below,
    note_in_thread,
    repeat,
    square,
    total,
    wait,
)
from tests.integration.hosting import Hosting, run, until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(60)]


def connected(claim: Callable[[Hosting, AppConnection], Awaitable[None]]) -> None:
    async def work(at: Hosting) -> None:
        await asyncio.wait_for(at.host.joined.wait(), 20)
        async with app.connect(at.log.url) as connection:
            await claim(at, connection)
        assert app.connection is None

    run(work, app="typed_app:app")


def test_values_streams_maps_and_lambdas_go_to_the_workers_and_back() -> None:
    async def claim(at: Hosting, connection: AppConnection) -> None:
        assert connection.host == "host-1"
        orders = [Order("tea", [1.5, 2.0]), Order("milk", [0.5])]
        assert await total.remote(orders, discount=0.5) == Order("all", [2.0])
        assert [each.item async for each in count.stream(200)] == list(map(str, range(200)))
        assert [each async for each in square.map(range(300))] == [n * n for n in range(300)]
        came = [each async for each in square.map(range(50), ordered=False)]
        assert sorted(came) == [n * n for n in range(50)]
        factor = 6
        assert await app.submit(lambda number: number * factor, 7) == 42
        with pytest.raises(bokilog.InvalidArguments, match="'number'"):
            await square.remote("x")  # type: ignore[arg-type]

    connected(claim)


def test_exceptions_are_the_functions_own_where_the_caller_knows_them() -> None:
    async def claim(at: Hosting, connection: AppConnection) -> None:
        with pytest.raises(LookupError, match="tea") as caught:
            await buy.remote("tea")
        assert "typed_app.py" in caught.value.__notes__[0]
        with pytest.raises(bokilog.FunctionFailed) as told:  # no module `typed_app` is here
            await buy.remote("milk")
        assert (told.value.type_name, told.value.problem) == ("OutOfStock", "milk")

    connected(claim)


def test_who_called_reads_what_was_written_below() -> None:
    async def claim(at: Hosting, connection: AppConnection) -> None:
        seqnum = await note.remote("first")
        book = connection.log.book("notes", type=str)
        record = await book.read_prev()
        assert record is not None
        assert (record.seqnum, record.value) == (seqnum, "first")
        assert len(await note_below.remote("below")) == 4
        notes = await note_in_thread.remote("thread")
        assert notes[-2:] == ["thread", "thread below"]
        assert [each.value async for each in book.scan()] == notes

    connected(claim)


def test_large_values_travel_as_records() -> None:
    async def claim(at: Hosting, connection: AppConnection) -> None:
        data = bytes(range(256)) * 2_000
        assert await repeat.remote(data, 3) == data * 3
        info = await connection.log.book(data_book("typed")).info()
        assert (info.durability, info.tail > info.trim_until) == ("memory", True)

    connected(claim)


def test_a_worker_imports_nothing_of_ours_itself() -> None:
    """What it imports takes it milliseconds, and memory that it shares with nobody."""

    async def claim(at: Hosting, connection: AppConnection) -> None:
        assert await imported_since.remote() == []

    connected(claim)


def test_a_spawned_call_outlives_its_caller() -> None:
    async def claim(at: Hosting, connection: AppConnection) -> None:
        call = await square.spawn(12)
        status = await call.status()
        assert status.state in ("waiting", "running", "finished")

    connected(claim)


def test_a_lost_worker_is_told_or_the_call_started_again() -> None:
    async def claim(at: Hosting, connection: AppConnection) -> None:
        with pytest.raises(bokilog.WorkerLost) as lost:
            await end_once.remote()
        assert not lost.value.definite
        assert await end_once.with_options(retries=1).remote() == 1

    connected(claim)


def test_a_lost_connection_fails_what_was_under_way_and_is_made_again() -> None:
    async def claim(at: Hosting, connection: AppConnection) -> None:
        waiting = asyncio.ensure_future(wait.remote())
        await until(lambda: at.stats.calls)
        link: Any = connection._link
        link.abort()
        with pytest.raises(bokilog.WorkerLost):
            await waiting
        assert await square.remote(5) == 25

    connected(claim)


def test_a_host_that_leaves_answers_calls_that_were_on_their_way() -> None:
    """The last ones stood unread in the connection that it closed: nobody knew what became of them,
    and their callers were told `WorkerLost` by every restart that met one."""
    heard: list[CallMessage] = []
    ends: list[Exception | None] = []

    def on_messages(link: Link, wires: list[WireMessage]) -> None:
        heard.extend(map(decode, wires))
        if isinstance(heard[-1], Leaving):
            arguments = pack([[3], {}])
            link.send(*encode(Start(1, "square", 0, 0, 0, 0, 0, "late", "", "", arguments)))
            link.send(*encode(Leaving("")))

    async def work(at: Hosting) -> None:
        callbacks = LinkCallbacks(
            on_messages=on_messages, on_lost=lambda link, error: ends.append(error)
        )
        link = await dial(at.host.settings.addresses[0], callbacks)
        link.send(*encode(Greeting(CALLS_VERSION, "caller", "late", "typed", 0)))
        await until(lambda: heard)
        await at.host.drain()
        assert await link.wait_gone(5)
        greeted, leaving, done = heard
        assert isinstance(greeted, Greeted) and leaving == Leaving("host-1")
        assert isinstance(done, Done) and done.error[0] == NotReady.code
        assert ends == [None]

    run(work, app="typed_app:app")


def test_callers_do_not_call_a_host_that_leaves() -> None:
    async def claim(at: Hosting, connection: AppConnection) -> None:
        assert await square.remote(2) == 4
        place = connection._place
        assert place is not None and place.calls.up
        leaving = asyncio.ensure_future(at.host.drain())
        await until(lambda: not place.calls.up)
        with pytest.raises(bokilog.NodeUnreachable):
            await square.with_options(timeout_s=0.05).remote(3)
        await leaving

    connected(claim)


def test_cancelling_reaches_the_worker() -> None:
    async def claim(at: Hosting, connection: AppConnection) -> None:
        waiting = asyncio.ensure_future(wait.remote())
        await until(lambda: at.stats.calls)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await until(lambda: not at.stats.calls)

    connected(claim)


def test_one_host_can_be_named_and_another_app_is_refused() -> None:
    async def work(at: Hosting) -> None:
        address = at.host.settings.addresses[0].removeprefix("unix:")
        async with app.connect(host=f"bokilog+unix://{address}") as connection:
            assert await square.remote(3) == 9
            with pytest.raises(bokilog.NotSupported, match="no log is connected"):
                await square.spawn(3)
            with pytest.raises(bokilog.NodeUnreachable):
                _ = connection.log
        other = bokilog.App("other")
        with pytest.raises(bokilog.NodeUnreachable, match="typed"):
            _ = await other.connect(host=f"bokilog+unix://{address}", connect_timeout_s=3.0)
        with pytest.raises(bokilog.NodeUnreachable, match="no host of it is in the log"):
            _ = await other.connect(at.log.url, connect_timeout_s=0.3)
        assert other.connection is None

    run(work, app="typed_app:app")
