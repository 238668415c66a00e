"""The table of bars: what is held against whom, and how other machines' figures are scaled."""

import math
from collections.abc import Mapping, Sequence

import pytest

from bokilog.bench import machine
from bokilog.bench.figures import Result, Sample
from scripts.bench import bars
from scripts.bench.bars import BOKI, Samples, peers, scales, table, why


def steady(rate: float = 1.0, p50_us: float = math.nan, cpu_us: float = 1.0) -> list[Sample]:
    return [Sample(rate=rate, p50_us=p50_us, cpu_us={"all": cpu_us})] * 5


def references(factor: float) -> dict[str, list[Sample]]:
    """Of a machine that is `factor` times as fast as the reference machine."""
    return {
        name: steady(p50_us=known / factor) for name, known in bars.REFERENCE_MACHINE_US.items()
    }


def all_samples() -> dict[str, Sequence[Sample]]:
    """A machine like the reference machine, where every bar holds exactly."""
    boki = {row.work.name("cluster"): steady(row.rate, cpu_us=row.cpu_us) for row in BOKI}
    return {
        **references(1.0),
        bars.EMBEDDED.name("embedded"): steady(200_000),
        bars.EMBEDDED_UNITS.name("embedded"): steady(350_000),
        bars.EMBEDDED_ALONE.name("embedded"): steady(p50_us=1.5 * (50 + 60)),
        bars.EMBEDDED_DELAYED.name("embedded"): steady(p50_us=1_000),
        bars.CLUSTER.name("cluster"): steady(80_000),
        bars.CLUSTER_FLUSH.name("cluster"): steady(100_000),
        bars.CLUSTER_ALONE.name("cluster"): steady(p50_us=300),
        bars.CLUSTER_DELAYED.name("cluster"): steady(p50_us=2_000),
        **boki,
        bars.REDIS: steady(40_000),
        bars.SQLITE: steady(50_000),
        bars.SQLITE_UNITS: steady(500_000),
        bars.BARE: steady(800_000),
        bars.CHAIN: steady(300_000),
    }


def failing(samples: Samples) -> list[Result]:
    return [result for result in table(samples) if not result.holds]


def changed(name: str, samples: Sequence[Sample]) -> Mapping[str, Sequence[Sample]]:
    return {**all_samples(), name: samples}


def test_every_bar_holds_at_its_edge() -> None:
    assert failing(all_samples()) == []
    assert all(result.bar is not None for result in table(all_samples()))


@pytest.mark.parametrize(
    ("name", "worse", "against"),
    [
        (bars.REDIS, steady(40_100), bars.REDIS),
        (bars.SQLITE, steady(50_100), bars.SQLITE),
        (bars.SQLITE_UNITS, steady(500_100), bars.SQLITE_UNITS),
        (bars.BARE, steady(800_100), bars.BARE),
        (bars.CHAIN, steady(300_100), bars.CHAIN),
        (bars.CLUSTER_ALONE.name("cluster"), steady(p50_us=301), "300 us"),
        (bars.EMBEDDED_DELAYED.name("embedded"), steady(p50_us=999), "1 x the sync delay"),
        (bars.CLUSTER_DELAYED.name("cluster"), steady(p50_us=1_999), "2 x the sync delay"),
        (machine.SYNC, steady(p50_us=49), f"{machine.SYNC}.p50 + 60 us"),
    ],
)
def test_a_little_beyond_the_edge_it_fails(
    name: str, worse: Sequence[Sample], against: str
) -> None:
    assert against in {result.against for result in failing(changed(name, worse))}


def test_boki_is_held_against_both_throughput_and_cpu() -> None:
    name = BOKI[0].work.name("cluster")
    slower = failing(changed(name, steady(75_900, cpu_us=22)))
    dearer = failing(changed(name, steady(76_000, cpu_us=22.1)))
    assert [result.name for result in slower] == [name]
    assert [result.name for result in dearer] == [f"{name}.cpu"]


def test_boki_is_scaled_by_this_machine() -> None:
    name = BOKI[0].work.name("cluster")
    samples = {**all_samples(), **references(2.0), name: steady(152_000, cpu_us=11)}
    ours = {result.name: result for result in table(samples) if result.name.startswith(name)}
    assert ours[name].ratio == pytest.approx(1.0)
    assert ours[f"{name}.cpu"].ratio == pytest.approx(1.0)
    for said in (
        "W = 2 of 3, as many sequencers as the name says or one, synced",
        "3 of 3, three sequencers, memory",
    ):
        assert said in ours[name].note


def test_the_scale_is_the_geometric_mean_of_three_references() -> None:
    samples = {**references(1.0), machine.TCP: steady(p50_us=12.5 / 8)}
    assert scales(samples) == pytest.approx([2.0] * 5)
    assert scales({}) == []


def test_what_was_not_measured_is_named_and_does_not_hold() -> None:
    samples = all_samples()
    del samples[bars.REDIS]
    lacking = [result for result in failing(samples) if result.against == bars.REDIS]
    assert len(lacking) == 2
    assert all(result.note == f"not measured: {bars.REDIS}" for result in lacking)
    assert all(result.holds is False for result in table({}))


def test_a_peer_that_is_as_fast_as_before_needs_no_reason() -> None:
    samples = {**references(1.0), bars.REDIS: steady(0.75 * bars.PEERS[bars.REDIS])}
    (found,) = peers(samples, load_average=0.0)
    assert (found.holds, found.note) == (True, "")


def test_a_slower_peer_says_why() -> None:
    samples = {**references(0.5), bars.REDIS: steady(0.5 * bars.PEERS[bars.REDIS])}
    (found,) = peers(samples, load_average=0.0)
    assert found.holds is False
    assert "this machine is at 0.500 of the reference machine" in found.note


def test_reasons_are_the_machine_then_other_load_then_unknown() -> None:
    assert "this machine is at" in why(0.4, 0.5, 9.0)
    assert "9.00 other processes" in why(0.3, 1.0, 9.0)
    assert "neither" in why(0.3, 1.0, 0.0)
    assert "neither" in why(0.3, math.nan, 0.0)
