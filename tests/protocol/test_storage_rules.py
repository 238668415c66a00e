"""Rules of PROTOCOL.md at a storage node and in the fold: what breaks without each, as a story."""

from __future__ import annotations

import pytest

from bokilog.columns import Columns, record_sum
from bokilog.effects import (
    CancelTimer,
    Effect,
    LinkUp,
    ReadOnlyChanged,
    Send,
    SetTimer,
    TimerFired,
)
from bokilog.errors import (
    BokilogError,
    CorruptRecord,
    DataLost,
    ReadOnly,
    RemoteProtocolError,
    Trimmed,
    from_wire,
    to_wire,
)
from bokilog.frame import HEADER_BYTES
from bokilog.ids import Term
from bokilog.io.journal_memory import MemoryJournal
from bokilog.messages import (
    VERDICT_CONDITION_FAILED,
    VERDICT_DUPLICATE,
    VERDICT_VISIBLE,
    CancelRead,
    FetchFrames,
    FollowIndex,
    FollowMetalog,
    FrameRefused,
    FramesSent,
    IndexReport,
    IndexStream,
    ReadReply,
    Replicate,
    RequestFailed,
    ResumeShard,
    SetAux,
    ShardHeld,
    ShardProgress,
)
from bokilog.metalog import (
    CloseShard,
    DeleteBook,
    Entry,
    ForgetKeys,
    MetalogFollower,
    Proposer,
    StartOver,
    Trim,
)
from bokilog.storage_nodes import entries as entries_module, waiting as waiting_module
from bokilog.storage_nodes.answers import EARLY_AUX_MAX
from bokilog.storage_nodes.index import Index
from bokilog.storage_nodes.memory_store import MemoryStore
from bokilog.wire import decode, encode
from tests.protocol.storage_rig import (
    BOOK,
    ENGINE,
    NUMBER,
    OTHER,
    PEER,
    PRIMARY,
    SHARD,
    SPACE,
    StorageRig,
    at,
    cut,
    frame,
    loads,
    messages,
    opening,
    read,
    view,
)
from tests.unit.storage_nodes.folds import BOOK as FOLD_BOOK, SPACE as FOLD_SPACE, Fold, U

ME = Proposer(NUMBER, 1)
PATIENCE_IS_OVER = TimerFired(("fetch", int(SPACE)))


def error_of(reply: ReadReply | RequestFailed | None) -> BokilogError:
    assert isinstance(reply, RequestFailed), reply
    return from_wire(reply.error)


def counts(effects: list[Effect]) -> list[list[list[int]]]:
    """What progress reports say."""
    return [
        each.counts for each in messages(effects, ShardProgress) if isinstance(each, ShardProgress)
    ]


# --- names ----------------------------------------------------------------------------------------


def test_p01_a_second_different_frame_for_a_local_id_is_refused() -> None:
    """An engine that restarted under its old name would make two replicas hold different bytes
    under one LocalId, and both would count towards the frontier."""
    rig = StorageRig().begin()
    rig.take(frame(0, b"first"))
    assert rig.take(frame(0, b"other")) == [], "it is neither kept nor reported"
    rig.sync()
    rig.order(cut(1, 0, 1))
    reply = rig.ask(read())
    assert isinstance(reply, ReadReply)
    assert [bytes(data) for data in reply.payload] == [b"first"]
    assert rig.replica._pending.refused_count == 1


def test_p01_frames_that_come_before_their_opening_are_held_in_bounded_memory() -> None:
    """The engine heard of the opening before this node did: its frames must not be lost, nor fill
    the memory of a node whose metalog is late."""
    rig = StorageRig(pending_bytes=2000)
    rig.install(view())
    rig.hold(*(frame(n, b"x" * 500) for n in range(20)))
    assert rig.replica._pending.bytes_in_memory <= 2000
    rig.order(opening(), cut(1, 0, 20))
    assert rig.seqnums() == list(range(1, 21))


def test_p05_deleting_a_log_book_twice_is_deleting_it_once() -> None:
    """Whoever misses the entry appends it again: the second one finds nothing left to do, and a
    unit that is ordered after either is void."""
    fold = Fold(Index(FOLD_SPACE, MemoryStore()))
    fold.append(U(["a"]))
    assert fold.delete() == fold.delete() == []
    assert fold.append(U(["a"])).void_units == (0,)
    assert fold.visible() == []


# --- durability -----------------------------------------------------------------------------------


def test_p07_nothing_of_a_failed_sync_counts_and_the_node_turns_read_only() -> None:
    """The kernel drops dirty pages after a failed sync, so asking again would say yes about bytes
    that are gone."""
    rig = StorageRig().begin()
    assert counts(rig.hold(frame(0))) == [[[NUMBER, 1]]]
    rig.take(frame(1))
    rig.journal.broken = "the disk failed"
    assert counts(rig.sync()) == []
    assert counts(rig.do(LinkUp(PRIMARY))) == [[[NUMBER, 1]]], "only what was synced before"
    refused = FrameRefused(SPACE, 1, to_wire(ReadOnly("the disk failed")))
    assert rig.take(frame(2)) == [Send(ENGINE, refused)], "nothing is taken"
    assert rig.replica.read_only == "the disk failed"


def test_p07_a_sync_may_fail_when_the_shard_of_its_frames_was_closed_meanwhile() -> None:
    rig = StorageRig().begin()
    rig.take(frame(0))
    rig.order(CloseShard(1000, NUMBER, 0))
    rig.journal.broken = "the disk failed"
    assert counts(rig.sync()) == []
    assert rig.replica.read_only == "the disk failed"


def test_p07_what_a_restart_reads_back_counts_and_what_was_not_synced_does_not() -> None:
    rig = StorageRig().begin()
    rig.hold(frame(0))
    rig.take(frame(1))
    rig.restart()
    assert counts(rig.do(LinkUp(PRIMARY))) == [[[NUMBER, 1]]]


def test_p08_a_node_that_was_away_takes_ordered_frames_from_a_peer_and_counts_again() -> None:
    """The engine keeps nothing that is ordered, so a replica that missed frame 0 would hold back
    its fold, and its progress, for ever."""
    rig = StorageRig().begin()
    rig.do(LinkUp(PEER))
    assert messages(rig.get(ENGINE, ResumeShard(SHARD)), ShardHeld) == [ShardHeld(SHARD, 0)]
    rig.hold(frame(1), frame(2))
    assert messages(rig.order(cut(1, 0, 2), cut(3, 2, 3)), FetchFrames) == []
    asked = messages(rig.do(PATIENCE_IS_OVER), FetchFrames)
    assert asked == [FetchFrames(SHARD, 0, 2, 1, 4)]
    rig.take(frame(0), source=PEER)
    rig.get(PEER, FramesSent(SPACE, 1))
    assert rig.seqnums() == [1, 2, 3]
    assert counts(rig.sync()) == [[[NUMBER, 3]]]
    assert messages(rig.get(ENGINE, ResumeShard(SHARD)), ShardHeld) == [ShardHeld(SHARD, 3)]


def test_p08_a_full_node_asks_for_what_it_cannot_take_after_a_moment_only() -> None:
    """1. The disk is full, and a frame is missing. 2. A peer gives it, and it is not taken.

    Were it asked for at once, it would come again and again, as fast as the network is.
    """
    rig = StorageRig().begin()
    rig.do(LinkUp(PEER))
    rig.hold(frame(1))
    rig.order(cut(1, 0, 2))
    rig.do(PATIENCE_IS_OVER)
    rig.do(ReadOnlyChanged(SPACE, "the disk is full"))
    rig.take(frame(0), source=PEER)
    assert messages(rig.get(PEER, FramesSent(SPACE, 1)), FetchFrames) == []
    assert messages(rig.do(PATIENCE_IS_OVER), FetchFrames) == [FetchFrames(SHARD, 0, 2, 1, 3)]
    rig.do(ReadOnlyChanged(SPACE, ""))
    rig.take(frame(0), source=PEER)
    rig.get(PEER, FramesSent(SPACE, 1))
    assert rig.seqnums() == [1, 2]


def test_p08_a_frame_that_is_still_on_its_way_is_not_asked_for() -> None:
    """1. A write quorum holds a frame, so a cut orders it. 2. The cut reaches the last replica
    before the frame does. 3. A replica that asked peers at once would get most frames twice."""
    rig = StorageRig().begin()
    rig.do(LinkUp(PEER))
    rig.order(cut(1, 0, 1))
    rig.hold(frame(0))
    rig.order(cut(2, 1, 2), first=2)
    assert messages(rig.do(PATIENCE_IS_OVER), FetchFrames) == []
    rig.hold(frame(1))
    assert rig.seqnums() == [1, 2]
    assert messages(rig.do(PATIENCE_IS_OVER), FetchFrames) == []


def test_p08_aux_data_waits_for_a_fold_that_is_behind() -> None:
    """The engine may have got its record from a write quorum that this node is not part of."""
    rig = StorageRig().begin()
    for never in range(EARLY_AUX_MAX):
        rig.get(ENGINE, SetAux(1, SPACE, BOOK, 1_000 + never, b"of a seqnum that does not come"))
    rig.get(ENGINE, SetAux(1, SPACE, BOOK, 1, b"view"))
    assert len(rig.replica.answers.early_aux) == EARLY_AUX_MAX
    rig.hold(frame(0))
    rig.order(cut(1, 0, 1))
    reply = rig.ask(read())
    assert isinstance(reply, ReadReply)
    assert reply.auxes == [b"view"]


def test_p08_two_nodes_that_each_lack_what_the_other_holds_help_each_other() -> None:
    """Neither has folded the cut, so neither could give frames from its fold alone."""
    rig = StorageRig().begin()
    rig.hold(frame(1))
    rig.order(cut(1, 0, 2))
    given = rig.get(PEER, FetchFrames(SHARD, 1, 2, 2, 3))
    (replicate, end) = messages(given, Replicate, FramesSent)
    assert isinstance(replicate, Replicate) and replicate.frame.first == 1
    assert end == FramesSent(SPACE, 1)


# --- terms ----------------------------------------------------------------------------------------


def test_p12_a_later_term_is_a_later_position_whatever_the_counts() -> None:
    """A process that resumed as primary would write other entries at counts it had published."""
    assert at(9, 1) < at(2, 2) < at(3, 2)


def test_p13_entries_past_the_end_of_a_term_are_dropped_and_never_served() -> None:
    """1. The old primary publishes a cut to this node only. 2. It dies; the view says that the term
    ended before that cut. 3. The next term gives the same seqnum to another record."""
    rig = StorageRig().begin()
    rig.hold(frame(0))
    rig.install(view(2, end=at(1), tail=1))
    rig.order(cut(1, 0, 1), first=1)
    assert rig.seqnums() == []
    rig.order(opening(), first=1, term=2)
    rig.hold(frame(0, b"new", term=2))
    rig.order(cut(1, 0, 1), term=2)
    reply = rig.ask(read())
    assert isinstance(reply, ReadReply)
    assert [bytes(data) for data in reply.payload] == [b"new"]


def test_p13_a_fold_that_went_past_the_end_must_be_rebuilt_not_rewound() -> None:
    follower = MetalogFollower(SPACE, at(3))
    with pytest.raises(RemoteProtocolError, match="ended at 2"):
        follower.end_term(Term(1), 2)


def test_p17_frames_and_entries_of_a_future_term_wait_for_its_view() -> None:
    """A frame of term 2 that counted in term 1 would be ordered by a primary that is gone."""
    rig = StorageRig().begin()
    assert loads(rig.take(frame(0, term=2))) == [2]
    assert loads(rig.order(opening(), first=1, term=2)) == [2]
    assert rig.journal.segments() == ()
    rig.install(view(2, end=at(1)))
    assert counts(rig.sync()) == [[[NUMBER, 1]]]
    assert rig.index.position == at(2, 2)


def test_p17_what_is_held_for_a_future_term_is_bounded() -> None:
    """A cluster that went on without this node must not fill its memory."""
    rig = StorageRig().begin()
    gate = rig.core.gate
    gate.held_max = 3
    for n in range(10):
        rig.take(frame(n, term=2))
    assert (len(gate), gate.dropped_count) == (3, 7)
    gate.check()


def test_p17_frames_of_an_ended_term_are_refused_and_its_entries_are_not() -> None:
    """Its entries are how a node that was away learns what was ordered (P13)."""
    rig = StorageRig().begin()
    rig.hold(frame(0))
    rig.install(view(2, end=at(2), tail=2))
    rig.order(cut(1, 0, 1), first=1)
    assert rig.index.position == at(2, 2)
    before = rig.journal.segments()
    assert rig.hold(frame(1)) == [], "a frame of the ended term"
    assert rig.journal.segments() == before


# --- the fold -------------------------------------------------------------------------------------


@pytest.mark.parametrize("stored", [0, 1, 3, 5])
def test_p19_a_crash_after_any_checkpoint_leads_to_one_and_the_same_state(stored: int) -> None:
    """A tag index that were ahead of its position would fold a cut twice and void what it should
    not."""
    rig = StorageRig().begin()
    for n in range(5):
        if n == stored:
            rig.checkpoint()
        rig.hold(frame(n, unless=[(0, [("t", n)])]))
        rig.order(cut(n + 1, n, n + 1))
    if stored == 5:
        rig.checkpoint()
    expected = rig.index.chained_hash, rig.seqnums("t"), rig.index.position
    rig.restart()
    count = rig.index.position.count
    entries: list[Entry] = [opening(), *(cut(n + 1, n, n + 1) for n in range(5))]
    assert count == {0: 1, 1: 2, 3: 4, 5: 6}[stored], "exactly what was stored"
    if entries[count:]:
        rig.order(*entries[count:])
    assert (rig.index.chained_hash, rig.seqnums("t"), rig.index.position) == expected


def test_p19_a_checkpoint_waits_for_the_frames_it_stands_on() -> None:
    """Else a loss of power leaves a position whose frames this node does not have."""
    rig = StorageRig().begin()
    rig.take(frame(0))
    rig.order(cut(1, 0, 1))
    rig.replica.checkpoint_timer()
    kinds = [type(each).__name__ for each in rig.order(DeleteBook(2000, 99, ME))]
    assert "Checkpoint" not in kinds
    assert "Checkpoint" in [type(each).__name__ for each in rig.sync()]


def test_p20_conditions_see_records_that_were_trimmed() -> None:
    """A worker that lost its lock to a record that was then trimmed would think it still has it."""
    store = MemoryStore()
    fold = Fold(Index(FOLD_SPACE, store))
    fold.append(U(["lock"]))
    fold.append(U(["other"]))
    fold.trim(3)
    fold.index.checkpoint()
    store.crash()
    fold.refold(Index(FOLD_SPACE, store))
    verdict = fold.append(U(["x"], unless=[("lock", 0)])).verdicts
    assert verdict == [[0, VERDICT_CONDITION_FAILED, "lock", 1]]


def test_p20_a_memory_fold_starts_over_above_its_ceiling_and_older_seqnums_are_lost() -> None:
    """Every node restarted: seqnums given before must not be given again for other records, and a
    reader of an old one must not be told that it never was."""
    rig = StorageRig()
    rig.begin()  # it met an opening, but none of the records
    rig.order(StartOver(1000, 1000), opening(), first=7)
    rig.hold(frame(0))
    rig.order(cut(1000, 0, 1))
    assert rig.seqnums() == [1000]
    assert isinstance(error_of(rig.ask(read(start=5, until=6))), DataLost)


def test_p20_a_fold_that_met_everything_before_starts_over_like_an_empty_one() -> None:
    """Entries without records leave it empty too; kept, they would tell replicas apart that have
    the same history (P24). Found by the simulator."""
    hashes = []
    for met in (True, False):
        rig = StorageRig()
        rig.install(view())
        if met:
            rig.order(opening(), first=0)
        rig.order(StartOver(1000, 1000), opening(), first=1)
        hashes.append(rig.replica.index.chained_hash)
        rig.order(StartOver(1000, 1000), opening(), first=1)
        assert rig.replica.index.position == at(3), "sent again it changes nothing"
    assert hashes[0] == hashes[1]


def test_p21_a_segment_goes_once_a_quorum_stored_its_fold_and_its_records_are_trimmed() -> None:
    """Then a write quorum can give its fold to a peer that is further behind, so one that is gone
    for good keeps no segment."""
    rig = StorageRig().begin()
    rig.do(LinkUp(PEER))
    rig.do(LinkUp(OTHER))
    for n in range(12):
        rig.hold(frame(n, b"x" * 1800))
        rig.order(cut(n + 1, n, n + 1))
    segments = len(rig.journal.segments())
    assert segments >= 3
    far = at(10_000)

    def stored_by(*peers: str) -> None:
        for peer in peers:
            rig.get(peer, IndexReport(SPACE, far, far, 0, empty=False))

    rig.checkpoint()
    stored_by(PEER, OTHER)
    assert len(rig.journal.segments()) == segments, "its records are not trimmed"
    rig.replica._releases._stored_by.clear()
    rig.order(Trim(5000, BOOK, None, 12, ME))
    rig.checkpoint()
    assert len(rig.journal.segments()) == segments, "no other replica has stored its fold"
    stored_by(OTHER)
    assert len(rig.journal.segments()) < segments
    reply = rig.ask(read(start=12))
    assert isinstance(reply, ReadReply) and reply.seqnums == [12]


def test_p02_late_frames_of_a_closed_shard_are_not_taken() -> None:
    """1. An engine restarts, its old shard is closed. 2. A frame of the old start arrives late. It
    will never be ordered: kept, it would hold its segment for the rest of the term (P21)."""
    rig = StorageRig().begin()
    rig.hold(frame(0))
    rig.order(cut(1, 0, 1), CloseShard(2000, NUMBER, 1))
    assert rig.hold(frame(1)) == []
    assert SHARD not in rig.replica._pending.shards
    newest = rig.journal.segments()[-1].number
    assert rig.replica._pending.oldest_segment(newest + 1) == newest + 1


# --- conditions, keys, verdicts -------------------------------------------------------------------


def test_p22_a_void_unit_is_void_as_a_whole_and_its_tags_count_nowhere() -> None:
    """A compare-and-swap that failed in part would have moved what it tested."""
    fold = Fold(Index(FOLD_SPACE, MemoryStore()))
    fold.append(U(["state"]))
    lost = U(["state", "audit"], unless=[("state", 0)])
    outcome = fold.append(lost, U(["y"], unless=[("audit", 0)]))
    assert outcome.void_units == (0,)
    assert (fold.visible("state"), fold.visible("audit"), fold.visible("y")) == ([1], [], [4])


def test_p22_a_key_is_decided_before_conditions_and_returns_its_span_after_a_trim() -> None:
    """The retry of an append whose answer was lost must not fail because of its own first try, nor
    append again once that was trimmed."""
    fold = Fold(Index(FOLD_SPACE, MemoryStore()))
    unit = U(["a", "a"], unless=[("a", 0)], key="k")
    assert fold.append(unit).verdicts == [[0, VERDICT_VISIBLE, 1, None]]
    fold.append(U(["b"]))
    fold.trim(3)
    assert fold.append(unit).verdicts == [[0, VERDICT_DUPLICATE, 1, 2]]
    fold.apply(ForgetKeys(fold.now_ms + 200_000))
    assert fold.append(U(["c"], key="k")).verdicts == [[0, VERDICT_VISIBLE, 6, None]]


def test_p23_a_replica_that_did_not_stream_a_verdict_can_still_answer_it() -> None:
    """The replica that decided died before its answer arrived; the client must not append again to
    find out."""
    rig = StorageRig().begin()
    rig.hold(frame(0), frame(1, unless=[(0, [("t", 0)])]))
    rig.order(cut(1, 0, 2))
    asked = FollowIndex(SPACE, NUMBER, [], [[1, NUMBER, 1, 2]])
    (stream,) = messages(rig.get(ENGINE, asked), IndexStream)
    assert isinstance(stream, IndexStream)
    assert stream.verdicts == [[1, NUMBER, 1, [[0, VERDICT_CONDITION_FAILED, "t", 1]]]]


def test_p23_verdicts_are_named_by_shard_so_an_old_terms_are_not_mistaken() -> None:
    """The frame was sent again in a new term; another engine's record stands where the old one
    would have been."""
    rig = StorageRig().begin()
    rig.hold(frame(0, unless=[(0, [("t", 0)])]))
    rig.order(cut(1, 0, 1))
    asked = FollowIndex(SPACE, NUMBER + 1, [], [[1, NUMBER + 1, 0, 1]])
    streams = messages(rig.get(ENGINE, asked), IndexStream)
    assert not any(isinstance(each, IndexStream) and each.verdicts for each in streams)


def test_p25_a_trim_is_decided_at_its_place_by_the_holds_that_live_there() -> None:
    """A trim that was clamped where it was asked for would pass a hold ordered just before it."""
    fold = Fold(Index(FOLD_SPACE, MemoryStore()))
    fold.append(*(U(["a"]) for _ in range(6)))
    assert fold.hold("reader", 4, ttl_ms=1000) == []
    assert fold.trim(100) == [4, "reader"]
    late = fold.hold("late", 2)
    assert isinstance(late, Trimmed) and late.trim_until == 4
    fold.append(U(["a"]), at_ms=fold.now_ms + 5000)  # the log's own time ends the hold
    assert fold.trim(100) == [8, None]
    assert fold.index.trim_until(FOLD_BOOK) == 8


# --- reads ----------------------------------------------------------------------------------------


def test_p27_a_read_waits_for_the_position_of_its_token() -> None:
    """The reader saw the record at another replica; this one must not say that there is none."""
    rig = StorageRig().begin()
    rig.hold(frame(0))
    assert rig.ask(read(position=at(2))) is None
    (reply,) = messages(rig.order(cut(1, 0, 1)), ReadReply)
    assert isinstance(reply, ReadReply) and reply.seqnums == [1]


def test_p27_a_token_of_an_ended_term_is_met_by_its_end() -> None:
    """The term ended before the position the token names could be folded here in that term."""
    rig = StorageRig().begin()
    rig.hold(frame(0))
    rig.order(cut(1, 0, 1))
    rig.install(view(2, end=at(2), tail=2))
    reply = rig.ask(read(position=at(2, 1)))
    assert isinstance(reply, ReadReply) and reply.position == at(2, 2)


def test_p27_nothing_below_a_trim_is_answered() -> None:
    rig = StorageRig().begin()
    rig.hold(frame(0), frame(1))
    rig.order(cut(1, 0, 2), Trim(2000, BOOK, None, 2, ME))
    error = error_of(rig.ask(read(start=1)))
    assert isinstance(error, Trimmed) and error.trim_until == 2
    reply = rig.ask(read())
    assert isinstance(reply, ReadReply) and reply.seqnums == [2]


def test_p28_a_read_past_the_tail_waits_first_for_its_position_then_for_its_time() -> None:
    rig = StorageRig().begin()
    rig.hold(frame(0))
    asked = read(start=1, until=2, position=at(2), wait_ms=50)
    assert rig.ask(asked) is None
    (reply,) = messages(rig.order(cut(1, 0, 1)), ReadReply)
    assert isinstance(reply, ReadReply) and reply.seqnums == [1]
    (timer,) = rig.get(9, read(start=2, until=3, wait_ms=50))
    assert isinstance(timer, SetTimer), "nobody is told that there is nothing before that"
    (over,) = messages(rig.do(TimerFired(timer.timer)), ReadReply)
    assert isinstance(over, ReadReply) and over.seqnums == []


def test_p05_whoever_waits_for_a_record_of_a_deleted_logbook_hears_so_at_once() -> None:
    """Nothing will come: a follower would look for the next LogBook of that name only once its
    poll is over. Found by the simulator."""
    rig = StorageRig().begin()
    rig.hold(frame(0))
    rig.order(cut(1, 0, 1))
    (timer,) = rig.get(9, read(start=2, wait_ms=50))
    assert isinstance(timer, SetTimer)
    told = rig.order(DeleteBook(2000, BOOK, ME))
    assert CancelTimer(timer.timer) in told
    (woken,) = messages(told, ReadReply)
    (late,) = messages(rig.get(9, read(start=2, wait_ms=50)), ReadReply)
    for reply in (woken, late):
        assert isinstance(reply, ReadReply)
        assert (reply.seqnums, reply.trim_until, reply.tail) == ([], 2, 2)


class FlippedJournal(MemoryJournal):
    """A disk on which one bit of a frame's payload is not what was written."""

    flip_from_end: int = 0

    flip_bit: int | None = None

    def read(self, location: object, start: int = 0, length: int | None = None) -> bytes:
        super().read(location, start, length)  # type: ignore[arg-type]  # a part that is there
        item = bytearray(super().read(location))  # type: ignore[arg-type]
        if self.flip_from_end:
            item[-self.flip_from_end] ^= 1
        if self.flip_bit is not None:
            item[self.flip_bit // 8] ^= 1 << self.flip_bit % 8
        until = len(item) if length is None else start + length
        return bytes(item[start:until])


def flipped(*payload: bytes) -> tuple[StorageRig, FlippedJournal]:
    """Ordered records that are in no memory any more, only on such a disk."""
    rig = StorageRig(cache_bytes=1, pending_bytes=1)
    journal = FlippedJournal(segment_bytes=1 << 20)
    rig.journal = journal
    rig.core = rig._start()
    rig.begin()
    rig.hold(frame(0, *payload), frame(len(payload), b"later"))
    rig.order(cut(1, 0, len(payload) + 1))
    return rig, journal


def test_p29_a_flipped_payload_bit_is_a_corrupt_record_and_never_other_data() -> None:
    rig, journal = flipped(b"one", b"two")
    journal.flip_from_end = 1
    error = error_of(rig.ask(read(start=2, until=3)))
    assert isinstance(error, CorruptRecord) and error.seqnum == 2
    reply = rig.ask(read(start=1, until=2))
    assert isinstance(reply, ReadReply), "its neighbour in the frame is whole"
    assert [bytes(data) for data in reply.payload] == [b"one"]


def test_p29_a_byte_range_of_a_large_record_verifies_the_blocks_it_touches() -> None:
    """Reading one block of 64 KiB out of many must not cost the whole record, nor go unverified."""
    large = bytes(200_000)
    rig, journal = flipped(large)
    journal.flip_from_end = 1
    reply = rig.ask(read(start=1, until=2, bytes_start=10, bytes_until=20))
    assert isinstance(reply, ReadReply) and bytes(reply.payload[0]) == bytes(10)
    error = error_of(rig.ask(read(start=1, until=2, bytes_start=199_990, bytes_until=200_000)))
    assert isinstance(error, CorruptRecord)


def test_p29_the_header_covers_every_record_through_its_column() -> None:
    """Two frames that differ in one payload bit have different identities, though the engine hashes
    no payload."""
    assert frame(0, b"a").checksum != frame(0, b"b").checksum
    assert frame(0, b"a").columns.sums[0] == record_sum(b"a")[0]


def test_p29_any_flipped_bit_of_a_header_is_a_corrupt_record() -> None:
    """Also where only header and columns are read: one that makes the columns longer than the frame
    stopped a node (seed 730)."""
    rig, journal = flipped(bytes(200_000))
    for bit in range(HEADER_BYTES * 8):
        journal.flip_bit = bit
        error = error_of(rig.ask(read(start=1, until=2, bytes_start=10, bytes_until=20)))
        assert isinstance(error, CorruptRecord), bit


def test_p30_a_damaged_frame_is_never_given_to_a_peer() -> None:
    """The peer would journal it as it came, and find its own journal corrupt at its next start."""
    rig, journal = flipped(b"one", b"two")
    journal.flip_from_end = 1
    given = rig.get(PEER, FetchFrames(SHARD, 0, 2, 1, 3))
    assert messages(given, Replicate, FramesSent) == [FramesSent(SPACE, 0)]
    whole, _ = flipped(b"one", b"two")
    assert len(messages(whole.get(PEER, FetchFrames(SHARD, 0, 2, 1, 3)), Replicate)) == 1


def test_p29_a_frame_read_back_for_the_fold_is_verified_by_its_readers() -> None:
    """Its bytes had left memory before it was ordered: what the disk gave back for the fold is kept
    for readers, and must not pass for what was received."""
    rig = StorageRig(pending_bytes=1)
    journal = FlippedJournal(segment_bytes=1 << 20)
    rig.journal = journal
    rig.core = rig._start()
    rig.begin()
    rig.hold(frame(0, b"one"), frame(1, b"two"))
    journal.flip_from_end = 1
    rig.order(cut(1, 0, 2))
    error = error_of(rig.ask(read(start=1, until=2)))
    assert isinstance(error, CorruptRecord) and error.seqnum == 1


def test_p09_a_frame_that_only_others_hold_durably_is_folded_from_memory() -> None:
    """It was ordered by the other two while this node's sync is slow, and memory is short: the
    journal cannot give back what was not written yet."""
    rig = StorageRig(pending_bytes=1).begin()
    rig.take(frame(0, b"one"), frame(1, b"two"))
    rig.order(cut(1, 0, 2))
    assert rig.seqnums() == [1, 2]


# --- bounds ---------------------------------------------------------------------------------------


def test_p32_waiting_reads_are_bounded_and_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """Readers of a position that never comes must not fill the memory of the node."""
    monkeypatch.setattr(waiting_module, "WAITING_MAX", 2)
    rig = StorageRig().begin()
    for _ in range(2):
        assert rig.ask(read(position=at(99))) is None
    error = error_of(rig.ask(read(position=at(99))))
    assert error.retryable and error.definite


def test_p32_a_read_that_is_cancelled_makes_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever waits for a while and gives up, again and again, must not keep others out."""
    monkeypatch.setattr(waiting_module, "WAITING_MAX", 1)
    rig = StorageRig().begin()
    asker = 9  # as in `rig.ask`
    for request in (read(start=1, wait_ms=60_000), read(position=at(99))):
        assert rig.ask(request) is None
        assert error_of(rig.ask(read(position=at(99)))).retryable, "there is no room"
        rig.get(8, CancelRead(SPACE, request.request))
        assert rig.replica.answers.waiting, "it is of somebody else"
        timers = rig.get(asker, CancelRead(SPACE, request.request))
        assert len(timers) == bool(request.wait_ms), "of its own"
        assert not rig.replica.answers.waiting


def test_p32_entries_that_cannot_be_folded_yet_are_bounded_and_asked_for_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A node that waits for one frame must not keep the metalog of a week."""
    monkeypatch.setattr(entries_module, "ENTRIES_WAITING_MAX", 3)
    rig = StorageRig().begin()
    for n in range(8):
        rig.order(cut(n + 1, n, n + 1), first=n + 1)
    assert rig.replica.entries.dropped_runs_count == 4
    effects = rig.take(*(frame(n) for n in range(8)))
    follow = [type(each).__name__ for each in messages(effects, FollowMetalog)]
    assert follow == ["FollowMetalog"]


# --- garbage --------------------------------------------------------------------------------------


def test_p34_columns_that_do_not_fit_never_reach_the_fold() -> None:
    """A frame whose lengths do not add up is refused where it arrives: a core never sees it, so no
    replica can decide otherwise than another."""
    columns = frame(0, b"one", b"two").columns
    encoded = bytearray(columns.encode())
    for place in range(len(encoded)):
        garbage = bytearray(encoded)
        garbage[place] ^= 0xFF
        try:
            taken = Columns.decode(bytes(garbage))
        except RemoteProtocolError:
            continue
        assert len(taken.tags) == len(taken.lengths) == len(taken.sums)
    kind, head, parts = encode(Replicate(frame(0, b"one")))
    views = [memoryview(bytes(part)) for part in parts]
    views[1] = memoryview(bytes(views[1])[:-1] + b"\xff")
    with pytest.raises(RemoteProtocolError):
        decode(kind, head, views)


def test_p34_a_pending_frame_that_does_not_decode_any_more_comes_from_a_peer() -> None:
    """Its bytes had left memory and its disk flipped a bit in the columns: the fold must neither
    stop the node nor decide without them, as the other replicas have them whole."""
    rig = StorageRig(pending_bytes=1)
    journal = FlippedJournal(segment_bytes=1 << 20)
    rig.journal = journal
    rig.core = rig._start()
    rig.begin()
    rig.do(LinkUp(PEER))
    rig.hold(frame(0, b"one"), frame(1, b"two"))
    journal.flip_from_end = 8  # in the columns, just before the payload of three bytes
    rig.order(cut(1, 0, 2))
    asked = messages(rig.do(PATIENCE_IS_OVER), FetchFrames)
    assert asked == [FetchFrames(SHARD, 0, 2, 1, 3)]
    journal.flip_from_end = 0
    rig.take(frame(0, b"one"), source=PEER)
    rig.get(PEER, FramesSent(SPACE, 1))
    assert rig.seqnums() == [1, 2]
