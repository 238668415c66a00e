"""An object store for cold segments: slow, away at times, and not always honest about an upload.

Decides when an object is there and what is told of it. What `storage_nodes/cold_store.py` does in
threads is done here in virtual time: one mover per process takes its jobs in order, ranges are read
beside it; a segment is verified, uploaded whole, read back and compared; a process that dies leaves
behind what was on its way, or not.

An upload may be lost: the store says that it has it and has nothing, or something else; or it has
it and its answer never comes. Objects of disks that the atlas gives up may be damaged later.

Invariants: an object appears whole, and a dead process never hears of it. Does not know which
segments move when (`storage_nodes/cold.py`), nor which records are in them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import assert_never

from xxhash import xxh3_64_intdigest

from bokilog.cold import (
    ColdMiss,
    ColdOutcome,
    ColdSegment,
    ColdState,
    FetchRange,
    Remove,
    StoreList,
    Upload,
)
from bokilog.effects import ColdDone, StartCold
from bokilog.errors import RemoteProtocolError
from bokilog.frame import Frame, decode_frame, verify_frame
from bokilog.ids import LogSpaceId
from tests.sim.disk import Disk
from tests.sim.loop import ProcessLoop, World
from tests.sim.swarm import Knobs

Deliver = Callable[[ColdDone], None]
Places = Sequence[tuple[int, int]]
"""(offset, length) of each frame of a segment."""
SILENT_S = 5.0
"""A store that does not answer is given up after so long, longer than readers wait for it."""
AWAY = ColdOutcome(problem="connection refused")
SILENT = ColdOutcome(problem="no answer")
LOST = ColdOutcome(problem="the connection was lost before the answer came")


class ObjectStore:
    """Objects by name, of all nodes of a cluster."""

    def __init__(self, world: World, knobs: Knobs) -> None:
        self.objects: dict[str, bytes] = {}
        self.away = False
        """Nobody reaches it."""
        self.silent = False
        """While it is away calls are not even refused."""
        self._world = world
        self._knobs = knobs
        self._chance = world.chance("object store")
        self._damaged: set[str] = set()
        """Objects that are not what was put there."""
        self._items: dict[str, Places] = {}
        """Where the frames of each object lie."""

    # --- what the world does to it ----------------------------------------------------------------

    def go_away(self, *, silent: bool) -> None:
        self.away, self.silent = True, silent

    def come_back(self) -> None:
        self.away = False

    def flip(self, disk: Disk) -> bool:
        """Flip a bit of an object of that disk; False if it has none."""
        names = [
            name
            for space, listed in disk.cold_lists.items()
            for each in listed
            if each.state is ColdState.COLD and (name := name_of(disk, space, each)) in self.objects
        ]
        if not names:
            return False
        name = self._chance.choice(names)
        self.objects[name] = self._flipped(self.objects[name])
        self._damaged.add(name)
        return True

    def _flipped(self, data: bytes) -> bytes:
        at = self._chance.randrange(len(data))
        return data[:at] + bytes((data[at] ^ (1 << self._chance.randrange(8)),)) + data[at + 1 :]

    # --- what is there ----------------------------------------------------------------------------

    def read(self, disk: Disk, space: LogSpaceId, miss: ColdMiss) -> bytes | None:
        """Bytes of a cold segment, by nobody's leave; None: there is no such object."""
        for each in disk.cold_lists[space]:
            if each.segment == miss.segment:
                data = self.objects.get(name_of(disk, space, each))
                return data[miss.start : miss.until] if data is not None else None
        return None

    def frame(self, disk: Disk, space: LogSpaceId, wanted: Callable[[Frame], bool]) -> Frame | None:
        """A frame of a disk's whole objects."""
        for each in disk.cold_lists[space]:
            name = name_of(disk, space, each)
            data = self.objects.get(name, b"") if name not in self._damaged else b""
            for offset, length in self._items.get(name, ()):
                try:
                    frame = decode_frame(data[offset : offset + length])
                except RemoteProtocolError:
                    continue
                if wanted(frame):
                    return frame
        return None

    # --- jobs -------------------------------------------------------------------------------------

    def start(
        self, effect: StartCold, *, disk: Disk, mover: Mover, loop: ProcessLoop, deliver: Deliver
    ) -> None:
        """Begin a job of a process; it is told once the job has ended, in whatever way."""
        space, job = LogSpaceId(effect.space), effect.job
        work: Callable[[], ColdOutcome]
        match job:
            case StoreList():
                work = partial(_store_list, job, disk, space)
            case Upload(segment):
                sealed = disk.journals[space].sealed(segment.segment)
                work = partial(self._upload, name_of(disk, space, segment), sealed)
            case FetchRange(segment, start, until):
                work = partial(self._fetch, name_of(disk, space, segment), start, until)
            case Remove(segment):
                work = partial(self._remove, name_of(disk, space, segment))
            case _:
                assert_never(job)

        def act() -> None:
            if loop.dead and (isinstance(job, StoreList) or self._chance.random() < 0.5):
                return  # it had not come that far
            outcome = work() if isinstance(job, StoreList) else self._asked(work)
            delay_s = SILENT_S if outcome is SILENT else self._delay_s()
            loop.call_later(delay_s, deliver, ColdDone(effect.space, job, outcome))

        if isinstance(job, FetchRange):
            self._world.later(self._delay_s(), act)
        else:
            spent_s = self._knobs.sync_s if isinstance(job, StoreList) else self._delay_s()
            mover.takes(spent_s, act)

    def _asked(self, work: Callable[[], ColdOutcome]) -> ColdOutcome:
        """What becomes of a call on the store."""
        if self.away:
            return SILENT if self.silent else AWAY
        fails = self._chance.random() < self._knobs.cold_error_share
        if fails and self._chance.random() < 0.5:
            return AWAY
        outcome = work()
        return LOST if fails else outcome

    def _delay_s(self) -> float:
        knobs, chance = self._knobs, self._chance
        slow = chance.random() < knobs.slow_share
        return knobs.cold_latency_s * chance.random() + (knobs.slow_s if slow else 0.0)

    def _fetch(self, name: str, start: int, until: int) -> ColdOutcome:
        data = self.objects.get(name)
        if data is None:
            return ColdOutcome(problem=f"there is no object {name} any more", final=True)
        if len(data) < until:
            return ColdOutcome(problem=f"object {name} ends before byte {until}", final=True)
        self._world.reach("a range of a cold segment is read")
        return ColdOutcome(data=data[start:until])

    def _remove(self, name: str) -> ColdOutcome:
        if self.objects.pop(name, None) is not None:
            self._world.reach("an object of a trimmed segment is deleted")
        self._damaged.discard(name)
        return ColdOutcome()

    def _upload(self, name: str, sealed: tuple[bytes, Places] | None) -> ColdOutcome:
        """As `ColdStore` does: verified, put, read back and compared."""
        if sealed is None:
            return ColdOutcome(problem=f"{name} stays: there is no file of it", final=True)
        data, places = sealed
        if not all(verify_frame(memoryview(data)[at : at + length]) for at, length in places):
            return ColdOutcome(problem=f"{name} stays: it is damaged", final=True)
        self._items[name] = places
        self.put(name, data)
        if not self.gives_back(name, data):
            self._world.reach("an upload is lost, and found out")
            return ColdOutcome(problem=f"object {name} reads back as something else")
        self._world.reach("a segment moves to the object store")
        return ColdOutcome(size_bytes=len(data), checksum=xxh3_64_intdigest(data))

    def put(self, name: str, data: bytes) -> None:
        """Store an object; now and then nothing of it comes, or not what was sent."""
        if self._chance.random() < self._knobs.cold_lost_share:
            if self._chance.random() < 0.5:
                return
            data = self._flipped(data)
        self.objects[name] = data
        self._damaged.discard(name)

    def gives_back(self, name: str, data: bytes) -> bool:
        """Whether an object is what was put there."""
        return self.objects.get(name) == data


class Mover:
    """The one thread of a process that moves segments: a job at a time, in order."""

    __slots__ = ("_free_s", "_world")

    def __init__(self, world: World) -> None:
        self._world = world
        self._free_s = 0.0

    def takes(self, spent_s: float, act: Callable[[], None]) -> None:
        """Have a job end after so long, behind the ones before it."""
        self._free_s = max(self._free_s, self._world.now_s) + spent_s
        self._world.at(self._free_s, act)


def name_of(disk: Disk, space: LogSpaceId, segment: ColdSegment) -> str:
    """Of an object: no two disks share one."""
    return f"{disk.disk_id}/journal-{space}/{segment.name}"


def _store_list(job: StoreList, disk: Disk, space: LogSpaceId) -> ColdOutcome:
    """The file is replaced and synced, if there is room."""
    full = disk.journals[space].inner.full
    if full is not None:
        return ColdOutcome(problem=full)
    disk.cold_lists[space] = job.segments
    return ColdOutcome()
