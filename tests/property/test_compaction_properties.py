"""P21: compaction never loses or alters a live record, wherever a crash comes in between."""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field

from hypothesis import given, settings, strategies as st

from bokilog.columns import Columns, record_sum
from bokilog.cut import CutSpan
from bokilog.effects import BatchEnded, Checkpoint, CheckpointStored, Commit, TimerFired
from bokilog.frame import Frame
from bokilog.ids import Position, Shard, Term
from bokilog.messages import IndexReport, Read, ReadReply
from bokilog.metalog import Cut, Entry, Proposer, Trim
from bokilog.storage_nodes.compaction import live_bytes
from bokilog.storage_nodes.retention import Span
from tests.protocol.storage_rig import (
    ENGINE,
    NUMBER,
    OTHER,
    PEER,
    SHARD,
    SPACE,
    StorageRig,
    messages,
    opening,
    view,
)

BOOKS = (7, 8, 9)
ME = Proposer(NUMBER, 1)


def frame(first: int, records: list[tuple[int, bytes]]) -> Frame:
    """A frame of single records, each of a LogBook."""
    sums = array("Q", [record_sum(data)[0] for _, data in records])
    books = [book for book, _ in records]
    columns = Columns(
        books=books[0] if len(set(books)) == 1 else books,
        unit_records=None,
        tags=["t"] * len(records),
        lengths=array("I", [len(data) for _, data in records]),
        sums=sums,
        blocks=array("Q"),
        unless=[],
        keys=[],
    )
    payload = b"".join(data for _, data in records)
    return Frame(shard=SHARD, first=first, columns=columns, payload=[payload])


@dataclass
class World:
    """A storage node, what the primary and the engine know, and what readers must find."""

    rig: StorageRig = field(default_factory=StorageRig)
    entries: list[Entry] = field(default_factory=list)
    frames: list[Frame] = field(default_factory=list)
    records: dict[int, list[tuple[int, bytes]]] = field(default_factory=dict)
    trims: dict[int, int] = field(default_factory=dict)
    tail: int = 1
    count: int = 0
    now_s: float = 0.0

    def begin(self) -> World:
        self.rig.install(view())
        self.publish(opening())
        return self

    def publish(self, entry: Entry) -> None:
        self.entries.append(entry)
        self.rig.order(entry)

    def append(self, books: list[int], size_bytes: int) -> None:
        records = [(book, b"%06d" % (self.tail + n) * size_bytes) for n, book in enumerate(books)]
        made = frame(self.count, records)
        self.frames.append(made)
        self.rig.hold(made)
        span = CutSpan(NUMBER, self.count, self.count + len(books))
        self.publish(Cut(1000 + self.tail, self.tail, (span,)))
        for seqnum, (book, data) in enumerate(records, self.tail):
            self.records.setdefault(book, []).append((seqnum, data))
        self.count += len(books)
        self.tail += len(books)

    def trim(self, book: int, keep: int) -> None:
        until = max(self.tail - keep, 1)
        self.publish(Trim(1000 + self.tail, book, None, until, ME))
        self.trims[book] = max(until, self.trims.get(book, 0))

    def checkpoint(self, *, steps: int = 3) -> None:
        """Freeze, write, tell: `steps` of it, as if the power went away then."""
        effects = self.rig.do(TimerFired("checkpoint"))
        index = self.rig.index
        if Checkpoint(SPACE) not in effects or steps < 2:
            return
        for _ in index.generations.steps():
            pass
        index.generations.write()
        if steps > 2:
            self.rig.do(CheckpointStored(SPACE))
            for peer in (PEER, OTHER):
                stored = index.generations.stored_position
                self.rig.get(peer, IndexReport(SPACE, stored, stored, 0, False))

    def upkeep(self, *, sync: bool) -> None:
        self.now_s += 1.0
        core = self.rig.core
        effects = core.handle(TimerFired("upkeep"), self.now_s)
        effects += core.handle(BatchEnded(0), self.now_s)
        self.rig._tokens += [each.token for each in effects if isinstance(each, Commit)]
        if sync:
            self.rig.sync()

    def crash(self) -> None:
        self.rig.restart()
        position = self.rig.index.position.count
        self.rig.take(*self.frames, source=ENGINE)  # the engine, or a peer, sends what is missing
        self.rig.sync()
        if position < len(self.entries):
            self.rig.order(*self.entries[position:], first=position)

    def check(self) -> None:
        for book in BOOKS:
            trim_until = self.trims.get(book, 0)
            wanted = [each for each in self.records.get(book, []) if each[0] >= trim_until]
            found: list[tuple[int, bytes]] = []
            start = trim_until
            while True:
                read = Read(
                    *(1, SPACE, book, None, start, 2**53, 50, 1 << 20, False),
                    *(Position(Term(0), 0), 0, False, -1, -1),
                )
                (reply,) = messages(self.rig.get(9, read), ReadReply)
                assert isinstance(reply, ReadReply)
                found += zip(reply.seqnums, map(bytes, reply.payload), strict=True)
                start = reply.next_seqnum
                if not reply.more:
                    break
            assert found == wanted


OPS = st.one_of(
    st.tuples(
        st.just("append"),
        st.lists(st.sampled_from(BOOKS), min_size=1, max_size=3),
        st.integers(1, 400),
    ),
    st.tuples(st.just("trim"), st.sampled_from(BOOKS), st.integers(0, 10)),
    st.tuples(st.just("checkpoint"), st.integers(1, 3)),
    st.tuples(st.just("upkeep"), st.booleans()),
    st.tuples(st.just("crash")),
)


@settings(max_examples=60, deadline=None)
@given(ops=st.lists(OPS, min_size=10, max_size=60), kept=st.integers(0, 6))
def test_p21_no_live_record_is_lost_or_altered_by_compaction(
    ops: list[tuple[object, ...]], kept: int
) -> None:
    world = World().begin()
    for number in range(25):  # several segments, most of them mostly dead
        world.append([BOOKS[number % 2]], 200)
    world.trim(BOOKS[0], kept)
    world.checkpoint()
    for op in ops:
        match op:
            case ("append", list() as books, int() as size_bytes):
                world.append(books, size_bytes)
            case ("trim", int() as book, int() as keep):
                world.trim(book, keep)
            case ("checkpoint", int() as steps):
                world.checkpoint(steps=steps)
                if steps < 3:
                    world.crash()
            case ("upkeep", bool() as sync):
                world.upkeep(sync=sync)
            case _:
                world.crash()
        world.check()


def segments(world: World) -> set[int]:
    return {each.number for each in world.rig.journal.segments()}


def mostly_dead() -> World:
    world = World().begin()
    for number in range(60):  # every tenth frame is of a LogBook that stays
        world.append([BOOKS[0] if number % 10 else BOOKS[1]], 150)
    world.trim(BOOKS[0], 0)
    world.checkpoint()
    world.checkpoint()
    return world


def test_p21_a_segment_that_is_mostly_dead_is_copied_and_let_go() -> None:
    world = mostly_dead()
    before = segments(world)
    for _ in range(30):
        world.upkeep(sync=True)
    world.check()
    assert segments(world) >= before  # nothing goes before it is stored that it moved
    world.checkpoint()
    world.check()
    assert len(segments(world)) <= len(before) // 3
    world.crash()
    world.check()


def test_p21_a_crash_before_the_moves_are_stored_finds_the_old_segments() -> None:
    world = mostly_dead()
    for _ in range(30):
        world.upkeep(sync=True)
    world.crash()
    world.check()
    world.checkpoint()
    for _ in range(30):
        world.upkeep(sync=True)
    world.checkpoint()
    world.checkpoint()
    world.check()
    assert len(segments(world)) <= 4  # also of what the crash left


def test_p21_nothing_is_compacted_that_a_replica_may_still_ask_for() -> None:
    world = mostly_dead()
    behind = IndexReport(SPACE, Position(Term(1), 3), Position(Term(1), 3), 0, False)
    for peer in (PEER, OTHER):  # one of them and this node would be a write quorum
        world.rig.get(peer, behind)
    for _ in range(5):
        world.upkeep(sync=True)
    assert world.rig.replica.facts()["compacted_bytes"] == 0


def test_p30_a_damaged_frame_is_never_copied() -> None:
    world = mostly_dead()
    journal = world.rig.journal
    segment, offset = next(
        (number, offset)
        for number, each in journal._segments.items()
        for offset, (_, data) in each.items.items()
        if b"000011" in data[-900:] or b"000010" in data[-900:]
    )
    kind, data = journal._segments[segment].items[offset]
    journal._segments[segment].items[offset] = kind, data[:-1] + bytes([data[-1] ^ 1])
    world.rig.replica._reader._frames.clear()
    for _ in range(30):
        world.upkeep(sync=True)
    world.checkpoint()
    assert segment in segments(world)


def test_the_live_part_of_a_segment_is_told_by_its_trims() -> None:
    class Trims:
        def trim_until(self, book: int, tag: str | None = None) -> int:
            return {5: 0, 6: 20, 7: 100}[book]

    spans = {5: Span(1, 30, 100), 6: Span(11, 30, 200), 7: Span(1, 30, 400)}
    assert live_bytes(spans, Trims()) == 100 + 200 * 11 // 20


def test_other_shards_are_left_alone() -> None:
    """A copy of a frame whose shard is open is not taken for a new frame after a restart (P1)."""
    world = mostly_dead()
    for _ in range(30):
        world.upkeep(sync=True)
    world.crash()
    held = world.rig.replica._pending.held_of(Shard(SPACE, Term(1), NUMBER))
    assert held == world.count


def test_p21_records_that_only_trims_of_their_tags_hide_are_copied_too() -> None:
    """Which they are stands in their frames: without those a reader of the LogBook would be told
    that they are lost."""
    world = mostly_dead()
    before = segments(world)
    world.publish(Trim(1000 + world.tail, BOOKS[1], "t", world.tail, ME))
    world.records[BOOKS[1]] = []
    for _ in range(20):
        world.upkeep(sync=True)
    world.checkpoint()
    assert before - segments(world), "nothing was compacted"
    world.crash()  # frames kept in memory would hide it
    world.check()
