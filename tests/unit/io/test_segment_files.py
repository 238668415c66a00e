"""Files that are made ahead: when they are filled with zeros, and what becomes of them else."""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bokilog.io import segment_files
from bokilog.io.segment_files import SegmentFiles

SIZE = 3 * segment_files._FILL_STEP_BYTES + 100
SLOW, FAST = 1 << 60, 0


@pytest.fixture
def files(tmp_path: Path) -> Iterator[SegmentFiles]:
    made = SegmentFiles(
        str(tmp_path), segment_bytes=SIZE, recycle_max=4, headroom_bytes=0, fills=True
    )
    made.scan()
    yield made
    made.close()


def settle(files: SegmentFiles) -> None:
    """Wait for what is done in the background."""
    settled = threading.Event()
    files._background.submit(settled.set)
    assert settled.wait(10)


def prepared(files: SegmentFiles, monkeypatch: pytest.MonkeyPatch, below_bytes_s: int) -> None:
    monkeypatch.setattr(segment_files, "_FILL_BELOW_BYTES_S", below_bytes_s)
    files.prepare(1000)
    settle(files)


def test_the_next_file_of_a_slow_log_is_filled(
    files: SegmentFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    offsets: list[int] = []
    pwrite: Callable[[int, bytes, int], int] = os.pwrite

    def noted(fd: int, data: bytes, offset: int) -> int:
        assert files.free_count() == 0, "nobody may have it yet"
        offsets.extend((offset, offset + len(data)))
        return pwrite(fd, data, offset)

    monkeypatch.setattr(os, "pwrite", noted)
    prepared(files, monkeypatch, SLOW)
    assert (files.filled_count, files.free_count()) == (1, 1)
    assert offsets[0] == 0
    assert offsets[1:-1:2] == offsets[2::2], "without a gap"
    assert offsets[-1] == SIZE
    assert next(tmp_path.glob("*.free")).read_bytes() == bytes(SIZE)


def test_the_next_file_of_a_fast_log_is_only_allocated(
    files: SegmentFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared(files, monkeypatch, FAST)
    assert (files.filled_count, files.free_count()) == (0, 1)
    assert next(tmp_path.glob("*.free")).stat().st_size == SIZE


def test_how_fast_a_log_is_counts_from_where_its_segment_began(
    files: SegmentFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_s = [time.monotonic() + 1000]
    monkeypatch.setattr(time, "monotonic", lambda: now_s[0])
    files.create(1, 100, use_headroom=False)
    now_s[0] += 2
    files.prepare(3 * segment_files._FILL_BELOW_BYTES_S)
    settle(files)
    assert files.filled_count == 0
    files.create(2, 100, use_headroom=False)
    now_s[0] += 2
    files.prepare(segment_files._FILL_BELOW_BYTES_S)
    settle(files)
    assert files.filled_count == 1


def test_what_is_not_synced_is_not_filled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = SegmentFiles(str(tmp_path), segment_bytes=SIZE, recycle_max=4, headroom_bytes=0)
    files.scan()
    prepared(files, monkeypatch, SLOW)
    assert (files.filled_count, files.free_count()) == (0, 1)
    files.close()


def test_a_disk_that_refuses_zeros_leaves_nothing_behind(
    files: SegmentFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> int:
        raise OSError(errno.EIO, "the disk fails")

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", refuse)
        prepared(files, monkeypatch, SLOW)
    assert (files.failed_count, files.free_count(), list(tmp_path.iterdir())) == (1, 0, [])
    files.prepare(1000)
    settle(files)
    assert (files.filled_count, files.free_count()) == (1, 1)


def test_filling_ends_when_the_journal_is_closed(
    files: SegmentFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segment_files, "_FILL_PAUSE_S", 0.0)
    steps: list[int] = []
    begun, closing = threading.Event(), threading.Event()
    pwrite: Callable[[int, bytes, int], int] = os.pwrite

    def slow(fd: int, data: bytes, offset: int) -> int:
        steps.append(offset)
        begun.set()
        assert closing.wait(10)
        return pwrite(fd, data, offset)

    monkeypatch.setattr(os, "pwrite", slow)
    monkeypatch.setattr(segment_files, "_FILL_BELOW_BYTES_S", SLOW)
    files.prepare(1000)
    assert begun.wait(10)
    files._closing = True  # as `close` begins, which waits for the thread then
    closing.set()
    files.close()
    assert (steps, files.filled_count) == ([0], 0)
