"""A sequencer's core: terms, commits of several log spaces, the time of cuts."""

from __future__ import annotations

import pytest

from bokilog.cut import CutSpan
from bokilog.effects import (
    BatchEnded,
    CeilingRaised,
    Commit,
    Effect,
    Event,
    LinkClogged,
    LinkDown,
    LinkUp,
    LoadView,
    Persisted,
    PersistFailed,
    RaiseCeiling,
    ReadOnlyChanged,
    Received,
    Send,
    TimerFired,
    ViewInstalled,
)
from bokilog.errors import WrongTerm, to_wire
from bokilog.histogram import BOUNDS_S
from bokilog.ids import LogSpaceId, Position, Term
from bokilog.io.journal_memory import MemoryJournal
from bokilog.messages import (
    FollowMetalog,
    IndexReport,
    Message,
    OpenShardRequest,
    Propose,
    RequestFailed,
    Status,
    StatusRequest,
    Tail,
    TailRequest,
    TermChanged,
)
from bokilog.metalog import Cut, OpenShard, Proposer, Trim
from bokilog.sequencer.core import SequencerCore
from bokilog.sequencer.cut_clock import TIME_RATE_MAX, CutClock
from bokilog.sequencer.primary import CEILING_STEP, Recovered
from bokilog.sequencer.runs import RunIndex
from bokilog.view import LogSpace
from tests.unit.sequencer.rig import (
    BASE,
    PRIMARY,
    TERM,
    WALL_MS,
    A,
    B,
    end,
    entries_sent,
    log_space,
    progress,
    sent,
    view,
)

ONE, TWO = LogSpaceId(1), LogSpaceId(2)
ENGINE = "engine-1"


class Node:
    """A core whose every batch is one event, with two log spaces on a journal each."""

    def __init__(self, *, other_end_ms: int = WALL_MS - 9, two: LogSpace | None = None) -> None:
        spaces = (log_space(space=ONE), two or log_space(space=TWO))
        ends = (end(space=ONE), end(space=TWO, timestamp_ms=other_end_ms, tail=500))
        self.view = view(*spaces, ends=ends)
        self.journals = {space: MemoryJournal() for space in (ONE, TWO)}
        self.core = SequencerCore(
            node=PRIMARY,
            view=self.view,
            recovered={each.space: Recovered(each, RunIndex(), ()) for each in ends},
            journals=self.journals,
        )
        for primary in self.core.primaries.values():
            primary._next_run._keys_forgotten_ms = 1 << 60
        self.now_s = 0.0
        self.wall_ms = WALL_MS

    def handle(self, *events: Event) -> list[Effect]:
        effects = [each for event in events for each in self.core.handle(event, self.now_s)]
        self.core.check()
        return effects

    def batch(self, *events: Event) -> list[Effect]:
        return self.handle(*events, BatchEnded(self.wall_ms))

    def receive(self, source: str, *messages: Message) -> list[Effect]:
        return self.handle(*(Received(source, message) for message in messages))


def opening(space: int, *, term: int = TERM) -> OpenShardRequest:
    return OpenShardRequest(space, term, ENGINE, 1)


def held(space: LogSpaceId, count: int, *, term: Term = TERM) -> list[Event]:
    report = progress({1: count}, space=space, term=term)
    return [Received(A, report), Received(B, report)]


def ready() -> Node:
    """Both log spaces have a shard open, everything is durable, and a storage node follows."""
    node = Node()
    node.batch(Received(ENGINE, opening(ONE)), Received(ENGINE, opening(TWO)))
    node.handle(Persisted(1), Persisted(2))
    for space in (ONE, TWO):
        node.receive(A, FollowMetalog(space, Position(TERM, 11), 0))
    return node


# --- commits --------------------------------------------------------------------------------------


def test_commits_of_several_log_spaces_have_tokens_of_their_own() -> None:
    node = Node()
    effects = node.batch(Received(ENGINE, opening(ONE)), Received(ENGINE, opening(TWO)))
    assert effects == [Commit(ONE, 1), Commit(TWO, 2)]
    assert node.batch(*held(TWO, 3)) == [Commit(TWO, 3)]
    assert node.batch(*held(ONE, 3)) == [Commit(ONE, 4)]


@pytest.mark.parametrize("order", [(3, 4, 5, 6), (4, 6, 3, 5), (4, 3, 6, 5)])
def test_syncs_may_end_in_any_order_over_log_spaces(order: tuple[int, ...]) -> None:
    node = ready()
    node.batch(*held(ONE, 3), *held(TWO, 4))  # tokens 3 and 4
    node.batch(*held(ONE, 5), *held(TWO, 6))  # tokens 5 and 6
    found = entries_sent(node.handle(*map(Persisted, order)), A)
    firsts = [entry.first_seqnum for _, entry in found if isinstance(entry, Cut)]
    assert [first for first in firsts if first < 500] == [100, 103]
    assert [first for first in firsts if first >= 500] == [500, 504]


def test_a_commit_publishes_its_own_log_space_only() -> None:
    node = ready()
    node.batch(*held(ONE, 3), *held(TWO, 4))
    cut = Cut(WALL_MS, 500, (CutSpan(1, 0, 4),))
    (effect,) = node.handle(Persisted(4))
    assert [entry for _, entry in entries_sent([effect], A)] == [cut]


def test_a_failed_sync_stops_its_own_log_space_only() -> None:
    node = ready()
    node.batch(*held(ONE, 3), *held(TWO, 4))
    assert node.handle(PersistFailed(3, "the disk is gone")) == []
    assert len(entries_sent(node.handle(Persisted(4)), A)) == 1
    assert node.batch(*held(ONE, 9), *held(TWO, 9)) == [Commit(TWO, 5)]


def test_a_full_disk_loses_nothing() -> None:
    node = ready()
    assert node.batch(ReadOnlyChanged(ONE, "no room"), *held(ONE, 3)) == [Commit(ONE, 3)]
    assert len(entries_sent(node.handle(ReadOnlyChanged(ONE, ""), Persisted(3)), A)) == 1


# --- terms ----------------------------------------------------------------------------------------


def test_who_connects_learns_the_term() -> None:
    assert Node().handle(LinkUp(A)) == [Send(A, TermChanged(TERM))]


def test_messages_of_an_older_term_are_counted_and_ignored() -> None:
    node = ready()
    assert node.batch(*held(ONE, 3, term=Term(3))) == []
    assert node.batch(Received("engine-2", OpenShardRequest(ONE, 3, "engine-2", 2))) == []
    assert node.core.ignored_count == 3


def test_messages_of_a_newer_term_make_it_load_the_view() -> None:
    node = ready()
    newer: list[Message] = [
        progress({1: 3}, term=Term(5)),
        OpenShardRequest(ONE, 5, "engine-2", 2),
        FollowMetalog(ONE, Position(Term(5), 3), 0),
        TermChanged(5),
    ]
    for message in newer:
        assert node.receive(A, message) == [LoadView(5)]
    assert node.receive(A, TermChanged(TERM)) == []


def test_p12_once_a_newer_view_is_stored_nothing_is_ordered_or_confirmed() -> None:
    node = ready()
    node.batch(*held(ONE, 3), Received(ENGINE, opening(ONE)))
    later = view(*node.view.spaces, ends=node.view.ends, term=Term(5))
    node.receive(ENGINE, TailRequest(7, ONE), Propose(8, TWO, Trim(0, 7, None, 5, Proposer(1, 8))))
    wrong = to_wire(WrongTerm(5))
    assert node.handle(ViewInstalled(later)) == [
        Send(ENGINE, RequestFailed(7, wrong, Position(TERM, 11))),
        Send(ENGINE, RequestFailed(8, wrong, Position(TERM, 11))),
    ]
    assert node.handle(Persisted(3)) == []
    assert node.batch(*held(ONE, 9), *held(TWO, 9)) == []
    assert node.receive(ENGINE, TailRequest(9, ONE)) == [
        Send(ENGINE, RequestFailed(9, wrong, Position(TERM, 11)))
    ]
    assert node.handle(LinkUp(A)) == [Send(A, TermChanged(5))]
    assert node.core.facts()["primary"] is False


def test_its_own_view_changes_nothing() -> None:
    node = ready()
    assert node.handle(ViewInstalled(node.view)) == []
    assert node.batch(*held(ONE, 3)) == [Commit(ONE, 3)]


def test_p13_an_end_that_is_not_in_the_view_is_not_acted_on() -> None:
    spaces, ends = (log_space(),), (end(),)
    with pytest.raises(AssertionError, match="P13"):
        SequencerCore(
            node=PRIMARY,
            view=view(*spaces, ends=ends),
            recovered={ONE: Recovered(end(tail=101), RunIndex(), ())},
            journals={ONE: MemoryJournal()},
        )


# --- everything else ------------------------------------------------------------------------------


def test_messages_about_other_log_spaces_or_to_others_are_counted_and_ignored() -> None:
    node = ready()
    others: list[Message] = [TailRequest(1, 9), TermChanged(1), Tail(1, ONE, BASE, 5)]
    assert node.receive(A, *others) == []
    assert node.core.ignored_count == 2


def test_tails_are_answered_at_the_end_of_the_batch_and_not_before() -> None:
    node = ready()
    assert node.receive(ENGINE, TailRequest(7, ONE)) == []
    assert node.batch() == [Send(ENGINE, Tail(7, ONE, Position(TERM, 11), 100))]


def test_a_link_that_is_gone_is_forgotten_in_every_log_space() -> None:
    node = ready()
    node.receive(A, TailRequest(7, ONE))
    node.handle(LinkDown(A))
    node.batch(*held(ONE, 3), *held(TWO, 3))
    assert node.handle(Persisted(3), Persisted(4)) == []


def test_a_timer_feeds_the_follower_it_names() -> None:
    node = ready()
    assert node.handle(TimerFired(("feed", ONE, A)), TimerFired("other")) == []
    assert node.handle(LinkClogged(A, clear=False)) == []


def test_ceilings_reach_their_log_space() -> None:
    node = Node(two=log_space("flush", space=TWO))
    asked = RaiseCeiling(TWO, 500 + CEILING_STEP)
    assert node.batch(Received(ENGINE, opening(TWO))) == [Commit(TWO, 1), asked]
    assert node.batch(*held(TWO, 3)) == []
    assert node.batch(CeilingRaised(TWO, asked.seqnum)) == [Commit(TWO, 2)]


def test_status_tells_what_is_published() -> None:
    node = ready()
    node.receive(A, IndexReport(ONE, Position(TERM, 11), BASE, 1, empty=False))
    node.batch(*held(ONE, 3))
    (effect,) = node.receive("control", StatusRequest(5))
    assert isinstance(effect, Send)
    assert isinstance(effect.message, Status)
    spaces = effect.message.facts["spaces"]
    assert isinstance(spaces, dict)
    assert spaces[ONE] == {
        "durability": "sync",
        "position": [4, 12],
        "published": [4, 11],
        "tail": 100,
        "shards": 1,
        "cut_seconds": [0.0, 1, *[0] * len(BOUNDS_S)],  # the first run, that opened a shard
        "begins_at": 0,
        "held_up": "",
        "replicas": {A: [11, 10]},
    }


def test_the_trace_names_messages_without_their_payloads() -> None:
    node = ready()
    node.now_s = 2.5
    node.receive(ENGINE, TailRequest(7, ONE))
    assert node.core.trace[-1] == (2.5, ENGINE, "TailRequest")


# --- time -----------------------------------------------------------------------------------------


def test_p10_no_cut_is_earlier_than_any_end_in_the_view() -> None:
    node = Node(other_end_ms=WALL_MS + 5000)
    node.batch(Received(ENGINE, opening(ONE)))
    node.receive(A, FollowMetalog(ONE, BASE, 0))
    ((_, opened),) = entries_sent(node.handle(Persisted(1)), A)
    assert isinstance(opened, OpenShard)
    assert opened.timestamp_ms == WALL_MS + 5000
    assert sent([], A) == []


def test_p10_the_clock_follows_the_wall_clock_at_a_bounded_rate() -> None:
    clock = CutClock(0)
    assert clock.read(10.0, WALL_MS) == WALL_MS
    assert clock.read(11.0, WALL_MS + 1000) == WALL_MS + 1000, "both agree"
    day = 24 * 3600 * 1000
    assert clock.read(12.0, WALL_MS + day) == WALL_MS + 1000 + int(1000 * TIME_RATE_MAX)
    assert clock.read(12.0, WALL_MS + 2 * day) == WALL_MS + 3000, "no time, no step"
    assert clock.read(13.0, WALL_MS - day) == WALL_MS + 3500, "never back"
    assert clock.read(14.0, WALL_MS + 4500) == WALL_MS + 4500, "it meets the wall clock again"


def test_p10_a_clock_starts_at_the_wall_or_at_the_last_end() -> None:
    assert CutClock(WALL_MS + 7).read(0.0, WALL_MS) == WALL_MS + 7
    assert CutClock(WALL_MS - 7).read(0.0, WALL_MS) == WALL_MS
