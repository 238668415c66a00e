"""The primary of one log space in one term: progress in, cuts out.

Decides the order. It cuts on arrival, once per batch (LIMITS point 3), never looks at a record or a tag, and publishes
an entry only once it is held to the class's standard (P11). Several entries may be in flight.

Invariants: positions and seqnums are contiguous from the end of the term before (P13); timestamps never go back (P10);
nothing is sent to a follower past `published`; a follower gets every entry once and in order on one connection.

Does not know: disks, sockets, clocks (the wall clock arrives with `BatchEnded`). Source: Boki (SOSP'21) section 4.3;
differs from Boki: no timer, W of N, entries are durable before anybody sees them.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from bokilog.cut import record_count
from bokilog.effects import Address, Commit, Effect, RaiseCeiling, Send, SetTimer
from bokilog.errors import NotReady, to_wire
from bokilog.ids import NodeId, Position, Term
from bokilog.journal import Journal, Location
from bokilog.messages import (
    FollowMetalog,
    IndexReport,
    Metalog,
    MetalogPosition,
    OpenShardRequest,
    Propose,
    RequestFailed,
    ShardProgress,
    Tail,
    TailRequest,
)
from bokilog.metalog import (
    ITEM_METALOG,
    CloseShard,
    Cut,
    DeleteBook,
    Entry,
    ForgetKeys,
    OpenShard,
    Run,
    decode_run,
    encode_run,
)
from bokilog.sequencer.progress import Progress
from bokilog.view import End, LogSpace

RUNS_CACHED = 4096
"""Published runs kept in memory for followers; older ones are read back from the journal."""
RUNS_FED = 64
"""Runs sent to a follower that is behind before others get their turn."""
CEILING_STEP = 1 << 24
"""Seqnums that one synced ceiling covers; at most that many are skipped when a term ends (P11)."""
FORGET_KEYS_MS = 3_600_000
"""A `ForgetKeys` entry at most this often, by cut timestamps."""


class Follower:
    """Someone who gets this metalog: a storage node (every entry) or an engine (what touches its shard, P18)."""

    __slots__ = ("number", "sent")

    def __init__(self, *, number: int, sent: int) -> None:
        self.number = number
        """The engine's shard number, or 0 for every entry."""
        self.sent = sent
        """Count of entries sent or skipped."""


class RunIndex:
    """Where each run of the metalog lies in the journal, by the count before it."""

    __slots__ = ("_firsts", "_locations")

    def __init__(self) -> None:
        self._firsts: list[int] = []
        self._locations: list[Location] = []

    def add(self, first: int, location: Location) -> None:
        self._firsts.append(first)
        self._locations.append(location)

    def covering(self, count: int) -> Iterator[Location]:
        """Locations of the runs from the one that holds entry `count` on."""
        start = max(0, bisect_right(self._firsts, count) - 1)
        for place in range(start, len(self._locations)):
            yield self._locations[place]


@dataclass(frozen=True, slots=True)
class PrimaryStats:
    position: Position
    published: Position
    tail: int
    shards: int
    followers: int
    replicas: dict[str, tuple[int, int]]
    """Storage node to (folded, stored) metalog counts, as it last reported."""


class Recovered(NamedTuple):
    """What a journal says of a log space's metalog, up to its end."""

    end: End
    runs: RunIndex
    deletions: tuple[Run, ...]


class Primary:
    """Pure core of one log space's order."""

    def __init__(
        self, *, space: LogSpace, term: Term, recovered: Recovered, journal: Journal
    ) -> None:
        end = recovered.end
        self.space = space
        self.term = term
        self.tail = end.tail
        self.timestamp_ms = end.timestamp_ms
        self.count = end.position.count
        self.published_count = end.position.count
        self._journal = journal
        self._progress = Progress(space.write_quorum)
        self._wanted: dict[int, OpenShardRequest] = {}
        self._proposed: list[Entry] = []
        self._in_flight: deque[tuple[int, Run]] = deque()
        self._followers: dict[Address, Follower] = {}
        self._recent: deque[Run] = deque()
        self._runs = recovered.runs
        self._deletions = list(recovered.deletions)
        self._tails: list[tuple[Address, int]] = []
        self._ceiling = end.tail if space.durability != "sync" else 1 << 62
        self._ceiling_asked = self._ceiling
        self._keys_forgotten_ms = end.timestamp_ms
        self._reports: dict[str, IndexReport] = {}
        self._stopped = ""

    # --- messages ---------------------------------------------------------------------------------

    def progressed(self, node: NodeId, message: ShardProgress) -> None:
        self._progress.report(
            node,
            (message.disk_id, message.incarnation),
            [(number, count) for number, count in message.counts],
        )

    def open_shard(self, message: OpenShardRequest) -> None:
        """Idempotent: an engine asks until the metalog tells it; an engine's new start closes its old shard."""
        if message.number not in self._progress.shards:
            self._wanted[message.number] = message

    def propose(self, source: Address, message: Propose) -> list[Effect]:
        if self._stopped:
            return [Send(source, self._refusal(message.request))]
        if not isinstance(message.entry, Cut | OpenShard | CloseShard | ForgetKeys):
            self._proposed.append(message.entry)
        return []

    def tail_wanted(self, source: Address, message: TailRequest) -> list[Effect]:
        """Answered at the end of the batch for all who wait (P26): a round begun after they asked."""
        if self._stopped:
            return [Send(source, self._refusal(message.request))]
        self._tails.append((source, message.request))
        return []

    def follow(self, source: Address, message: FollowMetalog) -> list[Effect]:
        """
        An engine that knows nothing yet starts at the present, with every deletion there ever was (P18).
        """
        sent = message.position.count
        effects: list[Effect] = []
        if message.shard and not sent:
            sent = self.published_count
            effects += [Send(source, Metalog(run)) for run in self._deletions]
        self._followers[source] = Follower(number=message.shard, sent=sent)
        return [*effects, *self.feed(source)]

    def index_reported(self, node: str, message: IndexReport) -> None:
        self._reports[node] = message

    def link_down(self, source: Address) -> None:
        self._followers.pop(source, None)
        self._tails = [(waiter, request) for waiter, request in self._tails if waiter != source]

    # --- the order --------------------------------------------------------------------------------

    def end_batch(self, wall_ms: int, token: int) -> list[Effect]:
        """Everything of this batch becomes one run of entries; at most one commit, named by `token`."""
        effects = self._answer_tails()
        if self._stopped:
            return effects
        entries = self._entries(wall_ms)
        if entries:
            run = Run(self.space.id, self.term, self.count, tuple(entries))
            self.count = run.until
            location = self._journal.append(ITEM_METALOG, [encode_run(run)])
            self._runs.add(run.first, location)
            self._in_flight.append((token, run))
            effects.append(Commit(self.space.id, token))
        if self.tail + CEILING_STEP // 2 > self._ceiling_asked:
            self._ceiling_asked = self.tail + CEILING_STEP
            effects.append(RaiseCeiling(self.space.id, self._ceiling_asked))
        return effects

    def ceiling_raised(self, seqnum: int) -> None:
        self._ceiling = max(self._ceiling, seqnum)

    def committed(self, token: int) -> bool:
        """Whether `end_batch(..., token)` had something to commit."""
        return bool(self._in_flight) and self._in_flight[-1][0] == token

    def persisted(self, token: int) -> list[Effect]:
        """Entries up to this commit are durable: now, and only now, may others see them (P11, A3)."""
        published = False
        while self._in_flight and self._in_flight[0][0] <= token:
            _, run = self._in_flight.popleft()
            self.published_count = run.until
            self._recent.append(run)
            published = True
            self._deletions += [
                Run(run.space, run.term, run.first + place, (entry,))
                for place, entry in enumerate(run.entries)
                if isinstance(entry, DeleteBook)
            ]
        while len(self._recent) > RUNS_CACHED:
            self._recent.popleft()
        if not published:
            return []
        return [effect for source in list(self._followers) for effect in self.feed(source)]

    def persist_failed(self, reason: str) -> None:
        """Nothing of the failed commits is ever published; the order stops here until a new term (P7)."""
        self._stopped = reason

    def feed(self, source: Address) -> list[Effect]:
        """The next published runs for a follower; more are sent when its timer fires."""
        follower = self._followers.get(source)
        if follower is None or follower.sent >= self.published_count:
            return []
        effects: list[Effect] = []
        for run in self._runs_from(follower.sent):
            if len(effects) >= RUNS_FED:
                effects.append(SetTimer(("feed", self.space.id, source), 0.0))
                return effects
            follower.sent = run.until
            if not follower.number or _touches(run, follower.number):
                effects.append(Send(source, Metalog(run)))
        if follower.number:
            position = Position(self.term, self.published_count)
            effects.append(
                Send(source, MetalogPosition(self.space.id, position, self._public_tail()))
            )
        return effects

    def check(self) -> None:
        self._progress.check()
        assert self.published_count <= self.count
        assert self.tail <= self._ceiling or self.space.durability == "sync"

    def stats(self) -> PrimaryStats:
        return PrimaryStats(
            position=Position(self.term, self.count),
            published=Position(self.term, self.published_count),
            tail=self.tail,
            shards=len(self._progress.shards),
            followers=len(self._followers),
            replicas={
                node: (report.folded.count, report.stored.count)
                for node, report in self._reports.items()
            },
        )

    # --- parts ------------------------------------------------------------------------------------

    def _entries(self, wall_ms: int) -> list[Entry]:
        self.timestamp_ms = timestamp_ms = max(wall_ms, self.timestamp_ms)
        entries: list[Entry] = []
        for request in self._wanted.values():
            entries += self._open(request, timestamp_ms)
        self._wanted.clear()
        if self.tail + CEILING_STEP // 4 <= self._ceiling:
            spans = self._progress.take_cut()
            if spans:
                entries.append(Cut(timestamp_ms, self.tail, spans))
                self.tail += record_count(spans)
        entries += [entry._replace(timestamp_ms=timestamp_ms) for entry in self._proposed]
        self._proposed.clear()
        if entries and timestamp_ms - self._keys_forgotten_ms >= FORGET_KEYS_MS:
            self._keys_forgotten_ms = timestamp_ms
            entries.append(ForgetKeys(timestamp_ms))
        return entries

    def _open(self, request: OpenShardRequest, timestamp_ms: int) -> list[Entry]:
        """An engine's new start supersedes its old one: that shard is closed first (P1, P2, P3)."""
        older = [
            number
            for number, shard in self._progress.shards.items()
            if shard.engine == request.engine
        ]
        if any(number > request.number for number in older):
            return []
        entries: list[Entry] = [
            CloseShard(timestamp_ms, number, self._progress.close(number)) for number in older
        ]
        self._progress.open(request.number, engine=request.engine, replicas=self.space.replicas)
        entries.append(
            OpenShard(timestamp_ms, request.number, request.engine, tuple(self.space.replicas))
        )
        return entries

    def _answer_tails(self) -> list[Effect]:
        waiting, self._tails = self._tails, []
        position = Position(self.term, self.published_count)
        return [
            Send(source, Tail(request, self.space.id, position, self._public_tail()))
            for source, request in waiting
        ]

    def _public_tail(self) -> int:
        """The tail at `published_count`: the first seqnum that no published entry orders."""
        for _, run in self._in_flight:
            for entry in run.entries:
                if isinstance(entry, Cut):
                    return entry.first_seqnum
        return self.tail

    def _runs_from(self, count: int) -> Iterator[Run]:
        """Published runs past `count`: from memory if they reach back far enough, else from the journal."""
        if self._recent and self._recent[0].first <= count:
            yield from reversed(list(self._newest_first(count)))
            return
        for location in self._runs.covering(count):
            run = decode_run(self._journal.read(location))
            if run.first >= self.published_count:
                return
            if run.until > count:
                yield run

    def _newest_first(self, count: int) -> Iterator[Run]:
        """Cached runs from the newest back to the one that holds entry `count`."""
        for run in reversed(self._recent):
            if run.until <= count:
                return
            yield run

    def _refusal(self, request: int) -> RequestFailed:
        error = NotReady(f"sequencing has stopped: {self._stopped}")
        return RequestFailed(request, to_wire(error), Position(self.term, self.published_count))


def _touches(run: Run, number: int) -> bool:
    """Whether an engine needs the run: its shard's entries, and every deletion (P18)."""
    for entry in run.entries:
        if isinstance(entry, Cut):
            if any(span.number == number for span in entry.spans):
                return True
        elif isinstance(entry, DeleteBook):
            return True
        elif isinstance(entry, OpenShard | CloseShard) and entry.number == number:
            return True
    return False
