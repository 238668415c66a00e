"""The controller's stories: what goes wrong, which steps follow, who is primary in the end."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bokilog.effects import (
    AcquireLease,
    BatchEnded,
    Effect,
    Event,
    IntentStored,
    LeaseHeld,
    LeaseLost,
    LinkUp,
    LoadView,
    Received,
    ReleaseLease,
    Send,
    StoreIntent,
    SwapView,
    TimerFired,
    ViewInstalled,
    ViewSwapped,
)
from bokilog.errors import InvalidSettings
from bokilog.ids import NodeId, Position, Term
from bokilog.messages import Heartbeat, Seal, Sealed, StatusRequest, TermChanged
from bokilog.sequencer.controller import _STEP, ControllerCore, Step
from bokilog.sequencer.controller_settings import ControllerSettings
from bokilog.sequencer.next_view import has_vote
from bokilog.view import View
from tests.unit.sequencer.controllers import NODES, A, B, C, Cluster, first_view, others, running


def backups(cluster: Cluster) -> tuple[NodeId, NodeId]:
    """The one whose controller is active, and the other."""
    active = cluster.active()
    assert active is not None
    assert active != cluster.primary, "a primary leaves the lease to others"
    (other,) = (node for node in others(cluster, cluster.primary) if node != active)
    return active, other


# --- the first term -------------------------------------------------------------------------------


def test_a_new_cluster_begins_its_first_term_by_itself() -> None:
    cluster = Cluster()
    cluster.start()
    assert cluster.run(2, until=cluster.is_settled)
    assert cluster.story[3:] == [
        f"{A} stores the intent to end term 0: the first term",
        f"{A} stores term 1: {A} is primary",
    ]
    assert {node.disk_id for node in cluster.view.nodes} == {
        state.disk for state in cluster.nodes.values()
    }


def test_the_first_term_waits_for_late_sequencers_only_so_long() -> None:
    cluster = Cluster()
    cluster.start(A, B)
    cluster.run(2.5)
    assert cluster.term == 0
    assert cluster.run(2, until=cluster.is_settled)
    assert cluster.view.node(C).disk_id == ""


def test_who_was_late_for_the_first_term_gets_its_vote_by_the_next() -> None:
    cluster = Cluster()
    cluster.start(A, B)
    cluster.run(5)
    cluster.start(C)
    cluster.run(5)
    assert cluster.story[-1] == f"{B} stores term 2: {A} is primary"
    assert has_vote(cluster.view, C, cluster.nodes[C].disk)


def test_one_of_three_alone_changes_nothing_and_says_why() -> None:
    cluster = Cluster()
    cluster.start(B)
    cluster.run(10)
    assert cluster.term == 0
    assert cluster.active() is None
    assert not cluster.intent


# --- a primary that is gone -----------------------------------------------------------------------


def test_a_dead_primary_is_replaced_within_half_a_second() -> None:
    cluster = running()
    active, _ = backups(cluster)
    cluster.kill(A)
    assert cluster.run(0.5, until=lambda: cluster.term == 2)
    assert cluster.story == [
        f"{A} is killed",
        f"{active} stores the intent to end term 1: {A}: its link is down for 0.3 s",
        f"{active} stores term 2: {cluster.primary} is primary",
    ]
    cluster.run(0.1)
    assert cluster.publish()


def test_whoever_was_further_becomes_primary() -> None:
    cluster = running()
    assert cluster.publish(reached=(C,))
    cluster.kill(A)
    cluster.run(1)
    assert cluster.primary == C
    assert cluster.view.ends[0].position.count == len(cluster.published) == 2


def test_a_paused_primary_is_suspected_after_three_seconds() -> None:
    cluster = running()
    cluster.pause(A)
    assert not cluster.run(2.7, until=lambda: cluster.term == 2)
    assert cluster.run(0.6, until=lambda: cluster.term == 2)
    assert "it is silent for 3" in cluster.story[1]


def test_a_primary_that_was_restarted_is_primary_again_in_a_term_of_its_own() -> None:
    cluster = running()
    active, _ = backups(cluster)
    cluster.kill(A)
    cluster.start(A)
    cluster.run(0.2)
    assert cluster.story[2:] == [
        f"{active} stores the intent to end term 1: {A}: it was restarted",
        f"{active} stores term 2: {A} is primary",
    ]
    assert cluster.view.node(A).incarnation == cluster.nodes[A].incarnation


def test_a_primary_that_dies_with_its_controller_active_is_replaced_too() -> None:
    cluster = running()
    cluster.kill(B, C)
    cluster.run(2)
    cluster.start(B)
    cluster.run(0.5)
    assert cluster.primary == A
    cluster.start(C)
    cluster.run(5)
    cluster.kill(A)
    assert cluster.run(1, until=lambda: cluster.primary in (B, C))


def test_a_whole_cluster_that_stops_and_starts_goes_on() -> None:
    cluster = running()
    cluster.kill(*NODES)
    cluster.run(60)
    cluster.start()
    assert cluster.run(2, until=cluster.is_settled)
    assert cluster.term == 2
    assert cluster.publish()


# --- nothing wrong --------------------------------------------------------------------------------


def test_nothing_happens_while_nothing_is_wrong() -> None:
    cluster = running()
    cluster.run(60)
    assert cluster.story == []


def test_a_backup_that_dies_and_comes_back_changes_no_view() -> None:
    cluster = running()
    _, other = backups(cluster)
    cluster.kill(other)
    cluster.run(10)
    cluster.start(other)
    cluster.run(10)
    assert cluster.term == 1


def test_a_link_that_is_made_again_at_once_changes_no_view() -> None:
    cluster = running()
    active, _ = backups(cluster)
    cluster.cut(A, active)
    cluster.run(0.25)
    cluster.heal()
    cluster.run(10)
    assert cluster.term == 1


def test_a_controller_that_did_not_run_itself_suspects_nobody() -> None:
    cluster = running()
    active, _ = backups(cluster)
    cluster.pause(active)
    cluster.run(20)
    cluster.resume(active)
    cluster.run(10)
    assert cluster.term == 1


# --- in the middle of a change --------------------------------------------------------------------


@pytest.mark.parametrize("step", [Step.INTENT, Step.SEALING, Step.EXTENDING, Step.SWAPPING])
def test_another_controller_goes_on_with_a_change(step: Step) -> None:
    cluster = running()
    active, other = backups(cluster)
    cluster.pause(A)
    cluster.run(10, until=cluster.step_of(active, step))
    cluster.kill(active)
    cluster.run(2)
    assert cluster.term <= 2, "two of three are gone"
    cluster.resume(A)
    assert cluster.run(10, until=cluster.is_settled), cluster.story
    assert cluster.primary in (A, other)
    assert cluster.publish()
    cluster.check()


def test_a_change_that_was_begun_is_finished_even_if_the_primary_came_back() -> None:
    """Some sequencers may have promised already, and never acknowledge anything of the term."""
    cluster = running()
    active, other = backups(cluster)
    cluster.pause(A)
    cluster.run(10, until=cluster.step_of(active, Step.SEALING))
    cluster.kill(active)
    cluster.resume(A)
    assert cluster.run(5, until=lambda: cluster.term == 2)
    assert f"{other} stores term 2: {A} is primary" in cluster.story
    assert sum("intent" in line for line in cluster.story) == 1


def test_a_backup_that_dies_in_the_middle_is_waited_for() -> None:
    cluster = running()
    active, other = backups(cluster)
    cluster.kill(A)
    cluster.run(10, until=cluster.step_of(active, Step.SEALING))
    cluster.kill(other)
    cluster.run(30)
    facts = cluster.facts(active)
    assert (cluster.term, cluster.active(), facts["state"]) == (1, None, "watching")
    assert facts["reason"] == f"{A}: its link is down for 0.3 s"
    assert str(facts["blocked"]).startswith("2 of 3 sequencers are needed: ")
    cluster.start(other)
    assert cluster.run(1, until=lambda: cluster.term == 2), "it is asked as soon as it is there"


def test_a_majority_that_is_gone_is_not_sealed_and_named() -> None:
    cluster = running()
    active, other = backups(cluster)
    cluster.kill(A, other)
    cluster.run(0.32)
    facts = cluster.facts(active)
    assert facts["state"] == "watching"
    assert facts["reason"] == f"{A}: its link is down for 0.3 s"
    assert str(facts["blocked"]).startswith("2 of 3 sequencers are needed: ")
    cluster.run(30)
    assert (cluster.term, cluster.intent) == (1, (Term(0), "the first term"))
    cluster.start(A, other)
    assert cluster.run(2, until=cluster.is_settled)
    cluster.check()


def test_who_is_cut_off_lets_the_lease_go() -> None:
    cluster = running()
    active, other = backups(cluster)
    cluster.cut(active, A)
    cluster.cut(active, other)
    assert cluster.run(2, until=lambda: cluster.active() == other)
    cluster.run(10)
    assert cluster.term == 1, "nobody else misses anything"


@pytest.mark.parametrize("step", [Step.INTENT, Step.SEALING, Step.EXTENDING])
def test_who_is_cut_off_in_the_middle_of_a_change_lets_the_others_go_on(step: Step) -> None:
    """It still reaches the view store, and would keep the lease for as long as it is cut off."""
    cluster = running()
    active, other = backups(cluster)
    cluster.core(A).leave()
    assert cluster.run(1, until=cluster.step_of(active, step))
    cluster.cut(active, A)
    cluster.cut(active, other)
    assert cluster.run(2, until=lambda: cluster.term == 2), cluster.facts(active)
    assert cluster.primary == other
    cluster.run(0.1)
    assert cluster.publish()
    cluster.check()


def test_a_primary_that_took_the_lease_lets_it_go_once_it_is_cut_off() -> None:
    """Nobody else took it for a while; but alone it can change nothing."""
    cluster = running()
    store = cluster._store

    def only_it_reaches_the_store(node: NodeId, effect: Effect) -> None:
        if node == A:
            store(node, effect)
        elif isinstance(effect, AcquireLease):
            cluster._deliver(node, LeaseLost(""))

    cluster._store = only_it_reaches_the_store  # type: ignore[method-assign]
    cluster.holder = ""
    assert cluster.run(3, until=lambda: cluster.active() == A)
    cluster.run(3)
    assert cluster.active() == A
    cluster._store = store  # type: ignore[method-assign]
    cluster.cut(A, B)
    cluster.cut(A, C)
    assert cluster.run(4, until=lambda: cluster.term == 2), cluster.facts(A)
    assert cluster.primary != A


def test_two_controllers_at_once_store_one_view() -> None:
    cluster = running()
    _, other = backups(cluster)
    cluster.kill(A)
    cluster.run(0.31)
    cluster._deliver(other, LeaseHeld(None))
    cluster.run(2)
    assert cluster.term == 2
    assert cluster.is_settled()
    cluster.check()


def test_a_view_store_that_does_not_answer_is_asked_again() -> None:
    cluster = running()
    active, _ = backups(cluster)
    cluster.store_is_up = False
    cluster.kill(A)
    cluster.run(10)
    assert cluster.facts(active)["blocked"] == "the view store does not answer"
    cluster.store_is_up = True
    assert cluster.run(4, until=cluster.is_settled)


# --- who may be primary ---------------------------------------------------------------------------


def test_a_primary_that_leaves_hands_over() -> None:
    cluster = running()
    cluster.core(A).leave()
    assert not cluster.core(A).may_leave
    assert cluster.run(1, until=lambda: cluster.term == 2)
    cluster.run(0.1)
    assert cluster.primary != A
    assert cluster.core(A).may_leave
    assert "it is about to stop" in cluster.story[0]


def test_who_leaves_says_so_with_the_next_batch() -> None:
    one = One()
    one.handle(ViewInstalled(first_view()))
    one.handle(LinkUp(B))
    one.core.leave()
    effects = one.handle(BatchEnded(1))
    (said,) = (each.message for each in effects if isinstance(each, Send))
    assert isinstance(said, Heartbeat)
    assert said.leaving
    assert one.handle(BatchEnded(1)) == [], "once; later with every heartbeat"


def test_when_all_leave_nobody_hands_over() -> None:
    cluster = running()
    for node in (B, C, A):
        cluster.core(node).leave()
    cluster.run(5)
    assert cluster.term == 1
    assert all(cluster.core(node).may_leave for node in NODES)


def test_a_clock_that_is_far_ahead_is_not_made_primary() -> None:
    cluster = running()
    _, other = backups(cluster)
    cluster.nodes[other].clock_ms = 600_000
    cluster.run(1)
    assert cluster.publish(reached=(other,)), "it is even the one that is furthest"
    cluster.kill(A)
    cluster.run(1)
    assert cluster.term == 2
    assert cluster.primary not in (A, other)


def test_a_primary_whose_clock_jumps_ahead_is_replaced() -> None:
    cluster = running()
    cluster.nodes[A].clock_ms = 600_000
    cluster.run(2.5)
    assert cluster.term == 1
    cluster.run(2)
    assert cluster.primary != A
    assert "its clock is 600.0 s ahead of the others'" in cluster.story[0]
    cluster.run(60)
    assert cluster.term == 2


def test_a_primary_that_does_not_take_over_is_replaced() -> None:
    """It lives and sends heartbeats, and its core never installs the view."""
    cluster = running()
    active, _ = backups(cluster)
    start = cluster.core(A).judgement.me
    stale = Heartbeat(A, "sequencer", start.incarnation, start.disk_id, 0, 0, 0, False, False)
    while cluster.term == 1 and cluster.now_s < 110:
        cluster._deliver(active, Received(A, stale))
        cluster.run(0.05)
    assert cluster.primary != A
    assert "it has not taken over for " in cluster.story[0]


# --- small things ---------------------------------------------------------------------------------


class One:
    """One controller, whose world is the test."""

    def __init__(self, **settings: float) -> None:
        self.core = ControllerCore(
            ControllerSettings(**settings), node=A, incarnation=7, disk_id="disk"
        )
        self.now_s = 0.0

    def handle(self, event: Event) -> list[Effect]:
        effects = self.core.handle(event, self.now_s)
        self.core.check()
        return effects


def heartbeat(node: NodeId, *, incarnation: int = 1, term: int = 0) -> Received:
    beat = Heartbeat(node, "sequencer", incarnation, f"{node} disk", term, term, 0, False, False)
    return Received(node, beat)


def test_the_steps_of_the_first_term_one_by_one() -> None:
    one = One()
    one.handle(LinkUp(B))
    one.handle(ViewInstalled(first_view()))
    for node in (B, C):
        one.handle(heartbeat(node))
    assert one.handle(LeaseHeld(None))[0] == StoreIntent(Term(0), "the first term")
    assert one.handle(IntentStored(Term(0)))[:3] == [Send(node, Seal(0)) for node in NODES]


def test_a_found_intent_is_gone_on_with_at_once() -> None:
    one = One()
    one.handle(ViewInstalled(first_view()))
    effects = one.handle(LeaseHeld((Term(0), "because")))
    assert Send(B, Seal(0)) in effects
    assert one.core.facts()["reason"] == "because"


def test_an_intent_of_an_earlier_term_means_nothing() -> None:
    one = One()
    one.handle(ViewInstalled(first_view()))
    assert one.handle(LeaseHeld((Term(3), "because"))) == []


def test_who_is_behind_is_told_the_term_and_who_is_ahead_makes_it_load() -> None:
    one = One()
    view = first_view()
    one.handle(ViewInstalled(view))
    assert LoadView(4) in one.handle(heartbeat(B, term=4))
    for term in (1, 2):
        one.handle(ViewInstalled(_of_term(term)))
    assert Send(B, TermChanged(2)) in one.handle(heartbeat(B, term=1))


def _of_term(term: int) -> View:
    return replace(first_view(), term=Term(term))


def test_a_stored_view_is_told_to_everybody() -> None:
    one = One()
    one.handle(LinkUp(B))
    one.handle(ViewInstalled(first_view()))
    assert one.handle(ViewSwapped(Term(1), ok=True)) == [LoadView(1), Send(B, TermChanged(1))]


def test_a_lost_swap_is_looked_at() -> None:
    one = One()
    one.handle(ViewInstalled(first_view()))
    one.handle(LeaseHeld((Term(0), "because")))
    assert one.handle(ViewSwapped(Term(1), ok=False))[-1] == LoadView(1)
    assert one.core.step is Step.WATCHING


def test_what_nobody_holds_is_named_for_as_long_as_it_is_missing() -> None:
    """1. Term 1 began at entry 5. A and B are sealed, and hold four each.
    2. The seal is asked again of C, which does not answer. That A and B are sealed says nothing.
    3. C is back, with five.
    """
    one = One()
    ends = (replace(first_view().ends[0], position=Position(Term(0), 5)),)
    nodes = tuple(replace(each, disk_id=f"{each.id} disk") for each in first_view().nodes)
    one.handle(ViewInstalled(replace(_of_term(1), ends=ends, nodes=nodes)))
    one.handle(LeaseHeld((Term(1), "because")))
    for node in (A, B):
        one.handle(Received(node, Sealed(1, f"{node} disk", 1, [[0, 0, 4, 5, 0, 1]])))
    missing = f"none of {A}, {B} has log space 0 up to where term 1 began"
    assert one.core.facts()["blocked"] == missing
    assert one.handle(TimerFired(_STEP))[0] == Send(C, Seal(1))
    assert one.core.facts()["blocked"] == missing
    one.handle(Received(C, Sealed(1, f"{C} disk", 1, [[0, 0, 5, 6, 0, 1]])))
    assert one.core.step is Step.EXTENDING
    assert one.core.facts()["blocked"] == ""


def test_a_change_keeps_its_reason_when_its_view_could_not_be_stored() -> None:
    """1. A primary is about to stop; the intent to end its term, and why, are stored.
    2. The view store does not say whether it took the next view. Meanwhile the primary is gone.
    3. The controller, which has not asked for the lease again, begins anew: with what is stored.
    """
    cluster = running()
    active, _ = backups(cluster)
    cluster.core(A).leave()
    assert cluster.run(1, until=cluster.step_of(active, Step.SWAPPING))
    cluster.store_is_up = False
    cluster.kill(A)
    cluster.run(1)
    cluster._deliver(active, ViewSwapped(Term(2), ok=False))
    cluster.run(0.3, until=cluster.step_of(active, Step.INTENT))
    assert cluster.facts(active)["reason"] == f"{A}: it is about to stop"
    cluster.store_is_up = True
    assert cluster.run(4, until=cluster.is_settled)
    last = cluster.facts(active)["last_change"]
    assert isinstance(last, dict)
    assert last["reason"] == f"{A}: it is about to stop"


def test_messages_of_others_are_ignored_and_counted() -> None:
    one = One()
    assert one.handle(Received(B, StatusRequest(1))) == []
    one.handle(ViewInstalled(first_view()))
    assert one.handle(Received(B, StatusRequest(1))) == []
    assert one.core.ignored_count == 1


def test_a_heartbeat_of_an_earlier_start_changes_nothing() -> None:
    one = One()
    one.handle(ViewInstalled(first_view()))
    one.handle(heartbeat(B, incarnation=5))
    one.handle(heartbeat(B, incarnation=4))
    assert one.core.judgement.start(B).incarnation == 5


def test_facts_say_who_is_suspected_since_when() -> None:
    cluster = running()
    active, _ = backups(cluster)
    cluster.kill(A)
    cluster.run(2)
    nodes = cluster.facts(active)["nodes"]
    assert isinstance(nodes, dict)
    assert nodes[A]["why"].startswith("its link is down for ")
    assert 1.5 < nodes[A]["suspected_for_s"] <= 2.0
    last = cluster.facts(active)["last_change"]
    assert isinstance(last, dict)
    assert last["reason"] == f"{A}: its link is down for 0.3 s"
    assert 0 < last["took_s"] < 0.1


def test_the_lease_is_asked_for_once_at_a_time() -> None:
    cluster = running()
    cluster.store_is_up = False
    asked: list[Effect] = []
    store = cluster._store

    def noted(node: NodeId, effect: Effect) -> None:
        if node == B:
            asked.append(effect)
        store(node, effect)

    cluster._store = noted  # type: ignore[method-assign]
    cluster.run(9)
    assert 3 <= sum(isinstance(each, AcquireLease) for each in asked) <= 5
    assert not any(isinstance(each, SwapView | ReleaseLease) for each in asked)


@pytest.mark.parametrize(
    "settings",
    [
        {"heartbeat_s": 0},
        {"suspicion_s": 0.3},
        {"link_down_suspicion_s": -1},
        {"clock_ahead_max_s": float("nan")},
        {"retry_s": 9},
    ],
)
def test_settings_that_cannot_work_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(InvalidSettings):
        ControllerSettings(**settings)
