"""Where the next group goes, and what becomes of one that the disk does not take."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest

from bokilog.errors import ReadOnly
from bokilog.io import journal_end
from bokilog.io.journal_end import JournalEnd, NotTakenBack, WrittenGroup
from bokilog.io.journal_recovery import Recovery
from bokilog.io.known_segments import KnownSegments
from bokilog.io.segment_files import SegmentFiles
from bokilog.journal import Moved
from bokilog.record import Buffer
from bokilog.segment import (
    GROUP_HEADER_BYTES,
    NOWHERE,
    SEGMENT_HEADER_BYTES,
    WORD_BYTES,
    Place,
    decode_group,
    decode_segment_header,
    encode_word,
)

SEGMENT_BYTES = 16 << 10
HEADERS = GROUP_HEADER_BYTES + WORD_BYTES


class Disk:
    """A disk whose writes and syncs are refused when told so; its files are real."""

    durable = True

    def __init__(self) -> None:
        self.refuses_writes = False
        self.refuses_syncs = False
        self.room: str = ""

    def write(self, fd: int, buffers: Sequence[Buffer], offset: int) -> int:
        if self.refuses_writes:
            os.pwrite(fd, b"".join(buffers)[:100], offset)
            raise OSError(errno.ENOSPC, "no space")
        return os.pwrite(fd, b"".join(buffers), offset)

    def sync(self, fd: int) -> None:
        if self.refuses_syncs:
            raise OSError(errno.EIO, "no sync")


class Staged(NamedTuple):
    """A group that is complete."""

    place: Place
    parts: list[Buffer]
    words: list[bytes]
    byte_count: int


class Rig:
    """The end of an empty journal, and whoever stages groups for it."""

    def __init__(self, directory: Path) -> None:
        self.disk = Disk()
        self.files = SegmentFiles(
            str(directory), segment_bytes=SEGMENT_BYTES, recycle_max=4, headroom_bytes=0
        )
        self.files.scan()
        self.segments = KnownSegments(self.files, open_files_max=4, keeps_something=False)
        self.end = JournalEnd(
            self.files,
            self.segments,
            segment_bytes=SEGMENT_BYTES,
            policy=self.disk,
            write=self.disk.write,
        )
        self.end.start(Recovery())

    def staged(self, data: bytes, *, unsynced: bool = False) -> Staged:
        place = self.end.place_for(len(data), unsynced=unsynced)
        word = encode_word(1, len(data))
        return Staged(place, [b"", word, data], [word], HEADERS + len(data))

    def write(self, data: bytes) -> WrittenGroup:
        return self.give(self.staged(data))

    def give(self, staged: Staged) -> WrittenGroup:
        place, parts, words, byte_count = staged
        return self.end.write(place, parts, words, byte_count=byte_count, use_headroom=False)

    def synced(self, data: bytes) -> WrittenGroup:
        group = self.write(data)
        self.end.sync(group)
        return group

    def bytes_of(self, number: int) -> bytes:
        return Path(self.files.path(number)).read_bytes()


@pytest.fixture
def rig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Rig]:
    monkeypatch.setattr("bokilog.io.segment_files.sync_directory", lambda path: None)
    made = Rig(tmp_path)
    yield made
    made.end.close()
    made.files.close()


def test_the_first_group_begins_a_segment_and_the_next_one_follows_it(rig: Rig) -> None:
    one, two = rig.synced(b"one"), rig.synced(b"two!")
    first, second = Place(1, SEGMENT_HEADER_BYTES), Place(1, SEGMENT_HEADER_BYTES + HEADERS + 3)
    assert (one.segment, one.header.offset, one.new_name) == (*first, True)
    assert (two.segment, two.header.offset, two.new_name) == (*second, False)
    assert (one.header.number, two.header.number, rig.end.last_group) == (1, 2, 2)
    assert (one.header.synced, two.header.synced) == (NOWHERE, second)
    assert rig.end.tip == Place(1, two.header.end)
    data = rig.bytes_of(1)
    for group in (one, two):
        found = decode_group(data, group.header.offset, len(data))
        assert found is not None and found.header == group.header


def test_a_group_whose_first_item_passes_the_limit_begins_a_segment(rig: Rig) -> None:
    rig.synced(b"x" * 9000)
    assert rig.staged(b"y" * 100).place.segment == 1
    moved_on = rig.synced(b"y" * 9000)
    assert (moved_on.segment, moved_on.new_name) == (2, True)
    page = decode_segment_header(rig.bytes_of(2))
    end = Place(1, SEGMENT_HEADER_BYTES + HEADERS + 9000)
    assert page is not None
    assert (page.previous_end, page.previous_group, page.synced) == (end, 1, end)
    assert rig.segments.known[1].end == end.offset


def test_while_a_group_is_unsynced_a_number_is_left_for_it(rig: Rig) -> None:
    rig.write(b"x" * 9000)
    assert rig.staged(b"y" * 9000, unsynced=True).place == Place(3, SEGMENT_HEADER_BYTES)
    assert rig.staged(b"y" * 9000).place == Place(2, SEGMENT_HEADER_BYTES)


def test_segments_grow_with_the_journal(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_end, "FIRST_SEGMENT_BYTES", 6000)
    monkeypatch.setattr(rig.files, "prepare", lambda _: None)
    for _ in range(7):
        rig.synced(b"x" * 1800)
    held = SEGMENT_HEADER_BYTES + HEADERS + 1800
    sizes = [os.stat(rig.files.path(number)).st_size for number in (1, 2, 3, 4)]
    assert sizes == [6000, 6000, 2 * held, SEGMENT_BYTES]


def test_a_refused_group_leaves_nothing_and_is_written_again(rig: Rig) -> None:
    rig.synced(b"one")
    tip, staged = rig.end.tip, rig.staged(b"two")
    rig.disk.refuses_writes = True
    with pytest.raises(OSError, match="no space"):
        rig.give(staged)
    assert (rig.end.tip, rig.end.last_group) == (tip, 1)
    rig.disk.refuses_writes = False
    assert rig.give(staged).header.number == 2


def test_a_refused_first_group_leaves_no_segment(rig: Rig) -> None:
    staged = rig.staged(b"one")
    rig.disk.refuses_writes = True
    with pytest.raises(OSError, match="no space"):
        rig.give(staged)
    assert (rig.end.tip, rig.segments.known, rig.files.free_count()) == (NOWHERE, {}, 1)
    rig.disk.refuses_writes = False
    assert rig.give(staged).segment == 1


def test_what_cannot_be_taken_back_says_so_and_why_it_was_refused(rig: Rig) -> None:
    rig.synced(b"one")
    rig.disk.refuses_writes = True
    with pytest.raises(NotTakenBack, match="cannot be taken back") as refused:
        rig.write(b"two")
    assert isinstance(refused.value.__cause__, OSError)
    assert refused.value.__cause__.errno == errno.ENOSPC


def test_p7_a_group_whose_sync_failed_is_written_to_the_next_segment(rig: Rig) -> None:
    rig.synced(b"one")
    group = rig.write(b"two")
    rig.disk.refuses_syncs = True
    with pytest.raises(OSError, match="no sync"):
        rig.end.sync(group)
    rig.disk.refuses_syncs = False
    start, until = group.header.offset, group.header.end
    moved = rig.end.write_elsewhere(group)
    assert moved == Moved(1, start, until, 2, SEGMENT_HEADER_BYTES)
    page = decode_segment_header(rig.bytes_of(2))
    assert page is not None and page.continues
    assert (page.previous_end, page.previous_group) == (Place(1, start), 1)
    assert (rig.segments.known[1].end, rig.segments.known[1].following) == (start, 2)
    assert rig.end.tip == Place(2, SEGMENT_HEADER_BYTES + until - start)


def test_p7_a_segment_that_was_never_synced_is_left_out(rig: Rig) -> None:
    group = rig.write(b"one")
    rig.end.write_elsewhere(group)
    page = decode_segment_header(rig.bytes_of(2))
    assert page is not None and not page.continues
    assert (page.previous_end, page.previous_group) == (NOWHERE, 0)


def test_a_stop_is_marked_unless_the_disk_refuses(rig: Rig) -> None:
    assert rig.end.mark_stop()  # nothing was written
    group = rig.synced(b"one")
    rig.disk.refuses_syncs = True
    assert not rig.end.mark_stop()
    rig.disk.refuses_syncs = False
    assert rig.end.mark_stop()
    data = rig.bytes_of(1)
    mark = decode_group(data, group.header.end, len(data))
    assert mark is not None
    assert (mark.header.number, mark.header.synced, mark.items) == (2, rig.end.tip, ())


def test_p32_what_has_no_room_is_told_until_there_is(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    room = ["the disk is full"]
    monkeypatch.setattr(rig.files, "lacking", lambda needed_bytes, *, new: room[0])
    rig.synced(b"one")
    place = rig.end.place_for(10, unsynced=False)
    start = place.offset + GROUP_HEADER_BYTES
    rig.end.check_room(place, start, 10, first=True)  # that much is allocated
    assert rig.end.short() == ""
    with pytest.raises(ReadOnly, match="the disk is full"):
        rig.end.check_room(place, start, SEGMENT_BYTES, first=True)
    room[0] = ""
    assert rig.end.short() == "the disk is full"
    assert rig.end.short() == ""


def test_p32_where_a_free_file_has_room_a_segment_begins(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rig.files, "lacking", lambda needed_bytes, *, new: "" if new else "full")
    rig.synced(b"one")
    place = rig.end.place_for(SEGMENT_BYTES // 2, unsynced=False)
    start = place.offset + GROUP_HEADER_BYTES
    with pytest.raises(ReadOnly):
        rig.end.check_room(place, start, SEGMENT_BYTES, first=False)
    assert rig.end.place_for(10, unsynced=False) == place
    rig.end.check_room(place, start, SEGMENT_BYTES, first=True)
    assert rig.end.place_for(10, unsynced=False) == Place(2, SEGMENT_HEADER_BYTES)
