"""Which plans are valid."""

from __future__ import annotations

import pytest

from scripts.flights.plan import Edge, Plan, Stage, flights_plan
from scripts.flights.stages import FUNCTIONS

SCAN = Stage(name="scan", tasks=2, partitions=3)


def test_every_stage_of_the_flights_has_a_function() -> None:
    assert {stage.name for stage in flights_plan(partitions=7).stages} == set(FUNCTIONS)


@pytest.mark.parametrize(
    ("stages", "problem"),
    [
        ((SCAN, SCAN), "names are unique"),
        ((Stage(name="a/b", tasks=1, partitions=1),), "without '/'"),
        ((Stage(name="a", tasks=0, partitions=1),), "no task"),
        ((Stage(name="a", tasks=1, partitions=0),), "no partition"),
        (
            (Stage(name="a", tasks=3, partitions=1, edges=(Edge(parent="b", kind="scatter"),)),),
            "no stage before it",
        ),
        (
            (
                SCAN,
                Stage(
                    name="a", tasks=2, partitions=1, edges=(Edge(parent="scan", kind="scatter"),)
                ),
            ),
            "2 tasks for the 3 partitions",
        ),
        (
            (
                SCAN,
                Stage(name="a", tasks=2, partitions=1, edges=(Edge(parent="scan", kind="fan-in"),)),
            ),
            "a fan-in has one",
        ),
    ],
)
def test_plan_that_cannot_run_is_refused(stages: tuple[Stage, ...], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        Plan(stages=stages)
