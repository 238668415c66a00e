"""For how long a slow sync keeps the next ones off the event loop."""

from bokilog.io.inline_syncs import (
    COUNTED_S_MAX,
    DEEP_PAUSE_S,
    DEEP_S,
    FAST_SYNCS,
    PAUSE_PER_SYNC,
    PAUSE_S_MAX,
    SLOW_S,
    InlineSyncs,
)

PAUSE_S = PAUSE_PER_SYNC * 1.0
"""After a sync of one second."""


def pause_s(inline: InlineSyncs, sync_s: float, *, now_s: float = 100.0) -> float:
    """For how long a sync that took so long keeps others off the loop."""
    inline.took(sync_s, now_s)
    began_s = now_s
    while not inline.allowed(now_s):
        now_s += 0.0625
    return now_s - began_s


def test_syncs_stay_on_the_loop_while_the_disk_is_fast() -> None:
    inline = InlineSyncs()
    for second in range(10):
        assert inline.allowed(float(second))
        inline.took(SLOW_S / 2, float(second))


def test_a_slow_sync_sends_the_next_ones_away_for_as_long_as_it_was_slow() -> None:
    assert pause_s(InlineSyncs(), 0.0125) == PAUSE_PER_SYNC * 0.0125
    assert pause_s(InlineSyncs(), 1.0) == PAUSE_S


def test_slow_syncs_hold_the_loop_for_a_twentieth_of_the_time_at_most() -> None:
    inline, now_s, held_s = InlineSyncs(), 0.0, 0.0
    for number in range(10_000):
        took_s = 2 * SLOW_S if number % 2 else SLOW_S / 100
        if inline.allowed(now_s):
            inline.took(took_s, now_s + took_s)
            held_s += took_s if took_s >= SLOW_S else 0.0
        now_s += took_s
    assert held_s <= now_s / 20 + 2 * SLOW_S


def test_a_disk_that_stays_slow_holds_the_loop_up_ever_more_seldom() -> None:
    inline = InlineSyncs()
    pauses = [pause_s(inline, 1.0, now_s=1000.0 * number) for number in range(5)]
    assert pauses == [PAUSE_S, 2 * PAUSE_S, PAUSE_S_MAX, PAUSE_S_MAX, PAUSE_S_MAX]


def test_after_many_fast_ones_a_slow_sync_is_the_first_again() -> None:
    inline = InlineSyncs()
    assert pause_s(inline, 1.0, now_s=0.0) == PAUSE_S
    for _ in range(FAST_SYNCS):
        inline.took(0.0, 100.0)
    assert pause_s(inline, 1.0, now_s=100.0) == PAUSE_S


def test_deep_groups_stay_on_the_loop_while_syncs_cost_less_than_handing_over() -> None:
    inline = InlineSyncs()
    for _ in range(100):
        assert inline.allowed(0.0, deep=True)
        inline.took(0.9 * DEEP_S, 0.0)
    for _ in range(100):
        inline.took(2 * DEEP_S, 0.0)
    assert not inline.allowed(0.0, deep=True)
    assert inline.allowed(0.0), "behind a shallow group nothing else is coming in"


def test_deep_groups_are_tried_again_after_a_while() -> None:
    inline = InlineSyncs()
    for _ in range(10):
        inline.took(COUNTED_S_MAX, 0.0)
    assert not inline.allowed(DEEP_PAUSE_S - 0.1, deep=True)
    assert inline.allowed(DEEP_PAUSE_S, deep=True)


def test_one_sync_that_is_far_out_does_not_speak_for_a_fast_disk() -> None:
    inline = InlineSyncs()
    for _ in range(100):
        inline.took(DEEP_S / 2, 0.0)
    inline.took(SLOW_S * 0.9, 0.0)
    assert inline.allowed(0.0, deep=True)
