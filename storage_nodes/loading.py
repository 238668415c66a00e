"""Loading a fold from a peer, because this node cannot fold from where it stands (P16, P20, P33).

Decides which peer is asked, which snapshots will do, when the old fold is given up, and how a
peer's rows become this node's: places of frames are this node's own where it has the frame, else
nowhere; those are filled in later (`backfill.py`).

1. A peer is asked for a part; the first one says of which position the snapshot is.
2. Only when it will do, everything of the old fold is removed from the store, its position first of
   all, in one batch. A store without a position holds nothing (`Index`), so a crash from here on
   leaves an empty fold, which is loaded anew.
3. Each part is written as it comes. The last batch has the position.
4. The fold goes on from there. Nobody is told that it is stored before a checkpoint has flushed it.

Invariants: a fold is given up only for one that stands further, or because it is wrong (P24); parts
of an attempt that was given up are never written.

Does not know: frames, the metalog, who should load (`peer_folds.py` does).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from enum import Enum
from itertools import chain, filterfalse, takewhile
from typing import Final

from bokilog.effects import Address, CancelTimer, Effect, Send, SetTimer
from bokilog.errors import CorruptJournal, ReadOnly
from bokilog.ids import NodeId, Position, Term
from bokilog.journal import Location
from bokilog.messages import FetchSnapshot, SnapshotPart
from bokilog.storage_nodes import keys
from bokilog.storage_nodes.index import Index
from bokilog.storage_nodes.index_store import IndexStore, prefix_end
from bokilog.storage_nodes.keys import Lacking
from bokilog.storage_nodes.locations import LACKING, LOST, is_here, place_rows

RETRY_S: Final = 2.0
"""A peer that sends nothing for so long is given up, for the next one."""


class Step(Enum):
    """What a part led to."""

    NOTHING = 0
    BEGUN = 1
    GOING_ON = 2
    DONE = 3


class Loading:
    """The load of one log space's fold: not wanted, wanted, or on its way."""

    __slots__ = (
        "_alike_until",
        "_at_least",
        "_condemned",
        "_index",
        "_lacking_records",
        "_node",
        "_number",
        "_part",
        "_peer",
        "_place",
        "_places",
        "_rows_until",
        "_turn",
        "_writing",
        "loaded_bytes",
        "loaded_count",
        "reason",
    )

    def __init__(self, node: NodeId, index: Index) -> None:
        self._node = node
        self._index = index
        self.reason = ""
        """Why a fold is wanted; empty: none is."""
        self.loaded_count = 0
        """Folds that were loaded since the start."""
        self.loaded_bytes = 0
        """Of the load on its way."""
        self._at_least = 0
        """Snapshots of fewer entries than this are of no use; a fold that has them needs none."""
        self._number = 0
        self._part = 0
        self._peer: NodeId | None = None
        self._turn = 0
        self._writing = False
        """The old fold was given up."""
        self._alike_until = 0
        self._condemned: frozenset[NodeId] = frozenset()
        """The peers that the old fold is wrong by: it counts no more, and only theirs will do."""
        self._places: Iterator[tuple[int, Location]] = iter(())
        """What the old fold said of where frames lie here."""
        self._place: tuple[int, Location] | None = None
        """The next of them."""
        self._rows_until = 0
        self._lacking_records = 0

    @property
    def writing(self) -> bool:
        """Whether there is no fold to answer from: the store has neither the old one nor the new
        one, or the old one is wrong."""
        return self._writing or bool(self._condemned)

    # --- asking -----------------------------------------------------------------------------------

    def want(self, reason: str, *, at_least: int) -> None:
        """From here on, until one is loaded."""
        self.reason = self.reason or reason
        self._at_least = max(self._at_least, at_least)

    def condemn(self, reason: str, *, by: Iterable[NodeId], alike_until: int) -> None:
        """The fold is wrong: it stands where it is until one of these peers' takes its place, which
        need not stand further; what it says of frames from `alike_until` on is not taken (P24)."""
        self._alike_until = alike_until
        self._condemned = frozenset(by)
        self.give_up()
        self.reason, self._at_least = reason, self._index.position.count

    def ask(self, peers: Sequence[NodeId]) -> list[Effect]:
        """The next of these peers, one at a time; again after a while, if there is none.

        A fold that got there by itself meanwhile needs no other.
        """
        if self._condemned:
            peers = [peer for peer in peers if peer in self._condemned]
        elif not self._writing and self._index.position.count >= self._at_least:
            self.reason, self._at_least = "", 0
        if not self.reason or self._peer is not None:
            return []
        timer = SetTimer(("snapshot", int(self._index.space)), RETRY_S)
        if not peers:
            return [timer]
        self._peer = peers[self._turn % len(peers)]
        self._turn += 1
        self._number += 1
        self._part = 0
        return [self._fetch(), timer]

    def give_up(self) -> None:
        """Whoever was asked does not help; what it sends from here on is not taken."""
        self._peer = None
        self._number += 1

    def link_down(self, peer: Address) -> None:
        if peer == self._peer:
            self.give_up()

    def _fetch(self) -> Effect:
        assert self._peer is not None, "nobody is asked"
        return Send(self._peer, FetchSnapshot(int(self._index.space), self._number, self._part))

    # --- parts ------------------------------------------------------------------------------------

    def is_wanted(self, source: Address, part: SnapshotPart) -> bool:
        """Whether it is the next part of what was asked for."""
        return source == self._peer and (part.number, part.part) == (self._number, self._part)

    def will_do(self, position: Position, term: Term) -> bool:
        """Whether a snapshot of that position is worth giving up the old fold."""
        least = self._index.position.count + (0 if self._condemned else 1)
        least = max(self._at_least, least)
        return position.count >= least and position.term <= term

    def take(
        self,
        part: SnapshotPart,
        *,
        replay_hint: bytes,
        not_durable: Callable[[], Collection[Location]],
    ) -> tuple[Step, list[Effect]]:
        """Write the next part; `DONE` once the store holds a fold again.

        A disk that does not take it, or rows that do not decode, end the attempt.
        """
        step = Step.GOING_ON
        try:
            if not part.part:
                self._begin(not_durable())
                step = Step.BEGUN
            self._write(part, replay_hint)
        except (ReadOnly, CorruptJournal, ValueError, IndexError, TypeError):
            self.give_up()
            return Step.NOTHING, []
        if part.last:
            self.reason, self._at_least, self._writing, self._peer = "", 0, False, None
            self._condemned = frozenset()
            self.loaded_count += 1
            return Step.DONE, [CancelTimer(("snapshot", int(self._index.space)))]
        self._part += 1
        return step, [self._fetch(), SetTimer(("snapshot", int(self._index.space)), RETRY_S)]

    def _begin(self, not_durable: Collection[Location]) -> None:
        """Give up the old fold; what it says of the journal here stays, but for frames that were
        folded by others' copies and are not durable: the new fold is stored at once (P19)."""
        if self._writing:  # what the attempt before has used up stands in the rows it wrote
            left = () if self._place is None else (self._place,)
            self._places = chain(_places(self._index.store), left, self._places)
        else:
            self._places = self._index.places()
            if self._condemned:
                alike_until = self._alike_until
                self._places = takewhile(lambda place: place[0] < alike_until, self._places)
            if not_durable:
                self._places = filterfalse(lambda place: place[1] in not_durable, self._places)
        self._place = next(self._places, None)
        self.loaded_bytes = self._rows_until = self._lacking_records = 0
        store = self._index.store
        batch = store.batch()
        batch.delete(keys.META)
        batch.delete_range(b"", keys.SEGMENTS)
        batch.delete_range(bytes((keys.SPANS[0] + 1,)), b"\xff")
        store.write(batch)
        self._writing = True

    def _write(self, part: SnapshotPart, replay_hint: bytes) -> None:
        store = self._index.store
        batch = store.batch()
        for key, value in part.rows:
            self.loaded_bytes += len(key) + len(value)
            kind = key[:1]
            if kind == keys.ROWS:
                batch.put(key, self._placed(value))
            elif kind == keys.META:
                meta = keys.decode_meta(value)
                batch.put(key, keys.encode_meta(meta._replace(replay_hint=replay_hint)))
            elif kind not in (keys.SEGMENTS, keys.SPANS, keys.LACKING):
                batch.put(key, value)
        if part.last:
            lacking = Lacking(0, self._rows_until, self._lacking_records, self._lacking_records)
            if self._lacking_records:
                batch.put(keys.LACKING, keys.encode_lacking(lacking))
            self._index.generations.store_segments(batch)
        store.write(batch)

    def _placed(self, value: bytes) -> bytes:
        """A chunk of rows with the places that their frames have here."""
        placed, until, lacking = place_rows(value, self._place_of)
        self._rows_until = max(self._rows_until, until)
        self._lacking_records += lacking
        return placed

    def _place_of(self, first_seqnum: int) -> Location:
        """Where this node has the frame; asked in the order of seqnums."""
        while self._place is not None and self._place[0] < first_seqnum:
            self._place = next(self._places, None)
        if self._place is None or self._place[0] > first_seqnum:
            return LACKING
        location = self._place[1]
        if location.segment and location.segment not in self._index.segments:
            return LOST  # let go: everything in it was trimmed
        return location


def _places(store: IndexStore) -> Iterator[tuple[int, Location]]:
    """Frames that rows in a store know to be here, as they are at the first step."""
    for _, value in store.scan(keys.ROWS, prefix_end(keys.ROWS)):
        rows = keys.decode_rows(value)
        for place, first_seqnum in enumerate(rows.first_seqnums):
            where = Location(rows.segments[place], rows.offsets[place], rows.lengths[place])
            if is_here(where):
                yield first_seqnum, where
