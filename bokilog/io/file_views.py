"""A view store in a directory: one JSON file per term, for a cluster on one machine.

Decides how a compare-and-swap is made of a file lock, a temporary file and a hard link: the link
fails where a file of that name is, so two writers never both store a term, even on a file system
whose locks do not work.

    views/00000001.view            a view; people may read it
    views/incarnations/last.json   the largest incarnation given out in this cluster
    views/incarnations/NODE.json   the one that NODE registered last
    views/intent.json              the intent to end a term; of no meaning once a later view exists
    views/lease                    names who has the lease, and is locked by it for as long
    views/lock                     held for the length of one compare-and-swap

Invariants: a killed writer leaves a store that works: its temporary files mean nothing, and are
removed by the next writer. A view that a reader was given survives a loss of power: whoever sees a
term first syncs the directory, since the writer may have died between the link and its own sync.
An incarnation is on disk as the last one of the cluster before it is on disk as a node's.

The lease is a lock on an open file, so the operating system gives it back when its holder dies. A
holder that lives and does nothing (paused, hung) would keep it for ever: it also marks the file
whenever it renews, and who sees no new mark for `LEASE_TTL_S` of its own monotonic time puts a new
file in that place and locks that one. The old holder finds that its file is not the one there.

Does not know what views mean. Source: differs from Boki, which needs ZooKeeper even on one machine.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

from bokilog.errors import CorruptJournal, NotReady, WrongTerm
from bokilog.ids import NodeId, Term
from bokilog.io.directory import (
    TEMPORARY_SUFFIX,
    make_directory,
    write_new,
    write_synced,
)
from bokilog.io.sync import sync_directory
from bokilog.io.view_store import (
    LEASE_TTL_S,
    check_next,
    check_node_name,
    decode_intent,
    decode_view,
    encode_intent,
    encode_view,
)
from bokilog.view import View

# A writer holds the lock for a few syncs; ten seconds of it mean that something is wrong.
LOCK_TIMEOUT_S: Final = 10.0
_LOCK_POLL_S: Final = 0.005
_VIEW = re.compile(r"(\d{8,})\.view")
# A look at who holds the lease locks it for a moment; who wants it asks again so often.
_LEASE_TRIES: Final = 3
_LEASE_POLL_S: Final = 0.002
_CHANGE_POLL_S: Final = 0.02


class _Lease(NamedTuple):
    """The lease as this object holds it: an open, locked file."""

    node: NodeId
    descriptor: int


class _Mark(NamedTuple):
    """What a rival's lease looked like, and since when."""

    inode: int
    touched_ns: int
    since_s: float


class FileViews:
    """A `ViewStore` in a directory that all processes of the cluster see.

    Args:
        path: the directory; made by the first swap.
        now_s: a monotonic clock.
    """

    __slots__ = ("_known", "_lease", "_now_s", "_rival", "_synced", "_turn", "path")

    def __init__(self, path: Path | str, *, now_s: Callable[[], float] = time.monotonic) -> None:
        self.path = Path(path).absolute()
        self._now_s = now_s
        self._turn = threading.Lock()  # one thread at a time is at the lease
        self._lease: _Lease | None = None
        self._rival: _Mark | None = None
        self._known: Term | None = None  # the last term seen; looking goes on from there
        self._synced: Term | None = None  # up to here the directory was synced by this process

    @property
    def where(self) -> str:
        """The directory."""
        return str(self.path)

    @property
    def remote(self) -> bool:
        """No: a look at a directory is fit for an event loop."""
        return False

    def latest_term(self) -> Term | None:
        """The last stored term: one look at the directory, later one `stat` per call."""
        if self._known is None:
            terms = [int(match[1]) for match in map(_VIEW.fullmatch, _names(self.path)) if match]
            if not terms:
                return None
            self._known = Term(max(terms))
        while self._file(Term(self._known + 1)).exists():
            self._known = Term(self._known + 1)
        return self._known

    def load(self, term: Term) -> View | None:
        """The view of that term, or None.

        Raises:
            FormatTooNew: a later version stored it.
            CorruptJournal: its file is damaged.
        """
        file = self._file(term)
        try:
            data = file.read_bytes()
        except FileNotFoundError:
            return None
        view = decode_view(data, str(file))
        if view.term != term:
            raise CorruptJournal(str(file), 0, f"it holds the view of term {view.term}")
        if self._synced is None or self._synced < term:
            sync_directory(str(self.path))
            self._synced = term
        return view

    def latest(self) -> View | None:
        """The last stored view, or None."""
        term = self.latest_term()
        return None if term is None else self.load(term)

    def compare_and_swap(self, expected_term: Term | None, view: View) -> bool:
        """As `ViewStore.compare_and_swap`.

        Raises:
            InvalidSettings: `view` does not follow `expected_term`.
            NotReady: another process holds the lock for longer than any swap takes.
        """
        check_next(expected_term, view)
        make_directory(self.path)
        with self._locked():
            if self.latest_term() != expected_term:
                return False
            file = self._file(view.term)
            temporary = file.with_name(file.name + TEMPORARY_SUFFIX)
            write_new(temporary, encode_view(view))
            try:
                os.link(temporary, file)
            except FileExistsError:
                return False
            finally:
                temporary.unlink(missing_ok=True)
            sync_directory(str(self.path))
        return True

    def register_incarnation(self, node: NodeId, *, above: int = 0) -> int:
        """As `ViewStore.register_incarnation`; the counter is the cluster's, so shards differ (P1).

        Raises as `compare_and_swap`.
        """
        file, last = self._incarnation_file(node), self.path / "incarnations" / "last.json"
        make_directory(file.parent)
        with self._locked():
            number = 1 + max(_read_number(last), _read_number(file), above)
            for each in (last, file):  # a crash in between leaves a number unused, never used twice
                content = {"node": node, "incarnation": number}
                write_synced(each, json.dumps(content).encode() + b"\n")
        return number

    def latest_incarnation(self, node: NodeId) -> int:
        """As `ViewStore.latest_incarnation`."""
        return _read_number(self._incarnation_file(node))

    def store_intent(self, term: Term, reason: str) -> None:
        """As `ViewStore.store_intent`. Raises also as `compare_and_swap`."""
        make_directory(self.path)
        with self._locked():
            latest = self.latest_term()
            if latest != term:
                raise WrongTerm(-1 if latest is None else latest)
            if self.intent() is None:
                write_synced(self.path / "intent.json", encode_intent(term, reason))

    def intent(self) -> tuple[Term, str] | None:
        """As `ViewStore.intent`."""
        file = self.path / "intent.json"
        try:
            found = decode_intent(file.read_bytes(), str(file))
        except FileNotFoundError:
            return None
        return found if found[0] == self.latest_term() else None

    def try_lease(self, node: NodeId) -> bool:
        """As `ViewStore.try_lease`."""
        check_node_name(node)
        make_directory(self.path)
        with self._turn:
            if self._lease is not None:
                return self._lease.node == node and self._renewed(self._lease)
            for attempt in range(_LEASE_TRIES):
                time.sleep(_LEASE_POLL_S if attempt else 0)
                if self._take_lease(node):
                    return True
            return self._is_abandoned() and self._replace_lease(node)

    def release_lease(self, node: NodeId) -> None:
        """As `ViewStore.release_lease`."""
        with self._turn:
            if self._lease is not None and self._lease.node == node:
                self._drop_lease(self._lease)

    def lease_holder(self) -> str:
        """As `ViewStore.lease_holder`: the name in the file, if anybody has it locked."""
        try:
            descriptor = os.open(self.path / "lease", os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return ""
        try:
            if _try_lock(descriptor, exclusive=False):
                return ""
            return os.pread(descriptor, 100, 0).decode(errors="replace").strip()
        finally:
            os.close(descriptor)

    def wait_changed(self, term: Term | None, timeout_s: float) -> None:
        """As `ViewStore.wait_changed`: looks at the directory fifty times a second."""
        deadline_s = time.monotonic() + timeout_s
        while self.latest_term() == term and (left_s := deadline_s - time.monotonic()) > 0:
            time.sleep(min(_CHANGE_POLL_S, left_s))

    def close(self) -> None:
        """As `ViewStore.close`."""
        with self._turn:
            if self._lease is not None:
                self._drop_lease(self._lease)

    # --- the lease --------------------------------------------------------------------------------

    def _take_lease(self, node: NodeId) -> bool:
        """Lock the file that is there, or a new one."""
        descriptor = os.open(self.path / "lease", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        lease = _Lease(node, descriptor)
        # Between the open and the lock somebody may have put another file there.
        if _try_lock(descriptor) and self._is_current(lease):
            self._hold(lease)
            return True
        os.close(descriptor)
        return False

    def _replace_lease(self, node: NodeId) -> bool:
        """Put a file of ours in the place of one that its holder does not renew."""
        file = self.path / "lease"
        temporary = file.with_name(f"lease.{node}{TEMPORARY_SUFFIX}")
        with self._locked():
            if not self._is_abandoned():  # another one was faster
                return False
            descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            if not _try_lock(descriptor):
                os.close(descriptor)
                return False
            self._hold(_Lease(node, descriptor))
            os.replace(temporary, file)
        return True

    def _hold(self, lease: _Lease) -> None:
        os.ftruncate(lease.descriptor, 0)
        os.pwrite(lease.descriptor, f"{lease.node}\n".encode(), 0)
        self._lease, self._rival = lease, None

    def _renewed(self, lease: _Lease) -> bool:
        if not self._is_current(lease):
            self._drop_lease(lease)
            return False
        os.utime(lease.descriptor)
        return True

    def _drop_lease(self, lease: _Lease) -> None:
        self._lease = None
        os.close(lease.descriptor)

    def _is_current(self, lease: _Lease) -> bool:
        try:
            return os.path.samestat(os.fstat(lease.descriptor), os.stat(self.path / "lease"))
        except FileNotFoundError:
            return False

    def _is_abandoned(self) -> bool:
        """Whether the holder has not renewed for as long as this object has looked, and that is
        long enough; of two looks at one mark, the first counts."""
        try:
            found = os.stat(self.path / "lease")
        except FileNotFoundError:
            return False
        known, now_s = self._rival, self._now_s()
        if known is None or (known.inode, known.touched_ns) != (found.st_ino, found.st_mtime_ns):
            self._rival = _Mark(found.st_ino, found.st_mtime_ns, now_s)
            return False
        return now_s - known.since_s > LEASE_TTL_S

    # --- files ------------------------------------------------------------------------------------

    def _file(self, term: Term) -> Path:
        return self.path / f"{term:08d}.view"

    def _incarnation_file(self, node: NodeId) -> Path:
        check_node_name(node)
        return self.path / "incarnations" / f"{node}.json"

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Hold the store's lock; what a killed writer left is removed first."""
        descriptor = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            deadline_s = time.monotonic() + LOCK_TIMEOUT_S
            while not _try_lock(descriptor):
                if time.monotonic() > deadline_s:
                    raise NotReady(
                        f"the view store {str(self.path)!r} is locked by another process for "
                        f"more than {LOCK_TIMEOUT_S} s"
                    )
                time.sleep(_LOCK_POLL_S)
            for name in _names(self.path):
                if name.endswith(TEMPORARY_SUFFIX):
                    (self.path / name).unlink(missing_ok=True)
            yield
        finally:
            os.close(descriptor)


def _try_lock(descriptor: int, *, exclusive: bool = True) -> bool:
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _names(path: Path) -> list[str]:
    try:
        return os.listdir(path)
    except FileNotFoundError:
        return []


def _read_number(file: Path) -> int:
    try:
        stored: object = json.loads(file.read_bytes())
    except FileNotFoundError:
        return 0
    except ValueError as error:
        raise CorruptJournal(str(file), 0, f"it is not JSON: {error}") from None
    number: object = stored.get("incarnation") if isinstance(stored, dict) else None
    if type(number) is not int or number < 1:
        raise CorruptJournal(str(file), 0, "it holds no incarnation")
    return number
