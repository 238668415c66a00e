"""Which connections of an engine stand, and which take bytes more slowly than they are sent.

One table for all log spaces: they share the connections. Knows names only, no messages.
"""

from __future__ import annotations

from bokilog.effects import Address
from bokilog.ids import NodeId


def bulk(node: str) -> Address:
    """The address of a storage node's connection for frames, beside the one for everything else
    (P32).
    """
    return ("bulk", node)


class Links:
    """Connections by address."""

    __slots__ = ("clogged", "up")

    def __init__(self) -> None:
        self.up: set[Address] = set()
        self.clogged: set[Address] = set()

    def went_up(self, peer: Address) -> None:
        """A new connection: nothing of an earlier one counts."""
        self.up.add(peer)
        self.clogged.discard(peer)

    def went_down(self, peer: Address) -> None:
        """It is gone."""
        self.up.discard(peer)
        self.clogged.discard(peer)

    def clog(self, peer: Address, *, clear: bool) -> None:
        """It has a queue, or none any more."""
        if clear:
            self.clogged.discard(peer)
        elif peer in self.up:
            self.clogged.add(peer)

    def up_of(self, nodes: tuple[NodeId, ...]) -> list[NodeId]:
        """Which of these nodes are connected, in the order given."""
        return [node for node in nodes if node in self.up]
