"""Values of options that click's own types would take."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

Run = Callable[..., tuple[int, str, str]]


@pytest.mark.parametrize(
    "command",
    [
        ("up", "--timeout-s"),
        ("down", "--timeout-s"),
        ("restart", "--timeout-s"),
        ("bench", "append", "--seconds"),
        ("books", "--timeout-s"),
        ("read", "b", "--wait-s"),
    ],
)
def test_nan_is_no_number_of_seconds(run: Run, command: tuple[str, ...]) -> None:
    code, out, error = run(*command, "nan")
    assert (code, out) == (2, "")
    assert f"Invalid value for '{command[-1]}': nan is not a number of seconds" in error


def test_nan_is_no_number_of_milliseconds_where_those_are_asked_for(run: Run) -> None:
    code, out, error = run("bench", "append", "--sync-delay-ms", "nan")
    assert (code, out) == (2, "")
    assert "Invalid value for '--sync-delay-ms': nan is not a number of milliseconds" in error


@pytest.mark.parametrize(
    "command",
    [("up", "--dir"), ("down", "--dir"), ("dev", "m:app", "--dir"), ("serve", "m:a", "--app-dir")],
)
def test_an_empty_text_is_not_the_current_directory(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, error = run(*command, "")
    assert (code, out) == (2, "")
    assert f"Invalid value for '{command[-1]}': it is empty" in error
    assert not list(tmp_path.iterdir())


def test_help_says_that_a_read_may_wait_without_bound(run: Run) -> None:
    code, out, _ = run("read", "--help")
    assert code == 0
    assert "inf: until there is one" in " ".join(out.split())
