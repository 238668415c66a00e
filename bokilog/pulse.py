"""The sign of life that storage nodes and engines give to every sequencer, each so often.

Decides when there is anybody to give it to: with one sequencer nobody asks who lives. Sequencers
themselves send theirs with their controller.

Does not know: links (a message that no link stands for is dropped), what follows from silence.
"""

from __future__ import annotations

from typing import Final

from bokilog.effects import Effect, Send, SetTimer
from bokilog.ids import NodeId
from bokilog.messages import Heartbeat
from bokilog.view import Role, View

PULSE: Final = "pulse"
"""The timer's name in the cores that have a pulse."""
PULSE_S: Final = 0.2
"""As often as sequencers send theirs."""


class Pulse:
    """Of one process.

    Args:
        node: its name in the view.
        role: what it is.
        incarnation: of this start, as registered in the view store (P3).
        disk_id: of its data directory; empty for a node that keeps nothing.
    """

    __slots__ = ("_heartbeat", "_others")

    def __init__(self, node: NodeId, role: Role, *, incarnation: int, disk_id: str = "") -> None:
        self._heartbeat = Heartbeat(node, role, incarnation, disk_id, 0, 0, 0, False, False)
        self._others: list[NodeId] = []

    def install(self, view: View) -> list[Effect]:
        """A view begins; with the first that has several sequencers, so does the pulse."""
        began = bool(self._others)
        sequencers = [node.id for node in view.nodes if node.role == "sequencer"]
        self._others = sequencers if len(sequencers) > 1 else []
        self._heartbeat = self._heartbeat._replace(term=view.term, installed=view.term)
        return [SetTimer(PULSE, PULSE_S)] if self._others and not began else []

    def beat(self, *, rebuilding: bool = False) -> list[Effect]:
        """The timer went off."""
        if not self._others:
            return []
        heartbeat = self._heartbeat._replace(leaving=rebuilding)
        sends = [Send(node, heartbeat) for node in self._others]
        return [*sends, SetTimer(PULSE, PULSE_S)]
