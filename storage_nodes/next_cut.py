"""The frames of the next cut: whether they are here, and what is done about those that are not.

Decides which frames a cut orders, without what is lost (P24); which record the fold waits for, and
how much of what follows is asked for with it (P8); when no peer has it, so that a fold of theirs is
loaded instead, or the primary is told that it may be lost.

Invariants: a cut is folded only with every frame that it orders, each as the disk gave it back and
whole; nobody is said to lack a frame who was not asked for it since it is the first one missing.

Does not know: how a cut is folded, or how a frame that arrives is kept. Which request goes to whom
and when is `repair.py`'s; what was said of losses is in `losses.py`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from itertools import islice
from typing import Final

from bokilog.cut import CutSpan, first_seqnums, record_count
from bokilog.effects import Effect, SetTimer
from bokilog.errors import CorruptJournal, RemoteProtocolError
from bokilog.frame import Frame
from bokilog.ids import START, Position, Shard
from bokilog.journal import Journal, Location
from bokilog.messages import FetchFrames
from bokilog.metalog import Cut, Entry
from bokilog.storage_nodes.losses import Losses
from bokilog.storage_nodes.membership import Membership
from bokilog.storage_nodes.pending import HeldFrame, Pending
from bokilog.storage_nodes.repair import AHEAD_ENTRIES, Repair

ALONE_S = 1.0
"""How often the only replica says what holds its fold up."""

Ordered = tuple[int, Shard, HeldFrame]
"""A frame that a cut orders, behind its first seqnum and its shard."""
Opened = tuple[int, Frame, Location]
"""The frame itself, behind its first seqnum, and where it lies."""
Wanted = tuple[Position, tuple[Shard, int] | None]
"""The next entry, and the first record of it that is missing."""
NOTHING: Final[Wanted] = (START, None)
Gap = tuple[Shard, int, int, int]
"""What is lost of a cut: shard, first count, past the last, and the first one's seqnum."""


class NextCut:
    """What the fold of one replica needs next.

    Args:
        membership: who the other replicas are.
        entries: of the metalog, that are not folded yet; those of `entries.py`.
        pending: frames that are not folded yet.
        journal: of the log space.
        losses: what no replica has.
        repair: who is asked for what.
    """

    __slots__ = (
        "_entries",
        "_folded_by",
        "_journal",
        "_losses",
        "_membership",
        "_pending",
        "_refused",
        "_repair",
        "_space",
    )

    def __init__(
        self,
        membership: Membership,
        *,
        entries: deque[tuple[Position, Entry]],
        pending: Pending,
        journal: Journal,
        losses: Losses,
        repair: Repair,
    ) -> None:
        self._membership = membership
        self._space = membership.space.id
        self._entries = entries
        self._pending = pending
        self._journal = journal
        self._losses = losses
        self._repair = repair
        self._refused: tuple[Wanted, set[str]] = (NOTHING, set())
        """Peers that do not have the first missing frame."""
        self._folded_by: dict[str, int] = {}
        """Entries that peers have folded."""

    # --- frames that are here ---------------------------------------------------------------------

    def frames_of(self, position: Position, cut: Cut) -> list[Ordered] | None:
        """The frames of a cut, in its order; None if one of them is missing."""
        found: list[Ordered] = []
        _, seqnum, spans = cut
        lossless, term = not self._losses.any, position[0]
        for number, start, until in spans:
            shard = Shard(self._space, term, number)
            frames = (
                self._pending.frames_of(shard, start, until)
                if lossless
                else self._frames_of_span(shard, start, until)
            )
            if isinstance(frames, int):
                return None
            found += [(seqnum + held.start - start, shard, held) for held in frames]
            seqnum += until - start
        return found

    def _frames_of_span(self, shard: Shard, start: int, until: int) -> list[HeldFrame] | int:
        """The frames of a span, without what is lost; or the first count that is missing."""
        if not self._losses.any:
            return self._pending.frames_of(shard, start, until)
        found: list[HeldFrame] = []
        for first, end, lost in self._losses.parts(shard, start, until):
            frames = [] if lost else self._pending.frames_of(shard, first, end)
            if isinstance(frames, int):
                return frames
            found += frames
        return found

    def gaps_of(self, position: Position, cut: Cut) -> list[Gap]:
        """What is lost of a cut."""
        return [
            (shard, first, end, seqnum + first - span.start)
            for seqnum, span in first_seqnums(cut.first_seqnum, cut.spans)
            for shard in (Shard(self._space, position.term, span.number),)
            for first, end, lost in self._losses.parts(shard, span.start, span.until)
            if lost
        ]

    def opened(self, frames: list[Ordered]) -> list[Opened] | None:
        """The frames themselves; None if the disk does not give one back: then a peer does.

        The fold must not decide without it, since the other replicas have it whole (P30, P34).
        """
        opened = []
        for seqnum, shard, held in frames:
            try:
                frame = held.frame or self._pending.bytes_of(held)
            except (RemoteProtocolError, CorruptJournal):
                if self._membership.is_alone:
                    raise  # there is nobody to ask
                self._pending.lose(shard, held)
            else:
                opened.append((seqnum, frame, self._journal.resolve(held.location)))
        return opened if len(opened) == len(frames) else None

    # --- frames that are missing ------------------------------------------------------------------

    def fetch(self, tail: int) -> list[Effect]:
        """Asks a peer for the frames of the next cut that are not here, and for what follows.

        Args:
            tail: of the fold.
        """
        missing = self._missing()
        if missing is None:
            return []
        shard, start, span = missing
        first = span[0] + start - span[1].start
        request = FetchFrames(shard, start, span[1].until, first, self._known_tail(tail))
        membership = self._membership
        effects = self._repair.ask(request)
        alone = self._repair.catching_up and membership.space.replicas == (membership.node,)
        if alone and not self._losses.stated:  # there is nobody to ask
            return [*self.state_loss(), SetTimer(("fetch", self._space), ALONE_S)]
        return effects

    def _missing(self) -> tuple[Shard, int, tuple[int, CutSpan]] | None:
        """The first record that the next cut orders and is not here, with its span's seqnum."""
        position, cut = self._entries[0]
        if not isinstance(cut, Cut):
            return None
        for seqnum, span in first_seqnums(cut.first_seqnum, cut.spans):
            shard = Shard(self._space, position.term, span.number)
            missing = self._frames_of_span(shard, span.start, span.until)
            if isinstance(missing, int):
                return shard, missing, (seqnum, span)
        return None

    def _known_tail(self, tail: int) -> int:
        """First seqnum that the entries at hand do not order, as far ahead as is looked at."""
        for _, entry in islice(self._entries, AHEAD_ENTRIES):
            if isinstance(entry, Cut):
                tail = entry.first_seqnum + record_count(entry.spans)
        return tail

    # --- frames that nobody has -------------------------------------------------------------------

    def peer_folded(self, peer: str, count: int) -> None:
        """A replica has folded so many entries: of those it needs no single frames any more."""
        self._folded_by[peer] = count

    def refused(self, peer: str) -> None:
        """A peer does not have the first missing frame."""
        self._refused = self._wanted(), {*self._refused_by, peer}

    def is_refused_by(self, peers: Iterable[str]) -> bool:
        """Whether none of these has the first missing frame."""
        return self._refused_by.issuperset(peers)

    @property
    def was_let_go(self) -> bool:
        """Whether one that has no such frame has folded it: then its fold is what is left."""
        (position, _), refused = self._refused
        return any(self._folded_by.get(peer, 0) >= position.count for peer in refused)

    @property
    def _refused_by(self) -> set[str]:
        wanted, peers = self._refused
        return peers if wanted == self._wanted() else set()

    def _wanted(self) -> Wanted:
        """The first record that is missing, of the next entry."""
        missing = self._missing()
        return self._entries[0][0], missing and (missing[0], missing[1])

    def state_loss(self) -> list[Effect]:
        """Nobody connected has the next frame: if that is everybody, the primary is told (P24)."""
        if not self.is_refused_by(self._membership.others):
            return []
        missing = self._missing()
        if missing is None:
            return []
        shard, start, _ = missing
        until = start + 1
        for position, entry in islice(self._entries, AHEAD_ENTRIES):
            if isinstance(entry, Cut) and position.term == shard.term:
                ends = (span.until for span in entry.spans if span.number == shard.number)
                until = max(until, *ends, 0)
        held = self._pending.next_after(shard, start)
        until = until if held is None else min(until, held)
        return self._losses.state(shard, start, until, to=self._membership.space.primary)

    def held_up(self) -> str:
        """Why the fold does not go on, and for whom it waits; empty: it does (P24)."""
        if not self._entries or not self._repair.catching_up:
            return ""
        wanted, missing = self._entries[0][0], self._missing()
        if missing is None:
            return ""
        silent = [each for each in self._membership.others if each not in self._refused_by]
        what = f"entry {wanted.count} waits for record {missing[1]} of shard {missing[0].number}"
        if self._losses.stated:
            return f"{what}, which no replica has: it is lost once all of them have said so"
        return f"{what}, which is not here; not yet asked for it: {', '.join(silent) or 'nobody'}"
