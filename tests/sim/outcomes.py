"""What came of many seeds, each run in one of several processes."""

from __future__ import annotations

import multiprocessing
import traceback
from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

from tests.sim.simulation import simulate
from tests.sim.swarm import draw


class Outcome(NamedTuple):
    """What came of one seed."""

    seed: int
    violations: tuple[str, ...] = ()
    appends: int = 0
    reads: int = 0
    faults: int = 0
    reached: tuple[tuple[str, int], ...] = ()
    """Paths of the code that are rarely taken, and how often this one did."""


def outcomes(seeds: range, jobs: int, *, losses: bool = False) -> Iterator[Outcome]:
    """In the order of the seeds, whoever ran them; `losses`: of worlds in which a person accepts
    one."""
    run = partial(outcome_of, losses=losses)
    if jobs <= 1:
        yield from map(run, seeds)
        return
    # Not forked: a process that has imported little is the same on every system.
    with multiprocessing.get_context("spawn").Pool(jobs) as pool:
        yield from pool.imap(run, seeds)


def outcome_of(seed: int, *, losses: bool = False) -> Outcome:
    """Of one; an exception of the simulator or of a core is a violation too."""
    try:
        report = simulate(seed, draw(seed, losses=losses))
    except Exception:
        return Outcome(seed, (traceback.format_exc(),))
    return Outcome(
        seed,
        tuple(report.violations),
        report.appends,
        report.reads,
        sum(report.faults.values()),
        tuple(report.reached.items()),
    )
