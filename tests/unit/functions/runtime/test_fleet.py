"""When workers and templates start and end."""

from __future__ import annotations

import pytest

from bokilog.call_errors import AppFailed, CallTimeout, WorkerLost
from bokilog.errors import from_wire
from bokilog.functions.runtime.effects import (
    AppNotLoaded,
    Disconnect,
    EndTemplate,
    Event,
    KillWorker,
    LinkDown,
    LinkUp,
    MemoryUsed,
    Reload,
    Send,
    StartTemplate,
    TemplateEnded,
    TemplateLost,
    WorkerEnded,
    WorkerSilent,
)
from bokilog.functions.runtime.messages import (
    Done,
    Greeted,
    Recall,
    Retire,
    Returned,
    Start,
    TemplateFailed,
    WorkerExited,
)
from bokilog.functions.runtime.options import FunctionOptions
from tests.unit.functions.runtime.hosts import (
    CALLER,
    Sim,
    codes,
    done,
    one_worker,
    receivers,
    sent,
    short_calls,
    start,
)


def test_a_worker_that_stands_still_gets_no_more_calls_and_may_finish_what_it_has() -> None:
    sim = Sim({"f": FunctionOptions(max_concurrency=10, timeout_s=20.0)})
    worker, (first,) = sim.run(start(1))
    assert sim.core.shared() == [worker]
    assert receivers(sim.give(WorkerSilent(worker)), Retire) == [("worker", worker)]
    other, (second,) = sim.run(start(2))
    assert other != worker
    assert codes(sim.tell(("worker", other), done(second.call))) == {2: None}
    assert codes(sim.wait(21.0)) == {1: CallTimeout.code}
    assert [e.worker for e in sim.wait(6.0) if isinstance(e, KillWorker)] == [worker]
    assert sim.give(WorkerSilent(worker)) == []
    assert first.call_id == "id1"


def test_a_worker_that_takes_too_much_memory_is_ended_and_its_calls_are_told() -> None:
    sim = one_worker(memory_bytes=10 << 20)
    worker, _ = sim.run(start(1))
    assert sim.give(MemoryUsed(worker, 10 << 20)) == []
    effects = sim.give(MemoryUsed(worker, 11 << 20))
    assert [each.worker for each in effects if isinstance(each, KillWorker)] == [worker]
    error = from_wire(sent(effects, Done)[0].error)
    assert "11.0 MiB" in str(error) and "limit is 10.0 MiB" in str(error)


def test_idle_workers_end_down_to_the_least() -> None:
    sim = one_worker(min_workers=1, idle_s=2.0)
    sim.ready(*sim.core._fleet.workers)
    effects = sim.ask(start(1), start(2))
    others = sim.forks(effects)
    effects += sim.ready(*others)
    workers = receivers(effects, Start)
    for to, begun in zip(workers, sent(effects, Start), strict=True):
        sim.tell(to, done(begun.call))
    assert len(sent(sim.wait(2.5), Retire)) == len(others)
    assert len(sim.core._fleet.pools["f"].workers) == 1


def test_a_pool_scales_to_zero_and_back() -> None:
    sim = one_worker(idle_s=1.0)
    worker, started = sim.run(start(1))
    sim.tell(("worker", worker), done(started[0].call))
    assert sent(sim.wait(1.1), Retire) == [Retire(worker)]
    effects = sim.tell(("template", sim.template), WorkerExited(worker, 1, 256))
    assert not any(isinstance(each, WorkerEnded) for each in effects), "it was told to"
    assert len(sim.forks(sim.ask(start(2)))) == 1


def test_a_worker_that_ends_as_it_was_told_to_has_time_for_that_after_its_link() -> None:
    sim = one_worker(idle_s=1.0)
    worker, started = sim.run(start(1))
    sim.tell(("worker", worker), done(started[0].call))
    assert sent(sim.wait(1.1), Retire) == [Retire(worker)]
    sim.give(LinkDown(("worker", worker), whole=True))
    assert not any(isinstance(each, KillWorker) for each in sim.wait(3.0)), "the machine is busy"
    (killed,) = [each for each in sim.wait(3.0) if isinstance(each, KillWorker)]
    assert (killed.was_told, killed.reason) == (True, "it did not end when it was told to")


def test_workers_are_added_while_calls_wait_whatever_the_averages_say() -> None:
    sim = one_worker(max_workers=4)
    worker, started = sim.run(start(1))
    sim.now_s += 1e-4
    sim.tell(("worker", worker), done(started[0].call))  # it takes no time, on average
    effects = sim.ask(*(start(number) for number in range(2, 30)))
    for _ in range(10):
        sim.ready(*sim.forks(effects))
        effects = sim.wait(0.1)
    assert len(sim.core._fleet.pools["f"].workers) == 4


def test_a_call_whose_worker_is_slow_to_start_gets_no_second_one() -> None:
    """On a loaded machine every such call had another worker started for it."""
    sim = one_worker(max_workers=8)
    assert len(sim.forks(sim.ask(start(1)))) == 1
    assert sim.forks(sim.wait(1.0)) == []
    assert len(sim.forks(sim.ask(start(2)))) == 1


def test_a_reload_gives_new_calls_to_the_new_version_and_lets_running_ones_finish() -> None:
    sim = one_worker(max_workers=1)
    sim.give(LinkUp(CALLER))
    old, started = sim.run(start(1), start(2))
    sim.give(Reload("m.py"))
    old_template = sim.template
    effects = sim.load({"f": FunctionOptions(max_workers=1)})
    assert sent(effects, Retire, ("worker", old)) == [Retire(old)]
    assert [each.app_version for each in sent(effects, Greeted, CALLER)] == [2]
    (new,) = sim.forks(effects)
    assert [each.call_id for each in sent(sim.ready(new), Start, ("worker", new))] == ["id2"]
    assert codes(sim.tell(("worker", old), done(started[0].call))) == {1: None}
    effects = sim.tell(("template", old_template), WorkerExited(old, 1, 256))
    assert EndTemplate(old_template) in effects


def test_an_app_that_cannot_be_loaded_leaves_the_version_before_serving() -> None:
    sim = Sim()
    sim.give(Reload("m.py"))
    template = [e.template for e in sim.effects if isinstance(e, StartTemplate)][-1]
    effects = sim.tell(("template", template), TemplateFailed(template, "SyntaxError", ["m.py"]))
    assert AppNotLoaded("SyntaxError", ("m.py",), True) in effects
    assert len(sim.forks(sim.ask(start(1)))) == 1


def test_a_template_that_ends_by_itself_is_started_again_with_back_off() -> None:
    sim = Sim()
    effects = sim.give(TemplateEnded(sim.template, "it was killed"))
    assert effects == [each for each in effects if not isinstance(each, StartTemplate)]
    assert TemplateLost("it was killed") in effects
    assert sim.forks(sim.ask(start(1))) == [], "nobody is there to fork"
    effects = sim.wait(0.2)
    assert len([each for each in effects if isinstance(each, StartTemplate)]) == 1
    effects = sim.load({"f": FunctionOptions()})
    (worker,) = sim.forks(effects)
    assert len(sent(sim.ready(worker), Start)) == 1


@pytest.mark.parametrize("link_first", [True, False])
def test_calls_of_a_template_that_was_killed_are_told_that(link_first: bool) -> None:
    sim = Sim()
    worker, _ = sim.run(start(1))
    ends: list[Event] = [
        LinkDown(("worker", worker), whole=True),
        TemplateEnded(sim.template, "it was killed by signal 9 (SIGKILL)"),
    ]
    sim.give(*(ends if link_first else reversed(ends)))
    (lost,) = sent(sim.wait(0.3), Done)
    assert str(from_wire(lost.error)).endswith(
        "is gone: the template that it was forked from is gone: it was killed by signal 9 (SIGKILL)"
    )


def test_a_template_that_stands_still_is_replaced_and_its_workers_finish() -> None:
    sim = Sim({"f": FunctionOptions(), "g": FunctionOptions()})
    worker, _ = sim.run(start(1))
    waiting = sim.ask(start(2, "g", deadline_ms=60_000))
    assert sim.forks(waiting), "of which nothing is ever heard"
    effects = sim.wait(30.0)
    assert len([each for each in effects if isinstance(each, StartTemplate)]) == 1
    effects = sim.load({"f": FunctionOptions(), "g": FunctionOptions()})
    effects += sim.ready(*sim.forks(effects))
    assert [each.function for each in sent(effects, Start)] == ["g"]
    assert codes(sim.tell(("worker", worker), done(sent(sim.effects, Start)[0].call))) == {1: None}


def test_workers_that_end_before_they_are_ready_are_not_forked_in_a_loop() -> None:
    sim = one_worker(timeout_s=10.0)
    effects = sim.ask(start(1))
    forked = 0
    for _ in range(105):
        for worker in sim.forks(effects):
            forked += 1
            sim.tell(("template", sim.template), WorkerExited(worker, 1, 257))
        effects = sim.wait(0.1)
    assert 3 <= forked <= 10
    assert codes(sim.effects) == {1: CallTimeout.code}


def test_a_worker_that_nobody_waits_for_is_sent_away() -> None:
    (effect,) = Sim().give(LinkUp(("worker", 999)))
    assert isinstance(effect, Disconnect)


def test_an_app_whose_template_dies_again_and_again_cannot_be_loaded() -> None:
    sim = Sim(load=False)
    told = []
    for _ in range(4):
        template = [e.template for e in sim.effects if isinstance(e, StartTemplate)][-1]
        told += sim.give(TemplateEnded(template, "it was killed by signal 11 (SIGSEGV)"))
        told += sim.wait(1.0)
    (failed,) = [each for each in told if isinstance(each, AppNotLoaded)]
    assert not [each for each in told if isinstance(each, TemplateLost)], "that tells it"
    assert "SIGSEGV" in failed.trace and not failed.serving
    assert codes(sim.ask(start(1))) == {1: AppFailed.code}


def test_the_exit_of_a_worker_waits_for_what_it_had_said() -> None:
    sim, worker, given = short_calls(3)
    effects = sim.tell(("template", sim.template), WorkerExited(worker, 1, 256 - 9))
    assert codes(effects) == {}
    sim.tell(("worker", worker), done(given[0].call))
    effects = sim.give(LinkDown(("worker", worker), whole=True))
    assert codes(effects) == {2: WorkerLost.code}, "it had begun the second"
    assert [each.call_id for each in sent(sim.ready(*sim.forks(effects)), Start)] == ["id3"]


def test_a_worker_that_takes_too_much_memory_gives_back_what_it_has_not_begun() -> None:
    sim, worker, given = short_calls(2, memory_bytes=1 << 20)
    effects = sim.give(MemoryUsed(worker, 2 << 20))
    assert [each.call for each in sent(effects, Recall)] == [given[1].call]
    effects = sim.tell(("worker", worker), Returned(given[1].call))
    effects = sim.wait(0.2)
    assert [each.worker for each in effects if isinstance(each, KillWorker)] == [worker]
    assert codes(effects) == {1: WorkerLost.code}


def test_a_reload_takes_back_what_has_not_begun() -> None:
    sim, old, given = short_calls(3)
    sim.give(Reload("m.py"))
    effects = sim.load({"f": FunctionOptions(max_workers=1)})
    kinds = [type(each.message) for each in effects if isinstance(each, Send) and each.to[1] == old]
    assert kinds == [Recall, Recall, Retire]
    effects += sim.tell(("worker", old), Returned(given[2].call), Returned(given[1].call))
    (new,) = sim.forks(effects)
    assert [each.call_id for each in sent(sim.ready(new), Start)][:1] == ["id2"]
