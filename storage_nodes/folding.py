"""The metalog of one log space is folded at one replica: entries in order, each once (P19).

Entries wait until the frames that they order are here; then the index decides what becomes of them,
and what follows from that is told to the reader, to engines that follow, and to the room of frames
that wait. A view says where a term ended: nothing past that is folded, and the fold goes on in the
next term from there (P13, P27).

Decides which entry is next and whether it can be folded now, in which term the fold stands, when
others deserve a turn, and when the metalog is asked for again.

Invariants: entries are folded once, in order, and a cut only when every frame it orders is here;
while there is no fold nothing is taken; of a term, no entry past its end is folded.

Does not know: what an entry does (`fold.py`), what is done about frames that are missing
(`next_cut.py`), how a frame got here (`arrivals.py`), nor where the fold is stored.
"""

from __future__ import annotations

from bokilog.effects import Address, Effect, SetTimer
from bokilog.ids import Position, Shard, Term
from bokilog.journal import Journal
from bokilog.messages import FramesSent
from bokilog.metalog import (
    CloseShard,
    Cut,
    DeleteBook,
    EndTags,
    Entry,
    Hold,
    OpenShard,
    Release,
    Retain,
    Run,
    Trim,
)
from bokilog.storage_nodes.agreement import Agreement
from bokilog.storage_nodes.arrivals import Arrivals
from bokilog.storage_nodes.entries import Entries
from bokilog.storage_nodes.fold import Fold
from bokilog.storage_nodes.losses import Losses
from bokilog.storage_nodes.membership import Membership
from bokilog.storage_nodes.next_cut import ALONE_S, Gap, NextCut, Opened, Ordered
from bokilog.storage_nodes.peer_folds import PeerFolds
from bokilog.storage_nodes.pending import Pending
from bokilog.storage_nodes.reader import Reader
from bokilog.storage_nodes.repair import Repair
from bokilog.storage_nodes.streams import Streams
from bokilog.storage_nodes.waiting import Touched
from bokilog.view import End

FOLD_RECORDS = 20_000
"""Records folded before messages get their turn again."""


class Folding:
    """What of the metalog is folded, and what waits.

    Args:
        membership: the log space, as the view has it.
        entries: of the metalog, that are next.
        fold: moves the index on.
        reader: of that fold; it remembers frames that were just folded.
        journal: of the log space.
        pending: frames that are not folded yet.
        losses: what no replica has.
        arrivals: is told of what counts although it never came.
        folds: whether there is a fold, and how one is had from a peer.
        agreement: is told of every position; None: there are no other replicas.
        streams: of engines that follow.
        touched: where it is noted what changed.
    """

    __slots__ = (
        "_agreement",
        "_arrivals",
        "_entries",
        "_fold",
        "_folds",
        "_index",
        "_losses",
        "_membership",
        "_next_cut",
        "_pending",
        "_reader",
        "_repair",
        "_scheduled",
        "_streams",
        "_touched",
    )

    def __init__(
        self,
        membership: Membership,
        *,
        entries: Entries,
        fold: Fold,
        reader: Reader,
        journal: Journal,
        pending: Pending,
        losses: Losses,
        arrivals: Arrivals,
        folds: PeerFolds,
        agreement: Agreement | None,
        streams: Streams,
        touched: Touched,
    ) -> None:
        self._membership = membership
        self._fold = fold
        self._index = index = fold.index
        self._reader = reader
        self._pending = pending
        self._losses = losses
        self._arrivals = arrivals
        self._folds = folds
        self._agreement = agreement
        self._streams = streams
        self._touched = touched
        self._entries = entries
        self._repair = Repair(membership)
        self._next_cut = NextCut(
            membership,
            entries=entries.waiting,
            pending=pending,
            journal=journal,
            losses=losses,
            repair=self._repair,
        )
        self._scheduled = False
        """A turn to go on folding was asked for."""
        space = membership.space
        for number, opened in index.shards.opened.items():
            shard = Shard(space.id, index.position.term, number)
            pending.start_at(shard, opened.ordered)
        for number in index.shards.closed:
            pending.close(Shard(space.id, index.position.term, number))

    def succeed(self, streams: Streams) -> None:
        """Takes the place of one that went too far: who followed that one follows this one."""
        self._streams = streams

    # --- terms ------------------------------------------------------------------------------------

    def install(self, term: Term, end: End) -> list[Effect]:
        """The next view: the term before ended at `end`, nothing past it is served (P13)."""
        index, count = self._index, end.position.count
        self._entries.end_term(term, end)
        self._losses.term_ended(Term(term - 1), count)
        if self._folds.loading.writing:
            return []  # there is no fold; the one that comes goes on from its own term
        if not count and not index.position.count and term > index.position.term:
            # Nothing was ordered before, or nothing is left of it: no terms to go through.
            self._fold.begin_term(term, tail=end.tail, given_up=end.given_up)
            self._entries.stand_at(index.position)
            self._pending.end_term(Term(term - 1))
        effects = self.fold()
        return [*effects, *self._begin_term()]

    def _begin_term(self) -> list[Effect]:
        """Once everything of an ended term is folded, the fold stands in the next one (P27)."""
        old_term, count = self._index.position
        following = self._entries.end_of(old_term)
        if following is None or count != following.position.count:
            return []
        self._fold.begin_term(Term(old_term + 1), tail=following.tail, given_up=following.given_up)
        self._entries.stand_at(self._index.position)
        self._pending.end_term(old_term)
        self._losses.folded(self._index.position)
        return self._begin_term()

    # --- the metalog ------------------------------------------------------------------------------

    def take(self, run: Run) -> list[Effect]:
        """Entries that were published, in their turn or not."""
        if not self._entries.take(run):
            return []
        self._losses.note(run)
        return self.fold()

    def follow(self) -> list[Effect]:
        """Asks the primary for what comes next."""
        if self._folds.loading.writing:
            return []  # asked for from where the loaded fold stands, once it is here
        return [self._entries.follow()]

    def metalog_gone(self, count: int) -> list[Effect]:
        """The primary's metalog reaches back to `count` only, and this fold stands before (P16)."""
        if count <= self._entries.known_until.count:  # what came late from elsewhere led past it
            return self.follow()
        return self._folds.metalog_gone(count)

    def recovered(self) -> bool:
        """Everything durable was given: fold all of it, there is nobody else to give a turn to.

        False if an entry orders frames that were not given: then what follows it is not folded.
        """
        while self._entries.waiting:
            position = self._index.position
            self.fold()
            self._scheduled = False
            if self._index.position == position:
                return False
        return True

    # --- another fold -----------------------------------------------------------------------------

    def stand_on(self, fold: Fold, reader: Reader) -> None:
        """Another fold took the place of the one before."""
        self._fold, self._index, self._reader = fold, fold.index, reader

    def fold_loaded(self) -> list[Effect]:
        """The store holds a peer's fold: goes on from where it stands (P16)."""
        index, space = self._index, self._membership.space
        position = index.position
        self._entries.jump(position)
        self._pending.end_term(Term(position.term - 1))
        for number, opened in index.shards.opened.items():
            self._pending.ordered_until(Shard(space.id, position.term, number), opened.ordered)
        for number in index.shards.closed:
            self._pending.close(Shard(space.id, position.term, number))
        deleted = sorted(index.deleted_books)
        self._streams.jump(position, trims_of=index.trims_of, deleted=deleted)
        self._repair.timer()
        self._repair.catching_up = False
        return [*self._begin_term(), *self._losses.take_back(to=space.primary)]

    # --- the fold ---------------------------------------------------------------------------------

    def fold(self) -> list[Effect]:
        """Applies entries in order until one lacks frames, or others deserve a turn."""
        effects: list[Effect] = []
        if self._folds.loading.writing:
            return effects
        budget = FOLD_RECORDS
        dropped, losses = self._entries.dropped_runs_count, self._losses
        entries = self._entries.waiting
        while entries:
            position, entry = entries[0]
            if position[0] > self._index.position[0]:
                effects += self._begin_term()
            if budget <= 0:
                if not self._scheduled:
                    self._scheduled = True
                    effects.append(SetTimer(("fold", self._membership.space.id), 0.0))
                return effects
            if isinstance(entry, Cut):
                needs = self._next_cut
                gaps = needs.gaps_of(position, entry) if losses.any else []
                frames = needs.frames_of(position, entry)
                opened = needs.opened(frames) if frames is not None else None
                if frames is None or opened is None:
                    return [*effects, *needs.fetch(self._index.tail)]
                if losses.stated_any:
                    effects += losses.take_back(to=self._membership.space.primary)
                budget -= self._fold_cut(position, entry, frames, opened, gaps)
                if gaps:
                    effects += self._arrivals.progress()
            else:
                self._fold_entry(position, entry)
            entries.popleft()
            if self._agreement is not None:
                index = self._index
                self._agreement.folded(index.position, index.chained_hash, index.tail)
        self._repair.catching_up = False
        if dropped and not entries:
            self._entries.dropped_runs_count = 0
            effects.append(self._entries.follow())
        effects += self._begin_term()
        return effects

    def timer(self) -> list[Effect]:
        """Others had their turn."""
        self._scheduled = False
        return self.fold()

    def _fold_cut(
        self,
        position: Position,
        cut: Cut,
        frames: list[Ordered],
        opened: list[Opened],
        gaps: list[Gap],
    ) -> int:
        lost = [(seqnum, until - start) for _, start, until, seqnum in gaps] if gaps else ()
        outcomes = self._fold.apply_cut(position, cut, opened, gaps=lost)
        records, timestamp_ms = 0, cut.timestamp_ms
        streams, touched = self._streams, self._touched
        if gaps:
            touched.lost = True
        for shard, start, until, _ in gaps:
            self._losses.lost_records += until - start
            if self._pending.lost(shard, start, until) and not self._arrivals.report_written:
                self._arrivals.changed.add(shard)
        for outcome, (seqnum, shard, held), (_, frame, location) in zip(
            outcomes, frames, opened, strict=True
        ):
            records += frame.records
            read_back = location if held.frame is None else None
            self._pending.folded(shard, held)
            self._reader.remember(seqnum, frame, timestamp_ms, read_back=read_back)
            touched.frames.append(frame.columns)
            streams.frame(outcome, timestamp_ms)
        return records

    def _fold_entry(self, position: Position, entry: Entry) -> None:
        space, index = self._membership.space.id, self._index
        result = self._fold.apply(position, entry)
        if isinstance(entry, CloseShard):
            self._pending.close(Shard(space, position.term, entry.number))
        elif isinstance(entry, OpenShard):
            self._pending.shard(Shard(space, position.term, entry.number))
        elif isinstance(entry, Trim):
            self._streams.trim(entry.book, entry.tag, index.trim_until(entry.book, entry.tag))
            self._touched.books.add(entry.book)
        elif isinstance(entry, DeleteBook):
            self._streams.deleted(entry.book)
            self._touched.books.add(entry.book)
        if isinstance(entry, Trim | Hold | Release | DeleteBook | EndTags | Retain):
            self._streams.answer(entry.proposer, result)

    # --- frames that are missing ------------------------------------------------------------------

    def frames_sent(self, source: Address, message: FramesSent) -> list[Effect]:
        """A peer has answered; its frames are here, or it has none to give."""
        if self._repair.answered(message):
            return self.fold()
        if not self._entries.waiting:
            return []
        self._next_cut.refused(str(source))
        if not self._next_cut.is_refused_by(self._membership.connected()):
            return []
        if not self._next_cut.was_let_go:
            return self._next_cut.state_loss()
        count = self._entries.waiting[0][0].count
        reason = f"no peer has the frames of entry {count} any more"
        return self._folds.load(reason, at_least=count)

    def fetch_timer(self) -> list[Effect]:
        """What was awaited should be here by now, or another peer is asked."""
        membership = self._membership
        self._repair.timer()
        effects = self.fold()
        if self._losses.stated and membership.space.replicas == (membership.node,):
            effects += self._losses.state_again(to=membership.space.primary)
            effects.append(SetTimer(("fetch", membership.space.id), ALONE_S))
        return effects

    def peer_folded(self, peer: str, count: int) -> None:
        """A replica has folded so many entries: of those it needs no single frames any more."""
        self._next_cut.peer_folded(peer, count)

    # --- for people -------------------------------------------------------------------------------

    @property
    def held_up(self) -> str:
        """Why the fold does not go on, and for whom it waits; empty: it does (P24)."""
        return "" if self._folds.loading.reason else self._next_cut.held_up()

    @property
    def frames_asked(self) -> int:
        """Requests for frames to peers, since the start."""
        return self._repair.asked_count

    def check(self) -> None:
        """Asserts the invariants."""
        assert self._index.position <= self._entries.known_until
