"""A sequencer and its controller as one core: who gets what, and what they tell each other."""

from __future__ import annotations

from bokilog.effects import (
    BatchEnded,
    Effect,
    Event,
    IntentStored,
    LeaseHeld,
    LinkUp,
    PromiseStored,
    Received,
    Send,
    StoreIntent,
    StorePromise,
    SwapView,
    TimerFired,
    ViewInstalled,
)
from bokilog.ids import START, NodeId, Term
from bokilog.io.journal_memory import MemoryJournal
from bokilog.messages import (
    Extend,
    Extended,
    Heartbeat,
    Seal,
    Sealed,
    ShardProgress,
    Status,
    StatusRequest,
)
from bokilog.sequencer.controller import ControllerCore
from bokilog.sequencer.controller_settings import ControllerSettings
from bokilog.sequencer.core import SequencerCore
from bokilog.sequencer.member import MemberCore
from bokilog.sequencer.recovery import recover_metalog
from bokilog.view import first_end
from tests.unit.sequencer.controllers import SPACE, WALL_MS, A, B, C, first_view


def member() -> MemberCore:
    journal, view = MemoryJournal(), first_view()
    sequencer = SequencerCore(
        node=A,
        view=view,
        recovered={SPACE: recover_metalog(journal, first_end(SPACE), ceiling=1)},
        journals={SPACE: journal},
        incarnation=5,
        disk_id="disk a",
    )
    controller = ControllerCore(ControllerSettings(), node=A, incarnation=5, disk_id="disk a")
    core = MemberCore(sequencer, controller)
    for event in (ViewInstalled(view), LinkUp(B), LinkUp(C)):
        handle(core, event)
    return core


def handle(core: MemberCore, event: Event) -> list[Effect]:
    effects = [*core.handle(event, 10.0), *core.handle(BatchEnded(WALL_MS), 10.0)]
    core.check()
    return effects


def heartbeat(node: NodeId) -> Received:
    return Received(node, Heartbeat(node, "sequencer", 1, f"disk {node}", 0, 0, 0, False, False))


def test_a_change_of_view_asks_the_own_sequencer_as_the_others() -> None:
    core = member()
    for node in (B, C):
        handle(core, heartbeat(node))
    assert StoreIntent(Term(0), "the first term") in handle(core, LeaseHeld(None))
    effects = handle(core, IntentStored(Term(0)))
    assert StorePromise(Term(0)) in effects, "its own sequencer was asked"
    assert [each.to for each in effects if isinstance(each, Send)] == [B, C]
    handle(core, PromiseStored(Term(0)))
    sealed = Sealed(0, f"disk {B}", 1, [[SPACE, *START, 1, 0, 1]])
    effects = handle(core, Received(B, sealed))
    ends = [[SPACE, *START]]
    assert Send(B, Extend(0, ends, B)) in effects
    (swap,) = (
        each
        for each in handle(core, Received(B, Extended(0, f"disk {B}", 1, ends)))
        if isinstance(each, SwapView)
    )
    assert swap.view.spaces[0].primary == A
    assert (swap.view.node(A).incarnation, swap.view.node(A).disk_id) == (5, "disk a")


def test_others_seals_are_answered_to_them() -> None:
    core = member()
    handle(core, Received(B, Seal(0)))
    (answer,) = handle(core, PromiseStored(Term(0)))
    assert isinstance(answer, Send)
    assert answer.to == B
    assert isinstance(answer.message, Sealed)


def test_status_tells_of_both() -> None:
    core = member()
    (answer,) = handle(core, Received(7, StatusRequest(3)))
    assert isinstance(answer, Send)
    assert isinstance(answer.message, Status)
    assert answer.message.facts["role"] == "sequencer"
    assert answer.message.facts["controller"] == core.controller.facts()


def test_messages_about_records_never_reach_the_controller() -> None:
    core = member()
    handle(core, Received("storage-1", ShardProgress(SPACE, 0, "d", 1, [])))
    assert core.controller.ignored_count == 0


def test_timers_find_their_owner() -> None:
    core = member()
    effects = core.handle(TimerFired(("controller", "beat")), 10.2)
    assert any(isinstance(each, Send) and isinstance(each.message, Heartbeat) for each in effects)
    assert core.handle(TimerFired(("feed", SPACE, "storage-1")), 10.2) == []
