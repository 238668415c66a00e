"""A sequencer process as one pure core: a primary per log space, behind the greeting and the term.

Decides which term's messages count, what time a cut carries, and when this process has been
succeeded. With one sequencer its term is as long as its life: each start ends the term before and
stores the next view before this core exists (P12, P13), so nothing of an older term can be
acknowledged here. Messages of older terms are ignored: their sender learns the new term from
`TermChanged` when it connects. Whoever knows a newer term makes this one load that view, and once
it is loaded nothing is ordered, published or confirmed here any more (P17).

Invariants: each commit has a token of its own, over all log spaces, so that their syncs may end in
any order.

Does not know: sockets, disks, how views are stored. Differs from Boki, where a primary is a role
that moves between live processes within a term.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import replace
from typing import Final, assert_never

from bokilog.effects import (
    Address,
    BatchEnded,
    CeilingRaised,
    CheckpointStored,
    Effect,
    Event,
    IntentStored,
    LeaseHeld,
    LeaseLost,
    LinkClogged,
    LinkDown,
    LinkUp,
    LoadView,
    Persisted,
    PersistFailed,
    PromiseStored,
    ReadOnlyChanged,
    Received,
    Send,
    TimerFired,
    ViewInstalled,
    ViewSwapped,
)
from bokilog.ids import LogSpaceId, NodeId, Term
from bokilog.journal import Journal
from bokilog.messages import (
    FollowMetalog,
    IndexReport,
    Message,
    OpenShardRequest,
    Propose,
    ShardProgress,
    Status,
    StatusRequest,
    TailRequest,
    TermChanged,
)
from bokilog.sequencer.primary import Primary, Recovered
from bokilog.view import View

TRACE_EVENTS: Final = 256
TIME_RATE_MAX: Final = 2.0
"""How much faster than the monotonic clock cuts' timestamps may follow a wall clock that was set
forward, and how much slower one that was set back: no time to live ends in under half its time."""

_Addressed = ShardProgress | OpenShardRequest | FollowMetalog | Propose | TailRequest | IndexReport


class CutClock:
    """The time that cuts carry: the wall clock, followed at a bounded rate (P10)."""

    __slots__ = ("_last_s", "_ms")

    def __init__(self, least_ms: int) -> None:
        self._ms = float(least_ms)
        self._last_s: float | None = None

    def read(self, now_s: float, wall_ms: int) -> int:
        """Milliseconds at `now_s` of the monotonic clock; never less than before."""
        if self._last_s is None:
            self._ms = max(self._ms, float(wall_ms))
        else:
            passed_ms = max(0.0, now_s - self._last_s) * 1000
            slowest, fastest = passed_ms / TIME_RATE_MAX, passed_ms * TIME_RATE_MAX
            self._ms = min(max(float(wall_ms), self._ms + slowest), self._ms + fastest)
        self._last_s = now_s
        return int(self._ms)


class SequencerCore:
    """`handle(event, now_s) -> effects` of one sequencer.

    Args:
        node: its name in the view.
        view: of this start's own term, stored already.
        recovered: per log space, where the term before ended and what led there.
        journals: per log space, where its metalog goes.
    """

    def __init__(
        self,
        *,
        node: NodeId,
        view: View,
        recovered: Mapping[LogSpaceId, Recovered],
        journals: Mapping[LogSpaceId, Journal],
    ) -> None:
        self.node = node
        self.view = view
        for space in view.spaces:
            if space.primary == node:
                known = recovered[space.id].end
                assert known == view.end(space.id), f"the view ends {space.id} elsewhere (P13)"
        self.primaries = {
            space.id: Primary(
                space=space,
                term=view.term,
                recovered=_not_earlier(recovered[space.id], view.end_timestamp_ms),
                journal=journals[space.id],
            )
            for space in view.spaces
            if space.primary == node
        }
        self.trace: deque[tuple[float, Address, str]] = deque(maxlen=TRACE_EVENTS)
        """(now_s, source, what) of the last messages, without payloads."""
        self.ignored_count = 0
        """Messages of other terms, of unknown log spaces, or not meant for a sequencer."""
        self.newest_term = view.term
        """Past the view's own: another start has taken over."""
        self._clock = CutClock(view.end_timestamp_ms)
        self._token = 0
        self._committing: dict[int, LogSpaceId] = {}
        self._touched: set[LogSpaceId] = set()
        """Log spaces that something happened to since the last batch ended."""

    def handle(self, event: Event, now_s: float) -> list[Effect]:
        """What an event asks for, in order."""
        match event:
            case Received(source=source, message=message):
                self.trace.append((now_s, source, type(message).__name__))
                return self._received(source, message)
            case BatchEnded(wall_ms=wall_ms):
                return self._end_batch(self._clock.read(now_s, wall_ms))
            case Persisted(token=token):
                return self._primary(self._committing.pop(token)).persisted(token)
            case PersistFailed(token=token, reason=reason):
                return self._primary(self._committing.pop(token)).persist_failed(reason)
            case CeilingRaised(space=space, seqnum=seqnum):
                self._primary(LogSpaceId(space)).ceiling_raised(seqnum)
                return []
            case LinkUp(peer=peer):
                return [Send(peer, TermChanged(self.newest_term))]
            case LinkDown(peer=peer):
                for primary in self.primaries.values():
                    primary.link_down(peer)
                return []
            case TimerFired(timer=("feed", int() as space, source)):
                return self.primaries[LogSpaceId(space)].feed(source)
            case ViewInstalled(view=view):
                return self._install(view)
            case TimerFired() | LinkClogged() | CheckpointStored() | ReadOnlyChanged():
                return []  # a full disk keeps commits back until there is room: nothing is lost
            case PromiseStored() | LeaseHeld() | LeaseLost() | IntentStored() | ViewSwapped():
                return []
            case _:
                assert_never(event)

    def _primary(self, space: LogSpaceId) -> Primary:
        """The primary that something is happening to."""
        self._touched.add(space)
        return self.primaries[space]

    def _received(self, source: Address, message: Message) -> list[Effect]:
        match message:
            case StatusRequest(request=request):
                return [Send(source, Status(request, self.facts()))]
            case TermChanged(term=term):
                return [LoadView(term)] if term > self.newest_term else []
            case (
                ShardProgress()
                | OpenShardRequest()
                | FollowMetalog()
                | Propose()
                | TailRequest()
                | IndexReport()
            ):
                return self._addressed(source, message)
            case _:
                self.ignored_count += 1
                return []

    def _addressed(self, source: Address, message: _Addressed) -> list[Effect]:
        """A message about a log space; one of a newer term than any known here is a hint."""
        term = _term_of(message)
        if term is not None and term > self.newest_term:
            return [LoadView(term)]
        if message.space not in self.primaries:
            self.ignored_count += 1
            return []
        primary = self._primary(LogSpaceId(message.space))
        match message:
            case ShardProgress(term=primary.term):
                primary.progressed(NodeId(str(source)), message)
            case OpenShardRequest(term=primary.term):
                primary.open_shard(message)
            case FollowMetalog():
                return primary.follow(source, message)
            case Propose():
                return primary.propose(source, message)
            case TailRequest():
                return primary.tail_wanted(source, message)
            case IndexReport():
                return primary.index_reported(str(source), message)
            case ShardProgress() | OpenShardRequest():
                self.ignored_count += 1
            case _:
                assert_never(message)
        return []

    def _end_batch(self, timestamp_ms: int) -> list[Effect]:
        effects: list[Effect] = []
        touched, self._touched = self._touched, set()
        for space in sorted(touched):
            primary = self.primaries[space]
            token = self._token + 1
            produced = primary.end_batch(timestamp_ms, token)
            if primary.committed(token):
                self._token = token
                self._committing[token] = space
            effects += produced
        return effects

    def _install(self, view: View) -> list[Effect]:
        """A later term's view: this process never orders anything again (P12)."""
        if view.term <= self.newest_term:
            return []
        self.newest_term = view.term
        return [
            effect for primary in self.primaries.values() for effect in primary.depose(view.term)
        ]

    def facts(self) -> dict[str, object]:
        """For `bokilog status`."""
        return {
            "role": "sequencer",
            "node": self.node,
            "term": self.view.term,
            "primary": self.newest_term == self.view.term,
            "ignored": self.ignored_count,
            "spaces": {
                space: {
                    "durability": primary.space.durability,
                    "position": list(stats.position),
                    "published": list(stats.published),
                    "tail": stats.tail,
                    "shards": stats.shards,
                    "replicas": {node: list(counts) for node, counts in stats.replicas.items()},
                }
                for space, primary in self.primaries.items()
                for stats in [primary.stats()]
            },
        }

    def check(self) -> None:
        """Asserts the invariants."""
        assert all(token <= self._token for token in self._committing)
        for primary in self.primaries.values():
            primary.check()


def _not_earlier(recovered: Recovered, timestamp_ms: int) -> Recovered:
    """Timestamps go on from the largest of all ends in the view, not only from its own (P10)."""
    return recovered._replace(end=replace(recovered.end, timestamp_ms=timestamp_ms))


def _term_of(message: _Addressed) -> Term | None:
    """The term that a message is of, or speaks about."""
    match message:
        case ShardProgress(term=term) | OpenShardRequest(term=term):
            return Term(term)
        case FollowMetalog(position=position):
            return position.term
        case Propose() | TailRequest() | IndexReport():
            return None
        case _:
            assert_never(message)
