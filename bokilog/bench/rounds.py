"""Contenders take turns: round after round, each for a moment, in an order that rotates.

Decides the order and what of a turn counts. The machine drifts by a third within minutes, so
figures are compared only where they were taken in turns (LIMITS, first lines). Before each turn
counts, the contender runs for a moment; afterwards it may have to catch up, and the CPU for that
counts too.

Does not know what contenders do.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Protocol

from bokilog.bench.figures import Sample
from bokilog.bench.orders import Outcome
from bokilog.bench.processes import cpu_ns

WARM_S: Final = 0.2
CpuOf = Callable[[int], int | None]


class Contender(Protocol):
    """One way of doing one work, ready to take turns."""

    @property
    def name(self) -> str:
        """Of its figures."""
        ...

    def begin(self) -> None:
        """Make ready for a turn, with nothing left of earlier ones."""
        ...

    def pids(self) -> Mapping[str, int]:
        """Whose CPU it uses, by name, once it has begun."""
        ...

    def run(self, seconds: float) -> Outcome:
        """Work for so long."""
        ...

    def settle(self) -> Mapping[str, float]:
        """Wait until all that the work brought about is done; what there is to tell of that."""
        ...

    def end(self) -> None:
        """Let go of what the turn left."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How long to measure."""

    rounds_count: int = 5
    seconds: float = 1.0
    warm_s: float = WARM_S


QUICK: Final = Plan(rounds_count=2, seconds=0.25, warm_s=0.1)
"""Shows that everything works; its figures mean little."""


def interleave(
    contenders: Sequence[Contender],
    plan: Plan,
    *,
    tell: Callable[[str], None] = lambda line: None,
    cpu: CpuOf = cpu_ns,
) -> dict[str, list[Sample]]:
    """Samples of each contender, one per round."""
    samples: dict[str, list[Sample]] = {each.name: [] for each in contenders}
    assert len(samples) == len(contenders), "two contenders of one name"
    for number in range(plan.rounds_count):
        for contender in rotated(contenders, number):
            tell(f"round {number + 1} of {plan.rounds_count}: {contender.name}")
            samples[contender.name].append(take_turn(contender, plan, cpu=cpu))
    return samples


def rotated(contenders: Sequence[Contender], number: int) -> list[Contender]:
    """The same order as ever, begun at another place each round."""
    start = number % len(contenders) if contenders else 0
    return [*contenders[start:], *contenders[:start]]


def take_turn(contender: Contender, plan: Plan, *, cpu: CpuOf = cpu_ns) -> Sample:
    """Run a contender once."""
    contender.begin()
    try:
        if plan.warm_s:
            contender.run(plan.warm_s)
            contender.settle()
        pids = contender.pids()
        before = {name: cpu(pid) for name, pid in pids.items()}
        outcome = contender.run(plan.seconds)
        told = contender.settle()
        after = {name: cpu(pid) for name, pid in pids.items()}
    finally:
        contender.end()
    sample = sample_of(outcome, before, after)
    return replace(sample, values={**outcome.values, **told})


def sample_of(
    outcome: Outcome, before: Mapping[str, int | None], after: Mapping[str, int | None]
) -> Sample:
    """A turn as figures per operation."""
    used_us = {}
    for name, start in before.items():
        until = after[name]
        if start is not None and until is not None and outcome.count:
            used_us[name] = max(0, until - start) / 1e3 / outcome.count
    known = len(used_us) == len(before)  # a sum with a hole in it would flatter
    return Sample(
        rate=outcome.rate,
        p50_us=outcome.p50_us,
        p99_us=outcome.p99_us,
        cpu_us=used_us if known else {},
        values=outcome.values,
    )
