"""P10: a cut's time is never before another cut's, and jumps of the wall clock reach it slowly.

1. A lease of ten seconds is granted at a cut's time.
2. The wall clock of the sequencer jumps ahead by a day.

Were the day taken over at once, every lease, hold and key would end in the same second.
"""

from __future__ import annotations

from bokilog.effects import BatchEnded, Persisted, Received
from bokilog.ids import Position
from bokilog.io.journal_memory import MemoryJournal
from bokilog.messages import FollowMetalog, Propose
from bokilog.metalog import Proposer, Trim
from bokilog.sequencer.core import SequencerCore
from bokilog.sequencer.primary import Recovered
from bokilog.sequencer.runs import RunIndex
from tests.unit.sequencer.rig import (
    BASE,
    DAY_MS,
    PRIMARY,
    SPACE,
    WALL_MS,
    end,
    entries_sent,
    log_space,
    view,
)


class Clocked:
    """A core that is told of two clocks, and asked for the time of an entry."""

    def __init__(self, *, ended_ms: int = 0) -> None:
        self.core = SequencerCore(
            node=PRIMARY,
            view=view(log_space(), ends=(end(timestamp_ms=ended_ms),)),
            recovered={SPACE: Recovered(end(timestamp_ms=ended_ms), RunIndex(), ())},
            journals={SPACE: MemoryJournal()},
        )
        self.token = 0
        self.core.handle(Received("reader", FollowMetalog(SPACE, Position(*BASE), 0)), 0.0)

    def entry_ms(self, now_s: float, wall_ms: int) -> int:
        trim = Propose(1, SPACE, Trim(0, 7, None, 5, Proposer(1, 1)))
        self.core.handle(Received("engine-1", trim), now_s)
        self.core.handle(BatchEnded(wall_ms), now_s)
        self.token += 1
        entries = entries_sent(self.core.handle(Persisted(self.token), now_s), "reader")
        return entries[0][1].timestamp_ms


def test_p10_two_seconds_of_cuts_take_at_least_one_second() -> None:
    clocked = Clocked()
    granted_ms = clocked.entry_ms(100.0, WALL_MS)
    for passed_s in (1, 2, 3, 4, 5):
        now_ms = clocked.entry_ms(100.0 + passed_s, WALL_MS + DAY_MS)
        assert now_ms - granted_ms <= 2000 * passed_s


def test_p10_time_does_not_go_back_with_the_wall_clock() -> None:
    clocked = Clocked()
    times = [
        clocked.entry_ms(float(second), WALL_MS + jump)
        for second, jump in enumerate((0, 9000, -DAY_MS, -DAY_MS, DAY_MS))
    ]
    assert times == sorted(times)
    assert times[3] > times[2], "nor does it stand still"


def test_p10_a_term_goes_on_from_the_time_of_the_last() -> None:
    assert Clocked(ended_ms=WALL_MS + 500).entry_ms(0.0, WALL_MS) == WALL_MS + 500


def test_p10_it_meets_a_wall_clock_that_was_set_back_and_follows_it_again() -> None:
    clocked = Clocked()
    clocked.entry_ms(0.0, WALL_MS)
    assert clocked.entry_ms(1.0, WALL_MS - 2000) == WALL_MS + 500
    assert clocked.entry_ms(9.0, WALL_MS + 6000) == WALL_MS + 6000
    assert clocked.entry_ms(10.0, WALL_MS + 7000) == WALL_MS + 7000
