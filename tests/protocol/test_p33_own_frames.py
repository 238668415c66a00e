"""P9 and P33: a node whose fold is a peer's still knows the frames that its own journal holds.

Each would be harmless if a peer had the frames, so the peers here have lost them, or are not asked.
"""

from __future__ import annotations

import pytest

from bokilog.effects import Effect, TimerFired
from bokilog.ids import NodeId
from bokilog.messages import FetchStored, Message, SnapshotPart, StoredFrame
from bokilog.storage_nodes import snapshots
from bokilog.storage_nodes.index_store import clear
from tests.protocol.storage_rig import NODE, OTHER, PEER, SPACE
from tests.protocol.test_p16_folds_from_peers import NAMES, Trio, data_of, same_fold


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A snapshot has several parts."""
    monkeypatch.setattr(snapshots, "PART_ROWS_MAX", 2)


def no_frames(_source: NodeId, _to: NodeId, message: Message) -> bool:
    return isinstance(message, FetchStored | StoredFrame)


def restart(trio: Trio, name: NodeId) -> None:
    """A crash; what was synced is there still."""
    trio.away(name)
    trio.rigs[name].restart()
    trio.connect(name)


def records(trio: Trio, name: NodeId) -> list[bytes]:
    return [data_of(trio[name], n) for n in range(1, len(trio.metalog))]


def facts_of(trio: Trio, name: NodeId) -> tuple[object, object]:
    facts = trio[name].replica.facts()
    return facts["rebuilding"], facts["records_lost"]


def test_p33_frames_that_a_node_had_counted_are_here_though_it_loads_a_fold() -> None:
    """1. Frames are durable, and ordered. 2. The node crashes before its first checkpoint. 3. The
    metalog is let go. 4. It loads a peer's fold, whose rows say nothing of its own journal."""
    trio = Trio()
    trio.append(0, 24)
    trio.checkpoint(PEER, OTHER)
    wanted = records(trio, PEER)
    trio.dropped = no_frames
    trio.first_kept = len(trio.metalog)
    restart(trio, NODE)
    assert trio[NODE].replica.loaded_count == 1
    same_fold(trio[NODE], trio[PEER])
    assert records(trio, NODE) == wanted
    trio.checkpoint(NODE)
    restart(trio, NODE)
    assert records(trio, NODE) == wanted


def test_p33_two_that_load_folds_do_not_agree_that_what_both_have_is_lost() -> None:
    """1. One replica loads a fold. 2. Another one builds its fold anew, from that one's. 3. The
    disk of the third is wiped: only the first two have the frames."""
    trio = Trio()
    trio.append(0, 12)
    trio.checkpoint(PEER, OTHER)
    wanted = records(trio, PEER)
    trio.dropped = no_frames
    trio.first_kept = len(trio.metalog)
    restart(trio, NODE)
    trio.checkpoint(NODE)
    trio.away(OTHER)
    trio.away(PEER)
    clear(trio[PEER].store)  # as when it went past the end of a term (P11)
    trio.rigs[PEER].restart()
    trio.connect(PEER)
    assert trio[PEER].replica.loaded_count == 1
    trio.dropped = lambda *_: False
    trio.wipe(OTHER)
    for _ in range(4):
        for name in NAMES:
            trio.fill(name)
    for name in NAMES:
        assert facts_of(trio, name) == ("", 0)
        assert records(trio, name) == wanted


def test_p33_copies_that_no_checkpoint_knows_are_found_after_a_crash() -> None:
    """1. A wiped node loads a fold, which is stored. 2. It copies the frames. 3. It crashes before
    the next checkpoint."""
    trio = Trio()
    trio.append(0, 12)
    trio.checkpoint(PEER, OTHER)
    wanted = records(trio, PEER)
    trio.wipe(NODE, connect=False)
    trio.dropped = no_frames
    trio.connect(NODE)
    trio.checkpoint(NODE)
    trio.dropped = lambda *_: False
    trio.fill(NODE)
    trio.dropped = no_frames
    restart(trio, NODE)
    assert trio[NODE].replica.loaded_count == 0, "the fold was stored"
    assert records(trio, NODE) == wanted


def test_p33_a_load_that_begins_again_forgets_no_frame() -> None:
    """1. A node that was away loads a fold. 2. The peer stops in the middle. 3. The next one gives
    its own, from the first part on."""
    trio = Trio()
    trio.append(0, 12)
    trio.checkpoint()
    trio.away(NODE)
    trio.append(12, 20)
    trio.checkpoint(PEER, OTHER)
    trio.first_kept = 18
    parts = 0

    def stops(source: NodeId, to: NodeId, message: Message) -> bool:
        nonlocal parts
        parts += isinstance(message, SnapshotPart)
        return parts > 7 or no_frames(source, to, message)

    trio.dropped = stops
    trio.connect(NODE)
    assert trio[NODE].replica.folds.loading.writing and parts > 7
    trio.dropped = no_frames
    effects: list[Effect] = []
    while trio[NODE].replica.folds.loading.writing:
        effects += trio.do(NODE, TimerFired(("snapshot", int(SPACE))))
    same_fold(trio[NODE], trio[PEER])
    found = [data_of(trio[NODE], n) for n in range(1, 13)]
    assert found == [data_of(trio[PEER], n) for n in range(1, 13)]
