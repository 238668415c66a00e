"""What the words of `bokilog call` mean."""

from __future__ import annotations

import sys

import pytest

from bokilog.cli import calling, connection
from bokilog.cli.calling import parse_arguments
from bokilog.cli.main import main
from bokilog.errors import InvalidSettings


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ((), []),
        (("4", "1.5", "true", "null", "text"), [4, 1.5, True, None, "text"]),
        (('{"a": [1]}', '"4"'), [{"a": [1]}, "4"]),
        (("x=4", "name=a=b"), {"x": 4, "name": "a=b"}),
    ],
)
def test_arguments_are_json_or_text(said: tuple[str, ...], meant: object) -> None:
    assert parse_arguments(said) == meant


def test_arguments_are_all_by_name_or_none_is() -> None:
    with pytest.raises(InvalidSettings, match="'5' has no name"):
        parse_arguments(("x=4", "5"))


def test_an_argument_is_said_once() -> None:
    with pytest.raises(InvalidSettings, match="argument='x' is said twice"):
        parse_arguments(("x=4", "y=1", "x=5"))


def test_an_argument_that_is_nested_too_deeply_is_refused() -> None:
    with pytest.raises(InvalidSettings, match="is nested too deeply"):
        parse_arguments(("[" * 100_000 + "]" * 100_000,))


@pytest.mark.parametrize("function", ["price", "shop.", ".price", ""])
def test_a_function_without_its_app_is_refused(
    capsys: pytest.CaptureFixture[str], function: str
) -> None:
    assert main(["call", function]) == 2
    assert "is not APP.FUNCTION" in capsys.readouterr().err


@pytest.mark.parametrize("timeout", ["nan", "inf", "0", "-1", "1e9"])
def test_a_timeout_of_a_call_has_a_range(capsys: pytest.CaptureFixture[str], timeout: str) -> None:
    assert main(["call", "shop.price", "--timeout", timeout]) == 2
    assert "is outside 0.001..86400" in capsys.readouterr().err


def test_who_waits_for_a_host_is_told_and_waits_no_longer_than_the_call_may_take(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "QUIET_S", 0.0)
    nobody = ("--url", "bokilog://127.0.0.1:1", "--timeout", "0.2")
    assert main(["call", "shop.price", *nobody]) == 1
    assert "waiting up to 0.2 s for a host of 'shop'" in capsys.readouterr().err


STEERS = "red \x1b[31m\x9b1m\x07\tb\n"


def test_what_a_call_wrote_steers_no_terminal_and_is_left_as_it_is_elsewhere(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    calling._print_logs("c1", [[1, STEERS], [2, STEERS]], as_json=False)
    assert capsys.readouterr() == (STEERS, STEERS)
    for stream in (sys.stdout, sys.stderr):
        monkeypatch.setattr(stream, "isatty", lambda: True)
    calling._print_logs("c1", [[1, STEERS], [2, STEERS]], as_json=False)
    assert capsys.readouterr() == (r"red \x1b[31m\x9b1m\x07" + "\tb\n",) * 2


def test_a_call_that_wrote_nothing_is_told_from_one_that_nobody_knows() -> None:
    silent: list[list[object]] = [["c1", "price", "ok"]]
    assert calling._why_nothing("c1", silent) == "call c1 (price, ok) wrote nothing"
    assert calling._why_nothing("c1\x1b[2J", []) == r"no host remembers a call c1\x1b[2J"
