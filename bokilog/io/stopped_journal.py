"""A journal that nobody has open, read without changing it: for `bokilog verify`.

Decides nothing that a start would not decide: the scan is the same (`journal_recovery.py`), it only
goes on past damage and leaves the tail as it is. Does not know what items mean beyond their
checksums, nor what a fold needs of them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

from bokilog.errors import CorruptJournal, RemoteProtocolError
from bokilog.frame import HEADER_BYTES, Head, decode_head
from bokilog.io.journal_recovery import KnownSegment, Recovery, Scanner, items_of, read_file
from bokilog.io.segment_files import OpenFile, OpenFiles, StoppedSegments
from bokilog.journal import Damage, Location
from bokilog.segment import (
    GROUP_HEADER_BYTES,
    SEGMENT_HEADER_BYTES,
    Verify,
    decode_group_header,
)
from bokilog.verify import Findings, explain_damage

_OPEN_FILES_MAX = 64


class StoppedJournal:
    """What the files of a journal hold.

    Args:
        directory: of the journal; it has to be there.
        durable: its class syncs (P11): what is said to be synced has to be there.
        verify: whether an item is whole.
        findings: where damage is reported to.
        progress: told how many bytes were read.
    """

    def __init__(
        self,
        directory: Path,
        *,
        durable: bool,
        verify: Verify,
        findings: Findings,
        progress: Callable[[int], None] = lambda _: None,
    ) -> None:
        self._files = StoppedSegments(str(directory))
        self._findings = findings
        self._open_files = OpenFiles(_OPEN_FILES_MAX)
        self.notes: list[str] = []

        def counted(kind: int, data: memoryview) -> bool:
            progress(len(data))
            return verify(kind, data)

        scanner = Scanner(self._files, durable=durable, verify=counted, salvage=self._report)
        try:
            self._found = scanner.scan(0)
        except CorruptJournal as error:
            findings.add(error.path, error.offset, error.problem, "the segment and all after it")
            self._found = Recovery()
        self._known: dict[int, KnownSegment] = self._found.known
        self._numbers = frozenset(self._known)
        self._note_end()

    @property
    def clean(self) -> bool:
        """The last stop was clean, or nothing was ever written."""
        return self._found.clean

    @property
    def segments(self) -> frozenset[int]:
        """Those that count."""
        return self._numbers

    @property
    def newest(self) -> int:
        """The last of them, 0 without any."""
        return max(self._known, default=0)

    @property
    def size_bytes(self) -> int:
        """Up to the ends of the segments."""
        return sum(known.end or self._found.tip.offset for known in self._known.values())

    @property
    def last_group(self) -> int:
        """The number of the last group that counts."""
        return self._found.last_group

    def items(self) -> Iterator[tuple[int, Location, memoryview]]:
        """All items of whole groups, in order."""
        return items_of(self._found, self._files, 0)

    def head(self, location: Location) -> Head | None:
        """The header of the frame at a location, wherever it stands now (P7); None: none."""
        segment, offset = self._resolve(location.segment, location.offset)
        known = self._known.get(segment)
        if known is None or (known.end is not None and offset + location.length > known.end):
            return None
        file = self._open_files.get(segment) or self._open(segment)
        try:
            return decode_head(os.pread(file.fd, HEADER_BYTES, offset))
        except (OSError, RemoteProtocolError):
            return None

    def _resolve(self, segment: int, offset: int) -> tuple[int, int]:
        while known := self._known.get(segment):
            if known.end is None or offset < known.end or known.following is None:
                break
            offset += SEGMENT_HEADER_BYTES - known.end
            segment = known.following
        return segment, offset

    def _open(self, segment: int) -> OpenFile:
        file = self._files.open(segment)
        self._open_files.put(segment, file)
        return file

    def _report(self, damage: Damage) -> None:
        try:
            file = self._files.open(damage.segment)
            data = read_file(file, os.fstat(file.fd).st_size)
        except FileNotFoundError:
            data = b""
        for finding in explain_damage(data, damage):
            self._findings.add(*finding)

    def _note_end(self) -> None:
        """How it was stopped; a group that was begun and is not whole is a torn tail (P30)."""
        if self._found.clean:
            return
        tip = self._found.tip
        self.notes.append("not stopped cleanly: the next start writes the last group anew")
        if self._found.dropped:
            self.notes.append("segments behind the end were never synced, and are dropped")
        known = self._known.get(tip.segment)
        if known is None:
            return
        file = self._files.open(tip.segment)
        header = decode_group_header(os.pread(file.fd, GROUP_HEADER_BYTES, tip.offset))
        if header is None or header.offset != tip.offset:
            return
        if header.generation == known.header.generation:
            self.notes.append(
                f"torn tail: group {header.number} at offset {tip.offset} of"
                f" {self._files.path(tip.segment)} is not whole, and nobody was told about it"
            )
