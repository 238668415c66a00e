"""When journal segments may be let go, and who holds them back (P21).

Decides whether a segment that nothing leads to may be used again: a write quorum of replicas has
stored its fold as far as this one has, and no backup is being taken. A replica that is further
behind loads the fold of a peer, so it holds nothing up.

Invariants: while a backup runs nothing is let go, so that every frame its snapshot names stays; on
a full disk appends come first: what runs is broken then, and is told so, and never becomes whole
again.

Does not know which segments are dead (`retention.py` does), where their bytes lie, nor what a
backup reads.
"""

from __future__ import annotations

from collections.abc import Mapping

from bokilog.effects import Address
from bokilog.ids import NodeId
from bokilog.journal import Journal
from bokilog.storage_nodes.cold import Cold
from bokilog.storage_nodes.index import Index
from bokilog.view import LogSpace


class Releases:
    """What of one replica's journal is let go.

    Args:
        node: this node.
        journal: of the log space.
        cold: its segments in the object store.
    """

    __slots__ = ("_broken", "_cold", "_journal", "_known", "_node", "_running", "_stored_by")

    def __init__(self, node: NodeId, *, journal: Journal, cold: Cold) -> None:
        self._node = node
        self._journal = journal
        self._cold = cold
        self._stored_by: dict[str, int] = {}
        self._running: set[int] = set()
        """Connections that take a backup: until they end nothing is let go."""
        self._broken: set[int] = set()
        """Those for which something was let go all the same."""
        self._known = False
        """Whether the fold was told of every segment there is."""

    # --- peers ------------------------------------------------------------------------------------

    def peer_stored(self, peer: str, count: int) -> None:
        """A replica's fold is on disk up to so many entries."""
        self._stored_by[peer] = count

    def succeed(self, before: Releases) -> None:
        """What peers have stored is as true for the replica that takes another one's place."""
        self._stored_by = before._stored_by

    # --- backups ----------------------------------------------------------------------------------

    def backup_begins(self, connection: int) -> None:
        self._running.add(connection)

    def backup_ends(self, connection: int) -> bool:
        """Whether that connection took one."""
        if connection not in self._running | self._broken:
            return False
        self._running.discard(connection)
        self._broken.discard(connection)
        return True

    def has_backup(self, source: Address) -> bool:
        return source in self._running

    def has_broken_backup(self, source: Address) -> bool:
        """What it wants may be gone: it must not take that for an answer."""
        return source in self._broken

    # --- segments ---------------------------------------------------------------------------------

    def may_begin(self, stored: int, space: LogSpace, *, full: bool) -> bool:
        """Whether a write quorum of replicas has stored its fold as far as this one.

        Args:
            stored: entries up to which this fold is on disk.
            space: as the view has it.
            full: the disk takes no more appends: backups fail, so that those do not.
        """
        if self._running and not full:
            return False
        self._broken |= self._running
        self._running.clear()
        others = [self._stored_by.get(peer, 0) for peer in space.replicas if peer != self._node]
        return sum(each >= stored for each in others) >= space.write_quorum - 1

    def dead(self, index: Index, *, before: int) -> list[int]:
        """Segments below `before` that no reader needs any more; they are told once."""
        if not self._known:
            # Nothing leads to those that a crash left between two steps of compaction.
            self._known = True
            for number in [*(each.number for each in self._journal.segments()), *self._cold.kept()]:
                if number not in index.segments:
                    index.segments.frame(number)
        return index.segments.dead(index, before=before)

    def look_again(self) -> None:
        """Segments that were told as dead, and not let go since, are to be found once more."""
        self._known = False

    def let_go(self, segment: int) -> None:
        """Nothing in it is needed any more, wherever it lies."""
        self._cold.dead(segment)
        self._journal.release(segment)

    def facts(self) -> Mapping[str, object]:
        """For `bokilog status`."""
        return {"segments": len(self._journal.segments()), "backups": len(self._running)}
