"""Frames of one log space between their client and the end of what is to be told of them.

Decides the LocalIds of their records, who still needs them, and what their clients are told: when
they are ordered, what their verdicts are, that nobody knows. A frame waits until a shard is open,
has LocalIds until it is ordered, and is kept after that only for its verdicts.

Invariants:
- Frames leave in the order in which they were taken; at the begin of a term the unordered ones wait
  for its shard before any newer frame (P4), to be numbered anew.
- LocalIds of the shard are given without a hole: [0, ordered_count) is ordered, and the frames in
  `numbered` are [ordered_count, count).
- A frame is kept until it is ordered; a replica that comes back gets everything from max(what it
  holds, first unordered) on (P8).
- A client is told once that a frame is ordered or that nobody knows, and nothing after the latter.

Does not know: records one by one, which entries of the metalog count, when a shard may be opened.
Source: Boki (SOSP'21) section 4.3; differs from Boki: frames instead of records, W of N, resending.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator

from bokilog.effects import Address, Effect, Send
from bokilog.errors import BokilogError, to_wire
from bokilog.frame import Frame
from bokilog.functions.engine.admission import Admission
from bokilog.functions.engine.cache import RecordCache
from bokilog.functions.engine.deletions import Deletions
from bokilog.functions.engine.links import Links
from bokilog.functions.engine.replicas import Replicas
from bokilog.functions.engine.taken import AwaitedVerdicts, Outcomes, Taken
from bokilog.ids import LogSpaceId, Position, Shard, Term
from bokilog.messages import (
    VERDICT_BOOK_DELETED,
    VERDICT_VISIBLE,
    FrameLost,
    FrameOrdered,
    FrameRefused,
    FrameVerdicts,
    ShardHeld,
)
from bokilog.metalog import Lost


class UnderWay:
    """All frames of one log space, and the shard they are in.

    Args:
        space: the log space.
        number: of this engine's shards, in every term.
        links: which connections stand.
        cache: where ordered frames are kept for readers.
        admission: counts what is not yet ordered.
        deletions: which LogBooks are deleted.
    """

    __slots__ = (
        "_admission",
        "_cache",
        "_deletions",
        "_links",
        "_number",
        "_resent_before",
        "_space",
        "_term",
        "awaited",
        "count",
        "lost_count",
        "numbered",
        "ordered_count",
        "replicas",
        "shard",
        "waiting",
    )

    def __init__(
        self,
        space: LogSpaceId,
        *,
        number: int,
        links: Links,
        cache: RecordCache,
        admission: Admission,
        deletions: Deletions,
    ) -> None:
        self.waiting: deque[Taken] = deque()
        """No LocalIds yet: the shard is not open."""
        self.numbered: deque[Taken] = deque()
        """With LocalIds, not yet ordered."""
        self.awaited = AwaitedVerdicts(number)
        self.ordered_count = 0
        """Of the shard: first record that is not ordered."""
        self.count = 0
        """Of the shard: next LocalId."""
        self.lost_count = 0
        self.shard = Shard(space, Term(0), number)
        self.replicas = Replicas(self.shard, (), links)
        self._resent_before = 0
        self._term = Term(0)
        """Of the installed view; the shard may be of the one before, until that one is done."""
        self._space = space
        self._number = number
        self._links = links
        self._cache = cache
        self._admission = admission
        self._deletions = deletions

    # --- the usual way ----------------------------------------------------------------------------

    def issue(self, taken: Taken, effects: list[Effect]) -> None:
        """Gives the records LocalIds, and the frame to every replica that takes frames now."""
        columns, first = taken.columns, self.count
        frame = Frame(shard=self.shard, first=first, columns=columns, payload=taken.payload)
        taken.frame = frame
        self.count = until = first + frame.records
        self.numbered.append(taken)
        if columns.needs_verdict:
            self.awaited.add(frame, taken)
        self.replicas.send(frame, until, effects)

    def order(
        self, until: int, seqnum: int, position: Position, timestamp_ms: int, effects: list[Effect]
    ) -> None:
        """The cut at `position` orders the shard up to `until`; `seqnum` is the first one's."""
        numbered, space, admission = self.numbered, self._space, self._admission
        deleted = self._deletions.books
        while numbered:
            taken = numbered[0]
            frame = taken.frame
            if frame is None or frame.until > until:
                break
            numbered.popleft()
            admission.frames -= 1
            admission.bytes -= taken.size_bytes
            taken.first_seqnum = seqnum
            taken.position = position
            if position[0] == self._term:  # what an earlier one ordered may be lost since (P20)
                self._cache.add_frame(space, seqnum, frame, timestamp_ms)
            if deleted:
                self._void_deleted(taken, effects)
            if taken.client is not None:
                ordered = FrameOrdered(space, taken.number, seqnum, position, timestamp_ms)
                effects.append(Send(taken.client, ordered))
            if taken.outcomes is not None:
                self._decided(taken, taken.outcomes, effects)
            seqnum += frame.records
        self.ordered_count = until

    # --- verdicts ---------------------------------------------------------------------------------

    def verdicts(self, rows: list[list[object]]) -> list[Effect]:
        """Verdicts from an index replica; those of frames that are not ordered here yet are kept
        with them.
        """
        effects: list[Effect] = []
        for taken, outcomes in self.awaited.decided(rows):
            self._decided(taken, outcomes, effects)
        return effects

    def _decided(self, taken: Taken, outcomes: Outcomes, effects: list[Effect]) -> None:
        self.awaited.discard(taken)
        void = {outcome[0] for outcome in outcomes if outcome[1] != VERDICT_VISIBLE}
        self._cache.decide(self._space, taken.first_seqnum, void)
        if taken.client is not None:
            message = FrameVerdicts(self._space, taken.number, taken.position, outcomes)
            effects.append(Send(taken.client, message))

    def _void_deleted(self, taken: Taken, effects: list[Effect]) -> None:
        """Units of a LogBook are void wherever they are ordered after its deletion (P5); the client
        is told first of all.

        Also in a frame that waits for verdicts: its units without conditions or keys are done with
        the order, before the verdicts come. Those name the same units once more, which changes
        nothing.
        """
        void = self._deletions.void_units(taken.columns, taken.position.count)
        if not void:
            return
        outcomes: Outcomes = [[unit, VERDICT_BOOK_DELETED, 0, 0] for unit in void]
        if not taken.columns.needs_verdict:
            self._decided(taken, outcomes, effects)
        elif taken.client is not None:
            message = FrameVerdicts(self._space, taken.number, taken.position, outcomes)
            effects.append(Send(taken.client, message))

    # --- replicas ---------------------------------------------------------------------------------

    def held(self, peer: Address, message: ShardHeld) -> list[Effect]:
        """A storage node says what it holds: it gets the rest (P8)."""
        if message.shard != self.shard:
            return []
        return self.replicas.held(
            peer, message.count, self._numbered_frames(), ordered=self.ordered_count
        )

    def clogged(self, peer: Address, *, clear: bool) -> list[Effect]:
        """A link has a queue, or none any more."""
        return self.replicas.clogged(
            peer, self._numbered_frames(), ordered=self.ordered_count, clear=clear
        )

    def _numbered_frames(self) -> Iterator[Frame]:
        return (taken.frame for taken in self.numbered if taken.frame is not None)

    @property
    def resent_count(self) -> int:
        """Frames sent to a replica that had lost its link or its turn."""
        return self._resent_before + self.replicas.resent_count

    # --- terms ------------------------------------------------------------------------------------

    def end_term(self, term: Term, count: int) -> list[Effect]:
        """The view of `term` is here: of what the ones before it ordered, `count` entries are left.

        Frames that were ordered past them are lost, as the class may (P11), and no replica will
        ever tell their verdicts.
        """
        self._term = term
        effects: list[Effect] = []
        for taken in list(self.awaited):
            ordered = taken.position
            if taken.first_seqnum and ordered.term < term and ordered.count > count:
                self.awaited.discard(taken)
                self._lose(taken, "the entry that ordered it was lost", effects)
        return effects

    def begin_term(self) -> None:
        """What the old term did not order will be numbered anew, before everything that waits."""
        for taken in reversed(self.numbered):
            self.awaited.discard(taken)
            taken.frame = taken.outcomes = None
            self.waiting.appendleft(taken)
        self.numbered.clear()
        self._set_replicas(())
        self.count = self.ordered_count = 0
        self.shard = Shard(self._space, self._term, self._number)

    def opened(self, replicas: Iterable[str]) -> None:
        """The shard is open at these storage nodes."""
        self._set_replicas(replicas)

    def issue_waiting(self) -> list[Effect]:
        """What waits gets LocalIds, in order."""
        effects: list[Effect] = []
        waiting, self.waiting = self.waiting, deque()
        for taken in waiting:
            self.issue(taken, effects)
        return effects

    def _set_replicas(self, nodes: Iterable[str]) -> None:
        self._resent_before = self.resent_count
        self.replicas = Replicas(self.shard, nodes, self._links)

    # --- what will not be ordered, or nobody knows ------------------------------------------------

    def read_only(self, reason: str, error: BokilogError) -> list[Effect]:
        """The journal of this process takes nothing for now: what is on its way may be on disk or
        not (P7).
        """
        effects: list[Effect] = []
        for taken in self.numbered:
            self._lose(taken, reason, effects)
        return [*effects, *self._give_back(error)]

    def tell_clients(self, error: BokilogError) -> list[Effect]:
        """Why what they have under way may take long, and nothing more would be taken."""
        clients = dict.fromkeys(taken.client for taken in self.numbered)
        refused = FrameRefused(self._space, 0, to_wire(error))
        return [Send(client, refused) for client in clients if client is not None]

    def close(self, count: int, error: BokilogError) -> list[Effect]:
        """A newer start of this engine has taken over: past the count nothing is ordered, and that
        is certain (P2).
        """
        effects: list[Effect] = []
        while self.ordered_count < count and self.numbered:
            self._lose_first("the entry that ordered it did not arrive", effects)
        self.waiting.extendleft(reversed(self.numbered))
        self.numbered.clear()
        return [*effects, *self._give_back(error)]

    def give_up(self, until: int) -> list[Effect]:
        """Frames up to `until` whose place cannot be known any more are not sent again: they may
        stand in the log already.
        """
        effects: list[Effect] = []
        while self.numbered and self.ordered_count < until:
            self._lose_first("the entry that ordered it is not kept any more", effects)
        self.ordered_count = until
        return effects

    def lost(self, entry: Lost, effects: list[Effect]) -> None:
        """No replica has these records any more (P24)."""
        for taken in self.awaited.lost(Term(entry.term), entry.start, entry.until):
            self.awaited.discard(taken)
            self._lose(taken, "no replica has it any more", effects)

    def forget_client(self, client: Address) -> None:
        """It is gone: nobody is told any more, but what was taken will be ordered."""
        for taken in (*self.waiting, *self.numbered, *self.awaited):
            if taken.client == client:
                taken.client = None

    def _give_back(self, error: BokilogError) -> list[Effect]:
        """Frames without LocalIds are refused after all."""
        effects: list[Effect] = []
        for taken in self.waiting:
            self.awaited.discard(taken)
            effects += self._admission.give_back(taken, error)
        self.waiting.clear()
        return effects

    def _lose_first(self, reason: str, effects: list[Effect]) -> None:
        taken = self.numbered.popleft()
        assert taken.frame is not None, "a numbered frame has LocalIds"
        self.ordered_count = taken.frame.until
        self._admission.let_go(taken)
        self.awaited.discard(taken)
        self._lose(taken, reason, effects)

    def _lose(self, taken: Taken, reason: str, effects: list[Effect]) -> None:
        if taken.client is not None:
            self.lost_count += 1
            effects.append(Send(taken.client, FrameLost(self._space, taken.number, reason)))
            taken.client = None

    # --- for people -------------------------------------------------------------------------------

    @property
    def any_left(self) -> bool:
        """Whether something is still to be told of some frame."""
        return bool(self.waiting or self.numbered or self.awaited)

    def check(self, *, closed: bool) -> None:
        """Asserts the invariants; once the shard is closed, nothing is left of what was in it."""
        held = [*self.waiting, *self.numbered]
        assert self._admission.frames == len(held)
        assert self._admission.bytes == sum(taken.size_bytes for taken in held)
        assert all(taken.frame is None for taken in self.waiting)
        next_first = self.ordered_count
        for taken in self.numbered:
            assert taken.frame is not None, "a numbered frame has LocalIds"
            assert taken.frame.first == next_first, f"{self.shard} has a hole at {next_first}"
            next_first = taken.frame.until
        assert next_first == self.count or closed
        self.replicas.check()
