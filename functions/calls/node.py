"""A host's part in the durable calls of its app: joins the claims core, the log and a runner.

Decides nothing that the core decides. It follows the tag `calls` (`replay.py`), carries out what
the core wants (appends, runs, cancellations), turns what a function yields into records, and keeps
the records that open calls still need from being trimmed, by a hold of the LogBook.

Invariants: what a run yields is recorded in order, before its end, and only while this host holds
the call; the end of a run comes to the core once. Whoever composes it (the host) says which hosts
and functions there are, and looks at `ended`: it is set when this part cannot go on.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections import deque
from collections.abc import Callable, Coroutine, Iterable
from contextlib import aclosing
from functools import partial
from typing import Final

from bokilog.call_errors import ResultUnusable
from bokilog.client.admin import ClientLog
from bokilog.errors import (
    AppendUnknown,
    BokilogError,
    Closed,
    ConditionFailed,
    DataLost,
    KeyReused,
    Trimmed,
    to_wire,
)
from bokilog.functions.calls.api import ensure_book, keep
from bokilog.functions.calls.claims import Claims, ClaimsSettings, ClaimsStats
from bokilog.functions.calls.effects import (
    Append,
    Appended,
    CapacityIs,
    CaughtUpNow,
    Changed,
    ClaimsEvent,
    Drain,
    FunctionsAre,
    HostsAre,
    NotAppended,
    Refused,
    Run,
    RunOver,
    StateReplaced,
    StopRun,
    WakeAt,
    Woke,
)
from bokilog.functions.calls.records import (
    CALLS,
    SNAPSHOT,
    ItemYielded,
    Spawned,
    book_name,
    call_tag,
    decode,
    encode,
    is_large,
    items_tag,
)
from bokilog.functions.calls.state import CallsState
from bokilog.functions.replay import EVERY_RECORDS, Folded, Gap, Replay, Restored
from bokilog.functions.runtime import references
from bokilog.functions.runtime.messages import Done, Encoding, Flag, Item, Start
from bokilog.functions.runtime.options import FunctionOptions
from bokilog.functions.runtime.runner import CallRunner, RunningCall
from bokilog.io.clock import Clock, SystemClock
from bokilog.limits import HOLD_TTL_S_MAX, MIB, RECORD_BYTES_MAX
from bokilog.record import Entry

logger = logging.getLogger(__name__)

HOLD: Final = "durable calls"
KEEP_S: Final = 600.0
"""How often the hold of the LogBook moves on."""
SETTLE_S: Final = 5.0
"""For the last appends of a host that goes down."""
WALL_S: Final = 10.0
"""How often the core is told the wall clock, which may be set."""
ITEM_BATCH_BYTES: Final = 8 * MIB
_STREAM: Final = int(Flag.STREAM)  # an operator of an enum takes a microsecond
_DURABLE: Final = int(Flag.DURABLE)


class DurableCalls:
    """The durable calls of an app, as far as one host runs them.

    Args:
        log: a connection of its own or the host's; the LogBook is `functions/APP`.
        app: its name.
        runner: runs what was claimed.
        host_name: one of `set_hosts`.
        settings: how eagerly it claims.
        clock: for tests.
    """

    def __init__(
        self,
        log: ClientLog,
        app: str,
        runner: CallRunner,
        host_name: str,
        *,
        settings: ClaimsSettings | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._log = log
        self._app = app
        self._runner = runner
        self._host = host_name
        self._clock = clock or SystemClock()
        self._book = log.book(book_name(app), session=log.session())
        self._state = CallsState()
        boot = secrets.token_hex(4)
        self._core = Claims(self._state, host=host_name, boot=boot, settings=settings)
        self._replay: Replay[str | None] = Replay(
            self._book,
            self._state,
            tag=CALLS,
            snapshot_tag=SNAPSHOT,
            # Hosts of one app do not come to it at the same record.
            every_records=EVERY_RECORDS + int(boot[:2], 16),
        )
        self._running: dict[tuple[str, int], RunningCall] = {}
        self._runs: set[tuple[str, int]] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._told: list[ClaimsEvent] = []
        """What happened in this turn of the loop: the core is told at its end."""
        self._wake: asyncio.TimerHandle | None = None
        self._folded_past: list[tuple[int, asyncio.Future[None]]] = []
        self._calm = asyncio.Event()
        self._draining = False
        self._held_from = 0
        self.ended = asyncio.Event()
        """Set when it has stopped: by `aclose`, or by an error."""
        self.error: BaseException | None = None
        """Why it stopped by itself."""

    # --- for whoever composes it ------------------------------------------------------------------

    async def start(self) -> None:
        """Have the LogBook, and begin to follow it. Call `set_hosts` before, if there are others.

        Raises:
            UnavailableError: the log cannot be reached.
        """
        await ensure_book(self._log, self._app)
        self._feed(Woke(self._clock.wall_ms()))
        self.functions_changed()
        self._do(self._follow())
        self._do(self._look_after())

    async def aclose(self, drain_s: float = 10.0) -> None:
        """Claim nothing more, let what runs end for `drain_s`, and give the rest to other hosts."""
        self._draining = True
        for at_once, patience_s in ((False, drain_s), (True, SETTLE_S)):
            if not self.ended.is_set():
                self._feed(Drain(at_once))
                await self._become_calm(patience_s)
        await self._end(None)

    def set_hosts(self, names: Iterable[str]) -> None:
        """The hosts of the app that live, by name."""
        self._feed(HostsAre(tuple(sorted(set(names)))))

    def functions_changed(self) -> None:
        """The app was loaded, or loaded anew: look at `runner.functions()` again."""
        rows = self._runner.functions()
        self._feed(FunctionsAre({str(row[0]): _options(row[1]) for row in rows}))

    def set_capacity(self, count: int) -> None:
        """How many durable calls may run here at once."""
        self._feed(CapacityIs(count))

    def stats(self) -> ClaimsStats:
        """How things stand."""
        return self._core.stats()

    # --- the core's shell -------------------------------------------------------------------------

    def _feed(self, *events: ClaimsEvent) -> None:
        if self.ended.is_set():
            return
        for effect in self._core.handle_all(events, self._clock.now_s()):
            match effect:
                case Append():
                    self._append(effect)
                case Run():
                    self._run(effect)
                case StopRun(call_id, attempt, reason):
                    self._runs.discard((call_id, attempt))
                    running = self._running.get((call_id, attempt))
                    if running is not None:
                        running.cancel(reason)
                case WakeAt(at_s):
                    self._wake_at(at_s)
        if self._draining and self._core.is_idle:
            self._calm.set()

    def _wake_at(self, at_s: float) -> None:
        if self._wake is not None:
            self._wake.cancel()
        delay_s = max(0.0, at_s - self._clock.now_s())
        self._wake = asyncio.get_running_loop().call_later(delay_s, self._woken)

    def _woken(self) -> None:
        self._wake = None
        self._feed(Woke(self._clock.wall_ms()))

    def _tell(self, event: ClaimsEvent) -> None:
        """Tell the core at the end of this turn of the loop, together with what else comes in it:
        a frame's answers do, and what the core then wants leaves as one frame."""
        if not self._told:
            asyncio.get_running_loop().call_soon(self._feed_told)
        self._told.append(event)

    def _feed_told(self) -> None:
        told, self._told = self._told, []
        position = self._replay.position
        self._feed(
            *[each._replace(position=position) if type(each) is Refused else each for each in told]
        )

    def _append(self, effect: Append) -> None:
        try:
            self._book.append_for(
                _Answer(effect.ticket, self._tell),
                encode(effect.record),
                effect.tags,
                unless={effect.ticket: effect.after},
                key=effect.key,
            )
        except BokilogError as error:
            logger.info("%s: not appended: %s", effect.ticket, error)
            self._tell(NotAppended(effect.ticket))

    async def _follow(self) -> None:
        async with aclosing(self._replay.steps()) as steps:
            async for step in steps:
                match step:
                    case Folded(_, changes):
                        # What several records are about is looked at once: as the last leaves it.
                        changed = dict.fromkeys(each for each in changes if each is not None)
                        self._feed(*map(Changed, changed))
                    case Restored():
                        self._feed(StateReplaced())
                    case Gap(error):
                        logger.warning("records of the calls of %s are gone: %s", self._app, error)
                    case _:
                        self._feed(CaughtUpNow())
                if self._folded_past:
                    self._tell_folded()

    async def _look_after(self) -> None:
        """Tell the core the wall clock, and keep what open calls need; now and then."""
        kept_s = self._clock.now_s() - KEEP_S + WALL_S
        while True:
            await asyncio.sleep(WALL_S)
            self._feed(Woke(self._clock.wall_ms()))
            if self._clock.now_s() - kept_s >= KEEP_S:
                kept_s = self._clock.now_s()
                await self._replay.snapshot()
                await self.hold()

    async def hold(self) -> None:
        """Keep retention from what is still needed: the oldest open call and a usable snapshot."""
        needed = max(1, self._state.oldest_seqnum(self._replay.kept_from))
        needed = min(needed, max(1, self._replay.kept_from))
        if needed == self._held_from:
            return
        try:
            try:
                await self._book.hold(HOLD, needed, HOLD_TTL_S_MAX)
            except Trimmed as error:
                await self._book.hold(HOLD, error.trim_until, HOLD_TTL_S_MAX)
            self._held_from = needed
        except BokilogError as error:
            logger.info("the hold of the calls of %s did not move: %s", self._app, error)

    # --- one run ----------------------------------------------------------------------------------

    def _run(self, effect: Run) -> None:
        key = effect.call_id, effect.attempt
        self._runs.add(key)
        spawned, started_s = effect.spawned, self._clock.now_s()
        if spawned is None or spawned.flags & _STREAM:
            self._do(self._run_at_length(effect, started_s))
            return
        # The usual call needs no task: it starts now, and its result goes into its last record.
        self._running[key] = running = self._runner.start(_start(spawned, key[1]))
        running.done.add_done_callback(partial(self._ran, key, spawned.function, started_s))

    def _ran(
        self, key: tuple[str, int], function: str, started_s: float, ran: asyncio.Future[Done]
    ) -> None:
        self._running.pop(key, None)
        if ran.cancelled():
            return  # the runner is closed
        done = ran.result()
        if done.encoding == Encoding.REFERENCE or is_large(done.payload):
            self._do(self._keep(key, function, started_s, done))
        else:
            self._over(key, started_s, done)

    async def _keep(
        self, key: tuple[str, int], function: str, started_s: float, done: Done
    ) -> None:
        try:
            done = await self._durable(key[0], function, done)
        except BokilogError as error:
            done = _failed(error)
        self._over(key, started_s, done)

    def _over(self, key: tuple[str, int], started_s: float, done: Done) -> None:
        self._runs.discard(key)
        ran_ms = int((self._clock.now_s() - started_s) * 1_000)
        self._tell(RunOver(*key, done, ran_ms))

    async def _run_at_length(self, effect: Run, started_s: float) -> None:
        """A run whose arguments are to be read first, or that yields."""
        key = effect.call_id, effect.attempt
        try:
            spawned = effect.spawned or await self._arguments(effect)
            if key not in self._runs:
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

    async def _done_of(self, key: tuple[str, int], spawned: Spawned) -> Done:
        start = _start(spawned, key[1])
        if not spawned.flags & _STREAM:
            self._running[key] = running = self._runner.start(start)
            return await asyncio.shield(running.done)
        items = _Items()
        self._running[key] = running = self._runner.start(start, on_item=items.put)
        pump = asyncio.ensure_future(self._record_items(key, items, running))
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

    # --- streams ----------------------------------------------------------------------------------

    async def _record_items(
        self, key: tuple[str, int], items: _Items, running: RunningCall
    ) -> None:
        """Append what the run yields, as units of what there is, until it is over or not ours."""
        while batch := await items.take():
            entries = [
                Entry(
                    encode(ItemYielded(*key, item.place, item.encoding, bytes(item.payload))),
                    items_tag(key[0]),
                )
                for item in batch
            ]
            try:
                is_ours = await self._append_items(key, entries)
            except BokilogError:
                running.cancel("what it yields cannot be recorded")
                raise
            if not is_ours:
                running.cancel("its lease is over: another host may run it")
                return
            running.credit(len(batch))

    async def _append_items(self, key: tuple[str, int], entries: list[Entry]) -> bool:
        """Append them while this host holds the call; False: it does not any more."""
        while (after := self._core.held_at(*key)) is not None:
            try:
                await self._book.append_batch(entries, unless={call_tag(key[0]): after})
                return True
            except ConditionFailed as error:
                # Our own extension of the lease may have come between: the state will tell.
                await self._until_folded(error.winner)
            except AppendUnknown:
                continue  # readers leave out what comes twice
        return False

    async def _until_folded(self, seqnum: int) -> None:
        if self._replay.position <= seqnum:
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._folded_past.append((seqnum, waiter))
            await waiter

    def _tell_folded(self) -> None:
        position = self._replay.position
        for seqnum, waiter in self._folded_past:
            if seqnum < position and not waiter.done():
                waiter.set_result(None)
        self._folded_past = [each for each in self._folded_past if not each[1].done()]

    # --- tasks ------------------------------------------------------------------------------------

    def _do(self, work: Coroutine[object, object, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if task.cancelled():
            return
        error = task.exception()
        if error is not None and not self.ended.is_set():
            if not isinstance(error, Closed):
                logger.error("durable calls of %s stop: %s", self._app, error, exc_info=error)
            self._stop(error)

    def _stop(self, error: BaseException | None) -> None:
        self.error = self.error or error
        self.ended.set()
        self._calm.set()
        if self._wake is not None:
            self._wake.cancel()
        for task in self._tasks:
            task.cancel()
        for running in self._running.values():
            running.cancel("the host is going down")

    async def _become_calm(self, patience_s: float) -> None:
        self._calm.clear()
        if self._core.is_idle:
            return
        try:
            async with asyncio.timeout(patience_s):
                await self._calm.wait()
        except TimeoutError:
            return

    async def _end(self, error: BaseException | None) -> None:
        self._stop(error)
        tasks = list(self._tasks)
        await asyncio.gather(*tasks, return_exceptions=True)


class _Items:
    """What a run has yielded and is not recorded yet; the stream's window bounds it."""

    __slots__ = ("_closed", "_items", "_there")

    def __init__(self) -> None:
        self._items: deque[Item] = deque()
        self._there = asyncio.Event()
        self._closed = False

    def put(self, item: Item) -> None:
        """The next one; its payload is copied, since it is a slice of what was read."""
        self._items.append(item._replace(payload=bytes(item.payload)))
        self._there.set()

    def close(self) -> None:
        """There will be no more."""
        self._closed = True
        self._there.set()

    async def take(self) -> list[Item]:
        """All there are, up to some bytes; empty: there will be no more."""
        while not self._items and not self._closed:
            self._there.clear()
            await self._there.wait()
        batch: list[Item] = []
        size_bytes = 0
        while self._items and size_bytes < ITEM_BATCH_BYTES:
            item = self._items.popleft()
            size_bytes += len(item.payload)
            batch.append(item)
        return batch


class _Answer:
    """Where the outcome of an append goes; the waiter of its unit."""

    __slots__ = ("_is_told", "_tell", "_ticket")

    def __init__(self, ticket: str, tell: Callable[[ClaimsEvent], None]) -> None:
        self._ticket = ticket
        self._tell = tell
        self._is_told = False

    def done(self) -> bool:
        """Whether it was told."""
        return self._is_told

    def set_result(self, result: int, /) -> None:
        """It is in the log."""
        self._is_told = True
        self._tell(Appended(self._ticket, result))

    def set_exception(self, exception: BaseException, /) -> None:
        """It is not, or nobody knows."""
        self._is_told = True
        if isinstance(exception, ConditionFailed):
            self._tell(Refused(self._ticket, exception.winner, 0))
        elif isinstance(exception, KeyReused):
            # The due time's call is there, as another version of the app declares the function.
            self._tell(Refused(self._ticket, exception.seqnum, 0))
        else:
            logger.info("%s: not appended: %s", self._ticket, exception)
            self._tell(NotAppended(self._ticket))


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


def _options(plain: object) -> FunctionOptions:
    assert isinstance(plain, dict), "a runner's functions have their options by name"
    return FunctionOptions.from_plain(plain)
