"""Whatever happens to a cluster, nothing acknowledged is lost, doubled, altered or misread, and
when the faults are over everybody catches up."""

from __future__ import annotations

import pytest

from tests.sim.__main__ import how_to_replay
from tests.sim.simulation import simulate
from tests.sim.swarm import Knobs

SEEDS = 24
"""Of the fixed set. `python -m tests.sim` runs as many others as there is time for."""


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.parametrize("seed", range(SEEDS))
def test_no_rule_is_broken(seed: int) -> None:
    report = simulate(seed)
    assert report.ok, "\n".join([how_to_replay(seed), *report.violations])


@pytest.mark.slow
def test_a_calm_world_acknowledges_a_lot() -> None:
    """A world in which hardly anything is acknowledged proves nothing."""
    report = simulate(0, Knobs(duration_s=1.0))
    assert report.ok, report.violations
    assert report.appends > 100
    assert report.reads > 100
