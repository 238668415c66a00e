"""Control records as JSON."""

from __future__ import annotations

import pytest

from scripts.flights.plan import TaskId, flights_plan
from scripts.flights.records import (
    Beat,
    Claimed,
    Committed,
    Control,
    Failed,
    InvalidControl,
    OutputLost,
    Submitted,
    claim_tag,
    decode,
    encode,
    task_tag,
)

TASK = TaskId("join", 3)
COMMITTED = Committed(task=TASK, worker="w", output=77, rows=5, part_bytes=(3, 0, 12), seconds=0.25)
ALL: list[Control] = [
    Submitted(flights_plan(partitions=4, claim_ttl_ms=50)),
    Claimed(TASK, "worker-1"),
    COMMITTED,
    OutputLost(TASK, 78),
    Failed(TASK, "w", "ValueError: no"),
    Beat(),
]


@pytest.mark.parametrize("control", ALL, ids=lambda control: type(control).__name__)
def test_record_reads_back_as_it_was_written(control: Control) -> None:
    assert decode(encode(control)) == control


def test_bytes_of_a_commit_never_change() -> None:
    assert encode(COMMITTED) == (
        b'{"kind":"committed","task":["join",3],"worker":"w","output":77,"rows":5,'
        b'"part_bytes":[3,0,12],"seconds":0.25}'
    )


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"{}",
        b'{"kind":"danced"}',
        b'{"kind":"claimed","task":["join"],"worker":"w"}',
        b'{"kind":"claimed","task":["join","3"],"worker":"w"}',
        b'{"kind":"claimed","task":["join",3]}',
        b'{"kind":"submitted","plan":3}',
        b'{"kind":"submitted","plan":{"claim_ttl_ms":5,"stages":[{"name":"x"}]}}',
        encode(ALL[0]).replace(b"scatter", b"confuse"),
    ],
)
def test_record_of_somebody_else_is_refused_not_skipped(data: bytes) -> None:
    with pytest.raises(InvalidControl):
        decode(data)


def test_tags_name_job_stage_and_task() -> None:
    assert task_tag("j1", TASK) == "task:j1/join/3"
    assert claim_tag("j1", TASK) == "claim:j1/join/3"
