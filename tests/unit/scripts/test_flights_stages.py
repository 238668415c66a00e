"""The stage functions, against DuckDB on the same rows."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest
import xxhash

from scripts.flights import stages
from scripts.flights.plan import Plan, flights_plan
from scripts.flights.stages import FUNCTIONS, VISIBILITY, WIND, Call, hash_partitions, read_slice
from scripts.flights.tables import answer_of
from tests.unit.scripts.flights_sample import Sample, make_sample


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Sample:
    return make_sample(tmp_path_factory.mktemp("sample"))


def run_plan(plan: Plan, data: Path) -> list[pa.Table]:
    """Every stage, task by task, without a log: the output of the last one."""
    done: dict[str, list[list[pa.Table]]] = {}
    for stage in plan.stages:
        done[stage.name] = []
        for task in range(stage.tasks):
            inputs = {}
            for edge in stage.edges:
                outputs = done[edge.parent]
                inputs[edge.parent] = (
                    [tables[task] for tables in outputs]
                    if edge.kind == "scatter"
                    else [table for tables in outputs for table in tables]
                )
            call = Call(
                data=data,
                task=task,
                tasks=stage.tasks,
                partitions=stage.partitions,
                inputs=inputs,
            )
            done[stage.name].append(FUNCTIONS[stage.name](call))
    return done[plan.stages[-1].name][0]


@pytest.mark.parametrize("partitions", [1, 4])
def test_answer_is_that_of_duckdb_row_for_row(sample: Sample, partitions: int) -> None:
    answer = answer_of(*run_plan(flights_plan(partitions=partitions), sample.folder))
    by_weather, by_carrier = sample.answer
    assert list(answer.by_weather) == by_weather
    assert list(answer.by_carrier) == by_carrier


def test_sample_has_every_band_a_nameless_carrier_and_flights_without_weather(
    sample: Sample,
) -> None:
    by_weather, by_carrier = sample.answer
    assert {row[0] for row in by_weather} == set(VISIBILITY.labels)
    assert {row[1] for row in by_weather} == set(WIND.labels)
    assert None in {row[1] for row in by_carrier}


def test_bands_without_any_departure_have_no_mean(tmp_path: Path) -> None:
    sample = make_sample(tmp_path, flights=1)  # and the first one was cancelled
    answer = answer_of(*run_plan(flights_plan(partitions=2), tmp_path))
    (row,) = answer.by_carrier
    assert (row.flights, row.cancelled, row.delay_minutes, row.mean_delay_minutes) == (
        1,
        1,
        0,
        None,
    )
    assert ([*answer.by_weather], [row]) == sample.answer


@pytest.mark.parametrize("of", [1, 2, 3, 7, 50, 700])
def test_every_row_is_in_exactly_one_slice(tmp_path: Path, of: int) -> None:
    rows = [f"{'x' * (i % 9)},{i}" for i in range(60)]
    path = tmp_path / "t.csv"
    path.write_text("name,number\n" + "\n".join(rows) + "\n")
    types = {"number": pa.int64()}
    slices = [read_slice(path, types, number=number, of=of) for number in range(of)]
    assert pa.concat_tables(slices).column("number").to_pylist() == [*range(60)]


def test_partition_is_the_hash_of_the_keys_text() -> None:
    hours = pa.array([0, 3_600, None, 0], pa.timestamp("s", tz="UTC"))
    table = pa.table({"origin": ["EWR", "JFK", "LGA", "EWR"], "time_hour": hours, "n": range(4)})
    parts = hash_partitions(table, stages.KEY, 8)
    found = {n: i for i, part in enumerate(parts) for n in part.column("n").to_pylist()}
    texts = ["EWR|0", "JFK|3600", "LGA|", "EWR|0"]
    assert found == {n: xxhash.xxh3_64_intdigest(text.encode()) % 8 for n, text in enumerate(texts)}


def test_empty_table_has_empty_partitions_with_its_columns() -> None:
    table = pa.table({"origin": pa.array([], pa.string())})
    assert [part.schema for part in hash_partitions(table, ["origin"], 3)] == [table.schema] * 3


def test_bands_are_half_open_and_null_is_unknown() -> None:
    values = pa.chunked_array([[0.99, 1.0, 2.5, 3.0, 10.0, 99.0, None]])
    assert stages.band(values, VISIBILITY).to_pylist() == [0, 1, 1, 2, 4, 4, 5]
    assert VISIBILITY.labels == ("<1", "1-3", "3-6", "6-10", "10+", "unknown")
