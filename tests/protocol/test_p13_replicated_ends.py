"""P13 with several sequencers: a stored view says where a term ended, and all of that is held.

1. A primary has an entry that no backup has. Two backups are sealed; their end is without it.
2. The old primary comes back and is a backup now.

Were the entry kept, this sequencer would bring another metalog to the next view than the others.
"""

from __future__ import annotations

import pytest

from bokilog.effects import Received, ViewInstalled
from bokilog.ids import NodeId, Position, Term
from bokilog.messages import Extended, FetchRuns, ReplicateRun, Runs, SyncRuns
from bokilog.record import Durability
from bokilog.sequencer.recovery import recover_metalog
from bokilog.view import first_end
from tests.unit.sequencer.trio import DRIVER, S1, S2, S3, SPACE, Trio, started


def with_an_entry_of_its_own() -> Trio:
    """The first sequencer alone has the fourth entry; it is cut off, and still believes."""
    trio = started()
    trio.isolate(S1)
    trio.order(S1)
    trio.sync(S1)
    assert trio.count(S1) == 4
    return trio


def test_p13_entries_past_the_end_are_dropped_when_the_view_is_loaded() -> None:
    trio = with_an_entry_of_its_own()
    trio.change(S2, among=(S2, S3))
    trio.load_views(S1)
    assert trio.count(S1) == 3
    trio.heal()
    trio.order(S2)
    trio.settle()
    assert {trio.count(node) for node in (S1, S2, S3)} == {max(trio.published)}


def test_p13_they_stay_dropped_through_a_restart() -> None:
    trio = with_an_entry_of_its_own()
    trio.change(S2, among=(S2, S3))
    trio.restart(S1)
    trio.heal()
    trio.order(S2, 3)
    trio.settle()
    trio.restart(S1)
    trio.settle()
    assert trio.count(S1) == max(trio.published)
    found = recover_metalog(trio.disks[S1].journal, first_end(SPACE), ceiling=1)
    assert found.end.position == Position(Term(2), trio.count(S2))
    assert found.end.tail == trio.core(S2).primaries[SPACE].tail


def with_an_entry_that_one_backup_has() -> Trio:
    """The primary has crashed; its last entry is on S2 and not on S3."""
    trio = started()
    trio.isolate(S3)
    trio.order(S1)
    trio.settle()
    trio.crash(S1)
    trio.heal()
    return trio


def test_p13_what_one_backup_was_told_of_is_the_end_if_it_answers() -> None:
    trio = with_an_entry_that_one_backup_has()
    assert (trio.count(S2), trio.count(S3)) == (4, 3)
    view = trio.change(S3, among=(S2, S3))
    assert view.end(SPACE).position == Position(Term(1), 4)
    assert trio.count(S3) == 4
    assert trio.core(S3).primaries[SPACE].tail == 3


def test_p13_extended_is_said_once_all_of_it_is_synced() -> None:
    trio = with_an_entry_that_one_backup_has()
    trio.received.pop(DRIVER)
    for node in (S2, S3):
        trio.seal(node)
    trio.settle()
    end = trio.end_of((S2, S3))
    trio.extend(S3, end, S2)
    trio.deliver(S3, S2)
    while trio.deliver(S2, S3):
        pass
    assert trio.count(S3) == 4
    assert trio.sent_to(DRIVER, Extended) == []
    trio.sync(S3)
    assert trio.has_extended(S3, end)


@pytest.mark.parametrize("durability", ["flush", "memory"])
def test_p13_what_a_term_ends_with_is_synced_where_commits_do_not_wait_for_it(
    durability: Durability,
) -> None:
    """Storage nodes count on what two have synced (P11). Were another disk given a vote before it
    has, that one and a sequencer that had not could end a later term before it."""
    trio = started(durability)
    trio.order(S1)
    trio.settle()
    trio.crash(S2, wipe=True)
    trio.start(S2)
    for node in (S1, S3):
        trio.seal(node)
    trio.settle()
    end = trio.end_of((S1, S3))
    trio.extend(S2, end, S3)
    trio.extend(S3, end, S3)
    for node, peer in ((S2, S3), (S3, S2)):
        while trio.deliver(node, peer):
            pass
    trio.write(S2)
    assert trio.count(S2) == end.position.count
    assert not any(trio.has_extended(node, end) for node in (S2, S3))
    trio.settle()
    assert all(trio.has_extended(node, end) for node in (S2, S3))


def test_p13_what_is_past_the_end_is_not_waited_for() -> None:
    """A storage node wanted an entry synced that the term ends before."""
    trio = started("flush")
    trio.tell(S2, SyncRuns(SPACE, trio.view.term, 4), source=S1)
    trio.crash(S1)
    view = trio.change(S2, among=(S2, S3))
    assert view.end(SPACE).position == Position(Term(1), 3)


def test_p13_an_old_primary_syncs_what_its_term_ends_with() -> None:
    trio = started("flush")
    trio.seal(S1)
    trio.sync(S1)
    end = trio.end_of((S1,))
    trio.extend(S1, end, S1)
    assert not trio.has_extended(S1, end)
    trio.sync(S1)
    assert trio.has_extended(S1, end)


def test_p13_only_what_is_durable_is_given_to_others() -> None:
    trio = started()
    trio.order(S1)
    while trio.deliver(S1, S2):
        pass
    trio.tell(S2, FetchRuns(SPACE, trio.view.term, 3, 4), source=DRIVER)
    (runs,) = trio.sent_to(DRIVER, Runs)
    assert runs == Runs(SPACE, trio.view.term, ())


def test_p13_a_second_controllers_shorter_end_drops_nothing() -> None:
    """The one whose end is stored counts on it."""
    trio = with_an_entry_that_one_backup_has()
    for node in (S2, S3):
        trio.seal(node)
    trio.settle()
    long, short = trio.end_of((S2,)), trio.end_of((S3,))
    assert (long.position.count, short.position.count) == (4, 3)
    trio.extend(S3, long, S2)
    trio.settle()
    trio.extend(S2, short, S3)
    trio.extend(S3, short, S3)
    trio.settle()
    assert trio.has_extended(S3, short)
    trio.swap(long, S3)
    trio.load_views(S3)
    assert trio.core(S3).primaries[SPACE].published.count == 4


def test_p13_nobody_orders_before_the_view_is_stored() -> None:
    trio = started()
    trio.crash(S1)
    for node in (S2, S3):
        trio.seal(node)
    trio.settle()
    end = trio.end_of((S2, S3))
    for node in (S2, S3):
        trio.extend(node, end, S2)
    trio.settle()
    assert not trio.core(S2).primaries
    trio.swap(end, S2)
    trio.load_views(S2)
    assert list(trio.core(S2).primaries) == [SPACE]


def test_p13_a_primary_that_lacks_entries_does_not_begin() -> None:
    trio = started()
    trio.isolate(S3)
    trio.order(S1)
    trio.settle()
    for node in (S1, S2):
        trio.seal(node)
    trio.settle()
    trio.swap(trio.end_of((S1, S2)), S3)
    trio.load_views(S3)
    assert not trio.core(S3).primaries
    assert "missing here" in trio.processes[S3].ended


@pytest.mark.parametrize("primary", [S2, S3])
def test_p13_what_came_with_the_view_in_one_batch_becomes_durable_in_the_next_term(
    primary: NodeId,
) -> None:
    """Else whoever wants it held when that term ends, too, waits for ever: no entry is to come."""
    trio = started()
    trio.order(S1)
    (run,) = (each for each in trio.queues[S1, S2] if isinstance(each, ReplicateRun))
    trio.isolate(S2)
    trio.settle()
    for node in (S1, S3):
        trio.seal(node)
    trio.settle()
    trio.crash(S1)
    view = trio.swap(trio.end_of((S1, S3)), primary)
    assert view.end(SPACE).position == Position(Term(1), 4)
    trio.handle(S2, Received(S1, run), ViewInstalled(view))
    trio.load_views(S3)
    trio.heal()
    trio.settle()
    trio.change(S3, among=(S2, S3))
