"""When a fold is stored, what is given of it as it is stored, and what is let go for it.

A checkpoint sets the fold aside and stores it as of one position (`checkpoints.py` writes it). It
is of use to four: a start goes on from there; the primary and the other replicas are told of it, so
that they let things go (P21); a peer, or a backup, gets it as a snapshot; and segments that nothing
leads to any more are used again.

Decides when a checkpoint begins, since it must not be ahead of frames or entries that may still be
lost (P19): of a class whose metalog is left to operating systems a fold is written once a majority
of the sequencers has synced the entries that it is of, so that no end of a term lies before what is
stored (P11). Decides also where a start begins to read the journal; when a snapshot waits for a
checkpoint; and whether segments may be let go now.

Invariants: nobody is told that the fold is stored before it is; while there is no fold, nothing is
stored or let go; on a full disk checkpoints are written all the same, from the headroom (P32).

Does not know: what a checkpoint holds (`generations.py`), how a snapshot is cut into parts
(`snapshots.py`), which segments are dead (`retention.py`), who holds them back (`releases.py`).
"""

from __future__ import annotations

from bokilog.codec import pack, unpack
from bokilog.effects import Address, Checkpoint, Effect, Send
from bokilog.ids import Term
from bokilog.journal import Journal
from bokilog.messages import FetchSnapshot, SyncMetalog
from bokilog.storage_nodes.filling import Filling
from bokilog.storage_nodes.index import Index
from bokilog.storage_nodes.membership import Membership
from bokilog.storage_nodes.peer_folds import PeerFolds
from bokilog.storage_nodes.pending import Pending
from bokilog.storage_nodes.releases import Releases
from bokilog.storage_nodes.snapshots import Snapshots
from bokilog.storage_nodes.upkeep import Upkeep


class Storing:
    """Checkpoints of one replica's fold, and what follows from them.

    Args:
        membership: the log space, as the view has it.
        index: the fold.
        journal: of the log space.
        pending: frames that are not folded yet.
        upkeep: its moved frames are stored with the fold.
        filling: frames that the fold lacks; how far it came is stored, too.
        folds: whether there is a fold; tells others of it.
        releases: who holds segments back.
        shared_journal: entries stand there, too, between the frames (the embedded shape).
    """

    __slots__ = (
        "_awaited_count",
        "_dying",
        "_filling",
        "_folds",
        "_index",
        "_journal",
        "_membership",
        "_pending",
        "_releases",
        "_shared_journal",
        "_snapshots",
        "_synced_count",
        "_upkeep",
        "due",
        "waits_for",
    )

    def __init__(
        self,
        membership: Membership,
        *,
        index: Index,
        journal: Journal,
        pending: Pending,
        upkeep: Upkeep,
        filling: Filling,
        folds: PeerFolds,
        releases: Releases,
        shared_journal: bool,
    ) -> None:
        self._membership = membership
        self._index = index
        self._journal = journal
        self._pending = pending
        self._upkeep = upkeep
        self._filling = filling
        self._folds = folds
        self._releases = releases
        self._shared_journal = shared_journal
        self._snapshots = Snapshots(index)
        self.due = False
        """Whether a checkpoint is wanted as soon as one may begin."""
        self.waits_for: int | None = None
        """The token that makes all frames of the frozen fold durable; None: nothing waits."""
        leaves_metalog = membership.space.durability != "sync" and not shared_journal
        self._synced_count: int | None = 0 if leaves_metalog else None
        """Entries that no end of a term lies before, of those that an operating system may lose;
        None: it loses none."""
        self._awaited_count: int | None = None
        """The frozen fold is written once so many are synced; None: it waits for none."""
        self._dying: list[tuple[int, int]] = []
        """Segments that nobody needs any more, and how many entries the stored fold has to hold
        before they go: their trims are among them."""

    def stand_on(self, index: Index) -> None:
        """Another fold, an empty one, took the place of the one before."""
        self._index = index
        self._snapshots = Snapshots(index)
        self.waits_for = self._awaited_count = None
        self._forget_dying()

    # --- checkpoints ------------------------------------------------------------------------------

    def begin(self, *, full: bool, committing: bool, last_token: int) -> list[Effect]:
        """Starts a checkpoint when it is due: what is frozen is stored once all its frames are
        durable (P19).

        On a full disk too, from the headroom: segments that trims let go of are free only then
        (P32). What waits for room there is not folded as a rule, and holds nothing up.

        Args:
            full: the journal takes no appends.
            committing: frames were committed that are not durable yet.
            last_token: the newest of theirs.
        """
        index = self._index
        if self._journal.read_only is not None or self._folds.loading.writing:
            return []  # what is folded may be ahead of what is durable, for good
        waits = self._pending.folded_before_durable if full else committing
        if self.waits_for is not None and not waits:
            self.waits_for = None
            return self._write()
        due = self.due or (index.generations.full and not full)
        if not due or self.waits_for is not None or index.generations.frozen:
            if self.due and self._awaited_count is not None:
                self.due = False
                return self.ask_for_sync()
            return []
        self.due = False
        if self._membership.space.durability == "memory" and index.empty:
            # It may start over at any entry, and there is nothing to store. Who decides that has to
            # hear of it in every term (P20).
            return self._folds.tell_all()
        self._upkeep.freeze()
        self._filling.freeze()
        frozen = index.freeze(replay_hint=self.replay_hint())
        if frozen and not waits:
            return self._write()
        if frozen:
            self.waits_for = last_token
        if full:
            self.release(full=full)  # what waits for room may wait for this
        return []

    def persisted(self, token: int) -> list[Effect]:
        """What was committed under this token, and earlier, is durable."""
        if self.waits_for is None or token < self.waits_for:
            return []
        self.waits_for = None
        return self._write()

    def _write(self) -> list[Effect]:
        """All frames of the frozen fold are durable; if its entries may still be lost, the primary
        is asked to have them synced first (P11)."""
        count = self._index.generations.frozen_count
        if self._synced_count is None or count <= self._synced_count:
            return [Checkpoint(self._membership.space.id)]
        self._awaited_count = count
        return self.ask_for_sync()

    def ask_for_sync(self) -> list[Effect]:
        """Of the primary there is now, if a fold waits for it."""
        space, count = self._membership.space, self._awaited_count
        if count is None:
            return []
        return [Send(space.primary, SyncMetalog(space.id, self._membership.term, count))]

    def metalog_synced(self, term: Term, count: int) -> list[Effect]:
        """A majority of the sequencers has synced so many entries; what a primary of another term
        says may be of other entries."""
        if term != self._membership.term or self._synced_count is None:
            return []
        self._synced_count = max(self._synced_count, count)
        if self._awaited_count is None or count < self._awaited_count:
            return []
        self._awaited_count = None
        return [Checkpoint(self._membership.space.id)]

    def stored(self, *, full: bool) -> list[Effect]:
        """The fold is on disk up to the frozen position: peers and the primary may know (P21)."""
        self._index.generations.done()
        for segment in self._upkeep.stored():
            self._releases.let_go(segment)
        effects = [*self._folds.tell_all(), *self._snapshots.checkpoint_stored()]
        self.release(full=full)
        return effects

    @property
    def is_writing(self) -> bool:
        """Whether a checkpoint is being written: the store is not to be touched."""
        waits = self.waits_for is not None or self._awaited_count is not None
        return self._index.generations.frozen and not waits

    @property
    def may_store_all(self) -> bool:
        """Whether everything that is folded may be written now, frames apart (P11); what is of
        memory only is never written."""
        if self._synced_count is None or self._membership.space.durability == "memory":
            return True
        generations, count = self._index.generations, self._index.position.count
        return count <= max(self._synced_count, generations.stored_position.count)

    @property
    def busy(self) -> bool:
        """Whether a checkpoint is written, or waits to be."""
        return self._index.generations.frozen or self.waits_for is not None

    # --- starts -----------------------------------------------------------------------------------

    @property
    def replay_from(self) -> int:
        """First journal segment that the stored fold still needs; 0 when nothing was stored."""
        hint = self._index.generations.replay_hint
        return unpack(hint) if hint else 0

    def replay_hint(self, *, quiet: bool = False) -> bytes:
        """Where the next start begins to read the journal: the oldest frame that is not folded.

        One segment earlier than the newest at least: an entry of the shared journal may stand there
        whose frames are all folded, and which is itself not. Two if groups are under way: while one
        at the end of its segment is synced, the next one is staged two segments on.
        """
        newest = self._index.segments.newest
        margin = 2 if self._shared_journal and not quiet else 1
        return pack(max(0, min(self._pending.oldest_segment(newest), newest - margin)))

    # --- snapshots --------------------------------------------------------------------------------

    def give(self, source: Address, message: FetchSnapshot) -> list[Effect]:
        """A peer or a backup wants this fold, or the next part of it."""
        if self._folds.loading.writing:
            return []  # it asks another one after a while
        if isinstance(source, int) and not message.part:
            return self._begin_backup(source, message)
        return [*self._snapshots.give(source, message)]

    def _begin_backup(self, source: int, message: FetchSnapshot) -> list[Effect]:
        """A backup is of the present position, so it waits for a checkpoint; until its connection
        ends, the frames that the snapshot names stay here, live or not."""
        self._releases.backup_begins(source)
        generations = self._index.generations
        if not generations.frozen and generations.stored_position == self._index.position:
            return [*self._snapshots.give(source, message)]
        self._snapshots.wait(source, message)
        self.due = True
        return []

    def link_down(self, source: Address, *, full: bool) -> None:
        """Nobody takes a snapshot there any more; a backup that went there has ended."""
        if not isinstance(source, int):
            self._snapshots.drop(source)
        elif self._releases.backup_ends(source):
            self._snapshots.drop(source)
            self.release(full=full)

    def fold_ended(self) -> None:
        """This fold is not to be given any more."""
        self._snapshots.clear()
        self._forget_dying()

    # --- segments ---------------------------------------------------------------------------------

    def release(self, *, full: bool) -> None:
        """Segments that no reader, no fold and no peer needs any more are recycled (P21).

        Not before their trims are in the stored fold: a term may end behind it, if an operating
        system loses entries (P11) or a person accepts a loss (P15), and then their records are
        there again. Embedded, the journal has the trims in front of everything that comes later.
        """
        if not self.may_release(full=full):
            return
        index = self._index
        dead = self._releases.dead(index, before=self.replay_from)
        self._dying += [(segment, index.hiding_count) for segment in dead]
        stored = index.generations.stored_position.count
        while self._dying and (self._shared_journal or self._dying[0][1] <= stored):
            segment, _ = self._dying.pop(0)
            self._releases.let_go(segment)

    def _forget_dying(self) -> None:
        """Another fold may need them: it finds out by itself."""
        if self._dying:
            self._dying.clear()
            self._releases.look_again()

    def may_release(self, *, full: bool) -> bool:
        """Whether there is a fold on disk, and replicas enough that have stored theirs (P21)."""
        stored, loading = self._index.generations.stored_position.count, self._folds.loading
        if loading.writing or (loading.loaded_count and not stored):
            return False
        return self._releases.may_begin(stored, self._membership.space, full=full)
