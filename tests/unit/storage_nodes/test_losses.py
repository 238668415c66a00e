"""What is lost of a span of a cut: the same parts on every replica, whatever it has heard in which
order."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given, strategies as st

from bokilog.ids import LogSpaceId, Shard, Term
from bokilog.metalog import Lost, Run
from bokilog.storage_nodes.losses import Losses

SPACE = LogSpaceId(0)
SHARD = Shard(SPACE, Term(1), 7)

Ranges = list[tuple[int, int]]


def losses(found: Ranges) -> Losses:
    made = Losses(SPACE)
    for place, (start, until) in enumerate(found):
        made.note(Run(SPACE, Term(1), place, (Lost(0, 1, 7, start, until),)))
    return made


def test_records_that_two_entries_speak_of_are_lost_once() -> None:
    """A part of no records never ended a search for the next seqnum (seed 1148), and stood in the
    hash of those replicas only that had heard of both entries."""
    assert [*losses([(0, 5), (0, 7)]).parts(SHARD, 0, 2)] == [(0, 2, True)]
    assert [*losses([(0, 5), (0, 7)]).parts(SHARD, 0, 7)] == [(0, 7, True)]


@given(
    st.lists(st.tuples(st.integers(0, 30), st.integers(1, 12)), max_size=6),
    st.integers(0, 25),
    st.integers(1, 20),
)
def test_parts_cover_the_span_in_order_and_change_with_each(
    said: Ranges, start: int, count: int
) -> None:
    found = [(first, first + more) for first, more in said]
    until = start + count
    parts = [*losses(found).parts(SHARD, start, until)]
    assert parts == [*losses(found[::-1]).parts(SHARD, start, until)]
    edges = [start, *(end for _, end, _ in parts)]
    assert [(first, end) for first, end, _ in parts] == [*pairwise(edges)]
    assert edges[-1] == until
    kinds = [lost for *_, lost in parts]
    assert all(one != other for one, other in pairwise(kinds))
    for first, end, lost in parts:
        assert first < end
        for count in range(first, end):
            assert lost == any(low <= count < high for low, high in found)
