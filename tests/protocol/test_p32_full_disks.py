"""P32: on a full disk trims still get through, and what they let go of makes room again.

1. A disk fills up with records. Appends wait; reads go on.
2. Whoever owns the records trims them.

Were the trim to wait for room behind the frames, or the checkpoint that lets segments go, there
would never be any.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

import bokilog
from bokilog import LogBook
from bokilog.client.connect import ClientLog
from bokilog.client.node import Client
from bokilog.effects import Checkpoint, CheckpointStored, ReadOnlyChanged, TimerFired
from bokilog.errors import AppendUnknown, BokilogError, ReadOnly
from bokilog.ids import LogSpaceId
from bokilog.io import commits, journal_end
from bokilog.io.clock import SystemClock
from bokilog.io.journal_memory import MemoryJournal
from bokilog.io.segment_files import SegmentFiles
from bokilog.journal import Refused
from bokilog.messages import IndexReport
from bokilog.metalog import Proposer, Trim
from bokilog.shapes import embedded
from tests.protocol.storage_rig import BOOK, NUMBER, OTHER, PEER, SPACE, StorageRig, at, cut, frame

ME = Proposer(NUMBER, 1)
FULL = "no space left"


class Disk:
    """How much room the disks of all journals say that they have."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.free_bytes = 1 << 40
        monkeypatch.setattr(SegmentFiles, "free_bytes", lambda files: self.free_bytes)
        monkeypatch.setattr(commits, "RETRY_S", 0.01)


@asynccontextmanager
async def over(journal: MemoryJournal) -> AsyncIterator[ClientLog]:
    """An embedded log in memory, whose `sync` class stands on this journal."""
    storage = embedded.Storage(None, embedded.EmbeddedSettings())
    storage.journals[LogSpaceId(0)] = journal
    node = embedded.EmbeddedNode(storage, clock=SystemClock())
    client = Client(node.attach, timeout_s=5, on_close=node.aclose)
    client.on_up(node.welcome())
    async with ClientLog(client) as log:
        yield log


async def refused(book: LogBook) -> BokilogError:
    """What an append is told that finds no room in time."""
    with pytest.raises((ReadOnly, AppendUnknown)) as caught:
        await book.append(b"x" * 1000, timeout_s=0.02)
    return caught.value


async def filled(book: LogBook) -> int:
    """Appends until the disk is full; the last seqnum that was acknowledged."""
    last = 0
    while True:
        try:
            last = await book.append(bytes(50_000), "t", timeout_s=0.25)
        except (ReadOnly, AppendUnknown):
            return last


@pytest.mark.asyncio
async def test_p32_a_trim_gets_through_on_a_full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commits, "RETRY_S", 0.01)
    journal = MemoryJournal()
    async with over(journal) as log:
        book = log.book("orders")
        seqnums = [await book.append(b"%d" % number) for number in range(3)]
        journal.full = FULL
        for _ in range(2):
            assert isinstance(await refused(book), ReadOnly | AppendUnknown)
        done = await book.trim(until=seqnums[1], timeout_s=2)
        assert done.until == seqnums[1]
        assert [record.seqnum async for record in book.scan()] == seqnums[1:]
        journal.full = None
        seqnum = await book.append(b"again")
        assert seqnum > seqnums[-1]


@pytest.mark.asyncio
async def test_p32_frames_of_one_batch_with_a_trim_do_not_take_it_along(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """They would share a group: one that holds a frame may not have the headroom."""
    monkeypatch.setattr(commits, "RETRY_S", 0.01)
    journal = MemoryJournal()
    async with over(journal) as log:
        book = log.book("orders")
        first = await book.append(b"one")
        journal.full = FULL
        late, done = await asyncio.gather(
            book.append(b"two", timeout_s=0.05), book.trim(until=first + 1), return_exceptions=True
        )
        assert isinstance(late, ReadOnly | AppendUnknown)
        assert isinstance(done, bokilog.Trim) and done.until == first + 1


@pytest.mark.asyncio
async def test_p32_an_embedded_log_on_a_full_disk_has_room_after_a_trim(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the sixth segment on the disk has room for nothing but the headroom."""
    disk = Disk(monkeypatch)
    monkeypatch.setattr(journal_end, "FIRST_SEGMENT_BYTES", 1 << 16)
    settings = embedded.EmbeddedSettings(headroom_bytes=1 << 20, checkpoint_s=0.02)
    async with embedded.open(tmp_path, settings=settings) as log:
        book = log.book("orders")
        for _ in range(20):
            await book.append(bytes(50_000), "t")
        disk.free_bytes = 1 << 20
        last = await filled(book)
        files = sorted((tmp_path / "journal-0").iterdir())
        assert len(await _page(book)) > 2, "reads go on"
        assert (await book.trim(until=last + 1, timeout_s=2)).until == last + 1
        again = await book.append(b"again", "t", timeout_s=5)
        assert again > last
        assert len(sorted((tmp_path / "journal-0").iterdir())) <= len(files) + 1
    async with embedded.open(tmp_path, settings=settings) as log:
        assert [record.seqnum async for record in log.book("orders").scan()][-1] == again


async def _page(book: LogBook) -> list[int]:
    return [record.seqnum async for record in book.scan(tag="t")]


def test_p32_a_full_storage_node_stores_its_fold_and_lets_segments_go() -> None:
    """Its own frames wait for room, unordered; the trim comes by the metalog."""
    rig = StorageRig().begin()
    for place in range(8):
        rig.hold(frame(place, b"x" * 1800))
        rig.order(cut(place + 1, place, place + 1))
    rig.checkpoint()
    for peer in (PEER, OTHER):
        rig.get(peer, IndexReport(SPACE, at(10_000), at(10_000), 0, empty=False))
    before = len(rig.journal.segments())
    rig.journal.full = FULL
    rig.take(frame(8, b"x" * 1800))
    assert isinstance(rig.journal.commit(), Refused)
    rig.do(ReadOnlyChanged(SPACE, FULL))
    rig.order(Trim(3000, BOOK, None, 8, ME))
    rig.checkpoint()
    assert len(rig.journal.segments()) < before
    rig.journal.full = None
    rig.do(ReadOnlyChanged(SPACE, ""))
    rig.sync()
    rig.order(cut(9, 8, 9))
    assert rig.seqnums() == [8, 9]


def test_p19_a_full_storage_node_stores_nothing_ahead_of_frames_that_wait() -> None:
    """Others had room, so they ordered what is only in memory here."""
    rig = StorageRig().begin()
    rig.journal.full = FULL
    rig.take(frame(0))
    assert isinstance(rig.journal.commit(), Refused)
    rig.do(ReadOnlyChanged(SPACE, FULL))
    rig.order(cut(1, 0, 1))
    assert Checkpoint(SPACE) not in rig.do(TimerFired("checkpoint"))
    rig.journal.full = None
    assert Checkpoint(SPACE) in rig.sync()
    rig.index.generations.steps()


def test_p32_a_checkpoint_that_waits_for_frames_goes_on_when_the_disk_fills_up() -> None:
    """It was frozen behind a group that was refused after that: nothing of the group is folded."""
    rig = StorageRig().begin()
    rig.hold(frame(0))
    rig.order(cut(1, 0, 1))
    rig.take(frame(1))
    assert Checkpoint(SPACE) not in rig.do(TimerFired("checkpoint")), "a group is being synced"
    rig.journal.full = FULL
    assert isinstance(rig.journal.commit(), Refused)
    assert Checkpoint(SPACE) in rig.do(ReadOnlyChanged(SPACE, FULL))
    for _ in rig.index.generations.steps():
        pass
    rig.index.generations.write()
    rig.do(CheckpointStored(SPACE))
    assert rig.index.generations.stored_position == rig.index.position
