"""The calls that one process has under way on one link to a host.

Decides how calls are numbered, whom an answer is for, and when a call is given up: when its host
is silent long after the deadline, or gone. A worker's link is also the one it gets work on; each
side numbers its own calls.

Invariants: every call that was started is answered exactly once, by its `Done` or by one made here;
whoever stops waiting has told the host. Does not know: sockets, what payloads mean, who calls.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final, NamedTuple

import cloudpickle

from bokilog.call_errors import CallTimeout, FunctionFailed, WorkerLost
from bokilog.errors import BokilogError, NodeUnreachable, WrongLoop, from_wire, to_wire
from bokilog.functions.runtime.messages import (
    CallMessage,
    Cancel,
    Credit,
    Done,
    Encoding,
    Item,
    Start,
    StartMany,
)
from bokilog.record import Buffer

SILENCE_S: Final = 10.0
"""A host that says nothing for so long after a call's deadline has lost it."""
NOTE: Final = "raised by function"
"""How the note begins that holds a remote traceback."""
SWEEP_S: Final = 1.0
"""How often overdue calls are looked for; a timer per call would cost as much as the call."""


class Request(NamedTuple):
    """What every way to start calls of one function has in common."""

    function: str
    encoding: int
    timeout_s: float
    depth: int = 0
    attempt: int = 0
    flags: int = 0
    call_id: str = ""
    token: str = ""
    trace: str = ""


class OpenCall:
    """A call under way."""

    __slots__ = ("call", "done", "due_s", "function", "on_item", "timeout_s")

    def __init__(
        self, call: int, request: Request, *, done: asyncio.Future[Done], due_s: float
    ) -> None:
        self.call = call
        self.function = request.function
        self.timeout_s = request.timeout_s
        self.due_s = due_s
        self.done = done
        """Never has an exception: errors are in the `Done`."""
        self.on_item: Callable[[Item], None] | None = None


class HostCalls:
    """The calls of this process that a host has.

    Args:
        send: puts a message on the link; False if it has ended.
        loop: for futures and time.
    """

    __slots__ = ("_loop", "_next", "_open", "_send", "_sweep", "_waiting", "up")

    def __init__(
        self, send: Callable[[CallMessage], bool], loop: asyncio.AbstractEventLoop
    ) -> None:
        self._send = send
        self._loop = loop
        self._next = 1
        self._open: dict[int, OpenCall] = {}
        self._sweep: asyncio.TimerHandle | None = None
        self._waiting: list[asyncio.Future[None]] = []
        self.up = True
        """Whether there is a host; without one, calls wait for the next."""

    @property
    def open_count(self) -> int:
        """Calls without an answer yet."""
        return len(self._open)

    def came_up(self) -> None:
        """There is a host now."""
        self.up = True
        waiting, self._waiting = self._waiting, []
        for each in waiting:
            if not each.done():
                each.set_result(None)

    async def wait_up(self, timeout_s: float) -> None:
        """Until there is a host.

        Raises:
            NodeUnreachable: there was none within `timeout_s`.
        """
        if self.up:
            return
        self._check_loop()
        waiter = self._loop.create_future()
        self._waiting.append(waiter)
        await asyncio.wait([waiter], timeout=timeout_s)
        if not waiter.done():
            waiter.cancel()
            raise NodeUnreachable("any host of functions", f"none within {timeout_s:g} s")

    def start(self, request: Request, payload: Buffer) -> OpenCall:
        """Have one call run.

        Raises:
            NodeUnreachable: the link has ended; nothing was sent.
        """
        opened = self._opened(request)
        message = Start(
            opened.call,
            request.function,
            request.encoding,
            _deadline_ms(request.timeout_s),
            request.depth,
            request.attempt,
            request.flags,
            request.call_id,
            request.token,
            request.trace,
            payload,
        )
        self._sent(message, [opened])
        return opened

    def start_many(self, request: Request, payloads: Sequence[Buffer]) -> list[OpenCall]:
        """Have one function run for each of several payloads, told in one message.

        Raises:
            NodeUnreachable: the link has ended; nothing was sent.
        """
        opened = [self._opened(request) for _ in payloads]
        message = StartMany(
            opened[0].call,
            request.function,
            request.encoding,
            _deadline_ms(request.timeout_s),
            request.depth,
            request.flags,
            request.call_id,
            request.token,
            request.trace,
            payloads,
        )
        self._sent(message, opened)
        return opened

    def _opened(self, request: Request) -> OpenCall:
        self._check_loop()
        call, self._next = self._next, self._next + 1
        due_s = self._loop.time() + request.timeout_s + SILENCE_S
        opened = OpenCall(call, request, done=self._loop.create_future(), due_s=due_s)
        self._open[call] = opened
        return opened

    def _check_loop(self) -> None:
        if asyncio.get_running_loop() is not self._loop:
            problem = "belongs to another event loop, or to the process before a fork"
            raise WrongLoop("the app's connection", problem)

    def _sent(self, message: CallMessage, opened: Sequence[OpenCall]) -> None:
        try:
            sent = self._send(message)
        except BaseException:
            self._forget(opened)
            raise
        if not sent:
            self._forget(opened)
            raise NodeUnreachable("the host of functions", "the connection to it has ended")
        if self._sweep is None:
            self._sweep = self._loop.call_later(SWEEP_S, self._give_up_overdue)

    def _forget(self, opened: Sequence[OpenCall]) -> None:
        for each in opened:
            self._open.pop(each.call, None)

    async def wait(self, opened: OpenCall) -> Done:
        """What came of a call. Cancel-safe because a call that nobody waits for is cancelled."""
        try:
            return await opened.done
        except asyncio.CancelledError:
            self.cancel(opened, "its caller was cancelled")
            raise

    def credit(self, opened: OpenCall, count: int) -> None:
        """Of a stream: so many more items may come."""
        if opened.call in self._open:
            self._send(Credit(opened.call, count))

    def cancel(self, opened: OpenCall, reason: str) -> None:
        """It is not wanted any more; its `Done` is still taken when it comes."""
        if opened.call in self._open:
            self._send(Cancel(opened.call, reason))

    def soon(self, callback: Callable[[], object]) -> None:
        """Call it on the loop; for finalizers, which run in any thread and at any time."""
        with suppress(RuntimeError):  # the loop is closed: then no call is under way
            self._loop.call_soon_threadsafe(callback)

    # --- from the link ---

    def on_done(self, done: Done) -> None:
        """An answer; one for a call that was given up is nobody's."""
        opened = self._open.pop(done.call, None)
        if opened is not None and not opened.done.done():
            # Slices of a read keep all of it in memory, and a result may be kept for long.
            if type(done.payload) is not bytes:
                done = done._replace(payload=bytes(done.payload))
            opened.done.set_result(done)

    def on_item(self, item: Item) -> None:
        """The next value of a stream."""
        opened = self._open.get(item.call)
        if opened is not None and opened.on_item is not None:
            opened.on_item(item._replace(payload=bytes(item.payload)))

    def lost(self, reason: str) -> None:
        """The link has ended: what became of open calls is unknown."""
        opened, self._open = self._open, {}
        for each in opened.values():
            self._fail(each, WorkerLost(each.function, reason))
        self._stop_sweep()

    def _give_up_overdue(self) -> None:
        self._sweep = None
        now_s = self._loop.time()
        for each in [each for each in self._open.values() if each.due_s <= now_s]:
            self.cancel(each, "its host is silent")
            self._open.pop(each.call, None)
            self._fail(each, CallTimeout(each.function, each.timeout_s))
        if self._open:
            self._sweep = self._loop.call_later(SWEEP_S, self._give_up_overdue)

    def _stop_sweep(self) -> None:
        if self._sweep is not None:
            self._sweep.cancel()
            self._sweep = None

    def _fail(self, opened: OpenCall, error: BokilogError) -> None:
        if not opened.done.done():
            opened.done.set_result(failed(opened.call, error))


def failed(call: int, error: BokilogError) -> Done:
    """The end of a call that gave no result."""
    return Done(call, Encoding.PICKLE, "", to_wire(error), 0, 0, False, b"")


def error_of(done: Done) -> Exception:
    """The exception of a call that failed: the function's own where it could be sent.

    Its notes then hold the traceback of where it was raised.
    """
    error = from_wire(done.error)
    if not isinstance(error, FunctionFailed) or not len(done.payload):
        return error
    try:
        original: object = cloudpickle.loads(done.payload)
    except Exception:  # its class is not known here: what it was is in the error all the same
        return error
    if not isinstance(original, Exception):
        return error
    original.add_note(f"{NOTE} {error.function!r}:\n{error.trace.rstrip()}")
    return original


def _deadline_ms(timeout_s: float) -> int:
    return max(1, round(timeout_s * 1_000))
