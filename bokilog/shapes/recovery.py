"""What a start reads back: the fold, the journal behind it, and where the last term ended.

Used by the embedded shape, whose journal holds frames and the entries that order them in one
sequence: entries come after the frames of their group, so replaying items in order folds them
(DESIGN section 5).
"""

from __future__ import annotations

from collections.abc import Iterable

from bokilog.errors import CorruptJournal
from bokilog.frame import ITEM_FRAME, decode_frame, verify_frame
from bokilog.ids import LogSpaceId, Position
from bokilog.journal import Journal, Location
from bokilog.metalog import ITEM_METALOG, Run, decode_run, verify_run
from bokilog.storage_nodes.replica import Replica
from bokilog.view import End, View


def verify_item(kind: int, data: memoryview) -> bool:
    """Whether a journal's item is whole: what decides that a group counts (P30)."""
    if kind == ITEM_FRAME:
        return verify_frame(data)
    if kind == ITEM_METALOG:
        return verify_run(data)
    return False


def replay(replica: Replica, journal: Journal, views: Iterable[View]) -> None:
    """Folds what the journal holds behind the stored position, over as many terms as it spans."""
    for view in views:
        replica.install(view.space(replica.space.id), view.term, view.end(replica.space.id))
    for kind, location, data in journal.recover(replica.replay_from):
        if kind == ITEM_FRAME:
            replica.recover_frame(decode_frame(bytes(data)), location)
        elif not replica.recover_run(run := decode_run(data)):
            raise _gap(replica, run, location)
    if not replica.recovered():
        # Entries stand in one group with their frames or behind it, so this is no torn tail; to
        # end the term here would drop what was acknowledged (P13).
        problem = f"what follows {replica.index.position} orders frames that are not there"
        raise CorruptJournal(f"of log space {replica.space.id}", 0, problem)


def _gap(replica: Replica, run: Run, location: Location) -> CorruptJournal:
    """Damage that no checksum shows: each group is whole, and one between them is not there."""
    problem = (
        f"entries {run.first}..{run.until} of the metalog, of term {run.term}, do not follow"
        f" {replica.known_until}: what stood between them is missing"
    )
    where = f"segment {location.segment} of log space {replica.space.id}"
    return CorruptJournal(where, location.offset, problem)


def end_of(replica: Replica, *, ceiling: int) -> End:
    """Where the term ended that this replica folded to its last entry (P13, for one process)."""
    index = replica.index
    return End(
        space=replica.space.id,
        position=index.position,
        tail=max(index.tail, ceiling),
        timestamp_ms=index.timestamp_ms,
    )


def lost_end(space: LogSpaceId, last: End, *, ceiling: int) -> End:
    """Where a term of class `memory` ended whose process is gone: above everything it may have
    given out (P20)."""
    return End(
        space=space,
        position=Position(last.position.term, 0),
        tail=max(last.tail, ceiling),
        timestamp_ms=last.timestamp_ms,
    )
