"""A storage node that says nothing though its link stands holds up nobody for long."""

from __future__ import annotations

from bokilog.effects import BatchEnded, Effect, LinkDown, Send, SetTimer, TimerFired
from bokilog.errors import DataLost, NotReady, to_wire
from bokilog.functions.engine.settings import EngineSettings
from bokilog.functions.engine.silence import SILENCE
from bokilog.ids import START, NodeId
from bokilog.messages import (
    FollowIndex,
    IndexStream,
    MetalogPosition,
    Read,
    ReadReply,
    RequestFailed,
    StillReading,
)
from tests.unit.functions.engine.world import (
    BOOK,
    CLIENT,
    NUMBER,
    PRIMARY,
    SPACE,
    STORAGE,
    Sim,
    at,
    read,
    reply,
    sends,
)

AFTER_S = EngineSettings().retry_s
LOOK = SetTimer(SILENCE, AFTER_S / 2)


def started(*, up: int = 3) -> tuple[Sim, NodeId]:
    """An engine with so many storage nodes, and the one whose index it follows."""
    sim = Sim().start(*STORAGE[:up])
    sim.do(BatchEnded(0))
    return sim, followed(sim)


def followed(sim: Sim) -> NodeId:
    node = sim.core.following.spaces[SPACE].chosen
    assert node is not None
    return node


def look(sim: Sim, after_s: float = AFTER_S) -> list[Effect]:
    """Time passes, and the timer fires."""
    sim.now_s += after_s
    effects = sim.do(TimerFired(SILENCE))
    return [*effects, *sim.do(BatchEnded(0))]


def asked(effects: list[Effect]) -> list[tuple[object, int]]:
    """Who is asked, under which number."""
    return [
        (each.to, each.message.request)
        for each in effects
        if isinstance(each, Send) and isinstance(each.message, Read)
    ]


def knowing(sim: Sim, *seqnums: int) -> None:
    """The facts of a line, without the bytes of its records."""
    ((node, request),) = asked(sim.get(CLIENT, read(tag="t")))
    sim.do(BatchEnded(0))
    sim.get(node, IndexStream(SPACE, at(10), at(10), 100, [], [], [], [], [BOOK], []))
    sim.get(node, reply(request, [*seqnums], position=at(10), tail=100, next_seqnum=100))
    sim.core._cache.forget(SPACE)  # as when others took their place


def answer(request: int) -> ReadReply:
    return reply(request, [20], position=at(5), tail=30, next_seqnum=30)


def test_it_is_looked_after_only_while_somebody_waits() -> None:
    sim, node = started()
    assert sim.do(BatchEnded(0)) == []
    ((_, request),) = asked(sim.get(CLIENT, read(tag="t")))
    assert LOOK in sim.do(BatchEnded(0))
    assert sim.do(BatchEnded(0)) == [], "the timer is set"
    sim.get(node, answer(request))
    assert look(sim) == []


def test_a_question_goes_to_another_one_whose_index_is_followed_from_then_on() -> None:
    sim, node = started()
    ((to, request),) = asked(sim.get(CLIENT, read(tag="t")))
    assert to == node
    sim.do(BatchEnded(0))
    effects = look(sim)
    other = followed(sim)
    assert other != node
    assert asked(effects) == [(other, request)]
    unfollowed = [each.message for each in effects if isinstance(each, Send) and each.to == node]
    assert unfollowed == [FollowIndex(SPACE, NUMBER, [], [])]
    assert LOOK in effects, "the other one may be silent, too"


def test_whoever_said_something_meanwhile_is_only_slow() -> None:
    sim, node = started()
    sim.get(CLIENT, read(tag="t"))
    sim.do(BatchEnded(0))
    sim.now_s += 0.9 * AFTER_S
    sim.get(node, IndexStream(SPACE, at(0), at(1), 1, [], [], [], [], [], []))
    assert look(sim, 0.9 * AFTER_S) == [LOOK]
    assert followed(sim) == node


def test_whoever_says_nothing_more_is_silent_though_it_said_something_first() -> None:
    """It streams a moment before it is stopped: the question that it took is not answered."""
    sim, node = started()
    ((_, request),) = asked(sim.get(CLIENT, read(tag="t")))
    sim.do(BatchEnded(0))
    sim.now_s += 0.01
    sim.get(node, IndexStream(SPACE, at(0), at(1), 1, [], [], [], [], [], []))
    assert asked(look(sim)) == [(followed(sim), request)]
    assert followed(sim) != node


def test_whoever_waits_for_the_cold_store_is_not_silent() -> None:
    sim, node = started()
    ((_, request),) = asked(sim.get(CLIENT, read(tag="t")))
    sim.do(BatchEnded(0))
    for _ in range(20):
        sim.now_s += AFTER_S / 4
        assert sim.get(node, StillReading(request)) == []
        assert look(sim, AFTER_S / 4) == [LOOK]
    assert followed(sim) == node
    look(sim)
    assert followed(sim) != node, "and is once it says that no more"


def test_the_same_where_only_bytes_are_fetched() -> None:
    sim, _ = started()
    knowing(sim, 20, 40, 60)
    ((node, request),) = asked(sim.get(CLIENT, read(78, tag="t")))
    sim.do(BatchEnded(0))
    for _ in range(20):
        sim.now_s += AFTER_S / 2
        assert sim.get(node, StillReading(request)) == []
        assert look(sim, AFTER_S / 2) == [LOOK]
    (other, *_) = (each for each in STORAGE if each != node)
    sim.get(other, StillReading(request))
    ((instead, _),) = asked(look(sim))
    assert instead != node, "what another one says of it is not believed"


def test_whoever_lacks_the_bytes_of_a_fetch_is_asked_first_and_once() -> None:
    """It knows at once that the cold store is away; last, it would wait for it once more."""
    sim, _ = started()
    knowing(sim, 20)
    away = to_wire(NotReady("the cold store is away"))
    ((fetched, request),) = asked(sim.get(CLIENT, read(78, tag="t")))
    tried: list[object] = []
    effects = sim.get(fetched, RequestFailed(request, away, START))
    for _ in STORAGE:
        ((node, request),) = asked(effects)
        tried.append(node)
        effects = sim.get(node, RequestFailed(request, away, START))
    assert tried[0] == fetched
    assert {*tried} == {*STORAGE}
    assert effects == [Send(CLIENT, RequestFailed(78, away, START))]


def test_an_answer_that_comes_late_is_an_answer() -> None:
    sim, node = started()
    ((_, request),) = asked(sim.get(CLIENT, read(77, tag="t")))
    sim.do(BatchEnded(0))
    look(sim)
    found = answer(request)
    assert sends(sim.get(node, found), CLIENT) == [Send(CLIENT, found._replace(request=77))]
    assert sim.get(followed(sim), found) == [], "it is answered"


def test_what_one_that_was_left_says_late_is_no_fact() -> None:
    """Its stream is not followed any more, so that nothing would close what it says is the end."""
    sim, node = started()
    ((_, request),) = asked(sim.get(CLIENT, read(77, tag="t")))
    sim.do(BatchEnded(0))
    look(sim)
    sim.get(node, answer(request))
    assert asked(sim.get(CLIENT, read(78, tag="t"))) != []


def test_an_error_of_one_that_was_left_counts_for_nothing() -> None:
    sim, node = started()
    ((_, request),) = asked(sim.get(CLIENT, read(77, tag="t")))
    sim.do(BatchEnded(0))
    look(sim)
    assert sim.get(node, RequestFailed(request, to_wire(DataLost(5)), START)) == []
    found = answer(request)
    assert sends(sim.get(followed(sim), found), CLIENT) == [
        Send(CLIENT, found._replace(request=77))
    ]


def test_bytes_are_fetched_from_others_until_it_says_something() -> None:
    sim, _ = started()
    knowing(sim, 20, 40, 60)
    ((silent, _),) = asked(sim.get(CLIENT, read(78, tag="t")))
    sim.do(BatchEnded(0))
    for other in {*STORAGE} - {silent}:
        sim.now_s += 0.1
        sim.get(other, IndexStream(SPACE, at(10), at(10), 100, [], [], [], [], [], []))
    ((instead, request),) = asked(look(sim))
    assert instead != silent
    sim.get(instead, reply(request, [20, 40, 60], position=at(10), tail=100, next_seqnum=100))
    sim.core._cache.forget(SPACE)
    ((instead, _),) = asked(sim.get(CLIENT, read(79, tag="t")))
    assert instead != silent, "nobody waits for it again"
    sim.get(silent, IndexStream(SPACE, at(10), at(10), 100, [], [], [], [], [], []))
    assert silent in sim.core._links.answering(STORAGE)


def test_a_stream_that_stands_still_is_not_waited_for() -> None:
    """A reader waits for the next record; the order goes on, and the replica does not tell."""
    sim, node = started()
    knowing(sim, 20)
    sim.get(CLIENT, read(78, tag="t", start=21, wait_ms=60_000))
    sim.do(BatchEnded(0))
    assert look(sim) == [LOOK], "there is nothing to tell"
    sim.get(PRIMARY, MetalogPosition(SPACE, at(11), 101))
    assert look(sim) == [LOOK], "it may be about to tell"
    effects = look(sim)
    assert followed(sim) != node
    ((other, request),) = asked(effects)
    assert other == followed(sim)
    assert request


def test_a_read_that_waits_for_a_record_owes_nothing_before_its_time() -> None:
    sim, node = started()
    ((_, request),) = asked(sim.get(CLIENT, read(77, tag="t", wait_ms=30_000)))
    sim.do(BatchEnded(0))
    for _ in range(20):
        assert asked(look(sim)) == []
    sim.now_s = 30.0
    assert asked(look(sim)) == [(followed(sim), request)]
    assert followed(sim) != node


def test_alone_it_is_waited_for() -> None:
    sim, node = started(up=1)
    sim.get(CLIENT, read(tag="t"))
    sim.do(BatchEnded(0))
    for _ in range(3):
        assert look(sim) == [LOOK]
    assert followed(sim) == node


def test_all_silent_ones_are_asked_in_turn() -> None:
    sim, _ = started()
    sim.get(CLIENT, read(tag="t"))
    sim.do(BatchEnded(0))
    turns = []
    for _ in range(6):
        turns += [to for to, _ in asked(look(sim))]
    assert {*turns} == {*STORAGE}
    assert len(turns) == 6


def test_a_new_link_counts_anew() -> None:
    sim, node = started()
    sim.get(CLIENT, read(tag="t"))
    sim.do(BatchEnded(0))
    look(sim)
    assert sim.core._links.is_silent(node)
    sim.do(LinkDown(node))
    sim.up(node)
    assert not sim.core._links.is_silent(node)
