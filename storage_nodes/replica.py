"""One log space at one storage node: its parts, and what they need of each other, and when.

Frames arrive (`arrivals.py`), entries come (`entries.py`) and are folded in order (`folding.py`);
what is folded is read and followed (`answers.py`, `streams.py`), stored, given and let go
(`storing.py`), and looked after (`upkeep.py`). If a fold cannot go on from where it stands, a
peer's takes its place (`peer_folds.py`), with frames that are still to be had (`filling.py`).

Decides what all of them have to hear of: a view, a link, the end of a batch, what became durable,
and that the fold is another one now (P16, P20).

Invariants: when a fold takes the place of another one, every part stands on the new one before
anything else happens; nothing is streamed or answered from an entry that was not published.

Does not know: terms of others (the core's gate does), sockets, disks behind the `Journal` and the
`IndexStore`.
"""

from __future__ import annotations

from collections.abc import Callable

from bokilog.cold import ColdOutcome, FetchRange, Remove, StoreList, Upload
from bokilog.effects import Address, Commit, Effect
from bokilog.errors import ReadOnly
from bokilog.frame import Frame
from bokilog.ids import NodeId, Position, Term
from bokilog.journal import Journal, Location
from bokilog.limits import SEQNUM_FIRST
from bokilog.messages import FramesSent, IndexReport, SnapshotPart, StoredFrame
from bokilog.metalog import Run, StartOver
from bokilog.storage_nodes.agreement import Agreement
from bokilog.storage_nodes.answers import Answers
from bokilog.storage_nodes.arrivals import Arrivals, Identity
from bokilog.storage_nodes.backfill import BACKFILL_BYTES_S
from bokilog.storage_nodes.cold import Cold
from bokilog.storage_nodes.compaction import COMPACTION_BYTES_S
from bokilog.storage_nodes.entries import Entries
from bokilog.storage_nodes.filling import Filling
from bokilog.storage_nodes.fold import Fold
from bokilog.storage_nodes.folding import Folding
from bokilog.storage_nodes.loading import Step
from bokilog.storage_nodes.losses import Losses
from bokilog.storage_nodes.membership import Membership
from bokilog.storage_nodes.peer_folds import LOAD_ENTRIES, PeerFolds
from bokilog.storage_nodes.pending import Pending
from bokilog.storage_nodes.reader import Reader
from bokilog.storage_nodes.releases import Releases
from bokilog.storage_nodes.scrub import SCRUB_BYTES_S
from bokilog.storage_nodes.storing import Storing
from bokilog.storage_nodes.streams import Streams
from bokilog.storage_nodes.upkeep import Upkeep
from bokilog.view import End, LogSpace


class Replica:
    """Pure core of one log space at one storage node.

    What concerns one part alone is asked of that part: `arrivals`, `answers`, `entries`, `folding`,
    `filling`, `storing`.
    """

    def __init__(
        self,
        *,
        node: NodeId,
        space: LogSpace,
        identity: Identity,
        journal: Journal,
        fold: Fold,
        new_fold: Callable[[], Fold] | None = None,
        cache_bytes_max: int,
        pending_bytes_max: int,
        report_written: bool = False,
        lost_until: int = 0,
        compaction_bytes_s: int = COMPACTION_BYTES_S,
        backfill_bytes_s: int = BACKFILL_BYTES_S,
        load_entries: int = LOAD_ENTRIES,
        scrub_bytes_s: int = SCRUB_BYTES_S,
        cold: Cold | None = None,
    ) -> None:
        self._fold = fold
        self.index = index = fold.index
        self._membership = membership = Membership(node, space)
        self._journal = journal
        self._pending = pending = Pending(journal, bytes_max=pending_bytes_max)
        self._new_fold = new_fold
        """Makes an empty fold, for a log space in memory that starts over (P20)."""
        self._cache_bytes_max = cache_bytes_max
        self._cold = cold if cold is not None else Cold(space.id)
        self._reader = reader = self._new_reader(lost_until)
        self._losses = losses = Losses(space.id)
        self._streams = Streams(space.id)
        agreement = None if membership.is_alone else Agreement()
        self.arrivals = Arrivals(
            membership,
            identity=identity,
            index=index,
            journal=journal,
            pending=pending,
            losses=losses,
            report_written=report_written,
        )
        self.folds = PeerFolds(
            membership,
            index=index,
            pending=pending,
            agreement=agreement,
            load_entries=load_entries,
        )
        self.filling = Filling(
            membership,
            index=index,
            journal=journal,
            pending=pending,
            cold=self._cold,
            bytes_s=backfill_bytes_s,
        )
        self._upkeep = Upkeep(
            journal=journal,
            index=index,
            reader=reader,
            cold=self._cold,
            compaction_bytes_s=compaction_bytes_s,
            scrub_bytes_s=scrub_bytes_s if space.durability != "memory" else 0,
        )
        self._releases = Releases(node, journal=journal, cold=self._cold)
        self.answers = Answers(
            node=node,
            space=space.id,
            index=index,
            reader=reader,
            loading=self.folds.loading,
            pending=pending,
            cold=self._cold.reads,
            streams=self._streams,
            releases=self._releases,
            suspect=self._upkeep.suspect,
        )
        self.entries = Entries(
            membership,
            index.position,
            keeps_runs=space.durability != "sync" and not report_written,
        )
        self.folding = Folding(
            membership,
            entries=self.entries,
            fold=fold,
            reader=reader,
            journal=journal,
            pending=pending,
            losses=losses,
            arrivals=self.arrivals,
            folds=self.folds,
            agreement=agreement,
            streams=self._streams,
            touched=self.answers.touched,
        )
        self.storing = Storing(
            membership,
            index=index,
            journal=journal,
            pending=pending,
            upkeep=self._upkeep,
            filling=self.filling,
            folds=self.folds,
            releases=self._releases,
            shared_journal=report_written,
        )

        self._asks_again = False
        """The primary's metalog, once a checkpoint is written that a `StartOver` came in."""

    @property
    def space(self) -> LogSpace:
        """As the view in force has it."""
        return self._membership.space

    @property
    def read_only(self) -> str:
        """Why the journal takes no appends; empty: it does."""
        return self.arrivals.read_only

    # --- recovery ---------------------------------------------------------------------------------

    @property
    def replay_from(self) -> int:
        """First journal segment that the fold still needs; 0 when nothing was stored."""
        return self.storing.replay_from

    def recover_frame(self, frame: Frame, location: Location) -> None:
        """A durable frame; the shell gives them in the journal's order, before any event.

        Its segment is known from here on, whatever becomes of the frame: else one with nothing but
        frames of closed shards would never be let go (P2, P21).
        """
        self.index.segments.frame(location.segment)
        ended = frame.shard.term < self.index.position.term
        if (not ended or frame.shard in self._pending.shards) and self._pending.wanted(frame):
            self._pending.add(frame, location, durable=True)
        else:
            self.filling.recover_frame(frame, location)

    def recovered_frames(self) -> int:
        """All frames of the journal were given; how many records it lost that the fold names."""
        return self.filling.recovered()

    def recover_run(self, run: Run) -> bool:
        """Embedded: a durable run of the shared journal; False if entries before it are missing."""
        return self.entries.recover(run)

    def recovered(self) -> bool:
        """Embedded: everything durable was given; False if not all of it could be folded."""
        return self.folding.recovered()

    @property
    def known_until(self) -> Position:
        """Every entry up to here was taken, folded or not."""
        return self.entries.known_until

    # --- views and links --------------------------------------------------------------------------

    def install(self, space: LogSpace, term: Term, end: End) -> list[Effect]:
        """The next view: the term before ended at `end`, nothing past it is served (P13)."""
        self._membership.install(space, term)
        return self.folding.install(term, end)

    def is_past(self, term: Term, end: End) -> bool:
        """Whether entries were taken here that the view of `term` says were lost (P11, P13)."""
        return self.entries.are_past(term, end)

    @property
    def is_storing(self) -> bool:
        """Whether a checkpoint is being written: the store is not to be touched."""
        return self.storing.is_writing

    def succeed(self, before: Replica) -> None:
        """Takes the place of a replica whose fold went too far: what others asked stays asked."""
        self._membership.peers_up |= before._membership.peers_up
        self._streams = before._streams
        self.answers.succeed(before.answers)
        self.folding.succeed(self._streams)
        self.entries.succeed(before.entries)
        self.folds.succeed(before.folds)
        self._releases.succeed(before._releases)
        self.arrivals.read_only = before.read_only

    @property
    def is_member(self) -> bool:
        """Whether the view names this node as a replica. If not it is a spare, asks for nothing and
        keeps what it has: it may be one again."""
        return self._membership.is_member

    @property
    def is_whole(self) -> bool:
        """Whether it has all that the other replicas think it has (P33)."""
        return not self.folds.is_fresh and not self.rebuilding

    def follow_primary(self) -> list[Effect]:
        """The link to the primary is up: follow its metalog, tell it all that is held."""
        if not self._membership.is_member:
            return []
        primary = self._membership.space.primary
        self.arrivals.report_all()
        return [
            *self.folding.follow(),
            *self.folds.tell_primary(),
            *self._losses.state_again(to=primary),
            *self.storing.ask_for_sync(),
            *self.arrivals.progress(),
        ]

    def peer_link(self, peer: NodeId, *, up: bool) -> list[Effect]:
        if not up:
            self._membership.peers_up.discard(peer)
            self.folds.loading.link_down(peer)
            self.filling.link_down(peer)
            return []
        self._membership.peers_up.add(peer)
        if not self._membership.is_member:
            return []
        effects = self.folds.tell(peer)
        return [*effects, *self.folding.fold(), *self.filling.ask()]

    def link_down(self, source: Address) -> list[Effect]:
        """Nobody waits for an answer there any more; a backup that went there has ended."""
        effects = self.answers.link_down(source)
        self.storing.link_down(source, full=bool(self.read_only))
        return effects

    # --- durability -------------------------------------------------------------------------------

    def end_batch(self, token: int, effects: list[Effect]) -> bool:
        """Commits what was staged, tells followers, wakes reads, starts due checkpoints.

        Returns:
            Whether there was something to commit, under this token.
        """
        if self.entries.waiting:
            effects += self.folding.fold()
        arrivals, upkeep, filling = self.arrivals, self._upkeep, self.filling
        commits = self.staged
        if commits:
            arrivals.commit(token)
            if upkeep.copies:
                upkeep.commit(token)
            if filling.staged:
                filling.commit(token)
            effects.append(Commit(self._membership.space.id, token))
        if arrivals.report_written and arrivals.changed:
            effects += arrivals.progress()
        if not self.folds.loading.writing:
            self._serve(effects)
        return commits

    def _serve(self, effects: list[Effect]) -> None:
        """What was folded in this batch is told, read, and stored in its time."""
        answers, index, storing = self.answers, self.index, self.storing
        if answers.early_aux:
            answers.take_early_aux()
        if index.locations.lacking is not None:
            self.filling.folded()
        self._streams.messages(index.position, index.tail, effects)
        if answers.waiting:
            answers.wake(effects)
        answers.touched.clear()
        if storing.due or storing.waits_for is not None or index.generations.full:
            effects += storing.begin(
                full=bool(self.read_only),
                committing=self.arrivals.committing,
                last_token=self.arrivals.last_token,
            )

    @property
    def staged(self) -> bool:
        """Whether anything is journalled and not committed yet."""
        return bool(self.arrivals.staged or self._upkeep.copies or self.filling.staged)

    def persisted(self, token: int) -> list[Effect]:
        """What was committed under this token, and earlier, counts now."""
        arrivals = self.arrivals
        arrivals.persisted(token)
        if self._upkeep.committing:
            self._upkeep.persisted(token)
        if self.filling.committing:
            self.filling.persisted(token)
        effects = [] if arrivals.report_written else arrivals.progress()
        if self.storing.waits_for is not None:
            effects += self.storing.persisted(token)
        return effects

    def persist_failed(self, token: int, reason: str) -> list[Effect]:
        """Nothing of the failed commit counts (P7); reads go on, appends do not."""
        self.arrivals.persist_failed(token, reason)
        self._upkeep.persist_failed()
        self.filling.persist_failed()
        return []

    def read_only_changed(self, reason: str) -> list[Effect]:
        """The disk is full, or has room again."""
        return self.arrivals.read_only_changed(reason, self._streams)

    @property
    def everything_durable(self) -> bool:
        """Whether a checkpoint of the present position is ahead of no frame (P19)."""
        return not (self.staged or self.arrivals.committing or self.folds.loading.writing)

    def checkpoint_timer(self) -> None:
        """A checkpoint begins with the end of this batch, if one may."""
        self.storing.due = True

    def checkpoint_stored(self) -> list[Effect]:
        """The fold is on disk up to the frozen position."""
        effects = self.storing.stored(full=bool(self.read_only))
        if self._asks_again:
            self._asks_again = False
            effects += self.folding.follow()
        return effects

    def replay_hint(self, *, quiet: bool = False) -> bytes:
        """Where the next start begins to read the journal; `quiet`: no group is under way."""
        return self.storing.replay_hint(quiet=quiet)

    # --- the metalog ------------------------------------------------------------------------------

    def metalog(self, run: Run) -> list[Effect]:
        """Entries that were published."""
        if self.folds.loading.writing:
            return []  # asked for again from where the loaded fold stands
        first = run.entries[0]
        if isinstance(first, StartOver) and self._starts_over(run):
            if self.is_storing:  # the store is written for the fold that is here
                self._asks_again = True
                return []
            self._start_over(run, first)
        return self.folding.take(run)

    def _starts_over(self, run: Run) -> bool:
        """Whether what was ordered before the run is lost here, too; not if it was sent again."""
        if self._new_fold is None or self.entries.are_too_many:
            return False
        lost = self.index.empty or self.folds.is_stranded
        return lost and self.index.position.count <= run.first

    def _start_over(self, run: Run, entry: StartOver) -> None:
        """What was ordered before is lost on every replica: the fold begins here, empty (P20)."""
        assert self._new_fold is not None
        self._fold = fold = self._new_fold()
        self.index = index = fold.index
        self.arrivals.stand_on(index)
        self.folds.stand_on(index)
        self.filling.stand_on(index)
        self.storing.stand_on(index)
        self.answers.early_aux.clear()
        fold.start_over(Position(run.term, run.first), tail=entry.first_seqnum)
        self._read_with(self._new_reader(lost_until=entry.first_seqnum))
        self.entries.start_over(index.position)

    def _new_reader(self, lost_until: int) -> Reader:
        return Reader(
            index=self.index,
            journal=self._journal,
            cache_bytes_max=self._cache_bytes_max,
            lost_until=lost_until,
            cold=self._cold.reads,
        )

    def _read_with(self, reader: Reader) -> None:
        """Another fold took the place of the one before."""
        self._reader = reader
        self._upkeep.stand_on(self.index, reader)
        self.folding.stand_on(self._fold, reader)
        self.answers.stand_on(self.index, reader, self.folds.loading)

    def frames_sent(self, source: Address, message: FramesSent) -> list[Effect]:
        """A peer has answered; its frames are here, or it has none to give."""
        if message.frames and self.read_only:
            return []  # they were not taken: they are asked for again after a moment
        return self.folding.frames_sent(source, message)

    # --- a fold from a peer -----------------------------------------------------------------------

    def peer_stored(self, peer: str, message: IndexReport) -> list[Effect]:
        """A peer, or the primary, says how far its fold is, and its stored one."""
        self._releases.peer_stored(peer, message.stored.count)
        self.folding.peer_folded(peer, message.folded.count)
        if reason := self.folds.peer_stands(peer, message):
            return self.folds.load(reason, at_least=message.stored.count)
        self.storing.release(full=bool(self.read_only))
        return []

    def peer_folded(self, peer: NodeId, marks: list[list[int]]) -> list[Effect]:
        """A peer's hashes: a fold that most of the others contradict is given up (P24)."""
        if not self.folds.is_contradicted(peer, marks):
            return []
        return [*self._end_fold(), *self.folds.ask()]

    def snapshot_timer(self) -> list[Effect]:
        """A peer did not help, or there was none; or the fold got there by itself, and goes on."""
        effects = self.folds.give_up()
        return effects if self.folds.loading.reason else [*effects, *self.folding.follow()]

    def snapshot_part(self, source: Address, part: SnapshotPart) -> list[Effect]:
        """The next part of a peer's fold; the first one, if it will do, ends this one."""
        had_fold = not self.folds.loading.writing
        busy = self.storing.busy or self._upkeep.busy
        step, more = self.folds.take(
            source,
            part,
            may_load=not busy and not self.entries.end_before(part.position),
            replay_hint=self.storing.replay_hint(),
            not_durable=lambda: self._pending.places_not_durable,
        )
        effects: list[Effect] = []
        if had_fold and (self.folds.loading.writing or step is Step.DONE):
            effects += self._end_fold()
        effects += more
        return effects if step is not Step.DONE else [*effects, *self._loaded()]

    def _end_fold(self) -> list[Effect]:
        """From here on nothing is answered, until the other fold is here whole."""
        self.entries.waiting.clear()
        self.storing.fold_ended()
        return [*self.answers.send_away(), *self.folds.tell_all()]

    def _loaded(self) -> list[Effect]:
        """The store holds a peer's fold: go on from where it stands (P16)."""
        self.index.reload()
        self.filling.fold_loaded()
        self.folds.loaded()
        self._upkeep.fold_ended()
        self._read_with(self._new_reader(self._first_known()))
        self.storing.due = True
        return [*self.folding.fold_loaded(), *self.follow_primary(), *self.filling.ask()]

    def _first_known(self) -> int:
        """What a `memory` log space held before it started over is lost (P20); what was trimmed
        since is not."""
        spans = self.index.locations.given_up
        begun_over = bool(spans) and spans[0][0] == SEQNUM_FIRST
        return spans[0][1] if begun_over and self._membership.space.durability == "memory" else 0

    def stored_frame(self, source: Address, message: StoredFrame) -> list[Effect]:
        """A frame that the loaded fold names."""
        try:
            self.filling.take(source, message, full=bool(self.read_only))
        except ReadOnly as error:
            self.arrivals.read_only = error.reason
        return []

    # --- upkeep -----------------------------------------------------------------------------------

    def retention_timer(self, now_s: float) -> tuple[list[Effect], bool]:
        """Trims that retention asks for; and whether to look again soon."""
        membership = self._membership
        nothing = not self.index.retained or not membership.is_member
        if nothing or self.folds.loading.writing:
            return [], False
        return self._upkeep.retention(membership.space, membership.node, now_s=now_s)

    def compact(self, now_s: float) -> bool:
        """A bounded part of copying live frames out of a segment that is mostly dead; whether to
        look again soon (P21)."""
        if self.read_only or self._journal.read_only is not None:
            return False
        if not self.storing.may_release(full=False):
            return False
        return self._upkeep.compact(before=self.replay_from, now_s=now_s)

    def move_cold(self, now_s: float) -> list[Effect]:
        """Sends old segments to the object store, and lets those go that lie there (P21, P31)."""
        return self._upkeep.move_cold(
            before=self.replay_from,
            full=bool(self.read_only),
            may_move=not self.folds.loading.writing and self._journal.read_only is None,
            now_s=now_s,
        )

    def scrub(self, now_s: float) -> list[Effect]:
        """Reads some frames, whether their bytes are as they were; asks a peer for one that is not
        (P30)."""
        if self.folds.loading.writing:
            return []
        membership, full = self._membership, bool(self.read_only)
        return self._upkeep.scrub(membership.space, membership.connected(), full=full, now_s=now_s)

    def mend(self, source: Address, frame: Frame) -> bool:
        """A frame in place of a damaged one, if it is that: staged as a copy is."""
        row = self._upkeep.scrubber.answered(source, frame, self.index)
        return row is not None and self._upkeep.mend(row, frame)

    def cold_done(
        self,
        job: StoreList | Upload | FetchRange | Remove,
        outcome: ColdOutcome,
        now_s: float,
    ) -> list[Effect]:
        """A job at the object store has ended."""
        if not isinstance(job, FetchRange):
            return self._cold.done(job, outcome, now_s)
        return self.answers.fetched(job, outcome)

    def cold_down_timer(self) -> list[Effect]:
        self._cold.reads.down_timer()
        return []

    # --- for people -------------------------------------------------------------------------------

    @property
    def loaded_count(self) -> int:
        """Folds that were loaded from peers since the start."""
        return self.folds.loading.loaded_count

    @property
    def folds_given_up(self) -> int:
        """Because they were wrong, since the start (P24)."""
        return self.folds.given_up_count

    @property
    def disagreement(self) -> str:
        """Who folded otherwise, while nobody can tell which is right; empty: nobody."""
        return self.folds.disagreement

    @property
    def rebuilding(self) -> str:
        """What is still missing here; empty: nothing."""
        return self.folds.state or self.filling.state

    @property
    def held_up(self) -> str:
        """Why the fold does not go on, and for whom it waits; empty: it does (P24)."""
        return self.folding.held_up

    def facts(self) -> dict[str, object]:
        return {
            "durability": self.space.durability,
            "position": list(self.index.position),
            "stored": list(self.index.generations.stored_position),
            "tail": self.index.tail,
            "frames_asked": self.folding.frames_asked,
            "waiting_entries": len(self.entries.waiting),
            "waiting_reads": self.answers.waiting_count,
            "pending_bytes": self._pending.bytes_in_memory,
            "read_only": self.read_only,
            "replica": self.is_member,
            "rebuilding": self.rebuilding if self.is_member else "",
            "held_up": self.held_up,
            "disagreement": self.disagreement,
            "folds_given_up": self.folds_given_up,
            "records_void": self._losses.lost_records,
            "indexes_loaded": self.loaded_count,
            "records_lost": self.filling.lost_records,
            "chained_hash": f"{self.index.chained_hash:016x}",
            **self._releases.facts(),
            **self._upkeep.facts(),
            "free_bytes": self._journal.free_bytes(),
            **self._cold.facts(),
        }

    def check(self) -> None:
        self._pending.check()
        self._upkeep.check()
        self.index.check()
        self.folding.check()
