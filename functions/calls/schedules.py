"""When functions run by themselves: due times of a schedule, and what becomes of each.

Decides the due times of cron expressions (5 fields, or 6 with seconds first) in a time zone, and of
`every 30s`, whose due times are the multiples since 1970, so that every host has the same ones;
and, from how far a schedule got on the log, what is to be done now: fire, pass over, wait.

Cron and daylight saving, as cron on Debian has it: a job at a time that the clock leaves out runs
right after the gap, one at a time that comes twice runs the first time; one by the hour or more
often goes by real time. Does not know hosts or records; `claims.py` asks it.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, tzinfo
from typing import Final, NamedTuple, Protocol, TypeAlias
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from bokilog.errors import InvalidSettings
from bokilog.functions.runtime.options import FunctionOptions

LATE_MS: Final = 60_000
"""A due time that passed longer ago was missed: it is for `catch_up` to say what becomes of it."""
EVERY_MS_MIN: Final = 1_000
"""More often than that, a loop in a function does better than a record per turn."""
_EVERY: Final = re.compile(r"every\s+(\d+(?:\.\d+)?)\s*(s|m|h|d)")
_UNIT_MS: Final = {"s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}


class Schedule(Protocol):
    """Due times."""

    def next_ms(self, after_ms: int) -> int:
        """The first one after that time."""
        ...

    def newest_ms(self, after_ms: int, until_ms: int) -> int | None:
        """The last one in (after, until]."""
        ...


def parse(schedule: str, time_zone: str = "UTC") -> Schedule:
    """The schedule of `FunctionOptions.schedule` and `.time_zone`.

    Raises:
        InvalidSettings: it is none, is never due, or there is no such time zone.
    """
    zone = _zone(time_zone)
    if schedule.startswith("every"):
        return _Every(_interval_ms(schedule))
    try:
        CronSim(schedule, datetime.fromtimestamp(0, UTC))
    except CronSimError as error:
        hint = "is no cron expression such as `*/5 * * * *`, and no interval such as `every 30s`"
        raise InvalidSettings("schedule", repr(schedule), f"{hint}: {error}") from error
    return _Cron(schedule, zone)


# --- what is to be done now -----------------------------------------------------------------------


class Fire(NamedTuple):
    """Spawn the call of that due time."""

    due_ms: int


class Pass(NamedTuple):
    """Record that the due times up to this one are dealt with, without a call."""

    due_ms: int
    reason: str


class CancelOpen(NamedTuple):
    """Cancel the schedule's calls that are not over; then ask again."""

    reason: str


class Wait(NamedTuple):
    """Ask again at that time; None: when a call of the schedule is over."""

    until_ms: int | None


Decision: TypeAlias = Fire | Pass | CancelOpen | Wait


def decide(
    schedule: Schedule,
    options: FunctionOptions,
    *,
    last_due_ms: int | None,
    is_open: bool,
    now_ms: int,
) -> Decision:
    """What is to be done for a schedule now.

    Args:
        schedule: parsed from the options.
        options: for overlap and catch-up.
        last_due_ms: how far it was dealt with, by the log; None: it was never seen.
        is_open: a call of it is not over.
        now_ms: wall time.
    """
    if last_due_ms is None:
        return Pass(now_ms, "first seen")
    first_ms = schedule.next_ms(last_due_ms)
    if first_ms > now_ms:
        return Wait(first_ms)
    newest_ms = schedule.newest_ms(last_due_ms, now_ms) or first_ms
    due_ms = _to_make_up(schedule, options, first_ms, newest_ms, now_ms)
    if due_ms is None:
        return Pass(newest_ms, "nobody ran at that time")
    if not is_open or options.overlap == "allow":
        return Fire(due_ms)
    if options.catch_up == "all" and now_ms - due_ms > LATE_MS:
        return Wait(None)  # missed ones are made up for one after the other
    if options.overlap == "cancel_running":
        return CancelOpen("the next one is due")
    return Pass(due_ms, "the one before is not over")


def _to_make_up(
    schedule: Schedule, options: FunctionOptions, first_ms: int, newest_ms: int, now_ms: int
) -> int | None:
    """Which of the due times from `first_ms` to `newest_ms` has its turn now."""
    window_ms = max(LATE_MS, int(options.catch_up_window_s * 1_000))
    match options.catch_up:
        case "none":
            return newest_ms if now_ms - newest_ms <= LATE_MS else None
        case "last":
            return newest_ms if now_ms - newest_ms <= window_ms else None
        case "all":
            if now_ms - first_ms > window_ms:
                first_ms = schedule.next_ms(now_ms - window_ms - 1)
            return first_ms if first_ms <= newest_ms else None


# --- kinds of schedules ---------------------------------------------------------------------------


class _Every:
    __slots__ = ("_interval_ms",)

    def __init__(self, interval_ms: int) -> None:
        self._interval_ms = interval_ms

    def next_ms(self, after_ms: int) -> int:
        return (after_ms // self._interval_ms + 1) * self._interval_ms

    def newest_ms(self, after_ms: int, until_ms: int) -> int | None:
        newest_ms = until_ms // self._interval_ms * self._interval_ms
        return newest_ms if newest_ms > after_ms else None


class _Cron:
    __slots__ = ("_expression", "_zone")

    def __init__(self, expression: str, zone: tzinfo) -> None:
        self._expression = expression
        self._zone = zone

    def next_ms(self, after_ms: int) -> int:
        found_ms = 0
        times = CronSim(self._expression, self._local(after_ms))
        # In an hour that comes twice, its first answer may lie before the start.
        while found_ms <= after_ms:
            found = next(times, None)
            if found is None:
                raise InvalidSettings("schedule", repr(self._expression), "is never due")
            found_ms = int(found.timestamp()) * 1_000
        return found_ms

    def newest_ms(self, after_ms: int, until_ms: int) -> int | None:
        # Backwards only to find where to begin: which times count is for the way forward to say.
        backwards = CronSim(self._expression, self._local(until_ms + 1_000), reverse=True)
        start_ms = until_ms
        for _ in range(3):
            earlier = next(backwards, None)
            start_ms = -1 if earlier is None else int(earlier.timestamp()) * 1_000 - 1_000
            if start_ms < after_ms:
                break
        newest_ms, found_ms = None, self.next_ms(max(after_ms, start_ms))
        while found_ms <= until_ms:
            newest_ms, found_ms = found_ms, self.next_ms(found_ms)
        return newest_ms

    def _local(self, at_ms: int) -> datetime:
        return datetime.fromtimestamp(at_ms // 1_000, self._zone)


def _interval_ms(schedule: str) -> int:
    found = _EVERY.fullmatch(schedule.strip())
    if found is None:
        problem = "is no interval such as `every 30s` (s, m, h, d)"
        raise InvalidSettings("schedule", repr(schedule), problem)
    interval_ms = round(float(found[1]) * _UNIT_MS[found[2]])
    if interval_ms < EVERY_MS_MIN:
        raise InvalidSettings("schedule", repr(schedule), f"is less than {EVERY_MS_MIN} ms")
    return interval_ms


def _zone(name: str) -> tzinfo:
    if name == "UTC":
        return UTC
    try:
        return ZoneInfo(name)
    except (OSError, KeyError, ValueError) as error:  # a folder of zones, none, no name at all
        raise InvalidSettings("time_zone", repr(name), "is no time zone of this machine") from error
