"""P16, P21: a backup gets the fold of the present, and nothing that it names is let go yet."""

from __future__ import annotations

import pytest

from bokilog.effects import Checkpoint, Effect, LinkDown, LinkUp, ReadOnlyChanged
from bokilog.ids import START
from bokilog.messages import (
    FetchSnapshot,
    FetchStored,
    IndexReport,
    SnapshotPart,
    StoredFrame,
    StoredSent,
)
from bokilog.metalog import Proposer, Trim
from tests.protocol.storage_rig import BOOK, NUMBER, PEER, SPACE, StorageRig, cut, frame, messages

BACKUP = 3
"""A connection that is no node's."""
FRAMES = 12


@pytest.fixture
def rig() -> StorageRig:
    """Some segments of frames, with a peer that has stored as much."""
    rig = StorageRig().begin()
    rig.do(LinkUp(PEER))
    for number in range(FRAMES):
        rig.hold(frame(number, b"%d" % number + b"." * 3_000))
        rig.order(cut(number + 1, number, number + 1))
    rig.checkpoint()
    return rig


def ask(rig: StorageRig, number: int = 1, part: int = 0) -> list[Effect]:
    return rig.get(BACKUP, FetchSnapshot(SPACE, number, part))


def parts(effects: list[Effect]) -> list[SnapshotPart]:
    return messages(effects, SnapshotPart)  # type: ignore[return-value]


def trim_all(rig: StorageRig) -> None:
    """Every record goes; twice stored, here and by the peer, so that segments may be let go."""
    rig.order(Trim(9_000, BOOK, None, FRAMES + 1, Proposer(NUMBER, 1)))
    rig.hold(frame(FRAMES, b"later"))
    rig.order(cut(FRAMES + 1, FRAMES, FRAMES + 1))
    rig.checkpoint()
    position = rig.index.position
    rig.get(PEER, IndexReport(SPACE, position, position, 0, False))


def fetch(rig: StorageRig, first: int) -> tuple[list[int], int]:
    """First seqnums of the frames of one answer, and up to where it goes."""
    *frames, sent = messages(
        rig.get(BACKUP, FetchStored(SPACE, first, FRAMES + 1)), StoredFrame, StoredSent
    )
    assert isinstance(sent, StoredSent)
    return [
        each.first_seqnum for each in frames if isinstance(each, StoredFrame)
    ], sent.until_seqnum


def given(rig: StorageRig) -> list[int]:
    """First seqnums of the frames that the backup gets; all answers together."""
    at, found = 0, list[int]()
    while at <= FRAMES:
        frames, until = fetch(rig, at)
        found += frames
        if until <= at:
            break
        at = until
    return found


def test_a_backup_at_the_stored_position_is_answered_at_once(rig: StorageRig) -> None:
    (part,) = parts(ask(rig))
    assert (part.position, part.last) == (rig.index.position, True)


def test_a_backup_waits_for_a_checkpoint_of_the_present(rig: StorageRig) -> None:
    rig.hold(frame(FRAMES, b"later"))
    rig.order(cut(FRAMES + 1, FRAMES, FRAMES + 1))
    effects = ask(rig)
    assert Checkpoint(SPACE) in effects
    assert parts(effects) == []
    (part,) = parts(rig.finish_checkpoint())
    assert part.position == rig.index.position != START


def test_p21_nothing_that_a_backup_names_is_let_go_until_its_connection_ends(
    rig: StorageRig,
) -> None:
    ask(rig)
    before = len(rig.journal.segments())
    trim_all(rig)
    assert given(rig) == list(range(1, FRAMES + 1))
    assert len(rig.journal.segments()) >= before
    rig.do(LinkDown(BACKUP))
    assert len(rig.journal.segments()) < before


def test_without_a_backup_it_is_let_go(rig: StorageRig) -> None:
    before = len(rig.journal.segments())
    trim_all(rig)
    assert len(rig.journal.segments()) < before
    assert given(rig) == []


def test_p32_on_a_full_disk_a_backup_ends_rather_than_appends(rig: StorageRig) -> None:
    ask(rig)
    before = len(rig.journal.segments())
    rig.do(ReadOnlyChanged(SPACE, "the disk is full"))
    trim_all_on_full(rig)
    assert len(rig.journal.segments()) < before
    assert fetch(rig, 0) == ([], 0)  # it is told that it cannot go on


def trim_all_on_full(rig: StorageRig) -> None:
    rig.order(Trim(9_000, BOOK, None, FRAMES + 1, Proposer(NUMBER, 1)))
    rig.checkpoint()
    position = rig.index.position
    rig.get(PEER, IndexReport(SPACE, position, position, 0, False))
