"""The view: the immutable configuration of a cluster in one term, and where the last term ended.

A view is decided by one compare-and-swap in the view store; nobody acts on an end that is not in a
stored view (P13). Does not know where views are stored.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from bokilog.errors import InvalidSettings
from bokilog.ids import (
    START,
    SYSTEM_BOOK,
    SYSTEM_SPACE,
    BookNumber,
    LogSpaceId,
    NodeId,
    Position,
    Term,
)
from bokilog.record import Durability

PROTOCOL_VERSION = 1
FOLD_VERSION = 1
"""Two fold versions never run on one log space: replicas must decide alike (P25)."""

Role = Literal["sequencer", "storage", "engine"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A process of the cluster. `address` is `tcp:HOST:PORT` or `unix:PATH`."""

    id: NodeId
    role: Role
    address: str
    bulk_address: str = ""
    """Where frames are sent, so that heartbeats and cuts never wait behind them (P32); empty: the
    same address."""
    incarnation: int = 0
    """Of a sequencer: the only start of it that may be primary in this term (P12); 0: none yet."""
    disk_id: str = ""
    """Of a sequencer: the disk that has a vote, since another one forgot its promises (P14); empty:
    not known yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LogSpace:
    """A physical log: one primary in one term with its backups, which hold the metalog, and the
    storage nodes that hold and index its records."""

    id: LogSpaceId
    durability: Durability
    primary: NodeId
    replicas: tuple[NodeId, ...]
    write_quorum: int
    backups: tuple[NodeId, ...] = ()
    """Sequencers that hold the metalog beside the primary."""
    begun: int = 0
    """The metalog begins where the view of that term says that the term before ended: what came
    before is in folds only, and no run of an earlier term counts any more (P15, P16)."""

    def __post_init__(self) -> None:
        if len(set(self.sequencers)) != len(self.sequencers):
            names = ", ".join(self.sequencers)
            raise InvalidSettings("backups", names, "names a sequencer of the log space twice")
        if len(set(self.replicas)) != len(self.replicas):
            names = ", ".join(self.replicas)
            raise InvalidSettings("replicas", names, "names a storage node of the log space twice")
        if not 1 <= self.write_quorum <= len(self.replicas):
            raise InvalidSettings(
                name="write_quorum",
                value=str(self.write_quorum),
                problem=f"is not in 1..{len(self.replicas)}, the number of replicas",
            )

    @property
    def sequencers(self) -> tuple[NodeId, ...]:
        """Everybody who holds the metalog, the primary first."""
        return (self.primary, *self.backups)

    @property
    def metalog_quorum(self) -> int:
        """How many sequencers hold an entry before anybody else sees it: a majority (P11)."""
        return len(self.sequencers) // 2 + 1


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """Where a log space's term ended: decided once, with the next view."""

    space: LogSpaceId
    position: Position
    tail: int
    """First seqnum that the next term may use."""
    timestamp_ms: int
    """No cut of a later term is earlier (P10)."""
    given_up: bool = False
    """Seqnums from where the folds stand up to `tail` may have been of records that are lost, as a
    person has accepted: they are `DataLost`, not absent (P15, P33)."""


def first_end(space: LogSpaceId) -> End:
    """Where a log space stands before its first term."""
    return End(space=space, position=START, tail=1, timestamp_ms=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """A cluster's configuration in one term; the next one is another view."""

    cluster_id: str
    history_id: str
    """Changes when records may have been lost for good (P15); tokens carry it."""
    term: Term
    nodes: tuple[Node, ...]
    spaces: tuple[LogSpace, ...]
    ends: tuple[End, ...]
    """One per log space: where the term before this one ended (at the start, for the first)."""
    protocol_version: int = PROTOCOL_VERSION
    fold_version: int = FOLD_VERSION
    losses_accepted: int = 0
    """Records of terms before it may be gone with the disks of every storage node: a person has
    accepted that (P15, P24)."""

    def node(self, node: NodeId) -> Node:
        """The node of that name.

        Raises:
            LookupError: the view does not know it.
        """
        for found in self.nodes:
            if found.id == node:
                return found
        raise LookupError(f"{node} is no node of the view of term {self.term}")

    def space(self, space: LogSpaceId) -> LogSpace:
        """The log space of that number.

        Raises:
            LookupError: the view does not know it.
        """
        for found in self.spaces:
            if found.id == space:
                return found
        raise LookupError(f"log space {space} is not in the view of term {self.term}")

    def end(self, space: LogSpaceId) -> End:
        """Where the term before this one ended in that log space.

        Raises:
            LookupError: the view does not know it.
        """
        for found in self.ends:
            if found.space == space:
                return found
        raise LookupError(f"log space {space} has no end in the view of term {self.term}")

    def check_holders(self) -> None:
        """Every log space is held by nodes that the view has.

        Raises:
            InvalidSettings: one that it does not have is named, so there are fewer than it says.
        """
        roles = {node.id: node.role for node in self.nodes}
        for space in self.spaces:
            for name, role, wanted in (
                ("replicas", "storage", space.replicas),
                ("backups", "sequencer", space.sequencers),
            ):
                missing = [node for node in wanted if roles.get(node) != role]
                if missing:
                    problem = (
                        f"of log space {space.id} needs {len(wanted)} {role} nodes, and the view of"
                        f" term {self.term} lacks {', '.join(missing)}"
                    )
                    raise InvalidSettings(name, ", ".join(wanted), problem)

    @property
    def end_timestamp_ms(self) -> int:
        """No cut of this term, in any log space, is earlier (P10)."""
        return max((end.timestamp_ms for end in self.ends), default=0)

    def space_of(self, durability: Durability, book: BookNumber) -> LogSpaceId:
        """The log space of a LogBook: by its class and a hash of its number; fixed for the
        cluster's life (P5).

        Raises:
            InvalidSettings: no log space of this cluster has that class.
        """
        if book == SYSTEM_BOOK:
            return SYSTEM_SPACE
        spaces = [space.id for space in self.spaces if space.durability == durability]
        if not spaces:
            problem = "is a class that no log space of this cluster has"
            raise InvalidSettings("durability", durability, problem)
        return spaces[book % len(spaces)]
