"""Whatever happens to a cluster, nothing acknowledged is lost, doubled, altered or misread, and
when the faults are over everybody catches up."""

from __future__ import annotations

import pytest

from tests.sim.__main__ import how_to_replay
from tests.sim.simulation import simulate
from tests.sim.swarm import Knobs, draw

SEEDS = 24
"""Of the fixed set. `python -m tests.sim` runs as many others as there is time for."""

LOSSES = (4, 28, 342, 1132, 1179, 1345)
"""The same with `--losses`: worlds in which something was found."""


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.parametrize("seed", range(SEEDS))
def test_no_rule_is_broken(seed: int) -> None:
    report = simulate(seed)
    assert report.ok, "\n".join([how_to_replay(seed), *report.violations])


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.parametrize("seed", LOSSES)
def test_what_a_person_gives_up_is_gone_and_all_else_is_there(seed: int) -> None:
    report = simulate(seed, draw(seed, losses=True))
    assert report.ok, "\n".join([how_to_replay(seed, losses=True), *report.violations])


@pytest.mark.slow
def test_a_calm_world_acknowledges_a_lot() -> None:
    """A world in which hardly anything is acknowledged proves nothing."""
    report = simulate(0, Knobs(duration_s=1.0))
    assert report.ok, report.violations
    assert report.appends > 100
    assert report.reads > 100
