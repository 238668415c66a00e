"""The files of a journal: names, a pool of files to use again, and work kept off the commit path.

`00000012.seg` is segment 12. `00000003.free` is a file without a segment: recycled or allocated
ahead; what it holds never counts. Decides which file becomes the next segment and when one is
given back to the disk.

Invariants:
- A name is synced before it matters (P31): the directory's when it is made; a recycled file is in
  the pool only once its new name is durable; the caller syncs the directory with the first group of
  a new segment.
- Before a segment's file is recycled, its predecessor notes where it ends (`SegmentEnd`), because
  the header that said so goes away.
- Nothing is unlinked or truncated but in the background thread, in slices: 1 ms per MiB here
  (LIMITS point 7).
- What an earlier process left to the operating system is written again, where it is, before its
  first sync here: a sync that failed there may have dropped it, and the next one would not say so
  (P7).
- A file that is being filled is in nobody's hands: it is in the pool only afterwards.

What was only allocated is turned into written blocks at the first sync of each, which has to wait
for the file system's own journal; blocks that were written once are not. So a file that is made
ahead is filled with zeros, as PostgreSQL does (`wal_init_zero`), unless the log grows so fast that
its bytes are what a sync waits for: then each would be written twice for nothing.

Does not know what groups are.
"""

from __future__ import annotations

import errno
import os
import sys
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from queue import SimpleQueue

from bokilog.io.directory import make_directory
from bokilog.io.sync import DataSync, sync_directory, write_all, write_at
from bokilog.segment import (
    SEGMENT_END_OFFSET,
    SEGMENT_HEADER_BYTES,
    Place,
    SegmentEnd,
    decode_segment_header,
    encode_segment_end,
)

# Between two slices others get at the disk; the largest stall seen here is about 8 ms.
_SHRINK_STEP_BYTES = 8 << 20
# A log that grows faster gets files without zeros: they would cost it as much again.
_FILL_BELOW_BYTES_S = 16 << 20
# A commit meanwhile waits for one step at most: about 1 ms here.
_FILL_STEP_BYTES = 256 << 10
_FILL_PAUSE_S = 0.001
# Less slack than this behind a segment's end is not worth a truncation.
_SLACK_BYTES = 64 << 10


class OpenFile:
    """A descriptor that closes when nobody refers to it any more.

    So a reader in another thread never sees its descriptor closed, and given to another file,
    between looking it up and using it.
    """

    __slots__ = ("fd",)

    def __init__(self, path: str, flags: int) -> None:
        self.fd = -1
        self.fd = os.open(path, flags | os.O_CLOEXEC, 0o644)

    def __del__(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)


class OpenFiles:
    """The most recently used open segments, at most `limit` of them."""

    __slots__ = ("_files", "_limit")

    def __init__(self, limit: int) -> None:
        self._files: OrderedDict[int, OpenFile] = OrderedDict()
        self._limit = limit

    def get(self, number: int) -> OpenFile | None:
        """The open file of a segment, if it is still open."""
        file = self._files.get(number)
        if file is not None:
            with suppress(KeyError):  # another thread may have dropped it just now
                self._files.move_to_end(number)
        return file

    def put(self, number: int, file: OpenFile) -> None:
        """Remember a file; the one unused for longest is forgotten."""
        self._files[number] = file
        if len(self._files) > self._limit:
            with suppress(KeyError):
                self._files.popitem(last=False)

    def drop(self, number: int) -> None:
        """Forget a segment's file; readers that have it keep it."""
        self._files.pop(number, None)

    def clear(self) -> None:
        """Forget all."""
        self._files.clear()


class Background:
    """One thread that runs jobs in order; it starts with the first job, so a fork before is fine.

    A job that raises is reported through `threading.excepthook`; the thread goes on, because
    somebody may wait for a later job.
    """

    __slots__ = ("_jobs", "_name", "_thread")

    def __init__(self, name: str) -> None:
        self._jobs: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._name = name
        self._thread: threading.Thread | None = None

    def submit(self, job: Callable[[], None]) -> None:
        """Run `job` after those before it."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
            self._thread.start()
        self._jobs.put(job)

    def stop(self) -> None:
        """Finish the jobs submitted so far, then end."""
        if self._thread is not None:
            self._jobs.put(None)
            self._thread.join()
            self._thread = None

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            try:
                job()
            except Exception:  # top of a thread: reported, and the next job is somebody else's
                kind, value, trace = sys.exc_info()
                assert kind is not None
                hook_args = (kind, value, trace, threading.current_thread())
                threading.excepthook(threading.ExceptHookArgs(hook_args))


class SegmentFiles:
    """The directory of a journal."""

    def __init__(
        self,
        directory: str,
        *,
        segment_bytes: int,
        recycle_max: int,
        headroom_bytes: int,
        fills: bool = False,
    ) -> None:
        """Name a directory; nothing is read or created yet.

        Args:
            directory: of the journal.
            segment_bytes: what a new file is given.
            recycle_max: files kept to be used again.
            headroom_bytes: space on the disk that only `use_headroom` takes.
            fills: what is written gets synced, so files that are made ahead are filled.
        """
        self.directory = directory
        self.segment_bytes = segment_bytes
        """What a new file is given; its owner lets it grow with the journal."""
        self._recycle_max = recycle_max
        self._headroom_bytes = headroom_bytes
        self._fills = fills
        self._begun_s = time.monotonic()  # of the last segment
        self._free: deque[str] = deque()  # appended by the thread, taken by the owner
        self._next_free = 1
        self._preparing = False
        self._closing = False
        self._unsure: dict[int, int] = {}
        """Bytes of segments that an earlier process wrote and may have failed to sync."""
        self._lock = threading.Lock()  # over `_next_free`, which both sides count
        self._background = Background("journal-files")
        self.filled_count = self.recycled_count = 0
        self.failed_count = 0
        """Background jobs that the disk refused; the space comes back at the next recovery."""

    # --- names ---

    def path(self, number: int) -> str:
        """Where segment `number` lies."""
        return f"{self.directory}/{number:08d}.seg"

    def scan(self) -> list[int]:
        """Numbers of all segment files, ascending; fills the pool with the free files."""
        make_directory(Path(self.directory))
        numbers: list[int] = []
        free: list[int] = []
        for name in os.listdir(self.directory):
            stem, _, suffix = name.partition(".")
            if stem.isdecimal() and suffix in ("seg", "free"):
                (numbers if suffix == "seg" else free).append(int(stem))
        self._next_free = max(free, default=0) + 1
        paths = [f"{self.directory}/{number:08d}.free" for number in sorted(free)]
        self._free = deque(paths[: self._recycle_max])
        for path in paths[self._recycle_max :]:
            self._in_background(partial(self._unlink, path))
        return sorted(numbers)

    def left_unsynced(self, ends: Mapping[int, int]) -> None:
        """An earlier process left these segments, so far, to the operating system."""
        self._unsure = dict(ends)

    def sync_directory(self) -> None:
        """Make the names durable."""
        sync_directory(self.directory)

    def free_bytes(self) -> int:
        """Space on the disk that a process without privileges gets."""
        status = os.statvfs(self.directory)
        return status.f_bavail * status.f_frsize

    def free_count(self) -> int:
        """Files in the pool."""
        return len(self._free)

    # --- on the commit path ---

    def create(self, number: int, needed_bytes: int, *, use_headroom: bool) -> OpenFile:
        """The file of a new segment, with room for `needed_bytes` at least, under its name.

        The name is not synced. Raises OSError, with nothing left behind, if there is no room.
        """
        draft = self.draft(needed_bytes, use_headroom=use_headroom)
        try:
            return self.adopt(draft, number)
        except OSError:
            self._free.append(draft)
            raise

    def lacking(self, needed_bytes: int, *, new: bool) -> str:
        """Why so many bytes do not fit beside the reserve; empty if they do.

        Args:
            needed_bytes: of a segment, or behind the end of what was allocated for one.
            new: they begin a segment, for which a file may stand ready.
        """
        if new:
            with suppress(IndexError, FileNotFoundError):  # the thread may take it just now
                needed_bytes -= os.stat(self._free[0]).st_size
        if needed_bytes <= 0:
            return ""
        room = self.free_bytes() - self._headroom_bytes
        if needed_bytes <= room:
            return ""
        return f"{_no_room(needed_bytes, room)} on the disk of {self.directory}"

    def draft(self, needed_bytes: int, *, use_headroom: bool) -> str:
        """Path of a free file with room for `needed_bytes`; it does not count until adopted."""
        try:
            path = self._free.popleft()
        except IndexError:
            return self._new_file(needed_bytes, use_headroom=use_headroom)
        try:
            self._allocate(path, needed_bytes, use_headroom=use_headroom)
        except OSError:
            self._free.append(path)
            raise
        return path

    def adopt(self, draft: str, number: int) -> OpenFile:
        """Give a free file the name of a segment."""
        file = OpenFile(draft, os.O_RDWR)
        os.rename(draft, self.path(number))
        self._begun_s = time.monotonic()
        return file

    def give_back(self, number: int) -> None:
        """Undo `create`: what was written to the file does not count. Synced on return."""
        path = self._new_free_path()
        os.rename(self.path(number), path)
        self.sync_directory()
        self._free.append(path)

    def open(self, number: int, *, to_write: bool = False) -> OpenFile:
        """An existing segment; to read only, a disk that went read-only still gives it."""
        return OpenFile(self.path(number), os.O_RDWR if to_write else os.O_RDONLY)

    # --- in the background ---

    def prepare(self, written_bytes: int) -> None:
        """Have a file ready for the next segment, so that no commit waits for the allocation.

        Args:
            written_bytes: to the segment that was begun last.
        """
        if not self._free and not self._preparing:
            self._preparing = True
            passed_s = time.monotonic() - self._begun_s
            fill = self._fills and written_bytes < _FILL_BELOW_BYTES_S * passed_s
            self._in_background(partial(self._prepare, fill=fill))

    def recycle(
        self,
        number: int,
        *,
        previous_end: Place,
        previous_group: int,
        synced_before: int | None = None,
    ) -> None:
        """Take a released segment out; what its header says of the one before it is noted there.

        `synced_before`: a segment that is on the disk before this one goes.
        """

        def job() -> None:
            if synced_before is not None:
                self._sync(synced_before)
            self._note_end(previous_end, previous_group)
            self._set_free(number)

        self._in_background(job)

    def sync_all(self, numbers: Sequence[int], on_done: Callable[[str], None]) -> None:
        """Sync segments and their names; one that is gone meanwhile is not missed.

        `on_done` is called in the thread with what the disk says against it, or an empty text.
        """

        def job() -> None:
            try:
                for number in numbers:
                    with suppress(FileNotFoundError):
                        self._sync(number)
                self.sync_directory()
            except OSError as error:
                self.failed_count += 1
                on_done(str(error))
            else:
                on_done("")

        self._background.submit(job)

    def drop(self, number: int) -> None:
        """Take out a segment that does not count."""
        self._in_background(lambda: self._set_free(number))

    def shrink(self, number: int, end: int) -> None:
        """Give back what was allocated behind a segment's end, if that is worth the work."""
        path = self.path(number)
        if os.stat(path).st_size - end > _SLACK_BYTES:
            self._in_background(partial(self._truncate, path, end))

    def close(self) -> None:
        """End the thread; long deletions are left to the next start."""
        self._closing = True
        self._background.stop()

    def _sync(self, number: int) -> None:
        file = self.open(number, to_write=True)  # held: it closes when nobody refers to it
        until = self._unsure.get(number, 0)
        for offset in range(0, until, _FILL_STEP_BYTES):
            data = os.pread(file.fd, min(_FILL_STEP_BYTES, until - offset), offset)
            write_all(write_at, file.fd, [data], offset=offset, byte_count=len(data))
        DataSync().sync(file.fd)
        self._unsure.pop(number, None)

    def _in_background(self, job: Callable[[], None]) -> None:
        def guarded() -> None:
            try:
                job()
            except OSError:  # nothing is lost: the next recovery finds the files as they are
                self.failed_count += 1

        self._background.submit(guarded)

    def _prepare(self, *, fill: bool) -> None:
        try:
            path = self._new_file(self.segment_bytes, use_headroom=False, fill=fill)
            self._free.append(path)
        finally:
            self._preparing = False

    def _new_file(self, needed_bytes: int, *, use_headroom: bool, fill: bool = False) -> str:
        path = self._new_free_path()
        try:
            self._allocate(path, needed_bytes, use_headroom=use_headroom)
            if fill:
                self._fill(path)
        except OSError:
            with suppress(FileNotFoundError):
                os.unlink(path)
            raise
        return path

    def _set_free(self, number: int) -> None:
        path = self._new_free_path()
        os.rename(self.path(number), path)
        self.sync_directory()
        self.recycled_count += 1
        if len(self._free) < self._recycle_max:
            self._free.append(path)
        else:
            self._unlink(path)

    def _note_end(self, end: Place, last_group: int) -> None:
        try:
            file = OpenFile(self.path(end.segment), os.O_RDWR)
        except FileNotFoundError:
            return  # recycled before: the one below it has a note already
        header = decode_segment_header(os.pread(file.fd, SEGMENT_HEADER_BYTES, 0))
        if header is None:
            raise OSError(errno.EIO, f"the header of segment {end.segment} does not verify")
        note = SegmentEnd(header.generation, header.number, end.offset, last_group)
        os.pwrite(file.fd, encode_segment_end(note), SEGMENT_END_OFFSET)
        # Whatever the policy: the name of the recycled segment is synced next, and must not be
        # gone while this note is not there.
        DataSync().sync(file.fd)

    def _truncate(self, path: str, end: int) -> None:
        size = os.stat(path).st_size
        while size > end and not self._closing:
            size = max(end, size - _SHRINK_STEP_BYTES)
            os.truncate(path, size)

    def _unlink(self, path: str) -> None:
        self._truncate(path, 0)
        if not self._closing:
            os.unlink(path)

    def _allocate(self, path: str, needed_bytes: int, *, use_headroom: bool) -> None:
        file = OpenFile(path, os.O_RDWR | os.O_CREAT)
        size = os.fstat(file.fd).st_size
        wanted = max(self.segment_bytes, needed_bytes)
        if size >= wanted:
            return
        room = self.free_bytes() - self._headroom_bytes
        if room < wanted - size:
            wanted = needed_bytes  # also of the reserve no more than that: others would write to it
        if use_headroom:
            room += self._headroom_bytes
        if room < wanted - size:
            raise OSError(errno.ENOSPC, _no_room(needed_bytes, room))
        _fallocate(file.fd, wanted)

    def _fill(self, path: str) -> None:
        """Write zeros over a file that nobody has yet, so that its blocks are written ones."""
        file = OpenFile(path, os.O_RDWR)
        size = os.fstat(file.fd).st_size
        zeros = bytes(_FILL_STEP_BYTES)
        for offset in range(0, size, _FILL_STEP_BYTES):
            if self._closing:
                return
            os.pwrite(file.fd, zeros[: size - offset], offset)
            DataSync().sync(file.fd)
            time.sleep(_FILL_PAUSE_S)
        self.filled_count += 1

    def _new_free_path(self) -> str:
        with self._lock:
            number = self._next_free
            self._next_free += 1
        return f"{self.directory}/{number:08d}.free"


class StoppedSegments:
    """The segment files of a journal that nobody has open, to be read only: changes nothing."""

    __slots__ = ("_directory",)

    def __init__(self, directory: str) -> None:
        self._directory = directory

    def path(self, number: int) -> str:
        """Where segment `number` lies."""
        return f"{self._directory}/{number:08d}.seg"

    def scan(self) -> list[int]:
        """Numbers of all segment files, ascending."""
        stems = [name[:-4] for name in os.listdir(self._directory) if name.endswith(".seg")]
        return sorted(int(stem) for stem in stems if stem.isdecimal())

    def open(self, number: int) -> OpenFile:
        """An existing segment."""
        return OpenFile(self.path(number), os.O_RDONLY)


def _no_room(needed_bytes: int, room_bytes: int) -> str:
    free_bytes = max(room_bytes, 0)
    return f"{needed_bytes} bytes are needed and {free_bytes} are free beside the reserve"


def _fallocate(fd: int, size: int) -> None:
    """Allocate ahead where the file system can; elsewhere the file grows as it is written."""
    if not hasattr(os, "posix_fallocate"):
        return
    try:
        os.posix_fallocate(fd, 0, size)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
            raise
