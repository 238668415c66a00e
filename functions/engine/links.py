"""Which connections of an engine stand, which take bytes more slowly than they are sent, and who
says nothing.

One table for all log spaces: they share the connections. Knows names only, no messages.
"""

from __future__ import annotations

import math

from bokilog.effects import Address
from bokilog.ids import NodeId


def bulk(node: str) -> Address:
    """The address of a storage node's connection for frames, beside the one for everything else
    (P32).
    """
    return ("bulk", node)


class Links:
    """Connections by address."""

    __slots__ = ("_silent", "clogged", "heard", "up")

    def __init__(self) -> None:
        self.up: set[Address] = set()
        self.clogged: set[Address] = set()
        self.heard: dict[Address, float] = {}
        """When each of them said something last."""
        self._silent: dict[Address, float] = {}
        """What `heard` said of those that were found silent."""

    def went_up(self, peer: Address) -> None:
        """A new connection: nothing of an earlier one counts."""
        self.up.add(peer)
        self.clogged.discard(peer)

    def went_down(self, peer: Address) -> None:
        """It is gone."""
        self.up.discard(peer)
        self.clogged.discard(peer)
        self.heard.pop(peer, None)
        self._silent.pop(peer, None)

    def clog(self, peer: Address, *, clear: bool) -> None:
        """It has a queue, or none any more."""
        if clear:
            self.clogged.discard(peer)
        elif peer in self.up:
            self.clogged.add(peer)

    def up_of(self, nodes: tuple[NodeId, ...]) -> list[NodeId]:
        """Which of these nodes are connected, in the order given."""
        return [node for node in nodes if node in self.up]

    # --- who says nothing (`silence.py`) ----------------------------------------------------------

    def heard_s(self, peer: Address) -> float:
        """When it said something last on this connection."""
        return self.heard.get(peer, -math.inf)

    def silence(self, peer: Address) -> None:
        """It is silent until it says something."""
        self._silent[peer] = self.heard_s(peer)

    def is_silent(self, peer: Address) -> bool:
        """Whether it was found silent, and has not been heard of since."""
        return peer in self._silent and self._silent[peer] == self.heard_s(peer)

    def answering(self, nodes: tuple[NodeId, ...]) -> list[NodeId]:
        """Which of these nodes are connected and not silent; those that are silent if all are."""
        up = self.up_of(nodes)
        if not self._silent:
            return up
        return [node for node in up if not self.is_silent(node)] or up
