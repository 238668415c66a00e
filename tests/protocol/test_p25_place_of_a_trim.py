"""P25: how far a trim gets is decided in the fold, at its place in the order.

So its place is what the sequencer owes it: after everything that was ordered when it was asked
for, before everything later, and once.
"""

from __future__ import annotations

from bokilog.ids import Position
from bokilog.messages import Propose
from bokilog.metalog import Cut, Hold, Proposer, Trim
from tests.unit.sequencer.rig import SPACE, TERM, WALL_MS, Rig, entries_sent, opened

WHO = Proposer(1, 9)


def proposing(rig: Rig, *entries: Trim | Hold) -> None:
    for entry in entries:
        assert rig.primary.propose("engine-1", Propose(9, SPACE, entry)) == []


def followed() -> Rig:
    rig = opened(1)
    rig.follow("reader", Position(TERM, 11))
    return rig


def test_p25_a_trim_stands_after_the_cut_of_its_batch_and_before_the_next() -> None:
    rig = followed()
    rig.held({1: 5})
    proposing(rig, Trim(0, 7, None, 105, WHO))
    first = rig.turn()
    rig.held({1: 9})
    entries = [entry for _, entry in entries_sent([*first, *rig.turn()], "reader")]
    assert [type(entry) for entry in entries] == [Cut, Trim, Cut]
    assert isinstance(entries[2], Cut)
    assert entries[2].first_seqnum == 105


def test_p25_holds_and_trims_keep_the_order_they_were_asked_in() -> None:
    rig = followed()
    asked: list[Trim | Hold] = [
        Hold(0, 7, "report", 50, 1000, WHO),
        Trim(0, 7, None, 90, WHO),
        Trim(0, 7, "t", 60, WHO),
    ]
    proposing(rig, *asked)
    entries = [entry for _, entry in entries_sent(rig.turn(), "reader")]
    assert entries == [entry._replace(timestamp_ms=WALL_MS) for entry in asked]


def test_p25_the_sequencer_does_not_clamp_what_it_cannot_judge() -> None:
    rig = followed()
    proposing(rig, Trim(0, 7, None, 10**9, WHO))
    ((_, entry),) = entries_sent(rig.turn(), "reader")
    assert isinstance(entry, Trim)
    assert (entry.until, entry.proposer) == (10**9, WHO)


def test_p25_its_time_is_the_cuts_so_that_holds_end_alike_everywhere() -> None:
    rig = followed()
    rig.wall_ms += 77
    proposing(rig, Trim(123, 7, None, 5, WHO))
    ((_, entry),) = entries_sent(rig.turn(), "reader")
    assert entry.timestamp_ms == WALL_MS + 77
