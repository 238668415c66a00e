"""The driver on a scheduler that only moves when told to."""

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import pytest

from bokilog.effects import BatchEnded, CancelTimer, SetTimer, TimerFired
from bokilog.io.clock import ManualClock, SystemClock
from bokilog.io.driver import ROUNDS_MAX, Driver, DriverStats

WALL_MS = 1_000
Event = str | TimerFired | BatchEnded
Effect = str | SetTimer | CancelTimer


@dataclass
class Waiting:
    due_s: float
    callback: Callable[[], object]
    cancelled: bool = False

    def cancel(self) -> None:
        self.cancelled = True


@dataclass
class Turns:
    """An event loop that makes a turn when asked."""

    clock: ManualClock
    soon: list[Callable[[], object]] = field(default_factory=list)
    later: list[Waiting] = field(default_factory=list)

    def call_soon(self, callback: Callable[[], object], /) -> None:
        self.soon.append(callback)

    def call_later(self, delay: float, callback: Callable[[], object], /) -> Waiting:
        self.later.append(Waiting(self.clock.now_s() + delay, callback))
        return self.later[-1]

    def turn(self) -> None:
        due = [each for each in self.later if each.due_s <= self.clock.now_s()]
        self.later = [each for each in self.later if each not in due]
        ready, self.soon = self.soon, []
        for callback in ready:
            callback()
        for each in due:
            if not each.cancelled:
                each.callback()


class Rig:
    """A driver over a scripted core: what each event brings about, and a log of it all."""

    def __init__(self, script: dict[Event, list[Effect]] | None = None) -> None:
        self.script = script or {}
        self.log: list[str] = []
        self.bugs: list[Exception] = []
        self.clock = ManualClock(wall_ms=WALL_MS)
        self.turns = Turns(self.clock)
        self.on_perform: Callable[[str], object] = lambda effect: None
        self.on_end: Callable[[], object] = lambda: None
        self.driver: Driver[str, Effect] = Driver(
            self,
            perform=self.perform,
            end_of_batch=self.end_of_batch,
            clock=self.clock,
            on_bug=self.bugs.append,
            scheduler=self.turns,
        )

    def handle(self, event: Event, now_s: float) -> Iterable[Effect]:
        match event:
            case TimerFired(timer=timer):
                self.log.append(f"{timer} fired at {now_s:g}")
            case BatchEnded(wall_ms=wall_ms):
                self.log.append("ended" if wall_ms == WALL_MS else f"ended at {wall_ms}")
            case _:
                self.log.append(event)
        return self.script.get(event, [])

    def perform(self, effect: Effect) -> None:
        assert isinstance(effect, str), "timers are the driver's"
        self.log.append(f"-> {effect}")
        self.on_perform(effect)

    def end_of_batch(self) -> None:
        self.log.append("commit")
        self.on_end()

    def run(self, *events: str) -> list[str]:
        """Deliver, make one turn, return what happened in it."""
        for event in events:
            self.driver.deliver(event)
        self.log.clear()
        self.turns.turn()
        return self.log


ENDED = BatchEnded(WALL_MS)


def test_events_of_one_turn_are_one_batch_and_effects_precede_the_next_event() -> None:
    rig = Rig({"a": ["1", "2"], "b": ["3"], ENDED: ["cut"]})
    assert rig.run("a", "b") == [
        *("a", "-> 1", "-> 2", "b", "-> 3", "ended", "-> cut"),
        "commit",
    ]
    assert rig.run() == []


def test_nothing_is_handled_within_deliver() -> None:
    rig = Rig()
    rig.driver.deliver("a")
    rig.driver.deliver("b")
    assert rig.log == []
    assert len(rig.turns.soon) == 1


def test_batch_ended_carries_the_wall_clock() -> None:
    rig = Rig()
    rig.clock.jump_wall(234)
    assert rig.run("a") == ["a", "ended at 1234", "commit"]


def test_events_delivered_by_effects_are_the_next_round_and_join_the_same_commit() -> None:
    rig = Rig({"frame": ["send"], ENDED: []})
    rig.on_perform = lambda effect: rig.driver.deliver("progress")
    assert rig.run("frame") == ["frame", "-> send", "ended", "progress", "ended", "commit"]
    assert rig.driver.stats() == DriverStats(ticks=1, rounds=2, events=2, timers=0, dropped=0)


def test_events_delivered_by_the_commit_are_handled_in_the_same_tick() -> None:
    rig = Rig({"persisted": ["ack"]})
    unsynced = ["persisted"]

    def sync() -> None:
        while unsynced:
            rig.driver.deliver(unsynced.pop())

    rig.on_end = sync
    assert rig.run("append") == [
        *("append", "ended", "commit"),
        *("persisted", "-> ack", "ended", "commit"),
    ]


def test_endless_answers_leave_the_loop_a_turn_after_the_bound() -> None:
    rig = Rig({"ping": ["pong"]})
    rig.on_perform = lambda effect: rig.driver.deliver("ping")
    for _ in range(3):
        log = rig.run() if rig.driver.stats().ticks else rig.run("ping")
        assert log == ["ping", "-> pong", "ended"] * ROUNDS_MAX + ["commit"]
    assert rig.driver.stats().ticks == 3


def test_a_commit_that_always_delivers_leaves_the_loop_a_turn_after_the_bound() -> None:
    rig = Rig()
    rig.on_end = lambda: rig.driver.deliver("persisted")
    assert rig.run("a").count("commit") == ROUNDS_MAX
    assert rig.run().count("commit") == ROUNDS_MAX


def test_a_timer_fires_once_after_its_delay() -> None:
    rig = Rig({"a": [SetTimer("t", 2.0)]})
    rig.run("a")
    rig.clock.advance(1.5)
    assert rig.run() == []
    rig.clock.advance(0.5)
    assert rig.run() == []  # the turn in which it becomes due; it is an event like any other
    assert rig.run()[:2] == ["t fired at 2", "ended at 3000"]
    rig.clock.advance(9.0)
    assert rig.run() == []


def test_a_timer_set_anew_waits_for_its_new_delay_only() -> None:
    rig = Rig({"a": [SetTimer("t", 1.0)], "b": [SetTimer("t", 5.0)]})
    rig.run("a", "b")
    assert rig.driver.stats().timers == 1
    rig.clock.advance(4.0)
    rig.run()
    assert rig.run() == []
    rig.clock.advance(1.0)
    rig.run()
    assert rig.run()[0] == "t fired at 5"


def test_a_cancelled_timer_does_not_fire_and_cancelling_none_does_nothing() -> None:
    rig = Rig({"a": [SetTimer("t", 1.0)], "b": [CancelTimer("t"), CancelTimer("other")]})
    rig.run("a")
    rig.run("b")
    rig.clock.advance(2.0)
    rig.run()
    assert rig.run() == []
    assert rig.driver.stats().timers == 0


@pytest.mark.parametrize(
    ("effect", "later"),
    [(CancelTimer("t"), []), (SetTimer("t", 3.0), ["t fired at 4", "ended at 5000", "commit"])],
)
def test_a_timer_already_due_does_not_fire_for_what_was_cancelled_or_replaced(
    effect: Effect, later: list[str]
) -> None:
    # 1. "b" is in the inbox. 2. The timer goes off behind it. 3. Handling "b" takes it back.
    rig = Rig({"a": [SetTimer("t", 1.0)], "b": [effect]})
    rig.run("a")
    rig.clock.advance(1.0)
    rig.turns.soon.append(lambda: rig.driver.deliver("b"))
    rig.run()
    assert rig.run() == ["b", "ended at 2000", "commit"]
    rig.clock.advance(3.0)
    rig.run()
    assert rig.run() == later


def test_timers_of_different_names_do_not_touch_each_other() -> None:
    rig = Rig({"a": [SetTimer(("beat", 1), 1.0), SetTimer(("beat", 2), 1.0)]})
    rig.script["b"] = [CancelTimer(("beat", 1))]
    rig.run("a", "b")
    rig.clock.advance(1.0)
    rig.run()
    assert rig.run()[0] == "('beat', 2) fired at 1"


class Broken(Exception):
    pass


def fail(*_: object) -> None:
    raise Broken


@pytest.mark.parametrize("where", ["handle", "effects", "perform", "end_of_batch"])
def test_what_raises_is_a_bug_told_once_and_nothing_follows(
    where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def effects() -> Iterable[Effect]:
        yield "1"
        raise Broken

    rig = Rig({"a": ["1", SetTimer("t", 1.0)]})
    rig.run("a")
    if where == "handle":
        rig.driver._handle = fail  # type: ignore[assignment]
    elif where == "effects":
        rig.driver._handle = lambda event, now_s: effects()
    elif where == "perform":
        rig.on_perform = fail
    else:
        rig.on_end = fail
    before = len(rig.run("a", "a", "a"))
    assert before <= len(["a", "-> 1"] * 3 + ["ended", "commit"])
    assert [type(bug) for bug in rig.bugs] == [Broken]
    assert rig.driver.stopped
    rig.clock.advance(5.0)
    assert rig.run("b") == []
    assert rig.run() == []
    assert len(rig.bugs) == 1
    assert rig.driver.stats().dropped >= 1
    assert rig.driver.stats().timers == 0


def test_a_stop_by_an_effect_lets_no_further_event_be_handled() -> None:
    rig = Rig({"a": ["stop", "still of a", SetTimer("t", 1.0)]})
    rig.on_perform = lambda effect: rig.driver.stop() if effect == "stop" else None
    assert rig.run("a", "b") == ["a", "-> stop", "-> still of a"]
    assert rig.run("c") == []
    assert rig.driver.stats() == DriverStats(ticks=1, rounds=1, events=2, timers=0, dropped=2)


def test_a_stop_before_the_tick_drops_what_waits() -> None:
    rig = Rig()
    rig.driver.deliver("a")
    rig.driver.stop()
    assert rig.run() == []
    assert rig.driver.stats().dropped == 1


def test_it_runs_on_an_event_loop() -> None:
    class Countdown:
        def __init__(self) -> None:
            self.left = 3

        def handle(self, event: Event, now_s: float) -> list[Effect]:
            if isinstance(event, BatchEnded):
                return []
            self.left -= 1
            return [SetTimer("next", 0.001)] if self.left else ["done"]

    async def story() -> None:
        done = asyncio.Event()
        driver: Driver[str, Effect] = Driver(
            Countdown(),
            perform=lambda effect: done.set(),
            end_of_batch=lambda: None,
            clock=SystemClock(),
            on_bug=fail,
        )
        driver.deliver("start")
        async with asyncio.timeout(5):
            await done.wait()
        assert driver.stats().events == 3

    asyncio.run(story())


def test_clocks_move_as_told() -> None:
    clock = ManualClock(now_s=5.0, wall_ms=70_000)
    clock.advance(0.5)
    clock.jump_wall(-1_000)
    assert (clock.now_s(), clock.wall_ms()) == (5.5, 69_500)
    with pytest.raises(ValueError, match="delta_s=-1"):
        clock.advance(-1)
    system = SystemClock()
    assert system.now_s() <= system.now_s()
    assert system.wall_ms() > 1_600_000_000_000


def test_what_was_delivered_last_in_a_turn_can_be_handled_at_once() -> None:
    rig = Rig()
    rig.driver.deliver("a")
    rig.driver.run()
    assert rig.log == ["a", "ended", "commit"]
    assert rig.run() == [], "the turn that was asked for finds nothing left"
    assert rig.driver.stats().ticks == 1
    assert rig.run("b") == ["b", "ended", "commit"]


def test_nothing_is_handled_within_an_effect() -> None:
    rig = Rig({"a": ["1"]})

    def deliver(effect: str) -> None:
        rig.driver.deliver("b")
        rig.driver.run()
        rig.log.append("performed")

    rig.on_perform = deliver
    assert rig.run("a") == ["a", "-> 1", "performed", "ended", "b", "ended", "commit"]
