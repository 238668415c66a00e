"""Counts by bucket: nothing is lost, nothing is counted twice."""

from __future__ import annotations

from hypothesis import given, strategies as st

from bokilog.histogram import BOUNDS_S, Histogram


@given(st.lists(st.floats(min_value=0, max_value=100)))
def test_every_observation_is_in_the_first_bucket_that_holds_it(took: list[float]) -> None:
    histogram = Histogram()
    for each in took:
        histogram.observe(each)
    bounds = [*BOUNDS_S, float("inf")]
    below = [0.0, *BOUNDS_S]
    for low, bound, count in zip([-1.0, *below[1:]], bounds, histogram.counts, strict=True):
        assert count == sum(1 for each in took if low < each <= bound)
    assert histogram.plain() == [histogram.sum_s, *histogram.counts]
