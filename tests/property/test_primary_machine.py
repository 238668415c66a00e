"""A primary under anything that can happen to it: reports in any order, nodes that come back as
others, engines that start anew, commits that end late, followers that come and go, a lost journal.

A model beside it knows what each node really said and what was durable when, and checks every run
that leaves: published entries have no gap and were persisted, each record has one seqnum, and no
record is ordered that a write quorum did not hold (P2, P6, P9, P11, P13, P18).
"""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from hypothesis import settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from bokilog.effects import Commit, Effect, Send, SetTimer
from bokilog.ids import START, NodeId, Position
from bokilog.io.journal_memory import MemoryJournal
from bokilog.messages import FollowMetalog, Metalog, MetalogPosition, Propose, Tail, TailRequest
from bokilog.metalog import (
    CloseShard,
    Cut,
    DeleteBook,
    Entry,
    MetalogFollower,
    OpenShard,
    Proposer,
    Run,
    Trim,
)
from bokilog.sequencer import followers, ordered, runs
from bokilog.sequencer.primary import Primary, Recovered
from bokilog.sequencer.runs import RunIndex
from tests.unit.sequencer.rig import (
    BASE,
    NODES,
    SPACE,
    TAIL,
    TERM,
    WALL_MS,
    end,
    log_space,
    opening,
    progress,
)

QUORUM = 2
ENGINES = ("engine-1", "engine-2")
nodes = st.sampled_from(NODES)
engines = st.sampled_from(ENGINES)
growth = st.lists(st.integers(0, 9), min_size=1, max_size=3)


class Reader:
    """A storage node's follower, or an engine's with its shard's number: it checks what it gets."""

    def __init__(self, position: Position, number: int) -> None:
        self.number = number
        self.follower = MetalogFollower(SPACE, position)
        self.follower.end_term(BASE.term, BASE.count)
        self.entries: dict[int, Entry] = {}
        self.told = position

    def take(self, run: Run) -> None:
        if self.number:
            self.entries.update(enumerate(run.entries, run.first + 1))
            return
        ready = self.follower.offer(run)
        assert len(ready) == len(run.entries), "each entry is sent once and in order"
        self.entries.update({position.count: entry for position, entry in ready})


class PrimaryMachine(RuleBasedStateMachine):
    """One term of one log space."""

    @initialize(cached=st.integers(1, 3), fed=st.integers(1, 3))
    def start(self, cached: int, fed: int) -> None:
        """Small bounds, so that every way to a run is taken."""
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(ordered, "RUNS_CACHED", cached)
        self.patch.setattr(followers, "RUNS_FED", fed)
        self.patch.setattr(runs, "CHUNK_RUNS", 3)
        self.journal = MemoryJournal()
        self.primary = Primary(
            space=log_space(write_quorum=QUORUM),
            term=TERM,
            recovered=Recovered(end(), RunIndex(), ()),
            journal=self.journal,
        )
        self.token = 0
        self.durable_token = 0
        self.uncommitted: list[int] = []
        self.wall_ms = WALL_MS
        self.starts: list[str] = []  # engines; a start's number is its place, from 1 on
        self.lives = dict.fromkeys(NODES, 1)
        self.said: dict[NodeId, dict[int, int]] = {node: {} for node in NODES}
        self.readers: dict[str, Reader] = {}
        self.durable = BASE.count  # entries whose commit is durable
        self.staged: dict[int, int] = {}  # token: count of entries up to its run
        self.tail_requests = 0

    # --- what happens -----------------------------------------------------------------------------

    @rule(engine=engines)
    def start_engine(self, engine: str) -> None:
        self.starts.append(engine)
        self.primary.open_shard(opening(len(self.starts), engine))

    @precondition(lambda self: self.starts)
    @rule(back=st.integers(0, 3))
    def ask_for_an_old_shard_again(self, back: int) -> None:
        number = max(1, len(self.starts) - back)
        self.primary.open_shard(opening(number, self.starts[number - 1]))

    @rule(node=nodes, grow=growth)
    def report(self, node: NodeId, grow: list[int]) -> None:
        said = self.said[node]
        for number, more in zip(sorted(self.primary._progress.shards), grow, strict=False):
            said[number] = said.get(number, 0) + more
        self._send_report(node)

    @rule(two=st.lists(nodes, min_size=2, max_size=2, unique=True), grow=growth)
    def report_alike(self, two: list[NodeId], grow: list[int]) -> None:
        for node in two:
            self.report(node, grow)

    @rule(node=nodes, lost=st.integers(0, 9))
    def come_back_as_another(self, node: NodeId, lost: int) -> None:
        self.lives[node] += 1
        self.said[node] = {
            number: max(0, count - lost) for number, count in self.said[node].items()
        }
        self._send_report(node)

    @precondition(lambda self: self.starts)
    @rule(node=nodes, count=st.integers(50, 99))
    def late_report_of_an_earlier_life(self, node: NodeId, count: int) -> None:
        if self.lives[node] > 1:
            late = progress({len(self.starts): count}, incarnation=self.lives[node] - 1)
            self.primary.progressed(node, late)

    def _send_report(self, node: NodeId) -> None:
        self.primary.progressed(node, progress(self.said[node], incarnation=self.lives[node]))

    @rule(until=st.integers(0, 1000), delete=st.booleans())
    def propose(self, until: int, delete: bool) -> None:
        entry: Entry = Trim(0, 7, None, until, Proposer(1, 2))
        if delete:
            entry = DeleteBook(0, 1 + until, Proposer(1, 2))
        assert self.primary.propose(ENGINES[0], Propose(until, SPACE, entry)) == []

    @rule(passed_ms=st.integers(-5000, 5000))
    def end_batch(self, passed_ms: int) -> None:
        self.wall_ms += passed_ms
        self.token += 1
        effects = self.primary.end_batch(self.wall_ms, self.token)
        asked = [effect for effect in effects if isinstance(effect, Commit)]
        assert [effect.token for effect in asked] == (
            [self.token] if self.primary.committed(self.token) else []
        )
        if asked:
            self.uncommitted.append(self.token)
            self.staged[self.token] = self.primary.count
            self._check_held(self.primary._ordered.in_flight[-1].run)
        self._sent(effects)

    @rule(some=st.integers(1, 5))
    def turns(self, some: int) -> None:
        """Runs of which nobody is told anything yet."""
        for until in range(some):
            self.propose(until, delete=False)
            self.end_batch(1)
        self.commits_end(len(self.uncommitted))

    def _check_held(self, run: Run) -> None:
        """At this moment a write quorum holds what is ordered (P9)."""
        for entry in run.entries:
            for span in entry.spans if isinstance(entry, Cut) else ():
                counts = [self.said[node].get(span.number, 0) for node in NODES]
                assert sorted(counts, reverse=True)[QUORUM - 1] >= span.until

    @precondition(lambda self: self.uncommitted)
    @rule(some=st.integers(1, 4))
    def commits_end(self, some: int) -> None:
        self.journal.commit()
        self.journal.sync_now()
        done = self.uncommitted[:some]
        del self.uncommitted[:some]
        self.durable = self.staged[done[-1]]
        self._sent(self.primary.persisted(done[-1]))

    @rule(name=st.sampled_from(["a", "b", "c"]), engine=st.booleans())
    def follow(self, name: str, engine: bool) -> None:
        """Anew, from where it was: the connection was lost, or it is its first."""
        known = self.readers.get(name)
        number = 1 + len(self.starts) % 3 if engine and self.starts else 0
        if known is not None:
            number = known.number
        position = known.told if known is not None else START if number else BASE
        reader = Reader(position, number)
        reader.entries = known.entries if known is not None else {}
        self.readers[name] = reader
        self._sent(self.primary.follow(name, FollowMetalog(SPACE, position, number)))

    @rule(name=st.sampled_from(["a", "b", "c"]))
    def lose_link(self, name: str) -> None:
        self.primary.link_down(name)

    @rule()
    def ask_for_the_tail(self) -> None:
        self.tail_requests += 1
        self.primary.tail_wanted("reader", TailRequest(self.tail_requests, SPACE))

    # --- what leaves ------------------------------------------------------------------------------

    def _sent(self, effects: Iterable[Effect]) -> None:
        for effect in effects:
            match effect:
                case Send(to=to, message=Metalog(run=run)):
                    assert run.until <= self.durable, "published before it was durable (P11)"
                    self.readers[str(to)].take(run)
                case Send(to=to, message=MetalogPosition() as told):
                    assert told.position.count == self.primary.published.count
                    assert told.tail == self.primary.stats().tail
                    self.readers[str(to)].told = told.position
                case Send(message=Tail() as tail):
                    assert tail.position.count == self.primary.published.count
                    assert tail.tail == self.primary.stats().tail
                case SetTimer(timer=("feed", _, source)):
                    self._sent(self.primary.feed(source))
                case SetTimer(timer=("positions", _)):
                    self._sent(self.primary.tell_positions())
                case _:
                    pass
        for reader in self.readers.values():
            if not reader.number:
                reader.told = reader.follower.position

    @invariant()
    def checked(self) -> None:
        if not hasattr(self, "primary"):
            return
        self.primary.check()
        assert self.primary.published.count == self.durable

    def teardown(self) -> None:
        """Everything becomes durable; one who reads all of it, and all others, saw one order."""
        if not hasattr(self, "primary"):
            return
        while self.uncommitted:
            self.commits_end(9)
        self.readers["last"] = everything = Reader(BASE, 0)
        self._sent(self.primary.follow("last", FollowMetalog(SPACE, BASE, 0)))
        counts = range(BASE.count + 1, self.primary.count + 1)
        assert list(everything.entries) == list(counts)
        check_order(everything.entries.values())
        for reader in self.readers.values():
            for count, entry in reader.entries.items():
                assert everything.entries[count] == entry
        self.patch.undo()


def check_order(entries: Iterable[Entry]) -> None:
    """What everybody who folds the metalog relies on."""
    seqnum, last_ms = TAIL, 0
    open_shards: dict[int, int] = {}
    ever: set[int] = set()
    for entry in entries:
        assert entry.timestamp_ms >= last_ms, "time does not go back (P10)"
        last_ms = entry.timestamp_ms
        match entry:
            case OpenShard(number=number):
                assert number not in ever, "a shard is never reused (P1)"
                ever.add(number)
                open_shards[number] = 0
            case CloseShard(number=number, count=count):
                assert open_shards.pop(number) == count, "what is past it is never ordered (P2)"
            case Cut(first_seqnum=first, spans=spans):
                assert first == seqnum, "seqnums have no gap within a term"
                for span in spans:
                    assert span.start == open_shards[span.number] < span.until
                    open_shards[span.number] = span.until
                    seqnum += span.until - span.start
            case _:
                pass


PrimaryMachine.TestCase.settings = settings(max_examples=25, stateful_step_count=25, deadline=None)
TestPrimary = PrimaryMachine.TestCase
