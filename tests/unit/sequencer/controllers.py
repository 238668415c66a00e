"""Controllers of several sequencers around one view store: time, links, stores and logs are models.

A modelled sequencer holds the metalog of one log space as a list of (term, name) entries and keeps
the rules of a real one: it promises, answers seals, extends, drops what lies past a stored end, and
as primary publishes what a majority holds. Everything else is decided by real controllers.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field

from bokilog.effects import (
    AcquireLease,
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
from bokilog.ids import START, LogSpaceId, NodeId, Position, Term
from bokilog.messages import Extend, Extended, Message, Seal, Sealed, TermChanged
from bokilog.record import Durability
from bokilog.sequencer.controller import ControllerCore, Step
from bokilog.sequencer.controller_settings import ControllerSettings
from bokilog.sequencer.next_view import has_vote, is_quorum, sequencers_of
from bokilog.view import LogSpace, Node, View, first_end

A, B, C = NODES = tuple(NodeId(f"sequencer-{number}") for number in (1, 2, 3))
SPACE = LogSpaceId(0)
WALL_MS = 1_700_000_000_000
MESSAGE_S, STORE_S = 0.001, 0.003

Entry = tuple[int, str]
"""(term, name)"""


def first_view(durability: Durability = "sync") -> View:
    """Of term 0, in which nobody orders anything."""
    space = LogSpace(
        id=SPACE,
        durability=durability,
        primary=A,
        backups=(B, C),
        replicas=(NodeId("storage-1"),),
        write_quorum=1,
    )
    return View(
        cluster_id="c1",
        history_id="h1",
        term=Term(0),
        nodes=tuple(Node(id=node, role="sequencer", address="") for node in NODES),
        spaces=(space,),
        ends=(first_end(SPACE),),
    )


@dataclass
class Sequencer:
    """One node: what its disk holds, and the process on it, if it runs."""

    disk: str
    log: list[Entry] = field(default_factory=list)
    sealed: int = -1
    ceiling: int = 1
    clock_ms: int = 0
    """How far its wall clock is ahead."""
    incarnation: int = 0
    core: ControllerCore | None = None
    view: View | None = None
    timers: dict[Hashable, int] = field(default_factory=dict)
    paused: list[Event] | None = None
    """Events that wait while the process is stopped."""

    @property
    def position(self) -> Position:
        return Position(Term(self.log[-1][0]), len(self.log)) if self.log else START

    def truncate(self, view: View) -> None:
        """Entries past the end of the term before the view are dropped (P13)."""
        count = view.end(SPACE).position.count
        self.log = [
            entry for at, entry in enumerate(self.log) if at < count or entry[0] >= view.term
        ]


class Cluster:
    """Three sequencers; everything happens in `run`."""

    def __init__(
        self, *, durability: Durability = "sync", latency: Callable[[], float] = lambda: MESSAGE_S
    ) -> None:
        self.now_s = 100.0
        self.views = [first_view(durability)]
        self.intent: tuple[Term, str] | None = None
        self.holder = ""
        self.store_is_up = True
        self.published: list[Entry] = []
        self.story: list[str] = []
        """What happened, in words."""
        self.nodes = {node: Sequencer(disk=f"{node} disk 1") for node in NODES}
        self._cut: set[frozenset[str]] = set()
        self._latency = latency
        self._lives = itertools.count(1)
        self._names = itertools.count(1)
        self._disks = itertools.count(2)
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._links: dict[tuple[str, str], list[Message]] = {}

    # --- what a test does -------------------------------------------------------------------------

    def start(self, *nodes: NodeId) -> None:
        for node in nodes or NODES:
            state = self.nodes[node]
            assert state.core is None, f"{node} runs"
            state.incarnation = next(self._lives)
            state.core = ControllerCore(
                ControllerSettings(),
                node=node,
                incarnation=state.incarnation,
                disk_id=state.disk,
            )
            state.timers, state.paused = {}, None
            state.view = None
            for view in self.views:
                state.truncate(view)
            self.story.append(f"{node} starts")
            self._load(node)
            for peer in NODES:
                self._connect(node, peer)

    def kill(self, *nodes: NodeId) -> None:
        for node in nodes:
            state = self.nodes[node]
            state.core, state.paused = None, None
            self.story.append(f"{node} is killed")
            for peer in NODES:
                self._disconnect(node, peer)
            if self.holder == node:
                self.holder = ""

    def wipe(self, node: NodeId) -> None:
        """Its disk comes back empty, as another one."""
        state = self.nodes[node]
        assert state.core is None, "a running process keeps its disk"
        state.disk, state.log = f"{node} disk {next(self._disks)}", []
        state.sealed, state.ceiling = -1, 1
        self.story.append(f"{node} is wiped")

    def cut(self, one: NodeId, other: NodeId) -> None:
        self._cut.add(frozenset((one, other)))
        self._disconnect(one, other)
        self.story.append(f"{one} and {other} are cut off from each other")

    def heal(self) -> None:
        self._cut.clear()
        for one in NODES:
            for other in NODES:
                self._connect(one, other)

    def pause(self, node: NodeId) -> None:
        self.nodes[node].paused = []
        self.story.append(f"{node} is paused")

    def resume(self, node: NodeId) -> None:
        waiting, self.nodes[node].paused = self.nodes[node].paused, None
        for event in waiting or ():
            self._deliver(node, event)

    def publish(self, *, reached: tuple[NodeId, ...] = NODES, by: NodeId | None = None) -> bool:
        """The primary orders one entry, which reaches some backups; whether a majority holds it."""
        node = by or self.views[-1].spaces[0].primary
        primary = self.nodes[node]
        view = primary.view
        if primary.core is None or view is None or not self._is_primary(node, view):
            return False
        primary.log.append((view.term, f"entry {next(self._names)}"))
        held = {node}
        for backup in view.spaces[0].backups:
            state = self.nodes[backup]
            reachable = backup in reached and (node, backup) in self._links
            if reachable and self._may_acknowledge(backup, view):
                state.log = list(primary.log)
                held.add(backup)
        if not is_quorum(view.spaces[0], held) or primary.sealed >= view.term:
            return False
        self.published = list(primary.log)
        return True

    def run(self, seconds: float = 10.0, *, until: Callable[[], bool] | None = None) -> bool:
        """So much time passes, or less if something holds by then."""
        end_s = self.now_s + seconds
        while until is None or not until():
            if not self._heap or self._heap[0][0] > end_s:
                self.now_s = end_s
                return until is None
            self.now_s, _, action = heapq.heappop(self._heap)
            action()
        return True

    # --- what a test asks -------------------------------------------------------------------------

    @property
    def view(self) -> View:
        return self.views[-1]

    @property
    def term(self) -> int:
        return self.view.term

    @property
    def primary(self) -> NodeId:
        return self.view.spaces[0].primary

    def core(self, node: NodeId) -> ControllerCore:
        core = self.nodes[node].core
        assert core is not None, f"{node} does not run"
        return core

    def active(self) -> NodeId | None:
        """Whose controller holds the lease, and knows it."""
        for node, state in self.nodes.items():
            if state.core is not None and state.core.lease.held and self.holder == node:
                return node
        return None

    def facts(self, node: NodeId) -> dict[str, object]:
        return self.core(node).facts()

    def is_settled(self) -> bool:
        """A primary runs that everybody alive follows, nothing is wrong or intended, and all disks
        vote."""
        alive = [node for node, state in self.nodes.items() if state.core is not None]
        return (
            self.term > 0
            and self._stored_intent() is None
            and self._is_primary(self.primary, self.view)
            and self.nodes[self.primary].core is not None
            and all(self.nodes[node].view == self.view for node in alive)
            and all(self.core(node).step is Step.WATCHING for node in alive)
            and all(has_vote(self.view, node, self.nodes[node].disk) for node in alive)
        )

    def step_of(self, node: NodeId, step: Step) -> Callable[[], bool]:
        return lambda: self.core(node).step is step

    def check(self) -> None:
        """Nothing published is lost, and the next majority holds it (P13)."""
        for state in self.nodes.values():
            if state.core is not None:
                state.core.check()
        holders = [
            node
            for node, state in self.nodes.items()
            if has_vote(self.view, node, state.disk)
            and state.log[: len(self.published)] == self.published
        ]
        voters = [node for node in NODES if has_vote(self.view, node, self.nodes[node].disk)]
        # Whatever majority answers the next seal, one of it has everything.
        quorum = self.view.spaces[0].metalog_quorum
        if len(voters) >= quorum:
            assert len(voters) - len(holders) < quorum, f"{self.published} is with {holders} only"

    # --- sequencers -------------------------------------------------------------------------------

    def _is_primary(self, node: NodeId, view: View) -> bool:
        named = view.node(node).incarnation == self.nodes[node].incarnation
        return view.spaces[0].primary == node and named and view.term > 0

    def _may_acknowledge(self, node: NodeId, view: View) -> bool:
        state = self.nodes[node]
        return (
            state.core is not None
            and state.paused is None
            and state.view == view
            and state.sealed < view.term
            and has_vote(view, node, state.disk)
        )

    def _answer(self, node: NodeId, source: str, message: Message) -> None:
        """What the sequencer beside a controller says."""
        state = self.nodes[node]
        installed = state.view.term if state.view is not None else -1
        if isinstance(message, TermChanged):
            self._soon(STORE_S, lambda: self._load(node))
        elif isinstance(message, Seal | Extend) and message.term < installed:
            self._send(node, source, TermChanged(installed))
        elif isinstance(message, Seal):
            state.sealed = max(state.sealed, message.term)
            term, count = state.position
            row = [SPACE, term, count, 1 + count, WALL_MS + count, state.ceiling]
            sealed = Sealed(message.term, state.disk, state.incarnation, [row])
            self._send(node, source, sealed)
        elif isinstance(message, Extend):
            core = state.core
            self._soon(5 * self._latency(), lambda: self._extend_to(node, core, source, message))

    def _extend_to(
        self, node: NodeId, core: ControllerCore | None, source: str, message: Extend
    ) -> None:
        """Entries are fetched and synced, which takes a while."""
        state = self.nodes[node]
        if state.core is None or state.core is not core or state.paused is not None:
            return
        if self._extend(node, message):
            extended = Extended(message.term, state.disk, state.incarnation, message.ends)
            self._send(node, source, extended)

    def _extend(self, node: NodeId, message: Extend) -> bool:
        """Holds everything up to the end, fetched from the source; it never drops anything."""
        ((_, term, count),) = message.ends
        state, source = self.nodes[node], self.nodes[NodeId(message.source)]

        def has_all(log: list[Entry]) -> bool:
            return len(log) >= count and (not count or log[count - 1][0] == term)

        if has_all(state.log):
            return True
        linked = source.core is not None and (node, message.source) in self._links
        if not linked or not has_all(source.log):
            return False
        state.log = source.log[:count]
        return True

    # --- the view store ---------------------------------------------------------------------------

    def _store(self, node: NodeId, effect: Effect) -> None:
        """One effect on the view store, and its answer."""
        state = self.nodes[node]
        core = state.core
        if not self.store_is_up or core is None:
            return
        answer: Event | None = None
        match effect:
            case AcquireLease():
                self.holder = self.holder or node
                held = self.holder == node
                answer = LeaseHeld(self._stored_intent()) if held else LeaseLost(self.holder)
            case ReleaseLease():
                self.holder = "" if self.holder == node else self.holder
            case StoreIntent(term=term, reason=reason):
                if term == self.term:
                    self.intent = (term, reason)
                    self.story.append(f"{node} stores the intent to end term {term}: {reason}")
                answer = IntentStored(term)
            case SwapView(expected_term=expected, view=view):
                answer = ViewSwapped(view.term, self._swap(node, expected, view))
            case _:
                raise AssertionError(f"the view store cannot do {effect}")
        if answer is not None:
            later: Event = answer
            self._soon(STORE_S, lambda: self._deliver_to(node, core, later))

    def _check_held(self, view: View) -> None:
        """A majority of the disks that the view names holds all that was published (P13); a disk
        that is gone by now may have."""
        lacking = [
            node
            for node, state in self.nodes.items()
            if view.node(node).disk_id in ("", state.disk)
            and state.log[: len(self.published)] != self.published
        ]
        can_hold = len(NODES) - len(lacking)
        assert can_hold >= view.spaces[0].metalog_quorum, f"{lacking} lack {self.published}"

    def _stored_intent(self) -> tuple[Term, str] | None:
        return self.intent if self.intent is not None and self.intent[0] == self.term else None

    def _swap(self, node: NodeId, expected: Term, view: View) -> bool:
        if self.term != expected or view.term != expected + 1:
            return False
        assert self.intent is not None, "P15: no term ends without a stored intent"
        assert self.intent[0] == expected, f"the intent is about term {self.intent[0]}"
        end = view.end(SPACE)
        assert end.position.count >= len(self.published), f"{end} is below {self.published}"
        self._check_held(view)
        self.views.append(view)
        self.story.append(f"{node} stores term {view.term}: {view.spaces[0].primary} is primary")
        return True

    def _load(self, node: NodeId) -> None:
        state = self.nodes[node]
        if state.core is None:
            return
        first = 0 if state.view is None else state.view.term + 1
        for view in self.views[first:]:
            state.view = view
            state.truncate(view)
            self._deliver(node, ViewInstalled(view))

    # --- links and time ---------------------------------------------------------------------------

    def _connect(self, one: NodeId, other: NodeId) -> None:
        cores = self.nodes[one].core, self.nodes[other].core
        if one == other or None in cores or frozenset((one, other)) in self._cut:
            return
        if (one, other) in self._links:
            return
        self._links[one, other] = []
        self._links[other, one] = []
        self._deliver(one, LinkUp(other))
        self._deliver(other, LinkUp(one))

    def _disconnect(self, one: NodeId, other: NodeId) -> None:
        if self._links.pop((one, other), None) is None:
            return
        del self._links[other, one]
        self._deliver(one, LinkDown(other))
        self._deliver(other, LinkDown(one))

    def _send(self, source: NodeId, to: str, message: Message) -> None:
        queue = self._links.get((source, to)) if to != source else []
        if queue is None:
            return
        queue.append(message)

        def arrive() -> None:
            if to == source or self._links.get((source, to)) is queue:
                self._receive(NodeId(to), source, queue.pop(0))

        self._soon(self._latency(), arrive)

    def _receive(self, node: NodeId, source: str, message: Message) -> None:
        if isinstance(message, Seal | Extend | TermChanged):
            if self.nodes[node].core is not None:
                self._answer(node, source, message)
            return
        self._deliver(node, Received(source, message))

    def _deliver_to(self, node: NodeId, core: ControllerCore, event: Event) -> None:
        if self.nodes[node].core is core:
            self._deliver(node, event)

    def _deliver(self, node: NodeId, event: Event) -> None:
        state = self.nodes[node]
        if state.core is None:
            return
        if state.paused is not None:
            state.paused.append(event)
            return
        wall_ms = WALL_MS + int(self.now_s * 1000) + state.clock_ms
        for each in (event, BatchEnded(wall_ms)):
            for effect in state.core.handle(each, self.now_s):
                self._perform(node, effect)
        state.core.check()

    def _perform(self, node: NodeId, effect: Effect) -> None:
        state = self.nodes[node]
        match effect:
            case Send(to=to, message=message):
                self._send(node, str(to), message)
            case SetTimer(timer=timer, delay_s=delay_s):
                number = state.timers[timer] = next(self._order)
                core = state.core
                self._soon(delay_s, lambda: self._fire(node, core, timer, number))
            case CancelTimer(timer=timer):
                state.timers.pop(timer, None)
            case LoadView():
                self._soon(STORE_S, lambda: self._load(node))
            case AcquireLease() | ReleaseLease() | StoreIntent() | SwapView():
                self._soon(STORE_S, lambda: self._store(node, effect))
            case _:
                raise AssertionError(f"a controller asks for {effect}")

    def _fire(
        self, node: NodeId, core: ControllerCore | None, timer: Hashable, number: int
    ) -> None:
        state = self.nodes[node]
        if state.core is core and state.timers.get(timer) == number:
            del state.timers[timer]
            self._deliver(node, TimerFired(timer))

    def _soon(self, delay_s: float, action: Callable[[], None]) -> None:
        heapq.heappush(self._heap, (self.now_s + delay_s, next(self._order), action))


def running() -> Cluster:
    """All three are up, in their first term, and have published a little."""
    cluster = Cluster()
    cluster.start()
    assert cluster.run(20, until=cluster.is_settled), cluster.story
    assert cluster.publish()
    cluster.run(3)  # the lease has found its place
    cluster.story.clear()
    return cluster


def others(cluster: Cluster, node: NodeId) -> list[NodeId]:
    return [each for each in sequencers_of(cluster.view) if each != node]
