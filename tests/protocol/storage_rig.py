"""A storage node over a journal and a store in memory, whose syncs end when a test says so."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from bokilog.columns import Tags
from bokilog.cut import CutSpan
from bokilog.effects import (
    Address,
    BatchEnded,
    Checkpoint,
    CheckpointStored,
    Commit,
    Effect,
    Event,
    LoadView,
    Persisted,
    PersistFailed,
    Received,
    Send,
    TimerFired,
    ViewInstalled,
)
from bokilog.frame import Frame, decode_frame
from bokilog.ids import START, LogSpaceId, NodeId, Position, Shard, Term
from bokilog.io.journal_memory import MemoryJournal
from bokilog.messages import Message, Metalog, Read, ReadReply, Replicate, RequestFailed
from bokilog.metalog import Cut, Entry, OpenShard, Run
from bokilog.record import Durability
from bokilog.storage_nodes.arrivals import Identity
from bokilog.storage_nodes.cold import Cold
from bokilog.storage_nodes.core import StorageCore
from bokilog.storage_nodes.fold import Fold
from bokilog.storage_nodes.index import Index
from bokilog.storage_nodes.memory_store import MemoryStore
from bokilog.storage_nodes.peer_folds import LOAD_ENTRIES
from bokilog.storage_nodes.replica import Replica
from bokilog.view import End, LogSpace, View
from tests.frames import columns_of

SPACE = LogSpaceId(1)
BOOK = 7
ENGINE, PRIMARY = NodeId("engine-1"), NodeId("sequencer-1")
NODE, PEER, OTHER = NodeId("storage-1"), NodeId("storage-2"), NodeId("storage-3")
NUMBER = 5
SHARD = Shard(SPACE, Term(1), NUMBER)
PENDING_BYTES = 1 << 20


def view(term: int = 1, *, end: Position = START, tail: int = 1) -> View:
    space = LogSpace(
        id=SPACE,
        durability="sync",
        primary=PRIMARY,
        replicas=(NODE, PEER, OTHER),
        write_quorum=2,
    )
    ended = End(space=SPACE, position=end, tail=tail, timestamp_ms=0)
    return View(
        cluster_id="c",
        history_id="h",
        term=Term(term),
        nodes=(),
        spaces=(space,),
        ends=(ended,),
    )


def frame(
    first: int = 0,
    *payload: bytes,
    tags: list[Tags] | None = None,
    term: int = 1,
    number: int = NUMBER,
    unless: list[tuple[int, list[tuple[str | None, int]]]] | None = None,
    books: int = BOOK,
) -> Frame:
    data = payload or (b"data",)
    columns = columns_of(data, tags=tags or ["t"] * len(data), books=books, unless=unless)
    shard = Shard(SPACE, Term(term), number)
    return Frame(shard=shard, first=first, columns=columns, payload=[b"".join(data)])


def at(count: int, term: int = 1) -> Position:
    return Position(Term(term), count)


def run(first: int, *entries: Entry, term: int = 1) -> Metalog:
    return Metalog(Run(SPACE, Term(term), first, entries))


def opening(number: int = NUMBER) -> OpenShard:
    return OpenShard(1000, number, ENGINE, (NODE, PEER, OTHER))


def cut(first_seqnum: int, start: int, until: int, *, number: int = NUMBER) -> Cut:
    return Cut(1000 + first_seqnum, first_seqnum, (CutSpan(number, start, until),))


def read(
    *,
    start: int = 0,
    until: int = 2**53,
    tag: str | None = None,
    position: Position = START,
    wait_ms: int = 0,
    reverse: bool = False,
    bytes_start: int = -1,
    bytes_until: int = -1,
) -> Read:
    return Read(
        *(1, SPACE, BOOK, tag, start, until, 10, 1 << 20, reverse, position, wait_ms),
        *(False, bytes_start, bytes_until),
    )


class StorageRig:
    """One node; a batch ends after each event."""

    def __init__(
        self,
        *,
        pending_bytes: int = PENDING_BYTES,
        cache_bytes: int = 1 << 20,
        disk_id: str = "d",
        node: NodeId = NODE,
        load_entries: int = LOAD_ENTRIES,
        durability: Durability = "sync",
        make_cold: Callable[[], Cold | None] = lambda: None,
    ) -> None:
        self.now_s = 0.0
        self._make_cold = make_cold
        self.journal = MemoryJournal(segment_bytes=1 << 13)
        self.store = MemoryStore()
        self.views: list[View] = []
        self.node = node
        self._durability = durability
        self._load_entries = load_entries
        self._pending_bytes, self._cache_bytes, self._disk_id = pending_bytes, cache_bytes, disk_id
        self._tokens: list[int] = []
        self.core = self._start()

    def _start(self) -> StorageCore:
        replica = Replica(
            node=self.node,
            space=replace(view().space(SPACE), durability=self._durability),
            identity=Identity(self._disk_id, 0),
            journal=self.journal,
            fold=Fold(Index(SPACE, self.store)),
            cache_bytes_max=self._cache_bytes,
            pending_bytes_max=self._pending_bytes,
            load_entries=self._load_entries,
            new_fold=lambda: Fold(Index(SPACE, MemoryStore())),
            cold=self._make_cold(),
        )
        for _, location, data in self.journal.recover(replica.replay_from):
            replica.recover_frame(decode_frame(bytes(data)), location)
        replica.recovered_frames()
        return StorageCore(node=self.node, replicas={SPACE: replica}, checkpoint_s=10)

    @property
    def replica(self) -> Replica:
        return self.core.replicas[SPACE]

    @property
    def index(self) -> Index:
        return self.replica.index

    def do(self, event: Event) -> list[Effect]:
        now_s = self.now_s
        effects = [*self.core.handle(event, now_s), *self.core.handle(BatchEnded(0), now_s)]
        self.core.check()
        self._tokens += [effect.token for effect in effects if isinstance(effect, Commit)]
        return effects

    def get(self, source: Address, message: Message) -> list[Effect]:
        return self.do(Received(source, message))

    def install(self, new: View) -> list[Effect]:
        self.views.append(new)
        return self.do(ViewInstalled(new))

    def take(self, *frames: Frame, source: Address = ENGINE) -> list[Effect]:
        return [effect for each in frames for effect in self.get(source, Replicate(each))]

    def sync(self) -> list[Effect]:
        """What is staged becomes a group, and durable; or fails for good."""
        tokens, self._tokens = self._tokens, []
        self.journal.commit()
        failed = self.journal.sync_now().failed
        effects: list[Effect] = []
        for token in tokens:
            done = Persisted(token) if failed is None else PersistFailed(token, failed)
            effects += self.do(done)
        return effects

    def hold(self, *frames: Frame) -> list[Effect]:
        """Takes frames and makes them durable."""
        return [*self.take(*frames), *self.sync()]

    def order(self, *entries: Entry, first: int | None = None, term: int = 1) -> list[Effect]:
        """The primary publishes the entries that are next."""
        place = self.index.position.count if first is None else first
        return self.get(PRIMARY, run(place, *entries, term=term))

    def begin(self) -> StorageRig:
        """In term 1, with one open shard."""
        self.install(view())
        self.order(opening())
        return self

    def restart(self) -> None:
        """Power is lost; the views are read from the store again."""
        self.journal.crash()
        self.store.crash()
        self._tokens = []
        self.core = self._start()
        views, self.views = self.views, []
        for each in views:
            self.install(each)

    def checkpoint(self) -> None:
        """A whole one, written and flushed."""
        effects = self.do(TimerFired("checkpoint"))
        assert Checkpoint(SPACE) in effects, effects
        self.finish_checkpoint()

    def finish_checkpoint(self) -> list[Effect]:
        """What was frozen for a checkpoint is written and flushed."""
        for _ in self.index.generations.steps():
            pass
        self.index.generations.write()
        return self.do(CheckpointStored(SPACE))

    def ask(self, request: Read) -> ReadReply | RequestFailed | None:
        """What a reader is told at once."""
        found = messages(self.get(9, request), ReadReply, RequestFailed)
        return found[0] if found else None  # type: ignore[return-value]

    def seqnums(self, tag: str | None = None) -> list[int]:
        return self.index.seqnums(BOOK, tag, 0, 2**53, limit=1000)


def messages(effects: Sequence[Effect], *kinds: type) -> list[Message]:
    sent = [each.message for each in effects if isinstance(each, Send)]
    return [message for message in sent if type(message) in kinds]


def loads(effects: Sequence[Effect]) -> list[int]:
    """Terms whose views are asked for."""
    return [each.term for each in effects if isinstance(each, LoadView)]
