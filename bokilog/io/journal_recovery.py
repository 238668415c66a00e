"""What a journal's directory holds after a stop: which groups count, and where the next one goes.

Decides by reading everything that may be unsynced, and everything the caller wants, before it
yields a byte: the end of the journal, torn tail or corruption (P30), and what must be written
anew because nobody knows that it was synced (P7).

Invariants:
- Nothing on disk is changed but by `Recovery.rewrite_tail`, whose new segment counts only from its
  rename on, complete and synced: a crash at any point before leaves the journal as it was.
- With a durable policy the tail to rewrite is at most the last group, because one group is in
  flight at a time; it is longer only after a change of the policy.

Does not know how groups are staged, synced or read.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from typing import NamedTuple, Protocol

from bokilog.errors import CorruptJournal
from bokilog.io.segment_files import OpenFile, SegmentFiles
from bokilog.io.sync import DataSync, SyncPolicy, Write, write_all
from bokilog.journal import Damage, Location, Moved
from bokilog.record import Buffer
from bokilog.segment import (
    GROUP_HEADER_BYTES,
    NOWHERE,
    SEGMENT_HEADER_BYTES,
    Chain,
    End,
    FoundSegment,
    Group,
    Place,
    SegmentHeader,
    Verify,
    decode_group,
    decode_group_header,
    decode_segment_end,
    decode_segment_header,
    encode_group_header,
    encode_segment_header,
    find_groups,
    follow_chain,
    is_corruption,
    scan_segment,
    segment_end,
)


class Segments(Protocol):
    """Files of segments, to be read."""

    def path(self, number: int) -> str:
        """Where a segment lies."""

    def scan(self) -> list[int]:
        """Numbers of all of them, ascending."""

    def open(self, number: int) -> OpenFile:
        """One of them; raises FileNotFoundError."""


@dataclass(slots=True)
class KnownSegment:
    """A segment that counts."""

    header: SegmentHeader
    end: int | None
    """Where it ends; None while groups may follow."""
    last_group: int
    following: int | None = None
    """Where its bytes at or past `end` stand now, at the same distance; None: nowhere."""


class Run(NamedTuple):
    """Whole groups of one segment, without a hole: offsets `[start, until)`."""

    segment: int
    generation: int
    start: int
    until: int
    first_group: int


@dataclass(slots=True)
class Recovery:
    """The journal as found; `rewrite_tail` changes it."""

    known: dict[int, KnownSegment] = field(default_factory=dict)
    runs: list[Run] = field(default_factory=list)
    superseded: tuple[int, ...] = ()
    generation: int = 0
    """The highest one seen."""
    synced: Place = NOWHERE
    last_group: int = 0
    newest_file: int = 0
    """The highest segment number there is a file of, whether it counts or not."""
    tip: Place = NOWHERE
    """Where the next group goes, if the last segment is still open."""
    clean: bool = True
    """The last stop was clean, or there is no journal yet."""
    dropped: bool = False
    """Something behind the end was there and does not count."""
    moved: tuple[Moved, ...] = ()


class Scanner:
    """Reads a directory once."""

    def __init__(
        self,
        files: Segments,
        *,
        durable: bool,
        verify: Verify,
        salvage: Callable[[Damage], None] | None,
    ) -> None:
        self._files = files
        self._durable = durable
        self._verify = verify
        self._salvage = salvage
        self._found = Recovery()
        self._chain: tuple[FoundSegment, ...] = ()

    def scan(self, from_segment: int) -> Recovery:
        """Judge every segment; see `Journal.recover` for what it raises."""
        found = self._found
        self._chain, found.superseded = self._read_headers()
        headers = [each.header for each in self._chain if each.header is not None]
        found.generation = max((header.generation for header in headers), default=0)
        found.synced = max((header.synced for header in headers), default=NOWHERE)
        synced = found.synced
        for index in range(len(self._chain)):
            if not self._skip(index, from_segment, synced) and not self._scan_segment(index):
                found.dropped = True
                break
        self._drop_bare_headers()
        self._find_clean_stop()
        return found

    def _read_headers(self) -> Chain:
        segments = []
        for number in self._files.scan():
            self._found.newest_file = number
            file = self._files.open(number)
            page = os.pread(file.fd, SEGMENT_HEADER_BYTES, 0)
            header = decode_segment_header(page)
            if header is not None and header.number != number:
                header = None  # a recycled file whose new header never got to the disk
            segments.append(FoundSegment(number, header, decode_segment_end(page, header)))
        return follow_chain(segments)

    def _skip(self, index: int, from_segment: int, synced: Place) -> bool:
        """Take a segment as it is if nobody asked for it and all of it was synced."""
        segment, end = self._chain[index], self._end(index)
        if segment.header is None or end is None or index + 1 == len(self._chain):
            return False
        if segment.number >= from_segment:
            return False
        if self._durable and Place(segment.number, end.offset) > synced:
            return False
        self._know(segment.header, end)
        return True

    def _end(self, index: int) -> End | None:
        following = self._chain[index + 1] if index + 1 < len(self._chain) else None
        return segment_end(self._chain[index], following)

    def _know(self, header: SegmentHeader, end: End) -> None:
        found = self._found
        found.known[header.number] = KnownSegment(header, end.offset, end.last_group)
        found.tip = Place(header.number, end.offset)
        found.last_group = end.last_group
        before = found.known.get(header.previous_end.segment)
        if header.continues and before is not None:
            before.following = header.number

    def _scan_segment(self, index: int) -> bool:
        """Judge one segment; False if the journal ends in it although others follow."""
        segment, end = self._chain[index], self._end(index)
        data = self._load(segment.number, end)
        until = len(data) if end is None else end.offset
        header = segment.header or self._stand_in(index)
        bad, number = 0, header.previous_group + 1
        if segment.header is not None:
            bad, number = self._scan_run(data, header, SEGMENT_HEADER_BYTES, until, number)
        reached = End(bad, number - 1)
        if segment.header is not None and reached == end:
            self._know(header, end)
            return True
        # Where no other segment fixes the end, what later segments say is judged at theirs.
        is_open = segment.header is not None and end is None
        claims = chain.from_iterable(
            self._claims(later) for later in range(index + 1, len(self._chain)) if not is_open
        )
        own = self._own_claims(data, bad, until, self._oldest_generation(index))
        if is_corruption(Place(segment.number, bad), chain(own, claims)):
            reached = self._pass_damage(data, header, End(bad, number - 1), until, is_open)
            if data:
                self._know(header, end or reached)
            return True
        if segment.header is not None:
            self._know(header, reached)
        return is_open

    def _scan_run(
        self, data: bytes, header: SegmentHeader, start: int, until: int, number: int
    ) -> tuple[int, int]:
        """Whole groups from `start`: the first bad place and the group number expected there."""
        end, first = start, number
        for group in scan_segment(
            data,
            start=start,
            until=until,
            generation=header.generation,
            number=number,
            verify=self._verify,
        ):
            end, number = group.header.end, group.header.number + 1
            self._found.synced = max(self._found.synced, group.header.synced)
        if end > start:
            self._found.runs.append(Run(header.number, header.generation, start, end, first))
        return end, number

    def _own_claims(self, data: bytes, start: int, until: int, oldest: int) -> Iterator[Place]:
        for header in find_groups(data, start=start, until=until, oldest=oldest):
            yield header.synced

    def _claims(self, index: int) -> Iterator[Place]:
        """What a later segment says was synced, in its header and its groups."""
        segment = self._chain[index]
        if segment.header is not None:
            yield segment.header.synced
        data = self._load(segment.number, None)
        yield from self._own_claims(data, 0, len(data), self._oldest_generation(index))

    def _oldest_generation(self, index: int) -> int:
        header = self._chain[index].header
        if header is not None:
            return header.generation
        before = [each.header.generation for each in self._chain[:index] if each.header]
        return max(before, default=0) + 1

    def _stand_in(self, index: int) -> SegmentHeader:
        """For a segment without a header: what it would say of the one before it."""
        found, number = self._found, self._chain[index].number
        generation = self._oldest_generation(index)
        return SegmentHeader(generation, number, found.tip, found.last_group, NOWHERE, False)

    def _pass_damage(
        self, data: bytes, header: SegmentHeader, reached: End, until: int, is_open: bool
    ) -> End:
        """Report each damaged range up to `until`; where the segment ends."""
        path, bad, number = self._files.path(header.number), reached.offset, reached.last_group + 1
        while True:
            if self._salvage is None:
                raise CorruptJournal(path, bad)
            group = self._next_whole(data, header.generation, bad + 1, until)
            if group is None:
                self._salvage(Damage(path, header.number, bad, until, number, None))
                return End(until, number - 1)
            start, next_group = group.header.offset, group.header.number
            self._salvage(Damage(path, header.number, bad, start, number, next_group))
            header = header._replace(generation=group.header.generation)
            bad, number = self._scan_run(data, header, start, until, next_group)
            claims = self._own_claims(data, bad, until, header.generation)
            if bad == until or (is_open and not is_corruption(Place(header.number, bad), claims)):
                return End(bad, number - 1)

    def _next_whole(self, data: bytes, oldest: int, start: int, until: int) -> Group | None:
        view = memoryview(data)
        for header in find_groups(data, start=start, until=until, oldest=oldest):
            group = decode_group(data, header.offset, until)
            if group and all(self._verify(kind, view[a:b]) for kind, a, b in group.items):
                return group
        return None

    def _load(self, number: int, end: End | None) -> bytes:
        """A segment's bytes up to the last one ever written; nothing if its file is missing."""
        try:
            file = self._files.open(number)
        except FileNotFoundError:
            return b""
        try:
            size = os.fstat(file.fd).st_size
            if end is not None:
                return read_file(file, min(size, end.offset))
            data = read_file(file, _written_bytes(file, size))
            # A file system may report written zeros as a hole: then a group seems to be cut off.
            return read_file(file, size) if self._cut_off(data, size) else data
        except OSError as error:
            problem = f"the disk does not read it: {error}"
            raise CorruptJournal(self._files.path(number), 0, problem) from error

    def _cut_off(self, data: bytes, size: int) -> bool:
        at = SEGMENT_HEADER_BYTES
        while (header := decode_group_header(data, at)) is not None and header.offset == at:
            at = header.end
        return len(data) < at <= size

    def _drop_bare_headers(self) -> None:
        """Let go of last segments that have a header and no group.

        Such a header was perhaps never synced. If the next segment named it as the one before,
        its later loss would look like corruption; so the next segment skips it instead.
        """
        found = self._found
        while last := found.known.get(found.tip.segment):
            number = last.header.number
            if last.last_group != last.header.previous_group or Place(number, 0) < found.synced:
                return
            del found.known[number]
            found.tip = last.header.previous_end
            before = found.known.get(found.tip.segment)
            if before is not None and before.following == number:
                before.following = None

    def _find_clean_stop(self) -> None:
        """Continue in place of an empty group that says: all before me is synced."""
        found = self._found
        last = self._chain[-1].number if self._chain else 0
        found.clean = not self._chain
        if found.dropped or not found.runs or found.tip.segment != last:
            return
        run = found.runs[-1]
        if Place(run.segment, run.until) != found.tip:
            return
        offset = run.until - GROUP_HEADER_BYTES
        file = self._files.open(run.segment)
        header = decode_group_header(os.pread(file.fd, GROUP_HEADER_BYTES, offset))
        if header is None or header.offset != offset or header.number != found.last_group:
            return
        here = Place(run.segment, offset)
        if header.item_count or (self._durable and header.synced != here):
            return
        found.clean = True
        found.tip = here
        found.last_group -= 1
        found.known[run.segment].last_group -= 1
        found.runs[-1] = run._replace(until=offset)


def rewrite_tail(
    found: Recovery, files: SegmentFiles, *, number: int, policy: SyncPolicy, write: Write
) -> OpenFile | None:
    """Copy what lies past the last known sync point to segment `number`, synced (P7).

    Returns the new segment, open, or None if there is nothing to copy. Raises OSError.
    """
    kept, tail = _split_runs(found, files)
    if not tail:
        return None
    first = tail[0]
    found.generation += 1
    header = SegmentHeader(
        generation=found.generation,
        number=number,
        previous_end=Place(first.segment, first.start),
        previous_group=first.first_group - 1,
        synced=found.synced,
        continues=True,
    )
    if first.start == SEGMENT_HEADER_BYTES:
        # The old segment keeps nothing but its header, which was perhaps never synced. Later
        # groups will say that it was, so that has to become true.
        _rewrite_header(files, found.known[first.segment].header)
    parts, moved = _copies(tail, header, files)
    byte_count = sum(map(len, parts))
    draft = files.draft(byte_count, use_headroom=True)
    fd = OpenFile(draft, os.O_RDWR)
    write_all(write, fd.fd, parts, offset=0, byte_count=byte_count)
    policy.sync(fd.fd)
    file = files.adopt(draft, number)
    files.sync_directory()
    _replace_tail(found, header, byte_count)
    run = Run(number, header.generation, SEGMENT_HEADER_BYTES, byte_count, first.first_group)
    found.runs = [*kept, run]
    found.moved = tuple(moved)
    return file


def _split_runs(found: Recovery, files: SegmentFiles) -> tuple[list[Run], list[Run]]:
    """The groups before and past the last known sync point."""
    kept, tail = [], []
    for run in found.runs:
        if Place(run.segment, run.start) >= found.synced:
            tail.append(run)
            continue
        at = found.synced.offset
        if run.segment == found.synced.segment and run.until > at:
            groups = groups_of(read_file(files.open(run.segment), run.until), run)
            number = next(each.header.number for each in groups if each.header.offset >= at)
            tail.append(run._replace(start=at, first_group=number))
            run = run._replace(until=at)
        kept.append(run)
    return kept, [run for run in tail if run.until > run.start]


def _copies(
    tail: list[Run], header: SegmentHeader, files: SegmentFiles
) -> tuple[list[Buffer], list[Moved]]:
    """The new segment's bytes: the same groups, with headers of their new place."""
    parts: list[Buffer] = [encode_segment_header(header)]
    moved = []
    offset = SEGMENT_HEADER_BYTES
    for run in tail:
        data = read_file(files.open(run.segment), run.until)
        view = memoryview(data)
        moved.append(Moved(run.segment, run.start, run.until, header.number, offset))
        for group in groups_of(data, run):
            body = view[group.header.offset + GROUP_HEADER_BYTES : group.header.end]
            copy = group.header._replace(
                generation=header.generation, offset=offset, synced=header.synced
            )
            parts += (encode_group_header(copy), body)
            offset = copy.end
    return parts, moved


def _rewrite_header(files: SegmentFiles, header: SegmentHeader) -> None:
    file = files.open(header.number, to_write=True)
    os.pwrite(file.fd, encode_segment_header(header), 0)
    DataSync().sync(file.fd)


def _replace_tail(found: Recovery, header: SegmentHeader, end: int) -> None:
    """Let the new segment follow where the tail began, in place of what followed there."""
    source = header.previous_end.segment
    void = tuple(number for number in found.known if number > source)
    for number in void:
        del found.known[number]
    found.superseded += void
    before = found.known[source]
    before.end, before.last_group = header.previous_end.offset, header.previous_group
    before.following = header.number
    found.known[header.number] = KnownSegment(header, end, found.last_group)
    found.tip = found.synced = Place(header.number, end)


def items_of(
    found: Recovery, files: Segments, from_segment: int
) -> Iterator[tuple[int, Location, memoryview]]:
    """All items of segments >= `from_segment`, in order."""
    for run in found.runs:
        if run.segment < from_segment or run.until == run.start:
            continue
        data = read_file(files.open(run.segment), run.until)
        view = memoryview(data)
        for group in groups_of(data, run):
            for kind, start, until in group.items:
                yield kind, Location(run.segment, start, until - start), view[start:until]


def groups_of(data: bytes, run: Run) -> Iterator[Group]:
    """The groups of a run, which were verified before."""
    return scan_segment(
        data,
        start=run.start,
        until=run.until,
        generation=run.generation,
        number=run.first_group,
        verify=None,
    )


def read_file(file: OpenFile, size: int) -> bytes:
    """The first `size` bytes of a file, fewer if it is shorter."""
    data = os.pread(file.fd, size, 0)
    if len(data) == size:
        return data
    parts = [data]
    taken = len(data)
    while taken < size and (data := os.pread(file.fd, size - taken, taken)):
        parts.append(data)  # one call gives 2 GiB at most
        taken += len(data)
    return b"".join(parts)


def _written_bytes(file: OpenFile, size: int) -> int:
    """Where the allocated rest of a file begins that was never written, if the system tells."""
    if not hasattr(os, "SEEK_HOLE"):
        return size
    try:
        hole = os.lseek(file.fd, 0, os.SEEK_HOLE)
    except OSError:
        return size
    try:
        os.lseek(file.fd, hole, os.SEEK_DATA)
    except OSError:  # no data behind the first hole
        return hole
    return size
