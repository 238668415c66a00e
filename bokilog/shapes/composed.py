"""Several cores as one core: messages between them are handed over by reference.

Decides in which order they run: events in order of arrival until nobody has any left, and at the
end of a batch `BatchEnded` for each core that did something, in the order they were given, again
and again until all is quiet. With the engine before the storage node before the sequencer, one
append passes all of them in one batch and meets one sync (P11).

Does not know: what the cores decide, journals, loops. The embedded shape and the tests' small
world run on it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from itertools import product
from typing import NamedTuple

from bokilog.effects import (
    Address,
    BatchEnded,
    CancelTimer,
    Core,
    Effect,
    Event,
    Received,
    Send,
    SetTimer,
    TimerFired,
)

ROUNDS_MAX = 100_000
"""Events of one batch; a batch that goes on longer than this is a loop between cores, a bug."""


class ToCore(NamedTuple):
    """An event for one of the cores."""

    core: str
    event: Event


class FromCore(NamedTuple):
    """An effect of one of the cores that is no message to another one."""

    core: str
    effect: Effect


class ComposedCore:
    """Runs cores by name; their timers are named `(core, timer)` outside."""

    __slots__ = ("_cores", "_dirty", "_events", "_out", "_ways")

    def __init__(self, cores: Mapping[str, Core]) -> None:
        self._cores = {name: core.handle for name, core in cores.items()}
        self._events: deque[tuple[str, Event]] = deque()
        self._dirty = dict.fromkeys(cores, False)
        self._ways: dict[tuple[str, Address], tuple[str, Address]] = {}
        """By sender and address, which core a message goes to, and as whose it arrives there."""
        for source, to in product(cores, cores):
            self._ways[source, to] = (to, source)
            self._ways[source, bulk(to)] = (to, bulk(source))
        self._out: list[FromCore | SetTimer | CancelTimer] = []

    def handle(
        self, event: ToCore | TimerFired | BatchEnded, now_s: float
    ) -> list[FromCore | SetTimer | CancelTimer]:
        """One event, and all that follows from it between the cores."""
        if isinstance(event, ToCore):
            self._events.append(event)
            self._drain(now_s)
        elif isinstance(event, BatchEnded):
            self._end_batch(event, now_s)
        else:
            match event.timer:
                case (str() as core, timer):  # as `_collect` named it
                    self._events.append((core, TimerFired(timer)))
                    self._drain(now_s)
                case _:
                    raise AssertionError(f"{event} is for no core")
        out, self._out = self._out, []
        return out

    def _end_batch(self, batch_ended: BatchEnded, now_s: float) -> None:
        dirty = self._dirty
        for _ in range(ROUNDS_MAX):
            for name in dirty:
                if dirty[name]:
                    break
            else:
                return
            dirty[name] = False
            effects = self._cores[name](batch_ended, now_s)
            if effects:
                self._collect(name, effects)
                self._drain(now_s)
        raise AssertionError(f"cores kept each other busy for {ROUNDS_MAX} rounds")

    def _drain(self, now_s: float) -> None:
        events, cores, dirty = self._events, self._cores, self._dirty
        for _ in range(ROUNDS_MAX):
            if not events:
                return
            name, event = events.popleft()
            dirty[name] = True
            effects = cores[name](event, now_s)
            if effects:
                self._collect(name, effects)
        raise AssertionError(f"cores kept each other busy for {ROUNDS_MAX} events")

    def _collect(self, source: str, effects: list[Effect]) -> None:
        """Messages between the cores are events; all else is for the shell."""
        for effect in effects:
            if isinstance(effect, Send):
                way = self._ways.get((source, effect.to))
                if way is not None:
                    self._events.append((way[0], Received(way[1], effect.message)))
                    continue
            if isinstance(effect, SetTimer):
                self._out.append(SetTimer((source, effect.timer), effect.delay_s))
            elif isinstance(effect, CancelTimer):
                self._out.append(CancelTimer((source, effect.timer)))
            else:
                self._out.append(FromCore(source, effect))


def bulk(node: str) -> Address:
    """The address of a node's link for frames (P32)."""
    return ("bulk", node)
