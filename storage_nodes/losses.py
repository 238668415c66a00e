"""Ordered records that no replica has: what is said of them, and what the metalog says (P24).

A replica whose fold waits for a frame asks its peers. Once every other replica of the log space is
connected and has answered that it has neither the frame nor a fold past it, the replica *states* to
the primary which records it lacks. From then on, until its process ends, it takes no engine's copy
of them: so what every replica has stated can be on no replica any more, nor get there, and the
primary writes the entry `Lost`. Peers' copies are taken still: who gives one has stated nothing.

`Lost` speaks of a cut that comes before it in the metalog. So a replica looks for it in every run
that arrives, and folds the cut around the records: they keep their seqnums and are void.

Invariants: what is lost is decided by the metalog alone, also where bytes turned up after all;
entries past the end of a term say nothing (P13).

Does not know: peers, frames, who is asked; the replica does. A process that restarts forgets what
it stated: the primary does, too, with its link. Should an engine that has not heard of the cut send
it the frame then, before `Lost` arrives, its chained hash tells it apart from the others.
"""

from __future__ import annotations

from collections.abc import Iterator

from bokilog.effects import Effect, Send
from bokilog.ids import LogSpaceId, NodeId, Position, Shard, Term
from bokilog.messages import FramesLacking
from bokilog.metalog import Lost, Run


class Losses:
    """What is lost in one log space, as one replica knows it."""

    __slots__ = ("_found", "_space", "_stated", "lost_records")

    def __init__(self, space: LogSpaceId) -> None:
        self._space = space
        self._found: dict[Shard, list[tuple[Position, Lost]]] = {}
        """By shard, entries of which the fold has not passed the shard's term."""
        self._stated: FramesLacking | None = None
        self.lost_records = 0
        """Folded as void since the start, because no replica has them."""

    @property
    def any(self) -> bool:
        """Whether any records of unfolded entries may be lost."""
        return bool(self._found)

    @property
    def stated_any(self) -> bool:
        """Whether anything was said to hold the fold up."""
        return self._stated is not None

    @property
    def stated(self) -> str:
        """What was said to hold the fold up, for people; empty: nothing."""
        said = self._stated
        if said is None:
            return ""
        return f"records {said.start} to {said.until - 1} of shard {said.number} (term {said.term})"

    # --- the metalog ------------------------------------------------------------------------------

    def note(self, run: Run) -> bool:
        """Takes what a run says is lost, in its turn or not; whether that is anything new."""
        new = False
        for place, entry in enumerate(run.entries, 1):
            if isinstance(entry, Lost):
                found = (Position(run.term, run.first + place), entry)
                known = self._found.setdefault(
                    Shard(self._space, Term(entry.term), entry.number), []
                )
                if found not in known:
                    known.append(found)
                    new = True
        return new

    def term_ended(self, term: Term, count: int) -> None:
        """Entries of that term and earlier, past the end, never happened (P13)."""
        for shard, found in list(self._found.items()):
            kept = [each for each in found if each[0].term > term or each[0].count <= count]
            if kept:
                self._found[shard] = kept
            else:
                del self._found[shard]

    def folded(self, position: Position) -> None:
        """What cuts of earlier terms ordered is folded."""
        for shard in [shard for shard in self._found if shard.term < position.term]:
            del self._found[shard]

    def parts(self, shard: Shard, start: int, until: int) -> Iterator[tuple[int, int, bool]]:
        """A span of a cut in parts: `(start, until, lost)`, in order.

        Entries may speak of the same records. What is lost in one stretch is one part, however many
        entries say so, and in whichever order: it is chained into the hash.
        """
        lost_from = lost_until = start
        for first, end in sorted(
            (lost.start, lost.until) for _, lost in self._found.get(shard, ())
        ):
            first, end = max(first, start), min(end, until)
            if first >= end:
                continue
            if first > lost_until:
                if lost_from < lost_until:
                    yield lost_from, lost_until, True
                yield lost_until, first, False
                lost_from = first
            lost_until = max(lost_until, end)
        if lost_from < lost_until:
            yield lost_from, lost_until, True
        if lost_until < until:
            yield lost_until, until, False

    # --- what this replica lacks ------------------------------------------------------------------

    def state(self, shard: Shard, start: int, until: int, *, to: NodeId) -> list[Effect]:
        """Tells the primary, as often as peers say no; the answer is in the metalog."""
        said = FramesLacking(shard.space, shard.term, shard.number, start, until)
        self._stated = said
        return [Send(to, said)]

    def state_again(self, *, to: NodeId) -> list[Effect]:
        """To another primary, or over another link."""
        return [] if self._stated is None else [Send(to, self._stated)]

    def take_back(self, *, to: NodeId) -> list[Effect]:
        """The fold goes on: a peer had the records, or they are lost."""
        said, self._stated = self._stated, None
        return [] if said is None else [Send(to, said._replace(until=said.start))]

    def refuses(self, shard: Shard, first: int) -> bool:
        """Whether an engine's frame is of records that were said not to be here."""
        said = self._stated
        return (
            said is not None
            and (shard.term, shard.number) == (said.term, said.number)
            and said.start <= first < said.until
        )
