"""A worker: the process that runs calls of one function.

Decides how the process starts after its fork, what it does with what its host says, and when it
ends. It ends with its host's link, and at once: threads of the user's code are not waited for.

Invariants: whatever the user's code raises ends a call, never the worker; nothing of the template
is shared with other workers but memory. Does not know: how it was forked (`template.py`), which
calls it gets.
"""

from __future__ import annotations

import asyncio
import os
import random
import sys
import time
import traceback
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass
from typing import Final

from bokilog.call_errors import CallCancelled
from bokilog.client.admin import ClientLog
from bokilog.client.connect import connect
from bokilog.errors import BokilogError
from bokilog.framing import WireMessage
from bokilog.functions.runtime.app import App
from bokilog.functions.runtime.caller import HostCalls, failed
from bokilog.functions.runtime.context import Place, current_call
from bokilog.functions.runtime.messages import (
    CALLS_VERSION,
    CallMessage,
    Cancel,
    Credit,
    Done,
    Greeting,
    Item,
    Output,
    PartRows,
    Pulse,
    Recall,
    Retire,
    Returned,
    Start,
    WorkerReady,
    decode,
    encode,
)
from bokilog.functions.runtime.output import Captured, Stream
from bokilog.functions.runtime.process_caller import ProcessCaller
from bokilog.functions.runtime.run_call import Runs
from bokilog.functions.runtime.tracing import spans
from bokilog.functions.runtime.turns import Turns
from bokilog.io.link import Link, LinkCallbacks
from bokilog.io.transport import dial, redial_delay_s

try:
    import uvloop  # now: in a worker it would be imported anew each time
except ImportError:  # not built for this system
    uvloop = None  # type: ignore[assignment]

CONNECT_TIMEOUT_S: Final = 5.0
"""Of one attempt to reach the node's engine; tried again for as long as the worker lives."""
CLOGGED_S: Final = 0.001
"""A host that does not read is looked at again so soon."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSettings:
    """What a worker is told by its template."""

    address: str
    """Of its host."""
    number: int
    function: str
    """Whose calls it gets."""
    engine: str
    """The URL of the node's log; empty: there is none."""
    host: str
    """The host's name."""


class Worker:
    """One worker, on the running loop."""

    def __init__(self, app: App, settings: WorkerSettings, parts: PartRows) -> None:
        self._app = app
        self._settings = settings
        self._parts = parts
        self._began_ns = time.perf_counter_ns()
        loop = asyncio.get_running_loop()
        self._loop = loop
        self._link: Link | None = None
        self._ended = asyncio.Event()
        self._opening: asyncio.Task[ClientLog] | None = None
        calls = HostCalls(self._send, loop)
        self._place = Place(
            app=app.name,
            host=settings.host,
            calls=calls,
            loop=loop,
            spans=spans(),
            open_log=self._open_log if settings.engine else None,
        )
        app.connection = ProcessCaller(self._place, known=frozenset(app.functions))
        function = app.functions.get(settings.function)
        threads_max = function.options.max_concurrency if function is not None else 1
        at_once = function.concurrency if function is not None else 1
        self._turns = Turns(1 if function is not None and function.options.fresh else at_once)
        self._next_due = False
        self._context = copy_context()
        """What calls begin with: nothing of those before them."""
        self._captured = Captured(current_call, self._say, loop.call_soon_threadsafe)
        self._runs = Runs(
            app.functions,
            self._place,
            send=self._told,
            # Threads start with the first call that needs one.
            executor=ThreadPoolExecutor(max(1, threads_max), thread_name_prefix="function"),
            before_done=self._captured.forget,
        )

    async def run(self, link: Link | None = None) -> None:
        """From the first message to the end of the host's link.

        Args:
            link: to the host, if there is one already.
        """
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, Stream):
                stream.captured = self._captured
        callbacks = LinkCallbacks(
            on_messages=self._on_messages, on_made=self._on_made, on_lost=self._on_lost
        )
        if link is None:
            await dial(self._settings.address, callbacks)
        else:
            link.hand_over(callbacks)
            if not link.up:
                return  # its end was told to others
            self._on_made(link)
        await self._ended.wait()
        self._captured.flush()
        if self._link is not None:
            await self._link.aclose()

    # --- the host ---

    def _on_made(self, link: Link) -> None:
        # Said with the preamble, not after the host's: that would be one more turn for each of us.
        self._link = link
        settings = self._settings
        self._send(
            Greeting(CALLS_VERSION, "worker", f"{os.getpid()}", self._app.name, settings.number)
        )
        started_us = (time.perf_counter_ns() - self._began_ns) // 1_000
        parts = [*self._parts, ["loop and link", started_us]]
        self._send(WorkerReady(settings.number, os.getpid(), parts))
        link.flush()
        if settings.engine:  # calls that come at once wait for it
            self._opening = self._loop.create_task(self._connect())

    def _on_messages(self, link: Link, messages: list[WireMessage]) -> None:
        for wire in messages:
            message = decode(wire)
            if isinstance(message, Start):
                if self._turns.came(message, time.monotonic()):
                    self._runs.on_start(message)
            elif isinstance(message, Done):
                self._place.calls.on_done(message)
            elif isinstance(message, Item):
                self._place.calls.on_item(message)
            elif isinstance(message, Credit):
                if not self._turns.credit(message):
                    self._runs.on_credit(message)
            elif isinstance(message, Cancel):
                self._on_cancel(message)
            elif isinstance(message, Recall):
                if self._turns.give_back(message.call):
                    self._send(Returned(message.call))
            elif isinstance(message, Pulse):
                self._send(message)
            elif isinstance(message, Retire):
                self._retiring = self._loop.create_task(self._retire())

    def _on_cancel(self, cancel: Cancel) -> None:
        if self._turns.give_up(cancel.call):
            error = CallCancelled(self._settings.function, cancel.reason)
            self._send(failed(cancel.call, error))
        else:
            self._runs.on_cancel(cancel)

    def _told(self, message: CallMessage) -> bool:
        sent = self._send(message)
        if isinstance(message, Done):
            self._turns.over()
            if self._turns.waiting_count and not self._next_due and self._link is not None:
                self._next_due = True
                self._link.flush()
                # In the next turn: uvloop writes when this one ends.
                self._loop.call_soon(self._begin_next, context=self._context)
        return sent

    def _begin_next(self) -> None:
        """What came ahead begins once the ends before it have left: if it is the end of this
        process, the host still gets them."""
        assert self._link is not None
        if self._link.unwritten_bytes:
            self._loop.call_later(CLOGGED_S, self._begin_next, context=self._context)
            return
        self._next_due = False
        while (next_one := self._turns.next()) is not None:
            self._runs.on_start(next_one.start, came_s=next_one.came_s)
            if next_one.credit:
                self._runs.on_credit(Credit(next_one.start.call, next_one.credit))

    def _on_lost(self, link: Link, error: Exception | None) -> None:
        self._place.calls.lost("the host has ended")
        self._ended.set()

    async def _retire(self) -> None:
        await self._runs.idle.wait()
        while self._turns.waiting_count:  # their turn has come, and what is before them leaves
            await asyncio.sleep(CLOGGED_S)
            await self._runs.idle.wait()
        self._ended.set()

    def _send(self, message: CallMessage) -> bool:
        return self._link is not None and self._link.send(*encode(message))

    def _say(self, call: int, stream: int, written: str) -> None:
        self._send(Output(call, stream, written))

    # --- the log ---

    async def _open_log(self) -> ClientLog:
        # Shielded: a call that is cancelled while it waits must not end what others wait for.
        assert self._opening is not None, "calls come after the start"
        return await asyncio.shield(self._opening)

    async def _connect(self) -> ClientLog:
        failures = 0
        while True:
            try:
                log = await connect(self._settings.engine, connect_timeout_s=CONNECT_TIMEOUT_S)
                self._place.log = log
                return log
            except BokilogError as error:
                if not failures:
                    sys.stderr.write(f"no engine yet: {error}\n")
                await asyncio.sleep(redial_delay_s(failures, random.random()))
                failures += 1


def run_worker(app: App, settings: WorkerSettings, parts: PartRows) -> int:
    """Be a worker until the host goes; the exit code of the process, which has to end by
    `os._exit`: threads of the user's code may never end."""
    return live(app, _run(app, settings, parts), f"worker {settings.number}")


def live(app: App, life: Coroutine[object, object, None], name: str) -> int:
    """Run what a worker does on a loop of its own, until it is over; the exit code."""
    app.run_here()
    _reseed()
    loop = new_loop()
    asyncio.set_event_loop(loop)
    main = loop.create_task(life)
    while not main.done():
        try:
            loop.run_until_complete(main)
        except (SystemExit, KeyboardInterrupt, RuntimeError, BokilogError) as error:
            if main.done():
                sys.stderr.write(f"{name}: {error}\n")
                return 1
            # Of a task that the user's code started and nobody waits for, or it has stopped the
            # loop: not the worker's end.
            traceback.print_exc()
    return 0


async def _run(app: App, settings: WorkerSettings, parts: PartRows) -> None:
    await app.run_worker_inits()
    await Worker(app, settings, parts).run()


def _reseed() -> None:
    """Workers of one template must not draw the same random numbers; `random` sees to it itself."""
    numpy_random = sys.modules.get("numpy.random")
    if numpy_random is not None:
        numpy_random.seed()


def new_loop() -> asyncio.AbstractEventLoop:
    """A loop as workers have it."""
    return uvloop.new_event_loop() if uvloop is not None else asyncio.new_event_loop()
