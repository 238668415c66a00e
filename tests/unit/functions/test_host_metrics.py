from __future__ import annotations

from bokilog.functions.host_metrics import host_text
from bokilog.functions.runtime.options import FunctionOptions
from tests.unit.functions.runtime.hosts import Sim, done, start


def test_calls_are_told_by_function_and_outcome() -> None:
    sim = Sim({"f": FunctionOptions(queue_limit=1, max_workers=1)})
    worker, begun = sim.run(start(1), start(2), start(3), start(4, "nothing"))
    sim.now_s += 0.015
    sim.tell(("worker", worker), done(begun[0].call))
    text = host_text(node="host-1", app="shop", stats=sim.core.stats)().decode()
    own = 'app="shop",function="f",node="host-1"'
    for line in (
        f'bokilog_host_calls_total{{{own},outcome="ok"}} 1.0',
        f'bokilog_host_calls_total{{{own},outcome="Overloaded"}} 1.0',
        'bokilog_host_call_seconds_bucket{app="shop",function="f",le="0.02",node="host-1"} 2.0',
        f"bokilog_host_cold_calls_total{{{own}}} 1.0",
        f"bokilog_host_waiting{{{own}}} 0.0",
        f"bokilog_host_workers{{{own}}} 1.0",
        'bokilog_host_calls_open{app="shop",node="host-1"} 1.0',
    ):
        assert line in text.splitlines(), text
