"""The producer of one log space: gives LocalIds to frames, keeps them until they are ordered, tells
their clients.

Decides which shard a frame goes to, which replicas still need it, and what a client is told of it.

Invariants:
- Frames leave in the order in which they were taken; after a view change the unordered ones are
  renumbered into the
  new term's shard before any newer frame (P4), and only once everything the old term ordered is
  known (P12, P13).
- A frame is kept until it is ordered; a replica that comes back gets everything from max(what it
  holds, first
  unordered) on (P8).
- Its own spans are contiguous: a span that does not start where the last one ended means missing
  entries, and nothing
  is concluded before they are here.
- No frame leaves before every deletion of a LogBook is known that the order will not tell of any
  more: its units would be acknowledged, and void (P5, P16).
- A frame that was refused was not taken, and neither was any later one of its client until it came
  back (P4). So appends wait in order, at their client, while too much is unordered here or while
  the followed index replica lags (P32).

Does not know: records one by one, facts, reads. Source: Boki (SOSP'21) section 4.3; differs from
Boki: frames instead of records, W of N, resending.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from enum import Enum

from bokilog.effects import Address, Effect, Send, SetTimer
from bokilog.errors import (
    BokilogError,
    NotReady,
    Overloaded,
    ReadOnly,
    RemoteProtocolError,
    to_wire,
)
from bokilog.frame import Frame
from bokilog.functions.engine.cache import RecordCache
from bokilog.functions.engine.links import Links
from bokilog.functions.engine.order import Horizon, SpaceOrder
from bokilog.functions.engine.replicas import Replicas
from bokilog.functions.engine.settings import EngineSettings
from bokilog.functions.engine.taken import AwaitedVerdicts, Outcomes, Taken
from bokilog.ids import START, LogSpaceId, NodeId, Position, Shard, Term
from bokilog.messages import (
    VERDICT_BOOK_DELETED,
    VERDICT_VISIBLE,
    AppendFrame,
    FollowMetalog,
    FrameLost,
    FrameOrdered,
    FrameRefused,
    FrameVerdicts,
    OpenShardRequest,
    ShardHeld,
)
from bokilog.metalog import CloseShard, Cut, DeleteBook, Lost, OpenShard, Run
from bokilog.view import View

RECORD_BYTES = 64
"""What a record costs beside its payload: entries of the columns."""


class Standing(Enum):
    """Where the shard of the installed term stands; a new term goes back to the start."""

    NO_VIEW = "no view"
    CATCHING_UP = "catching up"
    """Numbered frames of the old term are unordered, and its last entries are not here yet."""
    OPENING = "opening"
    LEARNING = "learning of deletions"
    """Open in the metalog; which LogBooks were deleted in entries that were let go, an index
    replica has still to tell (P16)."""
    OPEN = "open"
    CLOSED = "closed"
    """A newer start of this engine has taken over: nothing of this one will be ordered any more
    (P1, P2).
    """


class SpaceProducer:
    """Appends of one log space."""

    def __init__(
        self,
        space: LogSpaceId,
        *,
        settings: EngineSettings,
        node: NodeId,
        number: int,
        links: Links,
        cache: RecordCache,
        horizon: Horizon,
    ) -> None:
        self.space = space
        self.node = node
        self.number = number
        self.standing = Standing.NO_VIEW
        self.order = SpaceOrder(space, number)
        self.ordered_count = 0
        """Of the shard: first record that is not ordered."""
        self.count = 0
        """Of the shard: next LocalId."""
        self.frames = 0
        self.bytes = 0
        """Taken and not yet ordered."""
        self.refused_count = 0
        self.lost_count = 0
        self._resent_before = 0
        self.unexplained_count = 0
        """Spans that order more than this engine ever gave: somebody else uses its name."""
        self._settings = settings
        self._links = links
        self._cache = cache
        self._horizon = horizon
        self._primary = NodeId("")
        self._base = START
        self._term = Term(0)
        self._shard = Shard(space, Term(0), number)
        self._replicas = Replicas(self._shard, (), links)
        self._waiting: deque[Taken] = deque()
        """No LocalIds yet: the shard is not open."""
        self._unordered: deque[Taken] = deque()
        self._awaited = AwaitedVerdicts(number)
        self._next: dict[Address, int] = {}
        self._deleted: dict[int, int] = {}
        """LogBooks, with the count of the entry that deleted them, or a bound of it: what is
        ordered before it is not void, however early this engine hears of it."""
        self._deletions_before = 0
        """Those before that entry only an index replica tells of (P16)."""
        self._indexed_count = 0
        """The furthest entry that one has told them up to."""
        self._read_only = ""
        self._follows_all = False
        """The primary was asked for every entry of the term, to find the opening."""
        self._timer_set = False
        self._lag_timer_set = False
        self._ordered_at_timer = -1
        self._own_position = START
        """Of the last entry of its own: nothing before it can be missing."""
        self._gap_until = 0
        """First record that a span covered while the ones before it were not ordered yet; 0: no
        gap.
        """
        self._gap_asks = 0
        self._position_at_timer = START

    # --- appends ----------------------------------------------------------------------------------

    def take(self, client: Address, message: AppendFrame) -> list[Effect]:
        """A client's frame: it leaves at once if the shard is open."""
        _, number, columns, _ = message
        size_bytes = columns.payload_bytes + RECORD_BYTES * len(columns.tags)
        if (
            number != self._next.setdefault(client, number)
            or self._read_only
            or self.standing is Standing.CLOSED
            or not self._has_room(size_bytes)
        ):
            return [self._refuse(client, number), *self._ensure_lag_timer()]
        self._next[client] = number + 1
        taken = Taken(client, message, size_bytes)
        self.frames += 1
        self.bytes += size_bytes
        effects: list[Effect] = [] if self._timer_set else [self._set_timer()]
        if self.standing is Standing.OPEN:
            self._issue(taken, effects)
        else:
            self._waiting.append(taken)
        return effects

    def _has_room(self, size_bytes: int) -> bool:
        settings = self._settings
        return not self.lags and (
            not self.frames
            or (
                self.frames < settings.unordered_frames_max
                and self.bytes + size_bytes <= settings.unordered_bytes_max
            )
        )

    @property
    def lags(self) -> bool:
        """Whether the followed index replica is too far behind what is ordered (P32)."""
        return self._horizon.lag_records > self._settings.lag_records_max

    def lag_timer(self) -> bool:
        """Whether the replica is as far behind as when a frame was refused for that: appends must
        not wait for one that is slow, or stands still, while another may be further.
        """
        self._lag_timer_set = False
        return self.lags

    def _ensure_lag_timer(self) -> list[Effect]:
        if self._lag_timer_set or not self.lags:
            return []
        self._lag_timer_set = True
        return [SetTimer(("lag", int(self.space)), self._settings.retry_s)]

    def _refuse(self, client: Address, number: int) -> Effect:
        self.refused_count += 1
        error: BokilogError
        if self.standing is Standing.CLOSED:
            error = NotReady(f"a newer start of {self.node} has taken over")
        elif self._read_only:
            error = ReadOnly(self._read_only)
        elif number < self._next[client]:
            expected = self._next[client]
            error = RemoteProtocolError(f"frame {number} where frame {expected} was expected")
        else:
            error = Overloaded(self._settings.overloaded_retry_s, self._what())
        return Send(client, FrameRefused(self.space, number, to_wire(error)))

    def _what(self) -> str:
        """What there is no room for, and why if it is not for the frames under way here."""
        if not self.lags:
            return "the append"
        lag, most = self._horizon.lag_records, self._settings.lag_records_max
        return f"the append, while the index is {lag} records behind (at most {most} are allowed)"

    def _issue(self, taken: Taken, effects: list[Effect]) -> None:
        """Gives the records LocalIds, and the frame to every replica that takes frames now."""
        columns, first = taken.columns, self.count
        frame = Frame(shard=self._shard, first=first, columns=columns, payload=taken.payload)
        taken.frame = frame
        self.count = until = first + frame.records
        self._unordered.append(taken)
        if columns.needs_verdict:
            self._awaited.add(frame, taken)
        self._replicas.send(frame, until, effects)

    def forget_client(self, client: Address) -> None:
        """It is gone: nobody is told any more, but what was taken will be ordered."""
        self._next.pop(client, None)
        for taken in (*self._waiting, *self._unordered, *self._awaited):
            if taken.client == client:
                taken.client = None

    def read_only_changed(self, reason: str) -> list[Effect]:
        """The journal of this process takes nothing for now: what is on its way may be on disk or
        not (P7).
        """
        self._read_only = reason
        effects: list[Effect] = []
        if reason:
            for taken in self._unordered:
                self._lose(taken, reason, effects)
            effects += self._give_back(ReadOnly(reason))
        return effects

    def _give_back(self, error: BokilogError) -> list[Effect]:
        """Frames without LocalIds are refused after all: they certainly did not happen."""
        effects: list[Effect] = []
        wire = to_wire(error)
        for taken in self._waiting:
            self._let_go(taken)
            self._awaited.discard(taken)
            if taken.client is not None:
                self._next[taken.client] = min(self._next[taken.client], taken.number)
                effects.append(Send(taken.client, FrameRefused(self.space, taken.number, wire)))
        self._waiting.clear()
        return effects

    def _lose(self, taken: Taken, reason: str, effects: list[Effect]) -> None:
        if taken.client is not None:
            self.lost_count += 1
            effects.append(Send(taken.client, FrameLost(self.space, taken.number, reason)))
            taken.client = None

    def _let_go(self, taken: Taken) -> None:
        self.frames -= 1
        self.bytes -= taken.size_bytes

    # --- replicas ---------------------------------------------------------------------------------

    def link_up(self, peer: Address) -> list[Effect]:
        """The primary is asked for everything since, a storage node what it holds."""
        return self._ask_primary() if peer == self._primary else self._replicas.link_up(peer)

    def link_down(self, peer: Address) -> None:
        """A storage node gets nothing until it is back; the primary is asked then."""
        self._replicas.link_down(peer)

    def held(self, peer: Address, message: ShardHeld) -> list[Effect]:
        """A storage node says what it holds: it gets the rest (P8)."""
        if message.shard != self._shard:
            return []
        return self._replicas.held(
            peer, message.count, self._unordered_frames(), ordered=self.ordered_count
        )

    def clogged(self, peer: Address, *, clear: bool) -> list[Effect]:
        """A link has a queue, or none any more."""
        return self._replicas.clogged(
            peer, self._unordered_frames(), ordered=self.ordered_count, clear=clear
        )

    def _unordered_frames(self) -> Iterator[Frame]:
        return (taken.frame for taken in self._unordered if taken.frame is not None)

    @property
    def resent_count(self) -> int:
        """Frames sent to a replica that had lost its link or its turn."""
        return self._resent_before + self._replicas.resent_count

    # --- the metalog ------------------------------------------------------------------------------

    def metalog(self, run: Run) -> list[Effect]:
        """Published entries; some may be repeated, some left out because they concern others."""
        effects: list[Effect] = []
        self._take_anywhere(run, effects)
        for position, entry in self.order.offer(run):
            if isinstance(entry, Cut):
                if position[0] == self._shard[1] and not self._cut(position, entry, effects):
                    effects += self._found_gap(position)
                    break
            elif isinstance(entry, CloseShard):
                self._closed(position, entry, effects)
            elif isinstance(entry, Lost) and entry.number == self.number:
                for taken in self._awaited.lost(Term(entry.term), entry.start, entry.until):
                    self._awaited.discard(taken)
                    self._lose(taken, "no replica has it any more", effects)
        if self.order.caught_up():
            effects += self._caught_up()
        return effects

    def published(self, position: Position) -> list[Effect]:
        """The primary has sent everything up to here that concerns this engine."""
        self.order.seen(position)
        return self._caught_up() if self.order.caught_up() else []

    def _take_anywhere(self, run: Run, effects: list[Effect]) -> None:
        """Entries that may come again and out of their turn: an opening that was missed is sent
        once more.
        """
        for place, entry in enumerate(run.entries, 1):
            if type(entry) is Cut:
                continue
            if isinstance(entry, DeleteBook):
                self._delete(entry.book, run.first + place)
            elif (
                isinstance(entry, OpenShard)
                and entry.number == self.number
                and run.term == self._term
                and self.standing is Standing.OPENING
            ):
                effects += self._open(entry, Position(run.term, run.first + place))

    def books_deleted(self, books: list[int], position: Position) -> list[Effect]:
        """What an index replica says of deletions up to its position (P5).

        Those up to there that come after an entry of the primary's, it sends after that entry.
        """
        count = position[1]
        for book in books:
            self._delete(book, count)
        if count > self._indexed_count:
            self._indexed_count = count
        return self._learned() if self.standing is Standing.LEARNING else []

    def metalog_begins(self, count: int) -> list[Effect]:
        """The primary may not know of LogBooks that were deleted before that entry (P16)."""
        self._deletions_before = max(self._deletions_before, count)
        return []

    def index_behind(self) -> bool:
        """Whether the followed index replica keeps appends waiting for what others may tell."""
        return self.standing is Standing.LEARNING and self._indexed_count > 0

    def _delete(self, book: int, count: int) -> None:
        self._deleted[book] = min(count, self._deleted.get(book, count))

    def _cut(self, position: Position, cut: Cut, effects: list[Effect]) -> bool:
        """Orders what the cut covers of the shard; False: entries before it are missing."""
        timestamp_ms, seqnum, spans = cut
        for number, start, until in spans:
            if number == self.number:
                if until <= self.ordered_count:
                    return True
                if until > self.count:  # nobody could have reported that much
                    self.unexplained_count += 1
                    return True
                if start != self.ordered_count:
                    self._gap_until = start
                    return False
                self._own_position = position
                self._order(until, seqnum, position, timestamp_ms, effects)
            seqnum += until - start
        self._horizon.saw(position, seqnum)
        return True

    def _order(
        self, until: int, seqnum: int, position: Position, timestamp_ms: int, effects: list[Effect]
    ) -> None:
        unordered, space = self._unordered, self.space
        while unordered:
            taken = unordered[0]
            frame = taken.frame
            if frame is None or frame.until > until:
                break
            unordered.popleft()
            self.frames -= 1
            self.bytes -= taken.size_bytes
            taken.first_seqnum = seqnum
            taken.position = position
            if position[0] == self._term:  # what an earlier one ordered may be lost since (P20)
                self._cache.add_frame(space, seqnum, frame, timestamp_ms)
            if self._deleted:
                self._void_deleted(taken, effects)
            if taken.client is not None:
                ordered = FrameOrdered(space, taken.number, seqnum, position, timestamp_ms)
                effects.append(Send(taken.client, ordered))
            if taken.outcomes is not None:
                self._decided(taken, taken.outcomes, effects)
            seqnum += frame.records
        self.ordered_count = until

    def _found_gap(self, position: Position) -> list[Effect]:
        """Something of this shard was left out: all since its last entry is asked for, without
        gaps.
        """
        if self.order.catching_up:
            self.order.rewind(Position(position.term, position.count - 1))
            return []
        self.order.catch_up(position.count, position=self._own_position)
        return self._ask_follow()

    # --- verdicts ---------------------------------------------------------------------------------

    def verdicts(self, rows: list[list[object]]) -> list[Effect]:
        """Verdicts from an index replica; those of frames that are not ordered here yet are kept
        with them.
        """
        effects: list[Effect] = []
        for taken, outcomes in self._awaited.decided(rows):
            self._decided(taken, outcomes, effects)
        return effects

    def awaited_verdicts(self) -> list[list[int]]:
        """Rows for `FollowIndex`."""
        return self._awaited.rows()

    def awaits_verdicts_at(self, position: Position) -> bool:
        """Whether a verdict is missing that an index replica at `position` had decided before."""
        return self._awaited.missing_at(position)

    def verdicts_overdue(self) -> bool:
        """Whether one was awaited at the last call already."""
        return self._awaited.overdue()

    def _decided(self, taken: Taken, outcomes: Outcomes, effects: list[Effect]) -> None:
        self._awaited.discard(taken)
        void = {outcome[0] for outcome in outcomes if outcome[1] != VERDICT_VISIBLE}
        self._cache.decide(self.space, taken.first_seqnum, void)
        if taken.client is not None:
            message = FrameVerdicts(self.space, taken.number, taken.position, outcomes)
            effects.append(Send(taken.client, message))

    def _void_deleted(self, taken: Taken, effects: list[Effect]) -> None:
        """Units of a LogBook are void wherever they are ordered after its deletion (P5); the client
        is told first of all.

        Also in a frame that waits for verdicts: its units without conditions or keys are done with
        the order, before the verdicts come. Those name the same units once more, which changes
        nothing.
        """
        columns, at = taken.columns, taken.position.count
        known = self._deleted.get
        if columns.problem:
            return  # void for that, wherever it is ordered (P34)
        if isinstance(columns.books, int):
            void = list(range(columns.units)) if known(columns.books, at) < at else []
        else:
            void = [unit for unit, book in enumerate(columns.books) if known(book, at) < at]
        if not void:
            return
        outcomes: Outcomes = [[unit, VERDICT_BOOK_DELETED, 0, 0] for unit in void]
        if not columns.needs_verdict:
            self._decided(taken, outcomes, effects)
        elif taken.client is not None:
            message = FrameVerdicts(self.space, taken.number, taken.position, outcomes)
            effects.append(Send(taken.client, message))

    # --- terms ------------------------------------------------------------------------------------

    def install(self, view: View) -> list[Effect]:
        """The next view: finish the old term first, then open this start's shard in the new one
        (P12, P13).
        """
        end = view.end(self.space)
        if self.standing is Standing.CLOSED:
            return []
        if self.standing is not Standing.NO_VIEW:
            self.order.end_term(Term(view.term - 1), end.position.count)
        self._primary = view.space(self.space).primary
        self._term = view.term
        self._base = end.position
        if self._own_position.count > end.position.count:
            self._own_position = Position(self._own_position.term, end.position.count)
        effects = self._lose_awaited(end.position.count)
        if self._unordered and self._own_position.count < end.position.count:
            self.standing = Standing.CATCHING_UP
            self.order.catch_up(end.position.count, position=self._own_position)
            return [*effects, *self._ask_follow(), *self._ensure_timer()]
        return [*effects, *self._begin_term()]

    def _lose_awaited(self, count: int) -> list[Effect]:
        """Frames that were ordered past the end: the class may lose them (P11), and no replica will
        ever tell their verdicts."""
        effects: list[Effect] = []
        for taken in list(self._awaited):
            ordered = taken.position
            if taken.first_seqnum and ordered.term < self._term and ordered.count > count:
                self._awaited.discard(taken)
                self._lose(taken, "the entry that ordered it was lost", effects)
        return effects

    def _caught_up(self) -> list[Effect]:
        """No entry up to the target is missing any more."""
        self._gap_asks = self._gap_until = 0
        if self.standing is Standing.CATCHING_UP:
            return self._begin_term()
        return self._ask_follow()

    def _begin_term(self) -> list[Effect]:
        """What the old term did not order will be numbered anew, before everything that waits."""
        for taken in reversed(self._unordered):
            self._awaited.discard(taken)
            taken.frame = taken.outcomes = None
            self._waiting.appendleft(taken)
        self._unordered.clear()
        self._set_replicas(())
        self.count = self.ordered_count = 0
        self._shard = Shard(self.space, self._term, self.number)
        self.standing = Standing.OPENING
        return [*self._ask_primary(), *self._ensure_timer()]

    def _open(self, entry: OpenShard, position: Position) -> list[Effect]:
        """The metalog has opened the shard."""
        self.standing = Standing.LEARNING
        self._own_position = position
        self._set_replicas(entry.replicas)
        effects = self._learned()
        if self._follows_all:
            self._follows_all = False
            effects += self._ask_follow()
        return effects

    def _learned(self) -> list[Effect]:
        """What waits gets LocalIds, in order, if no deletion is missing."""
        if self._indexed_count < self._deletions_before:
            return []
        self.standing = Standing.OPEN
        effects: list[Effect] = []
        waiting, self._waiting = self._waiting, deque()
        for taken in waiting:
            self._issue(taken, effects)
        return effects

    def _set_replicas(self, nodes: Iterable[str]) -> None:
        self._resent_before = self.resent_count
        self._replicas = Replicas(self._shard, nodes, self._links)

    def _closed(self, position: Position, entry: CloseShard, effects: list[Effect]) -> None:
        """A newer start of this engine: past the count nothing is ordered, and that is certain
        (P2).
        """
        if entry.number != self.number or position.term != self._term:
            return
        self.standing = Standing.CLOSED
        error = NotReady(f"a newer start of {self.node} has taken over")
        while self.ordered_count < entry.count and self._unordered:
            self._lose_first("the entry that ordered it did not arrive", effects)
        self._waiting.extendleft(reversed(self._unordered))
        self._unordered.clear()
        effects += self._give_back(error)

    # --- asking again -----------------------------------------------------------------------------

    def _ask_primary(self) -> list[Effect]:
        effects = self._ask_follow()
        if effects and self.standing is Standing.OPENING:
            request = OpenShardRequest(self.space, self._term, self.node, self.number)
            effects.append(Send(self._primary, request))
        return effects

    def _ask_follow(self) -> list[Effect]:
        if self._primary not in self._links.up:
            return []
        return [Send(self._primary, self.order.follow())]

    def timer(self) -> list[Effect]:
        """Whatever stood still since the last time is asked for again: nothing relies on each
        message arriving.
        """
        self._timer_set = False
        stalled = bool(self._unordered) and self._ordered_at_timer == self.ordered_count
        self._ordered_at_timer = self.ordered_count
        effects: list[Effect] = []
        if self.standing is Standing.OPENING:
            effects += self._ask_opening()
        elif self.order.catching_up:
            effects += self._ask_gap()
        elif stalled:
            effects += self._ask_follow()
        effects += self._replicas.ask(all_of_them=stalled)
        return [*effects, *self._ensure_timer()]

    def _ask_opening(self) -> list[Effect]:
        """The opening may have been published while no link stood: everything of this term is asked
        for.
        """
        if self._primary not in self._links.up:
            return []
        number = self.number if self._base.count else 0  # from the very start, `number` means now
        self._follows_all = not number
        return [
            Send(self._primary, FollowMetalog(self.space, self._base, number)),
            Send(self._primary, OpenShardRequest(self.space, self._term, self.node, self.number)),
        ]

    def _ask_gap(self) -> list[Effect]:
        """Entries are missing; if the primary lacks them too, what they ordered is lost."""
        moved = self._position_at_timer != self.order.position
        self._position_at_timer = self.order.position
        asked = self._ask_follow()
        self._gap_asks = 0 if moved or not asked else self._gap_asks + 1
        return asked if self._gap_asks <= self._settings.gap_asks_max else self._give_up()

    def _give_up(self) -> list[Effect]:
        """Frames whose place cannot be known any more are not sent again: they may stand in the log
        already.
        """
        effects: list[Effect] = []
        opening = self.standing is Standing.CATCHING_UP
        until = self.count if opening else self._gap_until
        while self._unordered and self.ordered_count < until:
            self._lose_first("the entry that ordered it is not kept any more", effects)
        self.ordered_count = until
        self.order.catch_up(0)
        return [*effects, *(self._caught_up() if self.order.caught_up() else ())]

    def _lose_first(self, reason: str, effects: list[Effect]) -> None:
        taken = self._unordered.popleft()
        assert taken.frame is not None, "an unordered frame has LocalIds"
        self.ordered_count = taken.frame.until
        self._let_go(taken)
        self._awaited.discard(taken)
        self._lose(taken, reason, effects)

    @property
    def busy(self) -> bool:
        """Whether anything is waited for that may have to be asked for again."""
        return bool(
            self._waiting
            or self._unordered
            or self._awaited
            or self.order.catching_up
            or self.standing in (Standing.OPENING, Standing.LEARNING)
            or self._replicas.waiting
        )

    def summary(self) -> dict[str, object]:
        """For `bokilog status`."""
        return {
            "standing": self.standing.value,
            "position": list(self.order.position),
            "records_ordered": self.ordered_count,
            "unordered_frames": self.frames,
            "unordered_bytes": self.bytes,
            "awaited_verdicts": len(self._awaited),
            "read_only": self._read_only,
            "replicas": self._replicas.summary(),
        }

    def check(self) -> None:
        """Asserts the invariants."""
        self.order.check()
        held = [*self._waiting, *self._unordered]
        assert self.frames == len(held)
        assert self.bytes == sum(taken.size_bytes for taken in held)
        assert all(taken.frame is None for taken in self._waiting)
        next_first = self.ordered_count
        for taken in self._unordered:
            assert taken.frame is not None, "an unordered frame has LocalIds"
            assert taken.frame.first == next_first, f"{self._shard} has a hole at {next_first}"
            next_first = taken.frame.until
        assert next_first == self.count or self.standing is Standing.CLOSED
        assert not self._waiting or self.standing is not Standing.OPEN
        self._replicas.check()

    def _ensure_timer(self) -> list[Effect]:
        return [self._set_timer()] if self.busy and not self._timer_set else []

    def _set_timer(self) -> Effect:
        self._timer_set = True
        return SetTimer(("producer", int(self.space)), self._settings.retry_s)
