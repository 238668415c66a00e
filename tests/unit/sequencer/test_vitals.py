"""Signs of life: what counts as silence, and when this process itself is to blame for it."""

from __future__ import annotations

import pytest

from bokilog.messages import Heartbeat
from bokilog.sequencer.controller_settings import ControllerSettings
from bokilog.sequencer.vitals import Vitals

NODE = "sequencer-2"


def heard(settings: ControllerSettings) -> Vitals:
    """A node that was heard of once, at 0 s, and says nothing from then on."""
    vitals = Vitals(settings)
    vitals.expect([(NODE, "sequencer")], 0.0)
    vitals.heartbeat(Heartbeat(NODE, "sequencer", 1, "disk", 1, 1, 0, False, False), 0.0)
    return vitals


@pytest.mark.parametrize(
    ("heartbeat_s", "suspicion_s"), [(0.2, 3.0), (1.0, 3.0), (1.0, 2.0), (0.01, 0.02)]
)
def test_a_silent_node_is_suspected_in_time_with_every_allowed_heartbeat(
    heartbeat_s: float, suspicion_s: float
) -> None:
    """A heartbeat that is long beside the suspicion is no pause of this process."""
    settings = ControllerSettings(heartbeat_s=heartbeat_s, suspicion_s=suspicion_s)
    vitals = heard(settings)
    for beat in range(round(suspicion_s / heartbeat_s)):
        assert vitals.is_alive(NODE, beat * heartbeat_s)
        vitals.tick(beat * heartbeat_s)
    vitals.tick(suspicion_s)
    assert not vitals.is_alive(NODE, suspicion_s)


def test_a_tick_that_is_late_is_nobodys_silence() -> None:
    settings = ControllerSettings(heartbeat_s=1.0, suspicion_s=2.0)
    vitals = heard(settings)
    vitals.link(NODE, up=False, now_s=0.0)
    vitals.tick(0.0)
    vitals.tick(30.0)
    assert vitals.is_alive(NODE, 30.0)
    assert not vitals.is_alive(NODE, 30.0 + settings.link_down_suspicion_s)


def test_p3_a_heartbeat_of_an_earlier_start_on_another_disk_changes_nothing() -> None:
    """1. A node is wiped, starts anew, and is heard of. 2. What it said before arrives late."""
    vitals = Vitals(ControllerSettings())
    vitals.expect([(NODE, "sequencer")], 0.0)
    assert vitals.heartbeat(Heartbeat(NODE, "sequencer", 9, "new", 1, 1, 0, False, False), 1.0)
    assert not vitals.heartbeat(Heartbeat(NODE, "sequencer", 5, "old", 1, 1, 0, False, False), 2.0)
    peer = vitals.get(NODE)
    assert peer is not None
    assert (peer.incarnation, peer.disk_id, peer.since_s) == (9, "new", 1.0)
