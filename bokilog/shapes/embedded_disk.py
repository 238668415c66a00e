"""What an embedded log keeps in its directory: the lock, views, journals, index stores, ceilings.

Decides where each of them lies. Apart from `embedded.py` so that a log in memory is open before any
of this, and the library under the index store, is loaded.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from pathlib import Path

from bokilog.ids import LogSpaceId, Term
from bokilog.io.directory import claim, write_synced
from bokilog.io.file_views import FileViews
from bokilog.io.journal_file import JournalFile
from bokilog.io.sync import SyncPolicy
from bokilog.shapes.recovery import verify_item
from bokilog.storage_nodes.rocks_store import RocksStore
from bokilog.view import View

INDEX_BYTES = 64 << 20


class Disk:
    """The directory of one embedded log; locked until `close`.

    Raises:
        DirectoryInUse: another live process has it open.
        FormatTooNew: a later version wrote it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._directory = claim(path, "embedded", "embedded")
        self._views = FileViews(path / "views")

    def views(self) -> list[View]:
        """All that were stored, oldest first."""
        latest = self._views.latest_term()
        terms = range(latest + 1) if latest is not None else range(0)
        found = [self._views.load(Term(term)) for term in terms]
        return [view for view in found if view is not None]

    def store_view(self, expected: Term | None, view: View) -> None:
        """The next view; the directory's lock is held, so nobody else stores any."""
        stored = self._views.compare_and_swap(expected, view)
        assert stored, f"somebody else stored term {view.term}"

    def journal(self, space: LogSpaceId, *, sync: SyncPolicy, headroom_bytes: int) -> JournalFile:
        """The journal of a log space."""
        return JournalFile(
            self._path / f"journal-{space}",
            sync=sync,
            verify=verify_item,
            headroom_bytes=headroom_bytes,
        )

    def store(self, space: LogSpaceId) -> RocksStore:
        """The index store of a log space."""
        return RocksStore(self._path / f"index-{space}", memory_bytes=INDEX_BYTES)

    def ceilings(self) -> dict[LogSpaceId, int]:
        """By log space, the seqnum below which any may be in use (P11)."""
        file = self._path / "ceilings.json"
        if not file.exists():
            return {}
        plain = json.loads(file.read_text())
        return {LogSpaceId(int(number)): int(seqnum) for number, seqnum in plain.items()}

    def store_ceilings(self, ceilings: Mapping[LogSpaceId, int]) -> None:
        """Synced when this returns (P11)."""
        plain = {str(number): value for number, value in ceilings.items()}
        write_synced(self._path / "ceilings.json", json.dumps(plain).encode())

    def close(self) -> None:
        """Gives the directory back."""
        self._directory.close()

    def __del__(self) -> None:
        """A log that nothing holds any more would keep it for as long as the process lives."""
        directory = getattr(self, "_directory", None)  # none if somebody else has it
        if directory is None or directory.closed:
            return
        directory.close()
        told = f"the log in {str(self._path)!r} was not closed: open it with `async with`"
        warnings.warn(told, ResourceWarning, stacklevel=2)
