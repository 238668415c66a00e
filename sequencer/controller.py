"""The controller: the steps from one view to the next (P12 to P15).

Every sequencer process has one beside its core; the one that holds the lease of the view store is
active. A change goes through five steps, each asked again until it is answered:

    watching    nothing is wrong, or nothing can be done about it (`judgement.py`)
    intent      store that the term is to end, before anybody is sealed (P15)
    sealing     a majority of the term's sequencers promises to acknowledge nothing more (P14)
    extending   a majority of the next view's sequencers holds all that was ordered (P13)
    swapping    the next view is stored iff nobody was faster; whatever happens, look again

Decides when which step is taken, asked again or begun anew, who of those that hold everything is
primary next, and what an intent left by another controller means: that its change goes on, since
some sequencers may be sealed already.

Invariants: nothing is sealed before the intent is stored; a view is proposed only with ends that a
majority of its sequencers holds, counted by the disks that it names; an answer without a vote is
not counted; nothing of a term is done any more once a later view is known. Leases, clocks and
suspicions may be wrong in any way: then changes are needless or late, never unsafe, since nobody
acts on anything but a stored view.

Does not know: how views are stored, what a metalog holds. Differs from Boki, whose controller is a
process of its own that an operator tells to reconfigure.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from enum import StrEnum
from typing import Final, NamedTuple

from bokilog.effects import (
    AcquireLease,
    Address,
    BatchEnded,
    CancelTimer,
    Effect,
    Event,
    IntentStored,
    LeaseHeld,
    LeaseLost,
    LinkDown,
    LinkUp,
    LoadView,
    Received,
    ReleaseLease,
    Send,
    SetTimer,
    StoreIntent,
    SwapView,
    TimerFired,
    ViewInstalled,
    ViewSwapped,
)
from bokilog.ids import LogSpaceId, NodeId, Term
from bokilog.messages import Extend, Extended, Heartbeat, Message, Seal, Sealed, TermChanged
from bokilog.sequencer.controller_settings import ControllerSettings
from bokilog.sequencer.judgement import Judgement
from bokilog.sequencer.lease import Lease
from bokilog.sequencer.next_view import (
    Ending,
    Start,
    endings,
    has_vote,
    is_quorum,
    next_view,
    primaries_of,
    rows_of,
)
from bokilog.view import LogSpace, View

TRACE_EVENTS: Final = 256
ATTEMPTS_MAX: Final = 12
"""A step after the seal that was asked for so often begins again with the seal: whoever had what
was missing may be gone."""
GRACE_S: Final = 0.1
"""How long a change waits for the best primary once a majority holds everything: another one would
do, but the present one, or the one that was furthest, spares another change or a catch-up."""

_BEAT, _STEP, _SUSPECT, _GRACE = (
    ("controller", name) for name in ("beat", "step", "suspect", "grace")
)


class Step(StrEnum):
    """Where a change stands."""

    WATCHING = "watching"
    INTENT = "storing the intent"
    SEALING = "sealing"
    EXTENDING = "extending"
    SWAPPING = "swapping"


class LastChange(NamedTuple):
    """The last change of view that this sequencer saw."""

    term: Term
    primary: str
    reason: str
    """Empty: another controller brought it about."""
    took_s: float


class Change:
    """What is known of the change in hand; a new one for every round of seals."""

    __slots__ = ("answers", "endings", "extended", "grace_over", "proposed", "without_vote")

    def __init__(self) -> None:
        self.answers: dict[NodeId, Sealed] = {}
        """Of sequencers with a vote."""
        self.without_vote: set[NodeId] = set()
        self.endings: dict[LogSpaceId, Ending] = {}
        """Fixed once a majority is sealed."""
        self.extended: dict[NodeId, tuple[Start, set[int]]] = {}
        """Who holds which log spaces up to those ends, on which disk."""
        self.grace_over = False
        self.proposed: View | None = None


class ControllerCore:
    """`handle(event, now_s) -> effects` of one controller.

    Args:
        settings: delays.
        node: the sequencer that it runs beside.
        incarnation: of this process, as registered in the view store (P3).
        disk_id: of its data directory.
    """

    def __init__(
        self, settings: ControllerSettings, *, node: NodeId, incarnation: int, disk_id: str
    ) -> None:
        self.settings = settings
        self.node = node
        self.step = Step.WATCHING
        self.judgement = Judgement(
            settings, node=node, me=Start(incarnation=incarnation, disk_id=disk_id)
        )
        self.lease = Lease(self.judgement)
        self.trace: deque[tuple[float, str]] = deque(maxlen=TRACE_EVENTS)
        """(now_s, what) of the last steps."""
        self.ignored_count = 0
        """Answers of other terms, of steps that are over, or without a vote."""
        self._change = Change()
        self._leaves_unsaid = False
        self._links: set[str] = set()
        self._newest_term = Term(0)
        self._intent: tuple[Term, str] | None = None
        """The last one that is known to be stored: the first of its term stays."""
        self._reason = ""
        self._blocked = ""
        """Why a change that is needed is not begun, or does not get on."""
        self._began_s = 0.0
        self._attempts = 0
        self._avoid: set[NodeId] = set()
        """Primaries that did not take over."""
        self._last: LastChange | None = None
        self._changes = 0

    def handle(self, event: Event, now_s: float) -> list[Effect]:
        """What an event asks for, in order; events of a sequencer's core mean nothing here."""
        self.judgement.now_s = now_s
        match event:
            case Received(source=source, message=message):
                return self._received(source, message)
            case BatchEnded(wall_ms=wall_ms):
                self.judgement.clock(wall_ms)
                return self._say_that_it_leaves()
            case TimerFired(timer=timer):
                return self._timer(timer)
            case LinkUp(peer=str() as peer):
                return self._link_up(peer)
            case LinkDown(peer=str() as peer):
                return self._link_down(peer)
            case ViewInstalled(view=view):
                return self._install(view)
            case LeaseHeld(intent=intent):
                return self._lease_held(intent)
            case LeaseLost(holder=holder):
                return self._lease_lost(holder)
            case IntentStored(term=term):
                return self._intent_stored(term)
            case ViewSwapped(term=term, ok=ok):
                return self._swapped(term, ok=ok)
            case _:
                return []

    @property
    def view(self) -> View:
        """The present one."""
        view = self.judgement.view
        assert view is not None, "nothing is asked of a controller before its first view"
        return view

    def leave(self) -> None:
        """The process is about to stop: with its next heartbeat, or the end of the next batch, it
        asks for another primary."""
        self.judgement.leaving = self._leaves_unsaid = True

    def _say_that_it_leaves(self) -> list[Effect]:
        unsaid, self._leaves_unsaid = self._leaves_unsaid, False
        return self._beat() if unsaid and self.judgement.view is not None else []

    @property
    def may_leave(self) -> bool:
        """Whether this process can stop without being missed: it is not primary, or nobody could
        take over."""
        return not self.judgement.is_primary or not self.judgement.has_stand_in(self.node)

    # --- signs of life ----------------------------------------------------------------------------

    def _received(self, source: Address, message: Message) -> list[Effect]:
        if self.judgement.view is None:
            return []
        match message:
            case Heartbeat():
                return self._heartbeat(source, message)
            case Sealed():
                return self._sealed(NodeId(str(source)), message)
            case Extended():
                return self._extended(NodeId(str(source)), message)
            case _:
                self.ignored_count += 1
                return []

    def _heartbeat(self, source: Address, message: Heartbeat) -> list[Effect]:
        effects: list[Effect] = []
        if message.installed < self.view.term:
            effects.append(Send(source, TermChanged(self.view.term)))  # it may have been away
        if message.term > self._newest_term:
            effects.append(LoadView(message.term))
        known = self.judgement.start(message.node).incarnation
        if not self.judgement.vitals.heartbeat(message, self.judgement.now_s):
            return effects
        if message.controller:
            self.lease.others(message.node)
        if message.incarnation != known or message.leaving:
            effects += self._consider()
        return effects

    def _link_up(self, peer: str) -> list[Effect]:
        self._links.add(peer)
        self.judgement.vitals.link(peer, up=True, now_s=self.judgement.now_s)
        if peer not in self.judgement.sequencers:
            return []
        return [self._tell(peer), *self._ask(NodeId(peer))]

    def _link_down(self, peer: str) -> list[Effect]:
        self._links.discard(peer)
        self.judgement.vitals.link(peer, up=False, now_s=self.judgement.now_s)
        if peer not in self.judgement.sequencers:
            return []
        # A little more, since a timer and a difference of times are rounded differently.
        return [SetTimer(_SUSPECT, self.settings.link_down_suspicion_s + 0.001)]

    def _tell(self, peer: str) -> Effect:
        message = self.judgement.heartbeat(newest=self._newest_term, controller=self.lease.held)
        return Send(peer, message)

    def _timer(self, timer: object) -> list[Effect]:
        if timer == _BEAT:
            return self._beat()
        if timer == _SUSPECT:
            return self._again() if self._sources_are_gone() else self._consider()
        if timer == _STEP:
            return self._again()
        if timer == _GRACE and self.step is Step.EXTENDING:
            self._change.grace_over = True
            return self._swap_if_held()
        return []

    def _beat(self) -> list[Effect]:
        """Every `heartbeat_s`."""
        self.judgement.beat()
        effects: list[Effect] = [SetTimer(_BEAT, self.settings.heartbeat_s)]
        others = [node for node in self.judgement.sequencers if node != self.node]
        effects += [self._tell(node) for node in others if node in self._links]
        effects += self._consider()
        if self.step is Step.WATCHING and self.lease.should_release():
            return [*effects, *self._release(reason="", blocked="")]
        missing = self.judgement.missing()
        if self.step in (Step.SEALING, Step.EXTENDING) and missing:
            return [*effects, *self._release(reason=self._reason, blocked=missing)]
        return [*effects, AcquireLease()] if self.lease.ask() else effects

    def _release(self, *, reason: str, blocked: str) -> list[Effect]:
        """Also in the middle of a change, if this process hears no majority: others may hear one,
        and whoever takes the lease goes on with the stored intent (P15)."""
        self.lease.release()
        effects = self._watch()
        self._reason, self._blocked = reason, blocked
        self._note("released the lease")
        return [*effects, ReleaseLease()]

    # --- the lease --------------------------------------------------------------------------------

    def _lease_held(self, intent: tuple[Term, str] | None) -> list[Effect]:
        if self.lease.got():
            self._note("holds the lease")
        self._intent = intent or self._intent
        if self.judgement.view is None or self.step is not Step.WATCHING:
            return []
        if intent is not None and intent[0] == self.view.term:
            self._begin(intent[1])
            return self._seal()
        return self._consider()

    def _lease_lost(self, holder: str) -> list[Effect]:
        if not self.lease.lost(holder):
            return []
        self._note(f"lost the lease to {holder or 'nobody known'}")
        return self._watch()

    # --- the steps --------------------------------------------------------------------------------

    def _consider(self) -> list[Effect]:
        """Begin a change if one is needed, and can succeed."""
        if not self.lease.held or self.judgement.view is None or self.step is not Step.WATCHING:
            return []
        self._reason = self.judgement.need() or ""
        self._blocked = self.judgement.missing() if self._reason else ""
        if not self._reason or self._blocked:
            return []
        self._begin(self._reason)
        self.step = Step.INTENT
        return [StoreIntent(self.view.term, self._reason), *self._retry()]

    def _begin(self, reason: str) -> None:
        if self._intent is not None and self._intent[0] == self.view.term:
            reason = self._intent[1]  # whatever else has happened since
        self._note(f"term {self.view.term} is to end: {reason}")
        self._reason, self._blocked = reason, ""
        self._began_s, self._attempts = self.judgement.now_s, 0
        self._avoid = set(filter(self.judgement.is_stuck, primaries_of(self.view)))

    def _intent_stored(self, term: Term) -> list[Effect]:
        if self.step is not Step.INTENT or self.view.term != term:
            return []
        if self._intent is None or self._intent[0] != term:
            self._intent = (term, self._reason)
        return self._seal()

    def _seal(self) -> list[Effect]:
        """From here on no answer of an earlier round counts: whoever gave it may be gone."""
        self.step, self._attempts, self._blocked = Step.SEALING, 0, ""
        self._change = Change()
        return [*self._ask_all(), *self._retry(), CancelTimer(_GRACE)]

    def _ask_all(self) -> list[Effect]:
        return [effect for node in self.judgement.sequencers for effect in self._ask(node)]

    def _ask(self, node: NodeId) -> list[Effect]:
        """What a sequencer has still to answer in this step."""
        if self.step is Step.SEALING and node not in self._change.answers:
            return [Send(node, Seal(self.view.term))]
        if self.step is not Step.EXTENDING:
            return []
        _, held = self._change.extended.get(node, (None, set[int]()))
        wanted: dict[NodeId, list[Ending]] = {}
        for space, ending in self._change.endings.items():
            if space not in held and node in self.view.space(space).sequencers:
                source = node if node in ending.sources else self._source(ending)
                wanted.setdefault(source, []).append(ending)
        return [
            Send(node, Extend(self.view.term, rows_of(each.end for each in group), source))
            for source, group in wanted.items()
        ]

    def _source(self, ending: Ending) -> NodeId:
        """Who has a whole metalog, and lives if possible."""
        return next(filter(self.judgement.is_alive, ending.sources), ending.sources[0])

    def _sources_are_gone(self) -> bool:
        return self.step is Step.EXTENDING and not all(
            any(map(self.judgement.is_alive, ending.sources))
            for ending in self._change.endings.values()
        )

    def _again(self) -> list[Effect]:
        """A step was not answered in time."""
        self._attempts += 1
        self._blocked = self._waiting_for()
        term, proposed = self.view.term, self._change.proposed
        if self.step is Step.WATCHING:
            return []
        if self.step is Step.INTENT:
            return [StoreIntent(term, self._reason), *self._retry()]
        if self.step is Step.SEALING:
            return [*self._ask_all(), *self._retry()]
        if self._attempts >= ATTEMPTS_MAX or self._sources_are_gone():
            self._note("begins again with the seal")
            return [LoadView(term + 1), *self._seal()]
        if proposed is None:
            return [*self._ask_all(), *self._retry(), *self._swap_if_held()]
        return [LoadView(term + 1), SwapView(term, proposed), *self._retry()]

    def _retry(self) -> list[Effect]:
        delay_s = self.settings.retry_s * 2 ** min(self._attempts, 16)
        return [SetTimer(_STEP, min(delay_s, self.settings.retry_max_s))]

    def _sealed(self, node: NodeId, message: Sealed) -> list[Effect]:
        change = self._change
        if message.term != self.view.term or self.step is not Step.SEALING:
            self.ignored_count += 1
            return []
        if node not in self.judgement.sequencers or not has_vote(self.view, node, message.disk_id):
            self.ignored_count += 1
            change.without_vote.add(node)
            return []
        change.answers[node] = message
        if not all(is_quorum(space, change.answers) for space in self.view.spaces):
            return []
        change.endings = endings(self.view, change.answers)
        self._blocked = self._lost()
        if self._blocked:
            return []
        self.step, self._attempts, self._blocked = Step.EXTENDING, 0, ""
        self._note(f"sealed by {', '.join(change.answers)}")
        return [*self._ask_all(), *self._retry()]

    def _lost(self) -> str:
        """What nobody of those who are sealed holds; empty: somebody has everything, or it is not
        known yet."""
        change = self._change
        for space, ending in change.endings.items():
            if not ending.sources:
                what = f"log space {space} up to where term {self.view.term} began"
                return f"none of {', '.join(change.answers)} has {what}"
        return ""

    def _extended(self, node: NodeId, message: Extended) -> list[Effect]:
        change = self._change
        if message.term != self.view.term or self.step is not Step.EXTENDING:
            self.ignored_count += 1
            return []
        start = Start(incarnation=message.incarnation, disk_id=message.disk_id)
        known, spaces = change.extended.get(node, (start, set[int]()))
        if known.disk_id != start.disk_id:
            spaces = set()
        wanted = rows_of(ending.end for ending in change.endings.values())
        change.extended[node] = (start, spaces | {row[0] for row in message.ends if row in wanted})
        return self._swap_if_held()

    def _swap_if_held(self) -> list[Effect]:
        """Propose the next view once a majority of its sequencers holds everything (P13)."""
        change, spaces = self._change, self.view.spaces
        holders = {space.id: self._holders(space) for space in spaces}
        if not all(is_quorum(space, holders[space.id]) for space in spaces):
            return []
        primaries = self._choose(holders)
        if primaries is None:
            return [] if change.grace_over else [SetTimer(_GRACE, GRACE_S)]
        judgement = self.judgement
        known = filter(judgement.is_known, judgement.sequencers)
        change.proposed = next_view(
            self.view,
            ends=[change.endings[space.id].end for space in spaces],
            primary=primaries,
            starts={node: judgement.start(node) for node in known},
            replicas=judgement.replacements(),
        )
        self.step, self._attempts = Step.SWAPPING, 0
        chosen = ", ".join(dict.fromkeys(primaries.values()))
        self._note(f"proposes term {change.proposed.term}: {chosen}")
        return [SwapView(self.view.term, change.proposed), *self._retry(), CancelTimer(_GRACE)]

    def _holders(self, space: LogSpace) -> set[NodeId]:
        """Who holds a metalog up to its end on the disk that the next view will name."""
        return {
            node
            for node, (start, spaces) in self._change.extended.items()
            if space.id in spaces and self.judgement.start(node).disk_id == start.disk_id
        }

    # --- who is primary ---------------------------------------------------------------------------

    def _choose(self, holders: Mapping[LogSpaceId, set[NodeId]]) -> dict[LogSpaceId, NodeId] | None:
        """The primary of each log space, the same for all if it can be; None: wait for a better
        one, or for any."""
        chosen: dict[LogSpaceId, NodeId] = {}
        for space in self.view.spaces:
            ranked = self._ranked(space.sequencers)
            ready = [node for node in ranked if node in holders[space.id]]
            if not ready:
                self._blocked = f"none of {', '.join(sorted(holders[space.id]))} can be primary"
                return None
            if ready[0] != ranked[0] and not self._change.grace_over:
                return None
            chosen[space.id] = ready[0]
        return chosen

    def _ranked(self, nodes: tuple[NodeId, ...]) -> list[NodeId]:
        """Who can be primary, the best first: the present one, the furthest, then as in the
        view."""
        judgement = self.judgement
        present, order = primaries_of(self.view), judgement.sequencers

        def rank(node: NodeId) -> tuple[bool, bool, bool, int, int]:
            unfit = judgement.leaves(node) or node in self._avoid
            longest = sum(node in ending.sources for ending in self._change.endings.values())
            is_new = not judgement.votes(node)
            return (unfit, is_new, node not in present, -longest, order.index(node))

        fit = (node for node in nodes if judgement.is_alive(node) and not judgement.is_ahead(node))
        return sorted(fit, key=rank)

    # --- the outcome ------------------------------------------------------------------------------

    def _swapped(self, term: Term, *, ok: bool) -> list[Effect]:
        """Stored or not: the view store says what is; everybody is told to look."""
        if self.view.term >= term:
            return []
        if ok:
            peers = [node.id for node in self.view.nodes if node.id in self._links]
            return [LoadView(term), *(Send(peer, TermChanged(term)) for peer in peers)]
        self._note(f"another view of term {term} is stored, or the view store did not answer")
        return [*self._watch(), LoadView(term)]

    def _install(self, view: View) -> list[Effect]:
        """A view from the store: whatever was under way for an earlier term is over."""
        present = self.judgement.view
        if present is not None and view.term <= present.term:
            return []
        if present is not None:
            self._remember(view)
        self._newest_term = max(self._newest_term, view.term)
        self.judgement.install(view)
        effects = self._watch()
        return [*effects, *self._beat()]

    def _remember(self, view: View) -> None:
        """For people: what changed last."""
        mine = self._change.proposed == view
        primary = ", ".join(primaries_of(view))
        reason = self._reason if mine else ""
        took_s = self.judgement.now_s - self._began_s if mine else 0.0
        self._last = LastChange(view.term, primary, reason, round(took_s, 3))
        self._changes += mine
        self._note(f"term {view.term} has begun: {primary}")

    def _watch(self) -> list[Effect]:
        """The change in hand is over, or somebody else's."""
        was, self.step = self.step, Step.WATCHING
        self._attempts, self._reason, self._blocked = 0, "", ""
        self._change, self._avoid = Change(), set()
        return [] if was is Step.WATCHING else [CancelTimer(_STEP), CancelTimer(_GRACE)]

    # --- for people -------------------------------------------------------------------------------

    def _waiting_for(self) -> str:
        """What the step in hand lacks."""
        change = self._change
        match self.step:
            case Step.INTENT | Step.SWAPPING:
                return "the view store does not answer"
            case Step.SEALING:
                done = ", ".join(change.answers) or "nobody"
                return self._lost() or f"sealed by {done}; {self.judgement.roll()}"
            case Step.EXTENDING:
                done = ", ".join(change.extended) or "nobody"
                return f"the whole metalog is with {done}; {self.judgement.roll()}"
            case Step.WATCHING:
                return ""

    def _note(self, what: str) -> None:
        self.trace.append((self.judgement.now_s, what))

    def facts(self) -> dict[str, object]:
        """For `bokilog status`."""
        last = self._last
        return {
            "state": self.step.value,
            "active": self.lease.held,
            "holder": self.lease.holder,
            "reason": self._reason,
            "blocked": self._blocked,
            "missing": self.judgement.missing() if self.judgement.view is not None else "",
            "changes": self._changes,
            "last_change": None if last is None else last._asdict(),
            "nodes": {peer.node: self.judgement.facts(peer.node) for peer in self.judgement.vitals},
        }

    def check(self) -> None:
        """Asserts the invariants."""
        change = self._change
        if self.step is Step.WATCHING:
            assert not (change.answers or change.extended or change.proposed)
            return
        assert self.lease.held, "only the active controller changes anything"
        for node, answer in change.answers.items():
            assert answer.term == self.view.term
            assert has_vote(self.view, node, answer.disk_id)
        if self.step in (Step.EXTENDING, Step.SWAPPING):
            assert all(is_quorum(space, change.answers) for space in self.view.spaces)
        assert (self.step is Step.SWAPPING) == (change.proposed is not None)
