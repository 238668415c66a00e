"""What replicas tell each other of their folds, and when a peer's takes the place of this one.

Replicas of a log space say how far they have folded and stored, and what the chained hash was at
some positions. From that follows who may let something go (`storing.py`), who has to load a peer's
fold, since what it lacks is nowhere else (P16), and whose fold is wrong (P24).

Decides what is told, to whom; whether a fold is wanted from a peer, and for what reason; whether
the one that a peer gives will do; and whether this replica has what the others think it has (P33).

Invariants: while there is no fold nothing is said of one; a fold is given up only for one that
stands further, or because more than half of all replicas contradict it; a replica that began with
nothing is whole only once it stands where a peer does.

Does not know: how a peer's rows become this node's (`loading.py`), which frames those lack
(`filling.py`), nor what else has to follow when the fold is another one: the replica does.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

from bokilog.effects import Address, Effect, Send
from bokilog.ids import START, NodeId, Position
from bokilog.journal import Location
from bokilog.messages import FoldMarks, IndexReport, SnapshotPart
from bokilog.storage_nodes.agreement import Agreement
from bokilog.storage_nodes.index import Index
from bokilog.storage_nodes.loading import Loading, Step
from bokilog.storage_nodes.membership import Membership
from bokilog.storage_nodes.pending import Pending

LOAD_ENTRIES = 1_000
"""A replica that has stored nothing folds so many entries rather than load a peer's fold."""


class PeerFolds:
    """This fold among those of the other replicas.

    Args:
        membership: who the other replicas are.
        index: the fold.
        pending: frames that are still to be folded.
        agreement: hashes of this fold and theirs; None: there are no others.
        load_entries: so many entries are folded rather than loaded, if nothing is stored.
    """

    __slots__ = (
        "_agreement",
        "_fresh",
        "_index",
        "_load_entries",
        "_membership",
        "_pending",
        "_rebuilt",
        "_stranded_before",
        "disagreement",
        "given_up_count",
        "loading",
    )

    def __init__(
        self,
        membership: Membership,
        *,
        index: Index,
        pending: Pending,
        agreement: Agreement | None,
        load_entries: int,
    ) -> None:
        self._membership = membership
        self._index = index
        self._pending = pending
        self._agreement = agreement
        self._load_entries = load_entries
        self.loading = Loading(membership.node, index)
        self.given_up_count = 0
        """Folds that were wrong, since the start (P24)."""
        self.disagreement = ""
        """Who folded otherwise, while nobody can tell which is right; empty: nobody."""
        self._fresh = not index.generations.stored_position.count
        """It began with nothing, and has not come to where a peer stands."""
        self._rebuilt = False
        """It took the place of one that had folded records, which are folded again."""
        self._stranded_before = 0
        """The metalog begins there, and this fold of a log space in memory stood before it."""

    def stand_on(self, index: Index) -> None:
        """Another fold, an empty one, took the place of the one before."""
        self._index = index
        self.loading = Loading(self._membership.node, index)
        self._stranded_before = 0

    def succeed(self, before: PeerFolds) -> None:
        """If the fold before had records, this node holds frames, whatever its fold says by now:
        nobody must start over because of it. One whose memory is lost goes on saying so (P20)."""
        self._rebuilt = before._rebuilt or not before._index.empty

    # --- what is told -----------------------------------------------------------------------------

    def report(self) -> IndexReport:
        """Where the fold stands."""
        index, nothing = self._index, self.loading.writing
        return IndexReport(
            space=self._membership.space.id,
            folded=START if nothing else index.position,
            stored=START if nothing else index.generations.stored_position,
            term=self._membership.term,
            empty=(index.empty and not self._holds_records) or self.is_stranded,
        )

    @property
    def _holds_records(self) -> bool:
        """Whether an empty fold will hold some: frames are here that are ordered perhaps, from the
        first of their shard on, in a log space whose folds are in memory. If they did not count,
        everything would start over without them, though no node has failed (P20)."""
        if self._rebuilt:
            return True
        in_memory = self._membership.space.durability == "memory"
        return in_memory and any(0 in room.frames for room in self._pending)

    @property
    def is_stranded(self) -> bool:
        """Whether it can only go on with a peer's fold, in a log space whose folds are in memory:
        if no peer has one, nothing is left, and they start over (P20)."""
        return self._index.position.count < self._stranded_before

    def metalog_gone(self, count: int) -> list[Effect]:
        """The metalog reaches back to `count` only, and this fold stands before (P16)."""
        effects: list[Effect] = []
        space = self._membership.space
        if space.durability == "memory":
            self._stranded_before = count
            effects += self.tell_primary()
        reason = f"the metalog reaches back to entry {count} only"
        return [*effects, *self.load(reason, at_least=count)]

    def tell_primary(self) -> list[Effect]:
        """Where the fold stands, if there is a primary: in term 0 nobody is, and what would be told
        in it could be taken for a report of a version that tells no term."""
        membership = self._membership
        return [Send(membership.space.primary, self.report())] if membership.term else []

    def tell(self, peer: NodeId) -> list[Effect]:
        """Where the fold stands, and what its hash was, to a peer whose link is up."""
        return [Send(peer, self.report()), *self._tell_marks(peer)]

    def tell_all(self) -> list[Effect]:
        """Where the fold stands, to whoever may let something go for it."""
        membership = self._membership
        if not membership.is_member:
            return []
        report, peers = self.report(), sorted(membership.peers_up)
        effects = [*self.tell_primary(), *(Send(peer, report) for peer in peers)]
        return [*effects, *(effect for peer in peers for effect in self._tell_marks(peer))]

    def _tell_marks(self, peer: NodeId) -> list[Effect]:
        """What this fold's hash was, where a peer may have stood as well (P24)."""
        if self._agreement is None or self.loading.writing:
            return []
        return [Send(peer, FoldMarks(self._membership.space.id, self._agreement.rows()))]

    # --- what peers tell --------------------------------------------------------------------------

    def peer_stands(self, peer: str, message: IndexReport) -> str:
        """A peer says how far it is; why its fold is wanted, if it is: it is that far ahead."""
        position = self._index.position
        if 0 < message.folded.count <= position.count:
            self._fresh = False
        behind = message.stored.count - position.count
        new = not self._index.generations.stored_position.count
        ahead = new and behind > self._load_entries and peer in self._membership.space.replicas
        return f"{behind:,} entries are missing here" if ahead else ""

    def is_contradicted(self, peer: NodeId, marks: list[list[int]]) -> bool:
        """A peer's hashes: whether most of the others contradict this fold, which is then given up
        (P24)."""
        agreement, membership = self._agreement, self._membership
        if agreement is None or self.loading.writing or peer not in membership.space.replicas:
            return False
        agreement.heard(peer, marks)
        found = agreement.disagreement(membership.others)
        self.disagreement = ""
        if found is None:
            return False
        names = " and ".join(found.peers)
        if not found.outvoted:
            self.disagreement = (
                f"its index and that of {names} disagree, and no majority says which is right"
            )
            return False
        self.given_up_count += 1
        reason = f"its chained hash is not that of {names}"
        self.loading.condemn(reason, by=found.peers, alike_until=found.alike_until)
        return True

    # --- a fold from a peer -----------------------------------------------------------------------

    def load(self, reason: str, *, at_least: int) -> list[Effect]:
        """A fold of so many entries is wanted, if there is anybody to ask, and a need."""
        if self._membership.is_alone or not self._membership.is_member:
            return []
        self.loading.want(reason, at_least=at_least)
        return self.ask()

    def ask(self) -> list[Effect]:
        """The next peer, if a fold is wanted and nobody was asked."""
        return self.loading.ask(self._membership.connected())

    def give_up(self) -> list[Effect]:
        """Whoever was asked did not help, or there was nobody: the next peer is asked."""
        self.loading.give_up()
        return self.ask()

    def take(
        self,
        source: Address,
        part: SnapshotPart,
        *,
        may_load: bool,
        replay_hint: bytes,
        not_durable: Callable[[], Collection[Location]],
    ) -> tuple[Step, list[Effect]]:
        """The next part of a peer's fold; the first one, if it will do, ends this one.

        Args:
            source: who sent it.
            part: of its fold.
            may_load: whether a fold of that position may take the place of this one now.
            replay_hint: where a start reads the journal from, once it is loaded.
            not_durable: tells the places of frames here that a crash may take yet.
        """
        loading = self.loading
        if not loading.is_wanted(source, part):
            return Step.NOTHING, []
        if not part.part and not (may_load and self._will_do(part.position)):
            loading.give_up()
            return Step.NOTHING, []
        return loading.take(part, replay_hint=replay_hint, not_durable=not_durable)

    def _will_do(self, position: Position) -> bool:
        return self.loading.will_do(position, self._membership.term)

    def loaded(self) -> None:
        """The fold is a peer's from here on."""
        self._fresh = False
        if self._agreement is not None:
            self._agreement.forget()

    # --- for people -------------------------------------------------------------------------------

    @property
    def is_fresh(self) -> bool:
        """Whether it began with nothing, and has not come to where a peer stands (P33)."""
        return self._fresh

    @property
    def state(self) -> str:
        """What is loaded, and why; empty: nothing."""
        loading = self.loading
        if not loading.reason:
            return ""
        loaded = f", {loading.loaded_bytes >> 10} KiB so far" if loading.writing else ""
        return f"rebuilding: the index is loaded from a peer{loaded}: {loading.reason}"
