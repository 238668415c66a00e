from __future__ import annotations

from bokilog.functions.runtime.pulses import Pulses


def test_a_worker_that_does_not_answer_is_told_of_once() -> None:
    pulses = Pulses(5.0)
    assert pulses.look([1, 2], 0.0) == ([1, 2], [])
    pulses.answered(2)
    assert pulses.look([1, 2], 1.0) == ([2], [])
    assert pulses.look([1, 2], 5.0) == ([], [1])
    assert pulses.look([1, 2], 6.0) == ([], [2])
    assert pulses.look([1, 2], 20.0) == ([], [])
    pulses.answered(1)
    assert pulses.look([1, 2], 21.0) == ([1], [])


def test_a_worker_that_runs_nothing_owes_no_answer() -> None:
    pulses = Pulses(5.0)
    assert pulses.look([1], 0.0) == ([1], [])
    assert pulses.look([], 4.0) == ([], [])
    assert pulses.look([1], 9.0) == ([1], [])
