"""P11, P19: no fold is stored past what a majority of the sequencers has synced.

1. A `flush` log space orders records; its metalog is with the operating systems of the sequencers.
2. A storage node stores its fold, and lets go of what only a fold from the start needs: segments
   that moved to an object store, or that are trimmed. Sequencers let go of the metalog before it.
3. The machines of the sequencers lose power, and the order ends before what was stored.

The stored fold says too much, and there is nothing left from which another one could be built.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from bokilog.effects import Checkpoint, CheckpointStored, Effect, LinkDown, LinkUp, TimerFired
from bokilog.ids import START, Term
from bokilog.messages import (
    FetchSnapshot,
    FollowMetalog,
    IndexReport,
    MetalogGone,
    MetalogSynced,
    ReadReply,
    ReplicateRun,
    RunsSynced,
    SyncMetalog,
    SyncRuns,
)
from bokilog.metalog import Proposer, StartOver, Trim
from bokilog.record import Durability
from bokilog.view import View
from tests.protocol.storage_rig import (
    BOOK,
    NUMBER,
    OTHER,
    PEER,
    PRIMARY,
    SPACE,
    StorageRig,
    at,
    cut,
    frame,
    messages,
    opening,
    read,
    view,
)
from tests.unit.sequencer.trio import S1, S2, S3, SPACE as TRIO_SPACE, STORAGE, Trio, started

ME = Proposer(NUMBER, 1)

# --- a storage node -------------------------------------------------------------------------------


def lossy_view(term: int = 1, *, durability: Durability = "flush", **end: object) -> View:
    made = view(term, **end)  # type: ignore[arg-type]  # as `view` has them
    return replace(made, spaces=(replace(made.spaces[0], durability=durability),))


def folded(durability: Durability = "flush") -> StorageRig:
    """Four entries are folded, and durable frames of three records."""
    rig = StorageRig(durability=durability)
    rig.install(lossy_view(durability=durability))
    rig.order(opening())
    for place in range(3):
        rig.hold(frame(place))
        rig.order(cut(place + 1, place, place + 1))
    return rig


def asked(effects: list[Effect]) -> list[SyncMetalog]:
    return [each for each in messages(effects, SyncMetalog) if isinstance(each, SyncMetalog)]


def synced(rig: StorageRig, count: int, *, term: int = 1) -> list[Effect]:
    return rig.get(PRIMARY, MetalogSynced(SPACE, term, count))


@pytest.mark.parametrize("durability", ["flush", "memory"])
def test_p19_a_checkpoint_waits_until_its_entries_are_synced(durability: Durability) -> None:
    rig = folded(durability)
    effects = rig.do(TimerFired("checkpoint"))
    assert (asked(effects), Checkpoint(SPACE) in effects) == ([SyncMetalog(SPACE, 1, 4)], False)
    assert synced(rig, 3) == []
    assert synced(rig, 4) == [Checkpoint(SPACE)]
    rig.finish_checkpoint()
    assert rig.index.generations.stored_position == at(4)


def test_p19_what_was_synced_before_is_stored_at_once() -> None:
    rig = folded()
    synced(rig, 4)
    assert Checkpoint(SPACE) in rig.do(TimerFired("checkpoint"))


def test_p19_frames_that_are_not_durable_come_first() -> None:
    rig = folded()
    rig.take(frame(3))
    rig.order(cut(4, 3, 4))
    assert asked(rig.do(TimerFired("checkpoint"))) == []
    assert asked(rig.sync()) == [SyncMetalog(SPACE, 1, 5)]
    assert synced(rig, 5) == [Checkpoint(SPACE)]


def test_p19_entries_that_come_meanwhile_are_no_part_of_it() -> None:
    rig = folded()
    rig.do(TimerFired("checkpoint"))
    rig.hold(frame(3))
    rig.order(cut(4, 3, 4))
    assert synced(rig, 4) == [Checkpoint(SPACE)]
    rig.finish_checkpoint()
    assert (rig.index.position, rig.index.generations.stored_position) == (at(5), at(4))


def test_p11_a_new_primary_is_asked_and_so_is_a_silent_one() -> None:
    rig = folded()
    rig.do(TimerFired("checkpoint"))
    assert asked(rig.do(LinkUp(PRIMARY))) == [SyncMetalog(SPACE, 1, 4)]
    assert asked(rig.do(TimerFired("checkpoint"))) == [SyncMetalog(SPACE, 1, 4)]
    assert asked(rig.install(lossy_view(2, end=at(4), tail=50))) == [SyncMetalog(SPACE, 2, 4)]
    assert synced(rig, 4, term=1) == [], "it may be of other entries"
    assert synced(rig, 4, term=2) == [Checkpoint(SPACE)]


def trimmed(durability: Durability = "flush") -> tuple[StorageRig, int]:
    """All replicas have stored what fills some segments, and after that all of it is trimmed; how
    many segments there are."""
    rig = StorageRig(durability=durability)
    rig.install(lossy_view(durability=durability))
    rig.order(opening())
    for place in range(12):
        rig.hold(frame(place, b"x" * 1800))
        rig.order(cut(place + 1, place, place + 1))
    rig.do(TimerFired("checkpoint"))
    synced(rig, 13)
    rig.finish_checkpoint()
    for peer in (PEER, OTHER):
        rig.get(peer, IndexReport(SPACE, at(13), at(13), 0, empty=False))
    rig.order(Trim(5000, BOOK, None, 12, ME))
    return rig, len(rig.journal.segments())


@pytest.mark.parametrize("durability", ["sync", "flush"])
def test_p11_p21_a_segment_waits_until_the_trim_of_its_records_is_stored(
    durability: Durability,
) -> None:
    """1. All replicas have folded a trim. 2. They let go of its records. 3. The sequencers lose
    power, or their disks, and the trim: its records are there again, and nobody has their bytes."""
    rig, segments = trimmed(durability)
    rig.get(OTHER, IndexReport(SPACE, at(14), at(13), 0, empty=False))
    assert len(rig.journal.segments()) == segments
    rig.do(TimerFired("checkpoint"))
    synced(rig, 14)
    rig.finish_checkpoint()
    assert len(rig.journal.segments()) == segments, "no other replica has stored it"
    rig.get(OTHER, IndexReport(SPACE, at(14), at(14), 0, empty=False))
    assert 1 <= len(rig.journal.segments()) < segments
    assert rig.seqnums() == [12]


def test_p21_a_backup_that_began_meanwhile_keeps_them_too() -> None:
    rig, segments = trimmed()
    rig.get(OTHER, IndexReport(SPACE, at(13), at(13), 0, empty=False))
    rig.do(TimerFired("checkpoint"))
    rig.get(77, FetchSnapshot(SPACE, 1, 0))
    synced(rig, 14)
    rig.finish_checkpoint()
    rig.get(OTHER, IndexReport(SPACE, at(14), at(14), 0, empty=False))
    assert len(rig.journal.segments()) == segments
    rig.do(LinkDown(77))
    assert len(rig.journal.segments()) < segments


def test_p11_p21_the_records_of_a_lost_trim_are_there_again() -> None:
    rig, _ = trimmed()
    rig.get(OTHER, IndexReport(SPACE, at(13), at(13), 0, empty=False))
    rig.restart()
    rig.install(lossy_view(2, end=at(13), tail=13))
    reply = rig.ask(read(start=1, until=11))
    assert isinstance(reply, ReadReply) and reply.seqnums == list(range(1, 11))


def test_p11_a_fold_that_waited_in_vain_is_dropped_with_its_entries() -> None:
    """It was not written, so the one that is stored is gone on from: nothing from the start is
    needed."""
    rig = folded()
    synced(rig, 3)
    rig.do(TimerFired("checkpoint"))
    assert not rig.replica.is_storing, "a view need not wait for it"


def test_class_sync_asks_nobody() -> None:
    rig = StorageRig().begin()
    rig.hold(frame(0))
    rig.order(cut(1, 0, 1))
    effects = rig.do(TimerFired("checkpoint"))
    assert (asked(effects), Checkpoint(SPACE) in effects) == ([], True)
    assert synced(rig, 9) == []


# --- a fold in memory that cannot go on -----------------------------------------------------------


def reports(effects: list[Effect]) -> list[bool]:
    """What the primary is told: whether the fold holds nothing."""
    found = messages(effects, IndexReport)
    return [each.empty for each in found if isinstance(each, IndexReport)]


def test_p20_a_fold_in_memory_that_only_a_peer_could_help_says_so() -> None:
    """The metalog that it would go on with was let go, as a quorum had stored its folds: if those
    were in memory, too, and are gone, nothing is left (P16)."""
    rig = folded("memory")
    assert reports(rig.get(PRIMARY, MetalogGone(SPACE, 9))) == [True]
    assert reports(rig.do(LinkUp(PRIMARY))) == [True]


def test_p20_it_starts_over_with_the_others() -> None:
    rig = folded("memory")
    rig.get(PRIMARY, MetalogGone(SPACE, 9))
    rig.install(lossy_view(2, end=at(12), tail=50, durability="memory"))
    rig.order(StartOver(2000, 50), first=12, term=2)
    assert (rig.index.position, rig.index.empty) == (at(13, 2), True)
    assert rig.seqnums() == []


def test_p20_it_has_records_as_long_as_it_can_go_on() -> None:
    rig = folded("memory")
    assert reports(rig.get(PRIMARY, MetalogGone(SPACE, 4))) == []
    assert reports(rig.do(LinkUp(PRIMARY))) == [False]


def test_p33_other_classes_lose_nothing_by_it() -> None:
    rig = folded("flush")
    assert reports(rig.get(PRIMARY, MetalogGone(SPACE, 9))) == []


# --- three sequencers -----------------------------------------------------------------------------


def ordered(entries: int = 5) -> Trio:
    trio = started("flush")
    for _ in range(entries):
        trio.order(S1)
        trio.settle()
    return trio


def want(trio: Trio, count: int, *, node: str = S1) -> None:
    term = trio.view.term
    trio.tell(node, SyncMetalog(TRIO_SPACE, term, count), source=STORAGE)  # type: ignore[arg-type]


def told(trio: Trio) -> list[int]:
    found = trio.sent_to(STORAGE, MetalogSynced)
    return [each.count for each in found if isinstance(each, MetalogSynced)]


def test_p11_a_storage_node_hears_of_it_once_a_majority_has_synced() -> None:
    trio = ordered()
    count = trio.count(S1)
    want(trio, count)
    assert [type(each) for each in trio.queues[S1, S2]] == [SyncRuns]
    trio.sync(S1)
    assert told(trio) == [], "the primary alone is no majority"
    trio.deliver(S1, S2)
    assert list(trio.queues[S2, S1]) == []
    trio.sync(S2)
    assert list(trio.queues[S2, S1]) == [RunsSynced(TRIO_SPACE, trio.view.term, count)]
    trio.deliver(S2, S1)
    assert told(trio) == [count]


def test_p11_two_backups_are_a_majority_too() -> None:
    trio = ordered()
    want(trio, trio.count(S1))
    trio.processes[S1].syncs.clear()  # its disk stands still
    trio.settle()
    assert told(trio) == [trio.count(S1)]


def test_p11_what_is_synced_is_not_synced_again() -> None:
    trio = ordered()
    want(trio, trio.count(S1))
    trio.settle()
    want(trio, trio.count(S1) - 1)
    assert all(not process.syncs for process in trio.processes.values())
    assert told(trio) == [trio.count(S1)] * 2


def test_p11_what_is_not_written_yet_is_synced_when_it_is() -> None:
    """Two backups may have published what the primary, or the third, has not written."""
    trio = ordered()
    trio.order(S1)
    count = trio.count(S1)
    run = trio.queues[S1, S2].popleft()
    assert isinstance(run, ReplicateRun)
    want(trio, count)
    trio.deliver(S1, S2)
    assert trio.processes[S2].syncs == [], "the run is still to come"
    trio.queues[S1, S2].append(run)
    trio.settle()
    assert told(trio) == [count]


def test_p11_a_backup_that_was_away_is_asked_with_its_link() -> None:
    trio = ordered()
    trio.isolate(S2)
    trio.isolate(S3)
    want(trio, trio.count(S1))
    trio.settle()
    assert told(trio) == []
    trio.heal()
    trio.settle()
    assert told(trio) == [trio.count(S1)]


def stranded(rig: StorageRig) -> None:
    """The next term begins after what this replica has, and its entries before are nowhere."""
    rig.get(PRIMARY, MetalogGone(SPACE, 9))
    rig.install(lossy_view(2, end=at(12), tail=50, durability="memory"))


def test_p20_a_start_over_lets_go_of_a_checkpoint_that_waits_for_frames() -> None:
    rig = folded("memory")
    rig.take(frame(3))
    rig.do(TimerFired("checkpoint"))
    assert rig.replica.storing.waits_for is not None
    stranded(rig)
    rig.order(StartOver(2_000, 50), first=12, term=2)
    rig.sync()
    assert rig.index.position == at(13, 2)
    assert not rig.replica.storing.busy


def test_p20_a_start_over_waits_while_the_store_is_written() -> None:
    """A checkpoint that is told to be stored must be the one of the fold that is here."""
    rig = folded("memory")
    rig.do(TimerFired("checkpoint"))
    assert Checkpoint(SPACE) in synced(rig, 4)
    stranded(rig)
    rig.order(StartOver(2_000, 50), first=12, term=2)
    assert rig.index.position == at(4), "it stands on what is written"
    effects = rig.do(CheckpointStored(SPACE))
    assert FollowMetalog in [type(each) for each in messages(effects, FollowMetalog)]
    rig.order(StartOver(2_000, 50), first=12, term=2)
    assert rig.index.position == at(13, 2)


def test_p11_a_new_term_counts_anew() -> None:
    trio = ordered()
    want(trio, trio.count(S1))
    trio.settle()
    trio.change(S2)
    count = trio.count(S2)
    before = len(told(trio))
    trio.tell(S2, SyncMetalog(TRIO_SPACE, Term(trio.view.term - 1), 1), source=STORAGE)
    trio.settle()
    assert len(told(trio)) == before, "that was of another term"
    want(trio, count, node=S2)
    assert trio.processes[S2].syncs != []
    trio.settle()
    assert told(trio)[before:] == [count]


def test_p14_a_sealed_backup_says_nothing_of_it() -> None:
    trio = ordered()
    want(trio, trio.count(S1))
    for node in (S2, S3):
        trio.seal(node)
    trio.settle()
    assert told(trio) == []


def test_positions_of_folds_that_begin_with_nothing_are_synced() -> None:
    assert START.count == 0  # nobody asks for them
    trio = ordered()
    want(trio, 0)
    assert told(trio) == [0]
