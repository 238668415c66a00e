"""What the view in force says of one log space's replicas, and which of them are connected.

Decides who is asked and told: the primary, the other replicas, those that a link leads to now; and
whether this node is one of the replicas at all. A spare is not: it asks for nothing, tells nothing
and keeps what it has, since it may be one again.

Invariant: there is one of these per replica. The replica changes it, with a view or a link; its
parts look things up here.

Does not know: frames, folds, messages.
"""

from __future__ import annotations

from bokilog.ids import NodeId, Term
from bokilog.view import LogSpace


class Membership:
    """One node's place among the replicas of one log space.

    Args:
        node: this node.
        space: the log space, as the first view has it.
    """

    __slots__ = ("node", "peers_up", "space", "term")

    def __init__(self, node: NodeId, space: LogSpace) -> None:
        self.node = node
        self.space = space
        self.term = Term(0)
        self.peers_up: set[NodeId] = set()
        """Nodes that a link leads to, and that were replicas when it came up."""

    def install(self, space: LogSpace, term: Term) -> None:
        """The next view."""
        self.space, self.term = space, term

    @property
    def is_member(self) -> bool:
        """Whether the view names this node as a replica."""
        return self.node in self.space.replicas

    @property
    def is_alone(self) -> bool:
        """Whether there is no other replica to ask."""
        return len(self.space.replicas) == 1

    @property
    def others(self) -> list[NodeId]:
        """All replicas but this one, connected or not."""
        return [each for each in self.space.replicas if each != self.node]

    def connected(self) -> list[NodeId]:
        """The other replicas that are connected."""
        return sorted(self.peers_up.intersection(self.space.replicas) - {self.node})
