"""Frames that a fold names and this node has not brought to their places yet (P20, P30, P33).

A fold that was loaded from a peer names frames that this node never folded, and so does a stored
one whose journal lost its end with the power. Such a frame lies in the journal here all the same,
or a peer gives it, or nobody has it any more.

Decides when each of these is looked for: what is here already before anybody is asked or told
(`own_frames.py`), at a start what the power took (`missing.py`), and then what peers give
(`backfill.py`), which is journalled again and is read once its group is durable.

Invariants: a frame that came is named by the fold only after it is durable; what the journal did
not take is asked for again; nothing that is here already is asked for.

Does not know: how a fold is loaded, when there is one, or who asks this node for frames.
"""

from __future__ import annotations

from bokilog.effects import Address, Effect
from bokilog.errors import CorruptJournal, RemoteProtocolError
from bokilog.frame import ITEM_FRAME, Frame
from bokilog.ids import Shard
from bokilog.journal import Journal, Location
from bokilog.messages import StoredFrame, StoredSent
from bokilog.storage_nodes.backfill import Backfill
from bokilog.storage_nodes.cold import Cold
from bokilog.storage_nodes.compaction import Moved
from bokilog.storage_nodes.index import Index
from bokilog.storage_nodes.membership import Membership
from bokilog.storage_nodes.missing import mark_missing
from bokilog.storage_nodes.own_frames import find_own
from bokilog.storage_nodes.pending import HeldFrame, Pending
from bokilog.storage_nodes.reader import is_whole


class Filling:
    """The frames that the fold of one replica still lacks.

    Args:
        membership: who the other replicas are.
        index: the fold.
        journal: of the log space.
        pending: frames that are not folded yet.
        cold: its segments in the object store.
        bytes_s: copied from peers per second at most.
    """

    __slots__ = (
        "_backfill",
        "_bytes_s",
        "_cold",
        "_committed",
        "_copied",
        "_index",
        "_journal",
        "_membership",
        "_pending",
        "staged",
    )

    def __init__(
        self,
        membership: Membership,
        *,
        index: Index,
        journal: Journal,
        pending: Pending,
        cold: Cold,
        bytes_s: int,
    ) -> None:
        self._membership = membership
        self._index = index
        self._journal = journal
        self._pending = pending
        self._cold = cold
        self._bytes_s = bytes_s
        self._backfill = Backfill(membership.node, index, bytes_s=bytes_s)
        self._copied: dict[Shard, dict[int, HeldFrame]] = {}
        """A start: frames of the journal that are not pending, while the fold lacks some."""
        self.staged: list[Moved] = []
        """Frames from peers that are journalled and not committed yet."""
        self._committed: dict[int, list[Moved]] = {}
        """The same, committed, by token."""

    def stand_on(self, index: Index) -> None:
        """Another fold, an empty one, took the place of the one before."""
        self._index = index
        self._backfill = Backfill(self._membership.node, index, bytes_s=self._bytes_s)

    # --- what is here already ---------------------------------------------------------------------

    def recover_frame(self, frame: Frame, location: Location) -> None:
        """A start: a frame of the journal that waits for no entry; the fold may lack it."""
        if self._index.locations.lacking is None:
            return
        copied = HeldFrame(frame, location)
        copied.frame = None  # read back if it is one of those that are lacking
        self._copied.setdefault(frame.shard, {})[frame.first] = copied

    def recovered(self) -> int:
        """All frames of the journal were given; how many records it lost that the fold names."""
        copied, self._copied = self._copied, {}
        own = {shard: [each[n] for n in sorted(each)] for shard, each in copied.items()}
        find_own(self._index, own, opened=self._opened)
        if self._membership.space.durability != "flush" or self._membership.is_alone:
            return 0
        missing = mark_missing(self._index, self._journal.segments(), self._cold.ends())
        if missing:
            self._backfill.begin()
        return missing

    def fold_loaded(self) -> None:
        """The store holds a peer's fold: what it names and is here is neither asked for nor said to
        be nowhere."""
        find_own(self._index, self._pending.durable_frames, opened=self._opened)
        self._backfill.begin()

    def _opened(self, held: HeldFrame) -> tuple[Frame, Location] | None:
        try:
            frame = self._pending.bytes_of(held)
        except (RemoteProtocolError, CorruptJournal):
            return None
        return (frame, self._journal.resolve(held.location)) if is_whole(frame) else None

    # --- frames from peers ------------------------------------------------------------------------

    def ask(self) -> list[Effect]:
        """Asks a peer for what is lacking next."""
        return self._backfill.ask(self._membership.connected())

    def take(self, source: Address, message: StoredFrame, *, full: bool) -> None:
        """Journals a frame that the loaded fold names; it is read once it is durable.

        Raises:
            ReadOnly: the journal does not take it.
        """
        row = self._backfill.wants(source, message)
        if row is None or full:
            return
        frame = message.frame
        location = self._journal.append(ITEM_FRAME, frame.buffers())
        self._index.segments.frame(location.segment)
        self.staged.append(Moved(row.first_seqnum, row.location, location, frame.columns.books))
        self._backfill.taken(row, frame)

    def answered(self, source: Address, message: StoredSent) -> list[Effect]:
        """The end of a peer's answer."""
        self._backfill.answered(source, message, replicas=self._membership.space.replicas)
        return self.ask()

    def timer(self) -> list[Effect]:
        """Whoever was asked did not answer in time, or it is time to go on."""
        self._backfill.timer()
        return self.ask()

    def link_down(self, peer: Address) -> None:
        """Whoever was asked there does not answer."""
        self._backfill.link_down(peer)

    def folded(self) -> None:
        """The fold has moved on, perhaps past what peers did not need any more."""
        self._backfill.folded()

    # --- durability -------------------------------------------------------------------------------

    @property
    def committing(self) -> bool:
        """Whether frames were committed that are not durable yet."""
        return bool(self._committed)

    def commit(self, token: int) -> None:
        """What was staged becomes durable with this token."""
        self._committed[token], self.staged = self.staged, []

    def persisted(self, token: int) -> None:
        """What was committed under this token, and earlier, is durable."""
        for filled in [known for known in self._committed if known <= token]:
            for move in self._committed.pop(filled):
                location = self._journal.resolve(move.new)
                self._backfill.arrived(move.first_seqnum, location, books=move.books)

    def persist_failed(self) -> None:
        """Nothing of what was staged or committed counts."""
        self.staged, self._committed = [], {}
        self._backfill.failed()

    def freeze(self) -> None:
        """A checkpoint begins: what it stores as done has to be durable."""
        self._backfill.freeze()

    # --- for people -------------------------------------------------------------------------------

    @property
    def busy(self) -> bool:
        """Whether anything is lacking."""
        return self._backfill.busy

    @property
    def state(self) -> str:
        """What is copied of what; empty: all of it."""
        return self._backfill.state

    @property
    def lost_records(self) -> int:
        """Of frames that no replica has bytes of, since the start."""
        return self._backfill.lost_records
