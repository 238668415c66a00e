"""P15: what a person has given up is lost, and not absent (P24, P33); runs of before count no more.

1. Two of three sequencers lose their disks. 2. A person goes on with what is left: the next view
ends the term there, and leaves out seqnums that may have been of what is lost. 3. Whoever asks for
one of those is told `DataLost`, from now on and from every replica.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from bokilog.errors import BokilogError, DataLost, NotReady, from_wire
from bokilog.ids import Position, Term
from bokilog.io.journal_memory import MemoryJournal
from bokilog.journal import SegmentInfo
from bokilog.messages import ReadReply, RequestFailed
from bokilog.metalog import ITEM_METALOG, OpenShard, Run, encode_run
from bokilog.sequencer.recovery import recover_metalog
from bokilog.storage_nodes.locations import LOST
from bokilog.storage_nodes.rebuilding import goes_on_from_stored
from bokilog.view import End, View
from tests.protocol.storage_rig import SPACE, StorageRig, at, cut, frame, opening, read, view

TAIL = 1 << 33


def after_loss(*, count: int, begun: int = 0) -> View:
    """The view of term 2, which a person has made: the term before ended after `count` entries."""
    known = view(2, end=at(count), tail=TAIL)
    ends = tuple(replace(end, given_up=True) for end in known.ends)
    spaces = tuple(replace(space, begun=begun) for space in known.spaces)
    return replace(known, ends=ends, spaces=spaces, losses_accepted=2)


def refused(answer: ReadReply | RequestFailed | None) -> BokilogError:
    assert isinstance(answer, RequestFailed), answer
    return from_wire(answer.error)


def lost(rig: StorageRig, seqnum: int) -> bool:
    """Whether a read of one record says so, and of this one."""
    answer = rig.ask(read(start=seqnum, until=seqnum + 1))
    if isinstance(answer, ReadReply):
        return False
    error = refused(answer)
    return isinstance(error, DataLost) and error.seqnum == seqnum


def folded() -> StorageRig:
    rig = StorageRig().begin()
    rig.hold(frame(0), frame(1))
    rig.order(cut(1, 0, 1), cut(2, 1, 2))
    return rig


def check(rig: StorageRig) -> None:
    """Three records are there; what lies between them was given up."""
    assert [seqnum for seqnum in (2, 3, TAIL - 1, TAIL) if lost(rig, seqnum)] == [3, TAIL - 1]
    answer = rig.ask(read())
    assert isinstance(answer, ReadReply)
    assert answer.seqnums == [1, 2, TAIL]


def test_p15_p33_seqnums_that_were_given_up_are_lost_and_scans_go_on_without_them() -> None:
    rig = folded()
    rig.install(after_loss(count=3))
    rig.order(opening(), term=2)
    rig.hold(frame(0, term=2))
    rig.order(cut(TAIL, 0, 1), term=2)
    assert rig.seqnums("t") == [1, 2, TAIL]
    check(rig)
    rig.checkpoint()
    rig.restart()
    check(rig)


def test_p15_they_are_so_also_where_nothing_is_left() -> None:
    rig = StorageRig()
    rig.install(view(1))
    rig.install(after_loss(count=0))
    assert rig.index.tail == TAIL and rig.index.position == at(0, term=2)
    assert lost(rig, 1) and lost(rig, TAIL - 1) and not lost(rig, TAIL)


def test_p13_an_end_that_gave_nothing_up_leaves_seqnums_that_are_nobodys() -> None:
    rig = folded()
    rig.install(view(2, end=at(3), tail=TAIL))
    assert not lost(rig, 3) and not lost(rig, TAIL - 1)


def test_p24_a_read_names_the_record_that_is_lost_and_a_page_ends_before_it() -> None:
    """Whoever reads on at the next seqnum gets everything that is left, and never stands still."""
    rig = StorageRig().begin()
    rig.hold(frame(0), frame(1, b"a", b"b", b"c"), frame(4))
    rig.order(cut(1, 0, 1), cut(2, 1, 4), cut(5, 4, 5))
    rig.index.relocate(2, LOST)
    rig.replica._reader.forget(2)
    found: list[int] = []
    told: list[int] = []
    start = 0
    for _ in range(10):
        answer = rig.ask(read(start=start))
        if isinstance(answer, ReadReply):
            found += answer.seqnums
            start = answer.next_seqnum
            if not answer.more:
                break
        else:
            error = refused(answer)
            assert isinstance(error, DataLost)
            told.append(error.seqnum)
            start = error.seqnum + 1
    assert (found, told) == ([1, 5], [2, 3, 4])


# --- the metalog ----------------------------------------------------------------------------------


def journal_of(*runs: Run) -> MemoryJournal:
    journal = MemoryJournal()
    for each in runs:
        journal.append(ITEM_METALOG, [encode_run(each)])
        journal.commit()
        journal.sync_now()
    return journal


def opened(first: int, *, term: int) -> Run:
    return Run(SPACE, Term(term), first, (OpenShard(1000, 1, "e", ("s",)),))


def test_p15_runs_from_before_the_metalog_began_anew_count_no_more() -> None:
    """Neither those that lead up to it, nor what a lost sequencer that comes back has beyond."""
    last = End(space=SPACE, position=Position(Term(1), 2), tail=9, timestamp_ms=7)
    before = [opened(count, term=1) for count in range(5)]
    found = recover_metalog(journal_of(*before), last, ceiling=1, released=True, begun=2)
    assert found.end == last and found.begins_at == 2 and not len(found.runs)
    after = [opened(2, term=2), opened(3, term=2)]
    found = recover_metalog(journal_of(*before, *after), last, ceiling=1, released=True, begun=2)
    assert found.end.position == Position(Term(2), 4) and found.begins_at == 2


def test_p15_a_storage_node_that_was_not_there_and_knows_more_says_what_to_do() -> None:
    views = [view(1), after_loss(count=3)]
    segments: list[SegmentInfo] = []
    with pytest.raises(NotReady, match=r"past entry 3, and with term 2 somebody has accepted"):
        goes_on_from_stored(views[-1].space(SPACE), at(5), views=views, segments=segments)
    views[-1] = replace(views[-1], losses_accepted=0)
    with pytest.raises(NotReady, match=r"so the sequencer's disk has"):
        goes_on_from_stored(views[-1].space(SPACE), at(5), views=views, segments=segments)
