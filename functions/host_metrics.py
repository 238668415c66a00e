"""What a host tells Prometheus of its calls and workers: the text of its gateway's `/metrics`.

Decides names and labels, which stay: `bokilog_host_...`, by function. The numbers are the
scheduler's own (`SchedulerStats`), asked at each request. Does not know who asks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from bokilog.functions.runtime.scheduler import SchedulerStats
from bokilog.histogram import BOUNDS_S

if TYPE_CHECKING:
    from prometheus_client.core import Metric


def host_text(*, node: str, app: str, stats: Callable[[], SchedulerStats]) -> Callable[[], bytes]:
    """What gives the text of `/metrics`."""
    from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest

    class Collector:
        def collect(self) -> Iterator[Metric]:
            return families(stats(), node=node, app=app)

    registry = CollectorRegistry()
    registry.register(Collector())
    ProcessCollector(registry=registry)
    return lambda: generate_latest(registry)


def families(stats: SchedulerStats, *, node: str, app: str) -> Iterator[Metric]:
    """The metrics of one host."""
    from prometheus_client.core import (
        CounterMetricFamily,
        GaugeMetricFamily,
        HistogramMetricFamily,
    )

    own = ("node", "app")
    by_function = (*own, "function")
    calls = CounterMetricFamily(
        "bokilog_host_calls",
        "Calls that were answered, by function and outcome: ok, or the error's name.",
        labels=(*by_function, "outcome"),
    )
    for (function, outcome), count in stats.outcomes.items():
        calls.add_metric((node, app, function, outcome), count)
    yield calls
    seconds = HistogramMetricFamily(
        "bokilog_host_call_seconds", "From a call to its answer.", labels=by_function
    )
    for function, (sum_s, counts) in stats.took.items():
        seconds.add_metric((node, app, function), _cumulative(counts), sum_s)
    yield seconds
    cold = CounterMetricFamily(
        "bokilog_host_cold_calls", "Calls that a worker was started for.", labels=by_function
    )
    for function, count in stats.cold.items():
        cold.add_metric((node, app, function), count)
    yield cold
    for name, text, table in (
        ("waiting", "Calls that wait for a worker.", stats.waiting),
        ("workers", "Workers that take calls, or will.", stats.workers),
    ):
        gauge = GaugeMetricFamily(f"bokilog_host_{name}", text, labels=by_function)
        for function, count in table.items():
            gauge.add_metric((node, app, function), count)
        yield gauge
    for name, text, value in (
        ("retries", "Calls that were started again since their worker was lost.", stats.retries),
        ("workers_lost", "Workers that ended though nobody had told them to.", stats.workers_lost),
        ("loads", "How often the app was loaded.", stats.version),
    ):
        counter = CounterMetricFamily(f"bokilog_host_{name}", text, labels=own)
        counter.add_metric((node, app), value)
        yield counter
    under_way = GaugeMetricFamily("bokilog_host_calls_open", "Calls not over.", labels=own)
    under_way.add_metric((node, app), stats.calls)
    yield under_way


def _cumulative(counts: list[int]) -> list[tuple[str, float]]:
    total = 0
    buckets = []
    for bound, count in zip([*map(str, BOUNDS_S), "+Inf"], counts, strict=True):
        total += count
        buckets.append((bound, float(total)))
    return buckets
