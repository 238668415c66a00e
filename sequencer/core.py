"""A sequencer process as one pure core: a primary per log space, behind the greeting and the term.

With one sequencer its term is as long as its life: each start ends the term before and stores the next view before this
core exists (P12, P13), so nothing of an older term can be acknowledged here. Messages of older terms are ignored: their
sender learns the new term from `TermChanged` when it connects.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import assert_never

from bokilog.effects import (
    BatchEnded,
    CeilingRaised,
    CheckpointStored,
    Effect,
    Event,
    LinkClogged,
    LinkDown,
    LinkUp,
    Persisted,
    PersistFailed,
    ReadOnlyChanged,
    Received,
    Send,
    TimerFired,
    ViewInstalled,
)
from bokilog.ids import LogSpaceId, NodeId
from bokilog.journal import Journal
from bokilog.messages import (
    FollowMetalog,
    IndexReport,
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

TRACE_EVENTS = 256


class SequencerCore:
    """`handle(event, now_s) -> effects` of one sequencer."""

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
        self.primaries = {
            space.id: Primary(
                space=space,
                term=view.term,
                recovered=recovered[space.id],
                journal=journals[space.id],
            )
            for space in view.spaces
            if space.primary == node
        }
        self.trace: deque[str] = deque(maxlen=TRACE_EVENTS)
        self.ignored_count = 0
        """Messages of other terms, of unknown log spaces, or not meant for a sequencer."""
        self._token = 0
        self._committing: dict[int, LogSpaceId] = {}

    def handle(self, event: Event, now_s: float) -> list[Effect]:
        match event:
            case Received():
                return self._received(event)
            case BatchEnded(wall_ms=wall_ms):
                return self._end_batch(wall_ms)
            case Persisted(token=token):
                space = self._committing.pop(token)
                return self.primaries[space].persisted(token)
            case PersistFailed(token=token, reason=reason):
                self.primaries[self._committing.pop(token)].persist_failed(reason)
                return []
            case CeilingRaised(space=number, seqnum=seqnum):
                self.primaries[LogSpaceId(number)].ceiling_raised(seqnum)
                return []
            case LinkUp(peer=peer):
                return [Send(peer, TermChanged(self.view.term))]
            case LinkDown(peer=peer):
                for primary in self.primaries.values():
                    primary.link_down(peer)
                return []
            case TimerFired(timer=("feed", int() as number, source)):
                return self.primaries[LogSpaceId(number)].feed(source)
            case (
                TimerFired()
                | LinkClogged()
                | ViewInstalled()
                | CheckpointStored()
                | ReadOnlyChanged()
            ):
                return []
            case _:
                assert_never(event)

    def _received(self, event: Received) -> list[Effect]:
        source, message = event.source, event.message
        self.trace.append(f"{source} {type(message).__name__}")
        if isinstance(message, StatusRequest):
            return [Send(source, Status(message.request, self.facts()))]
        space = getattr(message, "space", None)
        primary = self.primaries.get(space) if isinstance(space, int) else None
        if primary is None:
            self.ignored_count += 1
            return []
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
                primary.index_reported(str(source), message)
            case _:
                self.ignored_count += 1
        return []

    def _end_batch(self, wall_ms: int) -> list[Effect]:
        effects: list[Effect] = []
        for number, primary in self.primaries.items():
            token = self._token + 1
            produced = primary.end_batch(wall_ms, token)
            if primary.committed(token):
                self._token = token
                self._committing[token] = number
            effects += produced
        return effects

    def facts(self) -> dict[str, object]:
        """For `bokilog status`."""
        return {
            "role": "sequencer",
            "node": self.node,
            "term": self.view.term,
            "primary": True,
            "ignored": self.ignored_count,
            "spaces": {
                number: {
                    "durability": primary.space.durability,
                    "position": list(stats.position),
                    "published": list(stats.published),
                    "tail": stats.tail,
                    "shards": stats.shards,
                    "replicas": {node: list(counts) for node, counts in stats.replicas.items()},
                }
                for number, primary in self.primaries.items()
                for stats in [primary.stats()]
            },
        }

    def check(self) -> None:
        for primary in self.primaries.values():
            primary.check()
