"""Frames that arrive at one replica: journalled, made durable, and reported as progress (P7, P9).

Decides which frames are taken, when a frame counts, and what of each shard the primary is told.

Invariants: progress counts only what the journal has made durable to the class's standard (the
embedded shape reports what is written: there one sync covers frames and the entry that orders them,
P11); what the journal did not take counts for nothing, and may come again (P7); records that this
replica said it lacks are taken from no engine (P24).

Does not know: in which order frames are folded, nor how a group of the journal is synced. What is
held of each shard is kept by `pending.py`.
"""

from __future__ import annotations

from bokilog.effects import Address, Effect, Send
from bokilog.errors import ReadOnly, to_wire
from bokilog.frame import ITEM_FRAME, Frame
from bokilog.ids import Shard
from bokilog.journal import Journal, Location
from bokilog.messages import FrameRefused, ShardHeld, ShardProgress
from bokilog.named import NamedTuple
from bokilog.storage_nodes.index import Index
from bokilog.storage_nodes.losses import Losses
from bokilog.storage_nodes.membership import Membership
from bokilog.storage_nodes.pending import Pending
from bokilog.storage_nodes.streams import Streams


class Identity(NamedTuple):
    """Whose progress this is (P6): another identity means that what was reported before may be
    gone."""

    disk_id: str
    incarnation: int


class Arrivals:
    """The frames of one log space on their way into the journal.

    Args:
        membership: who the primary is, in which term.
        identity: of this disk, in this start.
        index: the fold, which knows of every segment.
        journal: of the log space.
        pending: where frames are kept until they are folded.
        losses: what was said not to be here.
        report_written: frames count as soon as they are written (the embedded shape).
    """

    __slots__ = (
        "_committing",
        "_identity",
        "_index",
        "_journal",
        "_losses",
        "_membership",
        "_pending",
        "changed",
        "last_token",
        "read_only",
        "report_written",
        "staged",
    )

    def __init__(
        self,
        membership: Membership,
        *,
        identity: Identity,
        index: Index,
        journal: Journal,
        pending: Pending,
        losses: Losses,
        report_written: bool,
    ) -> None:
        self._membership = membership
        self._identity = identity
        self._index = index
        self._journal = journal
        self._pending = pending
        self._losses = losses
        self.report_written = report_written
        self.read_only = ""
        """Why the journal takes no appends; empty: it does."""
        self.staged: list[tuple[Shard, int]] = []
        """Frames that are journalled and not committed yet."""
        self._committing: dict[int, list[tuple[Shard, int]]] = {}
        """What was committed and is not durable yet, by token."""
        self.last_token = 0
        self.changed: set[Shard] = set()
        """Shards of which more is held than the primary was told."""

    def stand_on(self, index: Index) -> None:
        """Another fold, an empty one, took the place of the one before."""
        self._index = index

    # --- frames -----------------------------------------------------------------------------------

    def take(self, frame: Frame, source: Address = "") -> list[Effect]:
        """Journals a frame; it counts once it is durable."""
        shard, first = frame.shard, frame.first
        if self._losses.stated_any and (
            self._losses.refuses(shard, first) and source not in self._membership.space.replicas
        ):
            return []
        if shard[1] < self._index.position[0]:
            return []
        if self.read_only:
            return self._refuse(source, shard)
        if not self._pending.wanted(frame):
            return []
        try:
            location = self._append(frame)
        except ReadOnly as error:
            self.read_only = error.reason
            return self._refuse(source, shard)
        self._pending.add(frame, location, durable=False)
        self.staged.append((shard, first))
        self._index.segments.frame(location[0])
        return []

    def _append(self, frame: Frame) -> Location:
        """Embedded, the frame's group holds entries too, and those may use the headroom (P32)."""
        if self.report_written:
            return self._journal.append(ITEM_FRAME, frame.buffers(), keep_headroom=True)
        return self._journal.append(ITEM_FRAME, frame.buffers())

    def resume(self, source: Address, shard: Shard) -> list[Effect]:
        """An engine asks what is held of its shard, and whether more of it would be taken."""
        held = Send(source, ShardHeld(shard, self._pending.held_of(shard)))
        return [held, *self._refuse(source, shard)]

    def read_only_changed(self, reason: str, streams: Streams) -> list[Effect]:
        """Engines are told that nothing is taken, so that they take no more of their clients; once
        there is room again, what is held: they send again what was refused (P8)."""
        self.read_only = reason
        effects: list[Effect] = []
        for room in self._pending:
            if room.shard.term == self._membership.term:
                for source in streams.followers_of(room.shard.number):
                    if reason:
                        effects += self._refuse(source, room.shard)
                    else:
                        effects.append(Send(source, ShardHeld(room.shard, room.held)))
        return effects

    def _refuse(self, source: Address, shard: Shard) -> list[Effect]:
        """If nothing is taken, an engine hears why. Embedded its own journal tells it; a replica
        that sends what is missing here asks again by itself."""
        if not self.read_only or self.report_written or source in self._membership.space.replicas:
            return []
        error = to_wire(ReadOnly(self.read_only))
        return [Send(source, FrameRefused(shard.space, self._pending.held_of(shard), error))]

    # --- durability -------------------------------------------------------------------------------

    @property
    def committing(self) -> bool:
        """Whether a commit of this log space is under way."""
        return bool(self._committing)

    def commit(self, token: int) -> None:
        """What was staged, perhaps nothing, becomes durable with this token."""
        self._committing[token] = self.staged
        self.last_token = token
        if self.report_written:
            self.changed.update(shard for shard, _ in self.staged)
        self.staged = []

    def persisted(self, token: int) -> None:
        """What was committed under this token, and earlier, counts now."""
        for done in [known for known in self._committing if known <= token]:
            for shard, start in self._committing.pop(done):
                if self._pending.durable(shard, start) is None:
                    continue
                moved = self._pending.advance(self._pending.shards[shard])
                if moved and not self.report_written:
                    self.changed.add(shard)

    def persist_failed(self, token: int, reason: str) -> None:
        """Nothing of the failed commit counts (P7); reads go on, appends do not."""
        self.read_only = reason
        for shard, start in self._committing.pop(token, []):
            self._pending.forget(shard, start)

    # --- progress ---------------------------------------------------------------------------------

    def report_all(self) -> None:
        """Another primary, or another link to it: it is told all that is held."""
        self.changed.update(room.shard for room in self._pending if room.held)

    def progress(self) -> list[Effect]:
        """Tells the primary of the shards that changed."""
        counts = []
        written, of = self.report_written, self._membership.term
        for shard in self.changed:
            room = self._pending.shards.get(shard)
            _, term, number = shard
            if room is not None and term == of:
                counts.append([number, room.staged if written else room.held])
        self.changed.clear()
        if not counts:
            return []
        space = self._membership.space
        return [Send(space.primary, ShardProgress(space.id, of, *self._identity, counts))]
