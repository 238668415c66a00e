"""How calls leave: what they inherit, what shares a message, what is started again."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from bokilog.call_errors import CallTimeout, CallTooDeep, WorkerLost
from bokilog.errors import NodeUnreachable, NotSupported, to_wire
from bokilog.functions.runtime import outgoing, references
from bokilog.functions.runtime.caller import HostCalls, OpenCall
from bokilog.functions.runtime.messages import (
    DEPTH_MAX,
    Cancel,
    Done,
    Encoding,
    Flag,
    Start,
    StartMany,
)
from bokilog.functions.runtime.outgoing import Outgoing, Packed

LOST = to_wire(WorkerLost("f", "it was killed"))


class Caller:
    """A caller without a log, and all that left."""

    host = "here"
    trace = "00-trace"

    def __init__(self) -> None:
        self.sent: list[Any] = []
        self.up = True
        self.child_depth = 3
        self.left_s = math.inf
        self.children: set[OpenCall] = set()
        self.answers: list[Done] = []
        """To the next calls, at once."""
        self.calls = HostCalls(self.send, asyncio.get_running_loop())
        self.place: Any = None

    def send(self, message: Any) -> bool:
        self.sent.append(message)
        if self.answers and isinstance(message, Start):
            self.calls.on_done(self.answers.pop(0)._replace(call=message.call))
        return self.up

    def token(self) -> str:
        return "token"

    def merge(self, token: str) -> None:
        raise AssertionError("what was seen is the business of whoever takes the result")

    def session_for(self, log: object) -> Any:
        raise AssertionError("there is no log")

    async def connected_log(self) -> None:
        return None


def done(payload: bytes = b"", error: Any = ()) -> Done:
    return Done(0, Encoding.MSGPACK, "", list(error), 0, 0, False, payload)


def made(*, timeout_s: float = 60.0, retries: int = 0) -> Outgoing:
    return Outgoing("shop", "f", timeout_s=timeout_s, retries=retries, retry_delay_s=0.0)


def packed(payload: bytes = b"1", *, name: str = "f") -> Packed:
    return name, Encoding.MSGPACK, payload


def on_loop(claim: Callable[[Caller], Awaitable[None]]) -> None:
    async def main() -> None:
        caller = Caller()
        await claim(caller)
        caller.calls.lost("the test is over")

    asyncio.run(main())


def test_a_call_inherits_depth_token_trace_and_what_is_left_of_the_time() -> None:
    async def claim(caller: Caller) -> None:
        caller.left_s = 2.0
        caller.answers = [done(b"result")]
        assert (await made().run(caller, packed(name="$other"))).payload == b"result"
        (start,) = caller.sent
        assert (start.function, start.payload, start.attempt) == ("$other", b"1", 0)
        assert (start.depth, start.deadline_ms) == (3, 2_000)
        assert (start.token, start.trace) == ("token", "00-trace")
        assert len(start.call_id) == 16

    on_loop(claim)


def test_a_call_that_is_too_deep_or_too_late_is_not_sent() -> None:
    async def claim(caller: Caller) -> None:
        caller.child_depth = DEPTH_MAX + 1
        with pytest.raises(CallTooDeep):
            await made().run(caller, packed())
        caller.child_depth, caller.left_s = DEPTH_MAX, 0.0
        with pytest.raises(CallTimeout):
            await made().run(caller, packed())
        assert caller.sent == []
        assert not caller.children

    on_loop(claim)


def test_a_call_is_its_callers_child_until_it_is_over() -> None:
    async def claim(caller: Caller) -> None:
        running = asyncio.ensure_future(made().run(caller, packed()))
        await asyncio.sleep(0)
        assert len(caller.children) == 1
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert not caller.children
        assert [type(each) for each in caller.sent] == [Start, Cancel]

    on_loop(claim)


@pytest.mark.parametrize(("retries", "starts"), [(0, 1), (1, 2), (5, 3)])
def test_a_lost_call_is_started_again_as_often_as_was_said(retries: int, starts: int) -> None:
    async def claim(caller: Caller) -> None:
        caller.answers = [done(error=LOST), done(error=LOST), done(b"result")]
        last = await made(retries=retries).run(caller, packed())
        assert [each.attempt for each in caller.sent] == list(range(starts))
        assert bool(last.error) == (starts < 3)

    on_loop(claim)


def test_what_a_function_raised_is_no_reason_to_start_it_again() -> None:
    async def claim(caller: Caller) -> None:
        caller.answers = [done(error=to_wire(CallTimeout("f", 1.0)))]
        assert (await made(retries=3).run(caller, packed())).error
        assert len(caller.sent) == 1

    on_loop(claim)


def test_without_a_link_a_call_is_tried_again_then_the_error_is_raised() -> None:
    async def claim(caller: Caller) -> None:
        caller.up = False
        with pytest.raises(NodeUnreachable):
            await made(retries=2).run(caller, packed())
        assert [each.attempt for each in caller.sent] == [0, 1, 2]

    on_loop(claim)


def test_the_delay_doubles_up_to_a_minute_and_spreads_down_to_half() -> None:
    for attempt, longest_s in ((1, 1.0), (2, 2.0), (5, 16.0), (30, 60.0)):
        assert longest_s / 2 <= outgoing._retry_delay_s(1.0, attempt) <= longest_s


def test_a_stream_is_asked_for_by_its_flag_and_ends_with_its_caller() -> None:
    async def claim(caller: Caller) -> None:
        opened = await made().start_stream(caller, packed())
        (start,) = caller.sent
        assert start.flags == Flag.STREAM
        assert caller.children == {opened}
        caller.calls.on_done(done()._replace(call=opened.call))
        await asyncio.sleep(0)
        assert not caller.children

    on_loop(claim)


def test_calls_of_one_function_share_a_message_until_it_is_full(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(outgoing, "SLICE_BYTES", 4)

    async def claim(caller: Caller) -> None:
        calls = [packed(b"11"), packed(b"22"), packed(b"3"), packed(b"4", name="$other")]
        opened = await made().start_many(caller, calls)
        assert [(each.function, each.payloads) for each in caller.sent] == [
            ("f", [b"11", b"22"]),
            ("f", [b"3"]),
            ("$other", [b"4"]),
        ]
        assert [each.call for each in opened] == [1, 2, 3, 4]
        assert caller.children == set(opened)

    on_loop(claim)


def test_of_calls_that_start_together_all_are_under_way_or_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(outgoing, "SLICE_BYTES", 1)

    def calls() -> Any:
        yield packed(b"1")
        yield packed(b"2")
        raise ValueError("this one cannot be encoded")

    async def claim(caller: Caller) -> None:
        with pytest.raises(ValueError, match="cannot be encoded"):
            await made().start_many(caller, calls())
        assert [type(each) for each in caller.sent] == [StartMany, Cancel]

    on_loop(claim)


def test_without_a_log_large_payloads_travel_and_results_by_reference_cannot_be_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(references, "BY_REFERENCE_BYTES", 3)

    async def claim(caller: Caller) -> None:
        caller.answers = [done()]
        await made().run(caller, packed(b"large"))
        assert caller.sent[0].payload == b"large"
        with pytest.raises(NotSupported, match="its result is a record"):
            await made().fetched(caller, b"reference")

    on_loop(claim)
