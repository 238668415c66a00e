"""Calls run in this process: each from its `Start` to its `Done`.

Decides what is done in which order (payload, arguments, context, the user's code, its result),
what a deadline and a cancellation do, and what an exception becomes. Async functions run as tasks
of this loop, sync ones in its threads, both with the call's context variables.

Invariants: every `Start` is answered by exactly one `Done`, whatever the user's code does short of
ending the process; its output goes before it; a stream is never more than its credit ahead; a sync
call is over when its thread is, since nothing can end a thread.
Does not know: links, other processes.
"""

from __future__ import annotations

import asyncio
import math
import os
import time
import traceback
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import Executor
from contextlib import aclosing
from contextvars import Context as VariablesOfCall, copy_context
from functools import partial
from types import TracebackType
from typing import Final, cast

import cloudpickle

from bokilog.call_errors import (
    CallCancelled,
    CallTimeout,
    FunctionFailed,
    ResultUnusable,
    UnknownFunction,
)
from bokilog.errors import BokilogError, NotSupported, RecordTooLarge, to_wire
from bokilog.functions.runtime import generator_thread, references
from bokilog.functions.runtime.caller import NOTE, failed
from bokilog.functions.runtime.context import Context, Place, current
from bokilog.functions.runtime.forked import end_if_forked
from bokilog.functions.runtime.function import AnyFunction, Body
from bokilog.functions.runtime.messages import (
    STREAM_WINDOW,
    CallMessage,
    Cancel,
    Credit,
    Done,
    Encoding,
    Flag,
    Item,
    Start,
    WireError,
)
from bokilog.functions.runtime.runner import END_OF_STREAM

TRACE_CHARACTERS_MAX: Final = 16_000
"""Of a traceback that is sent: its end says what went wrong."""
EXCEPTION_BYTES_MAX: Final = 256 << 10
"""A larger pickled exception stays here; what it was is said in the error."""
_STREAM: Final = int(Flag.STREAM)  # an operator of an enum takes a microsecond


class Run:
    """One call that runs here."""

    __slots__ = ("begun", "context", "credit", "more", "reason", "start", "task", "timeout_s")

    def __init__(self, start: Start, context: Context, timeout_s: float) -> None:
        self.start = start
        self.context = context
        self.timeout_s = timeout_s
        self.task: asyncio.Task[None] | None = None
        self.begun = False
        self.reason: BokilogError | None = None
        """Why it is ended from outside."""
        self.credit = STREAM_WINDOW
        self.more: asyncio.Future[None] | None = None
        """A stream that waits for credit."""


class Runs:
    """The calls that run in this process.

    Args:
        functions: by name.
        place: what calls see of the process.
        send: takes `Item`s and `Done`s.
        executor: for sync functions.
        before_done: called with a call's number before its `Done` is sent.
    """

    __slots__ = (
        "_before_done",
        "_executor",
        "_functions",
        "_place",
        "_runs",
        "_send",
        "_timer",
        "_timer_at_s",
        "idle",
    )

    def __init__(
        self,
        functions: Mapping[str, AnyFunction],
        place: Place,
        *,
        send: Callable[[CallMessage], object],
        executor: Executor,
        before_done: Callable[[int], None],
    ) -> None:
        self._functions = functions
        self._place = place
        self._send = send
        self._executor = executor
        self._before_done = before_done
        self._runs: dict[int, Run] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at_s = math.inf
        self.idle = asyncio.Event()
        """Set while nothing runs."""
        self.idle.set()

    @property
    def count(self) -> int:
        """Calls that run now."""
        return len(self._runs)

    @property
    def running(self) -> list[Run]:
        """Them."""
        return list(self._runs.values())

    def on_start(self, start: Start, *, came_s: float | None = None) -> None:
        """Begin a call, that came just now or a while ago."""
        function = self._functions.get(start.function)
        if function is None:
            known = ", ".join(sorted(name for name in self._functions if name[0] != "$"))
            self._send(failed(start.call, UnknownFunction(start.function, f" (it has {known})")))
            return
        timeout_s = start.deadline_ms / 1_000 or function.options.timeout_s
        context = Context(
            self._place,
            function=start.function,
            call_id=start.call_id,
            deadline_s=(time.monotonic() if came_s is None else came_s) + timeout_s,
            attempt=start.attempt,
            depth=start.depth,
            token=start.token,
            trace=start.trace,
            call=start.call,
        )
        run = self._runs[start.call] = Run(start, context, timeout_s)
        self.idle.clear()
        if context.deadline_s < self._timer_at_s:
            self._set_timer(context.deadline_s)
        if came_s is not None and context.left_s <= 0.0:
            run.reason = CallTimeout(start.function, timeout_s)
        if self._is_for_a_thread(start, function):
            self._begin_in_thread(run, function)
        else:
            run.task = self._place.loop.create_task(self._live(run, function))

    def _is_for_a_thread(self, start: Start, function: AnyFunction) -> bool:
        """Whether all there is to do on the loop is done at once: then it needs no task."""
        return not (
            function.is_async
            or function.yields
            or start.encoding == Encoding.REFERENCE
            or self._place.spans is not None
            or (function.signature.context_name is not None and self._place.connecting)
        )

    def on_cancel(self, cancel: Cancel) -> None:
        """Nobody wants a call any more."""
        run = self._runs.get(cancel.call)
        if run is not None:
            self._end(run, CallCancelled(run.start.function, cancel.reason))

    def on_credit(self, credit: Credit) -> None:
        """A stream may go on."""
        run = self._runs.get(credit.call)
        if run is not None:
            run.credit += credit.items
            if run.more is not None and not run.more.done():
                run.more.set_result(None)

    def cancel_all(self, reason: str) -> None:
        """Nobody wants anything any more."""
        for run in tuple(self._runs.values()):
            self._end(run, CallCancelled(run.start.function, reason))

    def _set_timer(self, at_s: float) -> None:
        """One timer for all deadlines: most calls are over long before theirs."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at_s = at_s
        delay_s = max(0.0, at_s - time.monotonic())
        self._timer = self._place.loop.call_later(delay_s, self._end_overdue)

    def _end_overdue(self) -> None:
        self._timer, self._timer_at_s = None, math.inf
        now_s, next_s = time.monotonic(), math.inf
        for run in tuple(self._runs.values()):
            if run.context.deadline_s <= now_s:
                self._end(run, CallTimeout(run.start.function, run.timeout_s))
            else:
                next_s = min(next_s, run.context.deadline_s)
        if next_s < math.inf:
            self._set_timer(next_s)

    def _end(self, run: Run, reason: BokilogError) -> None:
        if run.reason is not None:
            return
        run.reason = reason
        run.context.cancel()
        # A task that has not begun looks itself; one whose code runs in a thread waits for it.
        if run.begun and run.task is not None:
            run.task.cancel()

    # --- one call ---

    async def _live(self, run: Run, function: AnyFunction) -> None:
        current.set(run.context)
        begun_ns, pid = time.perf_counter_ns(), os.getpid()
        try:
            if run.reason is not None:
                raise run.reason
            run.begun = True
            encoding, payload = await self._traced(run, function)
            end_if_forked(pid, function.name)
            told: WireError = []
        except BaseException as error:
            # SystemExit and its like too: a function that raises them ends its call, not others'.
            end_if_forked(pid, function.name, error)
            encoding, payload, told = self._failure(run, error)
        finally:
            run.begun = False
        self._over(run, encoding, payload, told, begun_ns)

    def _over(
        self, run: Run, encoding: int, payload: bytes, told: WireError, begun_ns: int
    ) -> None:
        start = run.start
        ran_us = (time.perf_counter_ns() - begun_ns) // 1_000
        del self._runs[start.call]
        self._before_done(start.call)
        token = run.context.seen()
        try:
            self._send(Done(start.call, encoding, token, told, 0, ran_us, False, payload))
        except BokilogError as error:  # over a limit of the wire: then nothing was sent
            self._send(failed(start.call, ResultUnusable(start.function, f"is too large: {error}")))
        if not self._runs:
            self.idle.set()

    # --- one call of a function that is not async, without a task ---

    def _begin_in_thread(self, run: Run, function: AnyFunction) -> None:
        begun_ns = time.perf_counter_ns()
        context = copy_context()
        try:
            context.run(current.set, run.context)
            if run.reason is not None:
                raise run.reason
            body = context.run(self._bound, run, function)
            self._executor.submit(self._run_body, run, function, body, context, begun_ns)
        except BaseException as error:
            self._over(run, *self._failure(run, error), begun_ns)

    def _bound(self, run: Run, function: AnyFunction) -> Callable[[], object]:
        start = run.start
        positional, named = function.values.decode_arguments(start.encoding, start.payload)
        function.signature.with_context(run.context, positional, named)
        return partial(cast("Body", function.body), *positional, **named)

    def _run_body(
        self,
        run: Run,
        function: AnyFunction,
        body: Callable[[], object],
        context: VariablesOfCall,
        begun_ns: int,
    ) -> None:
        value, error = context.run(_outcome, run, body)
        self._place.loop.call_soon_threadsafe(
            self._thread_over, run, function, value, error, begun_ns, context=context
        )

    def _thread_over(
        self,
        run: Run,
        function: AnyFunction,
        value: object,
        error: BaseException | None,
        begun_ns: int,
    ) -> None:
        told: WireError = []
        try:
            if error is not None:
                raise error
            if run.reason is not None:
                raise run.reason
            encoding, payload = _encoded(run, function, value, asked=run.start.encoding)
        except BaseException as failure:
            encoding, payload, told = self._failure(run, failure)
        if len(payload) > references.BY_REFERENCE_BYTES and not told:
            large = self._keep_large(run, encoding, payload, begun_ns)
            run.task = self._place.loop.create_task(large)
        else:
            self._over(run, encoding, payload, told, begun_ns)

    async def _keep_large(self, run: Run, encoding: int, payload: bytes, begun_ns: int) -> None:
        told: WireError = []
        current.set(run.context)
        try:
            run.begun = True
            encoding, payload = await self._carried(run, encoding, payload)
        except BaseException as error:
            encoding, payload, told = self._failure(run, error)
        finally:
            run.begun = False
        self._over(run, encoding, payload, told, begun_ns)

    # --- its parts ---

    async def _traced(self, run: Run, function: AnyFunction) -> tuple[int, bytes]:
        spans = self._place.spans
        if spans is None:
            return await self._result(run, function)
        with spans.of_call(run.start, self._place.app) as run.context.trace:
            return await self._result(run, function)

    async def _result(self, run: Run, function: AnyFunction) -> tuple[int, bytes]:
        start, values = run.start, function.values
        encoding, payload = start.encoding, start.payload
        if encoding == Encoding.REFERENCE:
            log = await self._place.connected_log()
            if log is None:
                raise NotSupported(start.function, "its arguments are a record: there is no log")
            encoding, payload = await references.fetch(log, payload, run.context.session_for(log))
        positional, named = values.decode_arguments(encoding, payload)
        if function.signature.context_name is not None:
            await self._place.connected_log()
            function.signature.with_context(run.context, positional, named)
        body = cast("Body", function.body)
        if function.yields:
            if function.yields_async:
                items = cast("AsyncIterator[object]", body(*positional, **named))
            else:
                made = cast("generator_thread.Body", lambda: body(*positional, **named))
                items = generator_thread.items_of(self._executor, made)
            if start.flags & _STREAM:
                await self._stream(run, function, items, encoding)
                return END_OF_STREAM
            value: object = [each async for each in items]
        elif function.is_async:
            value = await cast("asyncio.Future[object]", body(*positional, **named))
        else:
            value = await self._in_thread(run, lambda: body(*positional, **named))
        return await self._carried(run, *_encoded(run, function, value, asked=encoding))

    async def _stream(
        self, run: Run, function: AnyFunction, items: AsyncIterator[object], asked: int
    ) -> None:
        index, pid = 0, os.getpid()
        async with aclosing(items):  # type: ignore[type-var]  # generators are what has `aclose`
            async for value in items:
                end_if_forked(pid, function.name)
                while run.credit <= 0:
                    run.more = self._place.loop.create_future()
                    await run.more
                    run.more = None
                run.credit -= 1
                encoded = function.values.encode_result(value, asked)
                encoding, payload = await self._carried(run, *encoded)
                self._send(Item(run.start.call, index, encoding, payload))
                index += 1

    async def _in_thread(self, run: Run, body: Callable[[], object]) -> object:
        context = copy_context()
        running = self._place.loop.run_in_executor(self._executor, context.run, _outcome, run, body)
        run.begun = False  # from here on the thread is asked, not the task cancelled
        value, error = await running
        if error is not None:
            raise error
        if run.reason is not None:
            raise run.reason
        return value

    async def _carried(self, run: Run, encoding: int, payload: bytes) -> tuple[int, bytes]:
        if len(payload) <= references.BY_REFERENCE_BYTES:
            return encoding, payload  # most are: they need not await anything
        try:
            return await references.carried(
                run.context, self._place.app, encoding=encoding, payload=payload
            )
        except RecordTooLarge as error:
            raise ResultUnusable(run.start.function, f"is {error}") from error

    def _failure(self, run: Run, error: BaseException) -> tuple[int, bytes, WireError]:
        if run.reason is not None:
            return Encoding.PICKLE, b"", to_wire(run.reason)
        if isinstance(error, BokilogError) and _is_ours(error.__traceback__):
            return Encoding.PICKLE, b"", to_wire(error)
        return Encoding.PICKLE, _pickled(error), to_wire(_told(run.start.function, error))


def _outcome(run: Run, body: Callable[[], object]) -> tuple[object, BaseException | None]:
    """In a thread: what came of the user's code."""
    if run.reason is not None:
        return None, run.reason
    pid = os.getpid()
    try:
        value = body()
    except BaseException as error:  # whatever it is, it belongs to the call
        end_if_forked(pid, run.start.function, error)
        return None, error
    end_if_forked(pid, run.start.function)
    return value, None


def _encoded(run: Run, function: AnyFunction, value: object, *, asked: int) -> tuple[int, bytes]:
    """The result of one that is no generator, or was not asked for its values."""
    encoded: tuple[int, bytes] = function.values.encode_result(value, asked)
    if encoded == END_OF_STREAM and run.start.flags & _STREAM:
        return Encoding.JSON, b"null"  # the same value, and not the end of a generator
    return encoded


def _is_ours(trace: TracebackType | None) -> bool:
    """Whether the user's code had not begun: then the error is about the call itself."""
    last = None
    while trace is not None:
        last, trace = trace.tb_frame.f_globals.get("__name__", ""), trace.tb_next
        if not str(last).startswith(_OURS):
            return False
    return True


_RUN_BY: Final = (__name__, generator_thread.__name__)
"""Frames between the process and the user's code, of which nobody wants to know."""
_OURS: Final = ("bokilog.functions.runtime", "bokilog.client", "bokilog.codec")


def _told(function: str, error: BaseException) -> FunctionFailed:
    """What is said of an exception where it cannot be sent itself."""
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_globals.get("__name__") in _RUN_BY:
        trace = trace.tb_next
    try:
        lines = "".join(traceback.format_exception(type(error), error, trace))
        problem = str(error)
    except BaseException as unsayable:  # the exception's own `__str__` raised
        problem = f"(its text cannot be made: {type(unsayable).__name__})"
        lines = "".join([*traceback.format_tb(trace), f"{type(error).__name__}: {problem}\n"])
    if len(lines) > TRACE_CHARACTERS_MAX:
        lines = f"...\n{lines[-TRACE_CHARACTERS_MAX:]}"
    return FunctionFailed(function, type(error).__name__, problem[:TRACE_CHARACTERS_MAX], lines)


def _pickled(error: BaseException) -> bytes:
    notes = getattr(error, "__notes__", None)
    try:
        if notes is not None:
            # What calls within this one have said is in the traceback's text already.
            error.__notes__ = [each for each in notes if not each.startswith(NOTE)]
        data: bytes = cloudpickle.dumps(error)
    except BaseException:  # it holds something that cannot travel: then its text has to do
        return b""
    finally:
        if notes is not None:
            error.__notes__ = notes
    return data if len(data) <= EXCEPTION_BYTES_MAX else b""
