"""An app run in this very process, for tests: `app.local()`.

Decides nothing that workers do not: calls go through the same messages, values make the same round
trip, deadlines, cancellation and sessions are the same; there is one process, though, and calls are
not limited. The log is in memory unless one is given. Does not know: hosts.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from types import TracebackType
from typing import Final, Protocol, Self, cast

from bokilog.client.admin import ClientLog
from bokilog.client.connect import connect
from bokilog.functions.runtime.caller import HostCalls, OpenCall, Request
from bokilog.functions.runtime.context import Place
from bokilog.functions.runtime.function import AnyFunction
from bokilog.functions.runtime.messages import (
    DEPTH_MAX,
    CallMessage,
    Cancel,
    Credit,
    Done,
    FunctionRows,
    Item,
    Start,
    StartMany,
)
from bokilog.functions.runtime.process_caller import ProcessCaller
from bokilog.functions.runtime.run_call import Runs
from bokilog.functions.runtime.tracing import spans

_DURABLE_HOME: Final = "bokilog.functions.calls.node"
THREADS_MAX: Final = 2 * DEPTH_MAX
"""Calls within calls hold one each, and must not wait for one another for ever."""
END_TIMEOUT_S: Final = 5.0


class Runnable(Protocol):
    """What this needs of an app."""

    name: str
    connection: ProcessCaller | None

    @property
    def functions(self) -> Mapping[str, AnyFunction]:
        """By name."""
        ...

    def run_here(self) -> None:
        """This process runs its calls."""
        ...

    def run_inits(self) -> Awaitable[None]:
        """What runs once before any call."""
        ...

    def run_worker_inits(self) -> Awaitable[None]:
        """What runs once in each worker."""
        ...


class LocalApp:
    """An app in this process: an async context manager.

    Args:
        app: the app.
        log: what its calls see; None: one in memory, opened when it is first needed.
    """

    __slots__ = (
        "_app",
        "_before",
        "_durable",
        "_executor",
        "_log",
        "_loop",
        "_opening",
        "_place",
        "caller",
        "runs",
    )

    def __init__(self, app: Runnable, *, log: ClientLog | None) -> None:
        self._app = app
        self._log = log
        self._opening: asyncio.Task[ClientLog] | None = None
        self._durable: asyncio.Task[Durable] | None = None

    async def __aenter__(self) -> Self:
        app = self._app
        self._loop = loop = asyncio.get_running_loop()
        self._executor = ThreadPoolExecutor(THREADS_MAX, thread_name_prefix="function")
        self._place = Place(
            app=app.name,
            host="",
            calls=HostCalls(self._to_runs, loop),
            loop=loop,
            open_log=self.log,
            log=self._log,
            before_spawn=self._have_durable,
        )
        self.runs = Runs(
            app.functions,
            self._place,
            send=self._to_caller,
            executor=self._executor,
            before_done=lambda _: None,
        )
        self.caller = ProcessCaller(self._place, known=frozenset(app.functions))
        app.run_here()
        await app.run_inits()
        await app.run_worker_inits()
        self._place.spans = spans()
        self._before, app.connection = app.connection, self.caller
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._app.connection is self.caller:
            self._app.connection = self._before
        if self._durable is not None:
            await (await self._durable).aclose(0.0)
        self.runs.cancel_all("the local app has ended")
        try:
            async with asyncio.timeout(END_TIMEOUT_S):
                await self.runs.idle.wait()
        except TimeoutError:
            pass  # a function that does not let itself be ended: its thread or task is left alone
        self._place.calls.lost("the local app has ended")
        self._executor.shutdown(wait=False, cancel_futures=True)
        if self._opening is not None:
            await (await self._opening).aclose()

    async def log(self) -> ClientLog:
        """The log that calls see."""
        if self._log is not None:
            return self._log
        if self._opening is None:
            self._opening = self._loop.create_task(_memory_log())
        return await asyncio.shield(self._opening)

    # --- durable calls, as far as somebody makes them ---

    async def _have_durable(self) -> None:
        if self._durable is None:
            self._durable = self._loop.create_task(self._start_durable())
        await asyncio.shield(self._durable)

    async def _start_durable(self) -> Durable:
        made = import_module(_DURABLE_HOME).DurableCalls
        durable = cast("Durable", made(await self.log(), self._app.name, self, "local"))
        await durable.start()
        return durable

    def start(self, start: Start, *, on_item: Callable[[Item], None] | None = None) -> LocalRunning:
        """As a host runs what durable calls want to be run."""
        function = self._app.functions.get(start.function)
        default_s = function.options.timeout_s if function is not None else 1.0
        request = Request(
            start.function,
            start.encoding,
            start.deadline_ms / 1_000 or default_s,
            start.depth,
            start.attempt,
            start.flags,
            start.call_id,
            start.token,
            start.trace,
        )
        opened = self._place.calls.start(request, start.payload)
        opened.on_item = on_item
        return LocalRunning(self._place.calls, opened)

    def functions(self) -> FunctionRows:
        """What can be called."""
        return [function.row for function in self._app.functions.values()]

    # --- between the caller and what runs ---

    def _to_runs(self, message: CallMessage) -> bool:
        # Later, as over a link: whoever calls goes on first.
        self._loop.call_soon(self._deliver, message)
        return True

    def _to_caller(self, message: CallMessage) -> None:
        self._loop.call_soon(self._deliver, message)

    def _deliver(self, message: CallMessage) -> None:
        match message:
            case Start():
                self.runs.on_start(message)
            case StartMany():
                for start in each_start(message):
                    self.runs.on_start(start)
            case Cancel():
                self.runs.on_cancel(message)
            case Credit():
                self.runs.on_credit(message)
            case Done():
                self._place.calls.on_done(message)
            case Item():
                self._place.calls.on_item(message)
            case _:
                raise AssertionError(f"nobody here says {type(message).__name__}")


class Durable(Protocol):
    """What this needs of `functions/calls/node.py`, which stands upon this folder."""

    async def start(self) -> None:
        """Begin to claim calls."""
        ...

    async def aclose(self, drain_s: float) -> None:
        """Claim nothing more."""
        ...


class LocalRunning:
    """A call that the durable calls have started."""

    __slots__ = ("_calls", "_opened")

    def __init__(self, calls: HostCalls, opened: OpenCall) -> None:
        self._calls = calls
        self._opened = opened

    @property
    def done(self) -> asyncio.Future[Done]:
        """What came of it."""
        return self._opened.done

    def credit(self, count: int) -> None:
        """So many more items may come."""
        self._calls.credit(self._opened, count)

    def cancel(self, reason: str) -> None:
        """It is not wanted any more."""
        self._calls.cancel(self._opened, reason)


async def _memory_log() -> ClientLog:
    return await connect("memory:")


def each_start(many: StartMany) -> list[Start]:
    """The calls that one message starts."""
    return [
        Start(
            many.first_call + place,
            many.function,
            many.encoding,
            many.deadline_ms,
            many.depth,
            0,
            many.flags,
            f"{many.first_call_id}.{place}",
            many.token,
            many.trace,
            payload,
        )
        for place, payload in enumerate(many.payloads)
    ]
