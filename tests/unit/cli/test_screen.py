"""What is shown of calls while they run."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from bokilog.call_errors import FunctionFailed
from bokilog.cli.screen import LINES_PER_S_MAX, Screen
from bokilog.errors import to_wire
from bokilog.functions.runtime.effects import (
    AppLoaded,
    AppNotLoaded,
    CallBegan,
    CallOver,
    WorkerEnded,
)


def shown(*, calls: bool = True) -> tuple[Screen, io.StringIO]:
    out = io.StringIO()
    return Screen(Console(file=out, width=200), calls=calls), out


def test_calls_their_output_and_their_failures_are_shown() -> None:
    screen, out = shown()
    screen.loaded(AppLoaded(1, [["f", {}, "(x)", ""], ["$p", {}, "", ""]], [["import", 5_000]], ()))
    screen.began(CallBegan("c1", "f", 0, 0.0))
    screen.wrote("c1", 1, "one\n[two]\n")
    screen.over(CallOver("c1", "f", [], 0.0123, True))
    failed = FunctionFailed("f", "ValueError", "no [way]", "Traceback ...")
    screen.over(CallOver("c2", "f", to_wire(failed), 0.5, False))
    screen.not_loaded(AppNotLoaded("SyntaxError: [x]", (), True))
    assert [line.rstrip() for line in out.getvalue().splitlines()] == [
        "loaded in 5 ms (import 5 ms)",
        "functions: f",
        "f c1 | one",
        "f c1 | [two]",
        "ok     f c1 12.3 ms cold",
        "failed f c2 500.0 ms FunctionFailed: f raised ValueError: no [way]",
        "Traceback ...",
        "cannot be loaded: the version before goes on",
        "SyntaxError: [x]",
    ]


def test_a_workers_end_is_shown_as_it_was_told() -> None:
    screen, out = shown()
    screen.worker_ended(WorkerEnded(4, "[f]", "no [red]markup[/]"))
    assert out.getvalue() == "worker 4 of [f]: no [red]markup[/]\n"


def test_what_an_app_says_steers_no_terminal() -> None:
    screen, out = shown()
    steers = "a\x1b[2J\x9b31m\x07\tb\r"
    screen.began(CallBegan("c1", "f", 0, 0.0))
    screen.wrote("c1", 1, steers + "\ntwo\n")
    failed = FunctionFailed("f", "ValueError", steers + "b\nc", f"Traceback {steers}b\nc")
    screen.over(CallOver("c2", "f", to_wire(failed), 0.5, False))
    screen.not_loaded(AppNotLoaded("SyntaxError: " + steers, (), True))
    screen.worker_ended(WorkerEnded(4, "f", steers))
    screen.warned(steers)
    assert "\\x1b[2J\\x9b31m\\x07 " in out.getvalue()
    assert all(each.isprintable() or each == "\n" for each in out.getvalue())


def test_more_calls_than_anybody_can_read_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    screen, out = shown()
    now_s = 5.0
    monkeypatch.setattr("bokilog.cli.screen.time.monotonic", lambda: now_s)
    for number in range(LINES_PER_S_MAX + 30):
        screen.over(CallOver(f"c{number}", "f", [], 0.001, False))
    now_s = 6.0
    screen.over(CallOver("last", "f", [], 0.001, False))
    lines = out.getvalue().splitlines()
    assert len(lines) == LINES_PER_S_MAX + 2 and lines[-2] == "... and 30 more lines"


def test_without_calls_only_the_app_is_shown() -> None:
    screen, out = shown(calls=False)
    screen.began(CallBegan("c1", "f", 0, 0.0))
    screen.wrote("c1", 1, "one\n")
    screen.over(CallOver("c1", "f", [], 0.0123, True))
    assert out.getvalue() == ""


@pytest.mark.parametrize(
    ("calls_count", "line"),
    [
        (0, "stopping"),
        (
            1,
            "stopping: waiting some seconds for a call that is not over; Ctrl-C again ends at once",
        ),
        (
            7,
            "stopping: waiting some seconds for 7 calls that are not over; "
            "Ctrl-C again ends at once",
        ),
    ],
)
def test_a_stop_says_what_it_waits_for(calls_count: int, line: str) -> None:
    screen, out = shown(calls=False)
    screen.stopping(calls_count)
    assert out.getvalue() == line + "\n"
