"""P2: `CloseShard` fixes the count; no later progress counts, everything past it is never ordered.

1. An engine's frames are held by two of three storage nodes, and are not ordered yet.
2. The engine dies and starts again; its new shard supersedes the old one.
3. Storage nodes go on reporting the old shard: some of its frames arrived late.

Were these ordered, the new engine, which was told the count, would not know of its own records.
"""

from __future__ import annotations

from bokilog.ids import Position
from bokilog.metalog import CloseShard, Cut
from tests.unit.sequencer.rig import TERM, WALL_MS, A, Rig, entries_sent, opened, opening


def ordered_of(rig: Rig, number: int) -> int:
    """How many records of a shard the published entries order."""
    entries = entries_sent(rig.follow("reader", Position(TERM, 10)), "reader")
    spans = [span for _, entry in entries if isinstance(entry, Cut) for span in entry.spans]
    return max((span.until for span in spans if span.number == number), default=0)


def restarted() -> Rig:
    rig = opened(1)
    rig.ordered({1: 3})
    rig.primary.open_shard(opening(2, "engine-1"))
    return rig


def test_p02_the_count_is_what_is_ordered_not_what_is_held() -> None:
    rig = restarted()
    rig.held({1: 8})
    rig.follow(A, Position(TERM, 12))
    first = entries_sent(rig.turn(), A)[0]
    assert first == (Position(TERM, 13), CloseShard(WALL_MS, 1, 3))


def test_p02_progress_after_the_close_does_not_count() -> None:
    rig = restarted()
    rig.turn()
    rig.held({1: 8})
    rig.turn()
    assert ordered_of(rig, 1) == 3


def test_p02_progress_in_the_batch_of_the_close_does_not_count() -> None:
    rig = restarted()
    rig.held({1: 8, 2: 1})
    rig.turn()
    assert (ordered_of(rig, 1), ordered_of(rig, 2)) == (3, 0)
