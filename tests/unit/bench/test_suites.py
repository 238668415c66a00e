"""The bars of `bokilog bench` that need nothing but this machine."""

import pytest

from bokilog.bench import machine
from bokilog.bench.appends import Shape, Work
from bokilog.bench.figures import Sample
from bokilog.bench.orders import Outcome
from bokilog.bench.suites import (
    against_one_sync,
    against_the_delay,
    large_bar,
    limit,
    memory_results,
    read_bars,
)


def p50(us: float) -> list[Sample]:
    return [Sample(rate=1.0, p50_us=us)]


@pytest.mark.parametrize(
    ("shape", "us", "holds"),
    [
        ("embedded", 1_000, True),
        ("embedded", 999, False),
        ("cluster", 2_000, True),
        ("cluster", 1_999, False),
    ],
)
def test_an_append_faster_than_its_syncs_is_caught(shape: Shape, us: float, holds: bool) -> None:
    work = Work(outstanding=1, sync_delay_ms=1.0)
    assert against_the_delay(shape, work, p50(us)).holds is holds


def test_one_append_at_a_time_is_held_against_one_sync() -> None:
    assert against_one_sync("x", p50(150), p50(40)).holds is True
    assert against_one_sync("x", p50(151), p50(40)).holds is False


def test_reading_again_needs_no_message_and_hardly_any_time() -> None:
    again = Sample(rate=1.0, p50_us=2.9, values={"messages_count": 0.0})
    samples = {"embedded.read-again.128B.1x": [again, again]}
    assert [each.holds for each in read_bars(samples, shape="embedded", size_bytes=128)] == [
        True,
        True,
    ]
    asked = Sample(rate=1.0, p50_us=3.1, values={"messages_count": 1.0})
    samples = {"embedded.read-again.128B.1x": [again, asked, asked]}
    assert [each.holds for each in read_bars(samples, shape="embedded", size_bytes=128)] == [
        False,
        False,
    ]


def test_a_read_from_the_engine_is_held_against_a_round_trip() -> None:
    samples = {
        "cluster.read-again.128B.1x": [Sample(rate=1.0, values={"messages_count": 0.0})],
        "cluster.read-from-engine.128B.1x": p50(40.0),
        machine.UNIX: p50(20.0),
    }
    *_, engine = read_bars(samples, shape="cluster", size_bytes=128)
    assert (engine.against, engine.ratio, engine.holds) == (machine.UNIX, 2.0, True)


def test_large_records_are_held_against_plain_writes() -> None:
    samples = {"embedded.append": [Sample(rate=500.0)], machine.WRITE: [Sample(rate=1_000.0)]}
    found = large_bar(samples)
    assert (found.name, found.unit, found.ratio, found.holds) == (
        "embedded.append.bandwidth",
        "MiB/s",
        0.5,
        True,
    )


def test_a_limit_is_a_bar_of_one() -> None:
    assert limit("start.import", [80.0], "ms", 80.0).holds is True
    assert limit("start.import", [81.0], "ms", 80.0).holds is False


def test_memory_is_held_against_the_budget_per_process() -> None:
    old = Outcome(count=10, elapsed_s=1.0, p50_us=5.0)
    peaks = {"engine-1": 256 << 20, "storage-1": 257 << 20, "storage-2": 0}
    found = {each.name: each.holds for each in memory_results(peaks, old, records_count=9)}
    assert found == {
        "memory.9-records.engine-1": True,
        "memory.9-records.storage-1": False,
        "memory.9-records.read-next-of-old-tags": None,
        "memory.9-records.read-next-of-old-tags.p50": None,
    }


@pytest.mark.parametrize(
    ("work", "name"),
    [
        (Work(), "embedded.append.sync.1024B.256x"),
        (Work(durability="flush", size_bytes=128), "embedded.append.flush.128B.256x"),
        (Work(outstanding=1, batch_count=256), "embedded.append.sync.1024B.1x.units-of-256"),
        (Work(sync_delay_ms=0.5), "embedded.append.sync.1024B.256x.delay-0.5ms"),
    ],
)
def test_a_work_names_its_figures(work: Work, name: str) -> None:
    assert work.name("embedded") == name
