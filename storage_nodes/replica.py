"""One log space at one storage node: frames in, order applied, index served.

Decides: which frames it holds and so reports (P9), in which order the metalog is folded (P19), when
the fold is stored (P19), and when a peer's takes its place (P16). What a cut lacks is looked after
in `next_cut.py`, requests of others in `answers.py`, the journal's bytes in `upkeep.py` and
`releases.py`: here is what they need of each other, and when.

Invariants: progress counts only what the journal has made durable to the class's standard (the
embedded shape reports what is written: there one sync covers frames and the entry that orders them,
P11); entries are folded once, in order, and a cut only when every frame it orders is here; nothing
is streamed or answered from an entry that was not published.

Does not know: terms of others (the core's gate does), sockets, disks behind the `Journal` and the
`IndexStore`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import replace

from bokilog.codec import pack, unpack
from bokilog.cold import ColdOutcome, FetchRange, Remove, StoreList, Upload
from bokilog.effects import Address, Checkpoint, Commit, Effect, Send, SetTimer
from bokilog.errors import CorruptJournal, ReadOnly, RemoteProtocolError
from bokilog.frame import ITEM_FRAME, Frame
from bokilog.ids import START, NodeId, Position, Shard, Term
from bokilog.journal import Journal, Location
from bokilog.messages import (
    BookState,
    FetchFrames,
    FetchRuns,
    FetchSnapshot,
    FetchStored,
    FoldMarks,
    FollowIndex,
    FollowMetalog,
    FramesSent,
    IndexReport,
    Read,
    SeqnumAt,
    SetAux,
    ShardHeld,
    ShardProgress,
    SnapshotPart,
    StoredFrame,
    StoredSent,
)
from bokilog.metalog import (
    CloseShard,
    Cut,
    DeleteBook,
    EndTags,
    Entry,
    Hold,
    MetalogFollower,
    OpenShard,
    Release,
    Retain,
    Run,
    StartOver,
    Trim,
)
from bokilog.named import NamedTuple
from bokilog.storage_nodes.agreement import Agreement
from bokilog.storage_nodes.answers import Answers
from bokilog.storage_nodes.backfill import BACKFILL_BYTES_S, Backfill
from bokilog.storage_nodes.cold import Cold
from bokilog.storage_nodes.compaction import COMPACTION_BYTES_S, Moved
from bokilog.storage_nodes.index import Index
from bokilog.storage_nodes.kept_runs import KeptRuns
from bokilog.storage_nodes.loading import Loading, Step
from bokilog.storage_nodes.losses import Losses
from bokilog.storage_nodes.missing import mark_missing
from bokilog.storage_nodes.next_cut import ALONE_S, Gap, NextCut, Opened, Ordered
from bokilog.storage_nodes.own_frames import find_own
from bokilog.storage_nodes.pending import HeldFrame, Pending
from bokilog.storage_nodes.reader import Reader, is_whole
from bokilog.storage_nodes.releases import Releases
from bokilog.storage_nodes.repair import Repair
from bokilog.storage_nodes.scrub import SCRUB_BYTES_S
from bokilog.storage_nodes.snapshots import Snapshots
from bokilog.storage_nodes.streams import Streams
from bokilog.storage_nodes.upkeep import Upkeep
from bokilog.view import End, LogSpace

FOLD_RECORDS = 20_000
"""Records folded before messages get their turn again."""
LOAD_ENTRIES = 1_000
"""A replica that has stored nothing folds so many entries rather than load a peer's fold."""
ENTRIES_WAITING_MAX = 100_000
"""Entries kept that cannot be folded yet; beyond that runs are dropped and asked for again."""


class Identity(NamedTuple):
    """Whose progress this is (P6): another identity means that what was reported before may be
    gone."""

    disk_id: str
    incarnation: int


class Replica:
    """Pure core of one log space at one storage node."""

    def __init__(
        self,
        *,
        node: NodeId,
        space: LogSpace,
        identity: Identity,
        journal: Journal,
        index: Index,
        new_index: Callable[[], Index] | None = None,
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
        self.node = node
        self.space = space
        self.term = Term(0)
        self.index = index
        self.read_only = ""
        self.dropped_runs_count = 0
        self._identity = identity
        self._journal = journal
        self._report_written = report_written
        self._pending = Pending(journal, bytes_max=pending_bytes_max)
        self._new_index = new_index
        """Makes an empty fold, for a log space in memory that starts over (P20)."""
        self._cache_bytes_max = cache_bytes_max
        self._cold = cold if cold is not None else Cold(space.id)
        self._reader = self._new_reader(lost_until)
        self._loading = Loading(node, index)
        self._snapshots = Snapshots(index)
        self._backfill_bytes_s = backfill_bytes_s
        self._backfill = Backfill(node, index, bytes_s=backfill_bytes_s)
        self._load_entries = load_entries
        self._copied: dict[Shard, dict[int, HeldFrame]] = {}
        """A start: frames of the journal that are not pending, while the fold lacks some."""
        self._filled: list[Moved] = []
        """Staged: frames that a loaded fold names, from peers."""
        self._filling: dict[int, list[Moved]] = {}
        """The same, committed, by token."""
        keeps = space.durability != "sync" and not report_written
        self._runs = KeptRuns(space.id, keeps=keeps)
        self._losses = Losses(space.id)
        self._agreement = Agreement() if len(space.replicas) > 1 else None
        self.folds_given_up = 0
        """Because they were wrong, since the start (P24)."""
        self.disagreement = ""
        """Who folded otherwise, while nobody can tell which is right; empty: nobody."""
        self._follower = MetalogFollower(space.id, index.position)
        self._entries: deque[tuple[Position, Entry]] = deque()
        self._fold_scheduled = False
        self._repair = Repair(node, space.id)
        self._next_cut = NextCut(
            node=node,
            space=space.id,
            entries=self._entries,
            pending=self._pending,
            journal=journal,
            losses=self._losses,
            repair=self._repair,
        )
        self._staged: list[tuple[Shard, int]] = []
        self._committing: dict[int, list[tuple[Shard, int]]] = {}
        self._last_token = 0
        self._changed: set[Shard] = set()
        self._streams = Streams(space.id)
        self._freeze_token: int | None = None
        self._checkpoint_due = False
        self._upkeep = Upkeep(
            journal=journal,
            index=index,
            reader=self._reader,
            cold=self._cold,
            compaction_bytes_s=compaction_bytes_s,
            scrub_bytes_s=scrub_bytes_s if space.durability != "memory" else 0,
        )
        self._releases = Releases(node, journal=journal, cold=self._cold)
        self._answers = Answers(
            node=node,
            space=space.id,
            index=index,
            reader=self._reader,
            loading=self._loading,
            pending=self._pending,
            cold=self._cold.reads,
            streams=self._streams,
            releases=self._releases,
            suspect=self._upkeep.suspect,
        )
        self._fresh = not index.stored_position.count
        """It began with nothing, and has not come to where a peer stands."""
        self._rebuilt = False
        """It took the place of one that had folded records, which are folded again."""
        self._ended: dict[Term, End] = {}
        for number, opened in index.open_shards.items():
            shard = Shard(space.id, index.position.term, number)
            self._pending.start_at(shard, opened.ordered)
        for number in index.closed_shards:
            self._pending.close(Shard(space.id, index.position.term, number))

    # --- recovery ---------------------------------------------------------------------------------

    @property
    def replay_from(self) -> int:
        """First journal segment that the fold still needs; 0 when nothing was stored."""
        hint = self.index.replay_hint
        return unpack(hint) if hint else 0

    def recover_frame(self, frame: Frame, location: Location) -> None:
        """A durable frame; the shell gives them in the journal's order, before any event.

        Its segment is known from here on, whatever becomes of the frame: else one with nothing but
        frames of closed shards would never be let go (P2, P21).
        """
        self.index.segments.frame(location.segment)
        ended = frame.shard.term < self.index.position.term
        if (not ended or frame.shard in self._pending.shards) and self._pending.wanted(frame):
            self._pending.add(frame, location, durable=True)
        elif self.index.lacking is not None:
            copied = HeldFrame(frame, location)
            copied.frame = None  # read back if it is one of those that are lacking
            self._copied.setdefault(frame.shard, {})[frame.first] = copied

    def recovered_frames(self) -> int:
        """All frames of the journal were given; how many records it lost that the fold names."""
        copied, self._copied = self._copied, {}
        self._find_own({shard: [each[n] for n in sorted(each)] for shard, each in copied.items()})
        if self.space.durability != "flush" or len(self.space.replicas) == 1:
            return 0
        missing = mark_missing(self.index, self._journal.segments(), self._cold.ends())
        if missing:
            self._backfill.begin()
        return missing

    def _find_own(self, own: dict[Shard, list[HeldFrame]]) -> None:
        """What a loaded fold names and is here is neither asked for nor said to be nowhere."""
        find_own(self.index, own, opened=self._opened)

    def _opened(self, held: HeldFrame) -> tuple[Frame, Location] | None:
        try:
            frame = self._pending.bytes_of(held)
        except (RemoteProtocolError, CorruptJournal):
            return None
        return (frame, self._journal.resolve(held.location)) if is_whole(frame) else None

    def recover_run(self, run: Run) -> bool:
        """Embedded: a durable run of the shared journal; False if entries before it are missing."""
        self._take_entries(self._follower.offer(run))
        return not self._follower.gap

    @property
    def known_until(self) -> Position:
        """Every entry up to here was taken, folded or not."""
        return self._follower.position

    def recovered(self) -> bool:
        """Everything durable was given: fold all of it, there is nobody else to give a turn to.

        False if an entry orders frames that were not given: then what follows it is not folded.
        """
        while self._entries:
            position = self.index.position
            self._fold()
            self._fold_scheduled = False
            if self.index.position == position:
                return False
        return True

    # --- views ------------------------------------------------------------------------------------

    def install(self, space: LogSpace, term: Term, end: End) -> list[Effect]:
        """The next view: the term before ended at `end`, nothing past it is served (P13)."""
        self.space, self.term = space, term
        self._ended[term] = end
        self._take_entries(self._follower.end_term(Term(term - 1), end.position.count))
        self._losses.term_ended(Term(term - 1), end.position.count)
        self._runs.begin_term(term, end.position.count)
        self._cap_ends(term, end.position.count)
        if self._loading.writing:
            return []  # there is no fold; the one that comes goes on from its own term
        nothing = not end.position.count and not self.index.position.count
        if nothing and term > self.index.position.term:
            # Nothing was ordered before, or nothing is left of it: no terms to go through.
            self.index.begin_term(term, tail=end.tail)
            self._follower.position = max(self._follower.position, self.index.position)
            self._pending.end_term(Term(term - 1))
        effects = self._fold()
        return [*effects, *self._begin_term()]

    def _cap_ends(self, term: Term, count: int) -> None:
        """A term before that had ended later has lost entries since, and ends there too (P11)."""
        for earlier, end in self._ended.items():
            if earlier < term and end.position.count > count:
                position = Position(end.position.term, count)
                self._ended[earlier] = replace(end, position=position)

    def is_past(self, term: Term, end: End) -> bool:
        """Whether entries were taken here that the view of `term` says were lost (P11, P13)."""
        position = self._follower.position
        return position.term < term and position.count > end.position.count

    @property
    def storing(self) -> bool:
        """Whether a checkpoint is being written: the store is not to be touched."""
        return self.index.frozen and self._freeze_token is None

    def succeed(self, before: Replica) -> None:
        """Takes the place of a replica whose fold went too far: what others asked stays asked.

        If that one had folded records it holds frames, whatever its fold says by now: nobody must
        start over because of it. One whose memory is lost goes on saying so (P20).
        """
        self._streams = before._streams
        self._answers.succeed(before._answers)
        self._repair.peers_up |= before._repair.peers_up
        self._releases.succeed(before._releases)
        self._runs = before._runs
        self.read_only = before.read_only
        self._rebuilt = before._rebuilt or not before.index.empty

    @property
    def is_member(self) -> bool:
        """Whether the view names this node as a replica. If not it is a spare, asks for nothing and
        keeps what it has: it may be one again."""
        return self.node in self.space.replicas

    @property
    def is_whole(self) -> bool:
        """Whether it has all that the other replicas think it has (P33)."""
        return not self._fresh and not self.rebuilding

    def follow_primary(self) -> list[Effect]:
        """The link to the primary is up: follow its metalog, tell it all that is held."""
        if not self.is_member:
            return []
        self._changed.update(room.shard for room in self._pending if room.held)
        return [
            *self._follow(),
            Send(self.space.primary, self._report()),
            *self._losses.state_again(to=self.space.primary),
            *self._progress(),
        ]

    def _follow(self) -> list[Effect]:
        if self._loading.writing:
            return []
        return [Send(self.space.primary, FollowMetalog(self.space.id, self._follower.position, 0))]

    def peer_link(self, peer: NodeId, *, up: bool) -> list[Effect]:
        if not up:
            self._repair.peers_up.discard(peer)
            self._snapshots.drop(peer)
            self._loading.link_down(peer)
            self._backfill.link_down(peer)
            return []
        self._repair.peers_up.add(peer)
        if not self.is_member:
            return []
        effects = [Send(peer, self._report()), *self._tell_marks(peer)]
        return [*effects, *self._fold(), *self._backfill.ask(self._peers())]

    def _peers(self) -> list[NodeId]:
        """The other replicas that are connected."""
        return sorted(self._repair.peers_up.intersection(self.space.replicas) - {self.node})

    # --- frames -----------------------------------------------------------------------------------

    def replicate(self, frame: Frame, source: Address = "") -> list[Effect]:
        """Journals a frame; it counts once it is durable."""
        shard, first = frame.shard, frame.first
        if self._losses.stated_any and (
            self._losses.refuses(shard, first) and source not in self.space.replicas
        ):
            return []
        if self.read_only or shard[1] < self.index.position[0]:
            return []
        if not self._pending.wanted(frame):
            return []
        try:
            location = self._append(frame)
        except ReadOnly as error:
            self.read_only = str(error)
            return []
        self._pending.add(frame, location, durable=False)
        self._staged.append((shard, first))
        self.index.segments.frame(location[0])
        return []

    def _append(self, frame: Frame) -> Location:
        """Embedded, the frame's group holds entries too, and those may use the headroom (P32)."""
        if self._report_written:
            return self._journal.append(ITEM_FRAME, frame.buffers(), keep_headroom=True)
        return self._journal.append(ITEM_FRAME, frame.buffers())

    def resume(self, source: Address, shard: Shard) -> list[Effect]:
        return [Send(source, ShardHeld(shard, self._pending.held_of(shard)))]

    def fetch(self, source: Address, message: FetchFrames) -> list[Effect]:
        """A peer lacks ordered frames."""
        return self._answers.fetch(source, message)

    def frames_sent(self, source: Address, message: FramesSent) -> list[Effect]:
        """A peer has answered; its frames are here, or it has none to give."""
        if message.frames and self.read_only:
            return []  # they were not taken: they are asked for again after a moment
        if self._repair.answered(message):
            return self._fold()
        if not self._entries:
            return []
        self._next_cut.refused(str(source))
        if not self._next_cut.is_refused_by(self._peers()):
            return []
        if not self._next_cut.was_let_go:
            return self._next_cut.state_loss(self.space)
        count = self._entries[0][0].count
        return self._load(f"no peer has the frames of entry {count} any more", at_least=count)

    @property
    def held_up(self) -> str:
        """Why the fold does not go on, and for whom it waits; empty: it does (P24)."""
        return "" if self._loading.reason else self._next_cut.held_up(self.space)

    def persisted(self, token: int) -> list[Effect]:
        """What was committed under this token, and earlier, counts now."""
        for done in [known for known in self._committing if known <= token]:
            for shard, start in self._committing.pop(done):
                if self._pending.durable(shard, start) is None:
                    continue
                moved = self._pending.advance(self._pending.shards[shard])
                if moved and not self._report_written:
                    self._changed.add(shard)
        if self._upkeep.committing:
            self._upkeep.persisted(token)
        if self._filling:
            for filled in [known for known in self._filling if known <= token]:
                for move in self._filling.pop(filled):
                    location = self._journal.resolve(move.new)
                    self._backfill.arrived(move.first_seqnum, location, books=move.books)
        effects = [] if self._report_written else self._progress()
        if self._freeze_token is not None and token >= self._freeze_token:
            self._freeze_token = None
            effects.append(Checkpoint(self.space.id))
        return effects

    def persist_failed(self, token: int, reason: str) -> list[Effect]:
        """Nothing of the failed commit counts (P7); reads go on, appends do not."""
        self.read_only = reason
        for shard, start in self._committing.pop(token, []):
            self._pending.forget(shard, start)
        self._upkeep.persist_failed()
        self._filled, self._filling = [], {}
        self._backfill.failed()
        return []

    def read_only_changed(self, reason: str) -> list[Effect]:
        """Once there is room again, engines are told what is held: they send again what was refused
        (P8)."""
        self.read_only = reason
        if reason:
            return []
        return [
            Send(source, ShardHeld(room.shard, room.held))
            for room in self._pending
            if room.shard.term == self.term
            for source in self._streams.followers_of(room.shard.number)
        ]

    # --- the fold ---------------------------------------------------------------------------------

    def metalog(self, run: Run) -> list[Effect]:
        if self._loading.writing:
            return []  # asked for again from where the loaded fold stands
        if len(self._entries) > ENTRIES_WAITING_MAX:
            self.dropped_runs_count += 1
            return []
        self._losses.note(run)
        if self._runs.keeps:
            self._runs.keep(run)
        first = run.entries[0]
        if isinstance(first, StartOver) and self._new_index is not None and self.index.empty:
            self._start_over(run, first, self._new_index())
        self._entries += self._follower.offer(run)
        return self._fold()

    def give_runs(self, source: Address, message: FetchRuns) -> list[Effect]:
        """A sequencer that starts asks for what it may have lost (P11)."""
        return [*self._runs.give(source, message)]

    def _start_over(self, run: Run, entry: StartOver, index: Index) -> None:
        """What was ordered before is lost on every replica: the fold begins here, empty (P20)."""
        if self.index.position.count > run.first:
            return  # sent again
        self.index = index
        self._snapshots, self._loading = Snapshots(index), Loading(self.node, index)
        self._backfill = Backfill(self.node, index, bytes_s=self._backfill_bytes_s)
        self._answers.early_aux.clear()
        self.index.start_over(Position(run.term, run.first), tail=entry.first_seqnum)
        self._read_with(self._new_reader(lost_until=entry.first_seqnum))
        self._follower.position = self.index.position
        self._entries.clear()

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
        self._answers.stand_on(self.index, reader, self._loading)

    def _take_entries(self, entries: list[tuple[Position, Entry]]) -> None:
        self._entries.extend(entries)

    def _fold(self) -> list[Effect]:
        """Applies entries in order until one lacks frames, or others deserve a turn."""
        effects: list[Effect] = []
        if self._loading.writing:
            return effects
        budget = FOLD_RECORDS
        dropped, entries, losses = self.dropped_runs_count, self._entries, self._losses
        while entries:
            position, entry = entries[0]
            if position[0] > self.index.position[0]:
                effects += self._begin_term()
            if budget <= 0:
                if not self._fold_scheduled:
                    self._fold_scheduled = True
                    effects.append(SetTimer(("fold", self.space.id), 0.0))
                return effects
            if isinstance(entry, Cut):
                needs = self._next_cut
                gaps = needs.gaps_of(position, entry) if losses.any else []
                frames = needs.frames_of(position, entry)
                opened = needs.opened(frames, self.space) if frames is not None else None
                if frames is None or opened is None:
                    return [*effects, *needs.fetch(self.space, self.index.tail)]
                if losses.stated_any:
                    effects += losses.take_back(to=self.space.primary)
                budget -= self._fold_cut(position, entry, frames, opened, gaps)
                if gaps:
                    effects += self._progress()
            else:
                self._fold_entry(position, entry)
            entries.popleft()
            if self._agreement is not None:
                index = self.index
                self._agreement.folded(index.position, index.chained_hash, index.tail)
        self._repair.catching_up = False
        if dropped and not self._entries:
            self.dropped_runs_count = 0
            effects.append(
                Send(self.space.primary, FollowMetalog(self.space.id, self._follower.position, 0))
            )
        effects += self._begin_term()
        return effects

    def fold_timer(self) -> list[Effect]:
        self._fold_scheduled = False
        return self._fold()

    def _fold_cut(
        self,
        position: Position,
        cut: Cut,
        frames: list[Ordered],
        opened: list[Opened],
        gaps: list[Gap],
    ) -> int:
        lost = [(seqnum, until - start) for _, start, until, seqnum in gaps] if gaps else ()
        outcomes = self.index.apply_cut(position, cut, opened, gaps=lost)
        records, timestamp_ms = 0, cut.timestamp_ms
        streams, touched = self._streams, self._answers.books_touched
        for shard, start, until, _ in gaps:
            self._losses.lost_records += until - start
            if self._pending.lost(shard, start, until) and not self._report_written:
                self._changed.add(shard)
        for outcome, (seqnum, shard, held), (_, frame, location) in zip(
            outcomes, frames, opened, strict=True
        ):
            records += frame.records
            read_back = location if held.frame is None else None
            self._pending.folded(shard, held)
            self._reader.remember(seqnum, frame, timestamp_ms, read_back=read_back)
            books = frame.columns.books
            if isinstance(books, int):
                touched.add(books)
            else:
                touched.update(books)
            streams.frame(outcome, timestamp_ms)
        return records

    def _fold_entry(self, position: Position, entry: Entry) -> None:
        result = self.index.apply(position, entry)
        if isinstance(entry, CloseShard):
            self._pending.close(Shard(self.space.id, position.term, entry.number))
        elif isinstance(entry, OpenShard):
            self._pending.shard(Shard(self.space.id, position.term, entry.number))
        elif isinstance(entry, Trim):
            self._streams.trim(entry.book, entry.tag, self.index.trim_until(entry.book, entry.tag))
            self._answers.books_touched.add(entry.book)
        elif isinstance(entry, DeleteBook):
            self._streams.deleted(entry.book)
            self._answers.books_touched.add(entry.book)
        if isinstance(entry, Trim | Hold | Release | DeleteBook | EndTags | Retain):
            self._streams.answer(entry.proposer, result)

    def _begin_term(self) -> list[Effect]:
        """Once everything of an ended term is folded, the fold stands in the next one (P27)."""
        old_term, count = self.index.position
        following = self._ended.get(Term(old_term + 1))
        if following is None or count != following.position.count:
            return []
        self.index.begin_term(Term(old_term + 1), tail=following.tail)
        self._follower.position = max(self._follower.position, self.index.position)
        self._pending.end_term(old_term)
        self._losses.folded(self.index.position)
        return self._begin_term()

    def fetch_timer(self) -> list[Effect]:
        self._repair.timer()
        effects = self._fold()
        if self._losses.stated and self.space.replicas == (self.node,):
            effects += self._losses.state_again(to=self.space.primary)
            effects.append(SetTimer(("fetch", self.space.id), ALONE_S))
        return effects

    # --- end of a batch ---------------------------------------------------------------------------

    def end_batch(self, token: int, effects: list[Effect]) -> bool:
        """Commits what was staged, tells followers, wakes reads, starts due checkpoints.

        Returns:
            Whether there was something to commit, under this token.
        """
        if self._entries:
            effects += self._fold()
        commits = bool(self._staged or self._upkeep.copies or self._filled)
        if commits:
            self._committing[token] = self._staged
            self._last_token = token
            if self._report_written:
                self._changed.update(shard for shard, _ in self._staged)
            if self._upkeep.copies:
                self._upkeep.commit(token)
            if self._filled:
                self._filling[token], self._filled = self._filled, []
            self._staged = []
            effects.append(Commit(self.space.id, token))
        if self._report_written and self._changed:
            effects += self._progress()
        if self._loading.writing:
            return commits
        answers, index = self._answers, self.index
        if answers.early_aux:
            answers.take_early_aux()
        if index.lacking is not None:
            self._backfill.folded()
        self._streams.messages(index.position, index.tail, effects)
        if answers.waiting:
            answers.wake(effects)
        answers.books_touched.clear()
        if self._checkpoint_due or self._freeze_token is not None or index.full:
            effects += self._freeze()
        return commits

    def _progress(self) -> list[Effect]:
        counts = []
        written, of = self._report_written, self.term
        for shard in self._changed:
            room = self._pending.shards.get(shard)
            _, term, number = shard
            if room is not None and term == of:
                counts.append([number, room.staged if written else room.held])
        self._changed.clear()
        if not counts:
            return []
        message = ShardProgress(self.space.id, of, *self._identity, counts)
        return [Send(self.space.primary, message)]

    # --- what others ask --------------------------------------------------------------------------

    def follow(self, source: Address, message: FollowIndex) -> list[Effect]:
        """An engine follows the index, or more LogBooks of it."""
        return self._answers.follow(source, message)

    def read(self, source: Address, read: Read) -> list[Effect]:
        """Answers, or waits for the read's position, then for a record if it may (P27, P28)."""
        return self._answers.read(source, read)

    def read_timer(self, key: int) -> list[Effect]:
        """The wait for a record is over."""
        return self._answers.read_timer(key)

    def seqnum_at(self, source: Address, message: SeqnumAt) -> list[Effect]:
        return self._answers.seqnum_at(source, message)

    def book_state(self, source: Address, message: BookState) -> list[Effect]:
        return self._answers.book_state(source, message)

    def set_aux(self, message: SetAux) -> list[Effect]:
        """Kept if the record is visible here; losing it costs time, never truth."""
        return self._answers.set_aux(message)

    def link_down(self, source: Address) -> list[Effect]:
        """Nobody waits for an answer there any more; a backup that went there has ended."""
        effects = self._answers.link_down(source)
        if isinstance(source, int) and self._releases.backup_ends(source):
            self._snapshots.drop(source)
            self._release()
        return effects

    # --- upkeep -----------------------------------------------------------------------------------

    def retention_timer(self, now_s: float) -> tuple[list[Effect], bool]:
        """Trims that retention asks for; and whether to look again soon."""
        if not self.index.retained or not self.is_member or self._loading.writing:
            return [], False
        return self._upkeep.retention(self.space, self.node, now_s=now_s)

    def compact(self, now_s: float) -> bool:
        """A bounded part of copying live frames out of a segment that is mostly dead; whether to
        look again soon (P21)."""
        if self.read_only or self._journal.read_only is not None or not self._may_release():
            return False
        return self._upkeep.compact(before=self.replay_from, now_s=now_s)

    @property
    def copies_staged(self) -> bool:
        """Whether frames were journalled again that nothing else may commit."""
        return bool(self._upkeep.copies)

    def move_cold(self, now_s: float) -> list[Effect]:
        """Sends old segments to the object store, and lets those go that lie there (P21, P31)."""
        return self._upkeep.move_cold(
            before=self.replay_from,
            full=bool(self.read_only),
            may_move=not self._loading.writing and self._journal.read_only is None,
            now_s=now_s,
        )

    def scrub(self, now_s: float) -> list[Effect]:
        """Reads some frames, whether their bytes are as they were; asks a peer for one that is not
        (P30)."""
        if self._loading.writing:
            return []
        return self._upkeep.scrub(self.space, self._peers(), full=bool(self.read_only), now_s=now_s)

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
        return self._answers.fetched(job, outcome)

    def cold_timer(self, key: int) -> list[Effect]:
        """A request has waited for cold bytes for too long."""
        return self._answers.cold_timer(key)

    def cold_down_timer(self) -> list[Effect]:
        self._cold.reads.down_timer()
        return []

    # --- storing the fold, letting segments go ----------------------------------------------------

    def _freeze(self) -> list[Effect]:
        """Starts a checkpoint when it is due: what is frozen is stored once all its frames are
        durable (P19).

        On a full disk too, from the headroom: segments that trims let go of are free only then
        (P32). What waits for room there is not folded as a rule, and holds nothing up.
        """
        if self._journal.read_only is not None or self._loading.writing:
            return []  # what is folded may be ahead of what is durable, for good
        waits = bool(self._committing)
        if self.read_only:
            waits = self._pending.folded_before_durable
        if self._freeze_token is not None and not waits:
            self._freeze_token = None
            return [Checkpoint(self.space.id)]
        due = self._checkpoint_due or (self.index.full and not self.read_only)
        if not due or self._freeze_token is not None or self.index.frozen:
            return []
        self._checkpoint_due = False
        if self.space.durability == "memory" and self.index.empty:
            # It may start over at any entry, and there is nothing to store. Who decides that has to
            # hear of it in every term (P20).
            return self._tell_all()
        self._upkeep.freeze()
        self._backfill.freeze()
        if not self.index.freeze(replay_hint=self.replay_hint()):
            self._release_if_full()
            return []
        if waits:
            self._freeze_token = self._last_token
            self._release_if_full()
            return []
        return [Checkpoint(self.space.id)]

    def _release_if_full(self) -> None:
        """What waits for room may wait for this."""
        if self.read_only:
            self._release()

    def replay_hint(self, *, quiet: bool = False) -> bytes:
        """Where the next start begins to read the journal: the oldest frame that is not folded.

        One segment earlier than the newest at least: an entry of the shared journal may stand there
        whose frames are all folded, and which is itself not. Two if groups are under way: while one
        at the end of its segment is synced, the next one is staged two segments on.
        """
        newest = self.index.segments.newest
        margin = 2 if self._report_written and not quiet else 1
        return pack(max(0, min(self._pending.oldest_segment(newest), newest - margin)))

    @property
    def everything_durable(self) -> bool:
        """Whether a checkpoint of the present position is ahead of no frame (P19)."""
        under_way = self._committing or self._staged or self._upkeep.copies or self._filled
        return not under_way and not self._loading.writing

    def checkpoint_timer(self) -> list[Effect]:
        self._checkpoint_due = True
        return []

    def checkpoint_stored(self) -> list[Effect]:
        """The fold is on disk up to the frozen position: peers and the primary may know (P21)."""
        self.index.checkpoint_done()
        for segment in self._upkeep.stored():
            self._releases.let_go(segment)
        effects = [*self._tell_all(), *self._snapshots.checkpoint_stored()]
        self._release()
        return effects

    def _tell_all(self) -> list[Effect]:
        """Where the fold stands, to whoever may let something go for it."""
        if not self.is_member:
            return []
        report = self._report()
        peers = sorted(self._repair.peers_up)
        effects: list[Effect] = [Send(to, report) for to in (self.space.primary, *peers)]
        return [*effects, *(effect for peer in peers for effect in self._tell_marks(peer))]

    def _tell_marks(self, peer: NodeId) -> list[Effect]:
        """What this fold's hash was, where a peer may have stood as well (P24)."""
        if self._agreement is None or self._loading.writing:
            return []
        return [Send(peer, FoldMarks(self.space.id, self._agreement.rows()))]

    def peer_folded(self, peer: NodeId, marks: list[list[int]]) -> list[Effect]:
        """A peer's hashes: a fold that most of the others contradict is given up (P24)."""
        agreement = self._agreement
        if agreement is None or self._loading.writing or peer not in self.space.replicas:
            return []
        agreement.heard(peer, marks)
        found = agreement.disagreement(each for each in self.space.replicas if each != self.node)
        if found is None:
            self.disagreement = ""
            return []
        names = " and ".join(found.peers)
        if not found.outvoted:
            self.disagreement = (
                f"its index and that of {names} disagree, and no majority says which is right"
            )
            return []
        self.disagreement = ""
        self.folds_given_up += 1
        reason = f"its chained hash is not that of {names}"
        self._loading.condemn(reason, by=found.peers, alike_until=found.alike_until)
        return [*self._end_fold(), *self._loading.ask(self._peers())]

    def peer_stored(self, peer: str, message: IndexReport) -> list[Effect]:
        self._releases.peer_stored(peer, message.stored.count)
        self._next_cut.peer_folded(peer, message.folded.count)
        if 0 < message.folded.count <= self.index.position.count:
            self._fresh = False
        behind = message.stored.count - self.index.position.count
        new = not self.index.stored_position.count
        if new and behind > self._load_entries and peer in self.space.replicas:
            reason = f"{behind:,} entries are missing here"
            return self._load(reason, at_least=message.stored.count)
        self._release()
        return []

    def _release(self) -> None:
        """Segments that no reader, no fold and no peer needs any more are recycled (P21)."""
        if self._may_release():
            self._releases.begin(self.index, before=self.replay_from)

    def _may_release(self) -> bool:
        """Whether there is a fold on disk, and replicas enough that have stored theirs (P21)."""
        stored = self.index.stored_position.count
        if self._loading.writing or (self._loading.loaded_count and not stored):
            return False
        return self._releases.may_begin(stored, self.space, full=bool(self.read_only))

    def _report(self) -> IndexReport:
        return IndexReport(
            space=self.space.id,
            folded=START if self._loading.writing else self.index.position,
            stored=START if self._loading.writing else self.index.stored_position,
            chained_hash=self.index.chained_hash,
            empty=self.index.empty and not self._rebuilt,
        )

    # --- a fold from a peer -----------------------------------------------------------------------

    def metalog_gone(self, count: int) -> list[Effect]:
        """The primary's metalog reaches back to `count` only, and this fold stands before (P16)."""
        if count <= self._follower.position.count:  # what came late from elsewhere led past it
            return self._follow()
        return self._load(f"the metalog reaches back to entry {count} only", at_least=count)

    def _load(self, reason: str, *, at_least: int) -> list[Effect]:
        if len(self.space.replicas) == 1 or not self.is_member:
            return []  # there is nobody to ask, or no need
        self._loading.want(reason, at_least=at_least)
        return self._loading.ask(self._peers())

    def snapshot_timer(self) -> list[Effect]:
        """A peer did not help, or there was none; or the fold got there by itself, and goes on."""
        self._loading.give_up()
        effects = self._loading.ask(self._peers())
        return effects if self._loading.reason else [*effects, *self._follow()]

    def fetch_snapshot(self, source: Address, message: FetchSnapshot) -> list[Effect]:
        """A peer wants this fold, or the next part of it."""
        if self._loading.writing:
            return []  # it asks another one after a while
        if isinstance(source, int) and not message.part:
            return self._begin_backup(source, message)
        return [*self._snapshots.give(source, message)]

    def _begin_backup(self, source: int, message: FetchSnapshot) -> list[Effect]:
        """A backup is of the present position, so it waits for a checkpoint; until its connection
        ends, the frames that the snapshot names stay here, live or not."""
        self._releases.backup_begins(source)
        if not self.index.frozen and self.index.stored_position == self.index.position:
            return [*self._snapshots.give(source, message)]
        self._snapshots.wait(source, message)
        self._checkpoint_due = True
        return []

    def snapshot_part(self, source: Address, part: SnapshotPart) -> list[Effect]:
        """The next part of a peer's fold; the first one, if it will do, ends this one."""
        loading = self._loading
        if not loading.is_wanted(source, part):
            return []
        if not part.part and not self._may_load(part.position):
            loading.give_up()
            return []
        had_fold = not loading.writing
        effects: list[Effect] = []
        step, more = loading.take(part, replay_hint=self.replay_hint())
        if had_fold and (loading.writing or step is Step.DONE):
            effects += self._end_fold()
        effects += more
        return effects if step is not Step.DONE else [*effects, *self._loaded()]

    def _may_load(self, position: Position) -> bool:
        """Whether a fold of that position may take the place of this one now."""
        busy = self.index.frozen or self._freeze_token is not None or self._upkeep.busy
        following = self._ended.get(Term(position.term + 1))
        if busy or (following is not None and position.count > following.position.count):
            return False
        return self._loading.will_do(position, self.term)

    def _end_fold(self) -> list[Effect]:
        """From here on nothing is answered, until the other fold is here whole."""
        self._entries.clear()
        self._snapshots.clear()
        return [*self._answers.send_away(), *self._tell_all()]

    def _loaded(self) -> list[Effect]:
        """The store holds a peer's fold: go on from where it stands (P16)."""
        self.index.reload()
        self._find_own(self._pending.durable_frames)
        if self._agreement is not None:
            self._agreement.forget()
        position = self.index.position
        self._read_with(self._new_reader(self._first_known()))
        self._follower = MetalogFollower(self.space.id, position)
        for term, end in sorted(self._ended.items()):
            if term > position.term:
                self._follower.end_term(Term(term - 1), end.position.count)
        self._pending.end_term(Term(position.term - 1))
        for number, opened in self.index.open_shards.items():
            shard = Shard(self.space.id, position.term, number)
            self._pending.ordered_until(shard, opened.ordered)
        for number in self.index.closed_shards:
            self._pending.close(Shard(self.space.id, position.term, number))
        deleted = sorted(self.index.deleted_books)
        self._streams.jump(position, trims_of=self.index.trims_of, deleted=deleted)
        self._repair.timer()
        self._repair.catching_up = False
        self._upkeep.fold_ended()
        self._backfill.begin()
        self._checkpoint_due, self._fresh = True, False
        effects = [*self._begin_term(), *self._losses.take_back(to=self.space.primary)]
        effects += self.follow_primary()
        return [*effects, *self._backfill.ask(self._peers())]

    def _first_known(self) -> int:
        """What a `memory` log space held before its folds began is lost (P20)."""
        if self.space.durability != "memory":
            return 0
        rows = self.index.locate_range(0, self.index.tail, limit=1)
        return rows[0].first_seqnum if rows else self.index.tail

    # --- frames of a loaded fold ------------------------------------------------------------------

    def fetch_stored(self, source: Address, message: FetchStored) -> list[Effect]:
        """A peer has loaded a fold, and lacks frames that it names."""
        return self._answers.fetch_stored(source, message)

    def stored_frame(self, source: Address, message: StoredFrame) -> list[Effect]:
        """Journals a frame that the loaded fold names; it is read once it is durable."""
        row = self._backfill.wants(source, message)
        if row is None or self.read_only:
            return []
        frame = message.frame
        try:
            location = self._journal.append(ITEM_FRAME, frame.buffers())
        except ReadOnly as error:
            self.read_only = str(error)
            return []
        self.index.segments.frame(location.segment)
        self._filled.append(Moved(row.first_seqnum, row.location, location, frame.columns.books))
        self._backfill.taken(row, frame)
        return []

    def stored_sent(self, source: Address, message: StoredSent) -> list[Effect]:
        """The end of a peer's answer."""
        self._backfill.answered(source, message, replicas=self.space.replicas)
        return self._backfill.ask(self._peers())

    def backfill_timer(self) -> list[Effect]:
        self._backfill.timer()
        return self._backfill.ask(self._peers())

    # --- for people -------------------------------------------------------------------------------

    @property
    def loaded_count(self) -> int:
        """Folds that were loaded from peers since the start."""
        return self._loading.loaded_count

    @property
    def rebuilding(self) -> str:
        """What is still missing here; empty: nothing."""
        if not self._loading.reason:
            return self._backfill.state
        loaded = f", {self._loading.loaded_bytes >> 10} KiB so far" if self._loading.writing else ""
        return f"rebuilding: the index is loaded from a peer{loaded}: {self._loading.reason}"

    def facts(self) -> dict[str, object]:
        return {
            "durability": self.space.durability,
            "position": list(self.index.position),
            "stored": list(self.index.stored_position),
            "tail": self.index.tail,
            "frames_asked": self._repair.asked_count,
            "waiting_entries": len(self._entries),
            "waiting_reads": self._answers.waiting_count,
            "pending_bytes": self._pending.bytes_in_memory,
            "read_only": self.read_only,
            "replica": self.is_member,
            "rebuilding": self.rebuilding if self.is_member else "",
            "held_up": self.held_up,
            "disagreement": self.disagreement,
            "folds_given_up": self.folds_given_up,
            "records_void": self._losses.lost_records,
            "indexes_loaded": self.loaded_count,
            "records_lost": self._backfill.lost_records,
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
        assert self.index.position <= self._follower.position
