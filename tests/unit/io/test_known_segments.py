"""Where bytes stand that had to move, and which segments may be let go."""

from __future__ import annotations

from pathlib import Path

import pytest

from bokilog.io.journal_recovery import KnownSegment, Recovery, Run
from bokilog.io.known_segments import KnownSegments
from bokilog.io.segment_files import SegmentFiles
from bokilog.journal import SegmentInfo, SegmentReleased
from bokilog.segment import (
    NOWHERE,
    SEGMENT_HEADER_BYTES,
    Place,
    SegmentHeader,
)


class Files(SegmentFiles):
    """Notes what is let go, and does nothing."""

    def __init__(self, directory: Path) -> None:
        super().__init__(str(directory), segment_bytes=0, recycle_max=0, headroom_bytes=0)
        self.recycled: list[tuple[int, int | None]] = []

    def recycle(
        self,
        number: int,
        *,
        previous_end: Place,
        previous_group: int,
        synced_before: int | None = None,
    ) -> None:
        self.recycled.append((number, synced_before))


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


def segments(files: Files, *known: KnownSegment, keeps_something: bool = False) -> KnownSegments:
    made = KnownSegments(files, open_files_max=4, keeps_something=keeps_something)
    made.adopt(Recovery(known={each.header.number: each for each in known}))
    return made


def segment(
    number: int,
    *,
    end: int | None = 9000,
    last_group: int = 0,
    following: int | None = None,
    continues: bool = False,
) -> KnownSegment:
    header = SegmentHeader(
        generation=number + 100,
        number=number,
        previous_end=Place(number - 1, 9000),
        previous_group=last_group,
        synced=NOWHERE,
        continues=continues,
    )
    return KnownSegment(header, end, last_group, following)


def test_p7_bytes_that_moved_stand_at_the_same_distance(files: Files) -> None:
    found = segments(
        files,
        segment(1, end=5000, following=2),
        segment(2, end=SEGMENT_HEADER_BYTES + 50, following=3, continues=True),
        segment(3, end=None, continues=True),
    )
    assert found.resolve(1, 4999) == (1, 4999)
    assert found.resolve(1, 5000) == (2, SEGMENT_HEADER_BYTES)
    assert found.resolve(1, 5049) == (2, SEGMENT_HEADER_BYTES + 49)
    assert found.resolve(1, 5050) == (3, SEGMENT_HEADER_BYTES)
    assert found.moved_to(1, 5060) == (3, SEGMENT_HEADER_BYTES + 10)
    assert found.resolve(7, 1) == (7, 1)


def test_bytes_that_nobody_holds_are_released(files: Files) -> None:
    found = segments(files, segment(1, end=5000), segment(2, end=5000, following=3))
    for place in [(1, 5000), (2, 5000), (9, 4096)]:
        with pytest.raises(SegmentReleased, match=f"segment {place[0]}"):
            found.moved_to(*place)
    with pytest.raises(SegmentReleased, match="segment 1 is gone"):
        found.open(1)


def test_the_open_segment_ends_with_the_journal_and_stays(files: Files) -> None:
    found = segments(files, segment(2, end=None, last_group=4), segment(1, last_group=3))
    tip = Place(2, 7000)
    assert found.infos(tip, 8) == (
        SegmentInfo(2, 7000, 5, 8, True),
        SegmentInfo(1, 9000, 4, 3, False),
    )
    assert found.runs(tip) == [
        Run(1, 101, SEGMENT_HEADER_BYTES, 9000, 4),
        Run(2, 102, SEGMENT_HEADER_BYTES, 7000, 5),
    ]
    with pytest.raises(ValueError, match="segment 2 is the open one"):
        found.release(2, meant=())
    found.release(7, meant=())  # gone already
    assert files.recycled == []


def test_a_segment_that_continues_another_goes_after_it(files: Files) -> None:
    found = segments(
        files, segment(1, following=2), segment(2, continues=True), segment(3, end=None)
    )
    found.release(2, meant=())
    assert (files.recycled, found.deferred) == ([], {2})
    found.release(1, meant=())
    assert files.recycled == [(1, None), (2, None)]
    assert (list(found.known), found.deferred) == ([3], set())


def test_a_segment_that_unsynced_items_name_goes_once_they_are_synced(files: Files) -> None:
    found = segments(files, segment(1), segment(2, end=None))
    found.release(1, meant=[1])
    found.release_deferred(meant=[1])
    assert (files.recycled, found.deferred) == ([], {1})
    found.release_deferred(meant=[2])
    assert (files.recycled, found.deferred) == ([(1, None)], set())


def test_what_is_left_is_on_the_disk_before_a_segment_goes(files: Files) -> None:
    found = segments(files, segment(1), segment(2), segment(3, end=None), keeps_something=True)
    found.release(2, meant=())
    found.release(1, meant=())
    assert files.recycled == [(2, 3), (1, 3)]


def test_only_bytes_that_are_all_a_segments_own_are_sealed(files: Files, tmp_path: Path) -> None:
    Path(files.path(1)).touch()
    found = segments(
        files,
        segment(1, last_group=6),
        segment(2, following=3),
        segment(3, continues=True),
        segment(4, end=None),
    )
    sealed = found.sealed(1, meant=())
    assert sealed is not None
    assert (sealed.path, sealed.end) == (str(tmp_path / "00000001.seg"), 9000)
    assert (sealed.generation, sealed.first_group) == (101, 7)
    assert found.open_files.get(1) is sealed.file
    assert [found.sealed(number, meant=()) for number in (2, 3, 4, 5)] == [None] * 4
    assert found.sealed(1, meant=[1]) is None
