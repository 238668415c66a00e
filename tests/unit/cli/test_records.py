"""append, read, scan and follow: what they ask of a log, and what they print."""

import io
import json
import sys
from collections.abc import Callable

import pytest

from bokilog.cli.main import main
from bokilog.cli.output import record_as_line
from bokilog.errors import ConditionFailed
from bokilog.record import Record
from tests.unit.cli.conftest import RECORDS, RecordingLog

Run = Callable[..., tuple[int, str, str]]
LINEAR = {"timeout_s": 30.0, "consistency": "linearizable"}


def test_append_prints_the_seqnum(log: RecordingLog, run: Run) -> None:
    log.result = 17
    assert run("append", "orders", "hello", "--tag", "a", "--tag", "b") == (0, "17\n", "")
    assert log.calls == [
        ("book", ("orders",), {}),
        (
            "append",
            (b"hello", ("a", "b")),
            {"unless": None, "key": None, "timeout_s": 30.0},
        ),
    ]


def test_append_takes_the_bytes_of_standard_input(
    log: RecordingLog, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    log.result = 17
    stdin = io.TextIOWrapper(io.BytesIO(b"\xff\x00line\n"))
    monkeypatch.setattr(sys, "stdin", stdin)
    assert run("append", "orders", "-", "--json") == (0, '{"seqnum": 17}\n', "")
    assert log.calls[1][1] == (b"\xff\x00line\n", ())


def test_a_closed_standard_input_is_a_usage_error(
    log: RecordingLog, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    code, _, errors = run("append", "orders", "-")
    assert (code, log.calls) == (2, [])
    assert "standard input, which is closed" in errors


def test_tags_do_not_steer_the_terminal() -> None:
    line = record_as_line(Record(3, b"\x1b[2J\n", ("a\x1b[31m", "\u65e5\u672c\n"), 0, None))
    assert "#a\\x1b[31m #\u65e5\u672c\\n" in line
    assert line.endswith("\\x1b[2J\\n")


def test_append_takes_conditions_and_a_key(log: RecordingLog, run: Run) -> None:
    log.result = 17
    run("append", "orders", "x", "--unless", "a=b=3", "--unless", "0", "--key", "k")
    assert log.calls[1][2] == {"unless": {"a=b": 3, None: 0}, "key": "k", "timeout_s": 30.0}


@pytest.mark.parametrize("condition", ["a", "a=", "=3", "a=-1", "t=" + "9" * 5000])
def test_a_condition_that_is_none_is_a_usage_error(
    log: RecordingLog, run: Run, condition: str
) -> None:
    code, _, errors = run("append", "orders", "x", "--unless", condition)
    assert code == 2
    assert "is neither TAG=AFTER nor AFTER" in errors
    assert log.calls == []


@pytest.mark.parametrize(
    ("conditions", "of"), [(("a=1", "a=2"), "'a'"), (("1", "2"), "the whole LogBook")]
)
def test_of_two_conditions_on_one_thing_none_is_left_out(
    log: RecordingLog, run: Run, conditions: tuple[str, str], of: str
) -> None:
    said = [word for condition in conditions for word in ("--unless", condition)]
    code, _, errors = run("append", "orders", "x", *said)
    assert (code, log.calls) == (2, [])
    assert f"{of} is said twice" in errors


def test_a_failed_condition_is_one_line(log: RecordingLog, run: Run) -> None:
    log.error = ConditionFailed("a", 3)
    code, _, errors = run("append", "orders", "x", "--unless", "a=0")
    assert code == 1
    assert (
        errors == "error: ConditionFailed: condition on tag 'a' failed: seqnum 3 is there already\n"
    )


@pytest.mark.parametrize(
    ("arguments", "name", "positional", "options"),
    [
        (["3"], "read", (3,), {}),
        ([], "read_next", (), {"tag": None, "min_seqnum": 0}),
        (["--tag", "a", "--min-seqnum", "4"], "read_next", (), {"tag": "a", "min_seqnum": 4}),
        (["--last"], "read_prev", (), {"tag": None, "max_seqnum": None}),
        (["--max-seqnum", "9"], "read_prev", (), {"tag": None, "max_seqnum": 9}),
    ],
)
def test_read_asks_for_one_record_linearizably(
    log: RecordingLog,
    run: Run,
    arguments: list[str],
    name: str,
    positional: tuple[int, ...],
    options: dict[str, object],
) -> None:
    log.result = RECORDS[0]
    code, output, _ = run("read", "orders", *arguments)
    assert code == 0
    assert output.split() == ["3", *output.split()[1:3], "#a", "#b", "hello"]
    assert log.calls[1] == (name, positional, {**options, "wait_s": 0.0, **LINEAR})


def test_no_record_is_no_error(log: RecordingLog, run: Run) -> None:
    assert run("read", "orders", "3", "--json") == (0, "", "(no such record)\n")


def test_raw_prints_the_bytes_and_nothing_else(
    log: RecordingLog, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    log.result = RECORDS[1]
    assert main(["read", "orders", "7", "--raw"]) == 0
    assert capfdbinary.readouterr().out == b"\xff\x00"


@pytest.mark.parametrize(
    "arguments",
    [
        ("3", "--last"),
        ("3", "--tag", "a"),
        ("--last", "--min-seqnum", "1"),
        ("--raw", "--json"),
        ("0",),
        ("x",),
    ],
)
def test_choices_that_exclude_each_other_are_usage_errors(
    log: RecordingLog, run: Run, arguments: tuple[str, ...]
) -> None:
    assert run("read", "orders", *arguments)[0] == 2


def test_scan_prints_a_json_line_per_record(log: RecordingLog, run: Run) -> None:
    code, output, _ = run("scan", "orders", "--tag", "a", "--until", "9", "--reverse", "--json")
    assert code == 0
    assert [json.loads(line) for line in output.splitlines()] == [
        {"seqnum": 3, "tags": ["a", "b"], "timestamp_ms": 1_700_000_000_123, "data": "hello"},
        {
            "seqnum": 7,
            "tags": [],
            "timestamp_ms": 1_700_000_000_456,
            "data": "/wA=",
            "encoding": "base64",
            "aux": "YXV4",
        },
    ]
    options = {"tag": "a", "min_seqnum": 0, "until": 9, "reverse": True, **LINEAR}
    assert log.calls[1] == ("scan", (), options)


def test_scan_ends_at_its_limit(log: RecordingLog, run: Run) -> None:
    assert len(run("scan", "orders", "--limit", "1")[1].splitlines()) == 1


def test_follow_sees_what_was_acknowledged_before_it_began(log: RecordingLog, run: Run) -> None:
    code, output, _ = run("follow", "orders", "--json")
    assert (code, len(output.splitlines())) == (0, 2)
    assert log.calls[1:] == [
        ("tail", (), {"timeout_s": 30.0}),
        ("follow", (), {"tag": None, "min_seqnum": 0}),
    ]


def test_follow_can_start_at_the_tail(log: RecordingLog, run: Run) -> None:
    log.result = 42
    run("follow", "orders", "--new", "--tag", "a")
    assert log.calls[2] == ("follow", (), {"tag": "a", "min_seqnum": 42})
    assert run("follow", "orders", "--new", "--min-seqnum", "3")[0] == 2


def test_the_log_is_where_the_option_or_the_environment_says(
    log: RecordingLog, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("scan", "orders")
    monkeypatch.setenv("BOKILOG_URL", "bokilog://environment")
    run("scan", "orders")
    run("scan", "orders", "--url", "bokilog://option")
    assert log.urls == [None, "bokilog://environment", "bokilog://option"]


def test_at_a_terminal_a_whole_record_does_not_steer_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines stay lines; elsewhere it is printed as it is."""
    record = Record(1, b"a\tb\n\x1b[2Jc", (), 0, None)
    assert record_as_line(record, whole=True).endswith("a\tb\n\x1b[2Jc")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert record_as_line(record, whole=True).endswith("a\tb\n\\x1b[2Jc")


def test_long_and_unprintable_data_stays_on_its_line() -> None:
    line = record_as_line(Record(1, b"a\nb\t" + b"x" * 500, (), 0, None))
    assert "a\\nb\\txxx" in line
    assert line.endswith("... (504 bytes)")
    assert "\n" not in line
    whole = record_as_line(Record(1, b"a\n" + b"x" * 500, (), 0, None), whole=True)
    assert whole.endswith("\n" + "x" * 500)
