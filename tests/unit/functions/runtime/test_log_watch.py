"""When a person is told that the log of a host is away, and that it is back."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from bokilog.functions.runtime.log_watch import QUIET_S, LogWatch
from tests.unit.client.opened import opened


class Timer:
    def __init__(self, delay_s: float, call: Callable[[], None]) -> None:
        self.delay_s = delay_s
        self.call = call
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class Rig:
    """A watch whose clock stands until it is told."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self.timers: list[Timer] = []
        self.lines: list[str] = []
        self.watch = LogWatch(
            later=self.later,
            now_s=lambda: self.now_s,
            warn=self.lines.append,
            back=self.lines.append,
        )

    def later(self, delay_s: float, call: Callable[[], None]) -> Timer:
        self.timers.append(Timer(delay_s, call))
        return self.timers[-1]

    def wait(self, time_s: float) -> None:
        self.now_s += time_s
        for timer in self.timers:
            if not timer.cancelled and timer.delay_s <= time_s:
                timer.cancel()
                timer.call()


def test_a_log_that_stays_away_is_told_once_and_so_is_its_return() -> None:
    rig = Rig()
    rig.watch.changed("tcp:a:1: it closed the connection")
    rig.wait(QUIET_S)
    rig.wait(11.0)
    rig.watch.changed("")
    rig.wait(5.0)
    assert rig.lines == [
        "the log does not answer: tcp:a:1: it closed the connection; what needs it waits",
        "the log answers after 12 s",
    ]


def test_a_short_silence_is_not_worth_a_word() -> None:
    rig = Rig()
    for _ in range(3):
        rig.watch.changed("gone")
        rig.wait(QUIET_S / 2)
        rig.watch.changed("")
        rig.wait(QUIET_S)
    assert rig.lines == []


def test_a_log_that_is_not_there_yet_is_waited_for_in_words() -> None:
    rig = Rig()
    rig.watch.waits("bokilog://a:1", 20.0)
    rig.wait(QUIET_S)
    assert rig.lines == ["waiting up to 20 s for the log at bokilog://a:1"]


def test_who_has_ended_says_no_more() -> None:
    rig = Rig()
    rig.watch.changed("gone")
    rig.watch.close()
    rig.wait(QUIET_S)
    rig.watch.changed("")
    assert rig.lines == []


@pytest.mark.asyncio
async def test_a_client_tells_when_its_engine_goes_and_comes() -> None:
    told: list[str] = []
    async with opened() as (engine, log):
        log.client.link_changed = told.append
        engine.disconnect("cut")
        engine.connect()
    assert told == ["cut", ""]
