"""A primary over a journal in memory, whose syncs end when a test says so."""

from __future__ import annotations

from bokilog.effects import Address, Commit, Effect, Send
from bokilog.histogram import Moment
from bokilog.ids import LogSpaceId, NodeId, Position, Term
from bokilog.io.journal_memory import MemoryJournal
from bokilog.messages import (
    FollowMetalog,
    Message,
    Metalog,
    OpenShardRequest,
    ShardProgress,
)
from bokilog.metalog import Entry, Run
from bokilog.record import Durability
from bokilog.sequencer.primary import Primary, Recovered
from bokilog.sequencer.recovery import recover_metalog
from bokilog.sequencer.runs import RunIndex
from bokilog.view import End, LogSpace, Node, View

SPACE = LogSpaceId(1)
TERM = Term(4)
PRIMARY = NodeId("sequencer-1")
A, B, C = NodeId("storage-1"), NodeId("storage-2"), NodeId("storage-3")
NODES = (A, B, C)
BASE = Position(Term(3), 10)
TAIL = 100
WALL_MS = 1_700_000_000_000
DAY_MS = 24 * 3600 * 1000


def log_space(
    durability: Durability = "sync", *, space: LogSpaceId = SPACE, write_quorum: int = 2
) -> LogSpace:
    return LogSpace(
        id=space,
        durability=durability,
        primary=PRIMARY,
        replicas=NODES,
        write_quorum=write_quorum,
    )


def end(
    position: Position = BASE,
    *,
    tail: int = TAIL,
    timestamp_ms: int = WALL_MS,
    space: LogSpaceId = SPACE,
) -> End:
    return End(space=space, position=position, tail=tail, timestamp_ms=timestamp_ms)


def view(*spaces: LogSpace, ends: tuple[End, ...], term: Term = TERM) -> View:
    return View(
        cluster_id="c1",
        history_id="h1",
        term=term,
        nodes=(Node(id=PRIMARY, role="sequencer", address=""),),
        spaces=spaces,
        ends=ends,
    )


def progress(
    counts: dict[int, int],
    *,
    term: Term = TERM,
    space: LogSpaceId = SPACE,
    disk: str = "disk",
    incarnation: int = 1,
) -> ShardProgress:
    return ShardProgress(space, term, disk, incarnation, [list(each) for each in counts.items()])


def opening(number: int, engine: str | None = None) -> OpenShardRequest:
    return OpenShardRequest(SPACE, TERM, engine or f"engine-{number}", number)


class Rig:
    """One primary; `wall_ms` is its time, and no key is forgotten unless a test is about that."""

    def __init__(
        self,
        *,
        durability: Durability = "sync",
        write_quorum: int = 2,
        start: End | None = None,
        deletions: tuple[Run, ...] = (),
        recovered: Recovered | None = None,
        journal: MemoryJournal | None = None,
        forget_keys: bool = False,
        losses_accepted: int = 0,
        releases: bool = False,
        release_after_s: float = 0.0,
    ) -> None:
        self.moment = Moment()
        self.journal = journal or MemoryJournal()
        self.wall_ms = WALL_MS
        self.token = 0
        self.primary = Primary(
            space=log_space(durability, write_quorum=write_quorum),
            term=TERM,
            recovered=recovered or Recovered(start or end(), RunIndex(), deletions),
            journal=self.journal,
            releases=releases,
            moment=self.moment,
            release_after_s=release_after_s,
            losses_accepted=losses_accepted,
        )
        if not forget_keys:
            self.primary._next_run._keys_forgotten_ms = WALL_MS + 100 * DAY_MS

    def report(self, node: NodeId, counts: dict[int, int], **identity: str | int) -> None:
        disk, incarnation = identity.get("disk", "disk"), identity.get("incarnation", 1)
        assert isinstance(disk, str)
        assert isinstance(incarnation, int)
        self.primary.progressed(node, progress(counts, disk=disk, incarnation=incarnation))

    def held(self, counts: dict[int, int]) -> None:
        """By a write quorum."""
        self.report(A, counts)
        self.report(B, counts)

    def open(self, *numbers: int) -> None:
        for number in numbers:
            self.primary.open_shard(opening(number))

    def end_batch(self) -> list[Effect]:
        self.token += 1
        effects = self.primary.end_batch(self.wall_ms, self.token)
        self.primary.check()
        return effects

    def sync(self) -> list[Effect]:
        """Everything written so far is durable."""
        self.journal.commit()
        self.journal.sync_now()
        effects = self.primary.persisted(self.token)
        self.primary.check()
        return effects

    def turn(self) -> list[Effect]:
        """The end of a batch, and at once its sync."""
        return [*self.end_batch(), *self.sync()]

    def ordered(self, counts: dict[int, int]) -> None:
        """A whole turn for these counts."""
        self.held(counts)
        self.turn()

    def follow(self, source: Address, position: Position = BASE, *, shard: int = 0) -> list[Effect]:
        return self.primary.follow(source, FollowMetalog(SPACE, position, shard))


def opened(*numbers: int, durability: Durability = "sync", losses_accepted: int = 0) -> Rig:
    """A rig whose shards are open, durable and published."""
    made = Rig(durability=durability, losses_accepted=losses_accepted)
    made.open(*numbers)
    made.turn()
    return made


def run(first: int, *entries: Entry, term: Term = TERM) -> Run:
    return Run(SPACE, term, first, entries)


def sent(effects: list[Effect], to: Address) -> list[Message]:
    """What one peer was sent."""
    return [each.message for each in effects if isinstance(each, Send) and each.to == to]


def entries_sent(effects: list[Effect], to: Address) -> list[tuple[Position, Entry]]:
    """The entries of the runs that one follower was sent, with the positions they lead to."""
    return [
        (Position(message.run.term, message.run.first + place + 1), entry)
        for message in sent(effects, to)
        if isinstance(message, Metalog)
        for place, entry in enumerate(message.run.entries)
    ]


def committed(effects: list[Effect]) -> list[int]:
    """Tokens of the commits asked for."""
    return [each.token for each in effects if isinstance(each, Commit)]


def journalled(journal: MemoryJournal, start: End) -> Recovered:
    """What the next start would find."""
    return recover_metalog(journal, start, ceiling=1)
