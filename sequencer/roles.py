"""What a sequencer process is in each log space, from one view to the next.

Decides the role: a primary iff the view names this sequencer and this very start of it (P12), and
it holds everything up to where the term before ended; else a backup, perhaps of nobody. The journal
stays, and what is held of it passes from role to role.

Invariants: one role per log space; entries past a term's end are gone before a role of the next
term begins (P13); a role that begins in a term that was promised away is sealed at once (P14).

Does not know: messages, links, how a view is stored.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from bokilog.effects import Effect, EndTerm
from bokilog.histogram import Moment
from bokilog.ids import LogSpaceId, NodeId
from bokilog.journal import Journal
from bokilog.sequencer.backup import Backup
from bokilog.sequencer.held import Holding, Recovered, begun
from bokilog.sequencer.primary import Primary
from bokilog.sequencer.seal import Holder, Sealing
from bokilog.view import LogSpace, View


class Roles:
    """The roles of one start of one sequencer.

    Args:
        node: its name in the view.
        incarnation: of this start; 0: the only sequencer, whose term is as long as its life.
        disk_id: of its data directory (P14).
        journals: per log space, where its metalog goes.
        ceilings: seqnums that may be in use, as the core hears of them (P11).
        sealing: which term was promised to be left alone.
        moment: what time it is.
        releases: whether what replicas have stored is let go (P16).
        release_after_s: not before a primary is so old.
    """

    __slots__ = (
        "_ceilings",
        "_disk_id",
        "_incarnation",
        "_journals",
        "_moment",
        "_node",
        "_release_after_s",
        "_releases",
        "_sealing",
        "backups",
        "primaries",
    )

    def __init__(
        self,
        *,
        node: NodeId,
        incarnation: int,
        disk_id: str,
        journals: Mapping[LogSpaceId, Journal],
        ceilings: Mapping[LogSpaceId, int],
        sealing: Sealing,
        moment: Moment,
        releases: bool,
        release_after_s: float,
    ) -> None:
        self.primaries: dict[LogSpaceId, Primary] = {}
        self.backups: dict[LogSpaceId, Backup] = {}
        """Log spaces that this sequencer holds the metalog of for another one, or for nobody."""
        self._node = node
        self._incarnation = incarnation
        self._disk_id = disk_id
        self._journals = journals
        self._ceilings = ceilings
        self._sealing = sealing
        self._moment = moment
        self._releases = releases
        self._release_after_s = release_after_s

    def holders(self) -> dict[LogSpaceId, Holder]:
        """All of them, as far as the end of a term is concerned."""
        return {**self.primaries, **self.backups}

    # --- from view to view ------------------------------------------------------------------------

    def begin(self, space: LogSpace, view: View, recovered: Recovered) -> None:
        """The first role of this start, with what its journal holds."""
        holding = begun(recovered)
        named = self._is_named(space, view) if self._incarnation else space.primary == self._node
        if named:
            ended = holding.metalog.end == view.end(space.id)
            assert ended, f"the view ends {space.id} elsewhere (P13)"
        self._begin_as(space, view, holding, named=named)

    def change(self, space: LogSpace, view: View) -> list[Effect]:
        """From the role in the last view to that in this one, with the same journal."""
        primary = self.primaries.get(space.id)
        effects: list[Effect] = []
        if primary is not None:
            holding = primary.holding()
            effects += primary.depose(view.term)
            if not (space.backups or self._is_named(space, view)):
                return effects  # its successor is another start of this sequencer
        elif space.id in self.backups:
            holding = self.backups[space.id].holding()
        else:
            return []
        named = self._is_named(space, view)
        return [*effects, *self._begin_as(space, view, holding, named=named)]

    def _begin_as(
        self, space: LogSpace, view: View, holding: Holding, *, named: bool
    ) -> list[Effect]:
        """Takes the role that the view gives to this start of this sequencer."""
        self.primaries.pop(space.id, None)
        self.backups.pop(space.id, None)
        end = view.end(space.id)
        if holding.metalog.position.term < view.term:
            holding.end_at(end)
        if named and holding.metalog.count == end.position.count:
            self._begin_as_primary(space, view, holding)
            return []
        self._begin_as_backup(space, view, holding)
        if named:
            what = f"log space {space.id}: entries up to {end.position} are missing here"
            return [EndTerm(what)]  # another start of it, or another sequencer, has to do it
        return self.backups[space.id].follow()

    def _begin_as_primary(self, space: LogSpace, view: View, holding: Holding) -> None:
        primary = self.primaries[space.id] = Primary(
            space=space,
            term=view.term,
            recovered=_not_earlier(holding.metalog.recovered(), view.end_timestamp_ms),
            journal=self._journals[space.id],
            standing=holding.standing,
            releases=self._releases,
            moment=self._moment,
            release_after_s=self._release_after_s,
            losses_accepted=view.losses_accepted,
        )
        if self._sealing.is_sealed(view.term):
            primary.seal()

    def _begin_as_backup(self, space: LogSpace, view: View, holding: Holding) -> None:
        """Of the view's primary, unless that is an older start of this very sequencer."""
        member = self._node in space.sequencers
        backup = self.backups[space.id] = Backup(
            space=space,
            term=view.term,
            holding=holding,
            journal=self._journals[space.id],
            primary=space.primary if member and space.primary != self._node else None,
            ceiling=self._ceilings.get(space.id, 1),
            votes=member and _disk_of(view, self._node) == self._disk_id,
            releases=self._releases,
        )
        if self._sealing.is_sealed(view.term):
            backup.seal()

    def _is_named(self, space: LogSpace, view: View) -> bool:
        """Whether the view names this start of this sequencer as primary (P12)."""
        if space.primary != self._node or not self._incarnation:
            return False
        return view.node(self._node).incarnation == self._incarnation

    # --- for people -------------------------------------------------------------------------------

    def facts(self) -> dict[LogSpaceId, dict[str, object]]:
        """Per log space, for `bokilog status`."""
        primaries = {space: _primary_facts(each) for space, each in self.primaries.items()}
        return primaries | {space: _backup_facts(each) for space, each in self.backups.items()}

    def check(self) -> None:
        """Asserts the invariants."""
        for primary in self.primaries.values():
            primary.check()
        for backup in self.backups.values():
            backup.check()
        assert not set(self.primaries) & set(self.backups)


def _primary_facts(primary: Primary) -> dict[str, object]:
    stats = primary.stats()
    return {
        "durability": primary.space.durability,
        "position": list(stats.position),
        "published": list(stats.published),
        "tail": stats.tail,
        "shards": stats.shards,
        "cut_seconds": primary.cut_latency.plain(),
        "begins_at": stats.begins_at,
        "held_up": primary.held_up,
        "replicas": {node: list(counts) for node, counts in stats.replicas.items()},
    }


def _backup_facts(backup: Backup) -> dict[str, object]:
    stats = backup.stats()
    return {
        "durability": backup.space.durability,
        "primary": backup.primary,
        "position": list(stats.position),
        "durable": list(stats.durable),
        "begins_at": stats.begins_at,
        "tail": stats.tail,
    }


def _disk_of(view: View, node: NodeId) -> str:
    """The disk of a sequencer that has a vote in the view (P14)."""
    return next((each.disk_id for each in view.nodes if each.id == node), "")


def _not_earlier(recovered: Recovered, timestamp_ms: int) -> Recovered:
    """Timestamps go on from the largest of all ends in the view, not only from its own (P10)."""
    return recovered._replace(end=replace(recovered.end, timestamp_ms=timestamp_ms))
