"""What each entry does, what reads answer, and what a checkpoint holds.

Whole histories are compared with the specification in tests/property/test_index_properties.py.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from bokilog.errors import InvalidRange, InvalidSettings, InvalidTag, Trimmed
from bokilog.ids import Position, Term
from bokilog.journal import Location
from bokilog.messages import (
    VERDICT_BOOK_DELETED,
    VERDICT_CONDITION_FAILED,
    VERDICT_DUPLICATE,
    VERDICT_KEY_REUSED,
    VERDICT_TAGS_ENDED,
    VERDICT_VISIBLE,
)
from bokilog.metalog import CloseShard, OpenShard, Trim
from bokilog.storage_nodes import keys
from bokilog.storage_nodes.index import Index
from bokilog.storage_nodes.memory_store import MemoryStore
from tests.unit.storage_nodes.folds import BOOK, ME, SHARD, SPACE, Fold, U

FAR = 2**53


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def fold(store: MemoryStore) -> Fold:
    return Fold(Index(SPACE, store))


def restarted(fold: Fold, store: MemoryStore) -> Index:
    """As after a crash, before the journal is folded again."""
    store.crash()
    return Index(SPACE, store)


def through(steps: Iterator[None]) -> None:
    for _ in steps:
        pass


def finish(index: Index) -> None:
    """The rest of a checkpoint that was frozen."""
    through(index.checkpoint_steps())
    index.write_checkpoint()
    index.checkpoint_done()


# --- cuts -----------------------------------------------------------------------------------------


def test_a_cut_gives_seqnums_in_order_and_leaves_gaps_alone(fold: Fold) -> None:
    fold.cut([[U(["a"]), U(["b", "a"])], [U([["a", "c"]])]])
    fold.cut([[U(["a"])]], gap=10)
    assert fold.visible("a") == [1, 3, 4, 15]
    assert fold.visible("c") == [4]
    assert fold.visible() == [1, 2, 3, 4, 15]
    assert fold.index.tail == 16
    assert not fold.index.contains(BOOK, 5)
    fold.index.check()


def test_plain_frames_have_no_verdicts(fold: Fold) -> None:
    outcome = fold.append(U(["a"]), U(["b", None]))
    assert (outcome.verdicts, outcome.void_units) == ([], ())
    assert fold.index.verdicts_of(outcome.frame, 1) == []


def test_logbooks_in_one_frame_do_not_mix(fold: Fold) -> None:
    fold.append(U(["a"]), U(["a", "b"], book=6), U(["b"]))
    assert fold.visible("a") == [1]
    assert fold.visible("b") == [4]
    assert fold.visible("a", book=6) == [2]
    assert fold.index.book_state(6) == (0, 2, 3, [])


def test_p22_units_see_the_units_before_them(fold: Fold) -> None:
    first = [U(["lock"], unless=[("lock", 0)]), U(["lock", "x"], unless=[("lock", 0)])]
    outcomes = fold.cut([first, [U(["lock"], unless=[("lock", 1)])]])
    assert outcomes[0].verdicts == [
        [0, VERDICT_VISIBLE, 1, None],
        [1, VERDICT_CONDITION_FAILED, "lock", 1],
    ]
    assert outcomes[0].void_units == (1,)
    assert outcomes[1].verdicts == [[0, VERDICT_VISIBLE, 4, None]]
    assert fold.visible("lock") == [1, 4]
    assert fold.visible("x") == []  # a void unit is void as a whole
    assert fold.visible() == [1, 4]


def test_p22_trimmed_records_count_for_conditions(fold: Fold) -> None:
    fold.append(U(["a"]))
    fold.trim(FAR)
    fold.index.checkpoint()
    outcome = fold.append(U(["a"], unless=[("a", 0)]))
    assert outcome.verdicts == [[0, VERDICT_CONDITION_FAILED, "a", 1]]
    outcome = fold.append(U(["a"], unless=[(None, 1)]))
    assert outcome.verdicts == [[0, VERDICT_VISIBLE, 3, None]]


def test_p34_conditions_on_impossible_tags_trip_nothing_up(fold: Fold) -> None:
    fold.append(U(["a"]))
    tests = [("", 0), ("x" * 100_000, 0), ("b", -5)]
    outcome = fold.append(U(["a"], unless=tests), U(key="k", horizon_s=2**63))
    assert [verdict[1] for verdict in outcome.verdicts] == [VERDICT_VISIBLE] * 2
    fold.index.checkpoint()


def test_a_key_returns_the_first_span_also_after_a_trim(fold: Fold) -> None:
    fold.append(U(["a", "a"], key="k"))
    fold.trim(FAR)
    fold.index.checkpoint()
    outcome = fold.append(U(["a", "a"], key="k", unless=[("a", 0)]))
    assert outcome.verdicts == [[0, VERDICT_DUPLICATE, 1, 2]]
    assert outcome.void_units == (0,)
    outcome = fold.append(U(["a"], key="k", digest=b"e" * 16))
    assert outcome.verdicts == [[0, VERDICT_KEY_REUSED, 1, "k"]]
    assert fold.append(U(["a"], book=6, key="k")).void_units == ()  # keys belong to a LogBook


def test_a_void_unit_does_not_use_up_its_key(fold: Fold) -> None:
    fold.append(U(["a"]))
    assert fold.append(U(["a"], key="k", unless=[("a", 0)])).void_units == (0,)
    assert fold.append(U(["a"], key="k", unless=[("a", 1)])).void_units == ()


def test_p22_keys_are_forgotten_by_an_entry_at_their_expiry(fold: Fold) -> None:
    fold.append(U(key="k", horizon_s=1), at_ms=2000)
    fold.forget_keys(2999)
    assert fold.append(U(key="k", horizon_s=1)).void_units == (0,)
    fold.forget_keys(3000)
    assert fold.append(U(key="k", horizon_s=1)).void_units == ()


def test_p23_verdicts_are_answered_again_after_a_checkpoint(fold: Fold, store: MemoryStore) -> None:
    outcome = fold.append(U(["a"]), U(["a"], unless=[("a", 0)]), U(key="k"))
    assert fold.index.verdicts_of(outcome.frame, 1) == outcome.verdicts
    fold.index.checkpoint()
    assert restarted(fold, store).verdicts_of(outcome.frame, 1) == outcome.verdicts


def test_p1_a_cut_of_a_shard_that_is_not_open_is_a_bug(fold: Fold) -> None:
    fold.append(U())
    fold.apply(CloseShard(fold.now_ms, SHARD, 1))
    with pytest.raises(AssertionError, match="not open"):
        fold.append(U())


def test_open_shards_count_what_is_ordered(fold: Fold, store: MemoryStore) -> None:
    fold.append(U(), U(["a", "b"]))
    fold.apply(OpenShard(fold.now_ms, 8, "engine-8", ("s-1", "s-2")))
    fold.index.checkpoint()
    shards = restarted(fold, store).open_shards
    assert {n: (s.engine, s.replicas, s.ordered) for n, s in shards.items()} == {
        SHARD: ("engine-7", ("s-1",), 3),
        8: ("engine-8", ("s-1", "s-2"), 0),
    }
    fold.apply(OpenShard(fold.now_ms, SHARD, "engine-7", ("s-1",)))
    assert fold.index.open_shards[SHARD].ordered == 3  # asked for twice


def test_p13_a_new_term_closes_shards_and_starts_above_its_end(fold: Fold) -> None:
    fold.append(U())
    fold.index.begin_term(Term(2), tail=50)
    assert fold.index.position == Position(Term(2), 2)
    assert fold.index.open_shards == {}
    assert fold.index.tail == 50
    fold.counts.clear()
    assert fold.append(U()).first_seqnum == 50


# --- trims and holds ------------------------------------------------------------------------------


def test_p25_a_trim_is_clamped_to_the_tail_and_never_goes_back(fold: Fold) -> None:
    fold.append(*[U(["a"])] * 9)
    assert fold.trim(5) == [5, None]
    assert fold.trim(3) == [5, None]
    assert fold.trim(-1) == [5, None]
    assert fold.visible("a") == [5, 6, 7, 8, 9]
    assert fold.trim(FAR) == [10, None]
    assert fold.visible() == []
    assert fold.index.book_state(BOOK) == (10, 0, 9, [])


def test_p25_a_trim_stops_at_the_lowest_live_hold(fold: Fold) -> None:
    fold.append(*[U()] * 9)
    assert fold.hold("late", 6, ttl_ms=10**6) == []
    assert fold.hold("report", 4, ttl_ms=50) == []
    assert fold.trim(8) == [4, "report"]
    assert fold.trim(8, tag="a") == [4, "report"]
    assert fold.trim(4) == [4, None]
    refused = fold.hold("low", 3)
    assert isinstance(refused, Trimmed)
    assert refused.trim_until == 4
    holds = fold.index.book_state(BOOK)[3]
    assert [hold[:2] for hold in holds] == [["late", 6], ["report", 4]]
    fold.append(U(), at_ms=fold.now_ms + 100)  # the report's hold expires by the log's time
    assert fold.trim(8) == [6, "late"]
    assert fold.release("late") == []
    assert fold.release("nobody") == []
    assert fold.trim(8) == [8, None]


def test_the_same_hold_again_moves_and_renews_it(fold: Fold) -> None:
    fold.append(*[U()] * 9)
    fold.hold("h", 2)
    fold.hold("h", 5)
    assert fold.trim(8) == [5, "h"]


def test_trims_of_tags_hide_records_of_no_other_tag(fold: Fold) -> None:
    fold.append(U(["a"]), U([["a", "b"]]), U(["b"]), U([None]), U(["a"]))
    assert not fold.index.has_tag_trims(BOOK)
    assert fold.trim(4, tag="a") == [4, None]
    assert fold.visible("a") == [5]
    assert fold.visible("b") == [2, 3]
    assert fold.index.trim_until(BOOK, "a") == 4
    assert fold.index.trim_until(BOOK) == 0
    assert fold.index.has_tag_trims(BOOK)
    hidden = fold.index.hidden_by_tag_trims
    assert hidden(BOOK, 1, ["a"])
    assert not hidden(BOOK, 2, ["a", "b"])
    assert not hidden(BOOK, 4, [])
    assert fold.index.trims_of(BOOK) == [[BOOK, "a", 4]]
    fold.trim(5)
    assert fold.index.trims_of(BOOK) == [[BOOK, None, 5]]


def test_trims_and_holds_outlive_a_restart(fold: Fold, store: MemoryStore) -> None:
    fold.append(*[U(["a"])] * 9)
    fold.trim(3)
    fold.trim(5, tag="a")
    fold.hold("h", 7, ttl_ms=10**6)
    fold.end_tags("$w/")
    state = fold.index.book_state(BOOK)
    fold.index.checkpoint()
    index = restarted(fold, store)
    assert index.book_state(BOOK) == state
    assert index.trims_of(BOOK) == [[BOOK, None, 3], [BOOK, "a", 5]]
    assert index.seqnums(BOOK, "a", 0, FAR, limit=2) == [5, 6]
    fold.index = index
    assert fold.append(U(["$w/1"])).verdicts == [[0, VERDICT_TAGS_ENDED, "$w/", None]]
    assert fold.trim(9) == [7, "h"]


@pytest.mark.parametrize(
    "entry",
    [
        Trim(1, -1, None, 5, ME),
        Trim(1, BOOK, "", 5, ME),
        Trim(1, BOOK, "x" * 300, 5, ME),
        Trim(1, BOOK, 7, 5, ME),  # type: ignore[arg-type]
        Trim(1, BOOK, None, "5", ME),  # type: ignore[arg-type]
    ],
)
def test_p34_a_proposal_that_makes_no_sense_does_nothing(fold: Fold, entry: Trim) -> None:
    fold.append(U())
    assert isinstance(fold.apply(entry), InvalidRange | InvalidTag)
    assert fold.index.position.count == 3
    assert fold.visible() == [1]


# --- deletion, ended tags -------------------------------------------------------------------------


def test_p5_units_of_a_deleted_logbook_are_void(fold: Fold, store: MemoryStore) -> None:
    fold.append(U(["a"], key="k"), U(["a"], book=6))
    fold.index.checkpoint()
    fold.append(U(["a"]))
    assert fold.delete() == []
    assert fold.delete() == []
    outcome = fold.append(U(["a"]), U(["a"], key="k"), U(["b"], book=6))
    assert outcome.verdicts == [
        [0, VERDICT_BOOK_DELETED, None, None],
        [1, VERDICT_BOOK_DELETED, None, None],
    ]
    assert fold.visible("a") == []
    assert fold.visible("b", book=6) == [6]
    assert fold.index.trim_until(BOOK) == fold.index.tail == 7
    assert fold.trim(3) == [7, None]
    assert isinstance(fold.hold("h", 3), Trimmed)
    assert fold.index.deleted_books == {BOOK}
    assert fold.index.book_state(BOOK) == (7, 0, 0, [])
    fold.index.checkpoint()
    assert [key for key, _ in store.scan(b"", b"\xff") if keys.book_of(key) == BOOK] == [
        keys.numbered(keys.BOOKS, BOOK)
    ]
    assert restarted(fold, store).deleted_books == {BOOK}


def test_the_system_logbook_stays(fold: Fold) -> None:
    assert isinstance(fold.delete(0), InvalidRange)
    assert fold.index.deleted_books == set()


def test_p22_ended_tags_make_units_void(fold: Fold) -> None:
    assert fold.append(U(["$w/1"])).verdicts == [[0, VERDICT_VISIBLE, 1, None]]
    assert isinstance(fold.end_tags("w/"), InvalidTag)
    assert fold.end_tags("$w/") == []
    assert fold.end_tags("$w/1") == []
    outcome = fold.append(U(["$w/1"]), U(["a"]), U(["a"], unless=[("$w/2", 0)]), U([["a", "$w/3"]]))
    ended = [VERDICT_TAGS_ENDED, "$w/", None]
    assert outcome.verdicts == [[0, *ended], [2, *ended], [3, *ended]]
    assert fold.append(U(["$v"]), U(["a"])).verdicts == [[0, VERDICT_VISIBLE, 6, None]]
    assert fold.visible("a") == [3, 7]
    assert fold.visible("$w/1") == [1]  # what was there stays until it is trimmed


# --- locations, time, aux -------------------------------------------------------------------------


def test_frames_are_found_by_seqnum_before_and_after_a_checkpoint(
    fold: Fold, store: MemoryStore
) -> None:
    placed = [
        (outcome.first_seqnum, outcome.frame.records)
        for _ in range(5)
        for outcome in fold.cut([[U(["a", "b", "c"])], [U(), U(unless=[(None, 0)])]], gap=2)
    ]
    for index in (fold.index, fold.index, None):
        if index is None:
            index = restarted(fold, store)
        for seqnum in range(index.tail + 2):
            row = index.locate(seqnum)
            inside = [p for p in placed if p[0] <= seqnum < p[0] + p[1]]
            assert [(row.first_seqnum, row.records)] == inside if row else not inside
        rows = index.locate_range(4, 20)
        assert [r.first_seqnum for r in rows] == [f for f, n in placed if f + n > 4 and f < 20]
        assert index.locate_range(4, 20, limit=1) == rows[:1]
        assert [row.void_units for row in rows if row.records == 2] == [(1,)] * 2
        fold.index.checkpoint()


def test_seqnum_at_is_the_first_cut_at_or_after_a_time(fold: Fold, store: MemoryStore) -> None:
    fold.now_ms = 0
    for at_ms in (100, 200, 200, 300):
        fold.append(U(), U(), at_ms=at_ms)
        fold.now_ms -= 1  # so that two cuts may carry one timestamp
    expected = {0: 1, 100: 1, 101: 3, 200: 3, 201: 7, 300: 7, 301: 9, FAR: 9}
    assert {at: fold.index.seqnum_at(at) for at in expected} == expected
    fold.index.freeze()
    assert {at: fold.index.seqnum_at(at) for at in expected} == expected
    through(fold.index.checkpoint_steps())
    fold.index.write_checkpoint()
    assert {at: fold.index.seqnum_at(at) for at in expected} == expected
    fold.index.checkpoint_done()
    assert {at: fold.index.seqnum_at(at) for at in expected} == expected
    fold.append(U(), at_ms=400)
    expected |= {301: 9, 400: 9, 401: 10, FAR: 10}
    assert {at: fold.index.seqnum_at(at) for at in expected} == expected


def test_p7_a_frame_that_moved_is_found_at_its_new_place(fold: Fold, store: MemoryStore) -> None:
    fold.append(U(), U())
    fold.index.checkpoint()
    fold.append(U(), U())
    fold.index.freeze()
    fold.append(U())
    moved = {1: Location(70, 1, 2), 3: Location(70, 2, 2), 5: Location(70, 3, 1)}
    for first_seqnum, location in moved.items():
        assert fold.index.relocate(first_seqnum, location)
    assert not fold.index.relocate(2, Location(70, 9, 9))
    assert not fold.index.relocate(6, Location(70, 9, 9))

    def places(index: Index) -> dict[int, Location]:
        return {r.first_seqnum: r.location for r in index.locate_range(0, FAR)}

    assert places(fold.index) == moved
    finish(fold.index)
    assert places(fold.index) == moved
    fold.index.checkpoint()
    assert places(restarted(fold, store)) == moved
    assert fold.index.segments.books_of(70) == {BOOK: 5}


def test_aux_data_is_kept_and_the_last_one_stays(fold: Fold, store: MemoryStore) -> None:
    fold.append(U(), U())
    assert not fold.index.has_aux
    assert fold.index.get_aux(1) is None
    fold.index.set_aux(1, b"one")
    fold.index.checkpoint()
    fold.index.set_aux(1, b"two")
    fold.index.freeze()
    fold.index.set_aux(2, b"three")
    assert (fold.index.get_aux(1), fold.index.get_aux(2)) == (b"two", b"three")
    finish(fold.index)
    index = restarted(fold, store)
    assert index.has_aux
    assert (index.get_aux(1), index.get_aux(2)) == (b"two", None)


def test_pending_aux_data_is_bounded_by_dropping_the_oldest(fold: Fold) -> None:
    for seqnum in range(300):
        fold.index.set_aux(seqnum, bytes(64 << 10))
    assert fold.index.stats().aux_dropped == 300 - 256
    assert fold.index.get_aux(0) is None
    assert fold.index.get_aux(299) is not None


def test_p21_rows_and_aux_data_go_with_their_segments(fold: Fold, store: MemoryStore) -> None:
    for _ in range(30):
        fold.append(*[U()] * 100)
    fold.index.set_aux(5, b"x")
    fold.index.set_aux(2900, b"x")
    fold.index.checkpoint()  # frames of 100 records, segments of 1000 seqnums
    for _ in range(3):
        fold.append(*[U()] * 100)
        fold.index.checkpoint()
    fold.trim(3150)
    assert fold.index.segments.dead(fold.index, before=3) == [0, 1, 2]
    fold.index.checkpoint()
    index = restarted(fold, store)
    assert index.locate(5) is None
    assert index.locate(3200) is not None
    assert index.get_aux(5) is None
    assert index.seqnum_at(0) == 3001
    assert list(index.segments.books_of(3)) == [BOOK]


# --- checkpoints (P19) ----------------------------------------------------------------------------


def history(fold: Fold, seed: int, entries: int = 40) -> None:
    """Entries of every kind, the same for the same seed."""
    rng = random.Random(seed)
    for _ in range(entries):
        tail = fold.index.tail
        match rng.randrange(8):
            case 0:
                fold.trim(rng.randrange(tail + 1), rng.choice([None, "a", "b"]))
            case 1:
                fold.hold(rng.choice("hi"), rng.randrange(tail + 1), ttl_ms=rng.randrange(20))
            case 2:
                fold.forget_keys(fold.now_ms + rng.randrange(2000))
            case _:
                fold.append(
                    U([rng.choice(["a", "b", None]) for _ in range(rng.randrange(1, 4))]),
                    U(["c"], unless=[(rng.choice("abc"), rng.randrange(tail + 1))]),
                    U(key=rng.choice("klm"), horizon_s=1),
                )


def answers(index: Index) -> list[object]:
    tags = (None, "a", "b", "c")
    return [
        (index.position, index.tail, index.timestamp_ms, index.chained_hash),
        [index.seqnums(BOOK, tag, 0, FAR, limit=999) for tag in tags],
        [index.last(BOOK, tag) for tag in tags],
        index.book_state(BOOK),
        sorted(map(str, index.trims_of(BOOK))),
        index.locate_range(0, FAR),
    ]


def test_p20_a_refolded_index_answers_and_hashes_alike(fold: Fold, store: MemoryStore) -> None:
    history(fold, 1)
    fold.index.checkpoint()
    history(fold, 2)
    before = answers(fold.index)
    twin = Fold(Index(SPACE, MemoryStore()))
    twin.history = fold.history
    twin.refold(twin.index)
    assert answers(twin.index) == before
    fold.refold(restarted(fold, store))
    assert fold.index.stored_position < fold.index.position
    assert answers(fold.index) == before
    fold.index.check()


@pytest.mark.parametrize("crash", ["frozen", "half built", "built", "written", "flushed"])
def test_p19_a_crash_leaves_the_state_of_exactly_one_position(
    fold: Fold, store: MemoryStore, crash: str
) -> None:
    history(fold, 3)
    fold.index.checkpoint()
    old = answers(fold.index)
    history(fold, 4)
    new = answers(fold.index)
    assert fold.index.freeze(replay_hint=b"here")
    assert not fold.index.freeze()
    history(fold, 5)
    if crash != "frozen":
        steps = fold.index.checkpoint_steps()
        next(steps)
        history(fold, 6)
        if crash != "half built":
            through(steps)
            if crash == "written":
                assert fold.index._batch is not None
                store.write(fold.index._batch)
            elif crash == "flushed":
                fold.index.write_checkpoint()
    latest = answers(fold.index)
    index = restarted(fold, store)
    assert answers(index) == (new if crash == "flushed" else old)
    assert index.replay_hint == (b"here" if crash == "flushed" else b"")
    fold.refold(index)
    assert answers(fold.index) == latest


def test_a_checkpoint_whose_write_failed_is_built_again(
    fold: Fold, store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    history(fold, 7)
    expected = answers(fold.index)
    fold.index.freeze()
    through(fold.index.checkpoint_steps())
    with monkeypatch.context() as patch:
        patch.setattr(store, "write", lambda batch: (_ for _ in ()).throw(OSError("full")))
        with pytest.raises(OSError, match="full"):
            fold.index.write_checkpoint()
    assert fold.index.frozen
    assert answers(fold.index) == expected
    finish(fold.index)
    assert answers(restarted(fold, store)) == expected


def test_what_happens_after_a_freeze_does_not_reach_the_store(
    fold: Fold, store: MemoryStore
) -> None:
    """Each of these would make the stored state decide differently from its own position on."""
    fold.append(U(["a"], key="k", horizon_s=1), U(["$w/1"]), at_ms=1000)
    fold.index.checkpoint()
    fold.append(*[U(["a"])] * 3)
    fold.trim(3)
    fold.trim(4, tag="a")
    fold.index.freeze()
    before = answers(fold.index)
    # 1. Everything is trimmed: the postings frozen must be stored all the same.
    fold.trim(FAR)
    fold.trim(FAR, tag="b")
    # 2. The tag is ended: its state, trimmed by now, still decides units before that.
    fold.end_tags("$w/")
    # 3. The key is forgotten: until then it still makes duplicates.
    fold.forget_keys(10_000)
    # 4. The LogBook is held.
    fold.hold("h", FAR)
    finish(fold.index)
    index = restarted(fold, store)
    assert answers(index) == before
    assert index.last(BOOK, "$w/1") == 2
    fold.index, fold.now_ms = index, 1500
    assert fold.append(U(["a"], key="k", unless=[("$w/1", 0)])).verdicts == [
        [0, VERDICT_DUPLICATE, 1, 1]
    ]
    assert fold.append(U(["a"], unless=[("$w/1", 0)])).verdicts == [
        [0, VERDICT_CONDITION_FAILED, "$w/1", 2]
    ]


def test_a_forgotten_key_leaves_the_store_unless_it_was_used_again(
    fold: Fold, store: MemoryStore
) -> None:
    hour_s = 3600
    fold.append(U(key="once", horizon_s=1), U(key="again", horizon_s=1), at_ms=1000)
    fold.index.checkpoint()
    fold.forget_keys(3000)  # what is removed is listed by the hour: not yet
    fold.append(U(key="again", horizon_s=10 * hour_s))
    fold.index.checkpoint()
    fold.forget_keys(2 * hour_s * 1000)
    fold.index.checkpoint()
    stored = [keys.name_of(key) for key in store.keys(keys.KEYS, b"L")]
    assert stored == ["again"]
    assert fold.append(U(key="again")).void_units == (0,)
    assert fold.append(U(key="once")).void_units == ()


def test_nothing_new_is_not_stored_again(fold: Fold) -> None:
    assert not fold.index.freeze()
    fold.append(U())
    assert fold.index.freeze()
    finish(fold.index)
    assert not fold.index.freeze()
    assert fold.index.stored_position == fold.index.position
    assert fold.index.stats().checkpoints == 1


def test_a_large_generation_asks_for_a_checkpoint(store: MemoryStore) -> None:
    fold = Fold(Index(SPACE, store, postings_max=100))
    full = []
    for _ in range(6):
        fold.append(*[U(["a"])] * 10)
        full.append(fold.index.full)
    assert full == [False] * 4 + [True] * 2
    assert fold.index.stats().active_postings == 120
    fold.index.freeze()
    assert fold.index.stats().frozen_postings == 120
    assert fold.index.stats().active_postings == 0


def test_a_store_of_another_log_space_is_refused(fold: Fold, store: MemoryStore) -> None:
    fold.append(U())
    fold.index.checkpoint()
    with pytest.raises(InvalidSettings, match=f"log space {SPACE}"):
        Index(SPACE + 1, store)


def test_p24_the_chained_hash_covers_entries_frames_and_void_units() -> None:
    def chained(*units: U, trim: int = 1) -> int:
        fold = Fold(Index(SPACE, MemoryStore()))
        fold.append(*units)
        fold.trim(trim)
        return fold.index.chained_hash

    assert chained(U(["a"])) == chained(U(["a"]))
    distinct = [
        chained(U(["a"])),
        chained(U(["b"])),
        chained(U(["a"]), trim=2),
        chained(U(["a"]), U(["a"])),
    ]
    assert len(set(distinct)) == len(distinct)


def test_golden_chained_hash(fold: Fold) -> None:
    """Replicas of two releases must hash alike: a change here needs a new fold version (P25)."""
    fold.append(U(["a"]), U(["a", None], unless=[("a", 0)]), U(["b"], key="k"))
    fold.trim(2)
    assert f"{fold.index.chained_hash:016x}" == "818f3ebc34f0cbd8"
