"""Rules of PROTOCOL.md at an engine: what breaks without each, as a story."""

from __future__ import annotations

import pytest

from bokilog.effects import BatchEnded, Effect, LinkDown, LoadView, Send, SetTimer, TimerFired
from bokilog.errors import (
    BokilogError,
    NotReady,
    Overloaded,
    RemoteProtocolError,
    from_wire,
    to_wire,
)
from bokilog.functions.engine.core import EngineCore
from bokilog.functions.engine.settings import EngineSettings
from bokilog.messages import (
    VERDICT_VISIBLE,
    AppendFrame,
    FollowIndex,
    FollowMetalog,
    FrameOrdered,
    FrameRefused,
    FrameVerdicts,
    IndexStream,
    MetalogPosition,
    Read,
    ReadReply,
    Replicate,
    ResumeShard,
    ShardHeld,
)
from bokilog.metalog import CloseShard, OpenShard
from bokilog.term_gate import TermGate
from bokilog.wire import decode, encode
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
    read,
    reply,
    run,
    sends,
    shard,
    short,
    view,
)

NODE = STORAGE[0]


def refusals(effects: list[Effect]) -> list[tuple[int, BokilogError]]:
    """(frame number, why) of frames that were not taken."""
    return [
        (each.message.number, from_wire(each.message.error))
        for each in effects
        if isinstance(each, Send) and isinstance(each.message, FrameRefused)
    ]


def ordered(effects: list[Effect]) -> list[tuple[int, int]]:
    """(frame number, first seqnum) of what clients are told."""
    return [
        (each.message.number, each.message.first_seqnum)
        for each in effects
        if isinstance(each, Send) and isinstance(each.message, FrameOrdered)
    ]


def stream(position: int, *, since: int, verdicts: list[list[object]] | None = None) -> IndexStream:
    return IndexStream(
        *(SPACE, at(since), at(position), 100, [], [], verdicts or [], [], [], []),
    )


# --- names ----------------------------------------------------------------------------------------


def frame_names(core: EngineCore) -> set[tuple[object, int]]:
    """(shard, count) of what an engine writes for the same appends in term 1."""
    sim = Sim(core)
    sim.up(PRIMARY, CLIENT, NODE, BULK[0])
    sim.install(view())
    sim.get(PRIMARY, run(0, OpenShard(1000, core.incarnation, ENGINE, (NODE,))))
    effects = [each for n in range(3) for each in sim.get(CLIENT, append(n, "a"))]
    return {
        (each.message.frame.shard, each.message.frame.first)
        for each in effects
        if isinstance(each, Send) and isinstance(each.message, Replicate)
    }


def test_p01_a_restarted_engine_never_writes_under_an_old_local_id() -> None:
    """1. Frame 0 reaches one of three replicas. 2. The engine dies and starts again, knowing
    nothing of it. 3. Were its next frame 0 of the same shard, two replicas would hold other bytes
    than the first one, and all three would count them as the same record."""
    before = frame_names(EngineCore(EngineSettings(), ENGINE, 5))
    after = frame_names(EngineCore(EngineSettings(), ENGINE, 6))
    assert len(before) == len(after) == 3
    assert not before & after


def test_p01_each_term_has_a_new_shard_that_counts_from_zero() -> None:
    """A frame that the old term did not order may lie on some replicas under its old name for ever:
    the new name says that this is another attempt."""
    sim = Sim().start()
    assert sends(sim.get(CLIENT, append(0, "a"))) == [(BULK[0], shard(1), 0, 1)]
    sim.install(view(2, end=at(1)))
    assert short(sim.get(PRIMARY, run(1, opening(), term=2))) == [(BULK[0], shard(2), 0, 1)]


def test_p01_a_start_that_was_replaced_takes_nothing_more() -> None:
    """Its shard was closed in favour of a newer start: what it took since is certainly not ordered,
    and is said to be so."""
    sim = Sim().start()
    sim.get(CLIENT, append(1, "a"))
    for told in (
        sim.get(PRIMARY, run(1, CloseShard(1000, NUMBER, 0))),
        sim.get(CLIENT, append(1, "a")),
    ):
        ((number, error),) = refusals(told)
        assert number == 1 and isinstance(error, NotReady) and error.definite


# --- frames in order ------------------------------------------------------------------------------


def test_p04_after_a_refusal_everything_is_refused_until_that_frame_returns() -> None:
    """1. Frame 2 is refused for want of room. 2. Room comes. 3. Taking frame 3 now would order it
    before 2, which its client appended first."""
    sim = Sim(engine(unordered_frames_max=1)).start()
    sim.get(CLIENT, append(1, "a"))
    assert [number for number, _ in refusals(sim.get(CLIENT, append(2, "a")))] == [2]
    sim.get(PRIMARY, run(1, cut(10, (0, 1))))
    assert [number for number, _ in refusals(sim.get(CLIENT, append(3, "a")))] == [3]
    assert sends(sim.get(CLIENT, append(2, "a"))) == [(BULK[0], shard(), 1, 2)]


def test_p04_after_a_view_change_resends_go_before_new_units() -> None:
    """A client's second append must not overtake its first because a primary died between them."""
    sim = Sim().start()
    sim.get(CLIENT, append(1, "a"))
    sim.get(CLIENT, append(2, "a"))
    sim.install(view(2, end=at(1)))
    sim.get(CLIENT, append(3, "a"))
    sim.get(PRIMARY, run(1, opening(), term=2))
    told = sim.get(PRIMARY, run(2, cut(10, (0, 3)), term=2))
    assert ordered(told) == [(1, 10), (2, 11), (3, 12)]


def test_p08_a_replica_that_was_away_gets_what_is_unordered_and_takes_new_frames_again() -> None:
    """It holds 0. 1 is ordered meanwhile, so a peer gives it that; without the rest from here it
    would never count again."""
    sim = Sim().start(*STORAGE[:2])
    sim.get(CLIENT, append(0, "a"))
    sim.do(LinkDown(BULK[0]))
    for n in (1, 2, 3):
        sim.get(CLIENT, append(n, "a"))
    sim.get(PRIMARY, run(1, cut(10, (0, 2))))
    assert sim.up(BULK[0]) == [Send(BULK[0], ResumeShard(shard()))]
    given = short(sim.get(BULK[0], ShardHeld(shard(), 1)))
    assert given == [(BULK[0], shard(), first, first + 1) for first in (2, 3)]
    assert (BULK[0], shard(), 4, 5) in sends(sim.get(CLIENT, append(4, "a")))


# --- terms ----------------------------------------------------------------------------------------


def test_p13_nothing_is_sent_again_before_all_that_the_old_term_ordered_is_known() -> None:
    """The cut that ordered the frame was published, but not to this engine: sent again at once, the
    record would stand in the log twice."""
    sim = Sim().start()
    sim.get(CLIENT, append(0, "a"))
    told = sim.install(view(2, end=at(2), tail=11))
    assert sends(told) == [Send(PRIMARY, FollowMetalog(SPACE, at(1), 0))]
    assert ordered(sim.get(PRIMARY, run(1, cut(10, (0, 1))))) == [(0, 10)]
    assert sends(sim.get(PRIMARY, run(2, opening(), term=2)), BULK[0]) == []


def test_p13_a_cut_past_the_end_acknowledges_nothing() -> None:
    """The old primary published it to this engine only, then died: the next term orders without
    it."""
    sim = Sim().start()
    sim.get(CLIENT, append(0, "a"))
    sim.install(view(2, end=at(1)))
    assert ordered(sim.get(PRIMARY, run(1, cut(10, (0, 1))))) == []


def test_p17_what_comes_ahead_of_its_view_is_held_in_bounds_and_the_view_is_asked_for() -> None:
    sim = Sim(engine(held_messages_max=2)).start()
    for n in range(5):
        assert sim.get(PRIMARY, run(1 + n, opening(number=90 + n), term=2)) == [LoadView(2)]
    assert (sim.core.stats().held_messages, sim.core.stats().held_dropped) == (2, 3)


def test_p17_held_messages_die_with_the_connection_that_brought_them() -> None:
    """What the next connection brings continues nothing of this one."""
    gate = TermGate(view(1).term)
    gate.admit(2, PRIMARY, run(0, opening(), term=2))
    gate.forget(PRIMARY)
    assert gate.install(2) == []


def test_p18_entries_of_others_are_left_out_and_the_position_says_that_nothing_is_missing() -> None:
    """With every entry sent to every engine, each would receive the cuts of all; with neither
    entries nor position, none could tell a quiet log from a lost message."""
    sim = Sim().start()
    sim.get(CLIENT, append(0, "a"))
    assert sim.get(PRIMARY, MetalogPosition(SPACE, at(5), 60)) == []
    assert ordered(sim.get(PRIMARY, run(5, cut(60, (0, 1))))) == [(0, 60)]
    sim.install(view(2, end=at(6), tail=61))
    assert sends(sim.get(PRIMARY, run(6, opening(), term=2)), BULK[0]) == []


# --- verdicts and reads ---------------------------------------------------------------------------


def test_p23_a_verdict_that_died_with_its_replica_is_asked_of_another() -> None:
    """1. The cut orders a conditional frame. 2. The index replica that this engine follows dies
    before it streams the verdict. 3. The append must end, and must not be appended again."""
    sim = Sim().start(*STORAGE[:2])
    sim.do(BatchEnded(0))
    sim.get(CLIENT, append(0, "a", unless={0: [("a", 0)]}))
    sim.get(PRIMARY, run(1, cut(10, (0, 1))))
    followed = sim.core.following.spaces[SPACE].chosen
    other = next(node for node in STORAGE[:2] if node != followed)
    sim.do(LinkDown(followed))
    assert sim.do(BatchEnded(0)) == [
        Send(other, FollowIndex(SPACE, NUMBER, [], [[1, NUMBER, 0, 10]]))
    ]
    outcomes: list[list[object]] = [[0, VERDICT_VISIBLE, 10, 0]]
    row: list[object] = [1, NUMBER, 0, outcomes]
    assert sim.get(other, stream(3, since=3, verdicts=[row])) == [
        Send(CLIENT, FrameVerdicts(SPACE, 0, at(2), outcomes))
    ]


def following() -> Sim:
    """An engine that knows that tag "t" has 20 and 40, up to the tail 100 at position 10."""
    sim = Sim().start(NODE)
    (asked,) = sim.get(CLIENT, read(tag="t"))
    assert isinstance(asked, Send) and isinstance(asked.message, Read)
    sim.do(BatchEnded(0))
    found = reply(asked.message.request, [20, 40], position=at(10), tail=100, next_seqnum=100)
    sim.get(NODE, found)
    sim.get(NODE, stream(10, since=10)._replace(following=[BOOK]))
    return sim


def replies(effects: list[Effect]) -> list[list[int]]:
    return [
        each.message.seqnums
        for each in effects
        if isinstance(each, Send) and each.to == CLIENT and isinstance(each.message, ReadReply)
    ]


def test_p27_a_closed_fact_answers_at_any_position_and_the_tail_only_at_the_tokens() -> None:
    """The caller has seen position 11, where a record may stand that this engine has not heard of:
    "none" and "newest" would deny it, a record inside a known range denies nothing."""
    sim = following()
    token = at(11)
    assert replies(sim.get(CLIENT, read(tag="t", start=20, until=41, position=token))) == [[20, 40]]
    for asked in (read(tag="t", start=41), read(tag="t", limit=1, reverse=True)):
        assert replies(sim.get(CLIENT, asked)) != []
        assert replies(sim.get(CLIENT, asked._replace(position=token))) == []


def test_p27_no_level_answers_below_a_trim_it_has_seen() -> None:
    sim = following()
    news = stream(11, since=10)._replace(trims=[[BOOK, None, 30]])
    sim.get(NODE, news)
    assert replies(sim.get(CLIENT, read(tag="t", start=20, until=30))) == []
    assert replies(sim.get(CLIENT, read(tag="t", until=41))) == [[40]]


def test_p27_a_hole_in_the_stream_closes_facts_at_the_old_position() -> None:
    """Entries between 10 and 12 were missed: that nothing follows 40 is not known any more."""
    sim = following()
    sim.get(NODE, stream(13, since=12)._replace(tail=105))
    assert replies(sim.get(CLIENT, read(tag="t", start=41))) == []
    assert replies(sim.get(CLIENT, read(tag="t", start=20, until=41))) == [[20, 40]]


def test_p28_a_read_of_what_is_not_there_yet_waits_and_then_says_so() -> None:
    sim = following()
    (timer,) = sim.get(CLIENT, read(tag="t", start=41, wait_ms=500))
    assert isinstance(timer, SetTimer) and timer.delay_s == 0.5
    sim.now_s = 0.5
    assert replies(sim.do(TimerFired(timer.timer))) == [[]]


# --- bounds and garbage ---------------------------------------------------------------------------


def test_p32_unordered_frames_and_bytes_are_bounded_and_named() -> None:
    """While no quorum is up nothing is ordered: appends must be told to wait instead of filling the
    engine's memory."""
    frames = Sim(engine(unordered_frames_max=2)).start()
    in_bytes = Sim(engine(unordered_bytes_max=150)).start()
    for sim in (frames, in_bytes):
        taken = [refusals(sim.get(CLIENT, append(n, "a", data=[b"x"]))) for n in range(4)]
        assert taken[:2] == [[], []]
        for ((_, error),) in taken[2:]:
            assert isinstance(error, Overloaded) and error.retry_after_s > 0
        assert sim.core.stats().frames_refused == 2


def test_p32_one_frame_is_always_taken_however_large() -> None:
    """Else a unit larger than the bound could never be appended."""
    sim = Sim(engine(unordered_bytes_max=10)).start()
    assert refusals(sim.get(CLIENT, append(0, "a", data=[b"x" * 1000]))) == []


def test_p32_appends_wait_in_order_while_the_index_lags_and_not_for_a_dead_replica() -> None:
    """1. Storage nodes order faster than the followed one folds. 2. Taken all the same, frames
    would pile up there, and every verdict and every read of the newest would be further away.
    3. Were a replica waited for that is gone, no append would ever go on."""
    sim = Sim(engine(lag_records_max=10)).start(*STORAGE[:2])
    followed = sim.core.following.spaces[SPACE].chosen
    other = next(node for node in STORAGE[:2] if node != followed)
    sim.get(followed, stream(2, since=0)._replace(tail=100))
    sim.get(PRIMARY, MetalogPosition(SPACE, at(3), 111))
    for number in (1, 2):
        ((refused, error),) = refusals(sim.get(CLIENT, append(number, "a")))
        assert refused == number and isinstance(error, Overloaded) and error.retry_after_s > 0
    sim.do(LinkDown(followed))
    sim.get(other, stream(3, since=0)._replace(tail=111))
    for number in (1, 2):
        assert refusals(sim.get(CLIENT, append(number, "a"))) == []


def test_p32_frames_travel_on_the_bulk_connection_and_nothing_else_does() -> None:
    """A heartbeat or a cut behind a megabyte of payload would make a healthy node look dead."""
    sim = Sim().start()
    effects = sim.get(CLIENT, append(0, "a"))
    effects += sim.get(CLIENT, read(tag="t"))
    effects += sim.do(BatchEnded(0))
    for each in effects:
        if isinstance(each, Send):
            is_frame = isinstance(each.message, Replicate)
            assert (each.to in BULK) == is_frame, each


def test_p34_garbage_columns_are_refused_before_they_get_local_ids() -> None:
    """Taken, the frame would be ordered, and each replica would have to make something of it."""
    message = append(0, "a", "b")
    kind, head, parts = encode(message)
    columns, *payload = (memoryview(bytes(part)) for part in parts)
    joined = [memoryview(b"".join(payload))]
    assert isinstance(decode(kind, head, [columns, *joined]), AppendFrame)
    for bad in ([columns], [columns, joined[0][:-1]], [columns[:-1], *joined], []):
        with pytest.raises(RemoteProtocolError):
            decode(kind, head, bad)


def test_p34_a_frame_of_no_known_log_space_is_an_answer_and_no_exception() -> None:
    sim = Sim()
    ((_, error),) = refusals(sim.get(CLIENT, append(0, "a")))
    assert to_wire(error) == to_wire(NotReady(f"log space {SPACE} is in no view known here"))
