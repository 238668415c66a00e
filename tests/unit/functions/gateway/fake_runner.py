"""A runner of calls for tests of the gateway: functions are Python callables of bytes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from bokilog.errors import BokilogError, to_wire
from bokilog.functions.runtime.messages import Done, FunctionRows, Item, Start

Answer = Callable[[Start], Awaitable[tuple[int, bytes]]]


@dataclass
class FakeRunning:
    """One call; its `done` is set by a task."""

    done: asyncio.Future[Done]
    task: asyncio.Task[None] | None = None
    cancelled: list[str] = field(default_factory=list)
    gone: asyncio.Event = field(default_factory=asyncio.Event)

    def credit(self, count: int) -> None:
        raise AssertionError("nothing here streams")

    def cancel(self, reason: str) -> None:
        self.cancelled.append(reason)
        self.gone.set()


class FakeRunner:
    """Runs `answers[name]`; an error of ours that it raises is the call's."""

    def __init__(self, answers: dict[str, Answer]) -> None:
        self.answers = answers
        self.started: list[Start] = []
        self.running: list[FakeRunning] = []

    def functions(self) -> FunctionRows:
        return [[name, {"timeout_s": 60.0}, "(x: int) -> int", "Help."] for name in self.answers]

    def start(self, start: Start, *, on_item: Callable[[Item], None] | None = None) -> FakeRunning:
        self.started.append(start)
        running = FakeRunning(asyncio.get_running_loop().create_future())
        running.task = asyncio.create_task(self._run(start, running))
        self.running.append(running)
        return running

    async def _run(self, start: Start, running: FakeRunning) -> None:
        error: list[object] = []
        encoding, payload = 0, b""
        try:
            encoding, payload = await self.answers[start.function](start)
        except BokilogError as failed:
            error = to_wire(failed)
        if not running.done.done():
            running.done.set_result(Done(0, encoding, start.token, error, 10, 20, False, payload))
