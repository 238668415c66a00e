"""What a host sees of its workers' processes from outside: the memory they take, and silence.

Decides how often it looks, and what of a worker's memory counts: what it has taken since it was
ready, so that what it shares with its template does not. What follows is the scheduler's to say;
when a silence has lasted too long, `pulses.py`'s.

Invariants: a worker that is gone is looked at no more. Does not know calls, pools, limits.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from bokilog.functions.runtime.connections import Connections
from bokilog.functions.runtime.effects import MemoryUsed, WorkerSilent
from bokilog.functions.runtime.messages import Pulse, WorkerReady
from bokilog.functions.runtime.process_settings import HostSettings
from bokilog.functions.runtime.processes import anonymous_bytes
from bokilog.functions.runtime.pulses import ASK_S, Pulses
from bokilog.functions.runtime.scheduler import Scheduler

logger = logging.getLogger(__name__)


class WorkerWatch:
    """Looks at the workers of one host.

    Args:
        settings: how often, and how long a silence may last.
        workers: knows which there are; only asked.
        connections: to them.
        deliver: takes what was seen.
    """

    def __init__(
        self,
        settings: HostSettings,
        *,
        workers: Scheduler,
        connections: Connections,
        deliver: Callable[[MemoryUsed | WorkerSilent], None],
    ) -> None:
        self._settings = settings
        self._workers = workers
        self._connections = connections
        self._deliver = deliver
        self._pulses = Pulses(settings.worker_silent_s)
        self._first_bytes: dict[int, int] = {}
        """What each had when it was ready."""

    def ready(self, ready: WorkerReady) -> None:
        """What it has now is its template's."""
        had_bytes = anonymous_bytes(ready.pid)
        if had_bytes is not None:
            self._first_bytes[ready.worker] = had_bytes

    def answered(self, worker: int) -> None:
        """Its loop turns."""
        self._pulses.answered(worker)

    def ended(self, worker: int) -> None:
        """It is gone."""
        self._first_bytes.pop(worker, None)

    async def memory(self) -> None:
        """Looks at their memory, for ever."""
        while True:
            await asyncio.sleep(self._settings.memory_poll_s)
            self.look_at_memory()

    def look_at_memory(self) -> None:
        """Once, at those whose memory has a limit."""
        for number, pid in self._workers.watched():
            now_bytes = anonymous_bytes(pid)
            if now_bytes is None:
                continue
            used_bytes = now_bytes - self._first_bytes.setdefault(number, now_bytes)
            if used_bytes > 0:
                self._deliver(MemoryUsed(number, used_bytes))

    async def pulses(self) -> None:
        """Asks whether their loops turn, for ever."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(min(ASK_S, self._settings.worker_silent_s))
            self.look_at_pulses(loop.time())

    def look_at_pulses(self, now_s: float) -> None:
        """Once, at those that run several calls at a time."""
        ask, silent = self._pulses.look(self._workers.shared(), now_s)
        for number in ask:
            self._connections.send(("worker", number), Pulse(number))
        self._connections.flush()
        for number in silent:
            logger.warning("worker %d stands still: new calls go to others", number)
            self._deliver(WorkerSilent(number))
