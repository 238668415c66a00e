"""One of several sequencers as one core: what it orders and holds, and its controller beside it.

Decides which of the two an event is for, and hands over what one sends to the other: a controller
asks its own sequencer as it asks the others (P13, P14).

Does not know what either decides. With one sequencer there is no controller, and no such core.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from bokilog.effects import (
    Effect,
    Event,
    IntentStored,
    LeaseHeld,
    LeaseLost,
    Received,
    Send,
    TimerFired,
    ViewSwapped,
)
from bokilog.messages import Extended, Heartbeat, Sealed, Status, StatusRequest
from bokilog.sequencer.controller import ControllerCore
from bokilog.sequencer.core import SequencerCore

_OF_CONTROLLER: Final = frozenset({Heartbeat, Sealed, Extended})
_CONTROLLER_EVENTS: Final = frozenset({IntentStored, LeaseHeld, LeaseLost, ViewSwapped})


class MemberCore:
    """`handle(event, now_s) -> effects` of one sequencer and its controller."""

    __slots__ = ("controller", "node", "sequencer")

    def __init__(self, sequencer: SequencerCore, controller: ControllerCore) -> None:
        assert sequencer.node == controller.node, "two names for one process"
        self.node = sequencer.node
        self.sequencer = sequencer
        self.controller = controller

    def handle(self, event: Event, now_s: float) -> list[Effect]:
        """What an event asks for, in order; messages to this very node are handled at once."""
        effects = self._handle(event, now_s)
        if not any(type(effect) is Send and effect.to == self.node for effect in effects):
            return effects
        out: list[Effect] = []
        waiting = deque(effects)
        while waiting:
            effect = waiting.popleft()
            if isinstance(effect, Send) and effect.to == self.node:
                waiting.extend(self._handle(Received(self.node, effect.message), now_s))
            else:
                out.append(effect)
        return out

    def _handle(self, event: Event, now_s: float) -> list[Effect]:
        kind = type(event)
        if kind is Received:
            assert isinstance(event, Received)
            if type(event.message) in _OF_CONTROLLER:
                return self.controller.handle(event, now_s)
            if isinstance(event.message, StatusRequest):
                return [Send(event.source, Status(event.message.request, self.facts()))]
            return self.sequencer.handle(event, now_s)
        if kind in _CONTROLLER_EVENTS:
            return self.controller.handle(event, now_s)
        if isinstance(event, TimerFired):
            timer = event.timer
            if isinstance(timer, tuple) and timer[0] == "controller":
                return self.controller.handle(event, now_s)
            return self.sequencer.handle(event, now_s)
        return [*self.sequencer.handle(event, now_s), *self.controller.handle(event, now_s)]

    def facts(self) -> dict[str, object]:
        """For `bokilog status`."""
        return {**self.sequencer.facts(), "controller": self.controller.facts()}

    def check(self) -> None:
        """Asserts the invariants."""
        self.sequencer.check()
        self.controller.check()
