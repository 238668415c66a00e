"""Due times, time zones, and what becomes of a due time."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings, strategies as st

from bokilog.errors import InvalidSettings
from bokilog.functions.calls.schedules import (
    CancelOpen,
    Fire,
    Pass,
    Schedule,
    Wait,
    decide,
    parse,
)
from bokilog.functions.runtime.options import CatchUp, FunctionOptions

BERLIN = ZoneInfo("Europe/Berlin")
DAY_MS = 86_400_000
NOON_MS = int(datetime(2026, 3, 2, 12, 0, 30, tzinfo=UTC).timestamp()) * 1_000
EVERY_MINUTE = parse("* * * * *")


def ms(*when: int, zone: ZoneInfo = BERLIN, fold: int = 0) -> int:
    return int(datetime(*when, tzinfo=zone, fold=fold).timestamp()) * 1_000  # type: ignore[misc, arg-type]


def following(schedule: Schedule, after_ms: int, count: int) -> list[int]:
    found = [after_ms]
    for _ in range(count):
        found.append(schedule.next_ms(found[-1]))
    return found[1:]


def test_an_interval_is_due_at_its_multiples_so_that_all_hosts_agree() -> None:
    assert following(parse("every 30s"), 1_000_001, 2) == [1_020_000, 1_050_000]
    assert parse("every 1.5m").next_ms(0) == 90_000
    assert parse("every 30s").newest_ms(0, 65_000) == 60_000
    assert parse("every 30s").newest_ms(60_000, 65_000) is None


def test_cron_goes_by_its_time_zone() -> None:
    nine = parse("0 9 * * MON-FRI", "Europe/Berlin")
    friday = ms(2026, 3, 27, 9, 0)  # the clock goes forward in the night to Sunday
    assert following(nine, friday, 2) == [ms(2026, 3, 30, 9, 0), ms(2026, 3, 31, 9, 0)]
    assert ms(2026, 3, 30, 9, 0) - friday == 3 * DAY_MS - 3_600_000


def test_a_time_that_the_clock_leaves_out_is_due_right_after_the_gap() -> None:
    nightly = parse("30 2 * * *", "Europe/Berlin")
    before = ms(2026, 3, 28, 2, 30)
    assert following(nightly, before, 2) == [ms(2026, 3, 29, 3, 0), ms(2026, 3, 30, 2, 30)]


def test_a_time_that_comes_twice_is_due_once() -> None:
    nightly = parse("30 2 * * *", "Europe/Berlin")
    first, again = ms(2026, 10, 25, 2, 30), ms(2026, 10, 25, 2, 10, fold=1)
    assert nightly.next_ms(ms(2026, 10, 24, 3, 0)) == first
    assert nightly.next_ms(again) == ms(2026, 10, 26, 2, 30)


def test_what_runs_by_the_hour_goes_by_real_time() -> None:
    hourly = parse("0 * * * *", "Europe/Berlin")
    found = following(hourly, ms(2026, 10, 25, 0, 0), 4)
    assert {after - before for before, after in pairwise(found)} == {3_600_000}


@pytest.mark.slow
@pytest.mark.parametrize("zone", ["UTC", "Europe/Berlin", "Australia/Lord_Howe"])
@pytest.mark.parametrize("text", ["*/17 * * * *", "30 2 * * *", "15,45 1-3 * * SUN", "every 7m"])
@settings(max_examples=8, deadline=None)
@given(
    start=st.integers(ms(2026, 3, 20, 0, 0), ms(2026, 11, 10, 0, 0)),
    length=st.integers(0, DAY_MS),
)
def test_the_newest_due_time_is_the_last_of_those_that_follow(
    text: str, zone: str, start: int, length: int
) -> None:
    schedule, until = parse(text, zone), start + length
    found, each = None, schedule.next_ms(start)
    while each <= until:
        assert each > start
        found, each = each, schedule.next_ms(each)
    assert schedule.newest_ms(start, until) == found


@pytest.mark.parametrize(
    ("text", "zone", "said"),
    [
        ("every while", "UTC", "no interval"),
        ("every 10ms", "UTC", "no interval"),
        ("every 0.5s", "UTC", "less than 1000 ms"),
        ("* * *", "UTC", "no cron expression"),
        ("61 * * * *", "UTC", "Bad minute"),
        ("* * * * *", "Mars/Olympus", "time_zone='Mars/Olympus'"),
        ("* * * * *", "../etc", "time_zone="),
    ],
)
def test_what_is_no_schedule_is_refused_by_name(text: str, zone: str, said: str) -> None:
    with pytest.raises(InvalidSettings, match=said):
        parse(text, zone)


def test_a_schedule_that_is_never_due_is_refused() -> None:
    with pytest.raises(InvalidSettings, match=r"is never due|no cron expression"):
        parse("0 0 30 2 *").next_ms(0)


# --- decisions: it is 12:00:30, every minute is due -----------------------------------------------

DUE_MS = NOON_MS - 30_000


def decided(options: FunctionOptions, *, last: int | None, is_open: bool = False) -> object:
    return decide(EVERY_MINUTE, options, last_due_ms=last, is_open=is_open, now_ms=NOON_MS)


def test_a_schedule_begins_when_it_is_first_seen() -> None:
    assert decided(FunctionOptions(), last=None) == Pass(NOON_MS, "first seen")


def test_it_waits_for_the_next_due_time() -> None:
    assert decided(FunctionOptions(), last=DUE_MS) == Wait(DUE_MS + 60_000)


def test_it_fires_when_due() -> None:
    assert decided(FunctionOptions(), last=DUE_MS - 60_000) == Fire(DUE_MS)


def test_overlap_says_what_happens_while_the_one_before_runs() -> None:
    last = DUE_MS - 60_000
    skip = decided(FunctionOptions(overlap="skip"), last=last, is_open=True)
    assert skip == Pass(DUE_MS, "the one before is not over")
    assert decided(FunctionOptions(overlap="allow"), last=last, is_open=True) == Fire(DUE_MS)
    cancel = decided(FunctionOptions(overlap="cancel_running"), last=last, is_open=True)
    assert cancel == CancelOpen("the next one is due")


def test_catch_up_says_what_becomes_of_what_was_missed() -> None:
    last = DUE_MS - 10 * 60_000
    assert decided(FunctionOptions(catch_up="none"), last=last) == Fire(DUE_MS)
    assert decided(FunctionOptions(catch_up="last"), last=last) == Fire(DUE_MS)
    assert decided(FunctionOptions(catch_up="all"), last=last) == Fire(last + 60_000)
    short = FunctionOptions(catch_up="all", catch_up_window_s=180)
    assert decided(short, last=last) == Fire(DUE_MS - 2 * 60_000)


def test_what_was_missed_for_longer_than_the_window_is_passed_over() -> None:
    daily, now = parse("0 0 * * *"), NOON_MS
    midnight = NOON_MS // DAY_MS * DAY_MS
    kinds: tuple[CatchUp, ...] = ("none", "last", "all")
    for catch_up in kinds:
        options = FunctionOptions(catch_up=catch_up, catch_up_window_s=3_600)
        found = decide(daily, options, last_due_ms=midnight - 5 * DAY_MS, is_open=False, now_ms=now)
        assert found == Pass(midnight, "nobody ran at that time")


def test_what_was_missed_is_made_up_for_one_after_the_other() -> None:
    options = FunctionOptions(catch_up="all", overlap="skip")
    assert decided(options, last=DUE_MS - 10 * 60_000, is_open=True) == Wait(None)
