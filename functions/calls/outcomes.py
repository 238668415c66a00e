"""What an attempt's end means for its call: over, again later, or given up.

Decides which errors no retry would help (the call is finished, with the error), which say that the
attempt never began (it does not count), and how long a retry waits: doubled each time, up to a
minute, a quarter more or less by a number made from the call's id, so that calls that failed
together do not come back together. Pure.
"""

from __future__ import annotations

from typing import Final

from xxhash import xxh3_64_intdigest

from bokilog.call_errors import (
    CallCancelled,
    CallTooDeep,
    InvalidArguments,
    ResultUnusable,
    UnknownFunction,
)
from bokilog.errors import BokilogError, Overloaded, UnavailableError, from_wire
from bokilog.functions.calls.records import DeadLettered, Finished, Retried
from bokilog.functions.calls.state import OpenCall
from bokilog.functions.runtime.messages import Done

RETRY_MS_MAX: Final = 60_000
NOT_STARTED_MS: Final = 1_000
"""Before a call that its host had no room for is claimed again."""
REASON_CHARACTERS_MAX: Final = 2_000

_FINAL: Final = (InvalidArguments, CallTooDeep, ResultUnusable)
"""The same again would fail the same way."""


def outcome_of(
    call: OpenCall, host: str, done: Done, *, ran_ms: int, draining: bool
) -> Finished | Retried | DeadLettered:
    """The record that says what came of the attempt of `call` that ran here.

    Args:
        call: claimed by this host.
        host: this host.
        done: what the runner said.
        ran_ms: how long it took.
        draining: this host is going down, and cancels what it runs.
    """
    if not done.error:
        return _finished(call, host, done, ran_ms)
    error = from_wire(done.error)
    if isinstance(error, _FINAL):
        return _finished(call, host, done, ran_ms)
    if draining and isinstance(error, CallCancelled):
        return Retried(call.call_id, host, call.attempt, 0, [])
    if isinstance(error, (UnavailableError, UnknownFunction)):
        # A host that loads an older version of the app may not know the function yet.
        delay_ms = max(NOT_STARTED_MS, int(_retry_after_s(error) * 1_000))
        return Retried(call.call_id, host, call.attempt, delay_ms, done.error)
    if call.attempt < call.retries:
        delay_ms = retry_delay_ms(call)
        return Retried(call.call_id, host, call.attempt + 1, delay_ms, done.error)
    return DeadLettered(
        call.call_id,
        host,
        call.attempt + 1,
        reason_of(error),
        done.encoding,
        done.token,
        done.error,
        bytes(done.payload),
    )


def given_up(call: OpenCall, host: str, error: BokilogError, wire: list[object]) -> DeadLettered:
    """The record for a call that nobody runs any more."""
    return DeadLettered(call.call_id, host, call.attempt, reason_of(error), 0, "", wire, b"")


def retry_delay_ms(call: OpenCall) -> int:
    """How long the attempt after this one waits."""
    longest_ms = max(RETRY_MS_MAX, call.retry_delay_ms)
    delay_ms = min(longest_ms, call.retry_delay_ms << min(call.attempt, 20))
    share = xxh3_64_intdigest(f"{call.call_id}/{call.attempt}".encode()) % 1_000
    return delay_ms * (750 + share // 2) // 1_000


def reason_of(error: BokilogError) -> str:
    """What people are told."""
    return str(error)[:REASON_CHARACTERS_MAX]


def _finished(call: OpenCall, host: str, done: Done, ran_ms: int) -> Finished:
    return Finished(
        call.call_id,
        host,
        call.attempt,
        done.encoding,
        done.token,
        done.error,
        ran_ms,
        bytes(done.payload),
    )


def _retry_after_s(error: BokilogError) -> float:
    return error.retry_after_s if isinstance(error, Overloaded) else 0.0
