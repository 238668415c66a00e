"""What the next view says: where the term ended, who is primary, which disks have a vote.

Decides the end of each log space from the answers to a seal (P11, P13) and puts the view together.
The end of a `sync` log space is the longest metalog of the ended term among a majority's answers:
whatever was published is synced on a majority, and two majorities meet. An answer that knows
nothing of the ended term counts at most as the view's own end, which that term began with. For
`flush` and `memory` it is the longest that was brought at all, and seqnums go on above every synced
ceiling. Entries of one term at one position are unique, as it had one primary, so *longest* is well
defined.

Invariants: an end of a `sync` log space never lies below what was published, nor below the end
before; W and the number of replicas do not change (P15), nor which they are, unless that is asked.

Does not know: how answers are got, who is alive.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from bokilog.ids import LogSpaceId, NodeId, Position, Term
from bokilog.messages import EndRows, Sealed
from bokilog.view import End, LogSpace, Node, View


@dataclass(frozen=True, slots=True, kw_only=True)
class Holding:
    """What one sequencer's answer says of one log space."""

    position: Position
    """Held, as far as it is certain: of an older term at most up to where the view begins."""
    tail: int
    timestamp_ms: int
    ceiling: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """Where a log space's term ended, and who has all of it."""

    end: End
    sources: tuple[NodeId, ...]
    """Sequencers that hold the metalog up to the end, in order of the view; none: it is lost with
    those that do not answer."""


def sequencers_of(view: View) -> tuple[NodeId, ...]:
    """Every sequencer of any log space, in order of the view."""
    wanted = {node for space in view.spaces for node in space.sequencers}
    return tuple(node.id for node in view.nodes if node.id in wanted)


def primaries_of(view: View) -> tuple[NodeId, ...]:
    """Every primary of any log space, in order of the view."""
    wanted = {space.primary for space in view.spaces}
    return tuple(node.id for node in view.nodes if node.id in wanted)


def has_vote(view: View, node: str, disk_id: str) -> bool:
    """Whether what a sequencer with that disk answers counts in the view's term (P14).

    Before the first term nothing was ordered, so nobody can have forgotten anything. Later a disk
    that the view does not name has no vote, also when it names none: it might be the second one
    since the term began.
    """
    if view.term == 0:
        return True
    return bool(disk_id) and view.node(NodeId(node)).disk_id == disk_id


def is_quorum(space: LogSpace, nodes: Iterable[str]) -> bool:
    """Whether these are a majority of the log space's sequencers."""
    return len(set(space.sequencers) & set(nodes)) >= space.metalog_quorum


# --- ends -----------------------------------------------------------------------------------------


def endings(view: View, answers: Mapping[NodeId, Sealed]) -> dict[LogSpaceId, Ending]:
    """Where each log space's term ended, by a majority's answers to the seal."""
    return {space.id: _ending(view, space, answers) for space in view.spaces}


def _ending(view: View, space: LogSpace, answers: Mapping[NodeId, Sealed]) -> Ending:
    began = view.end(space.id)
    held = {
        node: _holding(view, space, answers[node]) for node in space.sequencers if node in answers
    }
    longest = max(holding.position for holding in held.values())
    position = max(longest, began.position) if space.durability == "sync" else longest
    tails = [holding.tail for holding in held.values() if holding.position == position]
    if space.durability != "sync":
        tails = [max(holding.tail, holding.ceiling) for holding in held.values()]
    end = End(
        space=space.id,
        position=position,
        tail=max([began.tail, *tails]),
        timestamp_ms=max([began.timestamp_ms, *(each.timestamp_ms for each in held.values())]),
    )
    order = [node.id for node in view.nodes]
    sources = [node for node, holding in held.items() if holding.position == position]
    return Ending(end=end, sources=tuple(sorted(sources, key=order.index)))


def _holding(view: View, space: LogSpace, answer: Sealed) -> Holding:
    began = view.end(space.id)
    row = next((row for row in answer.ends if row[0] == space.id), None)
    if row is None:  # it never saw the view: it promised with nothing (P14)
        return Holding(position=Position(Term(0), 0), tail=1, timestamp_ms=0, ceiling=1)
    _, term, count, tail, timestamp_ms, ceiling = row
    position = Position(Term(term), count)
    if term < view.term and position >= began.position:
        # What it holds past the end that the term began with was dropped there (P13).
        position, tail = began.position, began.tail
    return Holding(position=position, tail=tail, timestamp_ms=timestamp_ms, ceiling=ceiling)


def rows_of(ends: Iterable[End]) -> EndRows:
    """Ends as `Extend` and `Extended` carry them."""
    return [[end.space, end.position.term, end.position.count] for end in ends]


# --- the view -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """A start of a sequencer: the disk has a vote, and only this start may be primary."""

    incarnation: int
    disk_id: str


def next_view(
    view: View,
    *,
    ends: Iterable[End],
    primary: Mapping[LogSpaceId, NodeId],
    starts: Mapping[NodeId, Start],
    replicas: Mapping[LogSpaceId, tuple[NodeId, ...]] | None = None,
) -> View:
    """The view of the next term.

    Args:
        view: of the term that ended.
        ends: where, one per log space.
        primary: of each log space, one of its sequencers.
        starts: of the sequencers that were heard of; the others stay as the view has them.
        replicas: of log spaces that get other ones.
    """
    changed = replicas or {}
    return replace(
        view,
        term=Term(view.term + 1),
        nodes=tuple(_node(node, starts.get(node.id)) for node in view.nodes),
        spaces=tuple(
            replace(
                _space(view, space, primary[space.id]),
                replicas=changed.get(space.id, space.replicas),
            )
            for space in view.spaces
        ),
        ends=tuple(ends),
    )


def _node(node: Node, start: Start | None) -> Node:
    if start is None:
        return node
    return replace(node, incarnation=start.incarnation, disk_id=start.disk_id)


def _space(view: View, space: LogSpace, primary: NodeId) -> LogSpace:
    sequencers = set(space.sequencers)
    assert primary in sequencers, f"{primary} is no sequencer of log space {space.id}"
    backups = tuple(node.id for node in view.nodes if node.id in sequencers and node.id != primary)
    return replace(space, primary=primary, backups=backups)
