"""`bokilog bench --history` keeps one line per run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from bokilog.bench import suites
from bokilog.bench.figures import Result
from bokilog.cli.main import cli

RESULT = Result(name="start.import", value=0.05, unit="s", against="the bar", ratio=0.6, bar=1.0)


@pytest.fixture(autouse=True)
def measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suites, "start", lambda setting: [RESULT])


def bench(*arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(cli, ["bench", "start", "--quick", *arguments])
    return done.exit_code, done.output


def test_each_run_appends_one_line_that_says_what_it_was(tmp_path: Path) -> None:
    history = tmp_path / "history.jsonl"
    for rounds in ("5", "7"):
        code, out = bench("--rounds", rounds, "--history", str(history), "--json")
        assert code == 0
        assert json.loads(out.splitlines()[-1])["results"][0]["name"] == "start.import"
    first, second = map(json.loads, history.read_text().splitlines())
    assert [run["options"]["rounds"] for run in (first, second)] == [5, 7]
    assert first["command"].endswith("bench start")
    assert first["at"].endswith("+00:00") and first["version"]
    assert first["results"] == second["results"]
    assert first["results"][0]["holds"] is False


def test_without_the_option_nothing_is_kept(tmp_path: Path) -> None:
    assert bench()[0] == 0
    assert not list(tmp_path.iterdir())


def test_a_file_that_cannot_be_written_is_said_before_anything_is_measured(tmp_path: Path) -> None:
    missing = tmp_path / "nowhere" / "history.jsonl"
    code, out = bench("--history", str(missing))
    assert code == 2
    assert "No such file or directory" in out and "nowhere" in out
