"""Disks: what they forget, damage and refuse, and an atlas that keeps one good copy.

A `SimJournal` is a `MemoryJournal` whose syncs take time and may fail. A process that dies leaves
what it wrote; a machine that dies takes with it what was not synced: a group counts whole or not at
all (P30), so a torn one is one that is not there.

What counts as kept depends on the class. Of a `flush` log space nothing is ever synced: what is
written is in the operating system, outlives the process, and of it a machine that loses power keeps
what lies before some group. Of a `memory` one a storage node keeps nothing of its process; the
metalog of a sequencer is as that of a `flush` one (P11).

Invariant of the atlas: at most W-1 disks of a replica set are ever damaged or emptied before their
records are whole again, so every acknowledged record has a good copy. Disks that only forget what
was not synced are nobody's fault, and all may do so at once.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterator, Sequence

from bokilog.cold import ColdSegment
from bokilog.errors import RemoteProtocolError
from bokilog.frame import (
    ITEM_FRAME,
    Frame,
    decode_frame,
    decode_head,
)
from bokilog.ids import LogSpaceId, NodeId, Shard, Term
from bokilog.io.journal_memory import MemoryJournal
from bokilog.journal import (
    Damage,
    Location,
    Refused,
    SegmentInfo,
    SyncResult,
    Written,
)
from bokilog.metalog import Run, decode_run
from bokilog.record import Buffer, Durability
from bokilog.storage_nodes.memory_store import MemoryStore
from tests.sim.loop import World
from tests.sim.swarm import Knobs

STORAGE_NODE = "a storage node"
Item = tuple[object, ...]
"""A frame (shard, first count) or a run of the metalog (log space, term, first count)."""


def _frame_item(data: bytes) -> tuple[Item, int]:
    head = decode_head(data)
    return (head.shard, head.first), head.first + head.records


class SimJournal:
    """A `Journal` on a disk of this world."""

    def __init__(
        self,
        world: World,
        knobs: Knobs,
        chance: random.Random,
        *,
        node: str = "",
        synced: bool = True,
    ) -> None:
        self.synced = synced
        """Else it is written to the operating system and left to it."""
        self._whose = STORAGE_NODE if node.startswith("storage") else "a sequencer"
        self._groups: list[tuple[int, list[int], list[tuple[Item, int]]]] = []
        """(segment, offsets, items) of each group, if it is never synced."""
        segment_bytes = knobs.segment_bytes
        if self._whose != STORAGE_NODE:
            segment_bytes = knobs.metalog_segment_bytes or segment_bytes
        self.inner = MemoryJournal(segment_bytes=segment_bytes)
        self.flipped = False
        """Some item is not what was written."""
        self.fail_next_sync = False
        self.appended: Callable[[Run], None] | None = None
        """Told of every run."""
        self.durable: dict[Item, int] = {}
        """What no loss of power takes any more, with where it ends."""
        self._until = 0
        """Where the last item that was written ends."""
        self._staged: list[tuple[Item, int]] = []
        self._written: list[tuple[Item, int]] = []
        self._world = world
        self._knobs = knobs
        self._chance = chance
        self._life = 0
        self._syncing = False

    # --- what a process calls ---------------------------------------------------------------------

    def recover(
        self, from_segment: int = 0, *, salvage: Callable[[Damage], None] | None = None
    ) -> Iterator[tuple[int, Location, memoryview]]:
        return self.inner.recover(from_segment, salvage=salvage)

    def items(self, from_segment: int = 0) -> Iterator[tuple[int, Location, memoryview]]:
        return self.inner.items(from_segment)

    def append(
        self, kind: int, buffers: Sequence[Buffer], *, keep_headroom: bool = False
    ) -> Location:
        location = self.inner.append(kind, buffers, keep_headroom=keep_headroom)
        data = b"".join(buffers)
        if kind == ITEM_FRAME:
            self._staged.append(_frame_item(data))
            return location
        run = decode_run(data)
        self._staged.append(((run.space, run.term, run.first), run.until))
        if self.appended is not None:
            self.appended(run)
        return location

    def short(self) -> str:
        return self.inner.short()

    def commit(self, *, use_headroom: bool = False) -> Written | Refused:
        written = self.inner.commit(use_headroom=use_headroom)
        if isinstance(written, Written):
            self._written += self._staged
            if self._staged:
                self._until = self._staged[-1][1]
            if not self.synced and self.inner._unsynced is not None:
                segment, offsets = self.inner._unsynced
                self._groups.append((segment, offsets, self._staged))
                self.inner.sync_now()
                self._count()
        if isinstance(written, Written) or not written.definite:
            self._staged = []
        return written

    def sync_now(self) -> SyncResult:
        self._maybe_fail()
        result = self.inner.sync_now()
        if result.failed is None:
            self._count()
        return result

    def _count(self) -> None:
        self.durable.update(self._written)
        self._written = []

    def sync_in_thread(self, on_done: Callable[[SyncResult], None]) -> None:
        life = self._life
        self._syncing = True

        def done() -> None:
            if life == self._life:
                self._syncing = False
                on_done(self.sync_now())

        self._world.later(self._sync_delay_s() if self.synced else self._knobs.sync_s / 10, done)

    def sync_written(self, on_done: Callable[[str], None]) -> None:
        """Every group that is written now, and none of those that follow."""
        life, groups = self._life, list(self._groups)

        def done() -> None:
            if life == self._life:
                self._groups = [group for group in self._groups if group not in groups]
                on_done("")

        self._world.later(self._sync_delay_s(), done)

    @property
    def syncing(self) -> bool:
        return self._syncing

    @property
    def staged(self) -> list[Item]:
        """What is in no group yet."""
        return [item for item, _ in self._staged]

    @property
    def read_only(self) -> str | None:
        return self.inner.read_only

    def read(self, location: Location, start: int = 0, length: int | None = None) -> bytes:
        return self.inner.read(location, start, length)

    def resolve(self, location: Location) -> Location:
        return self.inner.resolve(location)

    def segments(self) -> tuple[SegmentInfo, ...]:
        return self.inner.segments()

    def release(self, segment: int) -> None:
        if self._knobs.releases:
            # What follows it is on the disk before it goes, whatever is left to the system else.
            numbers = [each.number for each in self.segments() if each.number > segment]
            following = min(numbers, default=segment)  # none after a start that needs nothing
            self._groups = [group for group in self._groups if group[0] > following]
            self._world.reach(f"{self._whose} lets go of a segment")
            self.inner.release(segment)

    def free_bytes(self) -> int:
        return self.inner.free_bytes()

    def close(self, *, clean: bool = True) -> None:
        self.inner.close(clean=clean)

    # --- what the world does to it ----------------------------------------------------------------

    def frame(self, name: Item) -> Frame | None:
        """A frame as it is written here."""
        items = [item for each in self.inner._segments.values() for item in each.items.values()]
        items += [(kind, data) for kind, _, data in self.inner._staged]
        for kind, data in items:
            try:
                if kind == ITEM_FRAME and _frame_item(data)[0] == name:
                    return decode_frame(data)
            except RemoteProtocolError:
                pass  # a flipped bit
        return None

    def sealed(self, number: int) -> tuple[bytes, list[tuple[int, int]]] | None:
        """A segment as its file is, and where its frames lie; None: it is gone, or open."""
        segment = self.inner._segments.get(number)
        if segment is None or number == self.inner._open:
            return None
        data = bytearray(segment.end)
        places = []
        for offset, (_, item) in segment.items.items():
            data[offset : offset + len(item)] = item
            places.append((offset, len(item)))
        return bytes(data), places

    def holds(self, shard: Shard, start: int, until: int) -> bool:
        """Whether these records would be here after a loss of power."""
        while start < until:
            end = self.durable.get((shard, start))
            if end is None:
                return False
            start = end
        return True

    def sync_all(self) -> None:
        """Somebody syncs the whole journal while no process has it open."""
        self._groups = []

    def frame_names(self) -> set[Item]:
        """Of every frame that is written here."""
        items = [item for each in self.inner._segments.values() for item in each.items.values()]
        return {_frame_item(data)[0] for kind, data in items if kind == ITEM_FRAME}

    def copy(self, other: SimJournal) -> None:
        """All that another journal holds, synced."""
        self.inner = copy.deepcopy(other.inner)
        self.durable, self._until = dict(other.durable), other._until
        self._groups, self._staged, self._written = [], [], []

    def outlives_power(self, count: int) -> bool:
        """Whether a metalog that is never synced by itself holds so many entries all the same."""
        lost = self._groups[0][2][0][0][2] if self._groups else self._until
        assert isinstance(lost, int)
        return min(lost, self._until) >= count

    def crash(self, *, power: bool) -> None:
        """The process died; with `power`, the machine too."""
        self._life += 1
        self._syncing = False
        self.fail_next_sync = False
        failed = self.inner.broken is not None
        kept = not (power or failed) or self._chance.random() < 0.5
        if kept:
            self._count()
        self._staged, self._written = [], []
        self._lose(keep_unsynced=kept)
        if power and not self.synced:
            self._lose_groups()

    def _lose_groups(self) -> None:
        """What the operating system had not written back: everything from some group on."""
        most = self._chance.choice((0, 1, 3, 10, len(self._groups)))
        for _ in range(min(self._chance.randrange(most + 1), len(self._groups))):
            segment, offsets, items = self._groups.pop()
            self.inner._drop(segment, offsets)
            for item, _ in items:
                self.durable.pop(item, None)

    def _lose(self, *, keep_unsynced: bool) -> None:
        self.inner.crash(keep_unsynced=keep_unsynced)

    def flip(self) -> bool:
        """Flip a bit of something that is written; False if there is nothing."""
        places = [
            (number, offset)
            for number, segment in self.inner._segments.items()
            for offset in segment.items
        ]
        if not places:
            return False
        number, offset = self._chance.choice(places)
        items = self.inner._segments[number].items
        kind, data = items[offset]
        at = self._chance.randrange(len(data))
        damaged = bytes((data[at] ^ (1 << self._chance.randrange(8)),))
        items[offset] = kind, data[:at] + damaged + data[at + 1 :]
        self.flipped = True
        return True

    def _sync_delay_s(self) -> float:
        knobs, chance = self._knobs, self._chance
        delay_s = knobs.sync_s * (0.5 + chance.random())
        if chance.random() < knobs.sync_slow_share:
            delay_s += chance.expovariate(1 / (20 * knobs.sync_s))
        return delay_s

    def _maybe_fail(self) -> None:
        if self.fail_next_sync:
            self.fail_next_sync = False
            self.inner.broken = "the disk failed a sync"


class Disk:
    """One node's machine: what survives its processes."""

    def __init__(
        self, world: World, knobs: Knobs, node: str, durabilities: Sequence[Durability]
    ) -> None:
        self._durabilities = {
            LogSpaceId(space): durability for space, durability in enumerate(durabilities)
        }
        self._forgets = [
            space
            for space, durability in self._durabilities.items()
            if durability == "memory" and node.startswith("storage")
        ]
        """Log spaces of which nothing outlives the process."""
        self._world = world
        self._knobs = knobs
        self._node = node
        self._chance = world.chance(f"disk {node}")
        self._spaces = tuple(self._durabilities)
        self._wiped_count = 0
        self.incarnation = 0
        """Starts of its process."""
        self.boots = 1
        self.journals: dict[LogSpaceId, SimJournal] = {}
        self.stores: dict[LogSpaceId, MemoryStore] = {}
        self.cold_lists: dict[LogSpaceId, tuple[ColdSegment, ...]] = {}
        """Which segments lie in the object store, as it is synced."""
        self.ceilings: dict[LogSpaceId, int] = {}
        self.promised: Term | None = None
        self._empty()

    @property
    def disk_id(self) -> str:
        return f"{self._node}-disk-{self._wiped_count}"

    def _empty(self) -> None:
        for space in self._spaces:
            self._empty_space(space)
        self.ceilings = {}
        self.promised = None

    def _empty_space(self, space: LogSpaceId) -> None:
        synced = self._durabilities[space] == "sync"
        journal = SimJournal(self._world, self._knobs, self._chance, node=self._node, synced=synced)
        self.journals[space], self.stores[space] = journal, MemoryStore()
        self.cold_lists[space] = ()

    @property
    def _synced(self) -> list[SimJournal]:
        return [each for each in self.journals.values() if each.synced]

    def crash(self, *, power: bool) -> None:
        if power:
            self.boots += 1
        for space in self._spaces:
            self.journals[space].crash(power=power)
            self.stores[space].crash()
        for space in self._forgets:
            self._empty_space(space)

    def replaced(self, number: int) -> Disk:
        """Another disk, an empty one, the node's `number`-th after its first; this one is what it
        was."""
        other = Disk(self._world, self._knobs, self._node, tuple(self._durabilities.values()))
        other._wiped_count = number
        other.incarnation, other.boots = self.incarnation, self.boots
        return other

    def wipe(self) -> None:
        """Another disk, an empty one, takes its place."""
        self._wiped_count += 1
        self._empty()

    def flip(self) -> bool:
        return self._chance.choice(self._synced).flip()

    @property
    def damaged(self) -> bool:
        return any(journal.flipped for journal in self.journals.values())

    @property
    def failed(self) -> bool:
        return any(journal.read_only is not None for journal in self.journals.values())

    def fill(self) -> None:
        for journal in self.journals.values():
            journal.inner.full = "the disk is full"

    def free(self) -> None:
        for journal in self.journals.values():
            journal.inner.full = None

    def heal(self) -> None:
        """No fault is on its way any more."""
        self.free()
        for journal in self.journals.values():
            journal.fail_next_sync = False

    def fail_next_sync(self) -> None:
        self._chance.choice(self._synced).fail_next_sync = True


class Atlas:
    """Which disks may be damaged: always the same W-1 of a replica set, so that all others are
    whole whatever happens to these; and which one of several sequencers gets other disks."""

    def __init__(
        self,
        world: World,
        replicas: Sequence[str],
        write_quorum: int,
        sequencers: Sequence[NodeId] = (),
    ) -> None:
        chance = world.chance("atlas")
        self.victims = frozenset(chance.sample(sorted(replicas), write_quorum - 1))
        self.exchanged = chance.choice(sequencers) if len(sequencers) > 1 else None
