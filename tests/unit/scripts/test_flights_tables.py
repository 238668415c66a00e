"""What people and programs see of a run."""

from __future__ import annotations

import io
import json
from dataclasses import replace

from rich.console import Console

from scripts.flights.job import JobState, StageStats
from scripts.flights.plan import Plan, Stage, TaskId
from scripts.flights.progress import Bars, Lines, display
from scripts.flights.records import Committed, Submitted
from scripts.flights.tables import Answer, CarrierRow, Report, WeatherRow, as_json, print_report

REPORT = Report(
    job="j1",
    shape="embedded",
    answer=Answer(
        by_weather=(
            WeatherRow("<1", "5-10", 1_382, 91, 40_703, 31.528),
            WeatherRow("10+", "unknown", 85_453, 0, 0, None),
        ),
        by_carrier=(CarrierRow("ZZ", None, 3, 3, 0, None),),
    ),
    stages=(StageStats("join", 4, 4, 171, 9_700, 0.3, 0.6),),
    repeated_claims=1,
    job_s=1.5,
    total_s=2.25,
)


def printed(report: Report) -> str:
    out = io.StringIO()
    print_report(Console(file=out, width=110), report)
    return out.getvalue()


def test_report_for_people_has_the_answer_and_what_it_took() -> None:
    text = printed(REPORT)
    for part in ("31.5 1.4k", "-  85k", "ZZ        unknown", "9.7 kB", "1.50 s", "2.25 s"):
        assert part in text
    assert "1 claim was repeated" in text


def test_bands_nobody_flew_in_take_no_room() -> None:
    text = printed(REPORT)
    assert " 5-10" in text
    assert "20+" not in text


def test_all_bands_fit_into_80_columns() -> None:
    rows = tuple(
        WeatherRow(visibility, wind, 852_000, 91, 40_703, 46.312)
        for visibility in ("unknown", "6-10")
        for wind in ("<5", "5-10", "10-15", "15-20", "20+", "unknown")
    )
    out = io.StringIO()
    answer = replace(REPORT.answer, by_weather=rows)
    print_report(Console(file=out, width=80), replace(REPORT, answer=answer))
    assert out.getvalue().count("46.3 852k") == len(rows)
    assert "\u2026" not in out.getvalue()


def test_report_for_programs_is_json_with_exact_numbers() -> None:
    again = json.loads(json.dumps(as_json(REPORT)))
    assert again["by_weather"][0]["delay_minutes"] == 40_703
    assert again["by_carrier"][0]["name"] is None
    assert again["stages"][0]["records"] == 4


def finished() -> JobState:
    state = JobState()
    plan = Plan(stages=(Stage(name="a", tasks=1, partitions=1),))
    state.apply(Submitted(plan), seqnum=1, timestamp_ms=0)
    commit = Committed(
        task=TaskId("a", 0), worker="w", output=9, rows=1_000, part_bytes=(2_000,), seconds=1.0
    )
    state.apply(commit, seqnum=2, timestamp_ms=0)
    return state


def test_pipe_gets_one_line_per_finished_stage() -> None:
    out = io.StringIO()
    with display(Console(file=out)) as shown:
        assert isinstance(shown, Lines)
        shown.show(JobState())
        shown.show(finished())
        shown.show(finished())
    assert out.getvalue() == "a: 1/1 tasks, 1,000 rows, 2.0 kB\n"


def test_terminal_gets_a_bar_per_stage() -> None:
    out = io.StringIO()
    with display(Console(file=out, force_terminal=True, width=100)) as shown:
        assert isinstance(shown, Bars)
        shown.show(finished())
        shown.say("something happened")
    assert "1/1" in out.getvalue()
    assert "something happened" in out.getvalue()
