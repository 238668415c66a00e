"""Journal segments that lie in an object store: the list of them, and the work there is on them.

Decides what the list says, its bytes, and what a segment's object is called. A segment goes through
`ColdState` in one direction: its upload is noted before the first byte leaves, so that nothing in
the store is ever forgotten; it counts as cold once the whole object was read back and compared; it
is deleted once nothing in it is needed.

Invariants: the list is replaced as a whole and synced (P31) before anybody acts on what it says; an
object's name is never used twice, since it has the number of the start that noted it, and its
prefix the disk. Does not know who moves segments when (`storage_nodes/cold.py`), nor any store.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from enum import Enum
from typing import Final

from bokilog.errors import CorruptJournal, FormatTooNew
from bokilog.named import NamedTuple

LIST_FILE: Final = "cold.json"
"""In the directory of the journal, so that the two are moved away together."""
FORMAT: Final = 1


class ColdState(Enum):
    """What is true of a segment once the list that says so is synced."""

    UPLOADING = "uploading"
    """An object of it may exist; the segment counts."""
    COLD = "cold"
    """The object counts; the segment may be gone."""
    DELETING = "deleting"
    """An object of it may exist, and nobody needs it."""


class ColdSegment(NamedTuple):
    """One line of the list."""

    segment: int
    incarnation: int
    """Of the start that noted its upload."""
    state: ColdState
    size_bytes: int = 0
    """Of the object; 0 until it is cold."""
    checksum: int = 0
    """xxh3-64 of the object."""

    @property
    def name(self) -> str:
        """Of its object, below the prefix of the node's disk and the log space."""
        return f"{self.segment:08d}-{self.incarnation}.seg"


class ColdMiss(LookupError):
    """Bytes `[start, until)` of a segment lie in the object store, and are not at hand."""

    def __init__(self, segment: int, start: int, until: int) -> None:
        super().__init__(f"[{start}, {until}) of segment {segment} lies cold")
        self.segment = segment
        self.start = start
        self.until = until


# --- the list's bytes -----------------------------------------------------------------------------


def encode_list(where: str, segments: Iterable[ColdSegment]) -> bytes:
    """The list as JSON, one segment a line; `where` names the store."""
    head = json.dumps({"format": FORMAT, "where": where})[:-1]
    lines = (
        json.dumps([*each[:2], each.state.value, each.size_bytes, f"{each.checksum:016x}"])
        for each in segments
    )
    body = ",\n  ".join(lines)
    return f'{head}, "segments": [\n  {body}\n]}}\n'.encode()


def decode_list(data: bytes, path: str) -> tuple[str, tuple[ColdSegment, ...]]:
    """The store that a list names, and its segments.

    Raises:
        FormatTooNew: a later version wrote it.
        CorruptJournal: it is no list of cold segments.
    """
    try:
        found: object = json.loads(data)
        if not isinstance(found, dict):
            raise TypeError("it is not a JSON object")
        version = int(found["format"])
        if version > FORMAT:
            raise FormatTooNew(f"the list of cold segments {path!r}", version, FORMAT)
        segments = tuple(_segment(line) for line in found["segments"])
        where = str(found["where"])
    except (ValueError, TypeError, KeyError) as error:
        raise CorruptJournal(path, 0, f"it is no list of cold segments: {error}") from None
    if len({each.segment for each in segments}) != len(segments):
        raise CorruptJournal(path, 0, "it is no list of cold segments: it names one twice")
    return where, segments


def _segment(line: object) -> ColdSegment:
    if not isinstance(line, list) or len(line) != len(ColdSegment._fields):
        raise TypeError(f"{line!r} is no segment")
    segment, incarnation, state, size_bytes, checksum = line
    return ColdSegment(
        int(segment), int(incarnation), ColdState(state), int(size_bytes), int(checksum, 16)
    )


# --- work at the store ----------------------------------------------------------------------------


class StoreList(NamedTuple):
    """Replace the list, synced."""

    segments: tuple[ColdSegment, ...]


class Upload(NamedTuple):
    """Verify a segment, upload it whole, read the object back and compare."""

    segment: ColdSegment


class FetchRange(NamedTuple):
    """Read bytes `[start, until)` of an object."""

    segment: ColdSegment
    start: int
    until: int


class Remove(NamedTuple):
    """Delete an object; one that is not there is no error."""

    segment: ColdSegment


ColdJob = StoreList | Upload | FetchRange | Remove


class ColdOutcome(NamedTuple):
    """What became of a job."""

    problem: str = ""
    """Why it did not work; empty: it did."""
    final: bool = False
    """It will not work at another time either: the segment has to stay, or its object is gone."""
    data: bytes = b""
    """Of a `FetchRange`."""
    size_bytes: int = 0
    """Of an `Upload`: of the whole object."""
    checksum: int = 0
