"""The answer and the account of a run: as values, as JSON, as tables for people.

Decides columns and wording only. Means are those of the last stage; nothing is computed here.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import pyarrow as pa
from rich import box
from rich.console import Console
from rich.filesize import decimal
from rich.table import Table

from scripts.flights.job import StageStats
from scripts.flights.stages import UNKNOWN, VISIBILITY, WIND


class WeatherRow(NamedTuple):
    """Departures in one band of visibility and one of wind."""

    visibility: str
    wind: str
    flights: int
    cancelled: int
    delay_minutes: int
    """The sum over all that departed; early departures count negative."""
    mean_delay_minutes: float | None
    """None when nothing departed."""


class CarrierRow(NamedTuple):
    """Departures of one carrier."""

    carrier: str
    name: str | None
    flights: int
    cancelled: int
    delay_minutes: int
    mean_delay_minutes: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What the job was asked for."""

    by_weather: tuple[WeatherRow, ...]
    """In the order of the bands."""
    by_carrier: tuple[CarrierRow, ...]
    """The largest mean delay first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """A finished run."""

    job: str
    shape: str
    answer: Answer
    stages: tuple[StageStats, ...]
    repeated_claims: int
    job_s: float
    """From the submission to the answer."""
    total_s: float
    """With starting the log and the workers."""


def answer_of(by_weather: pa.Table, by_carrier: pa.Table) -> Answer:
    """The two output partitions of the last stage, as rows."""
    return Answer(
        by_weather=tuple(WeatherRow(**row) for row in by_weather.to_pylist()),
        by_carrier=tuple(CarrierRow(**row) for row in by_carrier.to_pylist()),
    )


def as_json(report: Report) -> dict[str, object]:
    """The report for programs."""
    return {
        "job": report.job,
        "shape": report.shape,
        "by_weather": [row._asdict() for row in report.answer.by_weather],
        "by_carrier": [row._asdict() for row in report.answer.by_carrier],
        "stages": [stats._asdict() for stats in report.stages],
        "repeated_claims": report.repeated_claims,
        "job_s": report.job_s,
        "total_s": report.total_s,
    }


def print_report(console: Console, report: Report) -> None:
    """Answer first, then what it took."""
    console.print(_by_weather(report.answer.by_weather))
    console.print(_by_carrier(report.answer.by_carrier))
    console.print(_stages(report.stages))
    if report.repeated_claims:
        count = report.repeated_claims
        claims = "1 claim was" if count == 1 else f"{count} claims were"
        console.print(f"{claims} repeated: whoever had made them did not finish in time")
    console.print(
        f"job {report.job} ({report.shape}): {report.job_s:.2f} s; "
        f"with starting everything {report.total_s:.2f} s",
        highlight=False,
    )


def _by_weather(rows: Sequence[WeatherRow]) -> Table:
    units = f"visibility ({VISIBILITY.unit}) and wind ({WIND.unit})"
    table = _table(f"Mean departure delay in minutes, and flights, by {units}")
    table.padding = (0, 1, 0, 0)  # all bands fit into 80 columns
    table.add_column("visibility", no_wrap=True)
    cells = {(row.visibility, row.wind): row for row in rows}
    winds = [wind for wind in WIND.labels if any(row.wind == wind for row in rows)]
    for wind in winds:
        table.add_column(f"wind\n{wind}", justify="right", no_wrap=True)
    for visibility in VISIBILITY.labels:
        if any(row.visibility == visibility for row in rows):
            table.add_row(visibility, *(_cell(cells.get((visibility, wind))) for wind in winds))
    return table


def _cell(row: WeatherRow | None) -> str:
    return "" if row is None else f"{_mean(row.mean_delay_minutes)} {_count(row.flights):>4}"


def _by_carrier(rows: Sequence[CarrierRow]) -> Table:
    table = _table("Departure delay by carrier")
    table.add_column("carrier")
    table.add_column("name", no_wrap=True)
    for name in ("flights", "cancelled", "mean delay, min"):
        table.add_column(name, justify="right")
    for row in rows:
        numbers = (f"{row.flights:,}", f"{row.cancelled:,}", _mean(row.mean_delay_minutes))
        table.add_row(row.carrier, row.name or UNKNOWN, *numbers)
    return table


def _stages(stages: Sequence[StageStats]) -> Table:
    table = _table("What it took (busy: all tasks of the stage together)")
    table.add_column("stage", no_wrap=True)
    for name in ("tasks", "records", "rows", "bytes", "seconds", "busy, s"):
        table.add_column(name, justify="right")
    for each in stages:
        table.add_row(
            each.stage,
            str(each.tasks),
            str(each.records),
            f"{each.rows:,}",
            decimal(each.size_bytes),
            f"{each.seconds:.2f}",
            f"{each.busy_s:.2f}",
        )
    return table


def _table(title: str) -> Table:
    return Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)


def _count(count: int) -> str:
    """Short, as it stands beside another number; the exact one is in the JSON."""
    if count < 1_000:
        return str(count)
    return f"{count / 1_000:.1f}k" if count < 9_950 else f"{count / 1_000:.0f}k"


def _mean(mean: float | None) -> str:
    return "-" if mean is None else f"{mean:.1f}"
