"""The whole demonstration on the real flights, row for row what DuckDB says of the same files."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from scripts.flights.failures import explain
from scripts.flights.fetch import fetch
from scripts.flights.main import Options, run
from scripts.flights.tables import Answer, Report
from tests.unit.scripts.flights_sample import duckdb_answer

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

FLIGHTS = 336_776
OPTIONS = Options(
    embedded=True,
    directory=None,
    keep=False,
    port=None,
    workers=2,
    partitions=4,
    job="test",
    kill_worker=False,
)


@pytest.fixture(scope="module")
def data() -> Path:
    return fetch()


def demo(data: Path, directory: Path, **changes: object) -> tuple[Report, str]:
    out = io.StringIO()
    options = replace(OPTIONS, directory=directory, **changes)  # type: ignore[arg-type]
    return run(options, Console(file=out, width=110), data=data), out.getvalue()


def check(answer: Answer, data: Path) -> None:
    assert sum(row.flights for row in answer.by_weather) == FLIGHTS
    assert sum(row.flights for row in answer.by_carrier) == FLIGHTS
    assert ([*answer.by_weather], [*answer.by_carrier]) == duckdb_answer(data)


def test_embedded_answer_is_that_of_duckdb_row_for_row(data: Path, tmp_path: Path) -> None:
    report, _ = demo(data, tmp_path)
    check(report.answer, data)
    assert [(each.stage, each.tasks, each.records) for each in report.stages] == [
        ("scan_flights", 8, 8),
        ("scan_weather", 2, 2),
        ("scan_airlines", 1, 1),
        ("join", 4, 4),
        ("aggregate", 2, 2),
        ("sort", 1, 1),
    ]
    assert report.stages[0].rows == FLIGHTS


def test_finished_job_answers_again_from_its_directory(data: Path, tmp_path: Path) -> None:
    first, _ = demo(data, tmp_path, partitions=2)
    second, said = demo(data, tmp_path)
    assert second.answer == first.answer
    assert second.stages == first.stages
    assert "job test is there already" in said


@pytest.mark.kill
def test_cluster_answers_alike_although_a_worker_is_killed_with_a_claim(
    data: Path, tmp_path: Path
) -> None:
    report, said = demo(data, tmp_path, embedded=False, kill_worker=True, claim_ttl_ms=1_500)
    check(report.answer, data)
    assert "killed worker-1-1, which had claimed" in said
    assert report.repeated_claims >= 1


@pytest.mark.kill
def test_cluster_answers_alike_although_primary_storage_node_and_worker_die(
    data: Path, tmp_path: Path
) -> None:
    report, said = demo(data, tmp_path, embedded=False, chaos=True, claim_ttl_ms=1_500)
    check(report.answer, data)
    assert "killed worker-1-1, which had claimed" in said
    assert ", the primary (pid" in said
    assert "killed storage-1, a storage node (pid" in said
    assert report.repeated_claims >= 1


def test_workers_that_cannot_start_end_the_demo_with_their_words(tmp_path: Path) -> None:
    with pytest.raises(ExceptionGroup) as raised:
        demo(tmp_path / "missing", tmp_path / "demo", embedded=False)
    first, *words = explain(raised.value).splitlines()
    assert first == "every worker has ended"
    assert sum("missing' does not exist" in line for line in words) == 4
