"""P32, P4: storage nodes with full disks say so, and an engine takes no more than may be ordered.

1. The disks of two of three storage nodes are full. A frame is on its way: the third one stores it.
2. It may be ordered as soon as there is room, so nobody can say that it did not happen (P2, P9).
3. Appends after it wait at their client, until there is room or their time is over.

Were the engine to go on taking frames, each of these would end as `AppendUnknown`, although none of
them was ever sent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from bokilog.effects import Effect, LinkDown, ReadOnlyChanged, Send, TimerFired
from bokilog.errors import AppendUnknown, BokilogError, ReadOnly, to_wire
from bokilog.messages import FollowIndex, FrameOrdered, FrameRefused, ResumeShard, ShardHeld
from tests.protocol.storage_rig import (
    ENGINE,
    NUMBER,
    PEER,
    SHARD,
    SPACE as STORED,
    StorageRig,
    frame,
)
from tests.protocol.test_client_rules import SPACE as LANE, Way
from tests.unit.functions.engine.world import (
    BULK,
    CLIENT,
    PRIMARY,
    SPACE,
    STORAGE,
    Sim,
    append,
    at,
    cut,
    opening,
    run,
    sends,
    shard,
    view,
)

LOOK = TimerFired(("producer", 1))
REASON = "the disk is full"
FULL = ReadOnly(f"storage-1: {REASON}; storage-2: {REASON}")


def refused(number: int, error: BokilogError) -> Send:
    return Send(CLIENT, FrameRefused(SPACE, number, to_wire(error)))


def started() -> Sim:
    """An engine with a shard on three storage nodes, of which two have to hold a record."""
    sim = Sim()
    sim.up(PRIMARY, CLIENT, *STORAGE, *BULK)
    first = view(replicas=STORAGE)
    (space,) = first.spaces
    sim.install(replace(first, spaces=(replace(space, write_quorum=2),)))
    sim.get(PRIMARY, run(0, opening(*STORAGE)))
    return sim


def are_full(sim: Sim, nodes: Sequence[object]) -> list[object]:
    """What the engine does when these say that they take no frames."""
    message = FrameRefused(SPACE, 0, to_wire(ReadOnly(REASON)))
    return [each for node in nodes for each in sends(sim.get(node, message), CLIENT)]


# --- an engine ------------------------------------------------------------------------------------


def test_p32_once_too_few_take_frames_what_comes_is_refused_and_what_is_under_way_waits() -> None:
    sim = started()
    sim.get(CLIENT, append(1, "t"))
    assert are_full(sim, BULK[:1]) == [], "two are enough"
    assert are_full(sim, BULK[1:2]) == [refused(0, FULL)], "its client hears why it may take long"
    assert sim.get(CLIENT, append(2, "t")) == [refused(2, FULL)]
    (ordered,) = sends(sim.get(PRIMARY, run(1, cut(1, (0, 1)))), CLIENT)
    assert isinstance(ordered, Send) and isinstance(ordered.message, FrameOrdered)


def test_p32_they_are_asked_again_and_taken_at_their_word() -> None:
    sim = started()
    are_full(sim, BULK[:2])
    for _ in range(3):
        assert set(sends(sim.do(LOOK))) >= {Send(peer, ResumeShard(shard())) for peer in BULK}
        are_full(sim, BULK[:2])
        assert sim.get(CLIENT, append(1, "t")) == [refused(1, FULL)]
    sim.do(LOOK)
    are_full(sim, BULK[:1])
    sim.do(LOOK)
    assert sends(sim.get(CLIENT, append(1, "t"))) == [(peer, shard(), 0, 1) for peer in BULK], (
        "one of them has room again: it has not repeated that it has none"
    )


def test_p32_a_node_that_is_gone_and_a_new_shard_say_nothing_of_a_full_disk() -> None:
    sim = started()
    are_full(sim, BULK[:2])
    sim.do(LinkDown(BULK[0]))
    assert refused(1, FULL) not in sim.get(CLIENT, append(1, "t"))
    are_full(started(), STORAGE[:2])
    are_full(sim, BULK[1:])
    sim.install(replace(view(2, end=at(1), replicas=STORAGE)))
    assert refused(2, FULL) not in sim.get(CLIENT, append(2, "t"))


def test_p32_reads_do_not_wait_for_room_on_the_disk_of_the_followed_index() -> None:
    """1. Two of three store a frame, and it is ordered. 2. The third has no room for it, so its
    index stays before it. 3. A read has to be answered past it."""
    sim = started()
    (space,) = sim.core.following.spaces.values()
    followed = space.chosen
    assert followed is not None
    others = [node for node in STORAGE if node != followed]
    are_full(sim, others)
    assert space.chosen == followed, "it may have what they lack"
    are_full(sim, [("bulk", followed)])
    assert space.chosen == followed, "none of them is any better"
    sim.get(PRIMARY, run(1, cut(1, (0, 1))))
    sim.get(CLIENT, append(1, "t"))
    are_full(sim, [followed])
    assert space.chosen in others, "it is behind, perhaps for long"


def test_p32_an_index_whose_disk_is_full_is_left_while_another_has_room() -> None:
    sim = started()
    (space,) = sim.core.following.spaces.values()
    followed = space.chosen
    are_full(sim, [("bulk", followed)])
    assert space.chosen not in (None, followed)


def test_p34_only_a_storage_node_says_that_disks_are_full() -> None:
    sim = started()
    for peer in (CLIENT, "storage-9"):
        assert are_full(sim, [peer, peer]) == []
    sim.get(STORAGE[0], FrameRefused(SPACE, 0, to_wire(AppendUnknown("x"))))
    sim.get(STORAGE[0], FrameRefused(99, 0, to_wire(ReadOnly(REASON))))
    assert sends(sim.get(CLIENT, append(1, "t"))) == [(peer, shard(), 0, 1) for peer in BULK]
    assert sim.core.ignored_count == 4


# --- a storage node -------------------------------------------------------------------------------


def refusals(effects: Sequence[Effect]) -> list[Send]:
    return [
        each
        for each in effects
        if isinstance(each, Send) and isinstance(each.message, FrameRefused)
    ]


def test_p32_a_full_storage_node_tells_engines_and_nobody_else() -> None:
    rig = StorageRig().begin()
    rig.hold(frame(0))
    rig.do(ReadOnlyChanged(STORED, REASON))
    told = [Send(ENGINE, FrameRefused(STORED, 1, to_wire(ReadOnly(REASON))))]
    assert refusals(rig.take(frame(1))) == told
    assert refusals(rig.take(frame(1), source=PEER)) == []
    held, *more = rig.get(ENGINE, ResumeShard(SHARD))
    assert held == Send(ENGINE, ShardHeld(SHARD, 1))
    assert more == told
    rig.do(ReadOnlyChanged(STORED, ""))
    assert refusals([*rig.take(frame(1)), *rig.get(ENGINE, ResumeShard(SHARD))]) == []


def test_p32_an_engine_that_follows_hears_at_once_that_a_disk_is_full() -> None:
    rig = StorageRig().begin()
    rig.hold(frame(0))
    rig.get(ENGINE, FollowIndex(STORED, NUMBER, [], []))
    assert len(refusals(rig.do(ReadOnlyChanged(STORED, REASON)))) == 1


# --- a client -------------------------------------------------------------------------------------


def test_p32_an_append_under_way_ends_as_unknown_with_the_reason_and_others_definitely() -> None:
    way = Way()
    under_way = way.unit(b"1", deadline_s=1.0)
    way.send()
    way.lane.refuse(FrameRefused(LANE, 0, to_wire(FULL)), 0.0)
    later = way.unit(b"2", deadline_s=1.0)
    (second,) = way.send()
    way.refuse(second, FULL)
    way.lane.expire(2.0, lambda: ReadOnly(REASON))
    assert isinstance(under_way.told, AppendUnknown)
    assert "storage-1: the disk is full; storage-2" in str(under_way.told)
    assert isinstance(later.told, ReadOnly) and later.told.definite


def test_p32_once_frames_are_ordered_again_the_reason_is_forgotten() -> None:
    way = Way()
    way.unit(b"1")
    (first,) = way.send()
    way.lane.refuse(FrameRefused(LANE, 0, to_wire(FULL)), 0.0)
    way.lane.ordered(FrameOrdered(LANE, first.number, 1, at(2), 1000))
    slow = way.unit(b"2", deadline_s=1.0)
    way.send()
    way.lane.expire(2.0, lambda: ReadOnly(REASON))
    assert isinstance(slow.told, AppendUnknown) and "full" not in str(slow.told)
