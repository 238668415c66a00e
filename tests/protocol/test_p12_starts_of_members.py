"""P12 with several sequencers: a view names a start of a sequencer, and no other start is primary.

1. A primary is killed and comes back at once, before anybody suspected it.
2. It is named by the view still, and has its journal.

Were it to go on, it would not know what its earlier process had in flight, nor who was promised
what meanwhile.
"""

from __future__ import annotations

from bokilog.errors import NotPrimary, to_wire
from bokilog.ids import START
from bokilog.messages import FollowMetalog, Propose, RequestFailed, TailRequest
from bokilog.metalog import Proposer, Trim
from tests.unit.sequencer.trio import ENGINE, S1, S2, S3, SEQUENCERS, SPACE, STORAGE, Trio, started


def test_p12_in_term_0_nobody_is_primary() -> None:
    trio = Trio()
    assert not any(trio.core(node).primaries for node in SEQUENCERS)


def test_p12_a_restarted_process_orders_nothing_until_a_view_names_it() -> None:
    trio = started()
    trio.restart(S1)
    trio.settle()
    assert not trio.core(S1).primaries
    trio.order(S1)
    trio.settle()
    assert max(trio.published) == 3
    trio.change(S1)
    trio.order(S1)
    trio.settle()
    assert max(trio.published) > 3


def test_p12_a_process_may_be_primary_in_a_later_term_too() -> None:
    trio = started()
    for primary in (S2, S1, S1):
        trio.change(primary)
        trio.order(primary)
        trio.settle()
        believers = [node for node in SEQUENCERS if trio.core(node).primaries]
        assert believers == [primary]
    assert {trio.count(node) for node in SEQUENCERS} == {max(trio.published)}


def test_p12_a_primary_that_was_succeeded_is_a_backup_of_the_next_one() -> None:
    trio = started()
    trio.change(S2)
    trio.isolate(S3)
    trio.order(S2)
    trio.settle()
    assert max(trio.published) == trio.count(S1) == 6


def test_p12_who_asks_a_backup_is_told_that_it_is_none() -> None:
    trio = started()
    trio.tell(S2, TailRequest(7, SPACE), Propose(8, SPACE, Trim(0, 7, None, 5, Proposer(1, 8))))
    error = to_wire(NotPrimary(S1))
    assert trio.sent_to(ENGINE, RequestFailed) == [
        RequestFailed(7, error, START),
        RequestFailed(8, error, START),
    ]


def test_p12_who_follows_before_the_view_is_loaded_is_fed_once_it_is() -> None:
    trio = started()
    trio.crash(S1)
    for node in (S2, S3):
        trio.seal(node)
    trio.settle()
    end = trio.end_of((S2, S3))
    for node in (S2, S3):
        trio.extend(node, end, S2)
    trio.settle()
    trio.swap(end, S2)
    trio.received.pop(STORAGE)
    trio.tell(S2, FollowMetalog(SPACE, START, 0), source=STORAGE)
    assert STORAGE not in trio.received
    trio.load_views(S2)
    assert [node for node, _ in trio.received[STORAGE]] == [S2, S2]
