"""What is left of a cluster after a loss: where each log space goes on, what is told, what refused.

The same with disks, clients and checkers in tests/sim/losses.py; with processes in
tests/integration/test_accept_loss.py.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from bokilog.errors import NotReady
from bokilog.ids import LogSpaceId, NodeId, Position, Term
from bokilog.record import Durability
from bokilog.sequencer.next_view import Ending
from bokilog.shapes.what_is_left import (
    NOTHING_STORED,
    SEQNUMS_LEFT_OUT,
    Left,
    StoredFold,
    after_loss,
    is_astray,
)
from bokilog.view import End, LogSpace, Node, View

SPACE = LogSpaceId(0)
S1, S2, S3 = (NodeId(f"sequencer-{number}") for number in (1, 2, 3))
N1, N2, N3 = (NodeId(f"storage-{number}") for number in (1, 2, 3))
BEGAN = 40
"""Entries that the last view says came before its term."""


def view(durability: Durability = "sync") -> View:
    space = LogSpace(
        id=SPACE,
        durability=durability,
        primary=S1,
        backups=(S2, S3),
        replicas=(N1, N2, N3),
        write_quorum=2,
    )
    sequencers = [
        Node(id=each, role="sequencer", address="", incarnation=7, disk_id=f"disk of {each}")
        for each in (S1, S2, S3)
    ]
    storage = [Node(id=each, role="storage", address="") for each in (N1, N2, N3)]
    return View(
        cluster_id="c",
        history_id="h",
        term=Term(3),
        nodes=(*sequencers, *storage),
        spaces=(space,),
        ends=(end_at(BEGAN, term=2),),
    )


def end_at(count: int, *, term: int = 3) -> End:
    position = Position(Term(term), count)
    return End(space=SPACE, position=position, tail=10 * count + 1, timestamp_ms=count)


def fold_at(count: int, *, term: int = 3) -> StoredFold:
    return StoredFold(Position(Term(term), count), 10 * count + 1, count)


def left(
    *counts: int,
    end: int = 100,
    begins_at: int = 0,
    durability: Durability = "sync",
    alive: tuple[NodeId, ...] = (S3,),
    astray: tuple[NodeId, ...] = (),
    others: dict[NodeId, int] | None = None,
) -> Left:
    """Sequencer 3 is left, with its metalog, and these folds of storage nodes (-1: it is gone)."""
    replicas = dict(zip((N1, N2, N3), counts, strict=True))
    behind = end < BEGAN and durability == "sync"
    return Left(
        view=view(durability),
        alive=alive,
        gone={node: "no such directory" for node in (S1, S2, S3) if node not in alive},
        storage_gone={node: "lost" for node, count in replicas.items() if count < 0},
        ends={
            SPACE: Ending(
                end=end_at(max(end, BEGAN)) if behind else end_at(end),
                sources=() if behind else alive[-1:],
            )
        },
        begins_at={SPACE: dict.fromkeys(alive, begins_at) | (others or {})},
        folds={
            SPACE: {
                node: fold_at(count) if count else NOTHING_STORED
                for node, count in replicas.items()
                if count >= 0
            }
        },
        folds_astray=tuple((node, SPACE) for node in astray),
    )


class Directories:
    """Of a cluster that is stopped."""

    def __init__(self) -> None:
        self.made: list[NodeId] = []
        self.aside: list[NodeId] = []

    def made_anew(self, left: Left, node: NodeId) -> str:
        self.made.append(node)
        return f"{node} anew"

    def move_fold_aside(self, left: Left, node: NodeId, space: LogSpaceId) -> None:
        self.aside.append(node)


def accepted(found: Left) -> tuple[View, Directories]:
    directories = Directories()
    return after_loss(found, directories, history_id="another"), directories


def test_p15_a_metalog_that_some_fold_can_go_on_with_goes_on() -> None:
    found = left(90, 80, 0, end=100, begins_at=70)
    following, directories = accepted(found)
    end = following.end(SPACE)
    assert end.position == Position(Term(3), 100)
    assert end.tail == 1001 + SEQNUMS_LEFT_OUT
    assert end.given_up
    assert following.space(SPACE).begun == 0
    assert following.space(SPACE).primary == S3
    assert directories.made == [S1, S2]
    assert [following.node(node).disk_id for node in (S1, S3)] == [f"{S1} anew", f"disk of {S3}"]
    assert (following.history_id, following.losses_accepted) == ("another", following.term)
    assert any("ends at entry 100 of its metalog" in line for line in found.losses())


def test_p15_p16_it_begins_anew_at_a_fold_that_is_further_than_who_is_left() -> None:
    """The sequencer was away while the others, who are lost, went on."""
    found = left(300, 250, 120, end=100, begins_at=70)
    following, _ = accepted(found)
    end = following.end(SPACE)
    assert end.position == Position(Term(3), 300)
    assert end.tail == 3001 + SEQNUMS_LEFT_OUT
    assert following.space(SPACE).begun == following.term == 4
    assert following.space(SPACE).primary == S3
    (told,) = (line for line in found.losses() if "log space" in line)
    assert "up to entry 100 only; it goes on at entry 300" in told
    assert N1 in told
    assert not any("moved aside" in line for line in found.losses())


def test_p13_it_does_so_also_if_whoever_is_left_lacks_entries_from_before_the_term() -> None:
    following, _ = accepted(left(45, 0, 0, end=30))
    assert following.end(SPACE).position.count == 45


def test_p13_without_such_a_fold_it_is_refused_with_the_positions() -> None:
    found = left(35, 0, -1, end=30)
    with pytest.raises(NotReady) as refused:
        accepted(found)
    assert (
        "sequencer-3 lack entries of log space 0 from before term 3, which began after entry 40,"
        " and the furthest index that is left, of storage-1, stands at entry 35"
    ) in str(refused.value)
    with pytest.raises(NotReady, match="no storage node that is left has stored an index: bring"):
        left(-1, -1, -1, end=30).check()


def test_p16_it_goes_back_if_nobody_can_fold_what_is_left_of_the_metalog() -> None:
    """Both replicas that were far are lost; the metalog before the third one's fold was let go."""
    found = left(-1, -1, 50, end=100, begins_at=70, alive=(S1, S2, S3))
    assert found.needs_acceptance
    assert not found.majority_lost
    following, directories = accepted(found)
    end = following.end(SPACE)
    assert end.position == Position(Term(3), 50)
    assert end.tail == 1001, "the sequencers know how far seqnums were given out"
    assert end.given_up
    assert following.space(SPACE).begun == 4
    assert directories.made == []
    assert any(
        "goes back to entry 50" in line and "Records from seqnum 501 to 1000 are lost" in line
        for line in found.losses()
    )


def test_p16_who_let_go_of_what_a_fold_needs_gets_the_metalog_of_one_who_has_it() -> None:
    """Whoever is primary next must have it: else all replicas would wait for a fold that nobody
    has (simulator, seed 1179)."""
    found = left(-1, -1, 50, begins_at=40, alive=(S1, S2, S3), others={S1: 60})
    following, directories = accepted(found)
    assert following.end(SPACE).position.count == 100
    assert following.space(SPACE).begun == 0
    assert directories.made == [S1]
    assert following.node(S1).disk_id == f"{S1} anew"
    assert found.source_of(SPACE, S1) == S3
    assert not any("goes back" in line for line in found.losses())


def test_p20_it_begins_from_nothing_if_no_fold_is_left_and_the_metalog_begins_later() -> None:
    following, _ = accepted(left(-1, -1, -1, end=100, begins_at=70, alive=(S1, S2)))
    assert following.end(SPACE).position.count == 0
    assert following.end(SPACE).tail == 1001
    assert following.space(SPACE).begun == 4


def test_a_whole_metalog_is_folded_again_if_no_fold_is_left() -> None:
    """What only lost nodes held is given up record by record (P24)."""
    found = left(-1, -1, -1, end=100, alive=(S1, S2))
    following, _ = accepted(found)
    assert following.end(SPACE) == end_at(100)
    assert following.space(SPACE).begun == 0


def test_p13_a_fold_past_the_end_of_a_term_is_not_chosen_and_moved_aside() -> None:
    found = left(300, 90, 0, end=100, begins_at=70, astray=(N1,))
    following, directories = accepted(found)
    assert following.end(SPACE).position.count == 100
    assert directories.aside == [N1]
    assert any("storage-1 stored more" in line for line in found.losses())


def test_seqnums_go_on_above_every_fold_also_above_one_that_is_astray() -> None:
    following, _ = accepted(left(300, 90, 0, end=100, astray=(N1,)))
    assert following.end(SPACE).tail == 3001 + SEQNUMS_LEFT_OUT


def test_p14_before_the_first_term_there_is_nothing_to_accept() -> None:
    """No view names a disk yet: one that did without would leave nobody with a vote."""
    found = left(-1, -1, -1, end=0)
    assert found.needs_acceptance
    assert not replace(found, view=replace(found.view, term=Term(0))).needs_acceptance


def test_class_memory_goes_on_where_its_metalog_does() -> None:
    found = replace(left(-1, -1, -1, end=100, begins_at=70, durability="memory"), folds={})
    following, _ = accepted(found)
    assert following.end(SPACE).position.count == 100


def test_p16_who_is_late_in_one_log_space_is_still_the_source_of_another() -> None:
    """1. S2 let go of entries of log space 0 that only S3 has, and the index that is left needs. 2.
    It alone is left of the majority that ordered the end of log space 1."""
    found = left(-1, -1, 90, begins_at=50, alive=(S2, S3), others={S2: 95})
    other = replace(found.view.spaces[0], id=LogSpaceId(1))
    begun = (*found.view.ends, replace(found.view.ends[0], space=other.id))
    found = replace(
        found,
        view=replace(found.view, spaces=(*found.view.spaces, other), ends=begun),
        ends={
            SPACE: Ending(end=end_at(100), sources=(S2, S3)),
            other.id: Ending(end=replace(end_at(200), space=other.id), sources=(S2,)),
        },
        begins_at={**found.begins_at, other.id: {S2: 70, S3: 70}},
        folds={**found.folds, other.id: {N3: fold_at(120)}},
    )
    assert found.needs_acceptance and not found.majority_lost
    following, directories = accepted(found)
    assert [end.position.count for end in following.ends] == [100, 200]
    assert [space.primary for space in following.spaces] == [S3, S2]
    assert not any(space.begun for space in following.spaces)
    assert not any(end.given_up for end in following.ends)
    assert directories.made == [S2]
    assert [found.source_of(space, S2) for space in (SPACE, other.id)] == [S3, S2]
    assert [found.source_of(space, S1) for space in (SPACE, other.id)] == [S3, S2]
    assert not any("goes back" in line or "reaches back" in line for line in found.losses())


def test_p20_class_memory_goes_on_where_the_metalog_of_one_ends_that_is_late_elsewhere() -> None:
    found = left(-1, -1, 50, begins_at=40, alive=(S2, S3), others={S3: 60})
    memory = replace(found.view.spaces[0], id=LogSpaceId(1), durability="memory")
    begun = (*found.view.ends, replace(found.view.ends[0], space=memory.id))
    ends = {
        SPACE: Ending(end=end_at(100), sources=(S2, S3)),
        memory.id: Ending(end=replace(end_at(70), space=memory.id), sources=(S3,)),
    }
    both = replace(found.view, spaces=(*found.view.spaces, memory), ends=begun)
    found = replace(found, view=both, ends=ends)
    following, directories = accepted(found)
    assert directories.made == [S3]
    assert following.end(SPACE).position.count == 100
    assert following.end(memory.id).position.count == 70
    assert following.space(memory.id).begun == 0
    assert [found.source_of(space, S3) for space in (SPACE, memory.id)] == [S2, S3]


def test_p13_a_fold_is_astray_if_a_later_term_began_before_it() -> None:
    def ended(term: Term) -> End | None:
        return {Term(2): end_at(40, term=1), Term(3): end_at(60, term=2)}.get(term)

    until = Term(3)
    assert not is_astray(Position(Term(1), 40), until=until, ended=ended)
    assert is_astray(Position(Term(1), 41), until=until, ended=ended)
    assert not is_astray(Position(Term(2), 60), until=until, ended=ended)
    assert is_astray(Position(Term(2), 61), until=until, ended=ended)
    assert not is_astray(Position(Term(3), 1000), until=until, ended=ended)


def test_p15_without_any_sequencer_it_goes_on_at_the_furthest_fold() -> None:
    found = left(90, 80, 0, end=BEGAN, alive=())
    following, directories = accepted(found)
    end = following.end(SPACE)
    assert end.position == Position(Term(3), 90)
    assert end.tail == 901 + SEQNUMS_LEFT_OUT
    assert end.given_up
    assert following.space(SPACE).begun == following.term
    assert following.space(SPACE).primary == S1
    assert directories.made == [S1, S2, S3]
    (line,) = (line for line in found.losses() if "log space" in line)
    assert f"it goes on at entry 90, where the index of {N1} stands" in line
    assert "all records from seqnum 901 on" in line


def test_p15_without_any_sequencer_it_goes_back_before_the_term_if_no_fold_has_come_to_it() -> None:
    found = left(BEGAN - 10, 0, 0, end=BEGAN, alive=())
    following, _ = accepted(found)
    assert following.end(SPACE).position == Position(Term(3), BEGAN - 10)
    assert following.end(SPACE).tail == end_at(BEGAN).tail + SEQNUMS_LEFT_OUT


def test_p15_without_any_sequencer_and_fold_it_is_refused() -> None:
    found = left(0, 0, -1, end=BEGAN, alive=())
    with pytest.raises(NotReady, match=r"no sequencer is left that has a say .*no storage node"):
        found.check()
