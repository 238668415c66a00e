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
from collections.abc import Iterable, Mapping
from itertools import product

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
from bokilog.named import NamedTuple

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


class _Part:
    """One of the cores, as the others see it."""

    __slots__ = ("dirty", "handle", "name", "ways")

    def __init__(self, name: str, core: Core) -> None:
        self.name = name
        self.handle = core.handle
        self.dirty = False
        """Something happened to it since it heard of the last batch's end."""
        self.ways: dict[Address, tuple[_Part, Address]] = {}
        """By address, whom its message goes to, and as whose it arrives there."""


class ComposedCore:
    """Runs cores by name; their timers are named `(core, timer)` outside."""

    __slots__ = ("_events", "_in_order", "_out", "_parts")

    def __init__(self, cores: Mapping[str, Core]) -> None:
        self._parts = {name: _Part(name, core) for name, core in cores.items()}
        self._in_order = tuple(self._parts.values())
        self._events: deque[tuple[_Part, Event]] = deque()
        for source, to in product(self._parts.values(), self._parts.values()):
            source.ways[to.name] = (to, source.name)
            source.ways[bulk(to.name)] = (to, bulk(source.name))
        self._out: list[FromCore | SetTimer | CancelTimer] = []

    def handle(
        self, event: ToCore | TimerFired | BatchEnded, now_s: float
    ) -> list[FromCore | SetTimer | CancelTimer]:
        """One event, and all that follows from it between the cores."""
        if type(event) is ToCore:
            core, told = event
            self._tell(core, told, now_s)
        elif type(event) is BatchEnded:
            self._end_batch(event, now_s)
        elif type(event) is TimerFired:
            match event.timer:
                case (str() as core, timer):  # as `_pass_out` named it
                    self._tell(core, TimerFired(timer), now_s)
                case _:
                    raise AssertionError(f"{event} is for no core")
        out = self._out
        if out:
            self._out = []
        return out

    def _tell(self, core: str, event: Event, now_s: float) -> None:
        part = self._parts[core]
        part.dirty = True
        effects = part.handle(event, now_s)
        if effects:
            self._follow(part, effects, now_s)

    def _end_batch(self, batch_ended: BatchEnded, now_s: float) -> None:
        for _ in range(ROUNDS_MAX):
            for part in self._in_order:
                if part.dirty:
                    break
            else:
                return
            part.dirty = False
            effects = part.handle(batch_ended, now_s)
            if effects:
                self._follow(part, effects, now_s)
        raise AssertionError(f"cores kept each other busy for {ROUNDS_MAX} rounds")

    def _follow(self, part: _Part, effects: Iterable[Effect], now_s: float) -> None:
        """What a core asked for, and all that follows from it, in order.

        Messages between the cores are events; all else is for the shell.
        """
        events, new = self._events, tuple.__new__  # twice as fast as a named tuple's own
        for _ in range(ROUNDS_MAX):
            for effect in effects:
                if type(effect) is Send:
                    to, message = effect
                    way = part.ways.get(to)
                    if way is not None:
                        other, source = way
                        other.dirty = True
                        events.append((other, new(Received, (source, message))))
                        continue
                self._pass_out(part.name, effect)
            if not events:
                return
            part, event = events.popleft()
            effects = part.handle(event, now_s)
        raise AssertionError(f"cores kept each other busy for {ROUNDS_MAX} events")

    def _pass_out(self, core: str, effect: Effect) -> None:
        if type(effect) is SetTimer:
            self._out.append(SetTimer((core, effect.timer), effect.delay_s))
        elif type(effect) is CancelTimer:
            self._out.append(CancelTimer((core, effect.timer)))
        else:
            self._out.append(tuple.__new__(FromCore, (core, effect)))


def bulk(node: str) -> Address:
    """The address of a node's link for frames (P32)."""
    return ("bulk", node)
