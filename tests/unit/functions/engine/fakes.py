"""A whole small cluster around one engine: a primary, storage nodes and clients as simple as they
can be, and links that deliver one message at a time, break, and come back. Which of all that
happens next is drawn from a seed.
"""

from __future__ import annotations

import random
from collections import deque
from dataclasses import dataclass, field

from bokilog.columns import Tags
from bokilog.cut import CutSpan
from bokilog.effects import (
    Address,
    BatchEnded,
    CancelTimer,
    Effect,
    LinkClogged,
    LinkDown,
    LinkUp,
    LoadView,
    Received,
    Send,
    SetTimer,
    TimerFired,
    ViewInstalled,
)
from bokilog.frame import FLAG_VERDICT, Frame
from bokilog.functions.engine.core import EngineCore
from bokilog.functions.engine.settings import EngineSettings
from bokilog.ids import NodeId, Position, Shard, Term
from bokilog.limits import NO_END
from bokilog.messages import (
    VERDICT_VISIBLE,
    AppendFrame,
    FollowIndex,
    FollowMetalog,
    FrameLost,
    FrameOrdered,
    FrameRefused,
    FrameVerdicts,
    IndexStream,
    Message,
    Metalog,
    MetalogPosition,
    OpenShardRequest,
    Read,
    ReadReply,
    Replicate,
    RequestFailed,
    ResumeShard,
    ShardHeld,
    TermChanged,
)
from bokilog.metalog import Cut, Entry, OpenShard, Run
from tests.unit.functions.engine.world import (
    BOOK,
    ENGINE,
    NUMBER,
    SPACE,
    STORAGE,
    append,
    read,
    view,
)

PRIMARIES = (NodeId("sequencer-1"), NodeId("sequencer-2"))
QUORUM = 2
TAGS = ("a", "b", "c")


@dataclass
class Log:
    """The truth: every entry, and every record by seqnum."""

    entries: list[tuple[Term, Entry]] = field(default_factory=list)
    tails: list[int] = field(default_factory=lambda: [1])
    """Tail after so many entries."""
    records: dict[int, tuple[Tags, bytes]] = field(default_factory=dict)
    frames: dict[int, Frame] = field(default_factory=dict)
    """By first seqnum."""

    @property
    def position(self) -> Position:
        return Position(self.entries[-1][0] if self.entries else Term(0), len(self.entries))

    def add(self, term: Term, entry: Entry, tail: int) -> None:
        self.entries.append((term, entry))
        self.tails.append(tail)

    def visible(self, tag: str | None, start: int, until: int) -> list[int]:
        return [
            seqnum
            for seqnum, (own, _) in self.records.items()
            if start <= seqnum < until and (tag is None or own == tag)
        ]


class Storage:
    """Holds frames, folds with a lag, streams and answers reads."""

    def __init__(self, node: NodeId, log: Log) -> None:
        self.node = node
        self.log = log
        self.frames: dict[Shard, dict[int, Frame]] = {}
        self.folded = 0
        self.follow: FollowIndex | None = None
        self.sent = 0
        self.named: set[int] = set()
        self.reads: list[Read] = []

    def held(self, shard: Shard) -> int:
        frames = self.frames.get(shard, {})
        count = 0
        while count in frames:
            count = frames[count].until
        return count

    def position(self, count: int) -> Position:
        return Position(self.log.entries[count - 1][0] if count else Term(0), count)

    def receive(self, message: Message) -> list[Message]:
        match message:
            case Replicate(frame=frame):
                known = self.frames.setdefault(frame.shard, {})
                other = known.setdefault(frame.first, frame)
                assert other.checksum == frame.checksum, f"two frames at {frame.first}"
            case ResumeShard(shard=shard):
                return [ShardHeld(shard, self.held(shard))]
            case FollowIndex():
                return self._followed(message)
            case Read():
                self.reads.append(message)
                return self.answer()
            case _:
                raise AssertionError(f"a storage node is not sent {message}")
        return []

    def _followed(self, message: FollowIndex) -> list[Message]:
        if self.follow is None:
            self.sent, self.named = self.folded, set()
        self.follow = message
        fresh = set(message.books) - self.named
        self.named = set(message.books)
        verdicts: list[list[object]] = []
        for term, number, first, first_seqnum in message.verdicts:
            frame = self.log.frames.get(first_seqnum)
            if frame is not None and first_seqnum < self.log.tails[self.folded]:
                verdicts.append([term, number, first, verdicts_of(frame, first_seqnum)])
        return [self.stream(following=sorted(fresh), verdicts=verdicts)]

    def fold(self, count: int) -> list[Message]:
        self.folded = max(self.folded, count)
        stream = [self.stream()] if self.follow is not None else []
        return [*stream, *self.answer()]

    def stream(
        self, *, following: list[int] | None = None, verdicts: list[list[object]] | None = None
    ) -> IndexStream:
        entries: list[list[object]] = []
        rows = verdicts or []
        for place in range(self.sent, self.folded):
            term, entry = self.log.entries[place]
            if not isinstance(entry, Cut):
                continue
            for first, frame in self.log.frames.items():
                if self.log.tails[place] <= first < self.log.tails[place + 1]:
                    columns = frame.columns
                    if columns.books in self.named and not following:
                        entries.append([first, columns.books, None, columns.tags, [], 1000])
                    if frame.header[5] & FLAG_VERDICT:
                        rows.append([term, NUMBER, frame.first, verdicts_of(frame, first)])
        since, self.sent = self.sent, self.folded
        return IndexStream(
            space=SPACE,
            since=self.position(since),
            position=self.position(self.folded),
            tail=self.log.tails[self.folded],
            entries=entries,
            trims=[],
            verdicts=rows,
            answers=[],
            following=following or [],
            deleted=[],
        )

    def answer(self) -> list[Message]:
        ready = [each for each in self.reads if each.position.count <= self.folded]
        self.reads = [each for each in self.reads if each.position.count > self.folded]
        return [self.reply(each) for each in ready]

    def reply(self, asked: Read) -> ReadReply:
        tail = self.log.tails[self.folded]
        end = min(asked.until, tail)
        found = self.log.visible(asked.tag, asked.start, end)
        if asked.reverse:
            found.reverse()
        taken, more = found[: asked.limit], len(found) > asked.limit
        following = asked.start if asked.reverse else max(asked.start, end)
        if more:
            following = taken[-1] if asked.reverse else taken[-1] + 1
        return ReadReply(
            *(asked.request, self.position(self.folded), tail, 0, following, more, taken),
            *([self.log.records[seqnum][0] for seqnum in taken], [1000] * len(taken), None),
            [self.log.records[seqnum][1] for seqnum in taken],
        )


def verdicts_of(frame: Frame, first_seqnum: int) -> list[list[object]]:
    return [[unit, VERDICT_VISIBLE, first_seqnum + unit, 0] for unit, _ in frame.columns.unless]


class Primary:
    """Opens shards and cuts; its follower is the engine."""

    def __init__(self, term: Term, log: Log, storage: list[Storage]) -> None:
        self.term = term
        self.log = log
        self.storage = storage
        self.opened = False
        self.ordered = 0
        self.number = -1
        self.sent = 0

    def receive(self, message: Message) -> list[Message]:
        match message:
            case OpenShardRequest(term=self.term) if not self.opened:
                self.opened = True
                nodes = tuple(each.node for each in self.storage)
                opening = OpenShard(1000, NUMBER, ENGINE, nodes)
                self.log.add(self.term, opening, self.log.tails[-1])
            case FollowMetalog(position=position, shard=number):
                self.number = number
                self.sent = position.count
                if number and not position.count:
                    self.sent = len(self.log.entries)
                return self.feed()
            case OpenShardRequest():
                pass
            case _:
                raise AssertionError(f"a primary is not sent {message}")
        return []

    def feed(self) -> list[Message]:
        if self.number < 0:
            return []
        messages: list[Message] = []
        for place in range(self.sent, len(self.log.entries)):
            term, entry = self.log.entries[place]
            own = isinstance(entry, OpenShard) or (
                isinstance(entry, Cut) and any(span.number == NUMBER for span in entry.spans)
            )
            if own or not self.number:
                messages.append(Metalog(Run(SPACE, term, place, (entry,))))
        if self.number and self.sent < len(self.log.entries):
            position = Position(self.term, len(self.log.entries))
            messages.append(MetalogPosition(SPACE, position, self.log.tails[-1]))
        self.sent = len(self.log.entries)
        return messages

    def cut(self, others: int) -> None:
        """Orders what a quorum holds, and some records of another engine before it."""
        shard = Shard(SPACE, self.term, NUMBER)
        frontier = sorted((each.held(shard) for each in self.storage), reverse=True)[QUORUM - 1]
        spans, seqnum = [], self.log.tails[-1]
        first = seqnum
        if others:
            spans.append(CutSpan(1, 0, others))
            for _ in range(others):
                self.log.records[seqnum] = ("a", b"other")
                frame = append(0, "a", data=[b"other"])
                named = Shard(SPACE, self.term, 1)
                self.log.frames[seqnum] = Frame(
                    shard=named, first=0, columns=frame.columns, payload=frame.payload
                )
                seqnum += 1
        if self.opened and frontier > self.ordered:
            spans.append(CutSpan(NUMBER, self.ordered, frontier))
            seqnum = self._order(shard, frontier, seqnum)
        if spans:
            self.log.add(self.term, Cut(1000, first, tuple(spans)), seqnum)

    def _order(self, shard: Shard, frontier: int, seqnum: int) -> int:
        frames: dict[int, Frame] = {}
        for each in self.storage:
            frames.update(each.frames.get(shard, {}))
        while self.ordered < frontier:
            frame = frames[self.ordered]
            for each in self.storage:  # whoever lacks it fetches it from a peer
                each.frames.setdefault(shard, {}).setdefault(frame.first, frame)
            self.log.frames[seqnum] = frame
            for tags, data in zip(frame.columns.tags, frame.payload, strict=True):
                self.log.records[seqnum] = (tags, bytes(data))
                seqnum += 1
            self.ordered = frame.until
        return seqnum


class Client:
    """Appends frames one after another, and keeps what it is told."""

    def __init__(self, address: int) -> None:
        self.address = address
        self.next = 1
        self.content: dict[int, AppendFrame] = {}
        self.in_flight: set[int] = set()
        self.refused: list[int] = []
        self.ordered: dict[int, int] = {}
        self.decided: set[int] = set()
        self.lost: set[int] = set()
        self.position = Position(Term(0), 0)
        self.reads: dict[int, Read] = {}

    def receive(self, message: Message, log: Log) -> list[Message]:
        match message:
            case FrameOrdered(number=number):
                assert number not in self.ordered, f"frame {number} was ordered twice"
                self.ordered[number] = message.first_seqnum
                self.in_flight.discard(number)
                self.position = max(self.position, message.position)
            case FrameVerdicts(number=number):
                assert number in self.ordered
                self.decided.add(number)
            case FrameLost(number=number):
                self.lost.add(number)
                self.in_flight.discard(number)
            case FrameRefused(number=number):
                self.in_flight.discard(number)
                self.refused.append(number)
                if not any(each > self.refused[0] for each in self.in_flight):
                    return self.again()
            case ReadReply(request=request):
                check_reply(self.reads.pop(request), message, log)
                self.position = max(self.position, message.position)
            case RequestFailed(request=request):
                raise AssertionError(f"{self.reads[request]} failed: {message.error}")
            case _:
                raise AssertionError(f"a client is not sent {message}")
        return []

    def again(self) -> list[Message]:
        numbers, self.refused = sorted(self.refused), []
        self.in_flight.update(numbers)
        return [self.content[number] for number in numbers]


def check_reply(asked: Read, reply: ReadReply, log: Log) -> None:
    """Exactly the records of the range it speaks of, at least up to the position that was asked
    for.
    """
    seen_tail = log.tails[asked.position.count]
    if asked.reverse:
        low, high = reply.next_seqnum, min(asked.until, seen_tail)
        newer = [seqnum for seqnum in reply.seqnums if seqnum >= high]
        found = log.visible(asked.tag, low, high)[::-1]
        assert reply.seqnums == newer + found, f"{asked} got {reply}"
    else:
        assert reply.seqnums == log.visible(asked.tag, asked.start, reply.next_seqnum)
        if not reply.more:
            assert reply.next_seqnum >= min(asked.until, seen_tail), f"{asked} got {reply}"
    if reply.more:
        assert 0 < len(reply.seqnums) <= asked.limit
    assert [bytes(data) for data in reply.payload] == [
        log.records[seqnum][1] for seqnum in reply.seqnums
    ]
    assert log.tails[reply.position.count] == reply.tail, "a position and a tail of two moments"


class Cluster:
    """One seed's history."""

    def __init__(self, seed: int, *, facts_bytes: int = 20_000) -> None:
        self.rng = random.Random(seed)
        self.log = Log()
        self.storage = [Storage(node, self.log) for node in STORAGE]
        self.primary = Primary(Term(1), self.log, self.storage)
        self.clients = [Client(1), Client(2)]
        settings = EngineSettings(
            facts_bytes=facts_bytes,
            cache_bytes=20_000 if facts_bytes else 0,
            unordered_frames_max=8,
            gap_asks_max=100,
        )
        self.engine = EngineCore(settings, ENGINE, NUMBER)
        self.now_s = 0.0
        self.up: set[Address] = set()
        self.to_engine: dict[Address, deque[Message]] = {}
        self.from_engine: dict[Address, deque[Message]] = {}
        self.timers: dict[object, float] = {}
        self.term = Term(1)
        self.views = [view(replicas=STORAGE, primary=PRIMARIES[1])]
        self.installed = 0
        self.peers: list[Address] = [
            *PRIMARIES,
            *STORAGE,
            *(("bulk", node) for node in STORAGE),
        ]
        for peer in (1, 2, *self.peers):
            self.link_up(peer)
        self.install()

    # --- the engine -------------------------------------------------------------------------------

    def tell(self, event: object) -> None:
        effects: list[Effect] = self.engine.handle(event, self.now_s)  # type: ignore[arg-type]
        self.engine.check()
        for effect in effects:
            match effect:
                case Send(to=to, message=message):
                    if to in self.up:
                        self.from_engine[to].append(message)
                case SetTimer(timer=timer, delay_s=delay_s):
                    self.timers[timer] = self.now_s + delay_s
                case CancelTimer(timer=timer):
                    self.timers.pop(timer, None)
                case LoadView():
                    self.install()
                case _:
                    raise AssertionError(f"an engine does not ask for {effect}")

    def install(self) -> None:
        while self.installed < len(self.views):
            self.installed += 1
            self.tell(ViewInstalled(self.views[self.installed - 1]))

    # --- links ------------------------------------------------------------------------------------

    def link_up(self, peer: Address) -> None:
        self.up.add(peer)
        self.to_engine[peer], self.from_engine[peer] = deque(), deque()
        self.tell(LinkUp(peer))
        if peer == self.primary_node:
            self.to_engine[peer].append(TermChanged(self.term))

    def link_down(self, peer: Address) -> None:
        self.up.discard(peer)
        self.to_engine[peer].clear()
        self.from_engine[peer].clear()
        if peer in PRIMARIES:
            self.primary.number = -1
        for each in self.storage:
            if each.node == peer:
                each.follow, each.reads = None, []
        self.tell(LinkDown(peer))

    @property
    def primary_node(self) -> NodeId:
        return PRIMARIES[self.term % 2]

    def deliver_out(self, peer: Address) -> None:
        message = self.from_engine[peer].popleft()
        answers: list[Message] = []
        if peer == self.primary_node:
            answers = self.primary.receive(message)
        elif isinstance(peer, int):
            client = self.clients[peer - 1]
            answers = client.receive(message, self.log)
        elif peer not in PRIMARIES:
            node = peer[1] if isinstance(peer, tuple) else peer
            answers = next(each for each in self.storage if each.node == node).receive(message)
        self.to_engine[peer].extend(answers)

    # --- what may happen --------------------------------------------------------------------------

    def step(self) -> None:
        draw = self.rng.random()
        if draw < 0.60:
            self.deliver()
        elif draw < 0.70:
            self.append()
        elif draw < 0.76:
            self.ask()
        elif draw < 0.83:
            self.cut()
        elif draw < 0.89:
            self.fold(self.rng.choice(self.storage))
        elif draw < 0.92:
            self.tell(BatchEnded(0))
        elif draw < 0.95:
            self.break_or_mend()
        elif draw < 0.96:
            peer = self.rng.choice(self.peers)
            if peer in self.up:
                self.tell(LinkClogged(peer, clear=self.rng.random() < 0.5))
        elif draw < 0.97:
            self.change_view()
        elif draw < 0.98:
            self.install()
        else:
            self.tick()

    def deliver(self) -> None:
        waiting = [
            (queues, peer)
            for queues in (self.to_engine, self.from_engine)
            for peer in queues
            if queues[peer] and peer in self.up
        ]
        if not waiting:
            return
        queues, peer = self.rng.choice(waiting)
        if queues is self.from_engine:
            self.deliver_out(peer)
        else:
            self.tell(Received(peer, self.to_engine[peer].popleft()))

    def append(self) -> None:
        client = self.rng.choice(self.clients)
        if client.refused or len(client.in_flight) > 6:
            return
        count = self.rng.randint(1, 3)
        tags: list[Tags] = [self.rng.choice(TAGS) for _ in range(count)]
        data = [b"%d-%d-%d" % (client.address, client.next, i) for i in range(count)]
        unless: dict[int, list[tuple[str | None, int]]] | None
        unless = {0: [("z", 0)]} if self.rng.random() < 0.3 else None
        number, client.next = client.next, client.next + 1
        client.content[number] = append(number, *tags, data=data, unless=unless)
        client.in_flight.add(number)
        self.to_engine[client.address].append(client.content[number])

    def ask(self) -> None:
        client = self.rng.choice(self.clients)
        if len(client.reads) > 4:
            return
        tail = self.log.tails[-1]
        request = self.rng.getrandbits(30)
        start = self.rng.choice((0, self.rng.randint(0, tail)))
        asked = read(
            request,
            tag=self.rng.choice((*TAGS, None)),
            start=start,
            until=self.rng.choice((NO_END, start + self.rng.randint(1, 20), start + 1)),
            limit=self.rng.choice((1, 2, 50)),
            reverse=self.rng.random() < 0.3,
            position=client.position,
        )
        client.reads[request] = asked
        self.to_engine[client.address].append(asked)

    def cut(self) -> None:
        self.primary.cut(self.rng.choice((0, 0, 1, 2)))
        if self.primary_node in self.up and self.rng.random() < 0.8:
            self.to_engine[self.primary_node].extend(self.primary.feed())

    def fold(self, node: Storage) -> None:
        count = self.rng.randint(node.folded, len(self.log.entries))
        messages = node.fold(count)
        if node.node in self.up:
            self.to_engine[node.node].extend(messages)

    def break_or_mend(self) -> None:
        peer = self.rng.choice(self.peers)
        if peer in self.up:
            self.link_down(peer)
        else:
            self.link_up(peer)

    def change_view(self) -> None:
        """The old primary is gone for good, wherever its messages are; the next one knows its whole
        log.
        """
        self.primary.number = -1
        self.term = Term(self.term + 1)
        end = self.log.position
        tail = self.log.tails[-1]
        self.primary = Primary(self.term, self.log, self.storage)
        self.views.append(
            view(self.term, end=end, tail=tail, primary=self.primary_node, replicas=STORAGE)
        )

    def tick(self) -> None:
        self.now_s += 1.0
        for timer, due_s in list(self.timers.items()):
            if due_s <= self.now_s and timer in self.timers:
                del self.timers[timer]
                self.tell(TimerFired(timer))

    def heal(self) -> None:
        """All links stand, all clocks run: everything is answered."""
        for peer in self.peers:
            if peer not in self.up:
                self.link_up(peer)
            self.tell(LinkClogged(peer, clear=True))
        self.install()
        for _ in range(60):
            for _ in range(2000):
                if not any([*self.to_engine.values(), *self.from_engine.values()]):
                    break
                self.deliver()
            self.tell(BatchEnded(0))
            self.cut()
            for node in self.storage:
                messages = node.fold(len(self.log.entries))
                self.to_engine[node.node].extend(messages)
            self.tick()


assert BOOK
