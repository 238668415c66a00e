from __future__ import annotations

from bokilog.call_errors import (
    AppFailed,
    CallCancelled,
    CallTimeout,
    CallTooDeep,
    UnknownFunction,
    WorkerLost,
)
from bokilog.codec import pack
from bokilog.errors import NotReady, Overloaded, from_wire, to_wire
from bokilog.functions.runtime.effects import (
    Address,
    AppNotLoaded,
    Disconnect,
    EndTemplate,
    KillWorker,
    LinkDown,
    LinkUp,
    MemoryUsed,
    PeerLeaves,
    Reload,
    RetireAll,
    Send,
    StartTemplate,
    Stopping,
    TemplateEnded,
    WorkerEnded,
    WorkerSilent,
)
from bokilog.functions.runtime.messages import (
    DEPTH_MAX,
    Cancel,
    Credit,
    Done,
    Encoding,
    Flag,
    Greeted,
    Item,
    Recall,
    Retire,
    Returned,
    Start,
    StartMany,
    TemplateFailed,
    WorkerExited,
)
from bokilog.functions.runtime.options import FunctionOptions
from tests.unit.functions.runtime.hosts import CALLER, Sim, codes, done, receivers, sent, start


def one_worker(**options: object) -> Sim:
    made = FunctionOptions(**options)  # type: ignore[arg-type]
    return Sim({"f": made})


def test_a_call_starts_a_worker_and_its_answer_goes_back_in_the_callers_numbers() -> None:
    sim = Sim()
    worker, started = sim.run(start(7))
    assert [(each.function, each.call_id, bytes(each.payload)) for each in started] == [
        ("f", "id7", b"x")
    ]
    sim.now_s += 0.5
    effects = sim.tell(("worker", worker), done(started[0].call, token="t"))
    (answer,) = sent(effects, Done, CALLER)
    assert (answer.call, answer.token, answer.cold, bytes(answer.payload)) == (7, "t", True, b"y")


def test_a_warm_worker_gets_the_next_call_at_once_with_what_is_left_of_the_time() -> None:
    sim = one_worker(timeout_s=3.0)
    worker, started = sim.run(start(1))
    sim.tell(("worker", worker), done(started[0].call))
    (again,) = sent(sim.ask(start(2)), Start, ("worker", worker))
    assert again.deadline_ms == 3_000
    (answer,) = sent(sim.tell(("worker", worker), done(again.call)), Done)
    assert not answer.cold


def test_the_worker_that_was_idle_last_is_taken_first() -> None:
    sim = one_worker(min_workers=2)
    first, second = sorted(each.number for each in sim.core._fleet.workers.values())
    sim.ready(first, second)
    assert receivers(sim.ask(start(1)), Start) == [("worker", second)]
    assert receivers(sim.ask(start(2)), Start) == [("worker", first)]


def test_calls_of_one_function_start_in_the_order_in_which_they_came() -> None:
    sim = one_worker(max_workers=1)
    worker, started = sim.run(*(start(number) for number in range(1, 6)))
    order = []
    while started:
        begun = started.pop(0)
        order.append(begun.call_id)
        started += sent(sim.tell(("worker", worker), done(begun.call)), Start)
    assert order == ["id1", "id2", "id3", "id4", "id5"]


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


def test_a_call_that_waits_past_its_deadline_is_told_so_and_never_starts() -> None:
    sim = one_worker(max_workers=1)
    worker, started = sim.run(start(1), start(2, deadline_ms=500))
    effects = sim.wait(0.6)
    assert codes(effects) == {2: CallTimeout.code}
    effects = sim.tell(("worker", worker), done(started[0].call))
    assert sent(effects, Start) == []


def test_a_worker_that_does_not_end_a_call_at_its_deadline_is_killed() -> None:
    sim = one_worker(timeout_s=1.0)
    worker, _ = sim.run(start(1))
    effects = sim.wait(1.6)
    assert codes(effects) == {1: CallTimeout.code}
    (killed,) = [each for each in effects if isinstance(each, KillWorker)]
    assert (killed.worker, killed.pid) == (worker, worker + 1_000)


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


def test_what_else_a_stuck_worker_runs_gets_a_little_time() -> None:
    sim = one_worker(timeout_s=1.0, max_workers=1, max_concurrency=100)
    worker, started = sim.run(start(1), start(2, deadline_ms=60_000))
    effects = sim.wait(1.6)
    assert codes(effects) == {1: CallTimeout.code}
    assert not any(isinstance(each, KillWorker) for each in effects)
    effects = sim.tell(("worker", worker), done(started[1].call))
    assert codes(effects) == {2: None}
    assert [each.worker for each in effects if isinstance(each, KillWorker)] == [worker]


def test_a_waiting_call_is_cancelled_at_once_a_running_one_through_its_worker() -> None:
    sim = one_worker(max_workers=1)
    worker, started = sim.run(start(1), start(2))
    assert codes(sim.ask(Cancel(2, "no"))) == {2: CallCancelled.code}
    effects = sim.ask(Cancel(1, "no"))
    assert sent(effects, Cancel, ("worker", worker)) == [Cancel(started[0].call, "no")]
    assert codes(effects) == {}
    cancelled = to_wire(CallCancelled("f", "no"))
    effects = sim.tell(("worker", worker), done(started[0].call, error=cancelled))
    assert codes(effects) == {1: CallCancelled.code}


def test_a_cancelled_call_that_goes_on_is_answered_all_the_same() -> None:
    sim = one_worker()
    worker, started = sim.run(start(1))
    sim.ask(Cancel(1, "no"))
    assert codes(sim.wait(1.1)) == {1: CallCancelled.code}
    assert codes(sim.tell(("worker", worker), done(started[0].call))) == {}
    assert len(sent(sim.ask(start(2)), Start)) == 1, "its worker is of use again"


def test_calls_of_a_caller_that_is_gone_are_cancelled_but_durable_ones() -> None:
    sim = one_worker(max_workers=2)
    effects = sim.ask(start(1), start(2, flags=int(Flag.DURABLE)), start(3))
    sim.ready(*sim.forks(effects))
    effects = sim.give(LinkDown(CALLER))
    assert len(sent(effects, Cancel)) == 1
    assert sim.core.stats().waiting == {"f": 0}
    assert codes(effects) == {}


def test_calls_of_a_lost_worker_start_again_while_retries_allow() -> None:
    sim = one_worker(retries=1)
    worker, _ = sim.run(start(1))
    effects = sim.tell(("template", sim.template), WorkerExited(worker, worker + 1_000, 256 - 9))
    assert codes(effects) == {}
    (next_worker,) = sim.forks(effects)
    (again,) = sent(sim.ready(next_worker), Start)
    assert (again.attempt, again.call_id, bytes(again.payload)) == (1, "id1", b"x")
    died = WorkerExited(next_worker, next_worker + 1_000, 256 + 3)
    (answer,) = sent(sim.tell(("template", sim.template), died), Done)
    error = from_wire(answer.error)
    assert isinstance(error, WorkerLost) and "exit code 3" in str(error) and not error.definite


def test_a_lost_link_counts_once_the_exit_status_had_its_time() -> None:
    sim = one_worker()
    worker, _ = sim.run(start(1))
    assert codes(sim.give(LinkDown(("worker", worker)))) == {}
    effects = sim.wait(0.3)
    assert codes(effects) == {1: WorkerLost.code}


def test_a_stream_of_which_something_has_left_is_not_started_again() -> None:
    sim = one_worker(retries=5)
    worker, started = sim.run(start(1, flags=int(Flag.STREAM)))
    effects = sim.tell(("worker", worker), Item(started[0].call, 0, 0, b"i"))
    assert sent(effects, Item, CALLER) == [Item(1, 0, 0, b"i")]
    effects = sim.tell(("template", sim.template), WorkerExited(worker, 1, 256))
    assert codes(effects) == {1: WorkerLost.code}


def test_credit_goes_to_whoever_runs_the_stream_also_when_it_came_before() -> None:
    sim = one_worker()
    effects = sim.ask(start(1, flags=int(Flag.STREAM)), Credit(1, 5))
    (worker,) = sim.forks(effects)
    effects = sim.ready(worker)
    number = sent(effects, Start)[0].call
    assert sent(effects, Credit, ("worker", worker)) == [Credit(number, 5)]
    assert sent(sim.ask(Credit(1, 3)), Credit) == [Credit(number, 3)]


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


def test_every_call_of_a_fresh_function_has_a_worker_of_its_own() -> None:
    sim = one_worker(fresh=True, max_workers=2)
    effects = sim.ask(start(1), start(2), start(3))
    workers = sim.forks(effects)
    assert len(workers) == 2
    begun = sent(sim.ready(*workers), Start)
    effects = sim.tell(("worker", workers[0]), done(begun[0].call))
    assert sent(effects, Retire) == [Retire(workers[0])]
    assert sent(effects, Start) == []
    (third,) = sim.forks(effects)
    assert len(sent(sim.ready(third), Start)) == 1


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


def test_recursion_through_one_function_does_not_wait_for_itself() -> None:
    sim = one_worker(max_workers=1)
    worker, _ = sim.run(start(1))
    for depth in range(1, 10):
        parent: Address = ("worker", worker)
        (worker,) = sim.forks(sim.ask(start(depth, depth=depth), source=parent))
        assert len(sent(sim.ready(worker), Start)) == 1


def test_calls_of_a_worker_that_is_gone_are_cancelled() -> None:
    sim = Sim({"f": FunctionOptions(), "g": FunctionOptions()})
    worker, _ = sim.run(start(1))
    child, _ = sim.run(start(1, "g", depth=1), source=("worker", worker))
    effects = sim.tell(("template", sim.template), WorkerExited(worker, 1, 256))
    assert receivers(effects, Cancel) == [("worker", child)]


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


def test_a_call_that_waits_for_a_function_that_is_gone_is_told() -> None:
    sim = Sim({"f": FunctionOptions(), "g": FunctionOptions()})
    sim.ask(start(1, "g"))
    sim.give(Reload("m.py"))
    assert codes(sim.load({"f": FunctionOptions()})) == {1: UnknownFunction.code}


def test_an_app_that_cannot_be_loaded_leaves_the_version_before_serving() -> None:
    sim = Sim()
    sim.give(Reload("m.py"))
    template = [e.template for e in sim.effects if isinstance(e, StartTemplate)][-1]
    effects = sim.tell(("template", template), TemplateFailed(template, "SyntaxError", ["m.py"]))
    assert AppNotLoaded("SyntaxError", ("m.py",), True) in effects
    assert len(sim.forks(sim.ask(start(1)))) == 1


def test_without_any_version_calls_are_told_why() -> None:
    sim = Sim(load=False)
    assert codes(sim.ask(start(1))) == {1: NotReady.code}
    sim.tell(("template", 1), TemplateFailed(1, "ImportError: no", []))
    (answer,) = sent(sim.ask(start(2)), Done)
    assert answer.error[0] == AppFailed.code and "ImportError: no" in str(from_wire(answer.error))


def test_a_template_that_ends_by_itself_is_started_again_with_back_off() -> None:
    sim = Sim()
    effects = sim.give(TemplateEnded(sim.template, "it was killed"))
    assert effects == [each for each in effects if not isinstance(each, StartTemplate)]
    assert sim.forks(sim.ask(start(1))) == [], "nobody is there to fork"
    effects = sim.wait(0.2)
    assert len([each for each in effects if isinstance(each, StartTemplate)]) == 1
    effects = sim.load({"f": FunctionOptions()})
    (worker,) = sim.forks(effects)
    assert len(sent(sim.ready(worker), Start)) == 1


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


def test_a_message_that_its_sender_cannot_mean_ends_the_link() -> None:
    (effect,) = Sim().tell(CALLER, Retire(1))
    assert isinstance(effect, Disconnect) and effect.peer == CALLER


def test_a_fan_out_is_split_in_equal_parts_over_hosts_that_are_up() -> None:
    sim = one_worker()
    sim.give(LinkUp(("peer", "host-2")), LinkUp(("peer", "host-3")))
    many = StartMany(1, "f", 0, 0, 0, 0, "id", "", "", [b"x"] * 90)
    effects = sim.ask(many)
    parts = sent(effects, StartMany)
    assert [len(part.payloads) for part in parts] == [30, 30]
    assert [part.first_call_id for part in parts] == ["id.30", "id.60"]
    assert sim.core.stats().waiting["f"] == 30
    peer = receivers(effects, StartMany)[0]
    first = parts[0].first_call
    answers = codes(sim.tell(peer, done(first), done(first + 29)))
    assert answers == {31: None, 60: None}


def test_a_part_from_another_host_is_not_passed_on() -> None:
    sim = one_worker()
    sim.give(LinkUp(("peer", "host-2")))
    effects = sim.ask(StartMany(1, "f", 0, 0, 0, 0, "id", "", "", [b"x"] * 90), source=("host", 1))
    assert sent(effects, StartMany) == []


def test_a_call_goes_to_the_host_that_holds_its_arguments() -> None:
    sim = one_worker()
    sim.give(LinkUp(("peer", "host-2")))
    reference = pack(["book", 1, 0, "host-2"])
    placed = [
        bool(sent(sim.ask(start(n, encoding=Encoding.REFERENCE, payload=reference)), Start))
        for n in range(1, 101)
    ]
    assert 80 <= sum(placed) < 100, "with some exceptions"


def test_what_another_host_refuses_runs_here_and_that_host_is_left_alone() -> None:
    sim = one_worker(max_workers=1)
    sim.give(LinkUp(("peer", "host-2")))
    reference = pack(["book", 1, 0, "host-2"])
    (passed,) = sent(sim.ask(start(1, encoding=Encoding.REFERENCE, payload=reference)), Start)
    refusal = done(passed.call, error=to_wire(Overloaded(2.0)))
    effects = sim.tell(("peer", "host-2"), refusal)
    assert codes(effects) == {}
    assert len(sim.forks(effects)) == 1
    assert sent(sim.ask(start(2, encoding=Encoding.REFERENCE, payload=reference)), Start) == []


def test_calls_that_a_lost_host_had_are_told_or_start_again_here() -> None:
    for retries, expected in ((0, {1: WorkerLost.code}), (1, {})):
        sim = one_worker(retries=retries)
        sim.give(LinkUp(("peer", "host-2")))
        reference = pack(["book", 1, 0, "host-2"])
        sim.ask(start(1, encoding=Encoding.REFERENCE, payload=reference))
        effects = sim.give(LinkDown(("peer", "host-2")))
        assert codes(effects) == expected
        assert len(sim.forks(effects)) == retries


def test_a_host_without_room_passes_calls_on() -> None:
    sim = one_worker(max_workers=1)
    sim.run(start(1))
    sim.give(LinkUp(("peer", "host-2")))
    effects = sim.ask(start(2))
    assert receivers(effects, Start) == [("peer", "host-2")]


def test_a_host_that_leaves_gets_no_new_calls_and_finishes_what_it_has() -> None:
    sim = Sim()
    sim.give(LinkUp(("peer", "host-2")))
    many = StartMany(1, "f", 0, 0, 0, 0, "id", "", "", [b"x"] * 64)
    (part,) = sent(sim.ask(many), StartMany)
    assert sim.give(PeerLeaves("host-2")) == []
    assert sent(sim.ask(many._replace(first_call=101)), StartMany) == []
    answer = sim.tell(("peer", "host-2"), done(part.first_call))
    assert list(codes(answer).values()) == [None]


def test_a_host_that_stops_takes_no_calls_and_tells_those_that_are_left() -> None:
    sim = one_worker(max_workers=1)
    worker, _ = sim.run(start(1), start(2))
    sim.give(Stopping())
    assert codes(sim.ask(start(3))) == {3: NotReady.code}
    effects = sim.give(RetireAll())
    assert codes(effects) == {1: WorkerLost.code, 2: NotReady.code}
    assert sent(effects, Retire) == [Retire(worker)]


def test_a_host_that_stops_sends_new_calls_to_others_and_lets_running_ones_make_calls() -> None:
    sim = Sim({"f": FunctionOptions(max_workers=1), "g": FunctionOptions()})
    worker, _ = sim.run(start(1))
    sim.give(LinkUp(("peer", "host-2")), Stopping())
    assert receivers(sim.ask(start(2)), Start) == [("peer", "host-2")]
    many = StartMany(3, "f", 0, 0, 0, 0, "id", "", "", [b"x"] * 40)
    assert receivers(sim.ask(many), StartMany) == [("peer", "host-2")]
    assert codes(sim.ask(start(1), source=("host", 9)), ("host", 9)) == {1: NotReady.code}
    effects = sim.ask(start(1, "g", depth=1), source=("worker", worker))
    assert len(sim.forks(effects)) == 1


def test_ten_thousand_calls_wait_in_order() -> None:
    sim = one_worker(max_workers=2, queue_limit=10_000)
    effects = sim.ask(StartMany(1, "f", 0, 0, 0, 0, "id", "", "", [b"x"] * 10_000))
    assert codes(effects) == {}
    effects = sim.ready(*sim.forks(effects))
    assert [each.call_id for each in sent(effects, Start)] == ["id", "id.1"]
    assert sim.core.stats().waiting == {"f": 9_998}


def test_an_app_whose_template_dies_again_and_again_cannot_be_loaded() -> None:
    sim = Sim(load=False)
    told = []
    for _ in range(4):
        template = [e.template for e in sim.effects if isinstance(e, StartTemplate)][-1]
        told += sim.give(TemplateEnded(template, "it was killed by signal 11 (SIGSEGV)"))
        told += sim.wait(1.0)
    (failed,) = [each for each in told if isinstance(each, AppNotLoaded)]
    assert "SIGSEGV" in failed.trace and not failed.serving
    assert codes(sim.ask(start(1))) == {1: AppFailed.code}


def short_calls(count: int, **options: object) -> tuple[Sim, int, list[Start]]:
    """A function whose calls took a millisecond so far, one worker of it, so many calls that were
    not begun: what it was given of them, the first of it begun by now."""
    sim = one_worker(**{"max_workers": 1, **options})
    worker, started = sim.run(start(1_000), *(start(number) for number in range(1, count + 1)))
    sim.now_s += 0.0009
    return sim, worker, sent(sim.tell(("worker", worker), done(started[0].call)), Start)


def one_ahead_and_another_worker() -> tuple[Sim, int, int, list[Start]]:
    """A worker that runs the first of two calls, and another one that is idle from now on."""
    sim = one_worker(max_workers=2)
    worker, started = sim.run(start(1_000))
    sim.now_s += 0.0009
    sim.tell(("worker", worker), done(started[0].call))
    given = sent(sim.ask(start(1), start(2)), Start, ("worker", worker))
    assert [each.call_id for each in given] == ["id1", "id2"]
    sim.wait(0.1)
    (other,) = (number for number in sim.core._fleet.workers if number != worker)
    assert sent(sim.ready(other), Recall) == [Recall(given[1].call)]
    return sim, worker, other, given


def test_a_busy_worker_is_given_short_calls_ahead_and_begins_them_in_order() -> None:
    sim, worker, given = short_calls(9)
    assert [each.call_id for each in given] == ["id1", "id2", "id3", "id4", "id5"]
    assert sim.core.stats().waiting == {"f": 8}, "only one has begun"
    effects = sim.tell(("worker", worker), *(done(each.call) for each in given[:2]))
    assert sent(effects, Start) == [], "there is enough for it to do"
    effects = sim.tell(("worker", worker), *(done(each.call) for each in given[2:4]))
    assert [each.call_id for each in sent(effects, Start)] == ["id6", "id7", "id8", "id9"]


def test_long_calls_are_not_given_ahead() -> None:
    sim = one_worker(max_workers=1)
    worker, started = sim.run(start(1_000))
    sim.now_s += 0.1
    sim.tell(("worker", worker), done(started[0].call))
    assert len(sent(sim.ask(start(1), start(2), start(3)), Start)) == 1


def test_what_is_ahead_in_a_worker_goes_to_another_one_that_has_room() -> None:
    sim, worker, other, given = one_ahead_and_another_worker()
    effects = sim.tell(("worker", worker), Returned(given[1].call))
    assert [each.call_id for each in sent(effects, Start, ("worker", other))] == ["id2"]


def test_what_had_begun_when_it_was_to_be_taken_back_is_not_started_again() -> None:
    sim, worker, _, given = one_ahead_and_another_worker()
    effects = sim.tell(("worker", worker), *(done(each.call) for each in given))
    assert codes(effects) == {1: None, 2: None}
    assert sent(effects, Start) == []


def test_a_worker_that_gives_back_what_it_runs_by_the_books_is_disconnected() -> None:
    sim, worker, _, given = one_ahead_and_another_worker()
    sim.tell(("worker", worker), done(given[0].call))
    effects = sim.tell(("worker", worker), Returned(given[1].call))
    assert [each.peer for each in effects if isinstance(each, Disconnect)] == [("worker", worker)]
    assert sent(effects, Start) == [], "it would run without its arguments: they are let go"


def test_calls_that_make_calls_have_none_behind_them() -> None:
    sim, worker, given = short_calls(5)
    effects = sim.ask(start(1, depth=1), source=("worker", worker))
    assert [each.call for each in sent(effects, Recall)] == [
        each.call for each in reversed(given[1:])
    ]
    sim.tell(("worker", worker), *(Returned(each.call) for each in reversed(given[1:])))
    effects = sim.tell(("worker", worker), done(given[0].call))
    assert [each.call_id for each in sent(effects, Start)] == ["id2"]


def test_what_was_ahead_in_a_lost_worker_starts_again_though_nothing_may_run_twice() -> None:
    sim, worker, given = short_calls(3)
    sim.give(LinkDown(("worker", worker), whole=True))
    died = WorkerExited(worker, 1, 256 - 9)
    effects = sim.tell(("template", sim.template), died)
    assert codes(effects) == {1: WorkerLost.code}
    again = sent(sim.ready(*sim.core._fleet.workers), Start)
    assert [(each.call_id, each.attempt) for each in again[:2]] == [("id2", 0), ("id3", 0)]
    assert [each.call_id for each in given] == ["id1", "id2", "id3"]


def test_the_exit_of_a_worker_waits_for_what_it_had_said() -> None:
    sim, worker, given = short_calls(3)
    effects = sim.tell(("template", sim.template), WorkerExited(worker, 1, 256 - 9))
    assert codes(effects) == {}
    sim.tell(("worker", worker), done(given[0].call))
    effects = sim.give(LinkDown(("worker", worker), whole=True))
    assert codes(effects) == {2: WorkerLost.code}, "it had begun the second"
    assert [each.call_id for each in sent(sim.ready(*sim.forks(effects)), Start)] == ["id3"]


def test_a_broken_link_leaves_open_what_had_begun() -> None:
    sim, worker, _ = short_calls(3)
    sim.give(LinkDown(("worker", worker)))
    assert codes(sim.wait(0.3)) == {1: WorkerLost.code, 2: WorkerLost.code, 3: WorkerLost.code}


def test_a_call_ahead_is_cancelled_through_its_worker_and_ends_at_its_deadline() -> None:
    sim, worker, given = short_calls(4)
    effects = sim.ask(Cancel(2, "no"))
    assert sent(effects, Cancel, ("worker", worker)) == [Cancel(given[1].call, "no")]
    cancelled = to_wire(CallCancelled("f", "no"))
    effects = sim.tell(("worker", worker), done(given[1].call, error=cancelled))
    assert codes(effects) == {2: CallCancelled.code}
    effects = sim.ask(start(5, deadline_ms=20))
    assert codes(sim.wait(0.1)) == {5: CallTimeout.code}


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
