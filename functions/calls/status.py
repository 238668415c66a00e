"""How a durable call stands, as people are told.

Decides what the last step of a call says of it, and what the fold does of a call that is open.
Invariants: every step says something, so a call that is known always has a status; whatever is over
says so, and what failed says why. Does not know: how steps are found. Pure.
"""

from __future__ import annotations

from typing import NamedTuple

from bokilog.errors import from_wire
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


class CallStatus(NamedTuple):
    """How a call stands."""

    id: str
    function: str
    state: str
    """waiting, running, finished, failed (dead-lettered, or an error no retry would help) or
    cancelled."""
    attempt: int
    """How often it was started again."""
    host: str
    """That runs it, or ran it last."""
    error: str
    """Why it failed, or why it is tried again."""
    changed_ms: int
    """When that began, by the time of the log."""


def status_of(call_id: str, function: str, step: CallRecord, changed_ms: int) -> CallStatus:
    """What the last step says."""
    state, attempt, host, error = "waiting", 0, "", ""
    match step:
        case Claimed(host=host, attempt=attempt) | Extended(host=host, attempt=attempt):
            state = "running"
        case Expired(host=host, attempt=attempt):
            attempt, error = attempt + 1, "its host is gone"
        case Retried(host=host, attempt=attempt):
            error = str(from_wire(step.error)) if step.error else ""
        case Finished(host=host, attempt=attempt):
            state = "failed" if step.error else "finished"
            error = str(from_wire(step.error)) if step.error else ""
        case DeadLettered(host=host, reason=error):
            state, attempt = "failed", max(0, step.attempts - 1)
        case Cancelled(reason=error):
            state = "cancelled"
        case _:
            pass
    host = host.partition("/")[0]
    return CallStatus(call_id, function, state, attempt, host, error, changed_ms)


def status_of_open(call: OpenCall) -> CallStatus:
    """What the fold says of a call that is not over."""
    state = "running" if call.phase == Phase.CLAIMED else "waiting"
    host = call.holder.partition("/")[0]
    return CallStatus(call.call_id, call.function, state, call.attempt, host, "", call.spawned_ms)
