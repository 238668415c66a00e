"""P16 and P33: a storage node that is gone for too long has a spare one take its place.

1. A replica is silent for `replace_after_s`, the others are there and lack nothing.
2. The next view names a spare in its place. The spare loads a fold and copies records.
3. The old one comes back, finds that it is no replica any more, and keeps its files.

Were it replaced while another one lacks records, only the old one might have them.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from bokilog.effects import Effect, LinkDown, LinkUp, Send, TimerFired
from bokilog.errors import InvalidSettings
from bokilog.ids import NodeId, Position, Term
from bokilog.messages import FollowMetalog, Heartbeat, IndexReport
from bokilog.pulse import PULSE
from bokilog.sequencer.controller_settings import ControllerSettings
from bokilog.sequencer.judgement import Judgement
from bokilog.sequencer.next_view import Start, next_view
from bokilog.view import LogSpace, Node, View, first_end
from tests.protocol.storage_rig import (
    NODE,
    OTHER,
    PEER,
    PRIMARY,
    SPACE,
    StorageRig,
    cut,
    frame,
    opening,
    view as three_replicas,
)

S1, S2, S3 = SEQUENCERS = tuple(NodeId(f"sequencer-{number}") for number in (1, 2, 3))
A, B, C, D = STORAGE = tuple(NodeId(f"storage-{number}") for number in (1, 2, 3, 4))
TERM = Term(3)
AFTER_S = 60.0


def cluster() -> View:
    space = LogSpace(
        id=SPACE, durability="sync", primary=S1, backups=(S2, S3), replicas=(A, B, C),
        write_quorum=2,
    )  # fmt: skip
    nodes = [
        Node(id=node, role="sequencer", address="", incarnation=1, disk_id=f"disk {node}")
        for node in SEQUENCERS
    ]
    nodes += [Node(id=node, role="storage", address="") for node in STORAGE]
    return View(
        cluster_id="c",
        history_id="h",
        term=TERM,
        nodes=tuple(nodes),
        spaces=(space,),
        ends=(first_end(SPACE),),
    )


class Judge:
    """The first sequencer's judgement; whoever is in `alive` sends heartbeats."""

    def __init__(self, *, after_s: float = AFTER_S, view: View | None = None) -> None:
        me = Start(incarnation=1, disk_id=f"disk {S1}")
        settings = ControllerSettings(replace_after_s=after_s)
        self.judgement = Judgement(settings, node=S1, me=me)
        self.judgement.now_s = 100.0
        self.judgement.install(view or cluster())
        self.alive = {*SEQUENCERS[1:], *STORAGE}
        self.rebuilding: set[NodeId] = set()

    def wait(self, seconds: float) -> None:
        until_s = self.judgement.now_s + seconds
        while self.judgement.now_s < until_s:
            self.judgement.now_s = min(until_s, self.judgement.now_s + 0.5)
            self.judgement.beat()
            for node in sorted(self.alive):
                role = "storage" if node in STORAGE else "sequencer"
                lacks = node in self.rebuilding
                beat = Heartbeat(node, role, 1, f"disk {node}", TERM, TERM, 0, lacks, False)
                self.judgement.vitals.heartbeat(beat, self.judgement.now_s)

    @property
    def replicas(self) -> tuple[NodeId, ...]:
        return self.judgement.replacements().get(SPACE, (A, B, C))


# --- when -----------------------------------------------------------------------------------------


def test_a_spare_takes_the_place_of_one_that_is_gone_for_too_long() -> None:
    judge = Judge()
    judge.wait(5)
    judge.alive.discard(B)
    judge.wait(AFTER_S - 1)
    assert judge.replicas == (A, B, C)
    assert judge.judgement.need() is None
    judge.wait(2)
    assert judge.replicas == (A, D, C)
    need = judge.judgement.need()
    assert need is not None
    assert f"{B}: it is gone for" in need and f"{D} holds log space" in need


def test_with_0_nobody_is_ever_replaced() -> None:
    judge = Judge(after_s=0)
    judge.alive.discard(B)
    judge.wait(1000)
    assert judge.replicas == (A, B, C)
    assert judge.judgement.need() is None


def test_who_comes_back_in_time_stays() -> None:
    judge = Judge()
    judge.alive.discard(B)
    judge.wait(AFTER_S - 1)
    judge.alive.add(B)
    judge.wait(AFTER_S)
    assert judge.replicas == (A, B, C)


def test_the_time_counts_from_when_this_sequencer_could_know() -> None:
    """Another controller, or one whose process stood still, waits from its own beginning."""
    judge = Judge()
    judge.alive.discard(B)
    judge.wait(AFTER_S - 1)
    judge.judgement.now_s += 100
    judge.wait(2)
    assert judge.replicas == (A, B, C)


def test_nobody_is_replaced_without_a_spare_that_lives() -> None:
    judge = Judge()
    judge.alive -= {B, D}
    judge.wait(2 * AFTER_S)
    assert judge.replicas == (A, B, C)


@pytest.mark.parametrize("gone", [{B, C}, {A, B, C}])
def test_p09_nobody_is_replaced_while_the_rest_may_lack_what_was_acknowledged(
    gone: set[NodeId],
) -> None:
    """Two of three acknowledge: one alone need not have it."""
    judge = Judge()
    judge.alive -= gone
    judge.wait(2 * AFTER_S)
    assert judge.replicas == (A, B, C)


def test_p33_nobody_is_replaced_while_another_one_copies_records() -> None:
    judge = Judge()
    judge.rebuilding.add(A)
    judge.alive.discard(B)
    judge.wait(2 * AFTER_S)
    assert judge.replicas == (A, B, C)
    judge.rebuilding.clear()
    judge.wait(1)
    assert judge.replicas == (A, D, C)


def test_the_time_is_0_or_no_shorter_than_a_suspicion() -> None:
    for wrong in (1.0, -1.0, 1e9):
        with pytest.raises(InvalidSettings, match="replace_after_s"):
            ControllerSettings(replace_after_s=wrong)


def test_p15_the_next_view_names_it_and_w_stays() -> None:
    view = cluster()
    following = next_view(
        view, ends=view.ends, primary={SPACE: S2}, starts={}, replicas={SPACE: (A, D, C)}
    )
    space = following.space(SPACE)
    assert (space.replicas, space.write_quorum) == ((A, D, C), 2)
    assert (space.primary, space.backups) == (S2, (S1, S3))


# --- the storage nodes ----------------------------------------------------------------------------


def view_of(term: int, *replicas: NodeId, count: int = 0, tail: int = 1) -> View:
    end = Position(Term(term - 1), count) if count else Position(Term(0), 0)
    made = three_replicas(term, end=end, tail=tail)
    return replace(made, spaces=(replace(made.spaces[0], replicas=replicas),))


def sent(effects: list[Effect]) -> list[tuple[object, type]]:
    return [(each.to, type(each.message)) for each in effects if isinstance(each, Send)]


def test_a_spare_asks_for_nothing_until_a_view_names_it() -> None:
    rig = StorageRig()
    rig.install(view_of(1, PEER, OTHER, D))
    effects = [effect for peer in (PRIMARY, PEER, OTHER) for effect in rig.do(LinkUp(peer))]
    assert sent(effects) == []
    assert rig.replica.facts()["replica"] is False
    named = sent(rig.install(view_of(2, PEER, OTHER, NODE)))
    assert (PRIMARY, FollowMetalog) in named
    assert {to for to, kind in named if kind is IndexReport} == {PRIMARY, PEER, OTHER}


def test_who_was_replaced_says_so_and_keeps_its_files() -> None:
    rig = StorageRig().begin()
    rig.hold(frame(0, b"a"))
    rig.order(cut(1, 0, 1))
    rig.checkpoint()
    segments = [each.number for each in rig.journal.segments()]
    rig.do(LinkDown(PRIMARY))
    rig.install(view_of(2, PEER, OTHER, D, count=2, tail=2))
    effects = [effect for peer in (PRIMARY, PEER) for effect in rig.do(LinkUp(peer))]
    assert sent(effects) == []
    facts = rig.replica.facts()
    assert (facts["replica"], facts["rebuilding"]) == (False, "")
    rig.restart()
    assert [each.number for each in rig.journal.segments()] == segments
    assert rig.seqnums("t") == [1]


def test_it_may_become_a_replica_again_and_goes_on_from_what_it_has() -> None:
    rig = StorageRig().begin()
    rig.hold(frame(0, b"a"))
    rig.order(cut(1, 0, 1))
    rig.install(view_of(2, PEER, OTHER, D, count=2, tail=2))
    rig.install(view_of(3, PEER, OTHER, NODE, count=2, tail=2))
    effects = rig.do(LinkUp(PRIMARY))
    (follow,) = [
        each.message
        for each in effects
        if isinstance(each, Send) and isinstance(each.message, FollowMetalog)
    ]
    assert follow.position.count == 2


def test_p33_the_sign_of_life_says_who_lacks_records() -> None:
    rig = StorageRig().begin()
    several = replace(
        view_of(2, NODE, PEER, OTHER),
        nodes=tuple(Node(id=node, role="sequencer", address="") for node in SEQUENCERS),
    )

    def lacks() -> bool:
        beats = [
            each.message
            for each in rig.do(TimerFired(PULSE))
            if isinstance(each, Send) and isinstance(each.message, Heartbeat)
        ]
        return beats[0].leaving

    rig.order(opening(9))
    count = rig.index.position.count
    rig.install(replace(several, ends=view_of(2, NODE, PEER, OTHER, count=count).ends))
    assert lacks(), "it began with nothing, and has seen nobody"
    position = rig.index.position
    rig.get(PEER, IndexReport(SPACE, position, position, 0, empty=False))
    assert not lacks()
    third = view_of(3, PEER, OTHER, D, count=position.count, tail=rig.index.tail)
    rig.install(replace(third, nodes=several.nodes))
    rig.replica.folds._fresh = True
    assert not lacks(), "a spare lacks nothing that anybody needs"
