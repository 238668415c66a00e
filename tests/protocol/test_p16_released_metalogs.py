"""P16 with several sequencers: what a write quorum of replicas has stored is let go by all of them.

1. Many entries are ordered, and the storage node has stored its fold past most of them.
2. The primary lets go of segments and tells the backups, which do the same.
3. A backup that was away lacks entries that nobody has any more. It goes on from a cut.

Were it to keep what it had and join what follows, its metalog would have a hole; were it to claim
the entries before they are durable, a seal could end the term too early, or too late.
"""

from __future__ import annotations

import pytest

from bokilog.effects import TimerFired
from bokilog.ids import START, NodeId, Position
from bokilog.journal import Location
from bokilog.messages import FollowMetalog, IndexReport, MetalogGone, ReplicateRun, RunsGone, Sealed
from bokilog.record import Durability
from bokilog.sequencer import primary as primary_module
from bokilog.sequencer.held import Held, Holding, Recovered, Standing
from bokilog.sequencer.recovery import ended_in, recover_metalog
from bokilog.sequencer.runs import CHUNK_RUNS, RunIndex
from bokilog.view import first_end
from tests.unit.sequencer.test_backup import run as stamps
from tests.unit.sequencer.trio import DRIVER, S1, S2, S3, SEQUENCERS, SPACE, STORAGE, Trio, started

SEGMENT_BYTES = 1 << 10


def order(trio: Trio, node: NodeId, entries: int) -> None:
    for _ in range(entries):
        trio.order(node)
        trio.settle()


def stores(trio: Trio, count: int) -> None:
    """The storage node says so to the primary."""
    position = Position(trio.view.term, count)
    report = IndexReport(SPACE, position, position, 0, empty=False)
    trio.tell(trio.primary, report, source=STORAGE)
    trio.settle()


def first_segment(trio: Trio, node: NodeId) -> int:
    return trio.disks[node].journal.segments()[0].number


def begins_at(trio: Trio, node: NodeId) -> int:
    core = trio.core(node)
    return (core.primaries.get(SPACE) or core.backups[SPACE]).begins_at


def long() -> Trio:
    trio = started(segment_bytes=SEGMENT_BYTES)
    order(trio, S1, 60)
    return trio


def behind() -> Trio:
    """The third sequencer lacks entries that the others have let go."""
    trio = started(segment_bytes=SEGMENT_BYTES)
    order(trio, S1, 5)
    trio.isolate(S3)
    order(trio, S1, 60)
    stores(trio, 50)
    assert trio.count(S3) == 8 < begins_at(trio, S1)
    return trio


def test_all_sequencers_let_go_of_what_is_stored() -> None:
    trio = long()
    stores(trio, 50)
    assert all(first_segment(trio, node) > 1 for node in SEQUENCERS)
    assert len({trio.count(node) for node in SEQUENCERS}) == 1
    for node in SEQUENCERS:
        trio.restart(node)
    assert all(0 < begins_at(trio, node) <= 50 for node in SEQUENCERS)
    assert {trio.count(node) for node in SEQUENCERS} == {63}


def test_nothing_goes_that_a_connected_backup_was_not_sent() -> None:
    trio = started(segment_bytes=SEGMENT_BYTES)
    order(trio, S1, 5)
    primary = trio.core(S1).primaries[SPACE]
    assert primary._replication is not None
    order(trio, S1, 60)
    primary._replication._feeds[S3].sent = 8
    stores(trio, 50)
    assert begins_at(trio, S1) <= 8


@pytest.mark.parametrize("durability", ["flush", "memory"])
def test_of_every_class(durability: Durability) -> None:
    """No fold is stored past what a majority has synced, so none goes back behind that (P11)."""
    trio = started(durability, segment_bytes=SEGMENT_BYTES)
    order(trio, S1, 60)
    stores(trio, 50)
    assert all(0 < begins_at(trio, node) <= 50 for node in SEQUENCERS)


def test_what_is_not_durable_here_keeps_what_is_before_it() -> None:
    """Else this sequencer would bring less to a seal than it told, after a loss of power (P14)."""
    trio = long()
    backup = trio.core(S2).backups[SPACE]
    backup.standing.end = first_end(SPACE)
    trio.tell(S2, RunsGone(SPACE, trio.view.term, 50), source=S1)
    assert first_segment(trio, S2) == 1


def test_who_was_away_goes_on_from_a_cut() -> None:
    trio = behind()
    trio.heal()
    trio.settle()
    assert trio.count(S3) == trio.count(S1)
    assert begins_at(trio, S3) == begins_at(trio, S1)
    order(trio, S1, 2)
    trio.restart(S3)
    trio.settle()
    assert trio.count(S3) == trio.count(S1)
    assert trio.core(S3).backups[SPACE].stats().tail == trio.core(S1).primaries[SPACE].tail


def test_p14_until_that_is_durable_it_brings_what_it_had() -> None:
    trio = behind()
    trio.heal()
    trio.handle(S3, TimerFired("follow"))
    while trio.deliver(S3, S1) or trio.deliver(S1, S3):
        pass
    assert trio.count(S3) > 50
    trio.processes[S3].commits.clear()
    trio.seal(S3)
    trio.sync(S3)
    (answer,) = trio.sent_to(DRIVER, Sealed)[-1:]
    assert isinstance(answer, Sealed)
    assert answer.ends[0][2] == 8
    trio.restart(S3)
    assert trio.count(S3) == 8


def test_p13_at_a_seal_it_is_given_the_end_from_where_the_other_begins() -> None:
    trio = behind()
    trio.crash(S1)
    trio.heal()
    view = trio.change(S3, among=(S2, S3))
    assert view.end(SPACE).position.count == 63 + 5
    primary = trio.core(S3).primaries[SPACE]
    assert primary.begins_at == begins_at(trio, S2)
    trio.order(S3)
    trio.settle()
    assert trio.count(S2) == trio.count(S3) == max(trio.published)
    trio.tell(S3, FollowMetalog(SPACE, START, 0), source=STORAGE)
    assert trio.sent_to(STORAGE, MetalogGone)


def test_p13_what_it_had_past_an_end_is_not_taken_for_what_was_let_go(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its journal still has entries that the end left out, of counts up to where it goes on."""
    monkeypatch.setattr(primary_module, "RUNS_REPLICATED_MAX", 40)
    trio = started(segment_bytes=SEGMENT_BYTES)
    trio.isolate(S1)
    for _ in range(40):
        trio.order(S1)
        trio.sync(S1)
    assert trio.count(S1) == 43
    trio.change(S2, among=(S2, S3))
    order(trio, S2, 20)
    stores(trio, 20)
    assert 3 < begins_at(trio, S2) < 43
    trio.load_views(S1)
    trio.heal()
    trio.settle()
    order(trio, S2, 1)
    assert trio.count(S1) == trio.count(S2)
    trio.restart(S1)
    trio.settle()
    assert trio.count(S1) == trio.count(S2)
    found = recover_metalog(
        trio.disks[S1].journal, first_end(SPACE), ceiling=1, released=True,
        ended=ended_in(trio, SPACE),
    )  # fmt: skip
    assert found.begins_at >= begins_at(trio, S2)
    assert found.end.tail == trio.core(S2).primaries[SPACE].tail


def test_entries_before_a_cut_are_no_place_to_go_on_from() -> None:
    """The tail would not be known (P13)."""
    trio = started(segment_bytes=SEGMENT_BYTES)
    trio.isolate(S3)
    term = trio.view.term
    trio.tell(S3, RunsGone(SPACE, term, 40), source=S1)
    trio.tell(S3, ReplicateRun(term, stamps(40, 5, term=term)), source=S1)
    assert trio.count(S3) == 3


def test_p11_a_term_that_ended_before_what_is_held_leaves_nothing() -> None:
    """A class that may lose entries lost them on all others; this one follows from the start."""
    recovered = Recovered(first_end(SPACE), RunIndex(), ())
    held = Held(recovered)
    held.begin_at(stamps(40, 5)._replace(space=SPACE))
    holding = Holding(held, Standing(held.end, [(1, held.end)]))
    holding.end_at(first_end(SPACE))
    assert (held.count, held.begins_at, holding.standing.count) == (0, 0, 0)
    holding.standing.persisted(1)
    assert holding.standing.count == 0


def test_places_of_runs_that_were_let_go_are_forgotten() -> None:
    runs = RunIndex()
    for first in range(3 * CHUNK_RUNS):
        runs.add(first, Location(1, first, 1))
    before = runs.size_bytes
    runs.drop(2 * CHUNK_RUNS + 5)
    assert runs.size_bytes < before
    found = list(runs.locations(2 * CHUNK_RUNS + 5, 3 * CHUNK_RUNS))
    assert [each.offset for each in found] == list(range(2 * CHUNK_RUNS + 5, 3 * CHUNK_RUNS))
