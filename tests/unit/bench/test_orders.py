"""Orders and outcomes survive their way through a pipe."""

import math

import pytest

from bokilog.bench.orders import Order, Outcome, order_of, outcome_of, to_line


def test_an_order_comes_out_as_it_went_in() -> None:
    order = Order(do="append", place="/x y", size_bytes=128, flags=("stamped",), seconds=0.5)
    assert order_of(to_line(order)) == order


def test_an_outcome_comes_out_as_it_went_in() -> None:
    outcome = Outcome(count=3, elapsed_s=1.5, p50_us=2.0, p99_us=4.0, values={"open_ms": 1.0})
    assert outcome_of(to_line(outcome)) == outcome
    assert outcome.rate == 2.0


def test_what_is_not_a_number_stays_so() -> None:
    assert math.isnan(outcome_of(to_line(Outcome())).p50_us)
    assert Outcome().rate == 0.0


def test_a_line_is_one_line() -> None:
    assert to_line(Order(do="open", place="a\nb")).count(b"\n") == 1


def test_an_unknown_field_is_refused() -> None:
    with pytest.raises(AssertionError):
        outcome_of(b'{"speed": 1}')
