"""Percentiles, medians, ratios, bars, and the form of what is printed."""

import json
import math

import pytest

from bokilog.bench.figures import (
    Result,
    Sample,
    compare,
    describe,
    figure,
    median,
    percentile,
    shown,
    spread,
    to_cells,
    to_json,
    without_repeats,
)


@pytest.mark.parametrize(
    ("share", "expected"), [(0.01, 1), (0.5, 50), (0.505, 51), (0.99, 99), (1.0, 100)]
)
def test_a_percentile_is_the_smallest_value_that_covers_its_share(
    share: float, expected: float
) -> None:
    assert percentile(list(range(1, 101)), share) == expected


def test_the_percentile_of_one_value_is_that_value_and_of_none_unknown() -> None:
    assert percentile([7.0], 0.5) == percentile([7.0], 0.99) == 7.0
    assert math.isnan(percentile([], 0.5))


def test_rounds_that_gave_no_number_do_not_count() -> None:
    assert median([1.0, math.nan, 3.0]) == 2.0
    assert spread([1.0, math.nan, 3.0]) == (1.0, 3.0)
    assert math.isnan(median([math.nan]))
    assert spread([]) is None


def test_a_ratio_is_of_medians_and_its_spread_of_the_rounds() -> None:
    result = compare(
        "ours", [10.0, 20.0, 60.0], "x/s", against="theirs", others=[10.0, 5.0, 20.0], bar=2.0
    )
    assert (result.value, result.ratio, result.ratio_spread) == (20.0, 2.0, (1.0, 4.0))
    assert result.holds is True


def test_one_figure_may_stand_for_all_rounds() -> None:
    result = compare("p50", [1.0, 2.0, 4.0], "us", against="3 us", others=[4.0])
    assert (result.ratio, result.ratio_spread, result.holds) == (0.5, (0.25, 1.0), None)


@pytest.mark.parametrize(
    ("relation", "ratio", "expected"),
    [
        ("at least", 2.0, True),
        ("at least", 1.99, False),
        ("at most", 2.0, True),
        ("at most", 2.01, False),
        ("at least", None, False),
        ("at most", math.nan, False),
    ],
)
def test_a_bar_holds_in_its_direction_and_never_without_a_ratio(
    relation: str, ratio: float | None, expected: bool
) -> None:
    result = Result(
        name="x",
        value=1.0,
        unit="u",
        ratio=ratio,
        bar=2.0,
        relation=relation,  # type: ignore[arg-type]  # one of the two
    )
    assert result.holds is expected


def test_what_was_not_measured_does_not_hold() -> None:
    result = compare("ours", [], "x/s", against="theirs", others=[], bar=1.0)
    assert (result.ratio, result.holds) == (None, False)
    assert json.loads(to_json([result]))["results"][0]["value"] is None


def test_a_bar_against_nothing_at_all_is_a_ratio_of_nothing() -> None:
    result = compare("n", [0.0], "n", against="one", others=[1.0], bar=0.0, relation="at most")
    assert result.holds is True


def test_json_has_the_keys_of_the_contract() -> None:
    result = compare("ours", [2.0], "x/s", against="theirs", others=[1.0], bar=1.5, note="why")
    assert json.loads(to_json([result])) == {
        "results": [
            {
                "name": "ours",
                "value": 2.0,
                "unit": "x/s",
                "against": "theirs",
                "ratio": 2.0,
                "bar": 1.5,
                "holds": True,
                "relation": "at least",
                "spread": [2.0, 2.0],
                "ratio_spread": [2.0, 2.0],
                "note": "why",
            }
        ]
    }


def test_a_plain_figure_in_json_says_null_for_what_it_has_not() -> None:
    (plain,) = json.loads(to_json([figure("a", [1.0, 3.0], "us")]))["results"]
    assert (plain["value"], plain["spread"]) == (2.0, [1.0, 3.0])
    for key in ("against", "ratio", "bar", "holds", "relation", "note"):
        assert plain[key] is None


def test_a_row_for_people_says_value_ratio_bar_and_verdict() -> None:
    result = compare("a", [90.0, 110.0], "us", against="b", others=[50.0], bar=1.5)
    assert to_cells(result) == ("a", "100 us (90.0..110)", "b", "2.00x (bar >= 1.50x)", "holds")
    late = compare("a", [90.0], "us", against="b", others=[50.0], bar=1.5, relation="at most")
    assert to_cells(late)[3:] == ("1.80x (bar <= 1.50x)", "FAILS")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (1234567.0, "1,230,000"),
        (999.6, "1,000"),
        (42.123, "42.1"),
        (0.001234, "0.00123"),
        (math.nan, "unknown"),
    ],
)
def test_figures_for_people_have_three_digits(value: float, text: str) -> None:
    assert shown(value) == text


def test_a_contender_is_described_with_its_budget() -> None:
    sample = Sample(
        rate=10.0,
        p50_us=5.0,
        p99_us=9.0,
        cpu_us={"client": 2.0, "engine-1": 3.0},
        values={"follower_behind_s": 0.5},
    )
    found = {each.name: (each.value, each.unit) for each in describe("x", [sample], unit="reads/s")}
    assert found == {
        "x": (10.0, "reads/s"),
        "x.p50": (5.0, "us"),
        "x.p99": (9.0, "us"),
        "x.cpu.client": (2.0, "us/read"),
        "x.cpu.engine-1": (3.0, "us/read"),
        "x.cpu": (5.0, "us/read"),
        "x.follower_behind_s": (0.5, "s"),
    }


def test_what_nobody_knows_is_not_described() -> None:
    assert [each.name for each in describe("x", [Sample(rate=1.0)], unit="ops/s")] == ["x"]


def test_a_figure_that_is_held_against_something_is_not_listed_by_itself() -> None:
    alone, other = figure("a", [1.0], "us"), figure("b", [1.0], "us")
    compared = compare("a", [1.0], "us", against="c", others=[1.0])
    again = compare("a", [1.0], "us", against="d", others=[1.0])
    assert without_repeats([alone, other, compared, again]) == [other, compared, again]
