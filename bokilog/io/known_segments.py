"""The segments of a journal that hold something: which there are, where bytes stand that had to
move, and when one may be let go.

Decides where to look for a location, whoever handed it out: bytes past a segment's end stand in the
segment that continues it, at the same distance (P7). And whether a segment that nobody needs by its
own number is still needed for locations that lead through it: then it goes when those do.

Invariants: a location stays right for as long as the segment that it names; a segment's end never
moves once groups go elsewhere; a descriptor is of the segment that it was opened for, also when
that is let go meanwhile.

The sync's thread adds a segment and ends the one before while the owner reads: so what is looked at
from both sides is one item of a dict, or one field. Does not know what is staged, where the next
group goes (`journal_end.py`), what a file is called or becomes (`segment_files.py`).
"""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

from bokilog.io.journal_recovery import KnownSegment, Recovery, Run
from bokilog.io.segment_files import OpenFile, OpenFiles, SegmentFiles
from bokilog.journal import SegmentInfo, SegmentReleased
from bokilog.segment import SEGMENT_HEADER_BYTES, Place, SegmentHeader


class Sealed(NamedTuple):
    """A segment that no group will be added to. The file stays readable, but once the segment is
    released it may be written to for another one."""

    file: OpenFile
    path: str
    end: int
    generation: int
    first_group: int


class KnownSegments:
    """The segments of one journal, by number.

    Args:
        files: the journal's.
        open_files_max: descriptors kept open for reads.
        keeps_something: what follows a released segment is synced before that one goes.
    """

    __slots__ = ("_files", "_keeps_something", "deferred", "known", "open_files")

    def __init__(self, files: SegmentFiles, *, open_files_max: int, keeps_something: bool) -> None:
        self._files = files
        self._keeps_something = keeps_something
        self.open_files = OpenFiles(open_files_max)
        self.known: dict[int, KnownSegment] = {}
        self.deferred: set[int] = set()
        """Released, but others' locations may still lead through them."""

    def adopt(self, found: Recovery) -> None:
        """What a start has found."""
        self.known = found.known

    def tidy(self, found: Recovery) -> None:
        """Give back what does not count, and what was allocated behind ends, off the way."""
        for number in found.superseded:
            self._files.drop(number)
        for number, known in self.known.items():
            if known.end is not None:
                self._files.shrink(number, known.end)

    def begin(self, page: SegmentHeader, file: OpenFile) -> None:
        """A segment whose first group is written; groups may follow."""
        self.known[page.number] = KnownSegment(page, None, page.previous_group)
        self.open_files.put(page.number, file)

    # --- where bytes stand ---

    def resolve(self, segment: int, offset: int) -> tuple[int, int]:
        """Where bytes stand now whose location names this place."""
        while known := self.known.get(segment):
            if known.end is None or offset < known.end or known.following is None:
                break
            offset += SEGMENT_HEADER_BYTES - known.end
            segment = known.following
        return segment, offset

    def moved_to(self, segment: int, offset: int) -> tuple[int, int]:
        """Where bytes stand now that are not where they were; somebody must hold them."""
        to_segment, to_offset = self.resolve(segment, offset)
        known = self.known.get(to_segment)
        if known is None or (known.end is not None and to_offset >= known.end):
            raise SegmentReleased(f"nothing is at offset {offset} of segment {segment}")
        return to_segment, to_offset

    def open(self, segment: int) -> OpenFile:
        """The file of a segment that is not open."""
        try:
            file = self._files.open(segment)
        except FileNotFoundError as error:
            raise SegmentReleased(f"segment {segment} is gone") from error
        self.open_files.put(segment, file)
        return file

    # --- which there are ---

    def infos(self, tip: Place, last_group: int) -> tuple[SegmentInfo, ...]:
        """Of all of them; the open one ends at `tip` with `last_group`."""
        return tuple(
            SegmentInfo(number, tip.offset, known.header.previous_group + 1, last_group, True)
            if known.end is None
            else SegmentInfo(
                *(number, known.end, known.header.previous_group + 1, known.last_group, False)
            )
            for number, known in list(self.known.items())
        )

    def runs(self, tip: Place) -> list[Run]:
        """Where the groups of each lie; those of the open one up to `tip`."""
        return [
            Run(
                *(number, known.header.generation, SEGMENT_HEADER_BYTES),
                known.end if known.end is not None else tip.offset,
                known.header.previous_group + 1,
            )
            for number, known in sorted(self.known.items())
        ]

    def sealed(self, segment: int, *, meant: Collection[int]) -> Sealed | None:
        """The file of a segment whose bytes are all its own, to be read by anybody at any time.

        None: it is not sealed, or is gone, or other segments' locations lead through it (P7).
        `meant` as for `release`.
        """
        known = self.known.get(segment)
        if known is None or known.end is None or known.following is not None:
            return None
        if known.header.continues or self._is_meant_elsewhere(segment, meant):
            return None
        return Sealed(
            *(self.open_files.get(segment) or self.open(segment), self._files.path(segment)),
            *(known.end, known.header.generation, known.header.previous_group + 1),
        )

    # --- letting go ---

    def release(self, segment: int, *, meant: Collection[int]) -> None:
        """Nobody needs the segment by its number; it goes once no location leads through it.

        Args:
            segment: not the open one.
            meant: segments that locations of staged and of unsynced items name.
        """
        known = self.known.get(segment)
        if known is None:
            return
        if known.end is None:
            raise ValueError(f"segment {segment} is the open one: groups go there")
        if self._is_meant_elsewhere(segment, meant):
            self.deferred.add(segment)
            return
        del self.known[segment]
        self.open_files.drop(segment)
        self._files.recycle(
            segment,
            previous_end=known.header.previous_end,
            previous_group=known.header.previous_group,
            synced_before=self._following(segment) if self._keeps_something else None,
        )
        self.release_deferred(meant=meant)

    def release_deferred(self, *, meant: Collection[int]) -> None:
        """Look again at those that had to wait."""
        waiting, self.deferred = self.deferred, set()
        for segment in waiting:
            self.release(segment, meant=meant)

    def _following(self, segment: int) -> int | None:
        return min((number for number in self.known if number > segment), default=None)

    def _is_meant_elsewhere(self, segment: int, meant: Collection[int]) -> bool:
        """Whether locations that somebody may count by another segment lead through this one.

        Bytes that moved are meant by locations in the segment they left: whoever keeps that one
        alive counts on them. A group that is not yet synced may have been given its place there.
        """
        if segment in meant:
            return True
        return any(each.following == segment for each in list(self.known.values()))
