"""P16, P20, P24, P33: a storage node that cannot fold from where it stands loads a peer's fold.

Three nodes whose messages to each other are passed on at once; the primary is the test. `storage-1`
is the one that is wiped, or was away for long.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

import pytest

from bokilog.effects import Checkpoint, Effect, Event, LinkDown, LinkUp, Received, Send, TimerFired
from bokilog.errors import BokilogError, DataLost, NotReady, from_wire
from bokilog.frame import Frame
from bokilog.ids import NodeId, Position
from bokilog.messages import (
    FetchSnapshot,
    FetchStored,
    FollowIndex,
    FollowMetalog,
    IndexReport,
    IndexStream,
    Message,
    MetalogGone,
    ReadReply,
    Replicate,
    RequestFailed,
    ShardProgress,
    SnapshotPart,
    StoredFrame,
    StoredSent,
)
from bokilog.metalog import Entry, Proposer, Trim
from bokilog.storage_nodes import snapshots
from tests.protocol.storage_rig import (
    BOOK,
    ENGINE,
    NODE,
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
    run,
    view,
)

ME = Proposer(NUMBER, 1)
NAMES = (NODE, PEER, OTHER)


class Trio:
    """Three replicas, and the metalog that all who are `up` are told."""

    def __init__(self) -> None:
        self.rigs = {
            name: StorageRig(node=name, disk_id=str(name), load_entries=5) for name in NAMES
        }
        self.up = set(NAMES)
        self.metalog: list[Entry] = []
        self.first_kept = 0
        self.disks_turn = True
        """False: a checkpoint that begins does not end."""
        self.sent: list[tuple[NodeId, NodeId, Message]] = []
        self.dropped: Callable[[NodeId, NodeId, Message], bool] = lambda *_: False
        for rig in self.rigs.values():
            rig.install(view())
        self.connect(*NAMES)
        self.order(opening())

    def __getitem__(self, name: NodeId) -> StorageRig:
        return self.rigs[name]

    def do(self, name: NodeId, event: Event) -> list[Effect]:
        """An event, and everything that follows from it among the three."""
        first = self.rigs[name].do(event)
        todo = deque((name, effect) for effect in first)
        while todo:
            source, effect = todo.popleft()
            if isinstance(effect, Checkpoint) and self.disks_turn:
                todo += ((source, each) for each in self.rigs[source].finish_checkpoint())
            if not isinstance(effect, Send):
                continue
            if effect.to == PRIMARY and isinstance(effect.message, FollowMetalog):
                todo += self._feed(source, effect.message)
            to = NodeId(str(effect.to))
            if to not in self.rigs or not {source, to} <= self.up:
                continue
            self.sent.append((source, to, effect.message))
            if not self.dropped(source, to, effect.message):
                todo += ((to, each) for each in self.rigs[to].get(source, effect.message))
            for each in (source, to):
                todo += ((each, effect) for effect in self.rigs[each].sync())
        return first

    def _feed(self, name: NodeId, message: FollowMetalog) -> list[tuple[NodeId, Effect]]:
        count = message.position.count
        if count < self.first_kept:
            return [
                (name, e) for e in self.rigs[name].get(PRIMARY, MetalogGone(SPACE, self.first_kept))
            ]
        if count == len(self.metalog):
            return []
        return [(name, e) for e in self.rigs[name].get(PRIMARY, run(count, *self.metalog[count:]))]

    def connect(self, *names: NodeId) -> None:
        self.up.update(names)
        for name in names:
            for other in sorted(self.up - {name}):
                self.do(name, LinkUp(other))
                self.do(other, LinkUp(name))
            self.do(name, LinkUp(PRIMARY))
        for name in names:
            self.catch_up(name)

    def catch_up(self, name: NodeId) -> None:
        """Frames that are late are asked for."""
        for _ in range(4):
            self.do(name, TimerFired(("fetch", int(SPACE))))

    def away(self, name: NodeId) -> None:
        self.up.discard(name)
        for other in self.up:
            self.do(other, LinkDown(name))

    def wipe(self, name: NodeId, *, connect: bool = True) -> None:
        """Another disk takes the place of the node's."""
        self.away(name)
        self.rigs[name] = StorageRig(node=name, disk_id="another", load_entries=5)
        self.rigs[name].install(view())
        if connect:
            self.connect(name)

    def hold(self, *frames: Frame) -> None:
        for name in sorted(self.up):
            for each in frames:
                self.do(name, Received(ENGINE, Replicate(each)))
            self.rigs[name].sync()

    def order(self, *entries: Entry) -> None:
        first = len(self.metalog)
        self.metalog += entries
        for name in sorted(self.up):
            self.do(name, Received(PRIMARY, run(first, *entries)))

    def append(self, first: int, until: int, *, size_bytes: int = 40) -> None:
        """Records `first`..`until`, each ordered by a cut of its own."""
        for n in range(first, until):
            self.hold(frame(n, b"%d" % n + bytes(size_bytes), tags=[f"t{n % 3}"]))
            self.order(cut(n + 1, n, n + 1))

    def checkpoint(self, *names: NodeId) -> None:
        for name in names or sorted(self.up):
            self.do(name, TimerFired("checkpoint"))
            report = self.rigs[name].replica.folds.report()
            for other in self.up - {name}:
                self.do(other, Received(name, report))

    def fill(self, name: NodeId = NODE, *, turns: int = 200) -> None:
        """Timers of the backfill, until everything is here."""
        for _ in range(turns):
            if not self[name].replica.filling.busy:
                return
            self.do(name, TimerFired(("backfill", int(SPACE))))

    def kinds(self, *kinds: type) -> list[Message]:
        return [message for _, _, message in self.sent if type(message) in kinds]


def error_of(reply: ReadReply | RequestFailed | None) -> BokilogError:
    assert isinstance(reply, RequestFailed), reply
    return from_wire(reply.error)


def same_fold(one: StorageRig, other: StorageRig) -> None:
    """As far as can be seen."""
    assert one.index.position == other.index.position
    assert one.index.chained_hash == other.index.chained_hash
    assert one.index.tail == other.index.tail
    for tag in (None, "t0", "t1", "t2"):
        assert one.seqnums(tag) == other.seqnums(tag)
        assert one.index.last(BOOK, tag) == other.index.last(BOOK, tag)


def data_of(rig: StorageRig, seqnum: int) -> bytes:
    reply = rig.ask(read(start=seqnum, until=seqnum + 1))
    assert isinstance(reply, ReadReply) and reply.seqnums == [seqnum], reply
    return bytes(reply.payload[0])


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A snapshot has several parts."""
    monkeypatch.setattr(snapshots, "PART_ROWS_MAX", 2)


def test_p33_a_wiped_node_loads_a_fold_copies_the_frames_and_counts_again() -> None:
    """1. A disk is wiped. 2. The node loads a peer's fold and goes on from its position. 3. It
    copies the frames. 4. It answers alike, and its copies count."""
    trio = Trio()
    trio.append(0, 20)
    trio.checkpoint(PEER, OTHER)
    trio.append(20, 24)
    trio.wipe(NODE)
    rig = trio[NODE]
    assert rig.replica.folds.loading.loaded_count == 1
    same_fold(rig, trio[PEER])
    trio.fill()
    assert rig.replica.facts()["rebuilding"] == "" and rig.replica.facts()["records_lost"] == 0
    assert [data_of(rig, n) for n in range(1, 25)] == [data_of(trio[PEER], n) for n in range(1, 25)]
    held = rig.hold(frame(24))
    (progress,) = messages(held, ShardProgress)
    assert isinstance(progress, ShardProgress)
    assert (progress.disk_id, progress.counts) == ("another", [[NUMBER, 25]])
    trio.checkpoint(NODE)
    rig.restart()
    same_fold(rig, trio[PEER])
    assert data_of(rig, 7) == data_of(trio[PEER], 7)


def test_p33_until_a_frame_is_here_nobody_is_told_that_its_record_is_absent() -> None:
    """The engine asks another replica then."""
    trio = Trio()
    trio.append(0, 12)
    trio.checkpoint(PEER, OTHER)
    trio.dropped = lambda source, to, message: isinstance(message, FetchStored)
    trio.wipe(NODE)
    rig = trio[NODE]
    same_fold(rig, trio[PEER])
    assert isinstance(error_of(rig.ask(read(start=3, until=4))), NotReady)
    assert rig.replica.facts()["rebuilding"] == "rebuilding: 0 of 12 records"
    absent = rig.ask(read(start=13, until=14))
    assert isinstance(absent, ReadReply) and not absent.seqnums, "what was never there is absent"
    trio.dropped = lambda *_: False
    trio.fill()
    assert data_of(rig, 3)


def test_p33_while_the_fold_is_loaded_nothing_is_answered_and_new_frames_are_held() -> None:
    trio = Trio()
    trio.append(0, 12)
    trio.checkpoint(PEER, OTHER)
    trio.dropped = lambda source, to, message: (
        isinstance(message, SnapshotPart) and message.part > 1
    )
    trio.wipe(NODE)
    rig = trio[NODE]
    assert rig.replica.folds.loading.writing
    assert isinstance(error_of(rig.ask(read(start=3, until=4))), NotReady)
    assert isinstance(error_of(rig.ask(read(wait_ms=100, position=at(99)))), NotReady)
    report = rig.replica.folds.report()
    assert (report.folded, report.stored) == (Position(0, 0), Position(0, 0))  # type: ignore[arg-type]
    late = frame(0, term=1, number=9)
    (progress,) = messages(rig.hold(late), ShardProgress)
    assert isinstance(progress, ShardProgress) and progress.counts == [[9, 1]], "new shards count"
    trio.dropped = lambda *_: False
    trio.do(NODE, TimerFired(("snapshot", int(SPACE))))
    same_fold(rig, trio[PEER])


def test_p20_a_crash_in_the_middle_of_a_load_leaves_an_empty_fold_that_is_loaded_anew() -> None:
    trio = Trio()
    trio.append(0, 12)
    trio.checkpoint(PEER, OTHER)
    trio.dropped = lambda source, to, message: (
        isinstance(message, SnapshotPart) and message.part > 1
    )
    trio.wipe(NODE)
    trio.away(NODE)
    rig = trio[NODE]
    rig.store.flush()  # also what was written so far may be on disk by then
    rig.restart()
    assert rig.index.empty and not list(rig.store.keys(b"", b"\xff"))
    trio.dropped = lambda *_: False
    trio.connect(NODE)
    same_fold(rig, trio[PEER])


def test_p19_a_loaded_fold_counts_as_stored_only_once_it_was_flushed() -> None:
    """1. A fold is loaded. 2. Power is lost before the flush. 3. The node may not have told anybody
    that it is stored."""
    trio = Trio()
    trio.append(0, 12)
    trio.checkpoint(PEER, OTHER)
    trio.sent.clear()
    trio.disks_turn = False
    trio.wipe(NODE)
    rig = trio[NODE]
    told = [m for s, _, m in trio.sent if s == NODE and isinstance(m, IndexReport)]
    assert told and all(not message.stored.count for message in told)
    trio.away(NODE)
    rig.restart()
    assert rig.index.empty
    trio.disks_turn = True
    trio.connect(NODE)
    trio.fill()
    assert rig.index.generations.stored_position == rig.index.position
    same_fold(rig, trio[PEER])


def test_p16_a_node_that_was_away_too_long_loads_a_fold_and_keeps_the_frames_it_has() -> None:
    """1. A node is away. 2. The metalog is let go past its position. 3. It loads a fold; only the
    frames that it has not are copied."""
    trio = Trio()
    trio.append(0, 10)
    trio.checkpoint()
    trio.append(10, 12)
    trio.away(NODE)
    trio.append(12, 20)
    trio.checkpoint(PEER, OTHER)
    trio.first_kept = 18
    trio.connect(NODE)
    rig = trio[NODE]
    assert rig.replica.folds.loading.loaded_count == 1
    same_fold(rig, trio[PEER])
    trio.fill()
    copied = [m.first_seqnum for m in trio.kinds(StoredFrame) if isinstance(m, StoredFrame)]
    assert copied == list(range(13, 21))
    assert [data_of(rig, n) for n in range(1, 21)] == [data_of(trio[PEER], n) for n in range(1, 21)]
    trio.checkpoint(NODE)
    rig.restart()
    assert [data_of(rig, n) for n in range(1, 21)] == [data_of(trio[PEER], n) for n in range(1, 21)]


def test_p16_frames_that_peers_have_let_go_are_no_reason_to_wait_for_ever() -> None:
    """1. A node is away. 2. Records are trimmed, and their segments used again. 3. It could fold
    the entries, but nobody has the frames."""
    trio = Trio()
    trio.append(0, 2)
    trio.away(NODE)
    trio.append(2, 12, size_bytes=1800)
    trio.order(Trim(5000, BOOK, None, 12, ME))
    trio.checkpoint(PEER, OTHER)
    trio.checkpoint(PEER, OTHER)
    assert trio[PEER].journal.segments()[0].number > 1
    trio.connect(NODE)
    assert trio[NODE].replica.folds.loading.loaded_count == 1
    same_fold(trio[NODE], trio[PEER])
    trio.fill()
    assert data_of(trio[NODE], 12)
    assert trio[NODE].replica.facts()["records_lost"] == 0


def test_p16_two_nodes_that_wait_for_the_same_frames_load_the_fold_of_the_third() -> None:
    """Found by the simulator: neither can give the other anything, nor say that it is gone."""
    trio = Trio()
    trio.append(0, 2)
    trio.away(NODE)
    trio.away(OTHER)
    trio.append(2, 12, size_bytes=1800)
    trio.order(Trim(5000, BOOK, None, 12, ME))
    trio[PEER].replica._releases.peer_stored(OTHER, 99)  # before it was away, in this test
    trio.checkpoint(PEER)
    trio.checkpoint(PEER)
    assert trio[PEER].journal.segments()[0].number > 1
    trio.connect(NODE, OTHER)
    assert trio[NODE].replica.loaded_count == trio[OTHER].replica.loaded_count == 1
    for name in (NODE, OTHER):
        trio.catch_up(name)
        same_fold(trio[name], trio[PEER])


def test_p24_a_frame_that_no_replica_has_any_more_is_data_lost_and_nothing_else_is() -> None:
    trio = Trio()
    trio.append(0, 12)
    trio.checkpoint(PEER, OTHER)
    for name in (PEER, OTHER):
        row = trio[name].index.locate(5)
        assert row is not None
        segment = trio[name].journal._segments[row.location.segment]
        kind, data = segment.items[row.location.offset]
        segment.items[row.location.offset] = kind, data[:-1] + b"?"
    trio.wipe(NODE)
    trio.fill()
    rig = trio[NODE]
    assert not rig.replica.filling.busy and rig.replica.facts()["records_lost"] == 1
    assert isinstance(error_of(rig.ask(read(start=5, until=6))), DataLost)
    assert [data_of(rig, n) for n in (4, 6)] == [data_of(trio[PEER], n) for n in (4, 6)]


def test_p33_a_peer_that_dies_in_the_middle_is_replaced_by_the_next() -> None:
    trio = Trio()
    trio.append(0, 12)
    trio.checkpoint(PEER, OTHER)
    first: list[NodeId] = []

    def dies(source: NodeId, to: NodeId, message: Message) -> bool:
        if isinstance(message, SnapshotPart):
            first.append(source)
            return source == first[0] and message.part > 2
        return False

    trio.dropped = dies
    trio.wipe(NODE)
    assert trio[NODE].replica.folds.loading.writing
    trio.do(NODE, LinkDown(first[0]))
    trio.do(NODE, TimerFired(("snapshot", int(SPACE))))
    assert set(first) == {PEER, OTHER}
    same_fold(trio[NODE], trio[PEER])


def test_p16_a_snapshot_that_is_not_further_does_not_end_a_fold() -> None:
    """Nor does one that stands before what the metalog still holds."""
    trio = Trio()
    trio.append(0, 8)
    trio.checkpoint(PEER, OTHER)
    trio.append(8, 12)
    trio.do(NODE, Received(PRIMARY, MetalogGone(SPACE, 13)))
    assert not trio[NODE].replica.folds.loading.reason, "it stands there already"
    trio[NODE].replica.folds.loading.want("a test", at_least=14)
    trio.do(NODE, TimerFired(("snapshot", int(SPACE))))
    assert trio.kinds(FetchSnapshot) and not trio[NODE].replica.folds.loading.loaded_count
    same_fold(trio[NODE], trio[PEER])


def test_p16_a_fold_that_got_there_by_itself_needs_no_other() -> None:
    """1. A node asks for a fold. 2. No peer gives one, but entries come that an earlier primary had
    sent. 3. It does not ask, nor say that it is rebuilt, any more; it follows the primary again,
    which feeds nobody whom it has told that entries are gone."""
    trio = Trio()
    trio.append(0, 8)
    trio[NODE].replica.folds.loading.want("a test", at_least=10)
    trio.append(8, 12)
    effects = trio.do(NODE, TimerFired(("snapshot", int(SPACE))))
    assert trio[NODE].replica.rebuilding == "" and not trio.kinds(FetchSnapshot)
    follow = FollowMetalog(SPACE, trio[NODE].index.position, 0)
    assert follow in [each.message for each in effects if isinstance(each, Send)]


def test_p16_who_got_past_what_is_gone_before_it_heard_so_follows_again() -> None:
    trio = Trio()
    trio.append(0, 8)
    effects = trio.do(NODE, Received(PRIMARY, MetalogGone(SPACE, 5)))
    follow = FollowMetalog(SPACE, trio[NODE].index.position, 0)
    assert follow in [each.message for each in effects if isinstance(each, Send)]
    assert not trio[NODE].replica.folds.loading.reason


def test_p27_followers_see_a_hole_where_a_fold_was_loaded() -> None:
    """Its entries are not in the stream: facts must not grow over it."""
    trio = Trio()
    trio.append(0, 4)
    trio[NODE].get(9, FollowIndex(SPACE, NUMBER, [BOOK], []))
    trio.away(NODE)
    trio.append(4, 12)
    trio.order(Trim(5000, BOOK, None, 3, ME))
    trio.checkpoint(PEER, OTHER)
    trio.first_kept = 12
    seen: list[Message] = []
    rig = trio[NODE]
    taken = rig.do

    def watched(event: Event) -> list[Effect]:
        effects = taken(event)
        seen.extend(e.message for e in effects if isinstance(e, Send) and e.to == 9)
        return effects

    rig.do = watched  # type: ignore[method-assign]
    trio.connect(NODE)
    streams = [message for message in seen if isinstance(message, IndexStream)]
    assert streams and streams[0].since == streams[0].position == rig.index.position
    assert streams[0].following == [BOOK] and streams[0].trims == [[BOOK, None, 3]]
    assert not streams[0].entries


def test_p33_frames_in_the_answer_of_a_peer_that_is_ahead_are_dropped_only_behind_it() -> None:
    """What a peer does not need any more at its position may still be read here, before it."""
    trio = Trio()
    trio.append(0, 12)
    trio.checkpoint(PEER, OTHER)
    trio.dropped = lambda source, to, message: isinstance(message, FetchStored)
    trio.wipe(NODE)
    rig = trio[NODE]
    asked = rig.replica.filling._backfill._asked
    peer = rig.replica.filling._backfill._peer
    assert peer is not None
    trio.dropped = lambda *_: True
    trio.do(NODE, Received(peer, StoredSent(SPACE, *asked, at(99), [])))
    assert isinstance(error_of(rig.ask(read(start=3, until=4))), NotReady), "not DataLost"


def stored_frames(effects: Sequence[Effect]) -> list[Message]:
    return messages(effects, StoredFrame)


def test_p29_a_frame_that_does_not_verify_is_not_taken() -> None:
    trio = Trio()
    trio.append(0, 12)
    trio.checkpoint(PEER, OTHER)
    trio.dropped = lambda source, to, message: isinstance(message, FetchStored)
    trio.wipe(NODE)
    rig = trio[NODE]
    peer = rig.replica.filling._backfill._peer
    assert peer is not None
    good = frame(2, b"2" + bytes(40), tags=["t2"])
    bad = Frame(shard=good.shard, first=2, columns=good.columns, payload=[b"3" + bytes(40)])
    rig.get(peer, StoredFrame(3, bad))
    rig.sync()
    assert isinstance(error_of(rig.ask(read(start=3, until=4))), NotReady)
    rig.get(peer, StoredFrame(3, good))
    rig.sync()
    assert data_of(rig, 3)


def test_p19_a_loaded_fold_names_no_frame_that_a_crash_may_take_yet() -> None:
    """The peer's fold is stored as it is loaded, and a frame here was folded by others' copies: the
    place that the old fold knew of it may be another frame's after a crash."""
    trio = Trio()
    rig = trio[NODE]
    with pytest.MonkeyPatch.context() as disk:
        disk.setattr(rig, "sync", list)  # it stands still
        trio.append(0, 1)
        assert rig.seqnums() == [1], "two others have it"
        trio.away(NODE)
        trio.append(1, 9)
        trio.checkpoint(PEER, OTHER)
        trio.first_kept = 8
        trio.connect(NODE)
        assert rig.replica.folds.loading.loaded_count == 1
        trio.away(NODE)
        disk.setattr(rig.store, "crash", lambda: None)  # the process dies, and not the machine
        rig.restart()
    trio.connect(NODE)
    trio.fill()
    trio.append(9, 10)
    for n in range(10):
        assert data_of(rig, n + 1)[:1] == b"%d" % n
