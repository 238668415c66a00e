"""A unit: what it costs, what its key names, how its tags stand in a column."""

from __future__ import annotations

import pytest

from bokilog.client.units import (
    RECORD_COST_BYTES,
    SETTLED,
    in_column,
    tag_bytes,
    tags_cost,
    unit_digest,
)
from bokilog.columns import Tags
from bokilog.limits import FRAME_BYTES_MAX, INFLIGHT_RECORDS_MAX
from tests.unit.client.units import Author


def test_a_record_costs_enough_to_bound_the_records_of_a_frame() -> None:
    assert RECORD_COST_BYTES * INFLIGHT_RECORDS_MAX >= FRAME_BYTES_MAX


def test_a_unit_costs_its_data_its_tags_and_something_for_each_record() -> None:
    unit = Author().unit(b"four", b"", tags=["ab", None])
    assert unit.size_bytes == 4 + 2 + 2 * RECORD_COST_BYTES


@pytest.mark.parametrize(
    ("tags", "size"), [(None, 0), ("abc", 3), (["a", "bc"], 3), ([], 0)], ids=str
)
def test_tags_are_as_large_as_their_characters(tags: Tags, size: int) -> None:
    assert tag_bytes(tags) == size


def test_a_column_of_one_tag_each_costs_what_any_other_does() -> None:
    assert tags_cost(["a", "bc"]) == tags_cost([["a", "b"], "c"]) == 3 + 2 * RECORD_COST_BYTES
    assert tags_cost([]) == 0


def test_no_tag_one_tag_and_several_stand_in_a_column_as_they_are_usually_used() -> None:
    assert [in_column(tags) for tags in ((), ("a",), ("a", "b"))] == [None, "a", ["a", "b"]]


def test_a_key_names_which_bytes_belong_to_which_record() -> None:
    assert unit_digest([b"ab", b"c"], ["t", "t"]) == unit_digest([b"ab", b"c"], ["t", "t"])
    assert unit_digest([b"ab", b"c"], ["t", "t"]) != unit_digest([b"a", b"bc"], ["t", "t"])


def test_nobody_waits_for_a_unit_that_left_its_batch() -> None:
    SETTLED.set_result(1)
    SETTLED.set_exception(ValueError())
    assert SETTLED.done()
