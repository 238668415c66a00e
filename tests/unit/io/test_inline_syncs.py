"""For how long a slow sync keeps the next ones off the event loop."""

from bokilog.io.inline_syncs import (
    DEEP_S,
    FAST_SYNCS,
    PAUSE_S_MAX,
    PAUSE_S_MIN,
    SLOW_S,
    InlineSyncs,
)


def test_syncs_stay_on_the_loop_while_the_disk_is_fast() -> None:
    inline = InlineSyncs()
    for second in range(10):
        assert inline.allowed(float(second))
        inline.took(SLOW_S / 2, float(second))


def test_one_slow_sync_sends_the_next_ones_away_for_a_while() -> None:
    inline = InlineSyncs()
    inline.took(SLOW_S, 100.0)
    assert not inline.allowed(100.0 + PAUSE_S_MIN - 0.1)
    assert inline.allowed(100.0 + PAUSE_S_MIN)


def test_a_disk_that_stays_slow_holds_the_loop_up_ever_more_seldom() -> None:
    inline, now_s, pauses = InlineSyncs(), 0.0, list[float]()
    for _ in range(8):
        assert inline.allowed(now_s)
        inline.took(1.0, now_s)
        began_s = now_s
        while not inline.allowed(now_s):
            now_s += PAUSE_S_MIN
        pauses.append(now_s - began_s)
    assert pauses[:3] == [PAUSE_S_MIN, 2 * PAUSE_S_MIN, 4 * PAUSE_S_MIN]
    assert pauses[-1] == PAUSE_S_MAX


def test_after_many_fast_ones_a_slow_sync_is_the_first_again() -> None:
    inline = InlineSyncs()
    inline.took(1.0, 0.0)
    for _ in range(FAST_SYNCS):
        inline.took(0.0, 0.0)
    inline.took(1.0, 100.0)
    assert inline.allowed(100.0 + PAUSE_S_MIN)


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
    inline.took(SLOW_S * 0.9, 0.0)
    assert not inline.allowed(PAUSE_S_MIN - 0.1, deep=True)
    assert inline.allowed(PAUSE_S_MIN, deep=True)
    inline.took(0.0, PAUSE_S_MIN)
    assert inline.allowed(PAUSE_S_MIN, deep=True)
