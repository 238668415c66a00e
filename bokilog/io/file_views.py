"""A view store in a directory: one JSON file per term, for a cluster on one machine.

Decides how a compare-and-swap is made of a file lock, a temporary file and a hard link: the link
fails where a file of that name is, so two writers never both store a term, even on a file system
whose locks do not work.

    views/00000001.view            a view; people may read it
    views/incarnations/last.json   the largest incarnation given out in this cluster
    views/incarnations/NODE.json   the one that NODE registered last
    views/lock                     held for the length of one compare-and-swap

Invariants: a killed writer leaves a store that works: its temporary files mean nothing, and are
removed by the next writer. A view that a reader was given survives a loss of power: whoever sees a
term first syncs the directory, since the writer may have died between the link and its own sync.
An incarnation is on disk as the last one of the cluster before it is on disk as a node's.

Does not know what views mean. Source: differs from Boki, which needs ZooKeeper even on one machine.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from bokilog.errors import CorruptJournal, InvalidSettings, NotReady
from bokilog.ids import NodeId, Term
from bokilog.io.directory import (
    TEMPORARY_SUFFIX,
    make_directory,
    write_new,
    write_synced,
)
from bokilog.io.sync import sync_directory
from bokilog.io.view_store import check_next, decode_view, encode_view
from bokilog.view import View

# A writer holds the lock for a few syncs; ten seconds of it mean that something is wrong.
LOCK_TIMEOUT_S: Final = 10.0
_LOCK_POLL_S: Final = 0.005
_VIEW = re.compile(r"(\d{8,})\.view")
# Names of nodes become names of files.
_NODE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class FileViews:
    """A `ViewStore` in a directory that all processes of the cluster see."""

    __slots__ = ("_known", "_synced", "path")

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path).absolute()
        self._known: Term | None = None  # the last term seen; looking goes on from there
        self._synced: Term | None = None  # up to here the directory was synced by this process

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

    def register_incarnation(self, node: NodeId) -> int:
        """As `ViewStore.register_incarnation`; the counter is the cluster's, so shards differ (P1).

        Raises as `compare_and_swap`.
        """
        file, last = self._incarnation_file(node), self.path / "incarnations" / "last.json"
        make_directory(file.parent)
        with self._locked():
            number = 1 + max(_read_number(last), _read_number(file))
            for each in (last, file):  # a crash in between leaves a number unused, never used twice
                content = {"node": node, "incarnation": number}
                write_synced(each, json.dumps(content).encode() + b"\n")
        return number

    def latest_incarnation(self, node: NodeId) -> int:
        """As `ViewStore.latest_incarnation`."""
        return _read_number(self._incarnation_file(node))

    def _file(self, term: Term) -> Path:
        return self.path / f"{term:08d}.view"

    def _incarnation_file(self, node: NodeId) -> Path:
        if not _NODE.fullmatch(node) or node == "last":
            problem = "is not a name of 1 to 64 letters, digits, dots, hyphens and underscores"
            raise InvalidSettings("node_id", repr(node), problem)
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


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
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
