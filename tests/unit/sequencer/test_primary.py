"""One log space's order: whole effect lists, from progress to what followers see."""

from __future__ import annotations

import pytest

from bokilog.cut import CutSpan
from bokilog.effects import Commit, RaiseCeiling, Send, SetTimer
from bokilog.errors import (
    InvalidRange,
    InvalidTag,
    NotReady,
    Overloaded,
    Sealed,
    WrongTerm,
    to_wire,
)
from bokilog.ids import START, Position, Term
from bokilog.limits import SEQNUM_MAX
from bokilog.messages import (
    IndexReport,
    Metalog,
    MetalogPosition,
    Propose,
    RequestFailed,
    Tail,
    TailRequest,
)
from bokilog.metalog import (
    CloseShard,
    Cut,
    DeleteBook,
    Entry,
    ForgetKeys,
    Hold,
    OpenShard,
    Proposer,
    Release,
    Run,
    StartOver,
    Trim,
    decode_run,
)
from bokilog.record import Durability
from bokilog.sequencer import followers, next_run, ordered, primary as module
from bokilog.sequencer.followers import RUNS_FED
from bokilog.sequencer.primary import CEILING_STEP, PrimaryStats
from bokilog.sequencer.runs import RunIndex
from tests.unit.sequencer.rig import (
    BASE,
    DAY_MS,
    NODES,
    SPACE,
    TAIL,
    TERM,
    WALL_MS,
    A,
    B,
    C,
    Rig,
    committed,
    end,
    entries_sent,
    journalled,
    opened,
    opening,
    run,
    sent,
)

PROPOSER = Proposer(1, 9)
ENGINE = "engine-1"


def trim(until: int = 5, *, tag: str | None = None) -> Trim:
    return Trim(0, 7, tag, until, PROPOSER)


def open_entry(number: int, engine: str | None = None) -> OpenShard:
    return OpenShard(WALL_MS, number, engine or f"engine-{number}", NODES)


def cut(first_seqnum: int, *spans: tuple[int, int, int], timestamp_ms: int = WALL_MS) -> Cut:
    return Cut(timestamp_ms, first_seqnum, tuple(CutSpan(*span) for span in spans))


# --- from progress to publication -----------------------------------------------------------------


def test_a_batch_is_one_run_that_goes_out_after_its_sync() -> None:
    rig = Rig()
    assert rig.follow("storage-1") == []
    rig.open(1)
    assert rig.end_batch() == [Commit(SPACE, 1)]
    assert rig.sync() == [Send("storage-1", Metalog(run(10, open_entry(1))))]
    rig.held({1: 3})
    assert rig.end_batch() == [Commit(SPACE, 2)]
    assert rig.sync() == [Send("storage-1", Metalog(run(11, cut(100, (1, 0, 3)))))]


def test_a_batch_without_news_asks_for_nothing() -> None:
    rig = opened(1)
    assert rig.end_batch() == []
    rig.report(A, {1: 5})  # one of two
    assert rig.end_batch() == []
    assert not rig.primary.committed(rig.token)


def test_runs_in_flight_go_out_in_order_as_their_commits_are_durable() -> None:
    rig = opened(1)
    rig.follow("storage-1", Position(TERM, 11))
    for count in (2, 5, 9):
        rig.held({1: count})
        rig.end_batch()
    assert rig.primary.persisted(2) == [
        Send("storage-1", Metalog(run(11, cut(100, (1, 0, 2))))),
    ]
    assert rig.primary.persisted(4) == [
        Send("storage-1", Metalog(run(12, cut(102, (1, 2, 5))))),
        Send("storage-1", Metalog(run(13, cut(105, (1, 5, 9))))),
    ]
    assert rig.primary.persisted(3) == []


def test_openings_come_before_the_cut_and_proposals_after_it() -> None:
    rig = opened(1)
    rig.follow("storage-1", Position(TERM, 11))
    rig.primary.propose(ENGINE, Propose(9, SPACE, trim()))
    rig.held({1: 3})
    rig.open(2)
    assert [type(entry) for _, entry in entries_sent(rig.turn(), "storage-1")] == [
        OpenShard,
        Cut,
        Trim,
    ]


def test_entries_carry_the_time_of_their_batch() -> None:
    rig = opened(1)
    rig.follow("storage-1", Position(TERM, 11))
    rig.wall_ms += 5
    rig.held({1: 3})
    rig.primary.propose(ENGINE, Propose(9, SPACE, trim()))
    later = WALL_MS + 5
    assert entries_sent(rig.turn(), "storage-1") == [
        (Position(TERM, 12), cut(100, (1, 0, 3), timestamp_ms=later)),
        (Position(TERM, 13), trim()._replace(timestamp_ms=later)),
    ]
    rig.wall_ms -= 1000
    rig.ordered({1: 4})
    assert rig.primary.holding().metalog.timestamp_ms == later


def test_what_is_journalled_is_what_is_published() -> None:
    rig = opened(1, 2)
    rig.ordered({1: 3, 2: 4})
    found = [decode_run(data) for _, _, data in rig.journal.recover()]
    assert found == [
        run(10, open_entry(1), open_entry(2)),
        run(12, cut(100, (1, 0, 3), (2, 0, 4))),
    ]
    assert journalled(rig.journal, end()).end == end(Position(TERM, 13), tail=107)


# --- shards ---------------------------------------------------------------------------------------


def test_an_engine_that_asks_twice_has_one_shard() -> None:
    rig = Rig()
    rig.open(1)
    rig.open(1)
    rig.follow("storage-1")
    assert entries_sent(rig.turn(), "storage-1") == [(Position(TERM, 11), open_entry(1))]
    rig.open(1)
    assert rig.turn() == []


def test_a_new_start_of_an_engine_closes_its_old_shard_at_what_is_ordered() -> None:
    rig = opened(1)
    rig.ordered({1: 3})
    rig.follow("storage-1", Position(TERM, 12))
    rig.held({1: 8})
    rig.primary.open_shard(opening(5, ENGINE))
    assert entries_sent(rig.turn(), "storage-1") == [
        (Position(TERM, 13), CloseShard(WALL_MS, 1, 3)),
        (Position(TERM, 14), open_entry(5, ENGINE)),
    ]
    rig.held({1: 20, 5: 2})
    assert entries_sent(rig.turn(), "storage-1") == [(Position(TERM, 15), cut(103, (5, 0, 2)))]


def test_an_older_start_that_asks_late_gets_nothing() -> None:
    rig = Rig()
    rig.primary.open_shard(opening(5, ENGINE))
    rig.primary.open_shard(opening(4, ENGINE))
    rig.follow("storage-1")
    assert entries_sent(rig.turn(), "storage-1") == [(Position(TERM, 11), open_entry(5, ENGINE))]
    rig.primary.open_shard(opening(3, ENGINE))
    assert rig.turn() == []


def test_openings_over_the_bound_are_left_to_be_asked_for_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(next_run, "OPENINGS_MAX", 2)
    rig = opened(1, 2, 3)
    assert rig.primary.stats().shards == 2
    rig.open(3)
    rig.turn()
    assert rig.primary.stats().shards == 3


# --- proposals ------------------------------------------------------------------------------------


def failed(request: int, error: object, *, published: int = 11) -> RequestFailed:
    assert isinstance(error, list)
    return RequestFailed(request, error, Position(TERM, published))


BAD_PROPOSALS: list[tuple[Entry, type[Exception]]] = [
    (trim(tag="x" * 257), InvalidTag),
    (trim(tag=""), InvalidTag),
    (trim(-1), InvalidRange),
    (trim(SEQNUM_MAX + 2), InvalidRange),
    (trim()._replace(book=-1), InvalidRange),
    (trim()._replace(book=2**63), InvalidRange),
    (Hold(0, 7, "x" * 129, 5, 1000, PROPOSER), InvalidRange),
    (Hold(0, 7, "h", -5, 1000, PROPOSER), InvalidRange),
    (Hold(0, 7, "h", 5, 2**50, PROPOSER), InvalidRange),
    (Release(0, 7, "", PROPOSER), InvalidRange),
    (DeleteBook(0, 0, PROPOSER), InvalidRange),
    (cut(1), InvalidRange),
    (open_entry(1), InvalidRange),
    (CloseShard(0, 1, 0), InvalidRange),
    (ForgetKeys(0), InvalidRange),
]


@pytest.mark.parametrize(("entry", "error"), BAD_PROPOSALS)
def test_proposals_over_a_limit_are_refused_before_they_are_ordered(
    entry: Entry, error: type[Exception]
) -> None:
    rig = opened(1)
    (effect,) = rig.primary.propose(ENGINE, Propose(9, SPACE, entry))
    assert isinstance(effect, Send)
    assert isinstance(effect.message, RequestFailed)
    assert effect.message.error[0] == error.code  # type: ignore[attr-defined]
    assert rig.end_batch() == []


def test_more_proposals_than_a_run_takes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PROPOSALS_MAX", 2)
    rig = opened(1)
    rig.follow("storage-1", Position(TERM, 11))
    for request in (1, 2):
        assert rig.primary.propose(ENGINE, Propose(request, SPACE, trim(request))) == []
    overloaded = to_wire(Overloaded(module.RETRY_AFTER_S))
    assert rig.primary.propose(ENGINE, Propose(3, SPACE, trim(3))) == [
        Send(ENGINE, failed(3, overloaded))
    ]
    untils = [
        entry.until for _, entry in entries_sent(rig.turn(), "storage-1") if isinstance(entry, Trim)
    ]
    assert untils == [1, 2]
    assert rig.primary.propose(ENGINE, Propose(3, SPACE, trim(3))) == []


def test_a_proposal_keeps_its_place_when_its_engine_is_gone() -> None:
    rig = opened(1)
    rig.follow("storage-1", Position(TERM, 11))
    rig.primary.propose(ENGINE, Propose(9, SPACE, trim()))
    rig.primary.link_down(ENGINE)
    assert len(entries_sent(rig.turn(), "storage-1")) == 1


# --- tails ----------------------------------------------------------------------------------------


def test_tails_are_answered_at_the_end_of_the_batch_with_what_is_published() -> None:
    rig = opened(1)
    rig.held({1: 5})
    assert rig.primary.tail_wanted(ENGINE, TailRequest(7, SPACE)) == []
    tail = Tail(7, SPACE, Position(TERM, 11), TAIL)
    assert rig.end_batch() == [Send(ENGINE, tail), Commit(SPACE, 2)]
    rig.sync()
    rig.primary.tail_wanted(ENGINE, TailRequest(8, SPACE))
    assert rig.end_batch() == [Send(ENGINE, Tail(8, SPACE, Position(TERM, 12), TAIL + 5))]


def test_the_published_tail_is_that_of_the_published_entries() -> None:
    rig = opened(1)
    rig.primary.propose(ENGINE, Propose(9, SPACE, trim()))
    rig.end_batch()  # in flight: a run without a cut
    rig.held({1: 5})
    rig.end_batch()  # and one with a cut
    assert rig.primary.stats() == PrimaryStats(
        position=Position(TERM, 13),
        published=Position(TERM, 11),
        tail=TAIL,
        shards=1,
        followers=0,
        replicas={},
        begins_at=0,
    )
    rig.primary.persisted(2)
    assert rig.primary.stats().tail == TAIL
    rig.primary.persisted(3)
    assert rig.primary.stats().tail == TAIL + 5


def test_who_is_gone_gets_no_tail() -> None:
    rig = opened(1)
    rig.primary.tail_wanted(ENGINE, TailRequest(7, SPACE))
    rig.primary.tail_wanted("engine-2", TailRequest(8, SPACE))
    rig.primary.link_down(ENGINE)
    assert [each.to for each in rig.end_batch() if isinstance(each, Send)] == ["engine-2"]


def test_a_tail_that_is_asked_for_again_waits_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine asks again for as long as it has no answer."""
    monkeypatch.setattr(module, "TAILS_MAX", 2)
    rig = opened(1)
    for _ in range(5):
        assert rig.primary.tail_wanted(ENGINE, TailRequest(7, SPACE)) == []
    assert [each for each in rig.end_batch() if isinstance(each, Send)] == [
        Send(ENGINE, Tail(7, SPACE, Position(TERM, 11), TAIL))
    ]


def test_more_tails_than_may_wait_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TAILS_MAX", 2)
    rig = opened(1)
    for request in (1, 2):
        assert rig.primary.tail_wanted(ENGINE, TailRequest(request, SPACE)) == []
    overloaded = to_wire(Overloaded(module.RETRY_AFTER_S))
    assert rig.primary.tail_wanted(ENGINE, TailRequest(3, SPACE)) == [
        Send(ENGINE, failed(3, overloaded))
    ]
    rig.end_batch()
    assert rig.primary.tail_wanted(ENGINE, TailRequest(3, SPACE)) == []


def test_in_a_sealed_term_nobody_waits_for_a_tail() -> None:
    """None of it will ever be told; whoever asks is to ask the next primary."""
    rig = opened(1)
    rig.primary.seal()
    sealed = to_wire(Sealed(TERM))
    assert rig.primary.tail_wanted(ENGINE, TailRequest(7, SPACE)) == [
        Send(ENGINE, failed(7, sealed))
    ]


# --- followers ------------------------------------------------------------------------------------


def test_an_engine_gets_what_touches_its_shard_and_every_position_it_does_not_tell() -> None:
    rig = opened(1, 2)
    rig.follow(ENGINE, Position(TERM, 12), shard=1)
    rig.held({2: 5})
    other = MetalogPosition(SPACE, Position(TERM, 13), 105)
    assert sent(rig.turn(), ENGINE) == []
    assert rig.primary.tell_positions() == [Send(ENGINE, other)]
    rig.held({1: 5})
    assert sent(rig.turn(), ENGINE) == [Metalog(run(13, cut(105, (1, 0, 5))))]
    rig.primary.propose("engine-2", Propose(9, SPACE, trim()))
    assert sent(rig.turn(), ENGINE) == []
    trimmed = MetalogPosition(SPACE, Position(TERM, 15), 110)
    assert rig.primary.tell_positions() == [Send(ENGINE, trimmed)]
    rig.primary.propose("engine-2", Propose(9, SPACE, DeleteBook(0, 7, PROPOSER)))
    assert [entry for _, entry in entries_sent(rig.turn(), ENGINE)] == [
        DeleteBook(WALL_MS, 7, PROPOSER)
    ]


def test_positions_of_many_runs_are_one_message_and_what_concerns_an_engine_takes_its_place() -> (
    None
):
    rig = opened(1, 2)
    rig.follow(ENGINE, Position(TERM, 12), shard=1)
    timer = SetTimer(("positions", SPACE), followers.POSITIONS_S)
    rig.held({2: 5})
    assert timer in rig.turn()
    rig.held({2: 7})
    assert timer not in rig.turn()
    assert rig.primary.tell_positions() == [
        Send(ENGINE, MetalogPosition(SPACE, Position(TERM, 14), 107))
    ]
    rig.held({2: 8})
    assert timer in rig.turn()
    rig.held({1: 1})
    assert sent(rig.turn(), ENGINE) == [Metalog(run(15, cut(108, (1, 0, 1))))]
    assert rig.primary.tell_positions() == []


def test_engines_are_told_before_storage_nodes() -> None:
    rig = opened(1)
    rig.follow("storage-1", Position(TERM, 11), shard=0)
    rig.follow(ENGINE, Position(TERM, 11), shard=1)
    rig.held({1: 5})
    assert [each.to for each in rig.turn() if isinstance(each, Send)] == [ENGINE, "storage-1"]


def test_an_engine_hears_of_its_opening_and_closing_and_of_no_other() -> None:
    rig = Rig()
    rig.follow(ENGINE, START, shard=1)
    rig.open(2)
    assert entries_sent(rig.turn(), ENGINE) == []
    rig.open(1)
    assert entries_sent(rig.turn(), ENGINE) == [(Position(TERM, 12), open_entry(1))]
    rig.primary.open_shard(opening(3, ENGINE))
    closed = [entry for _, entry in entries_sent(rig.turn(), ENGINE)]
    assert closed == [CloseShard(WALL_MS, 1, 0), open_entry(3, ENGINE)]


def test_an_engine_that_knows_nothing_starts_now_with_every_deletion() -> None:
    old = Run(SPACE, Term(2), 4, (DeleteBook(5, 3, PROPOSER),))
    rig = Rig(deletions=(old,))
    rig.open(1)
    rig.primary.propose(ENGINE, Propose(9, SPACE, DeleteBook(0, 7, PROPOSER)))
    rig.turn()
    assert rig.follow("engine-2", START, shard=2) == [
        Send("engine-2", Metalog(old)),
        Send("engine-2", Metalog(run(11, DeleteBook(WALL_MS, 7, PROPOSER)))),
        Send("engine-2", MetalogPosition(SPACE, Position(TERM, 12), TAIL)),
    ]


def test_a_follower_that_comes_back_gets_what_it_missed() -> None:
    rig = opened(1)
    rig.follow("storage-1", Position(TERM, 11))
    rig.ordered({1: 3})
    rig.primary.link_down("storage-1")
    rig.ordered({1: 5})
    assert entries_sent(rig.follow("storage-1", Position(TERM, 12)), "storage-1") == [
        (Position(TERM, 13), cut(103, (1, 3, 5)))
    ]
    assert rig.follow("storage-2", Position(TERM, 13)) == []


def test_what_memory_does_not_keep_is_read_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ordered, "RUNS_CACHED", 2)
    rig = opened(1)
    for count in range(1, 8):
        rig.ordered({1: count})
    rig.held({1: 9})
    rig.end_batch()  # staged: it cannot be read, and must not be sent
    found = entries_sent(rig.follow("storage-1", BASE), "storage-1")
    assert [position.count for position, _ in found] == list(range(11, 19))
    assert found[0] == (Position(TERM, 11), open_entry(1))
    assert found[-1] == (Position(TERM, 18), cut(106, (1, 6, 7)))


def test_entries_of_earlier_terms_are_read_back_too() -> None:
    first = opened(1)
    first.ordered({1: 3})
    recovered = journalled(first.journal, end())
    rig = Rig(recovered=recovered, journal=first.journal)
    rig.open(2)
    rig.turn()
    assert [position for position, _ in entries_sent(rig.follow("s", BASE), "s")] == [
        *(Position(TERM, count) for count in (11, 12, 13)),
    ]


def test_a_position_past_what_was_kept_is_sent_what_came_in_its_place() -> None:
    """P11: of a class that may lose entries, a follower saw some that the journal lost."""
    rig = opened(1)
    lost = Position(Term(3), 15)  # the term before ended at 10
    assert entries_sent(rig.follow("storage-1", lost), "storage-1") == [
        (Position(TERM, 11), open_entry(1))
    ]
    assert entries_sent(rig.follow(ENGINE, lost, shard=1), ENGINE) == [
        (Position(TERM, 11), open_entry(1))
    ]
    rig.held({1: 2})
    assert entries_sent(rig.turn(), "storage-1") == [(Position(TERM, 12), cut(100, (1, 0, 2)))]


def test_a_position_past_what_is_published_waits_there() -> None:
    rig = opened(1)
    assert rig.follow("storage-1", Position(TERM, 99)) == []
    rig.held({1: 2})
    assert entries_sent(rig.turn(), "storage-1") == [(Position(TERM, 12), cut(100, (1, 0, 2)))]


def test_a_follower_far_behind_lets_others_have_their_turn() -> None:
    rig = opened(1)
    for count in range(1, 2 * RUNS_FED):
        rig.ordered({1: count})
    first = rig.follow("storage-1", BASE)
    timer = SetTimer(("feed", SPACE, "storage-1"), 0.0)
    assert (len(first), first[-1]) == (RUNS_FED + 1, timer)
    second = rig.primary.feed("storage-1")
    assert len(second) == RUNS_FED
    positions = [position.count for position, _ in entries_sent([*first, *second], "storage-1")]
    assert positions == list(range(11, 11 + 2 * RUNS_FED))
    assert rig.primary.feed("storage-1") == []


def test_runs_that_an_engine_does_not_need_take_turns_as_well(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(followers, "RUNS_LOOKED_AT", 5)
    rig = opened(1, 2)
    for count in range(1, 8):
        rig.ordered({2: count})
    timer = SetTimer(("feed", SPACE, ENGINE), 0.0)
    assert rig.follow(ENGINE, Position(TERM, 12), shard=1) == [timer]
    assert rig.primary.feed(ENGINE) == [
        Send(ENGINE, MetalogPosition(SPACE, Position(TERM, 19), 107))
    ]


def test_a_timer_for_a_follower_that_is_gone_does_nothing() -> None:
    rig = opened(1)
    assert rig.primary.feed("storage-1") == []


# --- ceilings (P11) -------------------------------------------------------------------------------


@pytest.mark.parametrize("durability", ["flush", "memory"])
def test_no_seqnum_is_given_before_its_ceiling_is_synced(durability: Durability) -> None:
    rig = Rig(durability=durability, start=end(Position(Term(3), 0)))
    rig.open(1)
    asked = TAIL + CEILING_STEP
    assert rig.end_batch() == [Commit(SPACE, 1), RaiseCeiling(SPACE, asked)]
    rig.sync()
    rig.held({1: 5})
    assert rig.end_batch() == []
    rig.primary.ceiling_raised(asked)
    assert rig.end_batch() == [Commit(SPACE, 3)]


def test_a_ceiling_is_asked_for_well_before_it_is_needed() -> None:
    rig = Rig(durability="flush")
    rig.open(1)
    rig.turn()
    rig.primary.ceiling_raised(TAIL + CEILING_STEP)
    rig.held({1: CEILING_STEP // 2 + 1})
    effects = rig.turn()
    asked = TAIL + CEILING_STEP // 2 + 1 + CEILING_STEP
    assert (committed(effects), effects[1]) == ([2], RaiseCeiling(SPACE, asked))
    assert rig.turn() == []


def test_a_cut_that_would_pass_the_ceiling_waits_for_the_next() -> None:
    rig = Rig(durability="flush")
    rig.open(1)
    rig.turn()
    rig.primary.ceiling_raised(TAIL + CEILING_STEP)
    rig.held({1: CEILING_STEP + 1})
    (effect,) = rig.end_batch()
    assert isinstance(effect, RaiseCeiling)
    rig.primary.ceiling_raised(effect.seqnum)
    assert committed(rig.end_batch()) == [3]


def test_sync_needs_no_ceiling_and_stops_where_seqnums_end() -> None:
    rig = Rig(start=end(tail=SEQNUM_MAX - 1))
    rig.open(1)
    assert rig.turn() == [Commit(SPACE, 1)]
    rig.held({1: 3})
    assert rig.end_batch() == []


# --- class memory starts over (P20) ---------------------------------------------------------------


def report(folded: Position = START) -> IndexReport:
    return IndexReport(SPACE, folded, START, 0, folded == START)


def waiting_for_replicas() -> Rig:
    """A new term of class `memory`, with everything that would be ordered at once otherwise."""
    rig = Rig(durability="memory")
    rig.primary.ceiling_raised(TAIL + CEILING_STEP)
    rig.open(1)
    rig.primary.propose(ENGINE, Propose(9, SPACE, trim()))
    assert committed(rig.end_batch()) == []
    return rig


def test_once_every_replica_has_restarted_memory_starts_over() -> None:
    rig = waiting_for_replicas()
    for node in (A, B):
        rig.primary.index_reported(node, report())
        assert committed(rig.end_batch()) == []
    rig.primary.index_reported(C, report())
    rig.turn()
    everything = [
        (Position(TERM, 11), StartOver(WALL_MS, TAIL)),
        (Position(TERM, 12), open_entry(1)),
        (Position(TERM, 13), trim()._replace(timestamp_ms=WALL_MS)),
    ]
    for node in NODES:
        assert entries_sent(rig.follow(node, START), node) == everything


def test_p20_a_replica_that_follows_again_gets_nothing_from_before_the_start_over() -> None:
    """An engine has sent it frames of a cut from before once more: it would fold that cut, be empty
    no longer, and not start over (seed 1852)."""
    before = waiting_for_replicas()
    before.primary.index_reported(A, report(BASE))
    before.turn()
    recovered = before.primary._ordered.recovered(TAIL, WALL_MS)
    rig = Rig(durability="memory", recovered=recovered, journal=before.journal)
    rig.primary.ceiling_raised(TAIL + CEILING_STEP)
    rig.open(1)
    for node in NODES:
        rig.primary.index_reported(node, report())
    rig.turn()
    (first, *_) = entries_sent(rig.follow(A, BASE), A)
    assert first == (Position(TERM, 13), StartOver(WALL_MS, TAIL))


def test_a_replica_that_still_holds_something_keeps_what_was_ordered() -> None:
    rig = waiting_for_replicas()
    rig.primary.index_reported(A, report())
    rig.primary.index_reported(B, report(BASE))
    rig.turn()
    assert entries_sent(rig.follow(B), B) == [
        (Position(TERM, 11), open_entry(1)),
        (Position(TERM, 12), trim()._replace(timestamp_ms=WALL_MS)),
    ]


# --- failures -------------------------------------------------------------------------------------


def test_after_a_failed_sync_nothing_more_is_ordered_or_published() -> None:
    rig = opened(1)
    rig.follow("storage-1", Position(TERM, 11))
    rig.held({1: 3})
    rig.end_batch()
    rig.primary.propose(ENGINE, Propose(9, SPACE, trim()))
    error = to_wire(NotReady("sequencing has stopped: the disk is gone"))
    assert rig.primary.persist_failed("the disk is gone") == [Send(ENGINE, failed(9, error))]
    rig.held({1: 9})
    rig.open(2)
    assert rig.end_batch() == []
    assert rig.primary.persisted(rig.token) == []
    assert rig.primary.propose(ENGINE, Propose(10, SPACE, trim())) == [
        Send(ENGINE, failed(10, error))
    ]


def test_after_a_failed_sync_reads_go_on() -> None:
    rig = opened(1)
    rig.held({1: 3})
    rig.end_batch()
    rig.primary.persist_failed("the disk is gone")
    rig.primary.tail_wanted(ENGINE, TailRequest(7, SPACE))
    assert rig.end_batch() == [Send(ENGINE, Tail(7, SPACE, Position(TERM, 11), TAIL))]
    assert entries_sent(rig.follow("storage-1", BASE), "storage-1") == [
        (Position(TERM, 11), open_entry(1))
    ]


def test_a_journal_that_takes_nothing_any_more_stops_the_order_as_well() -> None:
    rig = opened(1)
    rig.held({1: 3})
    rig.primary.propose(ENGINE, Propose(9, SPACE, trim()))
    rig.journal.broken = "the disk is gone"
    error = to_wire(NotReady("sequencing has stopped: the disk is gone"))
    assert rig.end_batch() == [Send(ENGINE, failed(9, error))]
    assert not rig.primary.committed(rig.token)
    assert rig.primary.stats().tail == TAIL


def test_after_another_term_has_begun_not_even_a_tail_is_told() -> None:
    rig = opened(1)
    rig.held({1: 3})
    rig.end_batch()
    rig.primary.tail_wanted(ENGINE, TailRequest(7, SPACE))
    rig.primary.propose(ENGINE, Propose(9, SPACE, trim()))
    error = to_wire(WrongTerm(5))
    assert rig.primary.depose(Term(5)) == [
        Send(ENGINE, failed(9, error)),
        Send(ENGINE, failed(7, error)),
    ]
    assert rig.primary.tail_wanted(ENGINE, TailRequest(8, SPACE)) == [
        Send(ENGINE, failed(8, error))
    ]
    assert rig.primary.persisted(rig.token) == []
    assert rig.end_batch() == []


def test_a_disk_that_stands_still_bounds_what_is_in_flight(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "RUNS_IN_FLIGHT_MAX", 2)
    rig = opened(1)
    rig.follow("storage-1", Position(TERM, 11))
    for count in range(1, 6):
        rig.held({1: count})
        rig.end_batch()
    first = rig.sync()
    rig.end_batch()
    assert entries_sent([*first, *rig.sync()], "storage-1") == [
        (Position(TERM, 12), cut(100, (1, 0, 1))),
        (Position(TERM, 13), cut(101, (1, 1, 2))),
        (Position(TERM, 14), cut(102, (1, 2, 5))),
    ]


# --- keys and reports -----------------------------------------------------------------------------


def test_keys_are_forgotten_when_a_term_begins_and_then_hourly_with_other_entries() -> None:
    rig = Rig(forget_keys=True)
    rig.follow("storage-1")
    rig.open(1)
    first = [type(entry) for _, entry in entries_sent(rig.turn(), "storage-1")]
    rig.wall_ms += DAY_MS // 24 - 1
    rig.held({1: 1})
    second = [type(entry) for _, entry in entries_sent(rig.turn(), "storage-1")]
    rig.wall_ms += 1
    assert rig.turn() == []
    rig.held({1: 2})
    third = entries_sent(rig.turn(), "storage-1")
    assert (first, second) == ([OpenShard, ForgetKeys], [Cut])
    assert third[-1] == (Position(TERM, 15), ForgetKeys(rig.wall_ms))


def test_index_replicas_are_listed_as_they_report() -> None:
    rig = opened(1)
    rig.primary.index_reported(A, IndexReport(SPACE, Position(TERM, 11), BASE, 1, empty=False))
    rig.primary.index_reported(C, IndexReport(SPACE, BASE, START, 1, empty=False))
    rig.primary.index_reported(A, IndexReport(SPACE, Position(TERM, 12), BASE, 1, empty=False))
    assert rig.primary.stats().replicas == {A: (12, 10), C: (10, 0)}
    assert B not in rig.primary.stats().replicas


def test_an_embedded_primary_has_no_runs_of_earlier_terms() -> None:
    rig = opened(1)
    assert isinstance(rig.primary.runs, RunIndex)
    assert entries_sent(rig.follow("storage-1", Position(Term(2), 4)), "storage-1") == [
        (Position(TERM, 11), open_entry(1))
    ]


def test_that_a_replica_was_empty_before_anything_was_ordered_is_not_told_to_the_next_primary() -> (
    None
):
    """It would take all replicas for restarted and start over with records that they hold. Found by
    the simulator."""
    rig = waiting_for_replicas()
    for node in NODES:
        rig.primary.index_reported(node, report())
    rig.turn()
    rig.held({1: 3})
    rig.turn()
    assert not [node for node, told in rig.primary.asked() if isinstance(told, IndexReport)]
    rig.primary.index_reported(A, report())
    assert [node for node, told in rig.primary.asked() if isinstance(told, IndexReport)] == [A]
