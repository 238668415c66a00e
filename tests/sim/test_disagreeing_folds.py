"""A replica whose fold went wrong is found by its chained hash and rebuilt from a peer (P24).

The fault is planted in one fold: records of a frame that every replica has are left out. What the
order says is known to the simulator, which looks at every replica at the end.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest

from bokilog.frame import Frame
from bokilog.ids import SYSTEM_BOOK
from bokilog.journal import Location
from bokilog.storage_nodes.fold import Fold, FrameOutcome
from bokilog.storage_nodes.locations import Row
from bokilog.storage_nodes.replica import Replica
from tests.sim.mutations import MUTATIONS
from tests.sim.oracle import SpaceOracle
from tests.sim.simulation import simulate

NODE, FROM = "storage-1", 5
SEEDS = range(3)
UNTRIMMED = {"trim": 0.0, "trim_tag": 0.0}


@contextmanager
def planted(*, compared: bool) -> Iterator[list[int]]:
    """Where it was planted; `compared`: whether replicas look at each other's hashes."""
    found: list[int] = []
    original = Fold._apply_frame

    def apply_frame(
        self: Fold, first_seqnum: int, frame: Frame, location: Location
    ) -> FrameOutcome:
        index = self.index
        mine = getattr(self, "_node", "") == NODE and index.space == 0
        ours = frame.columns.books != SYSTEM_BOOK and not frame.columns.needs_verdict
        if not mine or not ours or found or first_seqnum < FROM:
            return original(self, first_seqnum, frame, location)
        found.append(first_seqnum)
        index.locations.add(Row(first_seqnum, frame.records, location, index.timestamp_ms, ()))
        index.segments.ordered(
            location[0],
            frame.columns.books,
            first_seqnum + frame.records - 1,
            first_seqnum=first_seqnum,
            size_bytes=location[2],
        )
        index.chained_hash ^= 1  # as it would differ if the frame were another one
        return FrameOutcome(first_seqnum, frame, [], ())

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Fold, "_apply_frame", apply_frame)
        patched.setattr(SpaceOracle, "_compare", lambda *_: None)  # it would tell at once
        if not compared:
            patched.setattr(Replica, "peer_folded", lambda *_: [])
        yield found


def lacking(seed: int, *, compared: bool) -> list[str]:
    knobs: Any = copy.deepcopy(next(m.knobs for m in MUTATIONS if m.name == "trims unheard"))
    knobs = replace(knobs, faults={}, weights=knobs.weights | UNTRIMMED)
    with planted(compared=compared) as found:
        violations = simulate(seed, knobs).violations
    assert found, "the fault was not planted"
    return [text for text in violations if f"{NODE} LogBook" in text and "lacks" in text]


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.parametrize("seed", SEEDS)
def test_p24_a_fold_that_went_wrong_is_right_again_in_the_end(seed: int) -> None:
    assert lacking(seed, compared=True) == []


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_p24_without_comparing_it_stays_wrong() -> None:
    assert any(lacking(seed, compared=False) for seed in SEEDS)
