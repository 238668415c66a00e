"""The one loop shape of every node: drain the inbox, ask the core, carry out what it says (A2, A4).

Decides when a core runs, and in which order its effects happen: nothing else. Per turn of the event
loop there is one tick; a tick has rounds; a round drains the inbox, feeds every event and performs
its effects before the next event, and then does the same with `BatchEnded`. Once the inbox stays
empty, the shell's `end_of_batch` runs (it syncs journals and flushes links), so that whatever a
round's effects deliver at once still joins the same group (P11).

Invariants: events are handled one at a time, in the order they were delivered; effects are
performed in the order given, before the next event is handled; a timer set anew or cancelled does
not fire for what was set before, even if it was already due; after a core raised, which is a bug,
`on_bug` is called once and nothing more is handled or performed (A7).

Does not know: messages, journals, links. The inbox needs no bound of its own: it holds what arrived
in one turn of the loop, and links bound that by what one read delivers.
Source: STYLE 3.1 A2, A4.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable, Iterable
from functools import partial
from typing import Final, Generic, Protocol, TypeVar

from bokilog.effects import BatchEnded, CancelTimer, SetTimer, TimerFired
from bokilog.io.clock import Clock
from bokilog.named import NamedTuple

EventT = TypeVar("EventT")
EventT_contra = TypeVar("EventT_contra", contravariant=True)
EffectT = TypeVar("EffectT")
EffectT_co = TypeVar("EffectT_co", covariant=True)

# Two cores in one process that keep answering each other must not starve sockets and timers.
ROUNDS_MAX: Final = 16


_new = tuple.__new__  # twice as fast as a named tuple's own


class Handler(Protocol[EventT_contra, EffectT_co]):
    """A core, as the driver sees it."""

    def handle(self, event: EventT_contra, now_s: float, /) -> Iterable[EffectT_co]:
        """What follows from `event` at `now_s`."""


class Cancellable(Protocol):
    """A callback that waits for its time."""

    def cancel(self) -> object:
        """Do not call it."""


class Scheduler(Protocol):
    """The part of an event loop that a driver needs."""

    def call_soon(self, callback: Callable[[], object], /) -> object:
        """Call it in the next turn."""

    def call_later(self, delay: float, callback: Callable[[], object], /) -> Cancellable:
        """Call it after `delay` seconds."""


class DriverStats(NamedTuple):
    """What a driver has done so far."""

    ticks: int
    rounds: int
    """Drained inboxes; more than ticks where effects delivered events at once."""
    events: int
    """Delivered events taken from the inbox, without `BatchEnded`."""
    timers: int
    """Timers waiting now."""
    dropped: int
    """Events delivered after the stop."""


class Driver(Generic[EventT, EffectT]):
    """Runs one core on the event loop of the thread that made it.

    Args:
        core: the core; nobody else may call it.
        perform: carries out one effect, without waiting; timers never reach it. What it raises is
            a bug as well: a failing disk or link is an event, not an exception.
        end_of_batch: called when the inbox stays empty, or the tick has had enough rounds.
        clock: `now_s` is read once per round, `wall_ms` for its `BatchEnded`.
        on_bug: told what was raised, once; by then the driver has stopped.
        scheduler: another event loop, for tests; the running one by default.
    """

    __slots__ = (
        "_clock",
        "_dropped",
        "_end_of_batch",
        "_events",
        "_fired",
        "_handle",
        "_inbox",
        "_on_bug",
        "_perform",
        "_rounds",
        "_rounds_max",
        "_running",
        "_scheduler",
        "_stopped",
        "_tick_due",
        "_ticks",
        "_timers",
    )

    def __init__(
        self,
        core: Handler[EventT | TimerFired | BatchEnded, EffectT],
        *,
        perform: Callable[[EffectT], object],
        end_of_batch: Callable[[], object],
        clock: Clock,
        on_bug: Callable[[Exception], object],
        rounds_max: int = ROUNDS_MAX,
        scheduler: Scheduler | None = None,
    ) -> None:
        assert rounds_max > 0
        self._handle = core.handle
        self._perform = perform
        self._end_of_batch = end_of_batch
        self._clock = clock
        self._on_bug = on_bug
        self._rounds_max = rounds_max
        self._scheduler: Scheduler = scheduler or asyncio.get_running_loop()
        self._inbox: list[EventT | TimerFired] = []
        self._tick_due = False  # or running: then the tick itself looks at the inbox again
        self._timers: dict[Hashable, Cancellable] = {}
        # Timers that went off and whose event still stands in the inbox.
        self._fired: dict[Hashable, TimerFired] = {}
        self._stopped = self._running = False
        self._ticks = self._rounds = self._events = self._dropped = 0

    @property
    def stopped(self) -> bool:
        """Whether it has stopped, by `stop` or by a bug."""
        return self._stopped

    def deliver(self, event: EventT | TimerFired) -> None:
        """Put an event into the inbox; it is handled in the next turn, or the next round."""
        if self._stopped:
            self._dropped += 1
            return
        self._inbox.append(event)
        if not self._tick_due:
            self._tick_due = True
            self._scheduler.call_soon(self._tick)

    def run(self) -> None:
        """Handle what was delivered now, instead of in the loop's next turn; nothing from inside a
        tick, which goes on until the inbox is empty anyway.

        For whoever delivers at the end of a turn: nothing would be gathered by waiting.
        """
        if self._inbox and not self._running:
            self._tick()

    def stop(self) -> None:
        """Handle no further event and let no timer fire; what is in the inbox is dropped, counted.

        Called by `perform`, it takes effect after the effects of the event being handled.
        """
        self._stopped = True
        self._dropped += len(self._inbox)
        self._inbox = []
        for handle in self._timers.values():
            handle.cancel()
        self._timers.clear()
        self._fired.clear()

    def stats(self) -> DriverStats:
        """Counts so far; they stay after the stop."""
        return DriverStats(
            ticks=self._ticks,
            rounds=self._rounds,
            events=self._events,
            timers=len(self._timers),
            dropped=self._dropped,
        )

    def _tick(self) -> None:
        if self._stopped:
            return
        if not self._inbox:  # `run` was before
            self._tick_due = False
            return
        self._ticks += 1
        self._running = True
        try:
            self._run_rounds()
        except Exception as error:
            self.stop()
            self._on_bug(error)
            return
        finally:
            self._running = False
        self._tick_due = bool(self._inbox)
        if self._tick_due:
            self._scheduler.call_soon(self._tick)

    def _run_rounds(self) -> None:
        last = self._rounds + self._rounds_max
        while True:
            while self._inbox and self._rounds < last:
                self._rounds += 1
                self._run_round()
            if self._stopped:
                return
            self._end_of_batch()
            # A shell that syncs at once delivers `Persisted` from there.
            if not self._inbox or self._rounds >= last:
                return

    def _run_round(self) -> None:
        inbox, self._inbox = self._inbox, []
        self._events += len(inbox)
        now_s = self._clock.now_s()
        handle, perform_all = self._handle, self._perform_all
        for position, event in enumerate(inbox):
            if type(event) is TimerFired and self._fired.pop(event.timer, None) is not event:
                continue  # it was set anew or cancelled while it stood in the inbox
            effects = handle(event, now_s)
            if effects:
                perform_all(effects)
                if self._stopped:
                    self._dropped += len(inbox) - position - 1
                    return
        effects = handle(_new(BatchEnded, (self._clock.wall_ms(),)), now_s)
        if effects:
            perform_all(effects)

    def _perform_all(self, effects: Iterable[EffectT]) -> None:
        perform = self._perform
        for effect in effects:
            if isinstance(effect, SetTimer):
                self._set_timer(effect.timer, effect.delay_s)
            elif isinstance(effect, CancelTimer):
                self._cancel_timer(effect.timer)
            else:
                perform(effect)

    def _set_timer(self, timer: Hashable, delay_s: float) -> None:
        self._cancel_timer(timer)
        if not self._stopped:
            fire = partial(self._fire, timer)
            self._timers[timer] = self._scheduler.call_later(max(delay_s, 0.0), fire)

    def _cancel_timer(self, timer: Hashable) -> None:
        handle = self._timers.pop(timer, None)
        if handle is not None:
            handle.cancel()
        self._fired.pop(timer, None)

    def _fire(self, timer: Hashable) -> None:
        del self._timers[timer]
        event = self._fired[timer] = TimerFired(timer)
        self.deliver(event)
