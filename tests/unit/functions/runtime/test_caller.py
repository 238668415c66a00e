"""Calls on one link: numbers, answers, ends."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import cloudpickle
import pytest

from bokilog.call_errors import CallTimeout, FunctionFailed, InvalidArguments, WorkerLost
from bokilog.errors import NodeUnreachable, WrongLoop, from_wire, to_wire
from bokilog.functions.runtime import caller
from bokilog.functions.runtime.caller import HostCalls, Request, error_of, failed
from bokilog.functions.runtime.messages import Cancel, Credit, Done, Item, StartMany

REQUEST = Request("f", 0, 1.5, call_id="c")


class Link:
    """What was sent, and whether there is anybody."""

    def __init__(self) -> None:
        self.sent: list[Any] = []
        self.up = True

    def send(self, message: Any) -> bool:
        if self.up:
            self.sent.append(message)
        return self.up


def on_loop(claim: Callable[[Link, HostCalls], Awaitable[None]]) -> None:
    async def main() -> None:
        link = Link()
        calls = HostCalls(link.send, asyncio.get_running_loop())
        await claim(link, calls)
        calls.lost("the test is over")

    asyncio.run(main())


def done(call: int, payload: bytes = b"") -> Done:
    return Done(call, 0, "", [], 0, 0, False, payload)


@pytest.mark.parametrize("up", [True, False])
def test_another_loop_as_after_a_fork_is_refused(up: bool) -> None:
    async def claim(link: Link, calls: HostCalls) -> None:
        calls.up = up

        async def elsewhere() -> None:
            await calls.wait_up(0.01)
            calls.start(REQUEST, b"1")

        with pytest.raises(WrongLoop, match="another event loop, or to the process before a fork"):
            await asyncio.to_thread(asyncio.run, elsewhere())
        assert link.sent == []

    on_loop(claim)


def test_calls_are_numbered_and_answers_find_them_in_any_order() -> None:
    async def claim(link: Link, calls: HostCalls) -> None:
        one, two = calls.start(REQUEST, b"1"), calls.start(REQUEST, b"2")
        assert [(each.call, each.deadline_ms, each.payload) for each in link.sent] == [
            (1, 1_500, b"1"),
            (2, 1_500, b"2"),
        ]
        calls.on_done(done(2, b"two"))
        calls.on_done(done(1, b"one"))
        assert (await calls.wait(two)).payload == b"two"
        assert (await calls.wait(one)).payload == b"one"
        assert calls.open_count == 0
        calls.on_done(done(1))  # a second answer is nobody's
        calls.on_done(done(99))

    on_loop(claim)


def test_many_calls_are_one_message() -> None:
    async def claim(link: Link, calls: HostCalls) -> None:
        calls.start(REQUEST, b"")
        opened = calls.start_many(REQUEST, [b"a", b"b", b"c"])
        assert [each.call for each in opened] == [2, 3, 4]
        (_, many) = link.sent
        assert isinstance(many, StartMany)
        assert (many.first_call, many.payloads) == (2, [b"a", b"b", b"c"])
        assert calls.start(REQUEST, b"").call == 5

    on_loop(claim)


def test_who_stops_waiting_has_told_the_host() -> None:
    async def claim(link: Link, calls: HostCalls) -> None:
        waiting = asyncio.ensure_future(calls.wait(calls.start(REQUEST, b"")))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert link.sent[-1] == Cancel(1, "its caller was cancelled")
        calls.on_done(done(1))
        assert calls.open_count == 0

    on_loop(claim)


def test_without_a_link_nothing_is_started() -> None:
    async def claim(link: Link, calls: HostCalls) -> None:
        link.up = False
        with pytest.raises(NodeUnreachable):
            calls.start(REQUEST, b"")
        with pytest.raises(NodeUnreachable):
            calls.start_many(REQUEST, [b"", b""])
        assert calls.open_count == 0

    on_loop(claim)


def test_a_lost_link_answers_every_open_call() -> None:
    async def claim(link: Link, calls: HostCalls) -> None:
        opened = [calls.start(REQUEST, b"") for _ in range(3)]
        calls.lost("gone")
        for each in opened:
            error = from_wire((await each.done).error)
            assert isinstance(error, WorkerLost)
            assert not error.definite

    on_loop(claim)


def test_a_silent_host_is_given_up_after_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caller, "SILENCE_S", 0.0)
    monkeypatch.setattr(caller, "SWEEP_S", 0.01)

    async def claim(link: Link, calls: HostCalls) -> None:
        opened = calls.start(REQUEST._replace(timeout_s=0.001), b"")
        error = from_wire((await calls.wait(opened)).error)
        assert isinstance(error, CallTimeout)
        assert isinstance(link.sent[-1], Cancel)

    on_loop(claim)


def test_items_and_credit_belong_to_their_call() -> None:
    async def claim(link: Link, calls: HostCalls) -> None:
        came: list[Item] = []
        opened = calls.start(REQUEST, b"")
        opened.on_item = came.append
        calls.on_item(Item(1, 0, 0, memoryview(b"x")))
        calls.on_item(Item(7, 0, 0, b""))
        assert came == [Item(1, 0, 0, b"x")]
        calls.credit(opened, 5)
        calls.on_done(done(1))
        calls.credit(opened, 5)  # nobody needs it any more
        calls.cancel(opened, "late")
        assert link.sent[1:] == [Credit(1, 5)]

    on_loop(claim)


def test_calls_wait_for_a_host_within_their_time() -> None:
    async def claim(link: Link, calls: HostCalls) -> None:
        await calls.wait_up(0)
        calls.up = False
        with pytest.raises(NodeUnreachable, match=r"none within 0\.001 s"):
            await calls.wait_up(0.001)
        waiting = asyncio.ensure_future(calls.wait_up(5))
        await asyncio.sleep(0)
        calls.came_up()
        await waiting

    on_loop(claim)


def test_the_original_exception_comes_with_its_remote_traceback() -> None:
    told = to_wire(FunctionFailed("f", "ValueError", "no", "Traceback: line 3"))
    answer = done(1, cloudpickle.dumps(ValueError("no")))._replace(error=told)
    error = error_of(answer)
    assert type(error) is ValueError
    assert error.__notes__ == ["raised by function 'f':\nTraceback: line 3"]


@pytest.mark.parametrize("payload", [b"", b"garbage", cloudpickle.dumps(SystemExit(3))])
def test_an_exception_that_cannot_come_is_told(payload: bytes) -> None:
    told = to_wire(FunctionFailed("f", "Odd", "no", "trace"))
    error = error_of(done(1, payload)._replace(error=told))
    assert isinstance(error, FunctionFailed)
    assert str(error) == "f raised Odd: no"


def test_errors_of_the_call_itself_come_as_they_are() -> None:
    error = error_of(failed(1, InvalidArguments("f", "x", "is missing")))
    assert isinstance(error, InvalidArguments)
