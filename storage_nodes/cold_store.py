"""Carries out the work on cold segments: threads, files, and the object store.

Decides how a segment gets there unharmed (its groups verified, uploaded whole, read back and
compared), what failures mean, and under which prefix a disk's objects lie: cluster, node and disk
id, so that no two nodes, and no two lives of one, ever share an object. One thread moves, one
segment at a time, with pauses, so that the loop keeps its core; a few read ranges.

A store that answers "there is no such object" is not believed before an object that was put there
first, `disk.json`, is found: a wrong bucket, or a folder that is not mounted, is a store that is
away, and never one that holds nothing.

Invariants: the loop never waits for the store or for these threads, at a stop neither: what is
under way then is known to the list, and begun again.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import Final, NamedTuple, assert_never

from xxhash import xxh3_64

from bokilog.cold import (
    LIST_FILE,
    ColdOutcome,
    ColdSegment,
    FetchRange,
    Remove,
    StoreList,
    Upload,
    decode_list,
    encode_list,
)
from bokilog.effects import ColdDone, StartCold
from bokilog.errors import BokilogError, InvalidSettings
from bokilog.frame import ITEM_FRAME, verify_frame
from bokilog.io.directory import write_synced
from bokilog.io.journal_file import JournalFile
from bokilog.io.journal_recovery import read_file
from bokilog.io.known_segments import Sealed
from bokilog.io.places import Place, open_place
from bokilog.segment import SEGMENT_HEADER_BYTES, scan_segment
from bokilog.storage_nodes.cold_reads import FETCHES_MAX

MARKER: Final = "disk.json"
READ_BACK_BYTES: Final = 8 << 20
FETCH_PATIENCE_S: Final = 20.0
"""A thread that reads is free again by then; who waits was told long before."""
WORK_S: Final = 0.002
"""So long a segment is verified before the loop gets its core back."""
PAUSE_PARTS: Final = 4
"""And for so many times as long."""

_log = logging.getLogger(__name__)

Job = Callable[[], None]
Deliver = Callable[[ColdDone], None]


class Workers:
    """A few threads that take jobs in order. They are left alone at the end of the process: a call
    to a store that hangs must not hold it up."""

    __slots__ = ("_count", "_jobs", "_name", "_started")

    def __init__(self, name: str, count: int) -> None:
        self._jobs: SimpleQueue[Job] = SimpleQueue()
        self._name = name
        self._count = count
        self._started = 0

    def submit(self, job: Job) -> None:
        if self._started < self._count:
            self._started += 1
            name = f"{self._name}-{self._started}"
            threading.Thread(target=self._run, name=name, daemon=True).start()
        self._jobs.put(job)

    def _run(self) -> None:
        while True:
            job = self._jobs.get()
            try:
                job()
            except Exception:  # top of a thread: reported, and the next job is somebody else's
                kind, value, trace = sys.exc_info()
                assert kind is not None
                hook_args = (kind, value, trace, threading.current_thread())
                threading.excepthook(threading.ExceptHookArgs(hook_args))


class ColdSpace(NamedTuple):
    """What a log space has to do with it."""

    directory: Path
    """Of its journal, where the list is."""
    journal: JournalFile


class ColdStore:
    """The object store of one storage node.

    Args:
        url: `cold_url` of the settings.
        prefix: of this disk: `CLUSTER/NODE/DISK`.
        spaces: log spaces whose segments may move.
        known: whether an object there counts. An upload may be noted that never began: it must not
            wait for the marker, which only the first one puts.
    """

    def __init__(
        self, url: str, *, prefix: str, spaces: Mapping[int, ColdSpace], known: bool
    ) -> None:
        self._url = url
        where = f"{url.rstrip('/')}/{prefix}"
        self._place: Place = open_place(where)
        self._quick: Place = open_place(where, patience_s=FETCH_PATIENCE_S)
        self._prefix = prefix
        self._spaces = spaces
        self._known = known
        self._mover = Workers("cold-mover", 1)
        self._readers = Workers("cold-reader", FETCHES_MAX)
        self._failing: set[str] = set()
        """Kinds of work of which the last one failed, as the process's log says."""
        self._closed = False

    def start(self, effect: StartCold, deliver: Deliver) -> None:
        """Begin a job; `deliver` is called on the loop when it has ended, in whatever way."""
        loop = asyncio.get_running_loop()
        space, job = self._spaces[effect.space], effect.job
        work: Callable[[], ColdOutcome]
        match job:
            case FetchRange():
                work = partial(self._fetch, effect.space, job)
            case Upload(segment):
                work = partial(self._upload, effect.space, segment, _sealed(space, segment))
            case Remove(segment):
                work = partial(self._remove, effect.space, segment)
            case StoreList(segments):
                data = encode_list(self._url, segments)
                work = partial(_store_list, space.directory / LIST_FILE, data)
            case _:
                assert_never(job)

        def run() -> None:
            outcome = ColdOutcome(problem="a bug, which the log names")
            try:
                outcome = _outcome(work)
            finally:
                if not self._closed:
                    with suppress(RuntimeError):  # the loop has ended meanwhile
                        done = ColdDone(effect.space, job, outcome)
                        loop.call_soon_threadsafe(self._done, deliver, done)

        (self._readers if isinstance(job, FetchRange) else self._mover).submit(run)

    def _done(self, deliver: Deliver, done: ColdDone) -> None:
        self._say(type(done.job).__name__, done.outcome.problem)
        deliver(done)

    def _say(self, kind: str, problem: str) -> None:
        """A line when a kind of work begins to fail, and one when it is done again."""
        if bool(problem) == (kind in self._failing):
            return
        if problem:
            self._failing.add(kind)
            _log.warning("cold store: %s failed: %s", kind, problem)
        else:
            self._failing.remove(kind)
            _log.info("cold store: %s works again", kind)

    def close(self) -> None:
        """No callback follows."""
        self._closed = True

    # --- in the threads ---------------------------------------------------------------------------

    def _fetch(self, space: int, job: FetchRange) -> ColdOutcome:
        name, until = _name(space, job.segment), min(job.until, job.segment.size_bytes)
        data = self._quick.get_range(name, job.start, until)
        if data is None:
            self._check_there(self._quick)
            return ColdOutcome(problem=f"there is no object {name} any more", final=True)
        if len(data) != job.until - job.start:
            problem = f"object {name} ends before byte {job.until}"
            return ColdOutcome(problem=problem, final=True)
        return ColdOutcome(data=data)

    def _upload(self, space: int, segment: ColdSegment, sealed: Sealed | None) -> ColdOutcome:
        if sealed is None:
            problem = f"segment {segment.segment} stays: what a crash left was written on behind it"
            return ColdOutcome(problem=problem, final=True)
        data = read_file(sealed.file, sealed.end)
        if _verified(data, sealed) != sealed.end:
            problem = f"segment {segment.segment} stays: {sealed.path} is damaged"
            return ColdOutcome(problem=problem, final=True)
        self._mark()
        name = _name(space, segment)
        self._place.put(name, data)
        expected, found = xxh3_64(data).intdigest(), self._checksum(name, len(data))
        if found != expected:
            return ColdOutcome(problem=f"object {name} reads back as something else")
        return ColdOutcome(size_bytes=len(data), checksum=expected)

    def _checksum(self, name: str, size_bytes: int) -> int | None:
        """Of an object as the store gives it back; None: it is not as long."""
        digest = xxh3_64()
        taken = 0
        while (
            data := self._place.get_range(name, taken, min(taken + READ_BACK_BYTES, size_bytes))
            if taken < size_bytes
            else None
        ):
            taken += len(data)
            digest.update(data)
        return digest.intdigest() if taken == size_bytes else None

    def _remove(self, space: int, segment: ColdSegment) -> ColdOutcome:
        if self._known or segment.size_bytes:  # its object counted once
            self._check_there(self._place)
        elif self._place.get(MARKER) is None:
            return ColdOutcome()  # no object ever counted, and none was put before that
        self._place.delete(_name(space, segment))
        return ColdOutcome()

    def _mark(self) -> None:
        """The first thing that is put there says whose the prefix is."""
        if self._known:
            self._check_there(self._place)
            return
        self._place.put(MARKER, json.dumps({"prefix": self._prefix}).encode())
        self._known = True

    def _check_there(self, place: Place) -> None:
        if place.get(MARKER) is None:
            raise OSError(
                f"nothing of this node is in {place.where} (no {MARKER}): it is another store, or"
                " is not mounted"
            )


# --- the lists at the start -----------------------------------------------------------------------


def load_list(directory: Path, url: str) -> tuple[ColdSegment, ...]:
    """The cold segments of a journal.

    Raises:
        InvalidSettings: they lie in another store than `url`.
        CorruptJournal, FormatTooNew: the list cannot be read.
    """
    file = directory / LIST_FILE
    try:
        data = file.read_bytes()
    except FileNotFoundError:
        return ()
    where, segments = decode_list(data, str(file))
    if segments and where != url:
        problem = (
            f"does not fit: {len(segments)} segments of {directory} lie in {where!r}. Set it to"
            f" that; or stop the node, copy all objects, and name the new place in {file} too"
        )
        raise InvalidSettings("cold_url", repr(url), problem)
    return segments


# --- pieces ---------------------------------------------------------------------------------------


def _name(space: int, segment: ColdSegment) -> str:
    return f"journal-{space}/{segment.name}"


def _sealed(space: ColdSpace, segment: ColdSegment) -> Sealed | None:
    """The file, opened here and now: later the segment may be another one's."""
    try:
        return space.journal.sealed(segment.segment)
    except (LookupError, OSError):
        return None  # it has its turn again at the next start


def _store_list(file: Path, data: bytes) -> ColdOutcome:
    write_synced(file, data)
    return ColdOutcome()


def _verified(data: bytes, sealed: Sealed) -> int:
    """Where the part of a segment ends of which every group and frame verifies."""
    end = SEGMENT_HEADER_BYTES
    began_s = time.monotonic()
    for group in scan_segment(
        data,
        start=SEGMENT_HEADER_BYTES,
        until=sealed.end,
        generation=sealed.generation,
        number=sealed.first_group,
        verify=lambda kind, item: kind == ITEM_FRAME and verify_frame(item),
    ):
        end = group.header.end
        spent_s = time.monotonic() - began_s
        if spent_s > WORK_S:
            time.sleep(PAUSE_PARTS * spent_s)
            began_s = time.monotonic()
    return end


def _outcome(work: Callable[[], ColdOutcome]) -> ColdOutcome:
    """Whatever the store or the disk does, the core is told."""
    try:
        return work()
    except (BokilogError, OSError) as error:
        return ColdOutcome(problem=f"{error}" or type(error).__name__)
