"""P22: keys are forgotten by a metalog entry, by cut timestamps: on every replica at one place.

Were each replica to look at its own clock, one would take a retried unit for a duplicate and
another would make it visible.
"""

from __future__ import annotations

from bokilog.ids import Position
from bokilog.metalog import Cut, ForgetKeys
from bokilog.sequencer.next_run import FORGET_KEYS_MS
from tests.unit.sequencer.rig import TERM, Rig, entries_sent


def forgetting() -> Rig:
    rig = Rig(forget_keys=True)
    rig.open(1)
    rig.turn()
    rig.follow("reader", Position(TERM, 12))
    return rig


def kinds(rig: Rig, records: int) -> list[type]:
    rig.held({1: records})
    return [type(entry) for _, entry in entries_sent(rig.turn(), "reader")]


def test_p22_keys_are_forgotten_once_an_hour_of_cuts() -> None:
    rig = forgetting()
    assert kinds(rig, 1) == [Cut]
    rig.wall_ms += FORGET_KEYS_MS
    assert kinds(rig, 2) == [Cut, ForgetKeys]
    assert kinds(rig, 3) == [Cut]


def test_p22_the_entry_carries_the_time_and_comes_after_the_cut_of_its_batch() -> None:
    rig = forgetting()
    rig.wall_ms += FORGET_KEYS_MS
    rig.held({1: 1})
    (_, cut), (_, forget) = entries_sent(rig.turn(), "reader")
    assert (cut.timestamp_ms, forget) == (rig.wall_ms, ForgetKeys(rig.wall_ms))


def test_p22_restarts_more_often_than_hourly_do_not_keep_keys_for_ever() -> None:
    for _ in range(3):
        rig = Rig(forget_keys=True)
        rig.follow("reader")
        rig.open(1)
        assert ForgetKeys in [type(entry) for _, entry in entries_sent(rig.turn(), "reader")]


def test_p22_a_log_without_entries_is_left_alone() -> None:
    rig = forgetting()
    rig.wall_ms += 10 * FORGET_KEYS_MS
    assert rig.turn() == []
