"""P11, P13: a log space that may lose the end of its metalog goes on without it, on every node.

1. Records of class `flush` are ordered and folded; the sequencer's machine loses power, and with it
   what the operating system had not written of the metalog.
2. It starts again: the view of its new term ends the last one before what storage nodes folded.

The fold knows no way back. Were it to go on, its tag index would hold records that the others never
get, and new entries would be taken for old ones, since they have the same counts.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from bokilog.effects import CheckpointStored, Effect, LinkUp, Send, TimerFired
from bokilog.errors import NotReady
from bokilog.ids import START, LogSpaceId, Position, Term
from bokilog.io.journal_file import JournalFile
from bokilog.io.process import readable
from bokilog.io.sync import NoSync
from bokilog.journal import SegmentInfo
from bokilog.messages import FollowMetalog, IndexReport, ReadReply
from bokilog.metalog import Entry
from bokilog.record import Durability
from bokilog.sequencer.recovery import recover_metalog
from bokilog.storage_nodes.core import StorageCore
from bokilog.storage_nodes.index import Index
from bokilog.storage_nodes.index_store import clear
from bokilog.storage_nodes.rebuilding import goes_on_from_stored, holds_everything
from bokilog.storage_nodes.replica import Replica
from bokilog.view import View, first_end
from tests.protocol.storage_rig import (
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
from tests.sim.checkers import records_of
from tests.sim.clients import Client
from tests.sim.world import CLIENTS, ENGINES, SEQUENCER, SPACE as WORLD_SPACE, STORAGE, World

CEILING = 1000


class FlushRig(StorageRig):
    """A storage node of a `flush` log space, which may be told that entries were lost."""

    def _start(self) -> StorageCore:
        core = super()._start()
        core._rebuild = self._anew
        return core

    def _anew(self, space: LogSpaceId, last: View) -> tuple[Replica, list[View]]:
        stored = Index(space, self.store).position
        segments = self.journal.segments()
        views = self.views
        if goes_on_from_stored(last.space(space), stored, views=views, segments=segments):
            views = [each for each in views if each.term > stored.term]
        else:
            clear(self.store)
        return super()._start().replicas[space], views

    def begin(self, durability: Durability = "flush") -> FlushRig:
        self.install(flush_view(durability=durability))
        self.order(opening())
        return self


def flush_view(
    term: int = 1, *, end: Position = START, tail: int = 1, durability: Durability = "flush"
) -> View:
    made = view(term, end=end, tail=tail)
    return replace(made, spaces=(replace(made.spaces[0], durability=durability),))


def folded(count: int, *, checkpoint_at: int | None = None) -> FlushRig:
    """Records 1 to `count` are folded, one by one, from position 1 on."""
    rig = FlushRig().begin()
    for place in range(count):
        if place == checkpoint_at:
            rig.checkpoint()
        rig.hold(frame(place))
        rig.order(cut(place + 1, place, place + 1))
    return rig


def order_again(rig: FlushRig, count: int) -> None:
    """The primary serves what is left of the metalog, from wherever the fold stands."""
    entries: list[Entry] = [
        opening(),
        *(cut(place + 1, place, place + 1) for place in range(count)),
    ]
    start = rig.index.position.count
    if entries[start:]:
        rig.order(*entries[start:], first=start)


@pytest.mark.parametrize("checkpoint_at", [None, 2, 5])
def test_p11_a_fold_past_the_end_is_built_anew_up_to_it(checkpoint_at: int | None) -> None:
    rig = folded(6, checkpoint_at=checkpoint_at)
    whole = folded(3)
    rig.install(flush_view(2, end=at(4), tail=CEILING))
    assert rig.index.position == {None: at(0), 2: at(3), 5: at(0)}[checkpoint_at]
    order_again(rig, 3)
    assert rig.index.position == at(4, 2)
    assert rig.index.chained_hash == whole.index.chained_hash
    assert rig.seqnums() == [1, 2, 3]
    rig.order(opening(), term=2)
    rig.hold(frame(0, b"new", term=2))
    rig.order(cut(CEILING, 0, 1), term=2)
    assert rig.seqnums() == [1, 2, 3, CEILING]
    reply = rig.ask(read(start=CEILING))
    assert isinstance(reply, ReadReply) and [bytes(data) for data in reply.payload] == [b"new"]


def test_p11_the_primary_is_asked_for_the_metalog_from_where_the_new_fold_stands() -> None:
    rig = folded(3)
    rig.do(LinkUp(PRIMARY))
    effects = rig.install(flush_view(2, end=at(2), tail=CEILING))
    asked = messages(effects, FollowMetalog)
    assert asked == [FollowMetalog(SPACE, at(0), 0)]


def test_p11_entries_that_wait_for_frames_may_be_lost_too() -> None:
    """The fold stands before the end, and what it would fold next is past it."""
    rig = FlushRig().begin()
    rig.hold(frame(0))
    rig.order(cut(1, 0, 1))
    rig.order(cut(2, 1, 2))
    assert (rig.index.position, rig.replica.known_until) == (at(2), at(3))
    rig.install(flush_view(2, end=at(2), tail=CEILING))
    order_again(rig, 1)
    assert rig.index.position == at(2, 2)
    assert rig.seqnums() == [1]


def test_p11_a_node_that_was_away_when_it_happened_finds_out_at_its_start() -> None:
    rig = folded(6, checkpoint_at=5)
    rig.views.append(flush_view(2, end=at(3), tail=CEILING))
    rig.restart()
    assert rig.index.position == at(0)
    order_again(rig, 2)
    assert (rig.index.position, rig.seqnums()) == (at(3, 2), [1, 2])


def test_p11_a_term_that_was_cut_short_after_its_end_was_stored() -> None:
    """Term 1 ended at 5, term 2 ordered nothing, and then entries of term 1 were lost: the view of
    term 3 says so, that of term 2 does not."""
    rig = folded(4)
    rig.install(flush_view(2, end=at(5), tail=100))
    assert rig.index.position == at(5, 2)
    rig.install(flush_view(3, end=at(3), tail=CEILING))
    order_again(rig, 2)
    assert (rig.index.position, rig.seqnums()) == (at(3, 3), [1, 2])


def test_p19_a_checkpoint_under_way_is_stored_before_its_store_is_cleared() -> None:
    """Written later, it would bring back what is lost."""
    rig = folded(6)
    rig.do(TimerFired("checkpoint"))
    assert rig.index.generations.frozen
    steps = rig.index.generations.steps()
    assert rig.install(flush_view(2, end=at(3), tail=CEILING)) == []
    assert rig.index.position == at(7), "it still waits"
    rig.install(flush_view(3, end=at(3, 2), tail=CEILING))
    for _ in steps:
        pass
    rig.index.generations.write()
    rig.do(LinkUp(PRIMARY))
    effects = rig.do(CheckpointStored(SPACE))
    assert messages(effects, FollowMetalog) == [FollowMetalog(SPACE, at(0), 0)]
    order_again(rig, 2)
    assert (rig.index.position, rig.seqnums()) == (at(3, 3), [1, 2])
    assert Index(SPACE, rig.store).position == START


def test_p11_readers_and_followers_stay_with_the_new_fold() -> None:
    rig = folded(3)
    assert rig.ask(read(position=at(9))) is None
    rig.install(flush_view(2, end=at(4), tail=CEILING))
    order_again(rig, 3)
    rig.order(opening(), term=2)
    effects = rig.order(*[opening(number=20 + place) for place in range(9)], term=2)
    replied = [each for each in sends(effects) if isinstance(each.message, ReadReply)]
    assert replied == [], (
        "it was answered when the term had ended: a later term is a later position"
    )


def sends(effects: list[Effect]) -> list[Send]:
    return [each for each in effects if isinstance(each, Send)]


def test_p20_a_memory_log_space_that_is_folded_again_does_not_say_that_it_is_empty() -> None:
    """All replicas build theirs at the same time: if they said so, everything would start over."""
    rig = FlushRig().begin("memory")
    rig.hold(frame(0))
    rig.order(cut(1, 0, 1))
    rig.do(LinkUp(PRIMARY))
    effects = rig.install(flush_view(2, end=at(1), tail=CEILING, durability="memory"))
    (report,) = messages(effects, IndexReport)
    assert isinstance(report, IndexReport) and not report.empty
    assert rig.index.empty


def test_p20_a_fold_that_had_lost_everything_says_so_also_once_it_is_built_anew() -> None:
    """It met entries, but its memory has none of their records. Were it not to count as empty, its
    log space would never start over, and every record be waited for that nobody has any more."""
    rig = FlushRig().begin("memory")
    rig.order(opening(number=20))
    rig.do(LinkUp(PRIMARY))
    effects = rig.install(flush_view(2, end=at(1), tail=CEILING, durability="memory"))
    (report,) = messages(effects, IndexReport)
    assert isinstance(report, IndexReport) and report.empty


def test_p20_frames_that_are_not_folded_yet_are_something() -> None:
    """Their cut may be ordered, and reach replicas only in the next term. As all of them said that
    they are empty, before the term ended or after, the log space started over without records that
    had been acknowledged, though no node had failed (seed 916)."""
    for first, empty in ((0, False), (4, True)):
        rig = FlushRig().begin("memory")
        rig.order(opening())
        rig.hold(frame(first))
        effects = rig.do(LinkUp(PRIMARY))
        effects += rig.install(flush_view(2, end=at(3), tail=CEILING, durability="memory"))
        reports = messages(effects, IndexReport)
        assert len(reports) >= 2
        assert [each.empty for each in reports if isinstance(each, IndexReport)] == [empty] * len(
            reports
        )


# --- when there is nothing to build from ----------------------------------------------------------


def test_p11_class_sync_drops_nothing_and_says_what_to_do() -> None:
    rig = StorageRig().begin()
    rig.core._rebuild = FlushRig._anew.__get__(rig)
    rig.hold(frame(0))
    rig.order(cut(1, 0, 1))
    with pytest.raises(
        NotReady, match=r"log space 1 was folded here past entry 1.*sequencer's disk"
    ):
        rig.install(view(2, end=at(1), tail=1))
    assert rig.seqnums() == [1]


def test_p20_a_journal_that_let_segments_go_cannot_be_folded_again() -> None:
    rig = folded(12)
    rig.checkpoint()
    oldest = rig.journal.segments()[0].number
    for place in range(12, 24):
        rig.hold(frame(place, b"x" * 1000))
    rig.journal.release(oldest)
    with pytest.raises(NotReady) as caught:
        rig.install(flush_view(2, end=at(5), tail=CEILING))
    line = readable(caught.value)
    assert line is not None and "\n" not in line
    for part in (
        "log space 1",
        "entry 5",
        "entry 13",
        "flush",
        "journal-1",
        "loads the other's fold",
    ):
        assert part in line
    assert Index(SPACE, rig.store).position == at(13), "nothing was dropped"


def test_what_reaches_back_to_the_start() -> None:
    def segment(number: int, first: int, last: int) -> SegmentInfo:
        return SegmentInfo(number, 100, first, last, False)

    assert holds_everything([])
    assert holds_everything([segment(3, 4, 4), segment(1, 1, 3)])
    assert not holds_everything([segment(2, 2, 3)])
    assert not holds_everything([segment(1, 1, 3), segment(3, 5, 6)])


def test_a_journal_is_read_once_more_with_what_came_since(tmp_path: Path) -> None:
    journal = JournalFile(
        tmp_path, sync=NoSync(), verify=lambda kind, data: True, segment_bytes=1 << 14
    )
    list(journal.recover())
    written = []
    for number in range(9):
        journal.append(1, [bytes([number]) * 5000])
        journal.commit()
        journal.sync_now()
        written.append(bytes([number]) * 5000)
    assert [bytes(data) for _, _, data in journal.items()] == written
    segments = journal.segments()
    assert len(segments) > 2
    later = [place.segment for _, place, _ in journal.items(segments[1].number)]
    assert later and min(later) == segments[1].number
    for kind, place, data in journal.items():
        assert (kind, journal.read(place)) == (1, bytes(data))
    journal.close()


# --- a whole cluster ------------------------------------------------------------------------------


def busy(world: World, clients: list[Client], rounds: int, *, faults: bool) -> None:
    rng = world.random
    for _ in range(rounds):
        for client in clients:
            if client.engine is None:
                client.connect(rng.choice([node for node in ENGINES if node in world.processes]))
            client.append(rng.randrange(1, 6), unless=rng.choice([None, None, 5]))
        for _ in range(rng.randrange(100)):
            world.step()
        if faults and rng.random() < 0.1:
            world.restart(rng.choice(STORAGE), keep_unsynced=True)
        if faults and rng.random() < 0.1:
            world.break_link(rng.choice(STORAGE), rng.choice((SEQUENCER, *ENGINES)))


def together(world: World) -> bool:
    primary = world.processes[SEQUENCER].core.primaries[WORLD_SPACE]  # type: ignore[attr-defined]
    places = {world.index(node).position for node in STORAGE}
    return len(places) == 1 and world.index(STORAGE[0]).tail == primary.tail


@pytest.mark.parametrize("seed", range(10))
def test_p11_a_cluster_goes_on_without_what_its_sequencer_lost(seed: int) -> None:
    """Storage nodes restart meanwhile; it may happen twice, and cut off terms that had ended."""
    world = World(seed, durability="flush")
    rng = world.random
    clients = [Client(number, world) for number in CLIENTS]

    def down(number: int) -> None:
        clients[CLIENTS.index(number)].lost()

    world.down = down
    kept_tail = 2**53
    for _ in range(rng.randrange(1, 3)):
        busy(world, clients, 12, faults=seed % 2 == 1)
        if rng.random() < 0.3:
            world.restart(SEQUENCER, keep_unsynced=True)
            busy(world, clients, 2, faults=False)
        world.lose_metalog(kept=rng.choice((0.0, rng.random(), 0.95)))
        kept = recover_metalog(
            world.disks[SEQUENCER].journal, first_end(WORLD_SPACE), ceiling=1
        ).end
        kept_tail = min(kept_tail, kept.tail)
    lost_until = world.views[-1].end(WORLD_SPACE).tail
    before = [append for client in clients for append in client.appends]
    busy(world, clients, 8, faults=False)
    assert world.run(lambda: not any(client.waiting for client in clients)), world.trace[-20:]
    assert world.run(lambda: together(world)), world.trace[-20:]
    assert len({world.index(node).chained_hash for node in STORAGE}) == 1
    served = [records_of(world, node) for node in STORAGE]
    assert served[0] == served[1] == served[2]
    places = {data: seqnum for seqnum, (data, _) in served[0].items()}
    assert len(places) == len(served[0]), "nothing stands twice"
    for append in before:
        if append.seqnum is not None and append.seqnum < kept_tail:
            assert places[append.data] == append.seqnum, "the class lost no more than it said"
    after = [each for client in clients for each in client.appends if each not in before]
    acked = [each for each in after if each.seqnum is not None]
    assert acked, "appends go on"
    for append in acked:
        assert append.seqnum is not None and append.seqnum >= lost_until, "no seqnum is given twice"
        assert places[append.data] == append.seqnum


def test_p11_a_memory_log_space_keeps_what_its_metalog_still_orders() -> None:
    """Its frames are in the memory of the storage nodes, which did not restart."""
    world = World(5, durability="memory")
    clients = [Client(number, world) for number in CLIENTS]
    for client in clients:
        client.connect(ENGINES[0])
    busy(world, clients, 25, faults=False)
    world.lose_metalog(kept=0.7)
    kept = recover_metalog(world.disks[SEQUENCER].journal, first_end(WORLD_SPACE), ceiling=1).end
    assert kept.position.count > 10 and kept.position.term == Term(1)
    assert world.run(lambda: together(world))
    served = [records_of(world, node) for node in STORAGE]
    assert served[0] == served[1] == served[2]
    acked = [each for client in clients for each in client.appends if each.seqnum is not None]
    surviving = [each for each in acked if (each.seqnum or 0) < kept.tail]
    assert surviving
    for append in surviving:
        assert served[0][append.seqnum or 0][0] == append.data
