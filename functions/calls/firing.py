"""What an app's schedules want of the log now.

Decides, from the schedules of the functions that this host knows and from how far the log says they
got, which record is to be appended: the `Spawned` of a due time, or a `Passed`. The id of a due
time's call is made from the function and the time, and the append's key is that id, so that one due
time has one call, whoever proposes it. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple, assert_never

from bokilog.codec import pack
from bokilog.errors import InvalidSettings
from bokilog.functions.calls.records import Passed, Spawned, scheduled_call_id
from bokilog.functions.calls.schedules import (
    CancelOpen,
    Fire,
    Pass,
    Schedule,
    Wait,
    decide,
    parse,
)
from bokilog.functions.calls.state import Due
from bokilog.functions.runtime.messages import Encoding
from bokilog.functions.runtime.options import FunctionOptions

CANCEL_AGAIN_MS: Final = 1_000
"""A cancellation that came together with another step of the call is tried again."""
NO_ARGUMENTS: Final = pack([[], {}])


class Wish(NamedTuple):
    """What is to be done for a schedule now."""

    record: Spawned | Passed | None = None
    key: str | None = None
    """Of the append."""
    cancel: tuple[str, ...] = ()
    """Calls to cancel first."""
    again_ms: int | None = None
    """When to ask again, by the wall clock."""


class Firing:
    """The schedules of the functions of one host."""

    __slots__ = ("_blocked", "_schedules")

    def __init__(self) -> None:
        self._schedules: dict[str, tuple[Schedule, FunctionOptions]] = {}
        self._blocked: set[str] = set()

    def functions_are(self, functions: Mapping[str, FunctionOptions]) -> None:
        """The app was loaded anew."""
        self._blocked.clear()
        self._schedules = {}
        for name, options in functions.items():
            if options.schedule:
                try:
                    self._schedules[name] = parse(options.schedule, options.time_zone), options
                except InvalidSettings:
                    continue  # the app's own check names it; others' schedules go on

    def scheduled(self) -> list[str]:
        """The functions that have a schedule."""
        return list(self._schedules)

    def blocked(self) -> list[str]:
        """Those that wait for a call of theirs to end."""
        return list(self._blocked)

    def wish(self, function: str, due: Due | None, *, wall_ms: int, delay_ms: int) -> Wish:
        """What the schedule of `function` wants.

        Args:
            function: nothing is wanted for one without a schedule.
            due: how far it got, by the log.
            wall_ms: now.
            delay_ms: how much later than the first host this one acts.
        """
        self._blocked.discard(function)
        known = self._schedules.get(function)
        if known is None:
            return Wish()
        schedule, options = known
        decision = decide(
            schedule,
            options,
            last_due_ms=None if due is None else due.last_due_ms,
            is_open=due is not None and bool(due.open),
            now_ms=wall_ms - delay_ms,
        )
        match decision:
            case Fire(due_ms):
                call_id = scheduled_call_id(function, due_ms)
                return Wish(_spawned(function, call_id, due_ms, options), key=call_id)
            case Pass(due_ms, reason):
                # What begins now does not begin earlier because a host waited for its turn.
                return Wish(Passed(function, wall_ms if due is None else due_ms, reason))
            case CancelOpen():
                self._blocked.add(function)
                still_open = () if due is None else tuple(due.open)
                return Wish(cancel=still_open, again_ms=wall_ms + CANCEL_AGAIN_MS)
            case Wait(until_ms):
                if until_ms is None:
                    self._blocked.add(function)
                    return Wish()
                return Wish(again_ms=until_ms + delay_ms)
            case _:
                assert_never(decision)


def _spawned(function: str, call_id: str, due_ms: int, options: FunctionOptions) -> Spawned:
    return Spawned(
        call_id=call_id,
        function=function,
        encoding=Encoding.MSGPACK,
        payload=NO_ARGUMENTS,
        timeout_ms=int(options.timeout_s * 1_000),
        retries=options.retries,
        retry_delay_ms=int(options.retry_delay_s * 1_000),
        flags=0,
        depth=0,
        key="",
        schedule=function,
        due_ms=due_ms,
        prefer="",
        token="",
        trace="",
    )
