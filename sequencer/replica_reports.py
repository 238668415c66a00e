"""What the storage nodes of one log space say of their folds, and what none of them has any more.

Decides when records count as lost: once every replica says that it lacks the same ones (P24), but
not as long as all their disks are empty, unless a person has accepted that (P15).

Invariants: only what present processes say counts; a process that comes after may have come by what
the one before lacked. That a replica holds nothing, or something, counts in the term that it says
so of, and in no other: it may have come by all of it since, or have lost it (P20).

Does not know: what is ordered when, who is fed what. Whether a `memory` log space has to start over
is decided by `survival.py`, which hears of every report here.
"""

from __future__ import annotations

from bokilog.effects import Address
from bokilog.ids import Term
from bokilog.messages import FramesLacking, IndexReport
from bokilog.metalog import Lost
from bokilog.sequencer.ordered import Ordered
from bokilog.sequencer.survival import Survival
from bokilog.view import LogSpace


class ReplicaReports:
    """By storage node: how far it is, and what it lacks.

    Args:
        space: its configuration in this term.
        term: of the primary.
        ordered: the metalog that they fold.
        survival: whether anything of a `memory` log space is left.
        losses_accepted: of terms before it all records may be gone, a person has said.
    """

    __slots__ = (
        "_lacking",
        "_losses_accepted",
        "_ordered",
        "_reports",
        "_space",
        "_survival",
        "_term",
    )

    def __init__(
        self,
        space: LogSpace,
        *,
        term: Term,
        ordered: Ordered,
        survival: Survival,
        losses_accepted: int,
    ) -> None:
        self._space = space
        self._term = term
        self._ordered = ordered
        self._survival = survival
        self._losses_accepted = losses_accepted
        self._reports: dict[str, IndexReport] = {}
        self._lacking: dict[str, FramesLacking] = {}
        """The records that hold its fold up, as its present process says (P24)."""

    def folded(self, node: str, message: IndexReport) -> None:
        """How far a storage node's fold is.

        What it said in another term is late: it was under way, or was told to an earlier primary
        and kept for the next one.
        """
        self._reports[node] = message
        if message.said_in in (None, self._term):
            ordered = self._ordered.holds_records
            self._survival.reported(node, empty=message.empty, ordered=ordered)

    def lacking(self, node: str, message: FramesLacking) -> Lost | None:
        """A storage node cannot fold on. Once every replica says so of the same records, none has
        them, and none will take them any more: they are lost for good (P24).

        Returns:
            What is lost; the time is the next run's.
        """
        self._lacking[node] = message
        said = [self._lacking.get(each) for each in self._space.replicas]
        names = {each and (each.term, each.number, each.start) for each in said}
        until = min(0 if each is None else each.until for each in said)
        if len(names) != 1 or until <= message.start or self.held_up:
            return None
        for each in self._space.replicas:
            del self._lacking[each]
        return Lost(0, message.term, message.number, message.start, until)

    def link_down(self, source: Address) -> None:
        """Its next process may come by what this one lacked."""
        self._lacking.pop(str(source), None)

    @property
    def held_up(self) -> str:
        """Why what every replica lacks is not given up, for people; empty: it may be, or there is
        nothing (P24).

        If all disks are empty, they may be ones that somebody forgot to mount. That a whole log is
        gone, a person has to say (P15).
        """
        replicas = self._space.replicas
        said = [self._lacking.get(each) for each in replicas]
        reports = [self._reports.get(each) for each in replicas]
        if self._space.durability == "memory" or not all(each and each.empty for each in reports):
            return ""
        if not all(each and each.term >= self._losses_accepted for each in said):
            return ""
        return (
            f"no storage node ({', '.join(replicas)}) holds any of the records before"
            f" seqnum {self._ordered.published_tail}: are their disks mounted? Stop the cluster and"
            " put one of their data directories back; or, if they are gone for good, accept the"
            " loss with bokilog recover --accept-loss"
        )

    def stored(self) -> list[int]:
        """Count of entries that each replica has stored its fold past."""
        replicas = self._space.replicas
        return [report.stored.count for node, report in self._reports.items() if node in replicas]

    def asked(self) -> list[tuple[Address, IndexReport]]:
        """What the next primary has to know of them, as of now.

        Not that a replica was empty before there was anything to hold: by now it may have all of it
        (P20).
        """
        holds_by_now = self._ordered.holds_records
        return [
            (node, report)
            for node, report in self._reports.items()
            if not (report.empty and holds_by_now) or self._survival.is_empty(node)
        ]

    def counts(self) -> dict[str, tuple[int, int]]:
        """Storage node to (folded, stored) metalog counts, as it last reported."""
        return {
            node: (report.folded.count, report.stored.count)
            for node, report in self._reports.items()
        }
