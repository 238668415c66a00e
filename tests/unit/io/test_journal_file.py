"""The journal on a disk: what survives a crash, a failed sync, a full disk, and a flipped bit."""

import errno
import os
import re
import shutil
import struct
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from xxhash import xxh3_64_intdigest

from bokilog.errors import CorruptJournal, InvalidSettings, ReadOnly
from bokilog.io.journal_file import JournalFile
from bokilog.io.journal_memory import MemoryJournal
from bokilog.io.journal_recovery import Scanner
from bokilog.io.segment_files import OpenFiles, SegmentFiles
from bokilog.io.sync import IOV_MAX, DataSync, DelayedSync, NoSync, SyncPolicy, policy, write_at
from bokilog.journal import (
    Damage,
    Journal,
    Location,
    Moved,
    Refused,
    SegmentReleased,
    SyncResult,
    Written,
)
from bokilog.record import Buffer
from bokilog.segment import GROUP_HEADER_BYTES, SEGMENT_HEADER_BYTES

SEGMENT_BYTES = 16 << 10
FRAMING = GROUP_HEADER_BYTES + 8


class FakeSync:
    """A disk that says it synced, and fails when told to."""

    durable = True

    def __init__(self) -> None:
        self.failures = 0
        self.entered = threading.Event()
        self.gate = threading.Event()
        self.gate.set()

    def sync(self, fd: int) -> None:
        self.entered.set()
        self.gate.wait()
        if self.failures:
            self.failures -= 1
            raise OSError(errno.EIO, "sync failed")


class Outcome:
    """What a sync in its thread came to."""

    def __init__(self) -> None:
        self.results: list[SyncResult] = []
        self.done = threading.Event()

    def __call__(self, result: SyncResult) -> None:
        self.results.append(result)
        self.done.set()


class FakeDisk:
    """Takes at most `step` bytes a call."""

    def __init__(self, *, step: int = 1 << 30) -> None:
        self.step = step

    def __call__(self, fd: int, buffers: Sequence[Buffer], offset: int) -> int:
        assert 0 < len(buffers) <= IOV_MAX
        return os.pwrite(fd, b"".join(buffers)[: self.step], offset)


class FullDisk(FakeDisk):
    """As real ones: past an offset it takes nothing, and what is there can be written over."""

    def __init__(self) -> None:
        super().__init__()
        self.full_at: int | None = None

    def __call__(self, fd: int, buffers: Sequence[Buffer], offset: int) -> int:
        data = b"".join(buffers)
        wipes = len(data) <= GROUP_HEADER_BYTES and not any(data)
        if self.full_at is not None and not wipes:
            data = data[: max(0, self.full_at - offset)]
            if not data:
                raise no_space()
        return os.pwrite(fd, data, offset)


def no_space() -> OSError:
    return OSError(errno.ENOSPC, "No space left on device")


@pytest.fixture(autouse=True)
def no_directory_sync(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Names are as good as synced; counts how often that was asked for."""
    asked: list[str] = []
    monkeypatch.setattr("bokilog.io.segment_files.sync_directory", asked.append)
    return iter([asked])


def sealed(data: bytes) -> bytes:
    return struct.pack("<Q", xxh3_64_intdigest(data)) + data


def verify(_kind: int, view: memoryview) -> bool:
    expected: int = struct.unpack_from("<Q", view)[0] if len(view) >= 8 else -1
    return xxh3_64_intdigest(view[8:]) == expected


def start(
    path: Path,
    *,
    sync: SyncPolicy | None = None,
    disk: FakeDisk | None = None,
    segment_bytes: int = SEGMENT_BYTES,
    keeps_something: bool = False,
    **settings: int,
) -> tuple[JournalFile, list[tuple[int, Location, bytes]]]:
    journal = JournalFile(
        path,
        sync=sync or FakeSync(),
        verify=verify,
        write=disk or write_at,
        segment_bytes=segment_bytes,
        keeps_something=keeps_something,
        **settings,
    )
    return journal, [(kind, place, bytes(data)) for kind, place, data in journal.recover()]


def put(journal: Journal, *items: bytes, kind: int = 1) -> list[Location]:
    """One group of sealed items, synced."""
    places = stage(journal, *items, kind=kind)
    written = journal.commit()
    assert isinstance(written, Written)
    assert journal.sync_now() == SyncResult(written.group)
    return places


def stage(journal: Journal, *items: bytes, kind: int = 1) -> list[Location]:
    return [journal.append(kind, [sealed(item)[:8], item]) for item in items]


def bodies(items: list[tuple[int, Location, bytes]]) -> list[bytes]:
    return [data[8:] for _, _, data in items]


def segment_path(path: Path, number: int) -> Path:
    return path / f"{number:08d}.seg"


def flip(path: Path, bit: int) -> None:
    with path.open("r+b") as file:
        file.seek(bit // 8)
        byte = file.read(1)[0] ^ 1 << bit % 8
        file.seek(bit // 8)
        file.write(bytes([byte]))


def scan(path: Path) -> int:
    """Only look: the last group that counts."""
    files = SegmentFiles(
        str(path), segment_bytes=SEGMENT_BYTES, recycle_max=4, headroom_bytes=1 << 20
    )
    scanner = Scanner(files, durable=True, verify=verify, salvage=None)
    return scanner.scan(0).last_group


# --- what comes back ---


def test_items_come_back_in_order_where_they_were_said_to_lie(tmp_path: Path) -> None:
    journal, items = start(tmp_path / "j")
    assert items == []
    places = put(journal, b"a", b"") + put(journal, b"c", kind=255)
    assert places[0] == Location(1, SEGMENT_HEADER_BYTES + FRAMING, 9)
    assert [journal.read(place) for place in places] == [sealed(b"a"), sealed(b""), sealed(b"c")]
    journal.close()
    journal, items = start(tmp_path / "j")
    kinds = [1, 1, 255]
    expected = [sealed(b"a"), sealed(b""), sealed(b"c")]
    assert items == list(zip(kinds, places, expected, strict=True))
    assert journal.recovery.clean
    journal.close()


def test_staged_items_can_be_read_and_are_nothing_after_a_restart(tmp_path: Path) -> None:
    journal, _ = start(tmp_path)
    assert journal.commit() == Written(0, 0, 0)
    assert journal.sync_now() == SyncResult(0)
    _, place = stage(journal, b"first", b"never")
    assert journal.read(place) == sealed(b"never")
    assert journal.read(place, 8, 3) == b"nev"
    journal.close()
    assert bodies(start(tmp_path)[1]) == []


def test_items_staged_behind_a_group_that_moves_can_be_read(tmp_path: Path) -> None:
    """A frame is ordered by others' copies, folded and read here while its group still waits."""
    sync = FakeSync()
    journal, _ = start(tmp_path, sync=sync)
    put(journal, b"one")
    (two,) = stage(journal, b"two")
    journal.commit()
    (three,) = stage(journal, b"three")
    sync.failures = 1
    assert journal.sync_now().failed is None
    for place in (three, journal.resolve(three)):
        assert journal.read(place) == sealed(b"three")
    assert journal.read(journal.resolve(two)) == sealed(b"two")
    journal.commit()
    assert journal.read(three) == sealed(b"three")
    journal.close()


def test_written_and_unsynced_items_can_be_read(tmp_path: Path) -> None:
    journal, _ = start(tmp_path)
    (place,) = stage(journal, b"0123456789")
    assert journal.commit() == Written(1, 1, FRAMING + 18)
    assert journal.read(place, 8, 4) == b"0123"
    assert journal.read(place, 15) == b"789"
    assert journal.read(place, 18) == b""
    for part in [(-1, 2), (0, 19), (19, None), (4, -1)]:
        with pytest.raises(ValueError, match="of an item of 18 bytes"):
            journal.read(place, *part)
    journal.close()


def test_from_segment_leaves_older_ones_unread(tmp_path: Path) -> None:
    journal, _ = start(tmp_path)
    for number in range(5):
        put(journal, bytes([number]) * 6000)
    assert [each.number for each in journal.segments()] == [1, 2, 3]
    journal.close()
    flip(segment_path(tmp_path, 1), 5000 * 8)
    again = JournalFile(tmp_path, sync=FakeSync(), verify=verify, segment_bytes=SEGMENT_BYTES)
    items = list(again.recover(3))
    assert [(place.segment, bytes(data[8:9])) for _, place, data in items] == [(3, b"\4")]
    assert [each.number for each in again.segments()] == [1, 2, 3]
    again.close()


# --- a crash ---


def test_a_group_torn_at_any_byte_is_dropped_as_a_whole(tmp_path: Path) -> None:
    journal, _ = start(tmp_path / "j")
    put(journal, b"one")
    (place,) = put(journal, b"two", b"three")[:1]
    journal.close(clean=False)
    file = segment_path(tmp_path / "j", 1)
    whole = file.read_bytes()
    first, end = place.offset - FRAMING, place.offset + 11 + 8 + 13
    for cut in range(first, end):
        file.write_bytes(whole[:cut].ljust(len(whole), b"\0"))
        assert scan(tmp_path / "j") == 1
        file.write_bytes(whole[:cut])
        assert scan(tmp_path / "j") == 1
    file.write_bytes(whole[:end])
    assert scan(tmp_path / "j") == 2


def test_what_a_crash_leaves_after_the_known_sync_point_is_written_anew(tmp_path: Path) -> None:
    """P7: the second group is whole, and nothing says that it is synced."""
    journal, _ = start(tmp_path)
    (one,), (two,) = put(journal, b"one"), put(journal, b"two")
    journal.close(clean=False)
    journal, items = start(tmp_path)
    moved = Location(2, SEGMENT_HEADER_BYTES + FRAMING, 11)
    assert items == [(1, one, sealed(b"one")), (1, moved, sealed(b"two"))]
    gap = two.offset - FRAMING
    assert journal.recovery.moved == (Moved(1, gap, gap + FRAMING + 11, 2, SEGMENT_HEADER_BYTES),)
    assert journal.resolve(two) == moved
    assert journal.read(two) == journal.read(moved) == sealed(b"two")
    assert journal.sync_now() == SyncResult(2)
    put(journal, b"three")
    journal.close()
    journal, items = start(tmp_path)
    assert bodies(items) == [b"one", b"two", b"three"]
    assert journal.read(two) == sealed(b"two"), "old locations stay right over restarts"
    journal.close()


def test_the_rewritten_tail_counts_only_once_it_is_synced(tmp_path: Path) -> None:
    journal, _ = start(tmp_path)
    put(journal, b"one")
    journal.close(clean=False)
    sync = FakeSync()
    sync.failures = 1
    with pytest.raises(ReadOnly, match="written anew"):
        start(tmp_path, sync=sync)
    assert [path.name for path in tmp_path.glob("*.seg")] == ["00000001.seg"]
    assert bodies(start(tmp_path)[1]) == [b"one"]


def test_a_first_group_in_a_new_segment_is_written_anew_too(tmp_path: Path) -> None:
    journal, _ = start(tmp_path)
    put(journal, b"a" * 9000)
    (place,) = put(journal, b"b" * 9000)
    assert place.segment == 2
    journal.close(clean=False)
    journal, items = start(tmp_path)
    assert [where.segment for _, where, _ in items] == [1, 3]
    assert journal.read(place) == sealed(b"b" * 9000)
    journal.close()
    journal, items = start(tmp_path)
    assert [where.segment for _, where, _ in items] == [1, 3]
    journal.close()


def test_a_torn_tail_is_dropped_and_stays_dropped(tmp_path: Path) -> None:
    journal, _ = start(tmp_path)
    put(journal, b"one")
    put(journal, b"two")
    (torn,) = stage(journal, b"three")
    journal.commit()
    journal.close(clean=False)
    file = segment_path(tmp_path, 1)
    flip(file, (torn.offset + 8) * 8)
    journal, items = start(tmp_path)
    assert bodies(items) == [b"one", b"two"]
    put(journal, b"other")
    journal.close(clean=False)
    flip(file, (torn.offset + 8) * 8)  # as if the bytes had come back
    assert bodies(start(tmp_path)[1]) == [b"one", b"two", b"other"]


def test_a_segment_that_has_only_a_header_is_skipped_by_the_next(tmp_path: Path) -> None:
    journal, _ = start(tmp_path)
    put(journal, b"a" * 9000)
    (place,) = put(journal, b"b" * 9000)
    journal.close(clean=False)
    flip(segment_path(tmp_path, 2), place.offset * 8)
    journal, items = start(tmp_path)
    assert bodies(items) == [b"a" * 9000]
    put(journal, b"c")
    put(journal, b"d")
    journal.close(clean=False)
    segment_path(tmp_path, 2).write_bytes(b"")  # its header was never synced: no corruption
    journal, items = start(tmp_path)
    assert [data[:1] for data in bodies(items)] == [b"a", b"c", b"d"]
    journal.close()


def test_a_clean_stop_needs_nothing_written_anew(tmp_path: Path) -> None:
    journal, _ = start(tmp_path)
    put(journal, b"one")
    journal.close()
    for _ in range(3):  # nor does stopping again take space
        journal, items = start(tmp_path)
        assert bodies(items) == [b"one"]
        assert journal.recovery.clean
        assert not journal.recovery.moved
        (info,) = journal.segments()
        assert (info.number, info.first_group, info.last_group, info.open) == (1, 1, 1, True)
        journal.close()
    journal, _ = start(tmp_path)
    (place,) = put(journal, b"two")
    assert place.segment == 1
    journal.close(clean=False)
    assert bodies(start(tmp_path)[1]) == [b"one", b"two"]


def test_a_clean_stop_finds_damage_in_the_last_group(tmp_path: Path) -> None:
    journal, _ = start(tmp_path)
    (place,) = put(journal, b"one")
    journal.close()
    flip(segment_path(tmp_path, 1), place.offset * 8)
    with pytest.raises(CorruptJournal):
        start(tmp_path)


def test_unsynced_classes_keep_what_was_written_and_copy_nothing(tmp_path: Path) -> None:
    journal, _ = start(tmp_path, sync=NoSync())
    put(journal, b"one")
    put(journal, b"b" * 12_000)
    journal.close(clean=False)
    journal, items = start(tmp_path, sync=NoSync())
    assert [data[:1] for data in bodies(items)] == [b"o", b"b"]
    assert not journal.recovery.moved
    put(journal, b"three")
    journal.close()
    journal, items = start(tmp_path, sync=NoSync())
    assert journal.recovery.clean
    journal.close()
    journal, items = start(tmp_path)  # now synced: nothing says that any of it is
    assert [data[:1] for data in bodies(items)] == [b"o", b"b", b"t"]
    assert {place.segment for _, place, _ in items} == {items[0][1].segment}
    assert [each.segment for each in journal.recovery.moved] == [1, 2]
    journal.close()
    assert [data[:1] for data in bodies(start(tmp_path)[1])] == [b"o", b"b", b"t"]


def test_a_hole_between_unsynced_segments_drops_what_follows(tmp_path: Path) -> None:
    journal, _ = start(tmp_path, sync=NoSync())
    places = [put(journal, bytes([65 + number]) * 12_000)[0] for number in range(3)]
    journal.close(clean=False)
    assert [place.segment for place in places] == [1, 2, 3]
    flip(segment_path(tmp_path, 2), places[1].offset * 8)
    journal, items = start(tmp_path, sync=NoSync())
    assert [data[:1] for data in bodies(items)] == [b"A"]
    put(journal, b"Z")
    journal.close(clean=False)
    assert [data[:1] for data in bodies(start(tmp_path, sync=NoSync())[1])] == [b"A", b"Z"]


# --- corruption ---


def test_any_flipped_bit_before_a_known_sync_point_is_corruption(tmp_path: Path) -> None:
    journal, _ = start(tmp_path)
    put(journal, b"1")
    (place,) = put(journal, b"22")
    put(journal, b"3")  # its header says: all before me is synced
    journal.close(clean=False)
    file = segment_path(tmp_path, 1)
    first = place.offset - FRAMING
    for bit in range(first * 8, (place.offset + 10) * 8):
        flip(file, bit)
        with pytest.raises(CorruptJournal) as error:
            scan(tmp_path)
        assert error.value.offset == first
        flip(file, bit)
    assert scan(tmp_path) == 3


def test_any_flipped_bit_after_the_last_known_sync_point_is_a_torn_tail(tmp_path: Path) -> None:
    journal, _ = start(tmp_path)
    put(journal, b"1")
    (place,) = put(journal, b"22")
    journal.close(clean=False)
    file = segment_path(tmp_path, 1)
    for bit in range((place.offset - FRAMING) * 8, (place.offset + 10) * 8):
        flip(file, bit)
        assert scan(tmp_path) == 1
        flip(file, bit)


def test_the_next_segments_header_knows_what_was_synced(tmp_path: Path) -> None:
    journal, _ = start(tmp_path)
    (old,), (new,) = put(journal, b"a" * 9000), put(journal, b"b" * 9000)
    journal.close(clean=False)
    flip(segment_path(tmp_path, 2), new.offset * 8)
    assert scan(tmp_path) == 1
    flip(segment_path(tmp_path, 1), old.offset * 8)
    with pytest.raises(CorruptJournal, match=r"00000001\.seg"):
        scan(tmp_path)


@pytest.mark.parametrize("lost", [False, True])
def test_an_unreadable_or_missing_segment_is_corruption(tmp_path: Path, lost: bool) -> None:
    journal, _ = start(tmp_path)
    for number in range(5):
        put(journal, bytes([number]) * 6000)
    journal.close(clean=False)
    if lost:
        segment_path(tmp_path, 2).unlink()
    else:
        flip(segment_path(tmp_path, 2), 100)
    with pytest.raises(CorruptJournal, match=r"00000002\.seg' is damaged at offset 0"):
        scan(tmp_path)


def test_salvage_reports_each_damage_and_yields_the_rest(tmp_path: Path) -> None:
    journal, _ = start(tmp_path)
    places = [put(journal, bytes([65 + number]) * 100)[0] for number in range(6)]
    journal.close()
    file = segment_path(tmp_path, 1)
    for number in (1, 3, 4):
        flip(file, (places[number].offset + 20) * 8)
    found: list[Damage] = []
    again = JournalFile(tmp_path, sync=FakeSync(), verify=verify, segment_bytes=SEGMENT_BYTES)
    items = again.recover(salvage=found.append)
    assert [bytes(data[8:9]) for _, _, data in items] == [b"A", b"C", b"F"]
    starts = [place.offset - FRAMING for place in places]
    assert found == [
        Damage(str(file), 1, starts[1], starts[2], 2, 3),
        Damage(str(file), 1, starts[3], starts[5], 4, 6),
    ]
    put(again, b"more")
    again.close()
    with pytest.raises(CorruptJournal):  # never forgotten until the segment is released
        start(tmp_path)


# --- a failed sync ---


def test_a_failed_sync_writes_its_group_to_a_new_segment(tmp_path: Path) -> None:
    sync = FakeSync()
    journal, _ = start(tmp_path, sync=sync)
    put(journal, b"one")
    (two,) = stage(journal, b"two")
    journal.commit()
    sync.failures = 1
    result = journal.sync_now()
    moved = Location(2, SEGMENT_HEADER_BYTES + FRAMING, 11)
    gap = two.offset - FRAMING
    assert result == SyncResult(2, Moved(1, gap, gap + FRAMING + 11, 2, SEGMENT_HEADER_BYTES))
    assert journal.resolve(two) == moved
    assert journal.read(two) == sealed(b"two")
    (three,) = put(journal, b"three")
    assert three.segment == 2
    assert [(each.number, each.last_group) for each in journal.segments()] == [(1, 1), (2, 3)]
    journal.close(clean=False)
    journal, items = start(tmp_path)
    assert bodies(items) == [b"one", b"two", b"three"]
    assert journal.read(two) == sealed(b"two")
    assert journal.stats().failed_sync_count == 0
    journal.close()


def test_a_failed_first_sync_of_a_segment_leaves_that_segment_out(tmp_path: Path) -> None:
    sync = FakeSync()
    journal, _ = start(tmp_path, sync=sync)
    put(journal, b"a" * 9000)
    (place,) = stage(journal, b"b" * 9000)
    assert place.segment == 2
    journal.commit()
    sync.failures = 1
    assert journal.sync_now().durable_group == 2
    assert journal.read(place) == sealed(b"b" * 9000)
    put(journal, b"c")
    journal.close(clean=False)
    segment_path(tmp_path, 2).write_bytes(b"")  # nothing of it was ever synced
    assert [data[:1] for data in bodies(start(tmp_path)[1])] == [b"a", b"b", b"c"]


def test_a_sync_that_fails_twice_makes_the_journal_read_only(tmp_path: Path) -> None:
    sync = FakeSync()
    journal, _ = start(tmp_path, sync=sync)
    (one,) = put(journal, b"one")
    stage(journal, b"two")
    journal.commit()
    sync.failures = 2
    result = journal.sync_now()
    assert result.durable_group == 1
    assert result.failed is not None
    assert "sync failed" in result.failed
    assert journal.read_only == result.failed
    with pytest.raises(ReadOnly, match="sync failed"):
        stage(journal, b"three")
    assert journal.sync_now() == SyncResult(1, failed=result.failed)
    assert journal.read(one) == sealed(b"one")
    journal.close()
    assert bodies(start(tmp_path)[1])[0] == b"one"


def test_items_staged_during_a_failing_sync_keep_their_locations(tmp_path: Path) -> None:
    sync = FakeSync()
    journal, _ = start(tmp_path, sync=sync)
    put(journal, b"one")
    (two,) = stage(journal, b"two")
    journal.commit()
    sync.failures = 1
    sync.entered.clear()
    sync.gate.clear()
    outcome = Outcome()
    journal.sync_in_thread(outcome)
    assert sync.entered.wait(5)
    during = journal.syncing
    (three,) = stage(journal, b"three")
    with pytest.raises(RuntimeError, match="one at a time"):
        journal.commit()
    with pytest.raises(RuntimeError, match="under way"):
        journal.sync_now()
    sync.gate.set()
    assert outcome.done.wait(5)
    assert (during, journal.syncing) == (True, False)
    assert outcome.results[0].durable_group == 2
    assert journal.commit() == Written(3, 1, FRAMING + 13)
    assert journal.sync_now() == SyncResult(3)
    assert [journal.read(place)[8:] for place in (two, three)] == [b"two", b"three"]
    assert journal.resolve(three).segment == 2
    journal.close()
    assert bodies(start(tmp_path)[1]) == [b"one", b"two", b"three"]


def test_a_segment_planned_during_a_failing_sync_comes_after_its_group(tmp_path: Path) -> None:
    sync = FakeSync()
    journal, _ = start(tmp_path, sync=sync)
    put(journal, b"one")
    (two,) = stage(journal, b"two" * 2000)
    journal.commit()
    (three,) = stage(journal, b"three" * 2000)  # does not fit any more
    assert three.segment == 3
    sync.failures = 1
    assert journal.sync_now().durable_group == 2
    journal.commit()
    journal.sync_now()
    assert journal.read(two)[8:] == b"two" * 2000
    assert journal.read(three)[8:] == b"three" * 2000
    assert [each.number for each in journal.segments()] == [1, 2, 3]
    journal.close()
    assert [data[:3] for data in bodies(start(tmp_path)[1])] == [b"one", b"two", b"thr"]


# --- a disk that takes less than asked ---


@pytest.mark.parametrize("step", [1, 7, 100])
def test_partial_writes_are_continued(tmp_path: Path, step: int) -> None:
    journal, _ = start(tmp_path, disk=FakeDisk(step=step))
    put(journal, b"one", b"", b"two")
    put(journal, b"x" * 2000, b"three")
    journal.close()
    assert bodies(start(tmp_path)[1]) == [b"one", b"", b"two", b"x" * 2000, b"three"]


@pytest.mark.parametrize("size", [1, 1200])
def test_more_buffers_than_one_call_takes(tmp_path: Path, size: int) -> None:
    journal, _ = start(tmp_path, disk=FakeDisk(step=999_999))
    data = os.urandom(size)
    seal = sealed(data * (IOV_MAX + 100))[:8]
    place = journal.append(1, [seal, *[data] * (IOV_MAX + 100)])
    journal.commit()
    journal.sync_now()
    assert journal.read(place, 8) == data * (IOV_MAX + 100)
    journal.close()


@pytest.mark.parametrize("taken", [0, 1, 79, 80, 90, 200])
def test_a_full_disk_refuses_and_takes_the_same_group_later(tmp_path: Path, taken: int) -> None:
    disk = FullDisk()
    journal, _ = start(tmp_path / "j", disk=disk)
    put(journal, b"one")
    (two,) = stage(journal, b"two" * 100)
    disk.full_at = two.offset - FRAMING + taken
    refused = journal.commit()
    assert isinstance(refused, Refused)
    assert refused.definite
    assert "No space left" in refused.reason
    assert journal.read_only is None
    shutil.copytree(tmp_path / "j", tmp_path / "crash")
    assert bodies(start(tmp_path / "crash")[1]) == [b"one"]
    disk.full_at = None
    (three,) = stage(journal, b"three")
    assert journal.commit() == Written(2, 2, FRAMING + 308 + 8 + 13)
    assert journal.sync_now() == SyncResult(2)
    assert [journal.read(place)[8:] for place in (two, three)] == [b"two" * 100, b"three"]
    journal.close()
    assert bodies(start(tmp_path / "j")[1]) == [b"one", b"two" * 100, b"three"]


def test_a_refused_group_cannot_come_back_by_zeros_it_happens_to_end_with(tmp_path: Path) -> None:
    disk = FullDisk()
    journal, _ = start(tmp_path, disk=disk)
    put(journal, b"one")
    (two,) = stage(journal, bytes(1000))
    disk.full_at = two.offset + 100  # what is missing are zeros, and so is the allocated rest
    assert isinstance(journal.commit(), Refused)
    journal.close(clean=False)
    assert bodies(start(tmp_path)[1]) == [b"one"]


def test_a_refusal_that_cannot_be_taken_back_is_not_definite(tmp_path: Path) -> None:
    sync, disk = FakeSync(), FullDisk()
    journal, _ = start(tmp_path, sync=sync, disk=disk)
    put(journal, b"one")
    (two,) = stage(journal, b"two")
    disk.full_at = two.offset
    sync.failures = 1
    refused = journal.commit()
    assert isinstance(refused, Refused)
    assert not refused.definite
    assert journal.read_only is not None
    assert "cannot be taken back" in journal.read_only
    assert journal.commit() == Written(1, 0, 0), "what was staged is dropped"
    with pytest.raises(ReadOnly):
        stage(journal, b"three")
    journal.close()


def test_a_new_segment_that_finds_no_room_leaves_no_segment(tmp_path: Path) -> None:
    disk = FullDisk()
    journal, _ = start(tmp_path, disk=disk)
    put(journal, b"a" * 9000)
    (place,) = stage(journal, b"b" * 9000)
    disk.full_at = 5000
    assert journal.commit() == Refused(f"the disk of {tmp_path} refused it: {no_space().strerror}")
    assert [path.name for path in tmp_path.glob("*.seg")] == ["00000001.seg"]
    disk.full_at = None
    assert isinstance(journal.commit(), Written)
    journal.sync_now()
    assert journal.read(place) == sealed(b"b" * 9000)
    journal.close()
    assert len(start(tmp_path)[1]) == 2


def test_headroom_is_kept_for_those_who_may_use_it(tmp_path: Path) -> None:
    journal, _ = start(tmp_path, headroom_bytes=1 << 60)
    stage(journal, b"trim")
    refused = journal.commit()
    assert isinstance(refused, Refused)
    said = r"the disk of \S+ refused it: \d+ bytes are needed and 0 are free beside the reserve"
    assert re.fullmatch(said, refused.reason)
    assert not list(tmp_path.iterdir())
    assert isinstance(journal.commit(use_headroom=True), Written)
    journal.sync_now()
    assert journal.free_bytes() > 0
    journal.close()


def test_p32_what_keeps_the_headroom_is_refused_when_it_is_staged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = [1 << 30]
    monkeypatch.setattr(SegmentFiles, "free_bytes", lambda _: free[0])
    journal, _ = start(tmp_path, headroom_bytes=1 << 20)
    put(journal, b"one")
    free[0] = 1 << 20
    kept = journal.append(1, [sealed(b"two")], keep_headroom=True)
    with pytest.raises(ReadOnly, match="and 0 are free beside the reserve on the disk of /"):
        journal.append(1, [sealed(b"three" * 5000)], keep_headroom=True)
    (trim,) = stage(journal, b"trim")
    assert isinstance(journal.commit(use_headroom=True), Written), "without what was refused"
    journal.sync_now()
    assert [journal.read(place)[8:] for place in (kept, trim)] == [b"two", b"trim"]
    assert "are needed" in journal.short()
    free[0] = 2 << 20
    assert journal.short() == ""
    journal.append(1, [sealed(b"three" * 5000)], keep_headroom=True)
    journal.commit(use_headroom=True)
    journal.sync_now()
    journal.close()
    whole = [b"one", b"two", b"trim", b"three" * 5000]
    assert bodies(start(tmp_path)[1]) == whole


def test_p32_a_refusal_is_told_once_also_if_there_is_room_by_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever was refused waits to be told that it is over, which follows the news of it."""
    free = [0]
    monkeypatch.setattr(SegmentFiles, "free_bytes", lambda _: free[0])
    journal, _ = start(tmp_path)
    with pytest.raises(ReadOnly):
        journal.append(1, [sealed(b"one")], keep_headroom=True)
    free[0] = 1 << 30
    assert journal.short() != ""
    assert journal.short() == ""
    journal.close()


def test_p32_a_free_file_takes_what_the_open_segment_has_no_room_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trims began a segment in the reserve, and then let another one go."""
    free = [1 << 30]
    monkeypatch.setattr(SegmentFiles, "free_bytes", lambda _: free[0])
    monkeypatch.setattr(SegmentFiles, "prepare", lambda *_: None)  # its thread may be late
    journal, _ = start(tmp_path, headroom_bytes=1 << 20, recycle_max=1)
    for _ in range(3):
        put(journal, b"x" * 12_000)
    free[0] = 1 << 20
    stage(journal, b"trim" * 2000)
    assert isinstance(journal.commit(use_headroom=True), Written)
    journal.sync_now()
    with pytest.raises(ReadOnly):
        journal.append(1, [sealed(b"frame" * 1000)], keep_headroom=True)
    journal.release(1)
    journal._files._background.stop()
    assert journal.short() != "" and journal.short() == ""
    before = journal.segments()[-1].number
    place = journal.append(1, [sealed(b"frame" * 1000)], keep_headroom=True)
    assert isinstance(journal.commit(use_headroom=True), Written)
    journal.sync_now()
    assert place.segment > before and journal.read(place)[8:] == b"frame" * 1000
    journal.close()


def test_p32_of_the_reserve_no_more_is_allocated_than_is_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is allocated is anybody's: frames would be written to what was kept for trims."""
    monkeypatch.setattr(SegmentFiles, "free_bytes", lambda _: 1 << 20)
    journal, _ = start(tmp_path, headroom_bytes=1 << 20)
    stage(journal, b"trim")
    journal.commit(use_headroom=True)
    journal.sync_now()
    with pytest.raises(ReadOnly):
        journal.append(1, [sealed(b"frame")], keep_headroom=True)
    assert segment_path(tmp_path, 1).stat().st_size < SEGMENT_BYTES
    put_kept = stage(journal, b"trim")
    assert isinstance(journal.commit(use_headroom=True), Written)
    journal.sync_now()
    assert journal.read(put_kept[0])[8:] == b"trim"
    journal.close()


# --- segments ---


def test_segments_are_allocated_ahead_and_a_large_group_gets_a_larger_one(tmp_path: Path) -> None:
    journal, _ = start(tmp_path)
    put(journal, b"a")
    assert segment_path(tmp_path, 1).stat().st_size == SEGMENT_BYTES
    (place,) = put(journal, b"b" * 50_000)
    assert place.segment == 2
    (next_place,) = put(journal, b"c")
    assert next_place.segment == 3
    grown = stage(journal, b"d" * 9000, b"e" * 9000)
    assert [each.segment for each in grown] == [3, 3], "a group stays in one segment"
    journal.commit()
    journal.sync_now()
    (after,) = put(journal, b"f")
    assert after.segment == 4
    journal.close()
    assert [data[:1] for data in bodies(start(tmp_path)[1])] == [b"a", b"b", b"c", b"d", b"e", b"f"]


def test_the_next_file_is_ready_before_it_is_needed(tmp_path: Path) -> None:
    journal, _ = start(tmp_path)
    put(journal, b"a" * 9000)
    journal.close()
    assert [path.stat().st_size for path in tmp_path.glob("*.free")] == [SEGMENT_BYTES]


def fill(path: Path, count: int) -> tuple[JournalFile, list[Location]]:
    """A journal of `count` segments with one item each."""
    journal, _ = start(path)
    return journal, [put(journal, bytes([65 + number]) * 12_000)[0] for number in range(count)]


def letters(path: Path) -> bytes:
    journal, items = start(path)
    journal.close()
    return b"".join(data[:1] for data in bodies(items))


def test_released_segments_are_used_again_and_their_bytes_do_not_count(tmp_path: Path) -> None:
    journal, places = fill(tmp_path, 4)
    journal.release(1)
    journal.release(2)
    with pytest.raises(SegmentReleased):
        journal.read(places[0])
    journal.close()
    assert letters(tmp_path) == b"CD"
    assert len(list(tmp_path.glob("*.free"))) == 3
    journal, _ = start(tmp_path)
    put(journal, b"E" * 12_000)  # in a file that held a group of this number of bytes
    (place,) = put(journal, b"F")
    journal.close(clean=False)
    assert letters(tmp_path) == b"CDEF"
    flip(segment_path(tmp_path, place.segment), place.offset * 8)
    assert letters(tmp_path) == b"CDEF", "F was written anew"
    assert len(list(tmp_path.glob("*.free"))) <= 4


def test_recycled_garbage_behind_a_torn_tail_is_never_accepted(tmp_path: Path) -> None:
    journal, _ = start(tmp_path)
    for number in range(4):  # segments of equal groups: stale ones stand at the right places
        put(journal, *[bytes([65 + number]) * 900] * 3)
        for _ in range(3):
            put(journal, *[bytes([65 + number]) * 900] * 3)
    first, *_ = journal.segments()
    journal.release(first.number)
    journal.close()
    journal, _ = start(tmp_path)
    recycled = 0
    while journal.stats().free_file_count or not recycled:
        (place, *_) = put(journal, b"z" * 900, b"z" * 900, b"z" * 900)
        recycled = place.segment
    last = journal.segments()[-1].last_group
    journal.close(clean=False)
    journal, items = start(tmp_path)
    assert journal.segments()[-1].last_group == last
    assert bodies(items)[-1] == b"z" * 900
    journal.close()


def test_a_segment_released_from_the_middle_leaves_no_hole(tmp_path: Path) -> None:
    journal, places = fill(tmp_path, 5)
    journal.release(3)
    journal.release(2)
    journal.close()
    journal, items = start(tmp_path)
    assert b"".join(data[:1] for data in bodies(items)) == b"ADE"
    assert [each.number for each in journal.segments()] == [1, 4, 5]
    assert journal.read(places[0])[8:9] == b"A"
    journal.release(4)
    journal.close(clean=False)
    assert letters(tmp_path) == b"AE"


def test_files_beyond_the_pool_are_given_back_to_the_disk(tmp_path: Path) -> None:
    journal, _ = start(tmp_path, recycle_max=1)
    for number in range(5):
        put(journal, bytes([65 + number]) * 12_000)
    for number in range(1, 5):
        journal.release(number)
    settle(journal)
    assert len(list(tmp_path.glob("*.free"))) == 1
    assert journal.stats().recycled_count == 4
    journal.close()


def settle(journal: JournalFile) -> None:
    """Wait for what the journal does in the background."""
    settled = threading.Event()
    journal._files._background.submit(settled.set)
    assert settled.wait(5)


def test_a_disk_that_refuses_to_recycle_keeps_the_segment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal, _ = fill(tmp_path, 3)
    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", fail)
        journal.release(1)
        settle(journal)
    assert journal.stats().failed_background_count == 1
    journal.close()
    assert letters(tmp_path) == b"ABC", "it is back: release it again"


def fail(*_: object) -> None:
    raise OSError(errno.EIO, "the disk fails")


def test_what_a_crash_leaves_allocated_is_given_back(tmp_path: Path) -> None:
    journal, _ = start(tmp_path, segment_bytes=4 << 20)
    put(journal, b"one")
    put(journal, b"two")
    journal.close(clean=False)
    journal, _ = start(tmp_path, segment_bytes=4 << 20)
    settle(journal)
    first, second = journal.segments()
    assert segment_path(tmp_path, first.number).stat().st_size == first.until
    assert segment_path(tmp_path, second.number).stat().st_size == 4 << 20
    journal.close()


def test_the_open_segment_stays_and_a_gone_one_is_no_error(tmp_path: Path) -> None:
    journal, _ = fill(tmp_path, 2)
    with pytest.raises(ValueError, match="segment 2 is the open one"):
        journal.release(2)
    journal.release(1)
    journal.release(1)
    journal.release(77)
    journal.close()


def test_a_segment_that_continues_another_stays_until_that_one_goes(tmp_path: Path) -> None:
    """Who counts live records by old locations must not lose what they mean now."""
    journal, _ = start(tmp_path)
    put(journal, b"one")
    (two,) = put(journal, b"two")
    journal.close(clean=False)
    journal, _ = start(tmp_path)
    put(journal, b"three" * 3000)
    journal.release(2)
    assert journal.read(two) == sealed(b"two")
    assert [each.number for each in journal.segments()] == [1, 2, 3]
    journal.release(1)
    assert [each.number for each in journal.segments()] == [3]
    journal.close()
    assert [data[:5] for data in bodies(start(tmp_path)[1])] == [b"three"]


def test_names_are_synced_with_the_first_group_of_a_segment(
    tmp_path: Path, no_directory_sync: Iterator[list[str]]
) -> None:
    asked = next(no_directory_sync)
    journal, _ = start(tmp_path)
    put(journal, b"one")
    assert len(asked) == 1
    put(journal, b"two")
    assert len(asked) == 1
    stage(journal, b"three" * 4000)
    journal.commit()
    assert len(asked) == 1
    journal.sync_now()
    assert len(asked) == 2
    journal.close()


# --- reads ---


def test_few_files_stay_open_and_readers_keep_theirs(tmp_path: Path) -> None:
    journal, _ = start(tmp_path, open_files_max=2)
    places = [put(journal, bytes([65 + number]) * 12_000)[0] for number in range(5)]
    assert b"".join(journal.read(place, 8, 1) for place in places * 2) == b"ABCDE" * 2
    files = OpenFiles(1)
    kept = SegmentFiles(
        str(tmp_path), segment_bytes=SEGMENT_BYTES, recycle_max=1, headroom_bytes=0
    ).open(1)
    files.put(1, kept)
    files.put(2, kept)
    assert files.get(1) is None
    assert os.fstat(kept.fd).st_size == SEGMENT_BYTES
    journal.close()


def test_a_location_past_the_file_or_the_segment_is_an_error(tmp_path: Path) -> None:
    journal, (first, second) = fill(tmp_path, 2)
    with pytest.raises(SegmentReleased, match="nothing is at offset 16300 of segment 1"):
        journal.read(first._replace(offset=16_300))
    with pytest.raises(CorruptJournal, match="the file ends in an item"):
        journal.read(second._replace(offset=SEGMENT_BYTES - 1))
    journal.close()


# --- policies, settings, misuse ---


def test_policies_are_made_by_name() -> None:
    assert isinstance(policy("fdatasync"), DataSync)
    assert isinstance(policy("none"), NoSync)
    slow = policy("none", delay_ms=0.5)
    assert isinstance(slow, DelayedSync)
    assert not slow.durable
    with pytest.raises(InvalidSettings, match="sync='often' is none of fdatasync, none"):
        policy("often")
    with pytest.raises(InvalidSettings, match="is negative"):
        DelayedSync(-1, NoSync())


def test_the_real_policy_syncs_and_a_slow_one_syncs_later(tmp_path: Path) -> None:
    journal, _ = start(tmp_path, sync=DelayedSync(0.1, DataSync()))
    put(journal, b"one")
    stage(journal, b"two")
    journal.commit()
    outcome = Outcome()
    journal.sync_in_thread(outcome)
    assert outcome.done.wait(5)
    assert outcome.results == [SyncResult(2)]
    journal.close()
    assert bodies(start(tmp_path)[1]) == [b"one", b"two"]


def test_misuse_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidSettings, match="segment_bytes=4096 is less than 8192"):
        JournalFile(tmp_path, sync=NoSync(), verify=verify, segment_bytes=4096)
    journal = JournalFile(tmp_path, sync=NoSync(), verify=verify)
    with pytest.raises(RuntimeError, match="recover"):
        journal.append(1, [b"x"])
    with pytest.raises(RuntimeError, match="recover"):
        _ = journal.recovery
    list(journal.recover())
    with pytest.raises(RuntimeError, match="starts once"):
        journal.recover()
    with pytest.raises(ValueError, match="kind 300"):
        journal.append(300, [b"x"])
    journal.close()
    with pytest.raises(ReadOnly, match="closed"):
        journal.append(1, [b"x"])


# --- in memory ---


def test_a_journal_in_memory_looks_like_one_on_disk(tmp_path: Path) -> None:
    memory: Journal = MemoryJournal(segment_bytes=SEGMENT_BYTES)
    disk: Journal = start(tmp_path)[0]
    list(memory.recover())
    for size in (0, 5, 9000, 9000, 40_000, 1):
        assert put(memory, b"x" * size, b"y") == put(disk, b"x" * size, b"y")
    assert memory.segments() == disk.segments()
    memory.release(1)
    disk.release(1)
    assert memory.segments() == disk.segments()
    with pytest.raises(ValueError, match="open one"):
        memory.release(memory.segments()[-1].number)
    disk.close()


@pytest.mark.parametrize("kept", [False, True])
def test_a_crash_in_memory_loses_what_was_not_synced(kept: bool) -> None:
    journal = MemoryJournal()
    (one,) = put(journal, b"one")
    (two,) = stage(journal, b"two")
    journal.commit()
    stage(journal, b"staged")
    journal.crash(keep_unsynced=kept)
    items = [bytes(data) for _, _, data in journal.recover()]
    assert items == [sealed(b"one"), sealed(b"two")][: 1 + kept]
    assert journal.read(one, 8) == b"one"
    if not kept:
        with pytest.raises(SegmentReleased):
            journal.read(two)
    stage(journal, b"three")
    assert journal.commit() == Written(2 + kept, 1, FRAMING + 13)


def test_a_memory_journal_can_be_full_and_can_break() -> None:
    journal = MemoryJournal(room_bytes=1000)
    journal.full = "no room"
    (place,) = stage(journal, b"one")
    assert journal.commit() == Refused("no room")
    journal.full = None
    assert journal.commit() == Written(1, 1, FRAMING + 11)
    assert journal.free_bytes() == 1000 - FRAMING - 11
    journal.broken = "sync failed"
    assert journal.sync_now() == SyncResult(0, failed="sync failed")
    with pytest.raises(ReadOnly, match="sync failed"):
        stage(journal, b"two")
    assert journal.read(place, 8) == b"one"
    results: list[SyncResult] = []
    journal.crash()
    journal.sync_in_thread(results.append)
    assert results == [SyncResult(0)]
    assert not journal.syncing


# --- what is written, on demand -------------------------------------------------------------------


def sync_written(journal: JournalFile) -> str:
    """What came of it."""
    said: list[str] = []
    done = threading.Event()

    def on_done(problem: str) -> None:
        said.append(problem)
        done.set()

    journal.sync_written(on_done)
    assert done.wait(5)
    return said[0]


class Syncs:
    """Stands in for the disk's own sync, whatever the policy: which files were synced."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.paths: list[str] = []
        self.fails = False
        monkeypatch.setattr(DataSync, "sync", lambda policy, fd: self(fd))

    def __call__(self, fd: int) -> None:
        self.paths.append(os.path.basename(os.readlink(f"/proc/self/fd/{fd}")))
        if self.fails:
            raise OSError(errno.EIO, "the disk is broken")


def lazy(path: Path) -> JournalFile:
    """One that leaves its groups to the operating system, with small segments."""
    journal = JournalFile(path, sync=NoSync(), verify=lambda *item: True, segment_bytes=1 << 13)
    list(journal.recover())
    return journal


def write_group(journal: JournalFile, byte_count: int = 3000) -> None:
    journal.append(1, [b"x" * byte_count])
    assert isinstance(journal.commit(), Written)
    journal.sync_now()


needs_proc = pytest.mark.skipif(
    not os.path.isdir("/proc/self/fd"), reason="asks the kernel's names"
)


@needs_proc
def test_p11_all_segments_that_may_be_unsynced_are_synced_and_none_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    syncs, journal = Syncs(monkeypatch), lazy(tmp_path)
    for _ in range(4):
        write_group(journal)
    names = sorted(each.name for each in tmp_path.glob("*.seg"))
    assert len(names) > 2
    assert sync_written(journal) == ""
    assert syncs.paths == names
    syncs.paths.clear()
    write_group(journal, 10)
    assert sync_written(journal) == ""
    assert syncs.paths == names[-1:], "only where something was written since"
    journal.close()


@needs_proc
def test_p11_a_segment_that_was_let_go_is_not_missed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    syncs, journal = Syncs(monkeypatch), lazy(tmp_path)
    for _ in range(4):
        write_group(journal)
    first = journal.segments()[0].number
    journal.release(first)
    assert sync_written(journal) == ""
    assert f"{first:08d}.seg" not in syncs.paths
    journal.close()


@needs_proc
def test_p07_after_a_failure_nothing_more_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next sync of the same file may say that all is well, and it is not."""
    syncs, journal = Syncs(monkeypatch), lazy(tmp_path)
    write_group(journal)
    syncs.fails = True
    assert "the disk is broken" in sync_written(journal)
    syncs.fails = False
    assert "the disk is broken" in sync_written(journal)
    assert "the disk is broken" in str(journal.read_only)
    with pytest.raises(ReadOnly):
        journal.append(1, [b"y"])
    journal.close(clean=False)


@needs_proc
def test_p07_what_an_earlier_process_wrote_is_written_again_before_its_first_sync(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sync fails, and the system takes the bytes for written from then on: the process ends, and
    the sync of its successor would say that all is well."""
    syncs, journal = Syncs(monkeypatch), lazy(tmp_path)
    for _ in range(4):
        write_group(journal)
    syncs.fails = True
    assert sync_written(journal)
    journal.close(clean=False)
    syncs.fails = False
    before = {each.name: each.read_bytes() for each in tmp_path.glob("*.seg")}
    journal = lazy(tmp_path)
    ends = {f"{each.number:08d}.seg": each.until for each in journal.segments()}
    write_group(journal, 10)
    written = dict.fromkeys(ends, 0)
    real = os.pwritev

    def spy(fd: int, buffers: list[bytes], offset: int) -> int:
        name = os.path.basename(os.readlink(f"/proc/self/fd/{fd}"))
        taken = real(fd, buffers, offset)
        if name in written:
            assert written[name] == offset, "one after the other, from the start"
            written[name] += taken
        return taken

    monkeypatch.setattr(os, "pwritev", spy)
    assert sync_written(journal) == ""
    assert written == ends
    assert sync_written(journal) == ""
    assert written == ends, "once is enough"
    for name, data in before.items():
        assert (tmp_path / name).read_bytes()[: ends[name]] == data[: ends[name]]
    assert len(list(journal.items())) == 5
    journal.close()


def test_a_journal_in_memory_is_as_synced_as_it_will_ever_be() -> None:
    said: list[str] = []
    journal = MemoryJournal()
    journal.sync_written(said.append)
    journal.broken = "gone"
    journal.sync_written(said.append)
    assert said == ["", "gone"]


def test_p16_a_segment_goes_once_what_follows_it_is_on_the_disk(tmp_path: Path) -> None:
    journal = JournalFile(
        tmp_path,
        sync=NoSync(),
        verify=lambda *item: True,
        segment_bytes=1 << 13,
        keeps_something=True,
    )
    list(journal.recover())
    for _ in range(4):
        write_group(journal)
    first = journal.segments()[0].number
    journal.release(first)
    assert sync_written(journal) == "", "and so what was asked for before is done"
    assert journal.stats().recycled_count == 1
    assert journal.stats().failed_background_count == 0
    journal.close()
