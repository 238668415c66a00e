"""A host's part in the durable calls of its app: joins the claims core, the log and a runner.

Decides nothing that the core decides. It follows the tag `calls` (`replay.py`), carries out what
the core wants (appends; `running.py` runs and cancels), and keeps the records that open calls still
need from being trimmed, by a hold of the LogBook.

Invariants: each append's outcome comes to the core once; what comes in one turn of the loop, the
core is told together. Whoever composes it (the host) says which hosts and functions there are, and
looks at `ended`: it is set when this part cannot go on. Does not know what runs need.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable, Coroutine, Iterable
from contextlib import aclosing
from typing import Final

from bokilog.client.admin import ClientLog
from bokilog.errors import (
    BokilogError,
    Closed,
    ConditionFailed,
    KeyReused,
    Trimmed,
)
from bokilog.functions.books import app_book, ensure_app_book
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
    StateReplaced,
    StopRun,
    WakeAt,
    Woke,
)
from bokilog.functions.calls.records import CALLS, SNAPSHOT, encode
from bokilog.functions.calls.running import RunningAttempts
from bokilog.functions.calls.state import CallsState
from bokilog.functions.calls.yielded import ItemRecords
from bokilog.functions.replay import EVERY_RECORDS, Folded, Gap, Replay, Restored
from bokilog.functions.runtime.options import FunctionOptions
from bokilog.functions.runtime.runner import CallRunner
from bokilog.io.clock import Clock, SystemClock
from bokilog.limits import HOLD_TTL_S_MAX

logger = logging.getLogger(__name__)

HOLD: Final = "durable calls"
KEEP_S: Final = 600.0
"""How often the hold of the LogBook moves on."""
SETTLE_S: Final = 5.0
"""For the last appends of a host that goes down."""
WALL_S: Final = 10.0
"""How often the core is told the wall clock, which may be set."""


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
        self._clock = clock or SystemClock()
        self._book = log.book(app_book(app), session=log.session())
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
        self._items = ItemRecords(
            self._book,
            held_at=self._core.held_at,
            folded_until=lambda: self._replay.position,
        )
        self._attempts = RunningAttempts(
            log,
            self._book,
            runner,
            host=host_name,
            clock=self._clock,
            items=self._items,
            tell=self._tell,
            do=self._do,
        )
        self._tasks: set[asyncio.Task[None]] = set()
        self._told: list[ClaimsEvent] = []
        """What happened in this turn of the loop: the core is told at its end."""
        self._wake: asyncio.TimerHandle | None = None
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
        await ensure_app_book(self._log, self._app)
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

    async def abandon(self) -> None:
        """End at once: other hosts take what runs once its leases are over."""
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
                    self._attempts.run(effect)
                case StopRun(call_id, attempt, reason):
                    self._attempts.stop(call_id, attempt, reason)
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
                self._items.on_folded()

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
        self._attempts.stop_all("the host is going down")

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


def _options(plain: object) -> FunctionOptions:
    assert isinstance(plain, dict), "a runner's functions have their options by name"
    return FunctionOptions.from_plain(plain)
