"""The attempts of durable calls that run on this host, each from its arguments to its end.

Decides what the usual call needs (it starts at once and has no task of its own) and what the others
need: arguments that are read from the log first, a stream whose values become records
(`yielded.py`), a result that becomes a record of its own, since it is too large for the last one of
its call or is kept for an hour only.

Invariants: the end of an attempt is told once, unless it was stopped before it began or its runner
was closed; a stream's end is told after its values are in the log. Does not know which attempts
should run, nor what their ends mean (`claims.py`), nor how a function is run (`runner.py`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Final, TypeAlias

from bokilog.call_errors import ResultUnusable
from bokilog.client.admin import ClientLog
from bokilog.errors import BokilogError, DataLost, to_wire
from bokilog.functions.calls.effects import Run, RunOver
from bokilog.functions.calls.records import Spawned, decode, is_large
from bokilog.functions.calls.spawning import keep
from bokilog.functions.calls.yielded import ItemRecords, Yielded
from bokilog.functions.runtime import references
from bokilog.functions.runtime.messages import Done, Encoding, Flag, Start
from bokilog.functions.runtime.runner import CallRunner, RunningCall
from bokilog.io.clock import Clock
from bokilog.limits import RECORD_BYTES_MAX
from bokilog.logbook import LogBook

_STREAM: Final = int(Flag.STREAM)  # an operator of an enum takes a microsecond
_DURABLE: Final = int(Flag.DURABLE)

AttemptKey: TypeAlias = tuple[str, int]
"""(call, number of its attempt)"""


class RunningAttempts:
    """What runs here.

    Args:
        log: of `book`; results by reference are fetched from it.
        book: of the app's calls.
        runner: runs functions.
        host: the name of this one.
        clock: for how long a run took.
        items: takes what runs yield.
        tell: takes the ends of runs.
        do: has a task work it off, which is cancelled at the end.
    """

    __slots__ = (
        "_book",
        "_clock",
        "_do",
        "_host",
        "_items",
        "_log",
        "_open",
        "_runner",
        "_running",
        "_tell",
    )

    def __init__(
        self,
        log: ClientLog,
        book: LogBook,
        runner: CallRunner,
        *,
        host: str,
        clock: Clock,
        items: ItemRecords,
        tell: Callable[[RunOver], None],
        do: Callable[[Coroutine[object, object, None]], None],
    ) -> None:
        self._log = log
        self._book = book
        self._runner = runner
        self._host = host
        self._clock = clock
        self._items = items
        self._tell = tell
        self._do = do
        self._open: set[AttemptKey] = set()
        """Neither stopped nor over."""
        self._running: dict[AttemptKey, RunningCall] = {}

    def run(self, effect: Run) -> None:
        """Begin an attempt."""
        key = effect.call_id, effect.attempt
        self._open.add(key)
        spawned, started_s = effect.spawned, self._clock.now_s()
        if spawned is None or spawned.flags & _STREAM:
            self._do(self._run_at_length(effect, started_s))
            return
        # The usual call needs no task: it starts now, and its result goes into its last record.
        self._running[key] = running = self._runner.start(_start(spawned, key[1]))
        running.done.add_done_callback(partial(self._ran, key, spawned.function, started_s))

    def stop(self, call_id: str, attempt: int, reason: str) -> None:
        """It is not wanted any more."""
        self._open.discard((call_id, attempt))
        running = self._running.get((call_id, attempt))
        if running is not None:
            running.cancel(reason)

    def stop_all(self, reason: str) -> None:
        """Nothing is."""
        for running in self._running.values():
            running.cancel(reason)

    # --- the usual call ---------------------------------------------------------------------------

    def _ran(
        self, key: AttemptKey, function: str, started_s: float, ran: asyncio.Future[Done]
    ) -> None:
        self._running.pop(key, None)
        if ran.cancelled():
            return  # the runner is closed
        done = ran.result()
        if done.encoding == Encoding.REFERENCE or is_large(done.payload):
            self._do(self._keep(key, function, started_s, done))
        else:
            self._over(key, started_s, done)

    async def _keep(self, key: AttemptKey, function: str, started_s: float, done: Done) -> None:
        try:
            done = await self._durable(key[0], function, done)
        except BokilogError as error:
            done = _failed(error)
        self._over(key, started_s, done)

    def _over(self, key: AttemptKey, started_s: float, done: Done) -> None:
        self._open.discard(key)
        ran_ms = int((self._clock.now_s() - started_s) * 1_000)
        self._tell(RunOver(*key, done, ran_ms))

    # --- what takes longer ------------------------------------------------------------------------

    async def _run_at_length(self, effect: Run, started_s: float) -> None:
        """A run whose arguments are to be read first, or that yields."""
        key = effect.call_id, effect.attempt
        try:
            spawned = effect.spawned or await self._arguments(effect)
            if key not in self._open:
                return  # stopped before it began
            done = await self._done_of(key, spawned)
            done = await self._durable(effect.call_id, spawned.function, done)
        except BokilogError as error:
            done = _failed(error)
        finally:
            self._running.pop(key, None)
        self._over(key, started_s, done)

    async def _arguments(self, effect: Run) -> Spawned:
        record = await self._book.read(effect.spawned_seqnum)
        spawned = None if record is None else decode(record.data)
        if not isinstance(spawned, Spawned):
            raise DataLost(effect.spawned_seqnum)
        return spawned

    async def _done_of(self, key: AttemptKey, spawned: Spawned) -> Done:
        start = _start(spawned, key[1])
        if not spawned.flags & _STREAM:
            self._running[key] = running = self._runner.start(start)
            return await asyncio.shield(running.done)
        items = Yielded()
        self._running[key] = running = self._runner.start(start, on_item=items.put)
        pump = asyncio.ensure_future(self._items.record(*key, items, running))
        running.done.add_done_callback(lambda _: items.close())
        try:
            done = await asyncio.shield(running.done)
            await pump
        finally:
            pump.cancel()
        return done

    async def _durable(self, call_id: str, function: str, done: Done) -> Done:
        """A result that is too large for its record, or kept for an hour only, becomes one."""
        encoding, payload = done.encoding, bytes(done.payload)
        if encoding == Encoding.REFERENCE:
            session = self._log.session(done.token or None)
            encoding, payload = await references.fetch(self._log, payload, session)
        if len(payload) > RECORD_BYTES_MAX:
            problem = f"of {len(payload)} bytes is more than a record holds ({RECORD_BYTES_MAX})"
            return done._replace(
                error=to_wire(ResultUnusable(function, problem)), encoding=0, payload=b""
            )
        if is_large(payload):
            encoding, payload = await keep(
                self._book, call_id, payload, encoding=encoding, host=self._host
            )
        return done._replace(encoding=encoding, payload=payload)


def _start(spawned: Spawned, attempt: int) -> Start:
    return Start(
        0,
        spawned.function,
        spawned.encoding,
        spawned.timeout_ms,
        spawned.depth,
        attempt,
        spawned.flags | _DURABLE,
        spawned.call_id,
        spawned.token,
        spawned.trace,
        spawned.payload,
    )


def _failed(error: BokilogError) -> Done:
    return Done(0, 0, "", to_wire(error), 0, 0, False, b"")
