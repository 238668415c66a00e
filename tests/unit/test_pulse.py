"""The sign of life of storage nodes and engines."""

from __future__ import annotations

from dataclasses import replace

from bokilog.effects import Send, SetTimer
from bokilog.ids import NodeId, Term
from bokilog.messages import Heartbeat
from bokilog.pulse import PULSE, PULSE_S, Pulse
from bokilog.view import View
from tests.unit.sequencer.controllers import NODES, first_view

BEAT = SetTimer(PULSE, PULSE_S)


def alone() -> View:
    """With one sequencer."""
    view = first_view()
    (space,) = view.spaces
    return replace(view, nodes=view.nodes[:1], spaces=(replace(space, backups=()),))


def test_every_sequencer_is_told_each_so_often() -> None:
    pulse = Pulse(NodeId("storage-1"), "storage", incarnation=4, disk_id="disk")
    assert pulse.install(replace(first_view(), term=Term(3))) == [BEAT]
    beat = Heartbeat("storage-1", "storage", 4, "disk", 3, 3, 0, False, False)
    assert pulse.beat() == [*(Send(node, beat) for node in NODES), BEAT]


def test_one_timer_serves_all_views() -> None:
    pulse = Pulse(NodeId("engine-1"), "engine", incarnation=4)
    pulse.install(first_view())
    assert pulse.install(replace(first_view(), term=Term(1))) == []


def test_a_single_sequencer_needs_no_sign_of_life() -> None:
    pulse = Pulse(NodeId("engine-1"), "engine", incarnation=4)
    assert pulse.install(alone()) == []
    assert pulse.beat() == []
