"""From what a fold is built anew that went past the end of a term (P11, P13).

A log space of class `flush` or `memory` may lose the end of its metalog with the machine of its
sequencer. Its next term begins where the rest of the metalog ends, and storage nodes may have
folded more than that. They drop their fold, not their frames, and fold again: up to the new end the
entries are the same ones, and what comes behind it has other seqnums, above the ceiling.

Decides: the fold as it is stored, if no end since lies before it; else from nothing, if the journal
holds everything since the start. If not, the node refuses and says what can be done: it does not
drop its fold for a peer's (P16), since every peer may stand past that end, and then nobody would
have one. Class `sync` publishes nothing that it may lose, so there such an end is damage, and
nothing is dropped for it.

Does not know how stores, journals and views are read; its shell does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from bokilog.errors import NotReady
from bokilog.ids import LogSpaceId, Position
from bokilog.journal import SegmentInfo
from bokilog.storage_nodes.replica import Replica
from bokilog.view import LogSpace, View

Rebuild = Callable[[LogSpaceId, View], tuple[Replica, list[View]]]
"""A replica as a start makes it, and the views that it is to install, up to the given one.

Raises NotReady if there is nothing to build it from.
"""


def goes_on_from_stored(
    space: LogSpace, stored: Position, *, views: Sequence[View], segments: Sequence[SegmentInfo]
) -> bool:
    """Whether the stored fold is gone on from; False: an empty one.

    Args:
        space: the log space in hand.
        stored: where its stored fold stands.
        views: all of them, up to the one whose end lies before what was folded.
        segments: of its journal here.

    Raises:
        NotReady: neither is right.
    """
    end = views[-1].end(space.id).position.count
    if space.durability == "sync" and views[-1].losses_accepted == views[-1].term:
        raise NotReady(
            f"log space {space.id} was folded here past entry {end}, and with term"
            f" {views[-1].term} somebody has accepted that all after it is lost, while this node"
            f" was not there: move index-{space.id} of its data directory away, and it loads the"
            " index of another storage node"
        )
    if space.durability == "sync":
        raise NotReady(
            f"log space {space.id} was folded here past entry {end}, where the view of term"
            f" {views[-1].term} ends it. Class sync publishes nothing that it may lose, so the"
            f" sequencer's disk has: stop the cluster and put metalog-{space.id} of its data"
            f" directory back as it was"
        )
    bound = min(
        (view.end(space.id).position.count for view in views if view.term > stored.term),
        default=stored.count,
    )
    if stored.count <= bound:
        return True
    if holds_everything(segments):
        return False
    raise NotReady(
        f"log space {space.id} lost its metalog past entry {bound} (class {space.durability} may),"
        f" its fold is stored here at entry {stored.count}, and journal-{space.id} does not reach"
        f" back to the start, to fold it again. If another storage node goes on, move"
        f" index-{space.id} and journal-{space.id} of this one away: it loads the other's fold. If"
        f" none does, the log space begins anew, without its records, once metalog-{space.id} of"
        f" the sequencer and both directories of every storage node are moved away"
    )


def cannot_rebuild(space: LogSpaceId, view: View) -> tuple[Replica, list[View]]:
    """Where state is never built anew: one process that loses nothing it has folded."""
    end = view.end(space).position.count
    raise NotReady(f"log space {space} was folded past entry {end}, where term {view.term} ends it")


def holds_everything(segments: Sequence[SegmentInfo]) -> bool:
    """Whether no group since the first was ever let go."""
    following = 1
    for segment in sorted(segments):
        if segment.first_group != following:
            return False
        following = segment.last_group + 1
    return True
