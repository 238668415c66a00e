"""Every run is found again, from RAM that does not grow with each of them."""

from __future__ import annotations

from itertools import islice

import pytest

from bokilog.journal import Location
from bokilog.sequencer.runs import CHUNK_RUNS, RunIndex

RUNS = 3 * CHUNK_RUNS + 7


def places() -> list[tuple[int, Location]]:
    """Runs of one to three entries, over many segments."""
    found, first, segment, offset = [], 5, 1, 4096
    for number in range(RUNS):
        length = 40 + number % 9
        if offset + 88 + length > 1 << 16:
            segment, offset = segment + 1 + number % 2, 4096
        found.append((first, Location(segment, offset + 88, length)))
        offset += 88 + length
        first += 1 + number % 3
    return found


PLACES = places()
END = 1 << 40


@pytest.fixture(scope="module")
def runs() -> RunIndex:
    made = RunIndex()
    for first, location in PLACES:
        made.add(first, location)
    return made


def expected(count: int, until: int = END) -> list[Location]:
    ends = [first for first, _ in PLACES[1:]] + [END]
    return [
        location
        for (first, location), end in zip(PLACES, ends, strict=True)
        if end > count and first < until
    ]


@pytest.mark.parametrize("place", [0, 1, CHUNK_RUNS - 1, CHUNK_RUNS, 2 * CHUNK_RUNS + 3, RUNS - 1])
def test_runs_are_found_from_any_entry_on(runs: RunIndex, place: int) -> None:
    first, location = PLACES[place]
    assert len(runs) == RUNS
    for count in (first, first + (place % 3)):
        assert list(runs.locations(count, END)) == expected(count)
    assert next(runs.locations(first, END)) == location


def test_runs_that_begin_later_are_left_out(runs: RunIndex) -> None:
    for place in (1, CHUNK_RUNS, CHUNK_RUNS + 1, RUNS - 1):
        until = PLACES[place][0]
        assert list(runs.locations(5, until)) == [location for _, location in PLACES[:place]]
        assert list(runs.locations(until, until)) == []


def test_a_position_before_the_first_run_starts_with_the_first(runs: RunIndex) -> None:
    assert list(islice(runs.locations(0, END), 2)) == [location for _, location in PLACES[:2]]
    assert list(RunIndex().locations(0, END)) == []


def test_old_runs_take_less_than_two_bytes_each(runs: RunIndex) -> None:
    assert runs.size_bytes < 2 * RUNS
