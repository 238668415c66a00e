"""How a durable call stands, by its last step or by the fold."""

from __future__ import annotations

import pytest

from bokilog.errors import Overloaded, to_wire
from bokilog.functions.calls.records import (
    CallRecord,
    Cancelled,
    Claimed,
    DeadLettered,
    Expired,
    Extended,
    Finished,
    Retried,
)
from bokilog.functions.calls.state import OpenCall, Phase
from bokilog.functions.calls.status import status_of, status_of_open
from tests.unit.functions.calls.world import spawned

WHY = to_wire(Overloaded(0.5, "the call"))
SAYS = str(Overloaded(0.5, "the call"))


@pytest.mark.parametrize(
    ("step", "state", "attempt", "host", "error"),
    [
        (spawned("c"), "waiting", 0, "", ""),
        (Claimed("c", "a/1", 2, 500), "running", 2, "a", ""),
        (Extended("c", "a/1", 2, 500), "running", 2, "a", ""),
        (Expired("c", "a/1", 2, "b/1"), "waiting", 3, "a", "its host is gone"),
        (Retried("c", "a/1", 2, 0, []), "waiting", 2, "a", ""),
        (Retried("c", "a/1", 2, 0, WHY), "waiting", 2, "a", SAYS),
        (Finished("c", "a/1", 2, 0, "", [], 7, b""), "finished", 2, "a", ""),
        (Finished("c", "a/1", 2, 0, "", WHY, 7, b""), "failed", 2, "a", SAYS),
        (DeadLettered("c", "a/1", 3, "no", 0, "", WHY, b""), "failed", 2, "a", "no"),
        (DeadLettered("c", "a/1", 0, "no", 0, "", WHY, b""), "failed", 0, "a", "no"),
        (Cancelled("c", "not wanted"), "cancelled", 0, "", "not wanted"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, tuple) else "",
)
def test_every_step_says_how_its_call_stands(
    step: CallRecord, state: str, attempt: int, host: str, error: str
) -> None:
    assert status_of("c", "f", step, 9) == ("c", "f", state, attempt, host, error, 9)


def test_an_open_call_runs_where_its_lease_is_and_waits_otherwise() -> None:
    call = OpenCall(spawned("c", function="f"), 5, 1_000)
    assert status_of_open(call) == ("c", "f", "waiting", 0, "", "", 1_000)
    call.phase, call.holder, call.attempt = Phase.CLAIMED, "a/1", 1
    assert status_of_open(call) == ("c", "f", "running", 1, "a", "", 1_000)
