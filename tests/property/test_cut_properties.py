"""The algebra of cuts: whatever order progress arrives in, the same records get one seqnum each."""

from __future__ import annotations

from hypothesis import given, strategies as st

from bokilog.cut import advance, first_seqnums, frontier, record_count

counts = st.lists(st.integers(0, 1000), min_size=1, max_size=5)
frontiers = st.dictionaries(st.integers(1, 6), st.integers(0, 50), max_size=6)


@given(counts, st.data())
def test_a_frontier_is_held_by_a_write_quorum_and_nothing_more_is(
    held: list[int], data: st.DataObject
) -> None:
    quorum = data.draw(st.integers(1, len(held)))
    reached = frontier(held, write_quorum=quorum)
    assert sum(count >= reached for count in held) >= quorum
    assert sum(count >= reached + 1 for count in held) < quorum


@given(counts)
def test_a_frontier_of_fewer_replicas_than_the_quorum_is_nothing(held: list[int]) -> None:
    assert frontier(held, write_quorum=len(held) + 1) == 0


@given(st.lists(frontiers, max_size=6))
def test_cuts_order_each_record_exactly_once(steps: list[dict[int, int]]) -> None:
    ordered: dict[int, int] = {}
    seqnum = 1
    given_out: dict[int, tuple[int, int]] = {}
    for step in steps:
        now = {number: max(until, ordered.get(number, 0)) for number, until in step.items()}
        spans = advance(ordered, now)
        for first, span in first_seqnums(seqnum, spans):
            assert span.start == ordered.get(span.number, 0)
            for place in range(span.until - span.start):
                assert first + place not in given_out
                given_out[first + place] = (span.number, span.start + place)
        seqnum += record_count(spans)
        ordered |= now
    assert sorted(given_out) == list(range(1, seqnum))
    assert set(given_out.values()) == {
        (number, count) for number, until in ordered.items() for count in range(until)
    }
