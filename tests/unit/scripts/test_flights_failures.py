"""Which errors of the demonstration are one line, and which keep their traceback."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from bokilog import NodeUnreachable
from scripts.flights.failures import DemoError, explain
from scripts.flights.main import main

LOST = NodeUnreachable("127.0.0.1:7300", "connection refused")


def test_expected_error_is_its_text() -> None:
    assert explain(DemoError("every worker has ended")) == "every worker has ended"


def test_one_error_met_by_several_tasks_is_told_once() -> None:
    group = ExceptionGroup("a", [LOST, ExceptionGroup("b", [LOST, DemoError("and this")])])
    assert explain(group).splitlines() == [str(LOST), "and this"]


def test_bug_among_them_keeps_its_traceback() -> None:
    group = ExceptionGroup("a", [LOST, ZeroDivisionError("a bug")])
    with pytest.raises(ExceptionGroup):
        explain(group)


def test_options_that_exclude_each_other_are_a_usage_error() -> None:
    result = CliRunner().invoke(main, ["--embedded", "--kill-worker"])
    assert result.exit_code == 2
    assert "another worker goes on" in result.output
