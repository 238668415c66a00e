"""Appends wait while the index replica that the engine follows lags behind the order (P32)."""

from __future__ import annotations

import pytest

from bokilog.effects import BatchEnded, Effect, LinkDown, Send, SetTimer, TimerFired
from bokilog.errors import InvalidSettings, Overloaded, from_wire
from bokilog.functions.engine.settings import EngineSettings
from bokilog.ids import NodeId
from bokilog.messages import FollowIndex, FrameRefused, IndexStream, MetalogPosition
from tests.unit.functions.engine.world import (
    BULK,
    CLIENT,
    NUMBER,
    PRIMARY,
    SPACE,
    STORAGE,
    Sim,
    append,
    at,
    engine,
    sends,
    shard,
)

LAG = ("lag", int(SPACE))


def lagging(*, up: int = 2) -> tuple[Sim, NodeId, list[NodeId]]:
    """An engine that allows a lag of 10 records; its followed replica, and the others."""
    sim = Sim(engine(lag_records_max=10)).start(*STORAGE[:up])
    sim.do(BatchEnded(0))
    followed = chosen(sim)
    assert followed is not None
    return sim, followed, [node for node in STORAGE[:up] if node != followed]


def chosen(sim: Sim) -> NodeId | None:
    node = sim.core.producers[SPACE].summary() | sim.core.following.spaces[SPACE].summary()
    found = node["index_replica"]
    return None if found is None else NodeId(str(found))


def published(sim: Sim, count: int, tail: int) -> None:
    sim.get(PRIMARY, MetalogPosition(SPACE, at(count), tail))


def indexed(sim: Sim, node: NodeId, count: int, tail: int, *, since: int = 0) -> None:
    sim.get(node, IndexStream(SPACE, at(since), at(count), tail, [], [], [], [], [], []))


def refusals(effects: list[Effect]) -> list[tuple[int, Overloaded]]:
    found = []
    for each in effects:
        if isinstance(each, Send) and isinstance(each.message, FrameRefused):
            error = from_wire(each.message.error)
            assert isinstance(error, Overloaded)
            found.append((each.message.number, error))
    return found


def test_p32_a_frame_waits_while_the_index_lags_and_goes_once_it_has_caught_up() -> None:
    sim, followed, _ = lagging()
    indexed(sim, followed, 2, 100)
    published(sim, 3, 111)
    ((number, error),) = refusals(sim.get(CLIENT, append(1, "a")))
    assert (number, error.retry_after_s) == (1, 0.02)
    assert "11 records behind (at most 10 are allowed)" in str(error)
    indexed(sim, followed, 3, 101, since=2)
    assert sends(sim.get(CLIENT, append(1, "a"))) == [(bulk, shard(), 0, 1) for bulk in BULK[:2]]


def test_p4_what_follows_a_frame_that_waits_for_the_index_waits_behind_it() -> None:
    sim, followed, _ = lagging()
    published(sim, 3, 112)
    assert [number for number, _ in refusals(sim.get(CLIENT, append(1, "a")))] == [1]
    indexed(sim, followed, 3, 112)
    assert [number for number, _ in refusals(sim.get(CLIENT, append(2, "a")))] == [2]
    assert refusals(sim.get(CLIENT, append(1, "a"))) == []
    assert refusals(sim.get(CLIENT, append(2, "a"))) == []


def test_what_is_under_way_is_ordered_while_the_index_lags() -> None:
    """Only new frames wait: an engine that held back resends could keep the log from moving."""
    sim, _, _ = lagging()
    assert refusals(sim.get(CLIENT, append(1, "a"))) == []
    published(sim, 3, 200)
    assert sim.core.stats().unordered_frames == 1
    assert sim.core.producers[SPACE].admission.lags


def test_a_replica_that_lags_is_left_for_another_after_a_while() -> None:
    """Appends must not wait for one slow disk while another replica is up to date."""
    sim, followed, (other,) = lagging()
    indexed(sim, followed, 2, 100)
    published(sim, 3, 150)
    assert SetTimer(LAG, 1.0) in sim.get(CLIENT, append(1, "a"))
    assert SetTimer(LAG, 1.0) not in sim.get(CLIENT, append(1, "a")), "one timer at a time"
    told = sim.do(TimerFired(LAG))
    assert Send(followed, FollowIndex(SPACE, NUMBER, [], [])) in told
    assert chosen(sim) == other
    assert [number for number, _ in refusals(sim.get(CLIENT, append(1, "a")))] == [1]
    indexed(sim, other, 3, 150)
    assert refusals(sim.get(CLIENT, append(1, "a"))) == []


def test_a_replica_that_has_caught_up_in_time_is_kept() -> None:
    sim, followed, _ = lagging()
    published(sim, 3, 150)
    sim.get(CLIENT, append(1, "a"))
    indexed(sim, followed, 3, 145)
    assert sim.do(TimerFired(LAG)) == []
    assert chosen(sim) == followed


def test_when_all_replicas_lag_each_gets_its_turn() -> None:
    sim, first, _ = lagging(up=3)
    published(sim, 3, 150)
    turns = [first]
    for _ in range(3):
        sim.get(CLIENT, append(1, "a"))
        sim.do(TimerFired(LAG))
        turns.append(chosen(sim) or first)
    assert sorted(turns[:3]) == list(STORAGE)
    assert turns[3] == first


def test_the_only_replica_is_waited_for() -> None:
    sim, followed, _ = lagging(up=1)
    published(sim, 3, 150)
    sim.get(CLIENT, append(1, "a"))
    assert sim.do(TimerFired(LAG)) == []
    assert chosen(sim) == followed
    assert SetTimer(LAG, 1.0) in sim.get(CLIENT, append(1, "a")), "it is looked at again"


def test_p32_a_replica_whose_link_is_down_stops_no_appends() -> None:
    """Another one takes its place; while there is none nobody can say that the index lags."""
    sim, followed, (other,) = lagging()
    published(sim, 3, 150)
    assert refusals(sim.get(CLIENT, append(1, "a")))
    sim.do(LinkDown(followed))
    indexed(sim, other, 3, 149)
    assert refusals(sim.get(CLIENT, append(1, "a"))) == []
    sim.do(LinkDown(other))
    published(sim, 4, 300)
    assert refusals(sim.get(CLIENT, append(2, "a"))) == []


def test_a_replica_that_comes_back_is_as_good_as_the_others() -> None:
    sim, followed, (other,) = lagging()
    published(sim, 3, 150)
    sim.get(CLIENT, append(1, "a"))
    sim.do(TimerFired(LAG))
    sim.do(LinkDown(followed))
    sim.up(followed)
    sim.do(LinkDown(other))
    sim.up(other)
    sim.do(LinkDown(followed))
    sim.up(followed)
    assert chosen(sim) == other
    sim.do(LinkDown(other))
    assert chosen(sim) == followed


def test_the_bound_is_a_setting_of_at_least_one_record() -> None:
    with pytest.raises(InvalidSettings, match="lag_records_max=0"):
        EngineSettings(lag_records_max=0)
