"""A scheduler under test, and short forms of what it is told and says."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

from bokilog.effects import BatchEnded, TimerFired
from bokilog.functions.runtime.effects import (
    Address,
    Effect,
    Event,
    LinkUp,
    Received,
    Send,
    StartTemplate,
)
from bokilog.functions.runtime.messages import (
    CallMessage,
    Done,
    Fork,
    Forked,
    Recall,
    Start,
    TemplateReady,
    WorkerReady,
)
from bokilog.functions.runtime.options import FunctionOptions
from bokilog.functions.runtime.scheduler import TIMER, Scheduler
from bokilog.functions.runtime.settings import SchedulerSettings

CALLER: Address = ("caller", 1)
M = TypeVar("M", bound=CallMessage)


def start(call: int, function: str = "f", **changed: object) -> Start:
    made = Start(call, function, 0, 0, 0, 0, 0, f"id{call}", "", "", b"x")
    return made._replace(**changed)  # type: ignore[arg-type]


def done(call: int, **changed: object) -> Done:
    made = Done(call, 0, "", [], 0, 1, False, b"y")
    return made._replace(**changed)  # type: ignore[arg-type]


class Sim:
    """A scheduler, its clock, and all that it has said."""

    def __init__(
        self,
        functions: dict[str, FunctionOptions] | None = None,
        *,
        settings: SchedulerSettings | None = None,
        load: bool = True,
    ) -> None:
        self.now_s = 100.0
        self.core = Scheduler("host-1", "m:app", settings=settings or SchedulerSettings(), seed=1)
        self.effects: list[Effect] = []
        self.template = 0
        self._took(self.core.begin())
        if load:
            self.load(functions or {"f": FunctionOptions()})

    def load(self, functions: dict[str, FunctionOptions]) -> list[Effect]:
        self.template = [e.template for e in self.effects if isinstance(e, StartTemplate)][-1]
        rows: list[list[object]] = [
            [name, options.to_plain(), "(x)", ""] for name, options in functions.items()
        ]
        ready = TemplateReady(self.template, 1, "app", rows, [], ["m.py"])
        return self.tell(("template", self.template), ready)

    def give(self, *events: Event) -> list[Effect]:
        """Events of one batch, and its end."""
        out: list[Effect] = []
        for event in (*events, BatchEnded(0)):
            out += self._took(self.core.handle(event, self.now_s))
            self.core.check()
        self._idle_workers_have_an_end()
        return out

    def _idle_workers_have_an_end(self) -> None:
        for name, pool in self.core._fleet.pools.items():
            assert pool.idle_until_s() is None or ("pool", name) in self.core._agenda

    def _took(self, effects: list[Effect]) -> list[Effect]:
        self.effects += effects
        return effects

    def tell(self, source: Address, *messages: CallMessage) -> list[Effect]:
        return self.give(*(Received(source, each) for each in messages))

    def ask(self, *starts: CallMessage, source: Address = CALLER) -> list[Effect]:
        return self.tell(source, *starts)

    def wait(self, delay_s: float) -> list[Effect]:
        """Time passes in small steps; the timer goes off."""
        out: list[Effect] = []
        until_s = self.now_s + delay_s
        while self.now_s < until_s - 1e-9:
            next_s = self.core._agenda.next_s()
            soon_s = max(next_s, self.now_s + 1e-3) if next_s is not None else until_s
            self.now_s = min(soon_s, until_s)
            for event in (TimerFired(TIMER), BatchEnded(0)):
                out += self._took(self.core.handle(event, self.now_s))
        self.core.check()
        return out

    def forks(self, effects: Iterable[Effect]) -> list[int]:
        return [number for fork in sent(effects, Fork) for number in fork.workers]

    def ready(self, *workers: int) -> list[Effect]:
        out: list[Effect] = []
        for number in workers:
            worker: Address = ("worker", number)
            forked = Forked([number], [number + 1_000])
            out += self.tell(("template", self.template), forked)
            out += self.give(LinkUp(worker))
            out += self.tell(worker, WorkerReady(number, number + 1_000, []))
        return out

    def run(self, *starts: Start, source: Address = CALLER) -> tuple[int, list[Start]]:
        """Ask for calls, let the workers asked for be ready; (a worker, what it was given)."""
        effects = self.ask(*starts, source=source)
        workers = self.forks(effects)
        effects += self.ready(*workers)
        return (workers[0] if workers else 0), sent(effects, Start)


def sent(effects: Iterable[Effect], kind: type[M], to: Address | None = None) -> list[M]:
    return [
        each.message
        for each in effects
        if isinstance(each, Send)
        and isinstance(each.message, kind)
        and (to is None or each.to == to)
    ]


def receivers(effects: Iterable[Effect], kind: type[CallMessage]) -> list[Address]:
    return [e.to for e in effects if isinstance(e, Send) and isinstance(e.message, kind)]


def codes(effects: Iterable[Effect], to: Address = CALLER) -> dict[int, object]:
    """Answers to a source: its number to the error's code, None: it went well."""
    return {each.call: each.error[0] if each.error else None for each in sent(effects, Done, to)}


def one_worker(**options: object) -> Sim:
    made = FunctionOptions(**options)  # type: ignore[arg-type]
    return Sim({"f": made})


def short_calls(count: int, **options: object) -> tuple[Sim, int, list[Start]]:
    """A function whose calls took a millisecond so far, one worker of it, so many calls that were
    not begun: what it was given of them, the first of it begun by now."""
    sim = one_worker(**{"max_workers": 1, **options})
    worker, started = sim.run(start(1_000), *(start(number) for number in range(1, count + 1)))
    sim.now_s += 0.0009
    return sim, worker, sent(sim.tell(("worker", worker), done(started[0].call)), Start)


def one_ahead_and_another_worker() -> tuple[Sim, int, int, list[Start]]:
    """A worker that runs the first of two calls, and another one that is idle from now on."""
    sim = one_worker(max_workers=2)
    worker, started = sim.run(start(1_000))
    sim.now_s += 0.0009
    sim.tell(("worker", worker), done(started[0].call))
    given = sent(sim.ask(start(1), start(2)), Start, ("worker", worker))
    assert [each.call_id for each in given] == ["id1", "id2"]
    sim.wait(0.1)
    (other,) = (number for number in sim.core._fleet.workers if number != worker)
    assert sent(sim.ready(other), Recall) == [Recall(given[1].call)]
    return sim, worker, other, given
