"""P10 to P15: what a controller may count, where a term ends, and in which order it may act.

Three sequencers, A being primary; what each interleaving would break is said with the test.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from bokilog.effects import (
    Effect,
    Event,
    IntentStored,
    LeaseHeld,
    LeaseLost,
    LinkUp,
    Received,
    Send,
    StoreIntent,
    SwapView,
    TimerFired,
    ViewInstalled,
)
from bokilog.ids import NodeId, Position, Term
from bokilog.messages import Extend, Extended, Heartbeat, Seal, Sealed
from bokilog.record import Durability
from bokilog.sequencer.controller import ControllerCore, Step
from bokilog.sequencer.controller_settings import ControllerSettings
from bokilog.sequencer.next_view import endings
from bokilog.view import End, View
from tests.unit.sequencer.controllers import NODES, SPACE, A, B, C, first_view

TERM = Term(4)
BEGAN = Position(Term(3), 10)
WALL_MS = 1_700_000_000_000


def view(durability: Durability = "sync") -> View:
    """Of term 4, which began with 10 entries."""
    plain = first_view(durability)
    nodes = [
        replace(node, incarnation=number, disk_id=f"disk {node.id}")
        for number, node in enumerate(plain.nodes, 1)
    ]
    end = End(space=SPACE, position=BEGAN, tail=100, timestamp_ms=WALL_MS)
    return replace(plain, term=TERM, nodes=tuple(nodes), ends=(end,))


def sealed(
    node: NodeId,
    position: Position = BEGAN,
    *,
    disk: str = "",
    tail: int = 100,
    ms: int = 0,
    ceiling: int = 1,
) -> Sealed:
    row = [SPACE, *position, tail, ms, ceiling]
    return Sealed(TERM, disk or f"disk {node}", 1, [row])


def at(count: int) -> Position:
    return Position(TERM, count)


class Change:
    """B's controller, active; A is dead and C lives."""

    def __init__(self, durability: Durability = "sync") -> None:
        self.core = ControllerCore(ControllerSettings(), node=B, incarnation=2, disk_id=f"disk {B}")
        self.now_s = 100.0
        self.handle(ViewInstalled(view(durability)))
        self.handle(LinkUp(C))
        self.alive(C, incarnation=3)

    def handle(self, event: Event) -> list[Effect]:
        effects = self.core.handle(event, self.now_s)
        self.core.check()
        return effects

    def alive(self, node: NodeId, *, incarnation: int, disk: str = "") -> list[Effect]:
        disk = disk or f"disk {node}"
        beat = Heartbeat(node, "sequencer", incarnation, disk, TERM, TERM, 0, False, False)
        return self.handle(Received(node, beat))

    def sealing(self) -> Change:
        self.handle(LeaseHeld((TERM, "because")))
        return self

    def answer(self, message: Sealed | Extended, node: NodeId) -> list[Effect]:
        return self.handle(Received(node, message))

    def extended(self, node: NodeId, position: Position, *, disk: str = "") -> list[Effect]:
        rows = [[SPACE, *position]]
        return self.answer(Extended(TERM, disk or f"disk {node}", 1, rows), node)


def sent(effects: list[Effect], kind: type[Seal] | type[Extend]) -> dict[object, object]:
    return {
        each.to: each.message
        for each in effects
        if isinstance(each, Send) and isinstance(each.message, kind)
    }


def swaps(effects: list[Effect]) -> list[View]:
    return [each.view for each in effects if isinstance(each, SwapView)]


# --- P15: the intent first ------------------------------------------------------------------------


def test_p15_nobody_is_sealed_before_the_intent_is_stored() -> None:
    """Else a controller that dies would leave a sealed primary that nobody replaces."""
    change = Change()
    change.now_s += 3.0
    change.alive(C, incarnation=3)
    effects = change.handle(LeaseHeld(None))
    assert [each for each in effects if isinstance(each, StoreIntent)]
    assert not sent(effects, Seal)
    assert not sent(change.handle(TimerFired(("controller", "step"))), Seal)
    assert set(sent(change.handle(IntentStored(TERM)), Seal)) == set(NODES)


def test_p15_an_intent_to_end_another_term_starts_nothing() -> None:
    change = Change()
    change.handle(LeaseHeld(None))
    assert not sent(change.handle(IntentStored(TERM)), Seal)
    assert change.core.step is Step.WATCHING


def test_p15_whoever_takes_over_seals_at_once_since_somebody_may_be_sealed_already() -> None:
    change = Change()
    assert set(sent(change.handle(LeaseHeld((TERM, "because"))), Seal)) == set(NODES)


def test_p15_without_the_lease_a_change_is_left_to_its_holder() -> None:
    change = Change().sealing()
    change.handle(LeaseLost(C))
    assert not change.answer(sealed(C), C)
    assert change.core.step is Step.WATCHING


def test_p15_w_and_who_holds_what_stay_as_they_were() -> None:
    change = Change().sealing()
    for node in (B, C):
        change.answer(sealed(node), node)
    change.extended(B, BEGAN)
    (after,) = swaps(change.extended(C, BEGAN))
    before = view()
    assert after.spaces[0].write_quorum == before.spaces[0].write_quorum
    assert after.spaces[0].replicas == before.spaces[0].replicas
    assert set(after.spaces[0].sequencers) == set(before.spaces[0].sequencers)
    assert after.history_id == before.history_id


# --- P14: whose answer counts ---------------------------------------------------------------------


def test_p14_one_answer_is_no_majority() -> None:
    change = Change().sealing()
    assert not sent(change.answer(sealed(B), B), Extend)
    assert sent(change.answer(sealed(C), C), Extend)


def test_p14_another_disk_has_no_vote() -> None:
    """It was wiped: what it acknowledged is gone, and so is what it promised."""
    change = Change().sealing()
    change.answer(sealed(B), B)
    assert not change.answer(sealed(C, disk="a new one"), C)
    assert change.core.step is Step.SEALING
    assert sent(change.answer(sealed(A, at(12)), A), Extend)


def test_p14_a_disk_that_the_view_does_not_name_has_no_vote_either() -> None:
    """It might be the second one since the term began."""
    change = Change()
    nameless = [replace(node, disk_id="") if node.id == C else node for node in view().nodes]
    change.handle(ViewInstalled(replace(view(), term=Term(5), nodes=tuple(nameless))))
    change.handle(LeaseHeld((Term(5), "because")))
    for node in (B, C):
        change.answer(sealed(node)._replace(term=5), node)
    assert change.core.step is Step.SEALING


def test_p14_answers_of_another_term_do_not_count() -> None:
    change = Change().sealing()
    change.answer(sealed(B), B)
    change.answer(sealed(C)._replace(term=TERM - 1), C)
    assert change.core.step is Step.SEALING


def test_p14_a_new_disk_gets_its_vote_by_the_next_view() -> None:
    change = Change().sealing()
    change.alive(C, incarnation=9, disk="a new one")
    change.answer(sealed(B), B)
    change.answer(sealed(A), A)
    change.extended(B, BEGAN)
    (after,) = swaps(change.extended(C, BEGAN, disk="a new one")) or swaps(
        change.handle(TimerFired(("controller", "grace")))
    )
    assert after.node(C).disk_id == "a new one"
    assert after.node(A).disk_id == f"disk {A}", "who is away stays as he was"


# --- P13: where the term ended --------------------------------------------------------------------


def test_p13_the_end_is_the_longest_of_a_majority() -> None:
    """An entry that anybody was shown is synced on a majority, so one of these has it."""
    found = endings(view(), {B: sealed(B, at(12), tail=120), C: sealed(C, at(15), tail=150)})
    assert found[SPACE].end.position == at(15)
    assert found[SPACE].end.tail == 150
    assert found[SPACE].sources == (C,)


def test_p13_what_an_older_term_left_past_its_end_does_not_count() -> None:
    """C was away when term 3 ended with 10 entries, and still has two more of it."""
    stale = sealed(C, Position(Term(3), 12), tail=777)
    found = endings(view(), {B: sealed(B), C: stale})
    assert found[SPACE].end.position == BEGAN
    assert found[SPACE].end.tail == 100
    assert found[SPACE].sources == (B, C)


def test_p13_the_end_never_lies_below_where_the_term_began() -> None:
    behind = Position(Term(3), 4)
    found = endings(view(), {B: sealed(B, behind, tail=40), C: sealed(C, behind, tail=40)})
    assert found[SPACE].end.position == BEGAN
    assert found[SPACE].sources == (), "the one who has the rest has to come back first"


def test_p13_a_metalog_that_nobody_brings_is_waited_for() -> None:
    change = Change().sealing()
    behind = Position(Term(3), 4)
    change.answer(sealed(B, behind), B)
    change.answer(sealed(C, behind), C)
    assert change.core.step is Step.SEALING
    blocked = str(change.core.facts()["blocked"])
    assert blocked == f"none of {B}, {C} has log space 0 up to where term 4 began"
    assert sent(change.answer(sealed(A, at(11)), A), Extend)


def test_p13_who_never_saw_the_view_promises_with_nothing() -> None:
    empty = Sealed(TERM, f"disk {C}", 1, [])
    assert endings(view(), {B: sealed(B, at(12)), C: empty})[SPACE].sources == (B,)


def test_p13_the_view_waits_until_a_majority_holds_everything() -> None:
    """Were it stored before, the only one who has the tail might be lost next."""
    change = Change().sealing()
    change.answer(sealed(B, at(12)), B)
    asked = sent(change.answer(sealed(C, at(15)), C), Extend)
    assert asked[B] == Extend(TERM, [[SPACE, TERM, 15]], C)
    assert asked[C] == Extend(TERM, [[SPACE, TERM, 15]], C), "its own has to be synced too"
    assert not swaps(change.extended(C, at(15)))
    assert not swaps(change.extended(B, at(14))), "of an earlier request"
    (after,) = swaps(change.extended(B, at(15)))
    assert after.end(SPACE).position == at(15)
    assert after.spaces[0].primary == C, "it was the furthest"


def test_p13_a_disk_that_is_gone_by_now_is_not_counted() -> None:
    change = Change().sealing()
    for node in (B, C):
        change.answer(sealed(node, at(12)), node)
    change.extended(C, at(12))
    change.alive(C, incarnation=9, disk="a new one")
    assert not swaps(change.extended(B, at(12)))


def test_p13_when_the_only_source_is_gone_the_seal_is_asked_anew() -> None:
    change = Change().sealing()
    change.answer(sealed(B, at(12)), B)
    change.answer(sealed(C, at(15)), C)
    change.now_s += 3.1
    assert set(sent(change.handle(TimerFired(("controller", "step"))), Seal)) == set(NODES)
    change.answer(sealed(B, at(12)), B)
    change.answer(sealed(A, at(12)), A)
    assert change.core.step is Step.EXTENDING


# --- P11, P12, P10 --------------------------------------------------------------------------------


@pytest.mark.parametrize("durability", ["flush", "memory"])
def test_p11_without_syncs_the_end_is_the_longest_that_is_brought(
    durability: Durability,
) -> None:
    """What a power cut took is gone; seqnums go on above every ceiling, so none is given twice."""
    behind = Position(Term(3), 4)
    answers = {B: sealed(B, behind, ceiling=1 << 24), C: sealed(C, Position(Term(3), 2), ceiling=7)}
    ending = endings(view(durability), answers)[SPACE]
    assert ending.end.position == behind
    assert ending.end.tail == 1 << 24
    assert ending.sources == (B,)


def test_p12_only_the_start_that_is_named_may_be_primary() -> None:
    change = Change().sealing()
    for node in (B, C):
        change.answer(sealed(node), node)
    change.extended(B, BEGAN)
    (after,) = swaps(change.extended(C, BEGAN))
    assert after.spaces[0].primary == B
    assert (after.node(B).incarnation, after.node(C).incarnation) == (2, 3)


def test_p10_no_end_is_earlier_than_any_answer_or_than_the_end_before() -> None:
    late = endings(view(), {B: sealed(B, at(12), ms=WALL_MS + 5), C: sealed(C, ms=WALL_MS + 9)})
    assert late[SPACE].end.timestamp_ms == WALL_MS + 9
    early = endings(view(), {B: sealed(B, ms=3), C: sealed(C, ms=4)})
    assert early[SPACE].end.timestamp_ms == WALL_MS
