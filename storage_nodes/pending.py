"""Frames by LocalId before they are ordered and folded: what is held of each shard: its progress.

Invariants: `held` counts the contiguous prefix of a shard's records that this node holds to its
class's standard, and moves at frame boundaries (P9); a second, different frame for a LocalId is
refused (P1); a frame leaves this room once it is both counted and folded. Frames may arrive out of
order and before their shard is opened, and not after it was closed (P2); what is kept of the bytes
of durable frames in memory is bounded, the journal has them. (Of the others it has the same buffers
still, and may not be able to read them back: letting go of those would free nothing.)

Does not know: metalogs, seqnums, sockets.
"""

from __future__ import annotations

from collections.abc import Iterator

from bokilog.frame import Frame, decode_frame
from bokilog.ids import Shard, Term
from bokilog.journal import Journal, Location


class HeldFrame:
    """A frame in the journal that is not yet both durable and folded."""

    __slots__ = ("checksum", "durable", "folded", "frame", "location", "start", "until")

    def __init__(self, frame: Frame, location: Location) -> None:
        self.start = frame.first
        self.until = frame.until
        self.checksum = frame.checksum
        self.frame: Frame | None = frame
        self.location = location
        self.durable = False
        self.folded = False


class ShardFrames:
    """One shard as this node holds it."""

    __slots__ = ("damaged", "frames", "gaps", "held", "shard", "staged")

    def __init__(self, shard: Shard, held: int) -> None:
        self.shard = shard
        self.held = held
        """Contiguous records held to the class's standard: what progress reports."""
        self.staged = held
        """The same, counting also what is written but not yet synced (P11: for the embedded shape).
        """
        self.frames: dict[int, HeldFrame] = {}
        self.gaps: dict[int, int] = {}
        """Records that no replica has, first to past the last: counted as if they were here (P24).
        """
        self.damaged: set[int] = set()
        """First counts of frames that the disk does not give back: wanted once more, also below
        `held`."""


class Pending:
    """All shards of one log space at one storage node."""

    __slots__ = (
        "_bytes",
        "_bytes_max",
        "_closed",
        "_in_memory",
        "_journal",
        "_owed",
        "damaged_count",
        "late_count",
        "refused_count",
        "shards",
    )

    def __init__(self, journal: Journal, *, bytes_max: int) -> None:
        self._journal = journal
        self._bytes_max = bytes_max
        self._bytes = 0
        self._in_memory: dict[tuple[Shard, int], HeldFrame] = {}
        self.shards: dict[Shard, ShardFrames] = {}
        self.refused_count = 0
        """Frames that differ from one held under the same LocalId."""
        self.late_count = 0
        """Frames that came after their shard was closed."""
        self.damaged_count = 0
        """Frames that did not decode any more when they were read back."""
        self._closed: set[Shard] = set()
        """Of the current term; frames of earlier ones do not get here."""
        self._owed: dict[tuple[Shard, int], Location] = {}
        """Frames of closed shards that are folded and not durable yet, and where they are."""

    def shard(self, shard: Shard) -> ShardFrames:
        found = self.shards.get(shard)
        if found is None:
            found = self.shards[shard] = ShardFrames(shard, 0)
        return found

    def start_at(self, shard: Shard, held: int) -> None:
        """Recovery: what lies before `held` was durable and folded at the checkpoint (P19)."""
        self.shards[shard] = ShardFrames(shard, held)

    def ordered_until(self, shard: Shard, count: int) -> None:
        """A peer's fold says so: what lies before `count` needs not be held to be counted."""
        room = self.shard(shard)
        for held in [held for held in room.frames.values() if held.start < count]:
            self._drop(room, held)
        room.damaged = {start for start in room.damaged if start >= count}
        room.held, room.staged = max(room.held, count), max(room.staged, count)
        self._stage(room)
        self.advance(room)

    def lost(self, shard: Shard, start: int, until: int) -> bool:
        """No replica has these records: what lies behind them counts all the same (P24)."""
        room = self.shard(shard)
        for held in [held for held in room.frames.values() if start <= held.start < until]:
            self._drop(room, held)
        room.damaged = {first for first in room.damaged if not start <= first < until}
        if until <= room.held:
            return False
        room.gaps[max(start, room.held)] = until
        self._stage(room)
        return self.advance(room)

    def next_after(self, shard: Shard, count: int) -> int | None:
        """First count past `count` at which a frame is held."""
        frames = self.shards[shard].frames if shard in self.shards else {}
        return min((start for start in frames if start > count), default=None)

    def wanted(self, frame: Frame) -> bool:
        """Whether the frame is new here; a duplicate is dropped, a different one refused.

        One that comes after its shard was closed will never be ordered: kept, it would hold its
        segment until the term ends (P2, P21).
        """
        if frame.shard in self._closed:
            self.late_count += 1
            return False
        shard, first = self.shard(frame.shard), frame.first
        known = shard.frames.get(first)
        if known is not None:
            if known.checksum != frame.checksum:
                self.refused_count += 1
            return False
        return frame.until > shard.held or first in shard.damaged

    def add(self, frame: Frame, location: Location, *, durable: bool) -> HeldFrame:
        """A frame that the journal took; `durable` when it was read back from it."""
        name, first = frame.shard, frame.first
        shard = self.shard(name)
        held = shard.frames[first] = HeldFrame(frame, location)
        held.durable = durable
        shard.damaged.discard(first)
        self._bytes += frame.size_bytes
        self._in_memory[name, first] = held
        if self._bytes > self._bytes_max:
            self._shrink()
        self._stage(shard)
        if durable:
            self.advance(shard)
        return held

    def _stage(self, shard: ShardFrames) -> None:
        while True:
            if (following := shard.frames.get(shard.staged)) is not None:
                shard.staged = following.until
            elif shard.gaps and shard.staged in shard.gaps:
                shard.staged = shard.gaps[shard.staged]
            else:
                return

    def advance(self, shard: ShardFrames) -> bool:
        """Counts durable frames that continue the prefix."""
        before = shard.held
        while True:
            held = shard.frames.get(shard.held)
            if held is not None and held.durable:
                shard.held = held.until
                if held.folded:
                    self._drop(shard, held)
            elif held is None and shard.gaps and shard.held in shard.gaps:
                shard.held = shard.gaps.pop(shard.held)
            else:
                break
        if self._bytes > self._bytes_max:
            self._shrink()
        return shard.held > before

    def frames_of(self, shard: Shard, start: int, until: int) -> list[HeldFrame] | int:
        """The frames that hold `[start, until)`, or the first count that is missing."""
        room = self.shards.get(shard)
        frames = room.frames if room is not None else {}
        found: list[HeldFrame] = []
        while start < until:
            held = frames.get(start)
            if held is None:
                return start
            found.append(held)
            start = held.until
        return found

    def bytes_of(self, held: HeldFrame) -> Frame:
        """The frame itself; read back if memory was short.

        Raises:
            RemoteProtocolError, CorruptJournal: the disk does not give its columns back.
        """
        return held.frame or decode_frame(self._journal.read(held.location))

    @property
    def durable_frames(self) -> dict[Shard, list[HeldFrame]]:
        """All that the journal gives back after a crash, in the order of their counts."""
        found = {}
        for room in self.shards.values():
            if durable := [held for _, held in sorted(room.frames.items()) if held.durable]:
                found[room.shard] = durable
        return found

    def held_of(self, shard: Shard) -> int:
        """Contiguous records held of a shard, known or not."""
        room = self.shards.get(shard)
        return room.held if room is not None else 0

    def lose(self, shard: Shard, held: HeldFrame) -> None:
        """The disk does not give the frame back: it may come again, from a peer."""
        room = self.shards[shard]
        self._drop(room, held)
        room.damaged.add(held.start)
        self.damaged_count += 1

    def folded(self, shard: Shard, held: HeldFrame) -> None:
        held.folded = True
        room = self.shards[shard]
        if held.start < room.held:
            self._drop(room, held)

    def close(self, shard: Shard) -> None:
        """The shard has ended: whatever was not ordered by now never will be (P2)."""
        self._closed.add(shard)
        room = self.shards.pop(shard, None)
        if room is not None:
            for held in list(room.frames.values()):
                if held.folded and not held.durable:
                    self._owed[shard, held.start] = held.location
                self._drop(room, held)

    def durable(self, shard: Shard, start: int) -> HeldFrame | None:
        """The journal has made a frame durable; the frame, if it is waited for."""
        if self._owed:
            self._owed.pop((shard, start), None)
        room = self.shards.get(shard)
        held = room.frames.get(start) if room is not None else None
        if held is not None:
            held.durable = True
        return held

    def end_term(self, term: Term) -> None:
        """All shards of terms up to this one have ended."""
        for shard in [shard for shard in self.shards if shard.term <= term]:
            self.close(shard)
        self._closed = {shard for shard in self._closed if shard.term > term}

    def oldest_segment(self, newest: int) -> int:
        """First journal segment that holds a frame still needed for folding."""
        return min(
            (
                held.location.segment
                for room in self.shards.values()
                for held in room.frames.values()
            ),
            default=newest,
        )

    def forget(self, shard: Shard, start: int) -> None:
        """The journal did not take the frame after all (P7): it is not held, and may come again,
        unless its shard was closed meanwhile."""
        room = self.shards.get(shard)
        held = room.frames.get(start) if room is not None else None
        if room is not None and held is not None and not held.durable:
            self._drop(room, held)
            room.staged = min(room.staged, start)

    @property
    def folded_before_durable(self) -> bool:
        """Whether something is folded, by others' copies, that is not durable here yet (P19)."""
        return bool(self._owed) or any(
            held.folded and not held.durable for room in self for held in room.frames.values()
        )

    @property
    def places_not_durable(self) -> frozenset[Location]:
        """Where frames stand that are folded and not durable here yet: a crash may take them."""
        held = (held for room in self for held in room.frames.values())
        places = (each.location for each in held if each.folded and not each.durable)
        return frozenset(map(self._journal.resolve, (*places, *self._owed.values())))

    def __iter__(self) -> Iterator[ShardFrames]:
        return iter(self.shards.values())

    @property
    def bytes_in_memory(self) -> int:
        return self._bytes

    def check(self) -> None:
        for room in self.shards.values():
            assert room.held <= room.staged, f"{room.shard} counts what was not written"
            for start, held in room.frames.items():
                assert start == held.start < held.until
                assert not (held.folded and held.until <= room.held), "a finished frame is kept"

    def _shrink(self) -> None:
        """Keeps the newest frames' bytes; the oldest durable ones go when the bound is met."""
        while self._bytes > self._bytes_max and len(self._in_memory) > 1:
            oldest = next(iter(self._in_memory))
            if not self._in_memory[oldest].durable:
                return
            self._forget_bytes(oldest)

    def _forget_bytes(self, name: tuple[Shard, int]) -> None:
        held = self._in_memory.pop(name, None)
        if held is not None and held.frame is not None:
            self._bytes -= held.frame.size_bytes
            held.frame = None

    def _drop(self, room: ShardFrames, held: HeldFrame) -> None:
        del room.frames[held.start]
        name = (room.shard, held.start)
        if self._in_memory.pop(name, None) is not None and held.frame is not None:
            self._bytes -= held.frame.size_bytes
