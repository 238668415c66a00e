"""A host from its callers' side: answers, streams, links, its end."""

from __future__ import annotations

from bokilog.call_errors import WorkerLost
from bokilog.errors import NotReady
from bokilog.functions.runtime.effects import (
    Address,
    Disconnect,
    LinkDown,
    LinkUp,
    RetireAll,
    SendAway,
    Stopping,
)
from bokilog.functions.runtime.messages import Credit, Done, Flag, Leaving, Retire, Start, StartMany
from bokilog.functions.runtime.options import FunctionOptions
from tests.unit.functions.runtime.hosts import (
    CALLER,
    Sim,
    codes,
    done,
    one_worker,
    receivers,
    sent,
    start,
)


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


def test_credit_goes_to_whoever_runs_the_stream_also_when_it_came_before() -> None:
    sim = one_worker()
    effects = sim.ask(start(1, flags=int(Flag.STREAM)), Credit(1, 5))
    (worker,) = sim.forks(effects)
    effects = sim.ready(worker)
    number = sent(effects, Start)[0].call
    assert sent(effects, Credit, ("worker", worker)) == [Credit(number, 5)]
    assert sent(sim.ask(Credit(1, 3)), Credit) == [Credit(number, 3)]


def test_a_message_that_its_sender_cannot_mean_ends_the_link() -> None:
    (effect,) = Sim().tell(CALLER, Retire(1))
    assert isinstance(effect, Disconnect) and effect.peer == CALLER


def test_a_host_that_stops_takes_no_calls_and_tells_those_that_are_left() -> None:
    sim = one_worker(max_workers=1)
    worker, _ = sim.run(start(1), start(2))
    sim.give(Stopping())
    assert codes(sim.ask(start(3))) == {3: NotReady.code}
    effects = sim.give(RetireAll())
    assert codes(effects) == {1: WorkerLost.code, 2: NotReady.code}
    assert sent(effects, Retire) == [Retire(worker)]


def test_callers_and_hosts_are_sent_away_and_say_when_none_of_their_calls_is_on_its_way() -> None:
    sim = Sim()
    elsewhere: Address = ("host", 9)
    sim.give(LinkUp(CALLER), LinkUp(elsewhere), LinkUp(("peer", "host-2")), Stopping())
    effects = sim.give(SendAway())
    assert receivers(effects, Leaving) == [CALLER, elsewhere]
    assert receivers(sim.ask(start(1)), Start) == [("peer", "host-2")], "it was on its way"
    assert sim.core.callers_count == 2
    sim.tell(CALLER, Leaving(""))
    assert sim.core.callers_count == 1
    sim.give(LinkDown(elsewhere))
    assert sim.core.callers_count == 0


def test_a_host_that_is_sent_away_makes_no_calls_after_it_has_said_so() -> None:
    sim = one_worker(max_workers=1)
    sim.run(start(1))
    sim.give(LinkUp(("peer", "host-2")))
    assert receivers(sim.ask(start(2)), Start) == [("peer", "host-2")]
    effects = sim.tell(("peer", "host-2"), Leaving("host-2"))
    assert sent(effects, Leaving, ("peer", "host-2")) == [Leaving("host-1")]
    assert receivers(sim.ask(start(3)), Start) == []


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
