"""`bokilog calls`, on a log in a directory."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path

import pytest

import bokilog
from bokilog.call_errors import FunctionFailed
from bokilog.cli.calls import _print_table
from bokilog.errors import to_wire
from bokilog.functions.books import app_book, ensure_app_book
from bokilog.functions.calls.records import (
    Claimed,
    DeadLettered,
    call_tag,
    encode,
    tags_of,
)
from bokilog.functions.calls.spawning import spawn
from bokilog.functions.calls.status import CallStatus

Run = Callable[..., tuple[int, str, str]]
ERROR = FunctionFailed("charge", "ValueError", "no money")


@pytest.fixture
def url(tmp_path: Path) -> str:
    """A log with one call that waits, one that runs and one that is dead."""

    async def fill() -> None:
        async with bokilog.open(tmp_path / "log") as log:
            await ensure_app_book(log, "shop")
            book = log.book(app_book("shop"))
            await spawn(log, "shop", "price", b"", 0)
            running = await spawn(log, "shop", "mail", b"", 0)
            dead = await spawn(log, "shop", "charge", b"", 0, key="order-1")
            claimed = Claimed(running.id, "host-1/ab", 2, 1_000)
            await book.append(encode(claimed), tags_of(claimed))
            lost = DeadLettered(dead.id, "host-1/ab", 3, str(ERROR), 0, "", to_wire(ERROR), b"")
            await book.append(encode(lost), tags_of(lost))
            assert await book.read_prev(tag=call_tag(dead.id)) is not None

    asyncio.run(fill())
    return f"file:{tmp_path / 'log'}"


def test_what_a_call_said_does_not_steer_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    steers = "\x1b[2J"
    row = CallStatus(
        id="c1",
        function=steers,
        state="dead",
        attempt=1,
        host=steers,
        error=steers,
        changed_ms=0,
    )
    _print_table([row])
    output = capsys.readouterr().out
    assert (output.count("\\x1b[2J"), output.count(steers)) == (3, 0)


@pytest.mark.slow
def test_calls_are_listed_and_dead_ones_driven_again(url: str, run: Run) -> None:
    code, output, _ = run("calls", "shop", "--url", url, "--json")
    assert code == 0
    rows = [json.loads(line) for line in output.splitlines()]
    assert [(row["function"], row["state"], row["host"], row["attempt"]) for row in rows] == [
        ("price", "waiting", "", 0),
        ("mail", "running", "host-1", 2),
    ]
    _, output, _ = run("calls", "shop", "--url", url)
    assert [line.split()[1:3] for line in output.splitlines()[1:]] == [
        ["price", "waiting"],
        ["mail", "running"],
    ]
    _, output, _ = run("calls", "shop", "--dead", "--url", url, "--json")
    dead = json.loads(output)
    assert (dead["function"], dead["state"]) == ("charge", "failed")
    assert dead["error"] == "charge raised ValueError: no money"
    code, output, _ = run("calls", "shop", "--redrive", dead["id"], "--url", url)
    assert (code, output) == (0, f"call {dead['id']} waits to be run again\n")
    assert run("calls", "shop", "--dead", "--url", url) == (0, "", "(no dead calls)\n")
    code, _, errors = run("calls", "shop", "--redrive", dead["id"], "--url", url)
    assert (code, "it is waiting, not dead" in errors) == (2, True)


def test_an_app_without_calls_has_none(run: Run) -> None:
    assert run("calls", "empty", "--url", "memory:") == (0, "", "(no open calls)\n")
