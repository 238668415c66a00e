"""P24: a replica whose chained hash disagrees with the others' is rebuilt by snapshot.

1. A bit flips in the memory of a storage node, or a bug decides a condition otherwise there. 2. Its
fold goes on, wrong for ever, and answers reads. So replicas compare their hashes where they stood
together, and the one that the majority contradicts gives its fold up.
"""

from __future__ import annotations

from bokilog.effects import TimerFired
from bokilog.errors import NotReady
from bokilog.ids import NodeId, Position, Term
from bokilog.messages import FoldMarks, SnapshotPart
from bokilog.storage_nodes.agreement import MARKS, Agreement
from tests.protocol.storage_rig import BOOK, NODE, OTHER, PEER, SPACE, at, frame, read
from tests.protocol.test_p16_folds_from_peers import NAMES, Trio, data_of, error_of, same_fold

WRONG = 7


def corrupt(trio: Trio, name: NodeId) -> None:
    """It holds another frame by the name of the next one, with a tag that nobody wrote."""
    count = trio[name].index.tail - 1
    trio[name].hold(frame(count, b"boo" + bytes(40), tags=["ghost"]))


def ghosts(trio: Trio, name: NodeId) -> list[int]:
    return trio[name].index.seqnums(BOOK, "ghost", 0, 2**53, limit=10)


def test_p24_the_replica_that_the_majority_contradicts_loads_a_fold_of_theirs() -> None:
    trio = Trio()
    trio.append(0, 4)
    corrupt(trio, NODE)
    trio.append(4, 6)
    assert ghosts(trio, NODE)
    trio.checkpoint(PEER)
    assert trio[NODE].replica.folds_given_up == 0, "one other is no majority of three"
    trio.checkpoint(OTHER)
    assert trio[NODE].replica.folds_given_up == 1
    assert trio[NODE].replica.loaded_count == 1
    same_fold(trio[NODE], trio[PEER])
    assert ghosts(trio, NODE) == []
    trio.fill()
    assert trio[NODE].replica.rebuilding == ""
    for seqnum in range(1, 7):
        assert data_of(trio[NODE], seqnum) == data_of(trio[PEER], seqnum)
    trio.append(6, 8)
    trio.checkpoint(*NAMES)
    same_fold(trio[NODE], trio[OTHER])
    assert [rig.replica.folds_given_up for rig in trio.rigs.values()] == [1, 0, 0]
    assert {rig.replica.disagreement for rig in trio.rigs.values()} == {""}


def test_p24_until_the_right_fold_is_there_a_wrong_one_answers_nothing() -> None:
    """Peers have stored less than it had folded: it waits for their next checkpoint."""
    trio = Trio()
    trio.append(0, 4)
    trio.checkpoint(*NAMES)
    corrupt(trio, NODE)
    trio.append(4, 6)
    for name in (PEER, OTHER):
        agreement = trio[name].replica.folds._agreement
        assert agreement is not None
        trio[NODE].get(name, FoldMarks(SPACE, agreement.rows()))
    assert "its chained hash is not that of" in trio[NODE].replica.rebuilding
    trio.append(6, 8)
    assert isinstance(error_of(trio[NODE].ask(read(tag="ghost"))), NotReady)
    trio.checkpoint(PEER, OTHER)
    for _ in range(3):
        trio.do(NODE, TimerFired(("snapshot", int(SPACE))))
    assert trio[NODE].replica.loaded_count == 1
    same_fold(trio[NODE], trio[PEER])
    assert ghosts(trio, NODE) == []


def test_p24_without_a_majority_nobody_moves_and_people_are_told() -> None:
    trio = Trio()
    trio.append(0, 4)
    trio.away(OTHER)
    trio[NODE].index.chained_hash ^= WRONG
    trio.append(4, 6)
    trio.checkpoint(NODE, PEER)
    for name, other in ((NODE, PEER), (PEER, NODE)):
        replica = trio[name].replica
        assert replica.disagreement == (
            f"its index and that of {other} disagree, and no majority says which is right"
        )
        assert (replica.folds_given_up, replica.rebuilding) == (0, "")
        assert replica.facts()["disagreement"] == replica.disagreement
    trio.connect(OTHER)
    trio.checkpoint(*NAMES)
    assert trio[NODE].replica.folds_given_up == 1
    assert trio[PEER].replica.folds_given_up == 0
    same_fold(trio[NODE], trio[PEER])


def test_p24_replicas_that_agree_tell_and_change_nothing() -> None:
    trio = Trio()
    trio.append(0, 9)
    trio.checkpoint(*NAMES)
    assert trio.kinds(FoldMarks) and not trio.kinds(SnapshotPart)
    for rig in trio.rigs.values():
        assert (rig.replica.disagreement, rig.replica.folds_given_up) == ("", 0)


# --- comparing ------------------------------------------------------------------------------------


def folded(until: int, *, wrong_from: int = 10**9, term: int = 1) -> Agreement:
    agreement = Agreement()
    for count in range(1, until + 1):
        known = count + (WRONG if count >= wrong_from else 0)
        agreement.folded(at(count, term), known, count)
    return agreement


def test_p24_replicas_far_apart_find_a_place_where_both_stood() -> None:
    ahead, behind = folded(90_000, wrong_from=20_000), folded(81_000)
    assert len(ahead.rows()) <= 3 * MARKS
    behind.heard(PEER, ahead.rows())
    found = behind.disagreement([PEER, OTHER])
    assert found is not None and found.peers == (PEER,) and not found.outvoted
    assert found.alike_until == 4 * 4096, "the last mark before they went apart"
    behind.heard(PEER, folded(90_000).rows())
    assert behind.disagreement([PEER, OTHER]) is None


def test_p24_two_that_contradict_each_other_as_well_are_no_majority() -> None:
    mine = folded(40)
    one, other = folded(40, wrong_from=30), Agreement()
    for count in range(1, 41):
        other.folded(at(count), count * 3, count)
    mine.heard(PEER, one.rows())
    mine.heard(OTHER, other.rows())
    found = mine.disagreement([PEER, OTHER])
    assert found is not None and not found.outvoted
    mine.heard(OTHER, one.rows())
    found = mine.disagreement([PEER, OTHER])
    assert found is not None and found.outvoted


def test_p24_entries_that_were_lost_with_their_term_contradict_nobody() -> None:
    """P11: in their places stand others, of a later term."""
    mine, stale = folded(40), folded(40, term=0)
    mine.heard(PEER, stale.rows())
    assert mine.disagreement([PEER]) is None
    mine.forget()
    assert mine.rows() == []
    assert max(Position(Term(t), c) for t, c, _ in folded(40).rows()) == at(40)
