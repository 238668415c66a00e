"""Which frames of a stored fold its journal has lost: after a loss of power of a `flush` log space.

The fold's store is synced at every checkpoint, the journal of a `flush` log space never is (P11).
So after a loss of power the fold may name frames that are not in the journal any more. They are
treated as those of a loaded fold: their records are not answered for here until a peer has given
the frames (P33), so readers ask the others meanwhile, and nothing is `DataLost` that anybody has.

Segments that lie in an object store are as safe there as those of any class.

Does not know: peers, when it is called. A log space with one replica has nobody to ask: there what
is missing is lost, and its readers are told so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bokilog.journal import Location, SegmentInfo
from bokilog.storage_nodes.index import Index
from bokilog.storage_nodes.keys import Lacking
from bokilog.storage_nodes.locations import LACKING, is_here, is_lacking


def mark_missing(
    index: Index, segments: Sequence[SegmentInfo], cold: Mapping[int, int] | None = None
) -> int:
    """Has the fold copy frames that no segment holds from peers; how many records are in them.

    Args:
        index: the fold.
        segments: of the journal.
        cold: bytes of each segment that lies in an object store instead.
    """
    ends = {**(cold or {}), **{segment.number: segment.until for segment in segments}}
    gone: list[tuple[int, int]] = []
    for first_seqnum, location in index.places():
        if not is_here(location) or location.segment not in index.segments:
            continue  # to be copied or lost already, or let go
        if location.offset + location.length > ends.get(location.segment, 0):
            gone.append((first_seqnum, location.length))
    records = 0
    for first_seqnum, length in gone:
        row = index.locate(first_seqnum)
        assert row is not None, f"the fold names a frame at {first_seqnum}"
        index.relocate(first_seqnum, Location(*LACKING[:2], length))
        assert (moved := index.locate(first_seqnum)) is not None and is_lacking(moved.location)
        records += row.records
    if gone:
        before = index.locations.lacking or Lacking(gone[0][0], 0, 0, 0)
        index.locations.lacking = Lacking(
            min(before.start, gone[0][0]),
            max(before.until, index.tail),
            before.total_records + records,
            before.records + records,
        )
    return records
