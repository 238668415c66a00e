"""Several hosts' claims cores over one LogBook, in virtual time: delays, crashes, lost answers.

The log is `bokilog/reference.py`. A host is a core and a state of its own; what it asks for happens
later: appends are ordered after a while, their answers come later still, or never; records arrive
at each host with a delay of their own, in order. A crash drops the core; a start makes another one,
from the newest snapshot or from the beginning.
"""

from __future__ import annotations

import heapq
import itertools
from collections import Counter
from collections.abc import Callable, Iterable
from functools import partial
from random import Random

from bokilog.call_errors import FunctionFailed
from bokilog.errors import ConditionFailed, Overloaded, to_wire
from bokilog.functions.calls.claims import Claims, ClaimsSettings
from bokilog.functions.calls.effects import (
    Append,
    Appended,
    CaughtUpNow,
    Changed,
    ClaimsEvent,
    Drain,
    FunctionsAre,
    HostsAre,
    NotAppended,
    Refused,
    Run,
    RunOver,
    StopRun,
    WakeAt,
    Woke,
)
from bokilog.functions.calls.records import (
    CALLS,
    CallRecord,
    Cancelled,
    Claimed,
    DeadLettered,
    Extended,
    Finished,
    Retried,
    Spawned,
    decode,
    encode,
    end_tag,
    tags_of,
)
from bokilog.functions.calls.state import CallsState, Phase
from bokilog.functions.runtime.messages import Done
from bokilog.functions.runtime.options import FunctionOptions
from bokilog.record import Entry, check_unit
from bokilog.reference import ReferenceBook

WALL_MS = 1_800_000_000_000
SETTINGS = ClaimsSettings(ttl_ms=2_000, capacity=4, rank_delay_s=0.2, unknown_s=10)
DONE = Done(0, 0, "", [], 0, 0, False, b"result")
FAILED = DONE._replace(error=to_wire(FunctionFailed("f", "ValueError", "no")))
NO_ROOM = DONE._replace(error=to_wire(Overloaded(0.5, "the call")))


def spawned(call_id: str, *, function: str = "f", retries: int = 3, prefer: str = "") -> Spawned:
    return Spawned(
        *(call_id, function, 0, b"", 0, retries, 100, 0, 0, "", "", 0, prefer, "", ""),
    )


class Host:
    """One start of a host."""

    def __init__(self, world: World, name: str, boot: int) -> None:
        self.world = world
        self.name = name
        self.state = CallsState()
        self.core = Claims(self.state, host=name, boot=str(boot), settings=SETTINGS)
        self.is_up = True
        self.stands_still = False
        self.position = 1
        self.running: dict[tuple[str, int], bool] = {}
        self.wakes = 0
        if world.snapshot is not None:
            self.position = world.snapshot[0]
            self.state.restore(world.snapshot[1])
        self.send(Woke(world.wall_ms()))
        self.send(HostsAre(tuple(world.names)))
        self.send(FunctionsAre(world.functions))
        world.later(world.delay(), self.read)

    def send(self, *events: ClaimsEvent) -> None:
        if not self.is_up:
            return
        if self.stands_still:
            self.world.later(0.01, lambda: self.send(*events))
            return
        for effect in self.core.handle_all(events, self.world.now_s):
            match effect:
                case Append():
                    self.world.later(self.world.delay(), partial(self.order, effect))
                case Run():
                    self.run(effect)
                case StopRun():
                    self.running.pop((effect.call_id, effect.attempt), None)
                case WakeAt(at_s):
                    self.wakes += 1
                    delay_s = max(0.0, at_s - self.world.now_s)
                    self.world.later(delay_s, partial(self.wake, self.wakes))
        self.core.check()

    def wake(self, wake: int) -> None:
        if wake == self.wakes:
            self.send(Woke(self.world.wall_ms()))

    def read(self) -> None:
        """The follower: what is new in the tag `calls`, then that it is all."""
        if not self.is_up:
            return
        if self.stands_still:
            self.world.later(0.5, self.read)  # what it had in mind goes first
            return
        records = self.world.book.visible(CALLS, self.position, self.world.book.tail)
        self.position = self.world.book.tail
        kept = [record for record in records if record.seqnum not in self.world.lost]
        # A page is folded as a whole before the core is told what it is about, as in the shell.
        changes = dict.fromkeys(self.state.apply(record) for record in kept)
        self.send(*[Changed(each) for each in changes if each is not None])
        self.send(CaughtUpNow())

    def order(self, effect: Append) -> None:
        """An append comes to the log, if the host lived long enough to send it; or it is lost."""
        world = self.world
        if not self.is_up and world.random.random() < 0.5:
            return
        if world.random.random() < world.lossy:
            world.later(world.delay(), lambda: self.send(NotAppended(effect.ticket)))
            return
        answer: ClaimsEvent
        try:
            seqnum = world.append(
                effect.record,
                tags=effect.tags,
                unless=((effect.ticket, effect.after),),
                key=effect.key,
            )
            answer = Appended(effect.ticket, seqnum)
        except ConditionFailed as error:
            answer = Refused(effect.ticket, error.winner, self.position)
        if world.random.random() < world.lossy:
            answer = NotAppended(effect.ticket)
        world.later(world.delay(), lambda: self.answer(answer))

    def answer(self, event: ClaimsEvent) -> None:
        if isinstance(event, Refused):
            event = event._replace(position=self.position)
        self.send(event)

    def run(self, effect: Run) -> None:
        key = effect.call_id, effect.attempt
        self.running[key] = True
        self.world.runs[effect.call_id] += 1
        took_s, done = self.world.behaviour(effect.call_id, effect.attempt)
        self.world.later(took_s, lambda: self.ran(key, done))

    def ran(self, key: tuple[str, int], done: Done) -> None:
        if self.running.pop(key, None):
            self.send(RunOver(*key, done, 5))


class World:
    """The log, the hosts and the time."""

    def __init__(
        self,
        seed: int,
        names: Iterable[str] = ("a", "b", "c"),
        *,
        functions: dict[str, FunctionOptions] | None = None,
        lossy: float = 0.0,
    ) -> None:
        self.random = Random(seed)
        self.names = list(names)
        self.functions = functions or {"f": FunctionOptions(), "g": FunctionOptions()}
        self.lossy = lossy
        self.book = ReferenceBook(1)
        self.now_s = 0.0
        self.snapshot: tuple[int, bytes] | None = None
        self.lost: set[int] = set()
        """Records whose bytes no replica has any more."""
        self.runs: Counter[str] = Counter()
        self.behaviour: Callable[[str, int], tuple[float, Done]] = lambda call_id, attempt: (
            0.05,
            DONE,
        )
        self._events: list[tuple[float, int, Callable[[], object]]] = []
        self._numbers = itertools.count()
        self._boots = itertools.count()
        self.hosts: dict[str, Host] = {}

    def start(self, *names: str) -> None:
        for name in names or self.names:
            self.hosts[name] = Host(self, name, next(self._boots))

    def crash(self, name: str) -> None:
        """The host is gone; what it has sent may still be ordered."""
        self.hosts[name].is_up = False

    def wall_ms(self) -> int:
        return WALL_MS + int(self.now_s * 1_000)

    def delay(self) -> float:
        return self.random.uniform(0.0005, 0.02)

    def later(self, delay_s: float, what: Callable[[], object]) -> None:
        heapq.heappush(self._events, (self.now_s + delay_s, next(self._numbers), what))

    def run(self, for_s: float) -> None:
        end_s = self.now_s + for_s
        while self._events and self._events[0][0] <= end_s:
            self.now_s, _, what = heapq.heappop(self._events)
            what()
        self.now_s = end_s

    def append(
        self,
        record: CallRecord,
        *,
        tags: tuple[str, ...] = (),
        unless: tuple[tuple[str, int], ...] = (),
        key: str | None = None,
    ) -> int:
        unit = check_unit([Entry(encode(record), tags or tags_of(record))])
        for host in self.hosts.values():
            self.later(self.delay(), host.read)
        return self.book.append(unit, conditions=unless, key=key, now_ms=self.wall_ms()).start

    def write_snapshot(self) -> None:
        """Of the first host that lives, as its replay would."""
        for host in self.hosts.values():
            if host.is_up:
                self.snapshot = host.position, host.state.snapshot()
                return

    # --- what happened ----------------------------------------------------------------------------

    def records(self, tag: str = CALLS) -> list[CallRecord]:
        found = self.book.visible(tag, 1, self.book.tail)
        return [step for each in found if (step := decode(each.data)) is not None]

    def ends(self, call_id: str) -> list[CallRecord]:
        return self.records(end_tag(call_id))

    def state(self) -> CallsState:
        state = CallsState()
        for record in self.book.visible(CALLS, 1, self.book.tail):
            state.apply(record)
        return state

    def check_history(self) -> None:
        """Every step was one that its call could take, by whoever may take it."""
        state = CallsState()
        for record in self.book.visible(CALLS, 1, self.book.tail):
            step = decode(record.data)
            if isinstance(step, (Claimed, Extended, Finished, Retried)):
                call = state.calls[step.call_id]  # nothing comes after its end
                holds = call.phase == Phase.CLAIMED and call.holder == step.host
                assert holds != isinstance(step, Claimed), step
                assert isinstance(step, (Claimed, Retried)) or step.attempt == call.attempt, step
                assert holds or call.phase == Phase.WAITING, step
            state.apply(record)
            state.check()

    def drain(self, name: str, *, now: bool) -> None:
        self.hosts[name].send(Drain(now))


ENDS = (Finished, DeadLettered, Cancelled)
