"""P6: progress carries (disk id, incarnation); reports of an older life stop counting.

1. A `memory` storage node reports 5 records, one of two that a quorum needs.
2. It restarts with nothing. Another node reports 5.

Were the old report still counted, records would be ordered that one node alone holds.
"""

from __future__ import annotations

import pytest

from tests.unit.sequencer.rig import A, B, C, Rig, committed, opened


@pytest.fixture
def rig() -> Rig:
    made = opened(1)
    made.report(A, {1: 5})
    return made


@pytest.mark.parametrize("life", [{"incarnation": 2}, {"disk": "another"}])
def test_p06_what_an_earlier_life_held_does_not_count(rig: Rig, life: dict[str, str | int]) -> None:
    rig.report(A, {}, **life)
    rig.report(B, {1: 5})
    assert committed(rig.end_batch()) == []
    rig.report(C, {1: 5})
    assert len(committed(rig.end_batch())) == 1


def test_p06_a_quorum_that_fell_apart_before_the_cut_is_none(rig: Rig) -> None:
    rig.report(B, {1: 5})
    rig.report(A, {1: 0}, incarnation=2)
    assert committed(rig.end_batch()) == []


def test_p06_a_late_message_of_an_earlier_life_changes_nothing(rig: Rig) -> None:
    rig.report(A, {1: 0}, incarnation=2)
    rig.report(A, {1: 9}, incarnation=1)
    rig.report(B, {1: 9})
    assert committed(rig.end_batch()) == []


def test_p06_what_was_ordered_stays_ordered(rig: Rig) -> None:
    rig.report(B, {1: 5})
    rig.turn()
    rig.report(A, {1: 0}, incarnation=2)
    rig.report(C, {1: 4})
    assert committed(rig.end_batch()) == []
    assert rig.primary.tail == 105
