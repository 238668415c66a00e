"""What the order says, worked out once more: the reference folded over the entries as they come.

Every index of every life of every storage node tells the oracle what it applied and what came of
it. The first to reach a position extends the one history; all others must agree with it, down to
the chained hash. What an entry has to do is decided by `bokilog/reference.py`, which knows nothing
of frames, replicas, checkpoints or crashes.

Beside the reference, which stands at the end of the order, a `Timeline` per LogBook knows since
when each record is visible and trimmed, so that a read can be judged at any position.

A log space of class `flush` or `memory` may lose the end of its order with the machines that held
it (P11), or all of it with the processes (P20). Then the one history forks: what was is kept as a
branch in `lost`, for judging those who were told of it while it was so, and the order goes on from
where the view, or the fold that starts over, says. Whether anything may be lost says `may_lose`.
Single records may be lost, too, with every copy of them (P24): then the same entries are folded
once more, without them, from the first one on that ordered any.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from bokilog.errors import (
    BokilogError,
    ConditionFailed,
    KeyReused,
    TagsEnded,
    Trimmed,
)
from bokilog.frame import Frame
from bokilog.ids import LogSpaceId, Position, Term
from bokilog.messages import (
    VERDICT_BOOK_DELETED,
    VERDICT_CONDITION_FAILED,
    VERDICT_DUPLICATE,
    VERDICT_KEY_REUSED,
    VERDICT_TAGS_ENDED,
    VERDICT_VISIBLE,
)
from bokilog.metalog import (
    Cut,
    DeleteBook,
    EndTags,
    Entry,
    ForgetKeys,
    Hold,
    OpenShard,
    Release,
    StartOver,
    Trim,
)
from bokilog.record import Durability, Unit
from bokilog.reference import ReferenceBook
from bokilog.storage_nodes.fold import Fold, FrameOutcome
from bokilog.storage_nodes.index import Index
from tests.sim.loop import World

Verdict = list[object]
NOBODY = ""
"""Name of the engine of entries that were ordered, and lost before anybody folded them."""


class Seen(NamedTuple):
    """A record that is or was visible."""

    seqnum: int
    data: bytes
    tags: tuple[str, ...]
    timestamp_ms: int
    born: int
    """Count of the entry that ordered it."""


class OrderedUnit(NamedTuple):
    """A unit at its place, and what has to become of it."""

    book: int
    at: int
    """Count of the entry that ordered it."""
    seqnum: int
    datas: tuple[bytes, ...]
    tags: tuple[tuple[str, ...], ...]
    verdict: Verdict


class EntryRecord(NamedTuple):
    """An entry of the one history."""

    term: Term
    entry: Entry
    checksums: tuple[int, ...]
    outcomes: tuple[tuple[int, list[Verdict], tuple[int, ...]], ...]
    """Of a cut: (first seqnum, verdicts, void units) of each frame."""
    answer: object
    """Of a proposal."""
    tail: int
    chained_hash: int


class Timeline:
    """One LogBook over all positions."""

    def __init__(self) -> None:
        self.records: list[Seen] = []
        self.trims: list[tuple[int, str | None, int]] = []
        """(count, tag or None, first kept seqnum from there on)"""
        self.changes: list[int] = []
        """Counts of entries that changed anything."""
        self.deleted_at: int | None = None

    def changed(self, count: int) -> None:
        if not self.changes or self.changes[-1] < count:
            self.changes.append(count)

    def points(self, low: int, high: int) -> list[int]:
        """Positions that tell all states from `low` to `high` apart."""
        first, after = bisect_right(self.changes, low), bisect_right(self.changes, high)
        return [low, *self.changes[first:after]]

    def trim_until(self, tag: str | None, at: int) -> int:
        """First kept seqnum for readers of a tag."""
        found = 0
        for count, of, until in self.trims:
            if count > at:
                break
            if of is None or of == tag:
                found = max(found, until)
        return found

    def gone(self, record: Seen, at: int) -> bool:
        if record.seqnum < self.trim_until(None, at):
            return True
        return bool(record.tags) and all(
            record.seqnum < self.trim_until(tag, at) for tag in record.tags
        )

    def visible(self, tag: str | None, start: int, until: int, at: int) -> list[Seen]:
        """What readers of a tag find in `[start, until)` at a position."""
        if self.deleted_at is not None and at >= self.deleted_at:
            return []
        start = max(start, self.trim_until(tag, at))
        first = bisect_left(self.records, start, key=_seqnum)
        after = bisect_left(self.records, until, key=_seqnum)
        trimmed = any(of is not None for _, of, _ in self.trims)
        return [
            record
            for record in self.records[first:after]
            if record.born <= at
            and (tag is None or tag in record.tags)
            and not (trimmed and self.gone(record, at))
        ]

    def record(self, seqnum: int) -> Seen | None:
        """The record that is or was at a seqnum."""
        place = bisect_left(self.records, seqnum, key=_seqnum)
        if place < len(self.records) and self.records[place].seqnum == seqnum:
            return self.records[place]
        return None


def _seqnum(record: Seen) -> int:
    return record.seqnum


class Fork(NamedTuple):
    """Where a branch was left."""

    term: Term
    """The first one of what came instead."""
    kept: int
    """Count of entries that both have."""
    lost_until: int
    """First seqnum that the branch left behind has not given."""
    started_over: bool
    """By `StartOver`: none of the records before count any more."""
    refolded: bool = False
    """By `Lost`: the same entries came again, without records that no replica has any more."""
    unharmed: bool = False
    """A copy of every record had to be left: only who holds none may start over."""
    accepted: bool = False
    """A person has given up the rest (P15): whoever begins after that is told nothing of it."""


class Branch:
    """One line of entries with what they did; `SpaceOracle` is the one that counts."""

    def __init__(self) -> None:
        self.entries: list[EntryRecord] = []
        self.units: list[OrderedUnit] = []
        self.by_data: dict[bytes, list[OrderedUnit]] = {}
        """By the data of a unit's first record."""
        self.tail = 1
        self.timelines: dict[int, Timeline] = {}
        self.books: dict[int, ReferenceBook] = {}
        self.deleted: set[int] = set()
        self.timestamp_ms = 0
        self.raw: list[tuple[Position, Entry, Sequence[Frame], int]] = []
        """Entries as they came, with frames and chained hash: what of them is left after a loss is
        folded again."""
        self.forks: list[Fork] = []
        """Before this branch, the oldest first."""

    @property
    def count(self) -> int:
        return len(self.entries)

    def timeline(self, book: int) -> Timeline:
        return self.timelines.setdefault(book, Timeline())

    def tail_at(self, count: int) -> int:
        return self.entries[count - 1].tail if count else 1

    def met(self, position: Position) -> int:
        """The count by which a token of that position is met here (P27)."""
        forks = [each for each in self.forks if position.term < each.term and not each.refolded]
        return min([position.count, *(fork.kept for fork in forks)])


class SpaceOracle(Branch):
    """The one history of one log space."""

    def __init__(
        self,
        space: int,
        world: World,
        whole: Callable[[Frame], Frame],
        *,
        durability: Durability = "sync",
        may_lose: Callable[[bool], bool] = lambda everything: False,
        may_lack: Callable[[Durability], bool] = lambda durability: False,
    ) -> None:
        super().__init__()
        self.space = space
        self.durability = durability
        self.lost: list[SpaceOracle] = []
        """Branches that were left, the oldest first; `forks` says where."""
        self._may_lose = may_lose
        """Whether machines that held the end of the metalog, or (True) processes that held all
        records, have stopped."""
        self._may_lack = may_lack
        """Whether every copy of a record of that class can be gone."""
        self._whole = whole
        """A frame's undamaged copy: an index does not look at payload, and may fold bad bytes."""
        self.starts: dict[Term, tuple[int, int]] = {}
        """Where each term began: (count, tail), as the views say."""
        self.byteless: list[tuple[int, int]] = []
        """Seqnums of which no disk has bytes any more, as was found when a loss was accepted."""
        self._given_up: set[Term] = set()
        self._accepted = Term(0)
        """The term that begins with what is left of a loss."""
        self.gaps: dict[int, dict[int, int]] = {}
        """By count of entries, what cuts order and no replica has: first seqnum to records."""
        self._world = world

    @property
    def branches(self) -> Iterator[SpaceOracle]:
        """All of them, the one that counts last."""
        yield from self.lost
        yield self

    def is_tail(self, seqnum: int, low: int, high: int) -> bool:
        """Whether it was the tail at some position from `low` to `high`, or was appended there.

        A term may begin past seqnums that nobody was given (P11): a fold at the end of the one
        before knows so by the view, ahead of the first entry of the new one.
        """
        if self.tail_at(low) <= seqnum <= self.tail_at(high):
            return True
        return any(count == high and tail == seqnum for count, tail in self.starts.values())

    @property
    def now(self) -> tuple[int, int]:
        """(branch, count): how far the order has been folded."""
        return len(self.lost), self.count

    def reached(self, known: tuple[int, int], branch: int) -> int:
        """The count that a branch had when the order stood at `known`."""
        at, count = known
        if at > branch:
            return [*self.branches][branch].count
        forks = [fork for fork in self.forks[at:branch] if not fork.refolded]
        return min([count, *(fork.kept for fork in forks)])

    # --- what is lost -----------------------------------------------------------------------------

    def loss_accepted(self, term: Term, *, given_up: bool) -> None:
        """A person gives up what the view of that term does not keep (P15).

        Args:
            term: of the view.
            given_up: whether it says that seqnums before it may have been of what is lost.
        """
        self._accepted = term
        if given_up:
            self._given_up.add(term)

    def given_up(self) -> Iterator[tuple[int, int]]:
        """Spans of seqnums that are `DataLost` since a loss was accepted."""
        for fork in self.forks:
            if fork.term in self._given_up:
                yield self.tail_at(min(fork.kept, self.count)), self.starts[fork.term][1]

    def is_gap(self, seqnum: int) -> bool:
        """Whether it was ordered, and no replica had its bytes when a fold got there."""
        gaps = [gap for each in self.gaps.values() for gap in each.items()]
        return any(start <= seqnum < start + count for start, count in gaps)

    def keep_bytes(self, names: set[tuple[object, ...]]) -> None:
        """Of all frames that were folded only these are left."""
        for record, (_, _, frames, _) in zip(self.entries, self.raw, strict=True):
            for frame, (first_seqnum, _, _) in zip(frames, record.outcomes, strict=True):
                if (frame.shard, frame.first) not in names:
                    self.byteless.append((first_seqnum, first_seqnum + frame.records))

    def is_byteless(self, seqnum: int) -> bool:
        return any(start <= seqnum < until for start, until in self.byteless)

    def view_stored(self, term: Term, count: int, tail: int, *, told: int = 0) -> None:
        """A view says where the terms before `term` ended; somebody was told of `told` entries,
        and may fold them even now."""
        self.starts[term] = count, tail
        if term == self._accepted or count < max(self.count, told):
            accepted = term == self._accepted
            fork = Fork(term, count, self.tail, False, accepted=accepted)
            self._leave(fork, everything=False)
            if tail < max(each.tail for each in self.lost):
                self._broken(f"term {term} gives seqnums from {tail} on again")

    def start_over(self, position: Position, tail: int) -> None:
        """Some index begins anew there, empty (P20); the entry that says so follows."""
        known = (fork for fork in self.forks if fork.started_over)
        if any((fork.term, fork.kept) == position for fork in known):
            return
        self._meet(position.count + 1)
        if position.count < self.count:
            self._broken(f"a fold starts over at {position}, {self.count} entries were folded")
            return
        unharmed = not self._may_lack(self.durability)
        fork = Fork(position.term, position.count, tail, True, unharmed=unharmed)
        self._leave(fork, everything=True)
        nobodys = OpenShard(self.timestamp_ms, 0, NOBODY, ())
        term = self.entries[-1].term if self.entries else Term(0)
        while self.count < position.count:  # ordered, and lost before anybody folded it
            self.entries.append(EntryRecord(term, nobodys, (), (), None, self.tail, 0))
            self.raw.append((Position(term, self.count), nobodys, (), 0))
        self.tail = max(self.tail, tail)

    def _meet(self, count: int) -> None:
        """An entry is folded that nobody had folded when everything started over behind it: a term
        that ended there has taken the new start with it."""
        left = self.entries[count - 1 :]
        if left and all(isinstance(e.entry, OpenShard) and e.entry.engine == NOBODY for e in left):
            del self.entries[count - 1 :], self.raw[count - 1 :]
            self.tail = self.tail_at(self.count)

    def _leave(self, fork: Fork, *, everything: bool) -> None:
        """The order as it was is lost."""
        what = str(fork).replace(", accepted=False", "")
        self._world.note(f"log space {self.space} loses {what} of {self.count} entries")
        lossless = self.durability == "sync" or not self._may_lose(everything)
        if lossless and not fork.accepted and (self.units or not everything):
            self._broken(f"{fork} loses what {self.count} entries say, and nothing has failed")
        self._fold_again(fork)

    def _fold_again(self, fork: Fork) -> None:
        """What was is a branch from now on; what is left of it is folded again."""
        was = SpaceOracle(self.space, self._world, self._whole, durability=self.durability)
        for name in vars(Branch()):
            setattr(was, name, getattr(self, name))
        was.starts, was.lost, was.gaps = dict(self.starts), list(self.lost), dict(self.gaps)
        for name, value in vars(Branch()).items():
            setattr(self, name, value)
        self.lost.append(was)
        self.forks = [*was.forks, fork]
        gone = min(self._gone_count(), fork.kept)
        for each in was.raw[:gone]:
            self._take(*each)
        self._forget()
        for each in was.raw[gone : fork.kept]:
            self._take(*each)

    def _gone_count(self) -> int:
        """Entries that do nothing any more, since everything started over behind them. An end may
        take a `StartOver` with it: that brings nothing back of what was lost before."""
        gone = [0]
        for place, fork in enumerate(self.forks):
            later = [each.kept for each in self.forks[place + 1 :] if not each.refolded]
            left = min(later, default=fork.kept)
            if fork.started_over and left <= fork.kept:
                gone.append(left)
        return max(gone)

    def _forget(self) -> None:
        """Entries stay, for positions; what they did does not."""
        self.units, self.by_data, self.deleted = [], {}, set()
        self.timelines, self.books = {}, {}

    def _home(self, position: Position) -> SpaceOracle:
        """The branch that an entry is of: one that lags folds what is lost already."""
        for place, fork in enumerate(self.forks):
            if position.term < fork.term and position.count > fork.kept and not fork.refolded:
                branch = self.lost[place]
                for each in self.raw[branch.count : fork.kept]:  # folded since the view was stored
                    branch._take(*each)
                return branch
        return self

    # --- what indexes tell ------------------------------------------------------------------------

    def cut(
        self,
        node: str,
        position: Position,
        cut: Cut,
        frames: Sequence[Frame],
        outcomes: Sequence[FrameOutcome],
        chained_hash: int,
    ) -> None:
        """A cut was applied by some index."""
        home = self._home(position)
        if home is not self:
            home.cut(node, position, cut, frames, outcomes, chained_hash)
            return
        checksums = tuple(frame.checksum for frame in frames)
        self._meet(position.count)
        if position.count == self.count + 1:
            self._take(position, cut, frames, chained_hash)
        found = tuple((each.first_seqnum, each.verdicts, each.void_units) for each in outcomes)
        self._compare(node, position, cut, checksums, found, None, chained_hash)

    def skipped(self, node: str, position: Position, gaps: Sequence[tuple[int, int]]) -> None:
        """An index folds around records (first seqnum, count) that the metalog says are lost: that
        may be only where every copy of them can be gone (P24). If they were folded before, the
        order goes on without them."""
        home = self._home(position)
        if home is not self:
            home.gaps.setdefault(position.count, dict(gaps))
            return
        known = self.gaps.get(position.count)
        if known != dict(gaps) and not self._may_lack(self.durability):
            self._broken(f"{node} at {position} folds around {gaps}, of which a copy is left")
        if position.count <= self.count and (known or {}) != dict(gaps):
            self._world.note(f"log space {self.space} loses {gaps} of entry {position.count}")
            self._fold_again(Fork(position.term, position.count - 1, self.tail, False, True))
        self.gaps[position.count] = dict(gaps)

    def other(
        self, node: str, position: Position, entry: Entry, answer: object, chained_hash: int
    ) -> None:
        """Another entry was applied by some index."""
        home = self._home(position)
        if home is not self:
            home.other(node, position, entry, answer, chained_hash)
            return
        if isinstance(answer, BokilogError):
            answer = (type(answer).__name__, answer.args)
        self._meet(position.count)
        if position.count == self.count + 1:
            self._take(position, entry, (), chained_hash)
        self._compare(node, position, entry, (), (), answer, chained_hash)

    def _compare(
        self,
        node: str,
        position: Position,
        entry: Entry,
        checksums: tuple[int, ...],
        outcomes: tuple[tuple[int, list[Verdict], tuple[int, ...]], ...],
        answer: object,
        chained_hash: int,
    ) -> None:
        if position.count > self.count:
            self._broken(f"{node} folded {position}, after {self.count} entries")
            return
        known = self.entries[position.count - 1]
        name = f"{node} at {position}"
        if known.term != position.term or known.entry != entry:
            self._broken(f"{name} folded {entry}; it was {known.entry} of term {known.term}")
        elif known.checksums != checksums:
            self._broken(f"{name} folded other frames")
        elif known.outcomes != outcomes:
            self._broken(f"{name} decided {outcomes}, right is {known.outcomes}")
        elif known.answer != answer:
            self._broken(f"{name} answered {answer} to {entry}, right is {known.answer}")
        elif known.chained_hash != chained_hash:
            self._broken(f"{name} has another chained hash")

    def _broken(self, text: str) -> None:
        self._world.violation(f"log space {self.space}: {text}")

    # --- the reference ----------------------------------------------------------------------------

    def _take(
        self, position: Position, entry: Entry, frames: Sequence[Frame], chained_hash: int
    ) -> None:
        """The next entry."""
        self.raw.append((position, entry, frames, chained_hash))
        if isinstance(entry, Cut):
            self._extend_by_cut(position, entry, frames, chained_hash)
            return
        self._enter(position, entry.timestamp_ms)
        if isinstance(entry, StartOver):
            self._forget()
        expected = self._apply(position.count, entry)
        self.entries.append(
            EntryRecord(position.term, entry, (), (), expected, self.tail, chained_hash)
        )

    def _enter(self, position: Position, timestamp_ms: int) -> None:
        last = self.entries[-1].term if self.entries else Term(0)
        if position.term < last:
            self._broken(f"{position} follows an entry of term {last}")
        if position.term > last:
            count, tail = self.starts.get(position.term, (-1, 0))
            if count != self.count:
                self._broken(f"term {position.term} began at {count}, its entries at {self.count}")
            if tail < self.tail:
                self._broken(f"term {position.term} begins at {tail}, ordered is {self.tail}")
            self.tail = max(self.tail, tail)
        if timestamp_ms < self.timestamp_ms:
            self._broken(f"{position} is of {timestamp_ms}, before it came {self.timestamp_ms}")
        self.timestamp_ms = max(self.timestamp_ms, timestamp_ms)

    def _extend_by_cut(
        self, position: Position, cut: Cut, frames: Sequence[Frame], chained_hash: int
    ) -> None:
        checksums = tuple(frame.checksum for frame in frames)
        self._enter(position, cut.timestamp_ms)
        if cut.first_seqnum != self.tail:
            self._broken(f"{position} orders from {cut.first_seqnum}, the tail is {self.tail}")
        seqnum = cut.first_seqnum
        outcomes = []
        gaps = self.gaps.get(position.count, {})
        for frame in frames:
            while seqnum in gaps:
                seqnum += gaps[seqnum]
            outcomes.append(self._frame(position.count, seqnum, frame, cut.timestamp_ms))
            seqnum += frame.records
        while seqnum in gaps:
            seqnum += gaps[seqnum]
        self.tail = seqnum
        self.entries.append(
            EntryRecord(
                position.term, cut, checksums, tuple(outcomes), None, self.tail, chained_hash
            )
        )

    def _frame(
        self, count: int, frame_seqnum: int, frame: Frame, now_ms: int
    ) -> tuple[int, list[Verdict], tuple[int, ...]]:
        frame = self._whole(frame)
        columns = frame.columns
        payload = b"".join(bytes(part) for part in frame.payload)
        offsets = [0]
        for length in columns.lengths:
            offsets.append(offsets[-1] + length)
        tests, keys = dict(columns.unless), {unit: key for unit, key, _, _ in columns.keys}
        verdicts: list[Verdict] = []
        void: list[int] = []
        for number, (start, until) in enumerate(columns.unit_bounds()):
            datas = tuple(payload[offsets[i] : offsets[i + 1]] for i in range(start, until))
            tags = tuple(_tags(columns.tags[i]) for i in range(start, until))
            conditions = tuple((tag, after) for tag, after in tests.get(number, ()))
            verdict = self._unit(
                OrderedUnit(columns.book_of(number), count, frame_seqnum + start, datas, tags, []),
                number,
                conditions,
                keys.get(number),
                now_ms,
            )
            if verdict[1] != VERDICT_VISIBLE:
                void.append(number)
            if verdict[1] != VERDICT_VISIBLE or number in keys or number in tests:
                verdicts.append(verdict)
        return frame_seqnum, verdicts, tuple(void)

    def _book(self, number: int) -> ReferenceBook:
        book = self.books.get(number)
        if book is None:
            book = self.books[number] = ReferenceBook(number)
        return book

    def _unit(
        self,
        unit: OrderedUnit,
        number: int,
        conditions: tuple[tuple[str | None, int], ...],
        key: str | None,
        now_ms: int,
    ) -> Verdict:
        verdict = self._verdict(unit, number, conditions, key, now_ms)
        ordered = unit._replace(verdict=verdict)
        self.units.append(ordered)
        self.by_data.setdefault(unit.datas[0], []).append(ordered)
        if verdict[1] == VERDICT_VISIBLE:
            timeline = self.timeline(unit.book)
            timeline.changed(unit.at)
            for place, (data, tags) in enumerate(zip(unit.datas, unit.tags, strict=True)):
                seen = Seen(unit.seqnum + place, data, tags, self.timestamp_ms, unit.at)
                timeline.records.append(seen)
        return verdict

    def _verdict(
        self,
        unit: OrderedUnit,
        number: int,
        conditions: tuple[tuple[str | None, int], ...],
        key: str | None,
        now_ms: int,
    ) -> Verdict:
        if unit.book in self.deleted:
            return [number, VERDICT_BOOK_DELETED, None, None]
        book = self._book(unit.book)
        book.tail = max(book.tail, unit.seqnum)
        try:
            span = book.append(
                Unit(list(unit.datas), list(unit.tags), 0),
                conditions=conditions,
                key=key,
                now_ms=now_ms,
                seqnum=unit.seqnum,
            )
        except KeyReused as error:
            return [number, VERDICT_KEY_REUSED, error.seqnum, key]
        except ConditionFailed as error:
            return [number, VERDICT_CONDITION_FAILED, error.tag, error.winner]
        except TagsEnded as error:
            return [number, VERDICT_TAGS_ENDED, error.prefix, None]
        if span.start != unit.seqnum:
            return [number, VERDICT_DUPLICATE, span.start, len(span)]
        return [number, VERDICT_VISIBLE, unit.seqnum, None]

    def _deleted_answer(self, entry: Entry) -> object:
        """Everything of a deleted LogBook counts as trimmed."""
        if isinstance(entry, Trim):
            return [self.tail, None]
        if isinstance(entry, Hold) and entry.seqnum < self.tail:
            return (Trimmed.__name__, (self.tail,))
        return []

    def _apply(self, count: int, entry: Entry) -> object:
        """Another entry's effect; what its proposer has to be told."""
        if isinstance(entry, ForgetKeys):
            for book in self.books.values():
                book.forget_keys(entry.timestamp_ms)
            return []
        if not isinstance(entry, Trim | Hold | Release | DeleteBook | EndTags):
            return []
        if entry.book in self.deleted:
            return self._deleted_answer(entry)
        book = self._book(entry.book)
        book.tail = self.tail
        timeline = self.timeline(entry.book)
        timeline.changed(count)
        match entry:
            case Trim():
                trim = book.trim(entry.until, tag=entry.tag, now_ms=entry.timestamp_ms)
                timeline.trims.append((count, entry.tag, book.trim_until(entry.tag)))
                return [trim.until, trim.held_by]
            case Hold():
                try:
                    book.hold(
                        entry.name,
                        entry.seqnum,
                        ttl_s=entry.ttl_ms / 1000,
                        now_ms=entry.timestamp_ms,
                    )
                except Trimmed as error:
                    return (type(error).__name__, error.args)
            case Release():
                book.release(entry.name)
            case EndTags():
                book.end_tags(entry.prefix)
            case DeleteBook():
                self.deleted.add(entry.book)
                timeline.deleted_at = timeline.deleted_at or count
        return []


def _tags(column: str | list[str] | None) -> tuple[str, ...]:
    return () if column is None else (column,) if isinstance(column, str) else tuple(column)


class WatchedFold(Fold):
    """A fold whose every step the oracle sees."""

    __slots__ = ("_node", "_oracle")

    def __init__(self, index: Index, *, node: str, oracle: SpaceOracle) -> None:
        super().__init__(index)
        self._node = node
        self._oracle = oracle

    def apply_cut(self, position, cut, frames, *, gaps=()):  # type: ignore[no-untyped-def]
        outcomes = super().apply_cut(position, cut, frames, gaps=gaps)
        if gaps:
            self._oracle.skipped(self._node, position, gaps)
        applied = [frame for _, frame, _ in frames]
        self._oracle.cut(self._node, position, cut, applied, outcomes, self.index.chained_hash)
        return outcomes

    def apply(self, position: Position, entry: Entry) -> list[object] | BokilogError:
        answer = super().apply(position, entry)
        self._oracle.other(self._node, position, entry, answer, self.index.chained_hash)
        return answer

    def start_over(self, position: Position, *, tail: int) -> None:
        super().start_over(position, tail=tail)
        self._oracle.start_over(position, tail)


def space_oracles(
    world: World,
    durabilities: Sequence[Durability],
    whole: Callable[[Frame], Frame],
    *,
    may_lose: Callable[[bool], bool],
    may_lack: Callable[[Durability], bool],
) -> dict[LogSpaceId, SpaceOracle]:
    """Of each log space; their numbers are their places."""
    return {
        LogSpaceId(space): SpaceOracle(
            *(space, world, whole),
            durability=durability,
            may_lose=may_lose,
            may_lack=may_lack,
        )
        for space, durability in enumerate(durabilities)
    }
