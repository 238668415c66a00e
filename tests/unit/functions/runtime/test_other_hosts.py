"""What a host passes to others, and what it makes of their answers."""

from __future__ import annotations

from bokilog.call_errors import WorkerLost
from bokilog.codec import pack
from bokilog.errors import Overloaded, to_wire
from bokilog.functions.runtime.effects import LinkDown, LinkUp, PeerLeaves
from bokilog.functions.runtime.messages import Encoding, Start, StartMany
from tests.unit.functions.runtime.hosts import Sim, codes, done, one_worker, receivers, sent, start


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
