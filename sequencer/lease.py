"""Whether this sequencer's controller is, or should be, the active one.

Decides when the lease of the view store is asked for, renewed and let go. Whoever hears a majority
asks; who is cut off from it, or about to stop, lets go. A primary leaves the lease to others, since
both would end with its process and a view store may take its time to notice; only if for a while
nobody says that it has it, the primary takes it.

Invariant: the lease is asked for once at a time, so no queue builds before a view store that hangs.

Does not know: what an active controller does. Safety never rests on the lease: two that believe to
hold it meet at the compare-and-swap of the next view.
"""

from __future__ import annotations

from typing import Final

from bokilog.sequencer.judgement import Judgement

ANSWER_S: Final = 2.0
"""The lease is asked for again after so long without an answer."""
STANDBY_S: Final = 1.0
"""A primary waits so long for somebody else to take the lease."""


class Lease:
    """One controller's lease."""

    __slots__ = ("_asked_s", "_judgement", "_last_resort", "_other_s", "held", "holder")

    def __init__(self, judgement: Judgement) -> None:
        self._judgement = judgement
        self.held = False
        self.holder = ""
        """Who has it, as far as is known."""
        self._asked_s: float | None = None
        self._other_s = 0.0
        """When another sequencer last said that it has it."""
        self._last_resort = False
        """It is held though this is the primary, since nobody else takes it."""

    def others(self, node: str) -> None:
        """Another sequencer says that it has it."""
        self._other_s = self._judgement.now_s
        self.holder = node

    def got(self) -> bool:
        """It is held, or renewed; whether that is new."""
        was, self.held = self.held, True
        self._asked_s, self.holder = None, self._judgement.node
        return not was

    def lost(self, holder: str) -> bool:
        """Somebody else has it, or nobody knows; whether that is new."""
        was, self.held = self.held, False
        self._asked_s, self._last_resort = None, False
        self.holder = holder or self.holder
        return was

    def ask(self) -> bool:
        """Whether to ask for it now, if it is wanted; it counts as asked for then."""
        now_s = self._judgement.now_s
        if not self._is_wanted():
            return False
        if self._asked_s is not None and now_s - self._asked_s < ANSWER_S:
            return False
        self._asked_s = now_s
        return True

    def should_release(self) -> bool:
        """Somebody else can do it better, also if this took it as a last resort and hears no
        majority any more. Not to be asked in the middle of a change."""
        judgement = self._judgement
        if not self.held:
            return False
        if judgement.missing():
            return True
        if self._last_resort:
            return False
        return (judgement.leaving or judgement.is_primary) and self._has_stand_in()

    def release(self) -> None:
        """Let it go."""
        self.held, self._asked_s, self.holder = False, None, ""
        self._other_s = self._judgement.now_s

    def _is_wanted(self) -> bool:
        judgement = self._judgement
        if judgement.node not in judgement.sequencers:
            return False
        if self.held:
            return True
        if judgement.leaving or judgement.missing():
            return False
        if not judgement.is_primary or not self._has_stand_in():
            return True
        since_s = max(self._other_s, judgement.installed_s)
        self._last_resort = judgement.now_s - since_s >= STANDBY_S
        return self._last_resort

    def _has_stand_in(self) -> bool:
        return self._judgement.has_stand_in(self._judgement.node)
