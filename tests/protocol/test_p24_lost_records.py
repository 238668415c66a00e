"""P24: only a metalog entry `Lost` skips a unit.

1. Power is lost everywhere. Class `flush` had told that two of three hold a frame, the cut that
orders it is with the sequencers; no disk has the frame. 2. Every fold waits for it, for ever. So
each replica says that it lacks it, and once all have said so the primary orders that it is lost.

What must not happen: one replica gets the frame after all, from an engine that sends it again, and
folds it, where the others fold around it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from bokilog.effects import LinkUp, Send, TimerFired
from bokilog.errors import DataLost, from_wire
from bokilog.ids import NodeId, Position, Term
from bokilog.messages import (
    FetchFrames,
    FollowMetalog,
    FrameLost,
    FramesLacking,
    FramesSent,
    IndexReport,
    Metalog,
    Replicate,
    RequestFailed,
    ShardProgress,
)
from bokilog.metalog import Lost, OpenShard, Run, decode_run, encode_run
from bokilog.storage_nodes.losses import Losses
from bokilog.storage_nodes.reader import Reader
from tests.protocol.storage_rig import (
    NODE,
    NUMBER,
    OTHER,
    PEER,
    PRIMARY,
    SHARD,
    SPACE,
    StorageRig,
    at,
    cut,
    frame,
    messages,
    opening,
    read,
    view,
)
from tests.unit.functions.engine import world as engine_world
from tests.unit.functions.engine.world import CLIENT, Sim, append, run as engine_run
from tests.unit.sequencer.rig import NODES, Rig, opened

FETCH = TimerFired(("fetch", SPACE))
LACKING = FramesLacking(SPACE, 1, NUMBER, 1, 3)
LOST = Lost(2000, 1, NUMBER, 1, 3)


def waiting(*peers: NodeId) -> StorageRig:
    """A fold that waits for records 1 and 2, as two frames that did not come; 3 did."""
    rig = StorageRig().begin()
    rig.hold(frame(0), frame(3))
    for peer in (PRIMARY, *peers):
        rig.do(LinkUp(peer))
    rig.order(cut(1, 0, 1), cut(2, 1, 2), cut(3, 2, 4))
    assert rig.index.tail == 2
    rig.do(FETCH)
    return rig


def nobody_has_it(rig: StorageRig) -> list[object]:
    sent: list[object] = []
    for peer in (PEER, OTHER):
        sent += messages(rig.get(peer, FramesSent(SPACE, 0)), FramesLacking)
        rig.do(FETCH)
    return sent


def test_p24_a_replica_says_what_it_lacks_once_every_other_one_has_said_no() -> None:
    rig = waiting(PEER, OTHER)
    assert "storage-2, storage-3" in rig.replica.held_up
    assert nobody_has_it(rig) == [LACKING]
    assert "lost once all of them have said so" in rig.replica.held_up
    assert nobody_has_it(rig) == [LACKING, LACKING], "again with every no"
    assert LACKING in messages(rig.do(LinkUp(PRIMARY)), FramesLacking), "to another primary again"


def test_p24_while_a_replica_is_silent_nothing_is_lost_and_the_status_says_who_is_awaited() -> None:
    rig = waiting(PEER)
    assert messages(rig.get(PEER, FramesSent(SPACE, 0)), FramesLacking) == []
    assert rig.replica.held_up == (
        "entry 3 waits for record 1 of shard 5, which is not here; not yet asked for it: storage-3"
    )
    rig.hold(frame(1), frame(2))
    assert rig.replica.held_up == ""


def test_p24_a_replica_that_has_folded_it_gives_its_fold_and_nothing_is_lost() -> None:
    rig = waiting(PEER, OTHER)
    rig.get(OTHER, IndexReport(SPACE, at(4), at(0), 0, empty=False))
    assert nobody_has_it(rig) == []
    assert "the index is loaded from a peer" in rig.replica.rebuilding


def test_p24_what_was_said_to_be_lacking_is_taken_from_peers_only() -> None:
    """An engine that sends it again, too late, must not make this fold differ."""
    rig = waiting(PEER, OTHER)
    nobody_has_it(rig)
    rig.hold(frame(1))
    assert rig.index.tail == 2
    rig.take(frame(1), source=PEER)
    effects = rig.take(frame(2), source=PEER)
    assert rig.index.tail == 5
    assert messages(effects, FramesLacking) == []
    again = messages(rig.do(LinkUp(PRIMARY)), FramesLacking)
    assert again == [], "it was taken back with the first cut that was folded"


def test_p24_a_lost_unit_is_void_and_the_fold_goes_on() -> None:
    rig = waiting(PEER, OTHER)
    nobody_has_it(rig)
    effects = rig.order(LOST, first=4)
    assert rig.index.position == at(5) and rig.index.tail == 5
    assert rig.seqnums("t") == [1, 4]
    for seqnum in (2, 3):
        failed = rig.ask(read(start=seqnum, until=seqnum + 1))
        assert isinstance(failed, RequestFailed)
        assert isinstance(from_wire(failed.error), DataLost)
    assert messages(effects, FramesLacking) == [LACKING._replace(until=1)]
    held = messages(effects, ShardProgress)
    assert isinstance(held[-1], ShardProgress) and held[-1].counts == [[NUMBER, 4]]
    assert rig.replica.facts()["records_void"] == 2 and rig.replica.held_up == ""
    rig.hold(frame(4))
    rig.order(cut(5, 4, 5))
    assert rig.seqnums("t") == [1, 4, 5]


def test_p24_a_peer_that_lacks_the_first_frame_says_so_whatever_it_gives_behind_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Else who waits for that one would ask for it for ever (found by the simulator: seed 1885)."""
    peer = StorageRig(node=PEER).begin()
    behind = frame(3)
    monkeypatch.setattr(Reader, "frames_between", lambda *_, **__: iter([behind]))  # compacted
    first = messages(peer.get(NODE, FetchFrames(SHARD, 1, 4, 2, 5)), Replicate, FramesSent)
    assert first == [Replicate(behind), FramesSent(SPACE, 0)]
    later = messages(peer.get(NODE, FetchFrames(SHARD, 3, 4, 4, 5)), Replicate, FramesSent)
    assert later[-1] == FramesSent(SPACE, 1)


def test_p24_a_no_is_of_one_frame() -> None:
    rig = waiting(PEER, OTHER)
    rig.get(PEER, FramesSent(SPACE, 0))
    assert rig.replica.held_up.endswith("not yet asked for it: storage-3")
    rig.hold(frame(1))
    assert rig.replica.held_up.endswith("not yet asked for it: storage-2, storage-3")


def test_p24_replicas_agree_also_where_bytes_turned_up_after_all() -> None:
    """`Lost` is heeded before its turn: the metalog alone decides."""
    first, second = waiting(PEER, OTHER), StorageRig(node=PEER).begin()
    first.order(LOST, first=4)
    second.get(PRIMARY, Metalog(Run(SPACE, Term(1), 4, (LOST,))))
    second.hold(frame(0), frame(1), frame(2), frame(3))
    second.order(cut(1, 0, 1), cut(2, 1, 2), cut(3, 2, 4))
    assert second.seqnums("t") == [1, 4]
    assert first.index.chained_hash == second.index.chained_hash
    assert first.index.position == second.index.position == at(5)


def test_p24_the_only_replica_has_nobody_to_ask() -> None:
    rig = StorageRig()
    alone = replace(view(), spaces=(replace(view().spaces[0], replicas=(NODE,), write_quorum=1),))
    rig.install(alone)
    rig.order(opening())
    rig.do(LinkUp(PRIMARY))
    rig.order(cut(1, 0, 1))
    said = [message for _ in range(3) for message in messages(rig.do(FETCH), FramesLacking)]
    assert said[0] == LACKING._replace(start=0, until=1) and len(said) > 1
    rig.order(Lost(9, 1, NUMBER, 0, 1), first=2)
    assert rig.index.tail == 2
    assert messages(rig.do(FETCH), FramesLacking) == []


def test_p24_what_is_lost_stays_so_over_a_checkpoint_and_a_restart() -> None:
    rig = waiting(PEER, OTHER)
    rig.order(LOST, first=4)
    before = rig.index.chained_hash
    rig.checkpoint()
    rig.restart()
    assert rig.index.chained_hash == before and rig.index.is_lost(2)
    assert not rig.index.is_lost(1) and not rig.index.is_lost(4)
    failed = rig.ask(read(start=3, until=4))
    assert isinstance(failed, RequestFailed) and isinstance(from_wire(failed.error), DataLost)


def test_p24_a_loss_past_the_end_of_its_term_never_happened() -> None:
    rig = waiting(PEER, OTHER)
    rig.get(PRIMARY, Metalog(Run(SPACE, Term(1), 9, (LOST,))))  # ahead: not published in order yet
    losses = Losses(SPACE)
    losses.note(Run(SPACE, Term(1), 9, (LOST,)))
    assert list(losses.parts(SHARD, 0, 5)) == [(0, 1, False), (1, 3, True), (3, 5, False)]
    losses.term_ended(Term(1), 10)
    assert len(list(losses.parts(SHARD, 0, 5))) == 3
    losses.term_ended(Term(1), 9)
    assert list(losses.parts(SHARD, 0, 5)) == [(0, 5, False)]


def test_p24_the_entry_on_the_wire() -> None:
    encoded = encode_run(Run(SPACE, Term(1), 9, (LOST,)))
    assert encoded.hex()[16:] == "9401010991960acd07d001050103"
    assert decode_run(encoded).entries == (LOST,)


# --- the primary ----------------------------------------------------------------------------------


def lacking(until: int = 3, *, start: int = 1) -> FramesLacking:
    return FramesLacking(int(Rig().primary.space.id), 1, 1, start, until)


def losses(effects: list[object]) -> list[Lost]:
    return [
        entry
        for effect in effects
        if isinstance(effect, Send) and isinstance(effect.message, Metalog)
        for entry in effect.message.run.entries
        if isinstance(entry, Lost)
    ]


def test_p24_the_primary_waits_for_every_replica_and_takes_what_all_lack() -> None:
    rig = opened(1)
    rig.follow("storage-1", Position(rig.primary.term, 11))
    for node, until in zip(NODES[:-1], (5, 3), strict=False):
        rig.primary.frames_lacking(node, lacking(until))
    assert losses([*rig.turn()]) == []
    rig.primary.frames_lacking(NODES[-1], lacking(4))
    (loss,) = losses([*rig.turn()])
    assert loss[1:] == (1, 1, 1, 3)
    assert losses([*rig.turn()]) == []


def say_empty(rig: Rig, nodes: Sequence[NodeId]) -> None:
    space = int(rig.primary.space.id)
    for node in nodes:
        rig.primary.index_reported(node, IndexReport(space, at(1), at(0), 0, empty=True))


def test_p24_that_a_whole_log_is_lost_is_never_decided_without_a_person() -> None:
    """1. Somebody forgets to mount the disks of all three. 2. Every replica is empty, and says that
    it lacks the first record. 3. Skipped, the log would be gone although it lies there."""
    rig = opened(1)
    rig.follow("storage-1", Position(rig.primary.term, 11))
    say_empty(rig, NODES)
    for node in NODES:
        assert rig.primary.held_up == ""
        rig.primary.frames_lacking(node, lacking())
    assert losses([*rig.turn()]) == []
    assert "bokilog recover --accept-loss" in rig.primary.held_up
    assert "storage-1, storage-2, storage-3" in rig.primary.held_up


def test_p24_one_replica_that_has_folded_anything_makes_it_a_part_of_the_log() -> None:
    rig = opened(1)
    rig.follow("storage-1", Position(rig.primary.term, 11))
    say_empty(rig, NODES[1:])
    rig.primary.index_reported(
        NODES[0], IndexReport(int(rig.primary.space.id), at(1), at(0), 0, empty=False)
    )
    for node in NODES:
        rig.primary.frames_lacking(node, lacking())
    assert len(losses([*rig.turn()])) == 1


@pytest.mark.parametrize(("term", "lost"), [(1, True), (3, True), (4, False)])
def test_p15_an_accepted_loss_is_one_of_the_terms_before(term: int, lost: bool) -> None:
    rig = opened(1, losses_accepted=Term(4))
    rig.follow("storage-1", Position(rig.primary.term, 11))
    say_empty(rig, NODES)
    for node in NODES:
        rig.primary.frames_lacking(node, lacking()._replace(term=term))
    assert bool(losses([*rig.turn()])) is lost


@pytest.mark.parametrize("change", ["link", "taken back", "another place"])
def test_p24_the_primary_forgets_what_does_not_hold_any_more(change: str) -> None:
    rig = opened(1)
    rig.follow("storage-1", Position(rig.primary.term, 11))
    rig.primary.frames_lacking(NODES[0], lacking())
    if change == "link":
        rig.primary.link_down(NODES[0])
    elif change == "taken back":
        rig.primary.frames_lacking(NODES[0], lacking(1))
    else:
        rig.primary.frames_lacking(NODES[0], lacking(7, start=5))
    for node in NODES[1:]:
        rig.primary.frames_lacking(node, lacking())
    assert losses([*rig.turn()]) == []


def test_p24_a_replica_that_folds_from_before_hears_of_losses_first() -> None:
    rig = opened(1)
    rig.ordered({1: 4})
    for node in NODES:
        rig.primary.frames_lacking(node, lacking())
    rig.turn()
    shown = rig.primary.follow(NODES[0], FollowMetalog(int(rig.primary.space.id), START_AT, 0))
    sent = [each.message for each in shown if isinstance(each, Send)]
    runs = [each.run for each in sent if isinstance(each, Metalog)]
    assert isinstance(runs[0].entries[0], Lost)
    assert [run.first for run in runs[1:]] == sorted(run.first for run in runs[1:])
    assert OpenShard in {type(entry) for run in runs[1:] for entry in run.entries}


START_AT = Position(Term(1), 10)


# --- engines --------------------------------------------------------------------------------------


def test_p24_who_waits_for_a_verdict_of_what_is_lost_is_told_that_nobody_knows() -> None:
    sim = Sim().start()
    sim.get(CLIENT, append(0, "a", "b", unless={0: [("t", 0)]}))
    sim.get(PRIMARY, engine_run(1, engine_world.cut(10, (0, 2))))
    loss = Lost(2000, 1, engine_world.NUMBER, 0, 2)
    told = [
        each.message for each in sim.get(PRIMARY, engine_run(2, loss)) if isinstance(each, Send)
    ]
    assert told == [FrameLost(engine_world.SPACE, 0, "no replica has it any more")]
    assert sim.get(PRIMARY, engine_run(3, loss)) == []
