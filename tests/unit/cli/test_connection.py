"""Commands reach a log within their time, or say where they looked and for how long."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from bokilog.cli import connection
from tests.unit.cli.conftest import RecordingLog

Run = Callable[..., tuple[int, str, str]]


def test_timeout_s_bounds_connecting_too(log: RecordingLog, run: Run) -> None:
    log.result = []
    assert run("books", "--timeout-s", "2.5")[0] == 0
    assert run("books")[0] == 0
    assert log.connect_timeouts_s == [2.5, 30.0]


@pytest.mark.parametrize(
    "command",
    [
        *(("books",), ("info", "b"), ("read", "b"), ("scan", "b"), ("follow", "b")),
        *(("trim", "b", "2"), ("hold", "b", "h", "2"), ("release", "b", "h")),
        *(("delete-book", "b", "--yes"), ("calls", "a"), ("call", "a.f"), ("logs",)),
    ],
)
@pytest.mark.parametrize("scheme", ["file:", "file://"])
def test_only_what_writes_makes_the_directory_of_a_log(
    tmp_path: Path, run: Run, command: tuple[str, ...], scheme: str
) -> None:
    missing = tmp_path / "nope" / "log"
    code, out, error = run(*command, "--url", f"{scheme}{missing}")
    assert (code, out) == (2, "")
    assert f"{scheme}{missing}' names a directory that does not exist" in error
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("command", [("books",), ("info", "b"), ("call", "a.f")])
def test_nor_does_it_make_one_in_an_empty_directory(
    tmp_path: Path, run: Run, command: tuple[str, ...]
) -> None:
    code, out, error = run(*command, "--url", f"file:{tmp_path}")
    assert (code, out) == (2, "")
    assert "names a directory that is empty: `bokilog append`" in error
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_listed_is_for_open_to_name(tmp_path: Path, run: Run) -> None:
    file = tmp_path / "log"
    file.write_bytes(b"")
    code, _, error = run("books", "--url", f"file:{file}")
    assert code != 0
    assert "is empty" not in error
    assert "Not a directory" in error


@pytest.mark.parametrize("command", [("append", "b", "x"), ("create-book", "b")])
def test_what_writes_makes_the_directory_of_a_log(
    tmp_path: Path, run: Run, command: tuple[str, ...]
) -> None:
    url = f"file:{tmp_path / 'log'}"
    assert run(*command, "--url", url)[0] == 0
    assert run("books", "--url", url)[0] == 0


@pytest.mark.parametrize("listening", [False, True])
def test_a_log_that_does_not_answer_is_named_with_the_time(run: Run, listening: bool) -> None:
    """Whether nobody listens, or something does that never says a word."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        if listening:
            silent.listen()
        url = f"bokilog://127.0.0.1:{silent.getsockname()[1]}"
        started_s = time.monotonic()
        code, out, error = run("read", "orders", "--url", url, "--timeout-s", "0.05")
        assert time.monotonic() - started_s < 10, "not the 30 s that are usual"
    assert (code, out) == (1, "")
    assert error.startswith(f"error: NodeUnreachable: cannot reach {url}: ")
    assert "tried for connect_timeout_s=0.05" in error


@pytest.mark.parametrize("command", [("books",), ("append", "b", "x"), ("logs",)])
def test_who_waits_for_a_log_is_told(
    monkeypatch: pytest.MonkeyPatch, run: Run, command: tuple[str, ...]
) -> None:
    monkeypatch.setattr(connection, "QUIET_S", 0.0)
    url = "bokilog://127.0.0.1:1"
    code, out, error = run(*command, "--url", url, "--timeout-s", "0.2")
    assert (code, out) == (1, "")
    assert error.startswith(f"waiting up to 0.2 s for the log at {url}\nerror: NodeUnreachable: ")


@pytest.mark.parametrize("command", [("append", "b", "x"), ("create-book", "b")])
def test_nothing_is_written_to_a_log_that_ends_with_the_command(
    run: Run, command: tuple[str, ...]
) -> None:
    code, out, error = run(*command, "--url", "memory:")
    assert (code, out) == (2, "")
    assert "url='memory:' is a log that ends with the command" in error
