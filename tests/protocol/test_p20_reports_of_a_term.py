"""P20: that a replica holds nothing counts in the term that it was said in, and in no other.

1. A is primary. A replica of class `memory` has nothing yet, and says so; the link is slow.
2. B is primary. The replica holds records, which are acknowledged.
3. A is primary again, and orders nothing before it knows whether anything is left.
4. What was said in the first term arrives, or has waited at A since it arrived in the second one.

If it counted, everything would start over although no storage node has failed.
"""

from __future__ import annotations

import pytest

from bokilog.effects import Effect, LinkUp, LoadView, Received
from bokilog.ids import START, NodeId, Position, Term
from bokilog.messages import IndexReport
from bokilog.metalog import Cut, StartOver
from tests.protocol.storage_rig import PEER, PRIMARY, messages
from tests.protocol.test_p11_lost_metalogs import FlushRig, flush_view
from tests.unit.sequencer.trio import S1, S2, SPACE, STORAGE, Trio

OLD_VERSION = 0x9E37_79B9_7F4A_7C15
"""What versions before have in the place of the term: the chained hash of their fold."""


def says(term: int, *, empty: bool) -> IndexReport:
    return IndexReport(SPACE, START, START, term, empty)


def tell(trio: Trio, node: NodeId, report: IndexReport) -> None:
    trio.tell(node, report, source=STORAGE)
    trio.settle()


def ordered(trio: Trio) -> list[type]:
    return [type(entry) for _, entry in trio.published.values()]


def lived_through_two_terms(late: IndexReport | None = None) -> Trio:
    """Records of both, held by the replica; A is a backup, which hears what comes `late`."""
    trio = Trio("memory")
    trio.change(S1)
    trio.order(S1)
    trio.settle()
    trio.change(S2)
    tell(trio, S2, says(2, empty=False))
    trio.order(S2)
    trio.settle()
    assert ordered(trio).count(Cut) == 2
    if late is not None:
        tell(trio, S1, late)
    return trio


def test_p20_what_waited_at_a_backup_does_not_count_in_its_own_term() -> None:
    trio = lived_through_two_terms(says(1, empty=True))
    trio.change(S1)
    trio.order(S1)
    trio.settle()
    assert StartOver not in ordered(trio)
    tell(trio, S1, says(3, empty=False))
    trio.order(S1)
    trio.settle()
    assert ordered(trio).count(Cut) == 3, "what is left is gone on with"


@pytest.mark.parametrize("term", [1, 2])
def test_p20_what_was_under_way_for_two_terms_does_not_count(term: int) -> None:
    trio = lived_through_two_terms()
    trio.change(S1)
    tell(trio, S1, says(term, empty=True))
    trio.order(S1)
    trio.settle()
    assert StartOver not in ordered(trio)


def test_p20_nor_does_that_something_was_left_two_terms_ago() -> None:
    """Else the term would have to end before everything can start over."""
    trio = lived_through_two_terms()
    trio.change(S1)
    tell(trio, S1, says(1, empty=False))
    tell(trio, S1, says(3, empty=True))
    trio.order(S1)
    trio.settle()
    assert StartOver in ordered(trio)
    assert not trio.processes[S1].ended


@pytest.mark.parametrize("node", [S1, S2])
def test_p20_who_installed_the_view_first_is_heard_once_it_is_installed_here(node: NodeId) -> None:
    """Also by the primary of the term before, that others told earlier things."""
    trio = lived_through_two_terms()
    tell(trio, S2, says(2, empty=True))
    trio.tell(node, says(3, empty=True), source=STORAGE)
    trio.change(node)
    trio.order(node)
    trio.settle()
    assert StartOver in ordered(trio)


def test_p20_a_report_waits_for_its_view_also_over_one_in_between() -> None:
    trio = lived_through_two_terms()
    trio.tell(S1, says(4, empty=True), source=STORAGE)
    trio.change(S1)
    trio.order(S1)
    trio.settle()
    assert StartOver not in ordered(trio)
    trio.change(S1)
    trio.order(S1)
    trio.settle()
    assert StartOver in ordered(trio)


def test_p20_a_report_of_a_later_term_is_a_hint_that_it_began() -> None:
    core = lived_through_two_terms().core(S1)
    assert core.handle(Received(STORAGE, says(3, empty=True)), 1.0) == [LoadView(Term(3))]


@pytest.mark.parametrize("term", [0, OLD_VERSION])
def test_p20_a_replica_of_the_version_before_is_believed(term: int) -> None:
    """In the middle of a rolling restart; it does not say when, and nobody else can."""
    trio = lived_through_two_terms()
    trio.change(S1)
    tell(trio, S1, says(term, empty=True))
    trio.order(S1)
    trio.settle()
    assert StartOver in ordered(trio)


def test_p20_a_replica_says_of_what_term_it_speaks() -> None:
    rig = FlushRig().begin("memory")
    assert [each.term for each in reports(rig.do(LinkUp(PRIMARY)))] == [1]
    effects = rig.install(flush_view(2, end=Position(Term(1), 1), tail=1, durability="memory"))
    assert [each.term for each in reports(effects)] == [2]
    assert [each.term for each in reports(rig.do(LinkUp(PEER)))] == [2]


def reports(effects: list[Effect]) -> list[IndexReport]:
    found = messages(effects, IndexReport)
    return [each for each in found if isinstance(each, IndexReport)]
