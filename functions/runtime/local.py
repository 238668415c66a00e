"""An app run in this very process, for tests: `app.local()`.

Decides nothing that workers do not: calls go through the same messages, values make the same round
trip, deadlines, cancellation and sessions are the same; there is one process, though, and calls are
not limited. The log is in memory unless one is given. Does not know: hosts.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Mapping
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Final, Protocol, Self

from bokilog.client.admin import ClientLog
from bokilog.client.connect import connect
from bokilog.functions.runtime.caller import HostCalls
from bokilog.functions.runtime.context import Place
from bokilog.functions.runtime.function import AnyFunction
from bokilog.functions.runtime.messages import (
    CallMessage,
    Cancel,
    Credit,
    Done,
    Item,
    Start,
    StartMany,
)
from bokilog.functions.runtime.process_caller import ProcessCaller
from bokilog.functions.runtime.run_call import Runs

THREADS_MAX: Final = 32
END_TIMEOUT_S: Final = 5.0


class Runnable(Protocol):
    """What this needs of an app."""

    name: str
    connection: ProcessCaller | None

    @property
    def functions(self) -> Mapping[str, AnyFunction]:
        """By name."""
        ...

    def run_inits(self) -> Awaitable[None]:
        """What runs once before any call."""
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
        )
        self.runs = Runs(
            app.functions,
            self._place,
            send=self._to_caller,
            executor=self._executor,
            before_done=lambda _: None,
        )
        self.caller = ProcessCaller(self._place, known=frozenset(app.functions))
        await app.run_inits()
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
