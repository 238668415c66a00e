"""What a host refuses, and how it says so."""

from __future__ import annotations

from bokilog.call_errors import AppFailed, CallTooDeep, UnknownFunction
from bokilog.errors import NotReady, Overloaded, from_wire
from bokilog.functions.runtime.messages import DEPTH_MAX, Done, TemplateFailed
from bokilog.functions.runtime.options import FunctionOptions
from tests.unit.functions.runtime.hosts import Sim, codes, one_worker, sent, start


def test_one_call_more_than_the_queue_holds_is_refused_with_a_hint() -> None:
    sim = one_worker(max_workers=1, queue_limit=2)
    effects = sim.ask(*(start(number) for number in range(1, 6)))
    assert codes(effects) == {4: Overloaded.code, 5: Overloaded.code}
    error = from_wire(sent(effects, Done)[0].error)
    assert isinstance(error, Overloaded) and error.retry_after_s > 0


def test_an_unknown_function_is_refused_by_the_name_of_the_nearest() -> None:
    sim = Sim({"price": FunctionOptions()})
    (answer,) = sent(sim.ask(start(1, "prise")), Done)
    error = from_wire(answer.error)
    assert isinstance(error, UnknownFunction) and "'price'" in str(error)


def test_names_that_no_function_has_are_counted_as_one() -> None:
    sim = Sim()
    for call in range(1, 4):
        sim.ask(start(call, f"no-such-{call}"))
    assert sim.core.stats().outcomes == {("", "UnknownFunction"): 3}


def test_calls_within_calls_end_at_a_depth() -> None:
    effects = Sim().ask(start(1, depth=DEPTH_MAX), start(2, depth=DEPTH_MAX + 1))
    assert codes(effects) == {2: CallTooDeep.code}


def test_without_any_version_calls_are_told_why() -> None:
    sim = Sim(load=False)
    assert codes(sim.ask(start(1))) == {1: NotReady.code}
    sim.tell(("template", 1), TemplateFailed(1, "ImportError: no", []))
    (answer,) = sent(sim.ask(start(2)), Done)
    assert answer.error[0] == AppFailed.code and "ImportError: no" in str(from_wire(answer.error))
