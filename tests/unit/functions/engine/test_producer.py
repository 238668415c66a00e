"""What happens to frames between their client and the order."""

import pytest

from bokilog.effects import (
    BatchEnded,
    LinkClogged,
    LinkDown,
    ReadOnlyChanged,
    Send,
    SetTimer,
    TimerFired,
)
from bokilog.errors import NotReady, Overloaded, ReadOnly, RemoteProtocolError, to_wire
from bokilog.ids import START, NodeId
from bokilog.messages import (
    VERDICT_BOOK_DELETED,
    VERDICT_CONDITION_FAILED,
    VERDICT_VISIBLE,
    FollowIndex,
    FollowMetalog,
    FrameLost,
    FrameOrdered,
    FrameRefused,
    FrameVerdicts,
    IndexStream,
    MetalogBegins,
    MetalogPosition,
    OpenShardRequest,
    ResumeShard,
    ShardHeld,
)
from bokilog.metalog import CloseShard, DeleteBook, Proposer
from tests.unit.functions.engine.world import (
    BOOK,
    BULK,
    CLIENT,
    ENGINE,
    NUMBER,
    PRIMARY,
    SPACE,
    STORAGE,
    Sim,
    append,
    at,
    cut,
    engine,
    opening,
    run,
    sends,
    shard,
    short,
    view,
)

TIMER = ("producer", 1)
RETRY = SetTimer(TIMER, 1.0)


def ordered(number: int, seqnum: int, position: int = 2, term: int = 1) -> Send:
    return Send(CLIENT, FrameOrdered(SPACE, number, seqnum, at(position, term), 1000))


def refused(number: int, error: Exception) -> Send:
    return Send(CLIENT, FrameRefused(SPACE, number, to_wire(error)))  # type: ignore[arg-type]


def stream(
    position: int, *, since: int = 0, verdicts: list[list[object]] | None = None, term: int = 1
) -> IndexStream:
    return IndexStream(
        *(SPACE, at(since, term), at(position, term), 100, [], [], verdicts or [], [], [], [])
    )


# --- opening a shard ------------------------------------------------------------------------------


def test_a_view_asks_the_primary_for_its_metalog_and_a_shard() -> None:
    sim = Sim()
    sim.up(PRIMARY)
    assert sim.install(view()) == [
        Send(PRIMARY, FollowMetalog(SPACE, START, NUMBER)),
        Send(PRIMARY, OpenShardRequest(SPACE, 1, ENGINE, NUMBER)),
        RETRY,
    ]


def test_a_primary_that_connects_later_is_asked_then() -> None:
    sim = Sim()
    assert sim.install(view()) == [RETRY]
    assert sim.up(PRIMARY) == [
        Send(PRIMARY, FollowMetalog(SPACE, START, NUMBER)),
        Send(PRIMARY, OpenShardRequest(SPACE, 1, ENGINE, NUMBER)),
    ]


def test_an_opening_that_was_missed_is_asked_for_with_every_entry_of_the_term() -> None:
    sim = Sim()
    sim.up(PRIMARY)
    sim.install(view())
    assert sim.do(TimerFired(TIMER)) == [
        Send(PRIMARY, FollowMetalog(SPACE, START, 0)),
        Send(PRIMARY, OpenShardRequest(SPACE, 1, ENGINE, NUMBER)),
        RETRY,
    ]
    other = opening(number=NUMBER + 1)
    assert sim.get(PRIMARY, run(0, other)) == []
    assert sim.get(PRIMARY, run(1, opening())) == [  # found: from here on only what concerns it
        Send(PRIMARY, FollowMetalog(SPACE, at(1), NUMBER))
    ]


def test_frames_wait_for_the_shard_in_the_order_issued() -> None:
    sim = Sim()
    sim.up(PRIMARY, CLIENT, BULK[0])
    sim.install(view())
    assert sim.get(CLIENT, append(1, "a")) == []
    assert sim.get(CLIENT, append(2, "b", "c")) == []
    assert short(sim.get(PRIMARY, run(0, opening()))) == [
        (BULK[0], shard(), 0, 1),
        (BULK[0], shard(), 1, 3),
    ]


def test_the_opening_of_another_engine_opens_nothing() -> None:
    sim = Sim()
    sim.up(PRIMARY, CLIENT, BULK[0])
    sim.install(view())
    sim.get(CLIENT, append(1, "a"))
    assert sim.get(PRIMARY, run(0, opening(number=NUMBER + 1))) == []


# --- the usual way --------------------------------------------------------------------------------


def test_a_frame_goes_to_every_replica_and_its_client_learns_its_seqnum() -> None:
    sim = Sim().start(*STORAGE)
    assert sends(sim.get(CLIENT, append(1, "a", "b"))) == [(bulk, shard(), 0, 2) for bulk in BULK]
    assert sim.get(PRIMARY, run(1, cut(10, (0, 2)))) == [ordered(1, 10)]


def test_one_cut_orders_many_frames_and_skips_the_spans_of_others() -> None:
    sim = Sim().start()
    sim.get(CLIENT, append(1, "a", "b"))
    sim.get(CLIENT, append(2, "c"))
    other = cut(10, (3, 7), number=1).spans
    entry = cut(10, (0, 3))._replace(spans=(*other, *cut(10, (0, 3)).spans))
    assert sim.get(PRIMARY, run(1, entry)) == [ordered(1, 14), ordered(2, 16)]


def test_entries_that_are_sent_again_are_not_applied_again() -> None:
    sim = Sim().start()
    sim.get(CLIENT, append(1, "a"))
    sim.get(PRIMARY, run(1, cut(10, (0, 1))))
    assert sim.get(PRIMARY, run(0, opening(), cut(10, (0, 1)))) == []


def test_a_client_that_is_gone_is_told_nothing_and_its_frames_are_ordered() -> None:
    sim = Sim().start()
    sim.get(CLIENT, append(1, "a"))
    sim.do(LinkDown(CLIENT))
    assert sim.get(PRIMARY, run(1, cut(10, (0, 1)))) == []
    assert sim.core.stats().unordered_frames == 0


# --- P4, P32: refusals ----------------------------------------------------------------------------


def test_p4_after_one_refusal_all_later_frames_are_refused_until_it_returns() -> None:
    sim = Sim(engine(unordered_frames_max=1)).start()
    full = Overloaded(sim.core.settings.overloaded_retry_s)
    sim.get(CLIENT, append(1, "a"))
    assert sim.get(CLIENT, append(2, "b")) == [refused(2, full)]
    sim.get(PRIMARY, run(1, cut(10, (0, 1))))
    assert sim.get(CLIENT, append(3, "c")) == [refused(3, full)]  # there is room, but 2 comes first
    assert sends(sim.get(CLIENT, append(2, "b"))) == [(BULK[0], shard(), 1, 2)]
    assert sim.core.stats().frames_refused == 2


def test_p4_frames_are_numbered_per_client_and_may_start_anywhere() -> None:
    sim = Sim().start()
    sim.up(2)
    assert sends(sim.get(CLIENT, append(40, "a"))) == [(BULK[0], shard(), 0, 1)]
    assert sends(sim.get(2, append(7, "a"))) == [(BULK[0], shard(), 1, 2)]


def test_a_frame_number_that_comes_twice_is_refused_as_an_error_of_the_client() -> None:
    sim = Sim().start()
    sim.get(CLIENT, append(1, "a"))
    error = RemoteProtocolError("frame 1 where frame 2 was expected")
    assert sim.get(CLIENT, append(1, "a")) == [refused(1, error)]


def test_p32_bytes_are_bounded_but_one_frame_is_always_taken() -> None:
    sim = Sim(engine(unordered_bytes_max=100)).start()
    full = Overloaded(sim.core.settings.overloaded_retry_s)
    assert len(sends(sim.get(CLIENT, append(1, "a", data=[b"x" * 5000])))) == 1
    assert sim.get(CLIENT, append(2, "b")) == [refused(2, full)]


def test_a_log_space_of_no_view_is_refused() -> None:
    error = NotReady("log space 1 is in no view known here")
    assert Sim().get(CLIENT, append(1, "a")) == [refused(1, error)]


def test_p2_a_newer_start_of_the_engine_ends_this_one_and_nothing_of_it_was_ordered() -> None:
    sim = Sim().start()
    sim.get(CLIENT, append(1, "a"))
    error = NotReady("a newer start of engine-1 has taken over")
    closed = CloseShard(1000, NUMBER, 0)
    assert sim.get(PRIMARY, run(1, closed)) == [refused(1, error)]
    assert sim.get(CLIENT, append(1, "a")) == [refused(1, error)]
    assert sim.install(view(2, end=at(2))) == []


def test_p7_a_read_only_journal_makes_what_is_on_its_way_unknown_and_refuses_the_rest() -> None:
    sim = Sim().start()
    sim.get(CLIENT, append(1, "a"))
    assert sim.do(ReadOnlyChanged(SPACE, "disk full")) == [
        Send(CLIENT, FrameLost(SPACE, 1, "disk full"))
    ]
    assert sim.get(CLIENT, append(2, "b")) == [refused(2, ReadOnly("disk full"))]
    sim.do(ReadOnlyChanged(SPACE, ""))
    assert sends(sim.get(CLIENT, append(2, "b"))) == [(BULK[0], shard(), 1, 2)]
    # The storage node has room again and tells what it holds: it gets all of it, the lost one too.
    assert short(sim.get(STORAGE[0], ShardHeld(shard(), 0))) == [
        (BULK[0], shard(), 0, 1),
        (BULK[0], shard(), 1, 2),
    ]
    assert sim.get(PRIMARY, run(1, cut(10, (0, 2)))) == [ordered(2, 11)]


# --- P8: replicas ---------------------------------------------------------------------------------


def test_p8_a_replica_that_comes_back_gets_all_past_what_it_holds_and_the_frontier() -> None:
    sim = Sim().start(*STORAGE[:2])
    for number in range(4):
        sim.get(CLIENT, append(number, "a"))
    sim.do(LinkDown(BULK[0]))
    sim.get(PRIMARY, run(1, cut(10, (0, 2))))
    assert sends(sim.get(CLIENT, append(4, "a"))) == [(BULK[1], shard(), 4, 5)]
    assert sim.up(BULK[0]) == [Send(BULK[0], ResumeShard(shard()))]
    assert sends(sim.get(CLIENT, append(5, "a"))) == [(BULK[1], shard(), 5, 6)]
    # It holds 1; 1..2 are ordered, so a peer gives it those; the rest comes from here.
    assert short(sim.get(BULK[0], ShardHeld(shard(), 1))) == [
        (BULK[0], shard(), first, first + 1) for first in (2, 3, 4, 5)
    ]
    assert sends(sim.get(CLIENT, append(6, "a"))) == [(bulk, shard(), 6, 7) for bulk in BULK[:2]]


def test_p8_a_replica_that_holds_more_than_is_ordered_gets_only_what_it_lacks() -> None:
    sim = Sim().start()
    for number in range(3):
        sim.get(CLIENT, append(number, "a"))
    sim.do(LinkDown(BULK[0]))
    sim.up(BULK[0])
    assert short(sim.get(BULK[0], ShardHeld(shard(), 2))) == [(BULK[0], shard(), 2, 3)]


def test_p8_a_clogged_replica_is_sent_nothing_and_later_only_what_is_unordered() -> None:
    sim = Sim().start(*STORAGE[:2])
    sim.get(CLIENT, append(0, "a"))
    sim.do(LinkClogged(BULK[0], clear=False))
    for number in (1, 2, 3):
        assert sends(sim.get(CLIENT, append(number, "a"))) == [
            (BULK[1], shard(), number, number + 1)
        ]
    sim.get(PRIMARY, run(1, cut(10, (0, 3))))
    assert short(sim.do(LinkClogged(BULK[0], clear=True))) == [(BULK[0], shard(), 3, 4)]


def test_a_replica_that_was_clogged_while_it_resumed_is_sent_the_rest_when_clear() -> None:
    sim = Sim().start()
    sim.get(CLIENT, append(0, "a"))
    sim.do(LinkDown(BULK[0]))
    sim.up(BULK[0])
    sim.do(LinkClogged(BULK[0], clear=False))
    assert sim.get(BULK[0], ShardHeld(shard(), 0)) == []
    assert short(sim.do(LinkClogged(BULK[0], clear=True))) == [(BULK[0], shard(), 0, 1)]


def test_a_replica_that_claims_more_than_was_given_is_sent_later_frames_all_the_same() -> None:
    sim = Sim().start()
    sim.do(LinkDown(BULK[0]))
    sim.up(BULK[0])
    sim.get(BULK[0], ShardHeld(shard(), 99))
    assert sends(sim.get(CLIENT, append(0, "a"))) == [(BULK[0], shard(), 0, 1)]


def test_a_link_that_was_down_when_the_shard_opened_is_asked_what_it_holds() -> None:
    sim = Sim()
    sim.up(PRIMARY, CLIENT, BULK[0])
    sim.install(view(replicas=STORAGE[:2]))
    sim.get(PRIMARY, run(0, opening(*STORAGE[:2])))
    assert sends(sim.get(CLIENT, append(0, "a"))) == [(BULK[0], shard(), 0, 1)]
    assert sim.up(BULK[1]) == [Send(BULK[1], ResumeShard(shard()))]
    assert short(sim.get(BULK[1], ShardHeld(shard(), 0))) == [(BULK[1], shard(), 0, 1)]


def test_frames_that_stand_still_are_asked_about_on_both_sides() -> None:
    sim = Sim().start()
    assert sim.get(CLIENT, append(0, "a"))[1:] == []
    assert sim.do(TimerFired(TIMER)) == [RETRY]  # the first time says where they stood
    assert sim.do(TimerFired(TIMER)) == [
        Send(PRIMARY, FollowMetalog(SPACE, at(1), NUMBER)),
        Send(BULK[0], ResumeShard(shard())),
        RETRY,
    ]
    sim.get(PRIMARY, run(1, cut(10, (0, 1))))
    assert sim.do(TimerFired(TIMER)) == []  # nothing is waited for, so no timer


# --- the metalog, lite ----------------------------------------------------------------------------


def test_entries_that_concern_others_are_skipped() -> None:
    sim = Sim().start()
    sim.get(CLIENT, append(0, "a"))
    assert sim.get(PRIMARY, run(41, cut(500, (0, 1)))) == [ordered(0, 500, 42)]


def test_a_lost_primary_link_is_followed_from_the_last_position() -> None:
    sim = Sim().start()
    sim.get(PRIMARY, MetalogPosition(SPACE, at(9), 77))
    sim.do(LinkDown(PRIMARY))
    assert sim.up(PRIMARY) == [Send(PRIMARY, FollowMetalog(SPACE, at(9), NUMBER))]


def test_a_span_that_does_not_continue_the_last_asks_for_every_entry_since() -> None:
    sim = Sim().start()
    for number in range(3):
        sim.get(CLIENT, append(number, "a"))
    assert sim.get(PRIMARY, run(20, cut(60, (1, 2)))) == [
        Send(PRIMARY, FollowMetalog(SPACE, at(1), 0))
    ]
    assert sim.get(PRIMARY, run(21, cut(70, (2, 3)))) == []  # kept until its turn
    others = [cut(10 + place, (0, 1), number=99) for place in range(18)]
    assert sim.get(PRIMARY, run(1, others[0], cut(11, (0, 1)), *others[2:])) == [ordered(0, 11, 3)]
    assert sim.get(PRIMARY, run(19, others[1], cut(60, (1, 2)))) == [
        ordered(1, 60, 21),
        ordered(2, 70, 22),
        Send(PRIMARY, FollowMetalog(SPACE, at(22), NUMBER)),
    ]


def test_frames_whose_entries_nobody_keeps_are_lost_and_later_ones_go_on() -> None:
    sim = Sim(engine(gap_asks_max=2)).start()
    for number in range(3):
        sim.get(CLIENT, append(number, "a"))
    sim.get(PRIMARY, run(20, cut(60, (1, 2))))
    for _ in range(3):
        assert sends(sim.do(TimerFired(TIMER)), PRIMARY) == [
            Send(PRIMARY, FollowMetalog(SPACE, at(1), 0))
        ]
    told = sim.do(TimerFired(TIMER))
    reason = "the entry that ordered it is not kept any more"
    assert sends(told, CLIENT) == [Send(CLIENT, FrameLost(SPACE, 0, reason))]
    assert sends(told, PRIMARY) == [Send(PRIMARY, FollowMetalog(SPACE, at(1), NUMBER))]
    assert sim.get(PRIMARY, run(20, cut(60, (1, 3)))) == [ordered(1, 60, 21), ordered(2, 61, 21)]


def test_p11_what_was_missing_of_a_term_that_lost_its_end_is_not_looked_for_in_the_next() -> None:
    """The term ended before the gap, so everything from there on is numbered anew."""
    sim = Sim(engine(gap_asks_max=2)).start()
    for number in range(3):
        sim.get(CLIENT, append(number, "a"))
    sim.get(PRIMARY, run(20, cut(60, (1, 2))))
    sim.install(view(2, end=at(1), tail=1000, durability="flush"))
    sim.get(PRIMARY, run(1, opening(), term=2))
    told = [effect for _ in range(9) for effect in sends(sim.do(TimerFired(TIMER)), CLIENT)]
    assert told == []
    assert sim.get(PRIMARY, run(2, cut(1000, (0, 3)), term=2)) == [
        ordered(number, 1000 + number, 3, term=2) for number in range(3)
    ]


def test_a_span_of_more_than_was_ever_given_is_counted_and_orders_nothing() -> None:
    sim = Sim().start()
    sim.get(CLIENT, append(0, "a"))
    assert sim.get(PRIMARY, run(1, cut(10, (0, 2)))) == []
    assert sim.core.stats().ignored == 1


# --- P5: deleted LogBooks -------------------------------------------------------------------------


def test_p5_units_of_a_deleted_logbook_are_void_wherever_they_are_ordered() -> None:
    sim = Sim().start()
    sim.get(CLIENT, append(0, "a", "b", books=[BOOK, 8]))
    deleted = DeleteBook(1000, 8, Proposer(1, 1))
    assert sim.get(PRIMARY, run(1, deleted, cut(10, (0, 2)))) == [
        Send(CLIENT, FrameVerdicts(SPACE, 0, at(3), [[1, VERDICT_BOOK_DELETED, 0, 0]])),
        ordered(0, 10, 3),
    ]


def test_p5_units_that_are_ordered_before_the_deletion_are_not_void_however_early_it_is_known() -> (
    None
):
    """Told that they are, the client would send them once more to the next LogBook of that name.
    Found by the simulator."""
    sim = Sim().start()
    for number in range(2):
        sim.get(CLIENT, append(number, "a", books=8))
    deleted = DeleteBook(1000, 8, Proposer(1, 1))
    assert sim.get(PRIMARY, run(1, cut(10, (0, 1)), deleted)) == [ordered(0, 10, 2)]
    sim = Sim().start()
    sim.get(CLIENT, append(0, "a", books=8))
    sim.get(STORAGE[0], stream(3)._replace(deleted=[8]))
    assert sim.get(PRIMARY, run(1, cut(10, (0, 1)), deleted)) == [ordered(0, 10, 2)]


def test_p5_a_deletion_is_told_before_the_order_also_where_verdicts_are_waited_for() -> None:
    """Units without conditions are done once their frame is ordered, whatever else is in it. Found
    by the simulator."""
    sim = Sim().start()
    sim.get(CLIENT, append(0, "a", "b", books=[8, 8], unless={1: [("a", 5)]}))
    deleted = DeleteBook(1000, 8, Proposer(1, 1))
    voids: list[list[object]] = [[unit, VERDICT_BOOK_DELETED, 0, 0] for unit in (0, 1)]
    assert sim.get(PRIMARY, run(1, deleted, cut(10, (0, 2)))) == [
        Send(CLIENT, FrameVerdicts(SPACE, 0, at(3), voids)),
        ordered(0, 10, 3),
    ]
    row: list[object] = [1, NUMBER, 0, voids]
    assert sim.get(STORAGE[0], stream(3, verdicts=[row])) == [
        Send(CLIENT, FrameVerdicts(SPACE, 0, at(3), voids))
    ], "whoever waits for verdicts gets them"


def test_p5_deletions_of_older_terms_are_known_from_the_follow_and_the_index() -> None:
    sim = Sim()
    sim.up(PRIMARY, CLIENT, STORAGE[0], BULK[0])
    sim.install(view(3, end=at(50, 2), tail=90))
    sim.get(PRIMARY, run(4, DeleteBook(1000, 8, Proposer(1, 1)), term=1))
    sim.get(PRIMARY, run(50, opening(), term=3))
    sim.get(STORAGE[0], stream(51, term=3)._replace(deleted=[9]))
    sim.get(CLIENT, append(0, "a", books=8))
    sim.get(CLIENT, append(1, "a", books=9))
    voids = sim.get(PRIMARY, run(51, cut(90, (0, 2)), term=3))
    assert [type(each.message) for each in voids if isinstance(each, Send)] == [
        *(FrameVerdicts, FrameOrdered, FrameVerdicts, FrameOrdered)
    ]


def late(*replicas: NodeId) -> Sim:
    """An engine that starts while the primary's metalog begins at entry 40, and no index replica
    has told it of deletions before that."""
    sim = Sim()
    sim.up(PRIMARY, CLIENT, *replicas, *(("bulk", node) for node in replicas))
    sim.install(view(3, end=at(50, 2), tail=90, replicas=replicas))
    sim.get(PRIMARY, MetalogBegins(SPACE, 40))
    sim.get(PRIMARY, MetalogPosition(SPACE, at(50, 3), 90))
    sim.get(PRIMARY, run(50, opening(*replicas), term=3))
    return sim


def test_p16_no_frame_leaves_before_deletions_are_known_that_were_let_go() -> None:
    """The primary has forgotten that LogBook 8 was deleted: acknowledged by the order, the unit
    would be void."""
    sim = late(STORAGE[0])
    assert sends(sim.get(CLIENT, append(0, "a", books=8))) == []
    assert sends(sim.get(STORAGE[0], stream(39, term=2))) == []
    told = sim.get(STORAGE[0], stream(45, since=39, term=2)._replace(deleted=[8]))
    assert sends(told) == [(BULK[0], shard(3), 0, 1)]
    assert sim.get(PRIMARY, run(51, cut(90, (0, 1)), term=3)) == [
        Send(CLIENT, FrameVerdicts(SPACE, 0, at(52, 3), [[0, VERDICT_BOOK_DELETED, 0, 0]])),
        ordered(0, 90, 52, term=3),
    ]


def test_p16_an_index_that_is_past_what_was_let_go_is_enough_whenever_it_tells() -> None:
    sim = Sim()
    sim.up(PRIMARY, CLIENT, STORAGE[0], BULK[0])
    sim.install(view(3, end=at(50, 2), tail=90))
    sim.get(STORAGE[0], stream(45, term=2))
    sim.get(PRIMARY, MetalogBegins(SPACE, 40))
    sim.get(PRIMARY, run(50, opening(), term=3))
    assert sends(sim.get(CLIENT, append(0, "a"))) == [(BULK[0], shard(3), 0, 1)]


def test_p11_p16_an_index_of_what_is_lost_tells_nothing_of_deletions_since() -> None:
    sim = Sim()
    sim.up(PRIMARY, CLIENT, STORAGE[0], BULK[0])
    sim.install(view(3, end=at(30, 2), tail=90, durability="flush"))
    sim.get(STORAGE[0], stream(45, term=2))
    sim.get(PRIMARY, MetalogBegins(SPACE, 40))
    sim.get(PRIMARY, run(50, opening(), term=3))
    assert sends(sim.get(CLIENT, append(0, "a"))) == []


def test_p16_where_an_index_is_behind_another_is_asked() -> None:
    sim = late(*STORAGE[:2])
    sim.get(CLIENT, append(0, "a"))
    sim.do(BatchEnded(0))
    chosen = sim.core.following.spaces[SPACE].summary()["index_replica"]
    assert sim.do(TimerFired(TIMER)) == [RETRY], "it has not answered yet"
    sim.get(chosen, stream(39, term=2))
    sim.do(TimerFired(TIMER))
    other = sim.core.following.spaces[SPACE].summary()["index_replica"]
    assert {chosen, other} == set(STORAGE[:2])
    told = sends(sim.get(other, stream(40, term=2)))
    assert told == [(to, shard(3), 0, 1) for to in BULK[:2]]


def test_p16_deletions_that_were_learned_stay_known_in_later_terms() -> None:
    sim = late(STORAGE[0])
    sim.get(STORAGE[0], stream(45, term=2)._replace(deleted=[8]))
    sim.install(view(4, end=at(51, 3), tail=90))
    sim.get(PRIMARY, run(51, opening(), term=4))
    sim.get(CLIENT, append(0, "a", books=8))
    void, _ = sim.get(PRIMARY, run(52, cut(90, (0, 1)), term=4))
    assert isinstance(void, Send) and isinstance(void.message, FrameVerdicts)


# --- P12, P13: a view change ----------------------------------------------------------------------


def test_p13_the_end_fixes_what_is_ordered_and_the_rest_is_sent_again_before_new_frames() -> None:
    """The old primary orders frame 0 only; 1 and 2 go to the new term, before 3."""
    sim = Sim().start()
    for number in range(3):
        sim.get(CLIENT, append(number, "a"))
    sim.get(PRIMARY, run(1, cut(10, (0, 1))))
    next_primary = NodeId("sequencer-2")
    sim.up(next_primary)
    assert sim.install(view(2, end=at(2), tail=11, primary=next_primary)) == [
        Send(next_primary, FollowMetalog(SPACE, at(2), NUMBER)),
        Send(next_primary, OpenShardRequest(SPACE, 2, ENGINE, NUMBER)),
    ]
    assert sim.get(CLIENT, append(3, "b")) == []
    assert short(sim.get(next_primary, run(2, opening(), term=2))) == [
        (BULK[0], shard(2), first, first + 1) for first in (0, 1, 2)
    ]
    assert sim.get(next_primary, run(3, cut(11, (0, 3)), term=2)) == [
        ordered(number, 10 + number, 4, term=2) for number in (1, 2, 3)
    ]


def test_p13_entries_up_to_the_end_are_fetched_before_anything_is_sent_again() -> None:
    """The cut that ordered frame 0 was published, but not to this engine: sending it again would
    double it.
    """
    sim = Sim().start()
    for number in range(2):
        sim.get(CLIENT, append(number, "a"))
    next_primary = NodeId("sequencer-2")
    sim.up(next_primary)
    assert sim.install(view(2, end=at(3), tail=11, primary=next_primary)) == [
        Send(next_primary, FollowMetalog(SPACE, at(1), 0)),
    ]
    other = cut(9, (0, 1), number=99)
    assert sim.get(next_primary, run(1, other, cut(10, (0, 1)))) == [
        ordered(0, 10, 3),
        Send(next_primary, FollowMetalog(SPACE, at(3), NUMBER)),
        Send(next_primary, OpenShardRequest(SPACE, 2, ENGINE, NUMBER)),
    ]
    assert short(sim.get(next_primary, run(3, opening(), term=2))) == [(BULK[0], shard(2), 0, 1)]


def test_p13_a_position_of_the_new_term_does_not_stand_for_missing_entries_of_the_old() -> None:
    sim = Sim().start()
    sim.get(CLIENT, append(0, "a"))
    sim.install(view(2, end=at(3), tail=11))
    assert sim.get(PRIMARY, MetalogPosition(SPACE, at(3, 2), 11)) == []
    assert sim.get(PRIMARY, run(3, opening(), term=2)) == []


def test_p13_entries_of_the_old_term_past_its_end_are_dropped() -> None:
    sim = Sim().start()
    sim.get(CLIENT, append(0, "a"))
    sim.install(view(2, end=at(1)))
    assert sim.get(PRIMARY, run(1, cut(10, (0, 1)))) == []


def test_two_views_in_a_row_keep_the_order_of_frames() -> None:
    sim = Sim().start()
    sim.get(CLIENT, append(0, "a"))
    sim.install(view(2, end=at(2), tail=11))
    sim.get(CLIENT, append(1, "b"))
    sim.install(view(3, end=at(2, 1), tail=11))
    sim.get(PRIMARY, run(1, cut(10, (0, 0), number=99)))
    assert short(sim.get(PRIMARY, run(2, opening(), term=3))) == [
        (BULK[0], shard(3), 0, 1),
        (BULK[0], shard(3), 1, 2),
    ]


def test_p17_what_a_newer_term_brings_waits_for_its_view() -> None:
    sim = Sim().start()
    sim.get(CLIENT, append(0, "a"))
    effects = sim.get(PRIMARY, run(1, opening(), term=2))
    assert [type(effect).__name__ for effect in effects] == ["LoadView"]
    # Once the view is here the held opening is used, and the frame goes to the new shard.
    assert (BULK[0], shard(2), 0, 1) in sends(sim.install(view(2, end=at(1))))


# --- P23: verdicts --------------------------------------------------------------------------------


def conditional(sim: Sim) -> None:
    sim.get(CLIENT, append(0, "a", "b", unless={1: [("b", 0)]}))


OUTCOMES: list[list[object]] = [[1, VERDICT_CONDITION_FAILED, "b", 4]]


def test_a_conditional_frame_is_answered_twice_by_the_order_and_by_the_fold() -> None:
    sim = Sim().start()
    conditional(sim)
    assert sim.get(PRIMARY, run(1, cut(10, (0, 2)))) == [ordered(0, 10)]
    row: list[object] = [1, NUMBER, 0, OUTCOMES]
    assert sim.get(STORAGE[0], stream(2, verdicts=[row])) == [
        Send(CLIENT, FrameVerdicts(SPACE, 0, at(2), OUTCOMES))
    ]


def test_a_verdict_that_is_faster_than_the_order_waits_for_it() -> None:
    sim = Sim().start()
    conditional(sim)
    row: list[object] = [1, NUMBER, 0, OUTCOMES]
    assert sim.get(STORAGE[0], stream(2, verdicts=[row])) == []
    assert sim.get(PRIMARY, run(1, cut(10, (0, 2)))) == [
        ordered(0, 10),
        Send(CLIENT, FrameVerdicts(SPACE, 0, at(2), OUTCOMES)),
    ]


def test_p23_a_verdict_is_asked_for_again_at_the_next_replica() -> None:
    sim = Sim().start(*STORAGE[:2])
    sim.do(BatchEnded(0))
    conditional(sim)
    sim.get(PRIMARY, run(1, cut(10, (0, 2))))
    chosen = sim.core.following.spaces[SPACE].chosen
    other = next(node for node in STORAGE[:2] if node != chosen)
    sim.do(LinkDown(chosen))
    assert sim.do(BatchEnded(0)) == [
        Send(other, FollowIndex(SPACE, NUMBER, [], [[1, NUMBER, 0, 10]]))
    ]
    row: list[object] = [1, NUMBER, 0, [[1, VERDICT_VISIBLE, 11, 0]]]
    assert sim.get(chosen, stream(2, verdicts=[row])) == []  # of a link that is gone
    assert sim.get(other, stream(3, since=3, verdicts=[row])) == [
        Send(CLIENT, FrameVerdicts(SPACE, 0, at(2), [[1, VERDICT_VISIBLE, 11, 0]]))
    ]


def test_p23_a_verdict_decided_before_the_follow_and_ordered_after_it_is_asked_for() -> None:
    sim = Sim().start()
    sim.do(BatchEnded(0))
    conditional(sim)
    sim.get(STORAGE[0], stream(2, since=2))  # it had folded the cut before it was followed
    sim.do(BatchEnded(0))
    sim.get(PRIMARY, run(1, cut(10, (0, 2))))
    assert sim.do(BatchEnded(0)) == [
        Send(STORAGE[0], FollowIndex(SPACE, NUMBER, [], [[1, NUMBER, 0, 10]]))
    ]


def test_an_overdue_verdict_is_asked_for() -> None:
    sim = Sim().start()
    sim.do(BatchEnded(0))
    conditional(sim)
    sim.get(PRIMARY, run(1, cut(10, (0, 2))))
    sim.do(TimerFired(TIMER))
    assert sim.do(BatchEnded(0)) == []
    sim.do(TimerFired(TIMER))
    assert sim.do(BatchEnded(0)) == [
        Send(STORAGE[0], FollowIndex(SPACE, NUMBER, [], [[1, NUMBER, 0, 10]]))
    ]


@pytest.mark.parametrize("first", [True, False])
def test_a_frame_sent_again_in_a_new_term_takes_only_the_new_verdict(first: bool) -> None:
    """Numbered anew it has another name; a verdict under the old one would be about nothing."""
    sim = Sim().start()
    conditional(sim)
    sim.install(view(2, end=at(1)))
    sim.get(PRIMARY, run(1, opening(), term=2))
    old: list[object] = [1, NUMBER, 0, OUTCOMES]
    new: list[object] = [2, NUMBER, 0, [[1, VERDICT_VISIBLE, 11, 0]]]
    rows = [old, new] if first else [new, old]
    sim.get(STORAGE[0], stream(3, verdicts=rows, term=2))
    assert sim.get(PRIMARY, run(2, cut(10, (0, 2)), term=2)) == [
        ordered(0, 10, 3, term=2),
        Send(CLIENT, FrameVerdicts(SPACE, 0, at(3, 2), [[1, VERDICT_VISIBLE, 11, 0]])),
    ]
