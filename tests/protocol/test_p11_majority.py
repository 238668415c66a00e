"""P11: with backups an entry is published once a majority of the sequencers holds it.

1. The primary orders records and has synced the entry; a storage node folds it.
2. The primary's machine burns down. The backups never had the entry.

Were it published before a backup held it, the next term would give its seqnums to other records.
"""

from __future__ import annotations

import pytest

from bokilog.ids import NodeId
from bokilog.messages import CeilingHeld, HoldCeiling, ReplicateRun, RunsHeld
from bokilog.sequencer import primary as module, replication
from tests.unit.sequencer.trio import S1, S2, S3, SEQUENCERS, SPACE, Trio, started

BACKUPS = ("backups", SPACE)
"""The timer of a primary that looks after backups that do not lead."""


def carry(trio: Trio, source: NodeId, to: NodeId) -> None:
    """Everything under way on one link arrives."""
    while trio.deliver(source, to):
        pass


def ordered() -> Trio:
    """A run is under way to both backups; nobody has synced it."""
    trio = started()
    trio.order(S1)
    assert max(trio.published) == 3
    return trio


def test_p11_the_primary_alone_publishes_nothing() -> None:
    trio = ordered()
    trio.sync(S1)
    assert max(trio.published) == 3


def test_p11_a_backup_counts_once_it_has_synced_the_entry() -> None:
    trio = ordered()
    trio.sync(S1)
    carry(trio, S1, S2)
    carry(trio, S2, S1)
    assert max(trio.published) == 3, "written is not synced"
    trio.sync(S2)
    carry(trio, S2, S1)
    assert max(trio.published) == 4


def test_p11_the_primary_does_not_count_before_its_own_sync() -> None:
    trio = ordered()
    carry(trio, S1, S2)
    trio.sync(S2)
    carry(trio, S2, S1)
    assert max(trio.published) == 3
    trio.fire(S1, BACKUPS)
    carry(trio, S1, S3)
    trio.sync(S3)
    carry(trio, S3, S1)
    assert max(trio.published) == 4, "two backups are a majority too"


def test_p11_a_backup_that_no_majority_needs_is_sent_what_has_gathered() -> None:
    trio = started()
    for _ in range(4):
        trio.order(S1)
        assert not trio.queues[S1, S3], "nobody waits for it"
        trio.sync(S1)
        carry(trio, S1, S2)
        trio.sync(S2)
        carry(trio, S2, S1)
    assert max(trio.published) == 7
    trio.settle()
    assert {trio.count(node) for node in SEQUENCERS} == {7}


def test_p11_if_the_leading_backup_takes_too_long_another_one_leads() -> None:
    trio = ordered()
    trio.sync(S1)
    trio.fire(S1, BACKUPS)
    carry(trio, S1, S3)
    trio.sync(S3)
    carry(trio, S3, S1)
    assert max(trio.published) == 4
    assert trio.queues[S1, S2], "it stands still"
    trio.order(S1)
    trio.sync(S1)
    carry(trio, S1, S3)
    trio.sync(S3)
    carry(trio, S3, S1)
    assert max(trio.published) == 5
    trio.settle()
    assert {trio.count(node) for node in SEQUENCERS} == {5}


@pytest.mark.parametrize("more", [False, True])
def test_p11_when_the_leading_backup_is_gone_the_other_one_takes_over(more: bool) -> None:
    """Also if it lacks what that one was sent, and more was ordered since."""
    trio = ordered()
    trio.sync(S1)
    trio.crash(S2)
    if more:
        trio.order(S1)
        trio.sync(S1)
    trio.settle()
    assert max(trio.published) == 4 + more
    trio.order(S1)
    trio.settle()
    assert max(trio.published) == 5 + more
    trio.start(S2)
    trio.settle()
    assert {trio.count(node) for node in SEQUENCERS} == {5 + more}


def test_p11_one_backup_that_is_away_holds_nothing_up_and_catches_up() -> None:
    trio = started()
    trio.isolate(S3)
    for _ in range(5):
        trio.order(S1)
        trio.settle()
    assert max(trio.published) == 8
    assert trio.count(S3) == 3
    trio.heal()
    trio.settle()
    assert trio.count(S3) == 8


def test_p11_what_arrives_while_two_runs_wait_for_a_majority_is_one_cut() -> None:
    trio = started()
    began = trio.count(S1)
    for _ in range(module.RUNS_REPLICATED_MAX + 4):
        trio.order(S1)
    assert trio.count(S1) == began + module.RUNS_REPLICATED_MAX
    trio.settle()
    assert max(trio.published) == began + module.RUNS_REPLICATED_MAX + 1
    assert {trio.count(node) for node in SEQUENCERS} == {max(trio.published)}


def test_p11_a_backup_far_behind_is_fed_in_portions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replication, "RUNS_FED", 2)
    monkeypatch.setattr(replication, "ENTRIES_UNTOLD_MAX", 5)
    trio = started()
    trio.isolate(S3)
    for _ in range(20):
        trio.order(S1)
        trio.settle()
    trio.heal()
    carry(trio, S3, S1)
    for timer in list(trio.processes[S1].timers):
        trio.fire(S1, timer)
        trio.fire(S1, timer)
    sent = [each for each in trio.queues[S1, S3] if isinstance(each, ReplicateRun)]
    assert 2 <= len(sent) <= 5, "nothing more until it tells what it holds"
    trio.settle()
    assert trio.count(S3) == 23


def test_p11_what_an_earlier_process_of_a_backup_held_does_not_count() -> None:
    trio = started("flush")
    trio.order(S1)
    carry(trio, S1, S2)
    trio.sync(S2)
    carry(trio, S2, S1)
    trio.crash(S2)  # with what the operating system held for it
    trio.sync(S1)
    assert max(trio.published) == 3
    trio.start(S2)
    trio.isolate(S3)
    trio.settle()
    assert max(trio.published) == 4, "it was sent the entry again"


def test_p11_seqnums_wait_until_a_majority_has_synced_their_ceiling(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "CEILING_STEP", 8)
    trio = started("flush")
    primary = trio.core(S1).primaries[SPACE]
    trio.order(S1, 50)
    assert [type(each) for each in trio.queues[S1, S2]] == [HoldCeiling]
    trio.sync(S1)
    trio.order(S1)
    assert primary.tail == 2, "its own sync is not enough"
    carry(trio, S1, S2)
    trio.sync(S2)
    assert [type(each) for each in trio.queues[S2, S1]] == [CeilingHeld]
    carry(trio, S2, S1)
    assert primary.tail > 50


def test_p11_after_a_lost_metalog_seqnums_go_on_above_the_ceiling() -> None:
    trio = started("flush")
    trio.order(S1, 9)
    trio.settle()
    given_until = trio.core(S1).primaries[SPACE].stats().tail
    for node in (S2, S3):
        trio.crash(node, wipe=False)
        trio.disks[node].journal = type(trio.disks[node].journal)()  # the power failed
        trio.start(node)
    trio.crash(S1)
    trio.settle()
    for node in (S2, S3):
        trio.seal(node)
    trio.settle()
    end = trio.end_of((S2, S3))
    assert end.position.count == 0
    assert end.tail >= given_until


def test_p11_a_backup_is_silent_towards_everybody_but_its_primary() -> None:
    trio = started()
    trio.order(S1)
    run = next(each for each in trio.queues[S1, S2] if isinstance(each, ReplicateRun))
    trio.tell(S3, run, source=S2)
    trio.sync(S3)
    assert trio.count(S3) == 3
    assert not any(isinstance(each, RunsHeld) for each in trio.queues[S3, S2])
    assert {node for node in SEQUENCERS if trio.core(node).primaries} == {S1}


def test_p11_a_run_that_no_backup_takes_costs_nothing_once_all_were_sent_it() -> None:
    """A term that has ended without its primary: the run waits for good."""
    trio = ordered()
    trio.sync(S1)
    trio.seal(S2)
    trio.seal(S3)
    trio.settle()
    assert max(trio.published) == 3
    assert BACKUPS not in trio.processes[S1].timers
