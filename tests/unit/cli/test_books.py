"""Commands on LogBooks: what they ask of a log, and what they print."""

import json
import sys
from collections.abc import Callable
from dataclasses import replace

import pytest

from bokilog.record import Trim
from tests.unit.cli.conftest import INFO, RecordingLog

Run = Callable[..., tuple[int, str, str]]


def test_books_are_a_table_for_people_and_lines_for_programs(log: RecordingLog, run: Run) -> None:
    log.result = [INFO, replace(INFO, book="[odd]", retention_s=60.0, retention_bytes=1024)]
    _, output, _ = run("books")
    assert [line.split()[0] for line in output.splitlines()] == ["book", "orders", "[odd]"]
    assert "60 s, 1024 bytes" in output
    _, output, _ = run("books", "--json")
    assert [json.loads(line)["book"] for line in output.splitlines()] == ["orders", "[odd]"]


def test_no_books_are_said(log: RecordingLog, run: Run) -> None:
    log.result = []
    assert run("books") == (0, "", "(no LogBooks yet)\n")
    assert run("books", "--json") == (0, "", "")


def test_names_do_not_steer_the_terminal(log: RecordingLog, run: Run) -> None:
    log.result = [replace(INFO, book="[red]\x1b[31m\n")]
    assert "[red]\\x1b[31m\\n  sync" in run("books")[1]
    log.result = replace(INFO, book="\x1b[31m\n")
    assert "  \\x1b[31m\\n\n" in run("info", "x")[1]
    assert run("delete-book", "\x1b[31m", "--yes")[1] == "deleted \\x1b[31m\n"


def test_a_table_that_goes_to_no_terminal_is_not_cut_off(log: RecordingLog, run: Run) -> None:
    log.result = [replace(INFO, book="x" * 200)]
    assert "x" * 200 + "  sync" in run("books")[1]


def test_info_shows_every_property(log: RecordingLog, run: Run) -> None:
    log.result = INFO
    _, output, _ = run("info", "orders")
    shown = dict(line.split(maxsplit=1) for line in output.splitlines())
    assert (shown["durability"], shown["tail"], shown["retention_s"]) == ("sync", "9", "-")
    _, output, _ = run("info", "orders", "--json")
    assert json.loads(output)["key_horizon_s"] == 604_800.0


def test_create_book_passes_its_properties_on(log: RecordingLog, run: Run) -> None:
    log.result = INFO
    run("create-book", "orders", "--durability", "memory", "--retention-s", "60")
    assert log.calls == [
        (
            "create_book",
            ("orders",),
            {
                "durability": "memory",
                "retention_s": 60.0,
                "retention_bytes": None,
                "timeout_s": 30.0,
            },
        )
    ]
    assert run("create-book", "orders", "--durability", "eternal")[0] == 2


def test_delete_book_asks_first(
    log: RecordingLog, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("click.termui.visible_prompt_func", lambda prompt: "n")
    code, output, errors = run("delete-book", "orders")
    assert (code, output, log.calls) == (1, "", [])
    assert errors.endswith("nothing was changed\n")
    monkeypatch.setattr(sys, "stdin", None)
    code, _, errors = run("delete-book", "orders")
    assert (code, log.calls) == (2, [])
    assert "standard input is closed: say --yes" in errors
    assert run("delete-book", "orders", "--yes") == (0, "deleted orders\n", "")
    assert log.calls == [("delete_book", ("orders",), {"timeout_s": 30.0})]


@pytest.mark.parametrize(
    ("held_by", "line"),
    [
        (None, "the first kept seqnum of tag 'a' is 7\n"),
        ("report", "the first kept seqnum of tag 'a' is 7, held back by 'report'\n"),
    ],
)
def test_trim_says_how_far_it_got_and_what_stopped_it(
    log: RecordingLog, run: Run, held_by: str | None, line: str
) -> None:
    log.result = Trim(7, held_by)
    assert run("trim", "orders", "9", "--tag", "a") == (0, line, "")
    assert log.calls[1] == ("trim", (9, "a"), {"timeout_s": 30.0})
    assert run("trim", "orders", "9")[1].startswith("the first kept seqnum is 7")
    assert json.loads(run("trim", "orders", "9", "--json")[1]) == {"until": 7, "held_by": held_by}


def test_holds_are_set_and_released(log: RecordingLog, run: Run) -> None:
    assert run("hold", "orders", "report", "7", "--ttl-s", "60")[1] == (
        "held at 7 for 60 s by 'report'\n"
    )
    assert log.calls[1] == ("hold", ("report", 7, 60.0), {"timeout_s": 30.0})
    assert run("release", "orders", "report")[1] == "released 'report'\n"
    assert log.calls[3] == ("release", ("report",), {"timeout_s": 30.0})
