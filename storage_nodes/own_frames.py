"""Finds frames in this node's journal that a loaded fold names and does not know to be here (P33).

A node counts frames as soon as they are durable, folded or not (P9). When it loads a peer's fold
then, instead of folding them itself, or copies of a loaded fold's frames were journalled and no
checkpoint came before a crash, they lie in the journal and the fold's rows lead nowhere. Such a
node would say to its peers that it has no bytes of them; and should all replicas be in that state
at once, all would conclude that the records are lost. So what is here is found by its LocalId
before anybody is asked or answered.

Does not know: where frames are read from. What is not durable yet is not looked at (P19).
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from operator import attrgetter

from bokilog.frame import Frame
from bokilog.ids import LogSpaceId, Shard, Term
from bokilog.journal import Location
from bokilog.storage_nodes.index import Index
from bokilog.storage_nodes.locations import is_lacking
from bokilog.storage_nodes.pending import HeldFrame

_START = attrgetter("start")


def find_own(
    index: Index,
    own: Mapping[Shard, Sequence[HeldFrame]],
    *,
    opened: Callable[[HeldFrame], tuple[Frame, Location] | None],
) -> int:
    """Has the fold's rows lead to frames that are here; how many records are in them.

    Args:
        index: the fold.
        own: durable frames in the journal, by shard, in the order of their counts.
        opened: the frame itself and its place; None if the disk does not give it back whole.
    """
    lacking = index.locations.lacking
    if lacking is None or not own:
        return 0
    records, space = 0, LogSpaceId(index.space)
    for span in index.spans(lacking.start, lacking.until):
        frames = own.get(Shard(space, Term(span.term), span.number), ())
        for held in frames[bisect_left(frames, span.start, key=_START) :]:
            if held.start >= span.until:
                break
            seqnum = span.first_seqnum + held.start - span.start
            if _take(index, seqnum, held, opened):
                records += held.until - held.start
    index.locations.lacking = lacking._replace(records=max(0, lacking.records - records))
    return records


def _take(
    index: Index,
    seqnum: int,
    held: HeldFrame,
    opened: Callable[[HeldFrame], tuple[Frame, Location] | None],
) -> bool:
    row = index.locate(seqnum)
    fits = row is not None and (row.first_seqnum, row.records) == (seqnum, held.until - held.start)
    if row is None or not fits or not is_lacking(row.location):
        return False
    found = opened(held)
    return found is not None and index.relocate(seqnum, found[1], books=found[0].columns.books)
