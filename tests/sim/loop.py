"""Virtual time: one heap of what happens next, and an event loop per process that lives on it.

Decides the order in which things happen: by time, and at one time by the order in which they were
asked for. Everything random comes from generators named by the seed, one per concern, so that a
change of the workload does not move the faults.

Invariants: nothing here reads a clock, and nothing runs in a thread; one action at a time; a dead
process runs nothing more, a paused one runs later what it would have run, in order.

Does not know: nodes, messages, what is right.
"""

from __future__ import annotations

import asyncio
import contextvars
import itertools
import random
from asyncio.events import _get_running_loop, _set_running_loop
from collections.abc import Callable, Coroutine, Generator
from heapq import heappop, heappush
from typing import TYPE_CHECKING, Any, TypeVar, TypeVarTuple

from xxhash import xxh3_64

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

NOTED_MAX = 1_000

if TYPE_CHECKING:
    _Loop = asyncio.BaseEventLoop  # only a type checker minds what is left out here
else:
    _Loop = asyncio.AbstractEventLoop


class World:
    """Time, chance, and what was seen."""

    def __init__(self, seed: int, *, traced: bool = False) -> None:
        self.seed = seed
        self.now_s = 0.0
        self.violations: list[str] = []
        self.lines: list[str] = []
        """The trace; kept only if asked for. Its digest is always."""
        self.steps = 0
        self.reached: dict[str, int] = {}
        """How often what seldom happens did."""
        self._digest = xxh3_64()
        self._noted: list[str] = []
        """Lines that are not in the digest yet: many at once are cheaper than one by one."""
        self._traced = traced
        self._heap: list[tuple[float, int, Callable[[], object]]] = []
        self._order = itertools.count()

    def chance(self, concern: str) -> random.Random:
        """A generator of its own for a concern."""
        return random.Random(f"{self.seed} {concern}")

    def at(self, time_s: float, action: Callable[[], object]) -> None:
        """Have something happen at a time, or now if that is past."""
        now_s = self.now_s
        heappush(self._heap, (time_s if time_s > now_s else now_s, next(self._order), action))

    def later(self, delay_s: float, action: Callable[[], object]) -> None:
        """Have something happen after a delay, which is not negative."""
        heappush(self._heap, (self.now_s + delay_s, next(self._order), action))

    def step(self) -> None:
        self.now_s, _, action = heappop(self._heap)
        self.steps += 1
        action()

    def run(self, until: Callable[[], bool], *, limit_s: float) -> bool:
        """Let things happen until something holds; False if it does not within `limit_s`, or a
        rule was broken."""
        end_s = self.now_s + limit_s
        while not self.violations and not until():
            if not self._heap or self._heap[0][0] > end_s:
                self.now_s = end_s
                return False
            self.step()
        return not self.violations

    def run_until(self, end_s: float) -> None:
        """Let time pass, up to the first thing that happens at `end_s`; a broken rule stops it."""
        heap, violations = self._heap, self.violations
        while self.now_s < end_s and not violations:
            if not heap or heap[0][0] > end_s:
                self.now_s = end_s
                return
            self.now_s, _, action = heappop(heap)
            self.steps += 1
            action()

    def note(self, line: str) -> None:
        """What happened, for people and for comparing two runs."""
        line = f"{self.now_s:10.6f} {line}"
        self._noted.append(line)
        if len(self._noted) >= NOTED_MAX:
            self._digest_noted()
        if self._traced:
            self.lines.append(line)

    def _digest_noted(self) -> None:
        self._digest.update("".join(self._noted).encode())
        self._noted.clear()

    def reach(self, what: str) -> None:
        """Something happened that a run may well go without."""
        self.reached[what] = self.reached.get(what, 0) + 1

    def violation(self, text: str) -> None:
        """A rule was broken."""
        self.note(f"VIOLATION {text}")
        self.violations.append(f"at {self.now_s:.6f} s: {text}")

    @property
    def digest(self) -> str:
        """Of the whole trace."""
        self._digest_noted()
        return self._digest.hexdigest()


class _Handle:
    """A callback of a loop that waits for its time: all that tasks, our shells and clients need of
    an `asyncio.Handle`, and about half as dear, which counts as most of what happens is one."""

    __slots__ = ("_args", "_callback", "_context", "_loop", "over")

    def __init__(
        self,
        loop: ProcessLoop,
        callback: Callable[..., object],
        args: tuple[object, ...],
        context: contextvars.Context | None,
    ) -> None:
        self.over = False
        """Cancelled."""
        self._loop = loop
        self._callback = callback
        self._args = args
        self._context = context

    def cancel(self) -> None:
        self.over = True

    def cancelled(self) -> bool:
        return self.over

    def fire(self) -> None:
        """Its time has come: it runs, unless the process does not."""
        loop = self._loop
        if loop.dead or self.over:
            return
        if loop.paused:
            loop.stalled.append(self)
            return
        before = _get_running_loop()
        _set_running_loop(loop)
        try:
            self.run()
        finally:
            _set_running_loop(before)

    def run(self) -> None:
        """Now; what it raises is its process's fault."""
        try:
            if self._context is None:
                self._callback(*self._args)
            else:
                self._context.run(self._callback, *self._args)
        except (Exception, asyncio.CancelledError) as error:
            self._loop.failed(self._callback, error)


class ProcessLoop(_Loop):
    """The event loop of one life of one process, as far as our shells and clients use one."""

    def __init__(self, world: World, name: str) -> None:
        self.name = name
        self.dead = False
        self.paused = False
        self.stalled: list[_Handle] = []
        """What would have run meanwhile."""
        self._world = world
        self._tasks: set[asyncio.Task[Any]] = set()
        self._task_order = itertools.count()
        self._ending: list[_Handle] | None = None

    # --- what asyncio and our shells call ---------------------------------------------------------

    def time(self) -> float:
        return self._world.now_s

    def call_soon(  # type: ignore[override]  # as below: a handle of our own
        self,
        callback: Callable[[*Ts], object],
        *args: *Ts,
        context: contextvars.Context | None = None,
    ) -> _Handle:
        return self._call(0.0, callback, args, context)

    def call_soon_threadsafe(  # type: ignore[override]
        self,
        callback: Callable[[*Ts], object],
        *args: *Ts,
        context: contextvars.Context | None = None,
    ) -> _Handle:
        return self._call(0.0, callback, args, context)

    def call_later(  # type: ignore[override]
        self,
        delay: float,
        callback: Callable[[*Ts], object],
        *args: *Ts,
        context: contextvars.Context | None = None,
    ) -> _Handle:
        return self._call(delay, callback, args, context)

    def call_at(  # type: ignore[override]
        self,
        when: float,
        callback: Callable[[*Ts], object],
        *args: *Ts,
        context: contextvars.Context | None = None,
    ) -> _Handle:
        return self._call(when - self._world.now_s, callback, args, context)

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)

    def create_task(
        self,
        coro: Generator[Any, None, T] | Coroutine[Any, Any, T],
        *,
        name: object = None,
        context: contextvars.Context | None = None,
    ) -> asyncio.Task[T]:
        task: asyncio.Task[T] = asyncio.Task(
            coro,
            loop=self,
            name=str(name or "") or f"{self.name} {next(self._task_order):06}",
        )
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return not self.dead

    def is_closed(self) -> bool:
        return self.dead

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        if self.dead:
            return
        error = context.get("exception")
        self._world.violation(f"{self.name}: {context.get('message')}: {error!r}")

    def failed(self, callback: object, error: BaseException) -> None:
        """A callback raised."""
        self.call_exception_handler({"message": f"in {callback!r}", "exception": error})

    # --- what the world does to it ----------------------------------------------------------------

    def inside(self, action: Callable[[], T]) -> T:
        """Do something as if in a callback of this loop."""
        before = _get_running_loop()
        _set_running_loop(self)
        try:
            return action()
        finally:
            _set_running_loop(before)

    def pause(self) -> None:
        self.paused = True

    def resume(self) -> None:
        self.paused = False
        stalled, self.stalled = self.stalled, []
        for handle in stalled:
            self._world.later(0.0, handle.fire)

    def end(self) -> None:
        """The process is gone: its tasks are cancelled here and now, so that whatever cleaning up
        they do has no part in what happens later."""
        self.dead = True
        ending: list[_Handle] = []
        self._ending = ending
        for task in sorted(self._tasks, key=lambda task: task.get_name()):
            task.cancel()
        for handle in ending:  # grows
            if not handle.over:
                self.inside(handle.run)
        self._ending = None

    def _call(
        self,
        delay_s: float,
        callback: Callable[..., object],
        args: tuple[object, ...],
        context: contextvars.Context | None,
    ) -> _Handle:
        handle = _Handle(self, callback, args, context)
        if self.dead:
            if self._ending is not None and delay_s <= 0:
                self._ending.append(handle)
            return handle
        self._world.later(delay_s if delay_s > 0.0 else 0.0, handle.fire)
        return handle
