"""Rules of PROTOCOL.md at a disk: journals, directories, stored views; what breaks without each."""

from __future__ import annotations

import errno
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from bokilog.client.admin import ClientLog
from bokilog.client.node import Client
from bokilog.errors import CorruptJournal, DirectoryInUse, InvalidSettings, ReadOnly
from bokilog.frame import ITEM_FRAME, Frame
from bokilog.ids import LogSpaceId, NodeId, Position, Shard, Term
from bokilog.io import directory
from bokilog.io.clock import SystemClock
from bokilog.io.commits import Committer
from bokilog.io.directory import claim, write_synced
from bokilog.io.file_views import FileViews
from bokilog.io.journal_file import JournalFile
from bokilog.io.journal_memory import MemoryJournal
from bokilog.journal import (
    Damage,
    Location,
    SegmentReleased,
    Written,
)
from bokilog.metalog import ITEM_METALOG, OpenShard, Run, encode_run
from bokilog.segment import decode_segment_header
from bokilog.shapes import embedded
from bokilog.shapes.recovery import verify_item
from bokilog.view import View, first_end
from tests.frames import columns_of
from tests.sim.world import SEQUENCER, STORAGE, World

SEGMENT_BYTES = 16 << 10
SHARD = Shard(LogSpaceId(0), Term(1), 5)


class Disk:
    """Syncs that fail when told to."""

    durable = True

    def __init__(self) -> None:
        self.failures = 0

    def sync(self, fd: int) -> None:
        if self.failures:
            self.failures -= 1
            raise OSError(errno.EIO, "the disk failed")


@pytest.fixture(autouse=True)
def directories(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Which directories were synced; not done in earnest, which would take its time."""
    asked: list[str] = []
    monkeypatch.setattr("bokilog.io.segment_files.sync_directory", asked.append)
    monkeypatch.setattr("bokilog.io.directory.sync_directory", asked.append)
    return asked


def frame(first: int, data: bytes = b"data") -> Frame:
    return Frame(shard=SHARD, first=first, columns=columns_of([data]), payload=[data])


def start(path: Path, disk: Disk | None = None) -> tuple[JournalFile, list[bytes]]:
    """A journal, and what it gives back."""
    journal = JournalFile(
        path, sync=disk or Disk(), verify=verify_item, segment_bytes=SEGMENT_BYTES
    )
    return journal, [bytes(data) for _, _, data in journal.recover()]


def put(journal: JournalFile, *frames: Frame) -> list[Location]:
    """One group, synced."""
    places = [journal.append(ITEM_FRAME, each.buffers()) for each in frames]
    written = journal.commit()
    assert isinstance(written, Written)
    assert journal.sync_now().durable_group == written.group
    return places


def bytes_of(each: Frame) -> bytes:
    return b"".join(each.buffers())


def flip(path: Path, place: Location) -> None:
    """A bit of the last byte of an item."""
    file = path / f"{place.segment:08d}.seg"
    data = bytearray(file.read_bytes())
    data[place.offset + place.length - 1] ^= 1
    file.write_bytes(data)


# --- identity -------------------------------------------------------------------------------------


def first_view() -> View:
    return View(cluster_id="c", history_id="h", term=Term(0), nodes=(), spaces=(), ends=())


def test_p03_two_starts_of_a_node_never_get_one_incarnation(tmp_path: Path) -> None:
    """1. An engine hangs, its supervisor starts another. 2. Both live. Under one number both would
    write to the same shard (P1)."""
    stores = FileViews(tmp_path), FileViews(tmp_path)
    engine = NodeId("engine-1")
    numbers = [stores[n % 2].register_incarnation(engine) for n in range(4)]
    numbers += [stores[0].register_incarnation(NodeId("engine-2"))]
    assert numbers == sorted(set(numbers)), "unique in the cluster, and growing"
    assert stores[1].latest_incarnation(engine) == numbers[3], "only the latest counts"


def test_p03_a_directory_of_another_node_is_named_and_left_alone(tmp_path: Path) -> None:
    """Started on a copy of its neighbour's disk, a node would report as its own what the neighbour
    reports too: one copy counts twice."""
    claim(tmp_path, "c", "storage-1").close()
    with pytest.raises(InvalidSettings, match=r"storage-2.*storage-1"):
        claim(tmp_path, "c", "storage-2")
    with pytest.raises(InvalidSettings, match=r"other.*'c'"):
        claim(tmp_path, "other", "storage-1")
    with claim(tmp_path, "c", "storage-1"), pytest.raises(DirectoryInUse):
        claim(tmp_path, "c", "storage-1")


def test_p06_a_wiped_directory_is_another_disk_and_each_start_another_process(
    tmp_path: Path,
) -> None:
    """What an earlier disk, or process, had reported must stop counting."""
    with claim(tmp_path, "c", "storage-1") as owned:
        disk_id, start_number = owned.disk_id, owned.next_incarnation()
    with claim(tmp_path, "c", "storage-1") as owned:
        assert (owned.disk_id, owned.next_incarnation()) == (disk_id, start_number + 1)
    for file in tmp_path.iterdir():
        file.unlink()
    with claim(tmp_path, "c", "storage-1") as owned:
        assert owned.disk_id != disk_id


# --- terms ----------------------------------------------------------------------------------------


def test_p12_each_start_of_a_sequencer_is_a_new_term() -> None:
    """1. The primary publishes entry 5 and dies before it is synced. 2. Resuming, it would give the
    same position to another entry, which others hold already."""
    world = World(1)
    before = world.views[-1].term
    world.restart(SEQUENCER)
    assert world.views[-1].term == before + 1


@pytest.mark.asyncio
async def test_p12_each_open_of_an_embedded_log_is_a_new_term_above_its_last_end() -> None:
    """Of the group that was being written when the process died nobody can say whether it is there:
    in the old term, the new process could give the same seqnums out again."""
    storage = embedded.Storage(None, embedded.EmbeddedSettings())
    seqnums: list[int] = []
    for term in (1, 2):
        node = embedded.EmbeddedNode(storage, clock=SystemClock())
        client = Client(node.attach, timeout_s=5, on_close=node.aclose)
        client.on_up(node.welcome())
        async with ClientLog(client) as log:
            book = log.book("orders")
            seqnums.append(await book.append(b"x"))
            assert [record.seqnum async for record in book.scan()] == seqnums
        assert node.view.term == storage.past[-1].term == term
    assert storage.past[-1].end(LogSpaceId(0)).tail == seqnums[0] + 1 <= seqnums[1]


def test_p13_a_terms_end_is_decided_by_one_swap_and_never_twice(tmp_path: Path) -> None:
    """Two controllers read different tails from the nodes they reach: if both ends could be stored,
    one of them would cut off records that the other has acknowledged."""
    one, two = FileViews(tmp_path), FileViews(tmp_path)
    assert one.compare_and_swap(None, first_view())
    end = replace(first_end(LogSpaceId(0)), position=Position(Term(0), 7), tail=9)
    mine = replace(first_view(), term=Term(1), ends=(end,))
    theirs = replace(mine, ends=(replace(end, tail=5),))
    assert one.compare_and_swap(Term(0), mine)
    assert not two.compare_and_swap(Term(0), theirs)
    stored = two.load(Term(1))
    assert stored is not None and stored.end(LogSpaceId(0)).tail == 9


def test_p13_a_node_that_comes_back_after_a_new_term_serves_nothing_past_the_end() -> None:
    """The world restarts its sequencer and a storage node: all folds stand in the new term, at one
    place."""
    world = World(3)
    world.run(lambda: all(world.index(node).position.count for node in STORAGE), steps=3000)
    world.crash(STORAGE[0])
    world.restart(SEQUENCER)
    world.start(STORAGE[0])

    def together() -> bool:
        places = {world.index(node).position for node in STORAGE}
        return len(places) == 1 and places.pop().term == 2

    assert world.run(together, steps=3000)
    assert len({world.index(node).chained_hash for node in STORAGE}) == 1


# --- groups ---------------------------------------------------------------------------------------


def test_p07_what_lies_after_the_last_known_sync_is_written_anew_before_it_counts(
    tmp_path: Path,
) -> None:
    """1. A group is written; its sync fails or never happens. 2. The process dies, the kernel still
    has the pages. 3. The restart reads them and reports them. 4. Power goes: they are gone, and
    with them what two nodes said they had."""
    journal, _ = start(tmp_path)
    put(journal, frame(0))
    (two,) = put(journal, frame(1))
    journal.close(clean=False)
    journal, found = start(tmp_path)
    assert found == [bytes_of(frame(0)), bytes_of(frame(1))]
    assert journal.resolve(two).segment == 2, "copied, and synced there"
    assert bytes(journal.read(two)) == bytes_of(frame(1))
    journal.close()


def test_p07_a_tail_that_cannot_be_made_durable_is_not_served(tmp_path: Path) -> None:
    journal, _ = start(tmp_path)
    put(journal, frame(0))
    journal.close(clean=False)
    disk = Disk()
    disk.failures = 1
    with pytest.raises(ReadOnly):
        start(tmp_path, disk)


def test_p07_a_failed_sync_is_final_for_its_file_and_its_group_goes_to_a_new_one(
    tmp_path: Path,
) -> None:
    """After a failed sync the kernel marks the pages clean: a second sync of the same file says yes
    and stores nothing."""
    disk = Disk()
    journal, _ = start(tmp_path, disk)
    put(journal, frame(0))
    place = journal.append(ITEM_FRAME, frame(1).buffers())
    journal.commit()
    disk.failures = 1
    result = journal.sync_now()
    assert (result.failed, result.durable_group) == (None, 2)
    assert journal.resolve(place).segment == 2
    journal.append(ITEM_FRAME, frame(2).buffers())
    journal.commit()
    disk.failures = 2
    assert journal.sync_now().failed is not None, "and if that fails too, nothing more is taken"
    with pytest.raises(ReadOnly):
        journal.append(ITEM_FRAME, frame(3).buffers())
    journal.close(clean=False)


def committer_of(journal: MemoryJournal, told: list[tuple[str, object]]) -> Committer:
    return Committer(
        journal,
        persisted=lambda tokens: told.append(("persisted", tokens)),
        failed=lambda tokens, reason: told.append((reason, tokens)),
        read_only=lambda reason: told.append(("read only", reason)),
        inline=True,
    )


@pytest.mark.asyncio
async def test_p07_of_a_failed_group_nobody_is_told_that_it_is_durable() -> None:
    journal = MemoryJournal()
    told: list[tuple[str, object]] = []
    committer = committer_of(journal, told)
    for token, broken in ((1, None), (2, "the disk failed")):
        journal.append(ITEM_FRAME, frame(token).buffers())
        journal.broken = broken
        committer.request(token)
        committer.flush()
    committer.close()
    assert told == [("persisted", [1]), ("the disk failed", [2])]


@pytest.mark.asyncio
async def test_p32_a_full_disk_loses_nothing_and_says_so() -> None:
    """What was staged stays, with its locations, until there is room."""
    journal = MemoryJournal()
    told: list[tuple[str, object]] = []
    committer = committer_of(journal, told)
    place = journal.append(ITEM_FRAME, frame(0).buffers())
    journal.full = "no room"
    committer.request(1)
    committer.flush()
    journal.full = None
    committer._try_again()
    committer.close()
    assert told == [("read only", "no room"), ("read only", ""), ("persisted", [1])]
    assert journal.read(place) == bytes_of(frame(0))


def test_p30_a_group_counts_whole_or_not_at_all(tmp_path: Path) -> None:
    """A frame whose group's other half is torn off must not count: the entry that ordered both may
    lie in that half (P11)."""
    journal, _ = start(tmp_path)
    put(journal, frame(0))
    run = Run(SHARD.space, SHARD.term, 0, (OpenShard(1, 5, "e", ("s",)),))
    journal.append(ITEM_FRAME, frame(1).buffers())
    place = journal.append(ITEM_METALOG, [encode_run(run)])
    journal.commit()
    journal.close(clean=False)
    flip(tmp_path, place)
    journal, found = start(tmp_path)
    assert found == [bytes_of(frame(0))]
    journal.close()


def test_p30_a_bad_place_is_corruption_iff_a_later_group_says_it_was_synced(
    tmp_path: Path,
) -> None:
    """Treated as a torn tail, a flipped bit in the middle would silently drop every record after
    it; treated as corruption, each loss of power would need an operator."""
    torn, damaged = tmp_path / "torn", tmp_path / "damaged"
    for path, bad in ((torn, 1), (damaged, 0)):
        journal, _ = start(path)
        places = [put(journal, frame(n))[0] for n in range(2)]
        journal.close(clean=False)
        flip(path, places[bad])
    assert start(torn)[1] == [bytes_of(frame(0))]
    with pytest.raises(CorruptJournal):
        start(damaged)
    reported: list[Damage] = []
    journal = JournalFile(damaged, sync=Disk(), verify=verify_item, segment_bytes=SEGMENT_BYTES)
    rest = [bytes(data) for _, _, data in journal.recover(salvage=reported.append)]
    assert len(reported) == 1 and rest == [bytes_of(frame(1))], "never skipped without a report"
    journal.close()


def test_p30_a_clean_stop_makes_its_last_group_known_to_be_synced(tmp_path: Path) -> None:
    """Without the empty group it writes, damage to the last records of a quiet log would pass for a
    torn tail."""
    journal, _ = start(tmp_path)
    (place,) = put(journal, frame(0))
    journal.close()
    flip(tmp_path, place)
    with pytest.raises(CorruptJournal):
        start(tmp_path)


def test_p31_the_directory_is_synced_with_the_first_group_of_a_file(
    tmp_path: Path, directories: list[str]
) -> None:
    """A synced file whose name is not synced is gone after a loss of power."""
    journal, _ = start(tmp_path / "j")
    before = len(directories)
    put(journal, frame(0))
    assert directories[before:] == [str(tmp_path / "j")]
    put(journal, frame(1))
    assert len(directories) == before + 1, "once is enough"
    journal.close()
    del directories[:]
    write_synced(tmp_path / "identity.json", b"{}")
    assert directories == [str(tmp_path)], "a rename is a change of the directory too"
    directory.make_directory(tmp_path / "a" / "b")
    assert directories[1:] == [str(tmp_path), str(tmp_path / "a")]


def test_p31_a_recycled_segment_has_a_new_generation(tmp_path: Path) -> None:
    """Its file is full of whole groups of its earlier life: behind a torn tail one of them could
    pass for the next."""
    journal, _ = start(tmp_path)
    places = [put(journal, frame(n, b"x" * 6000))[0] for n in range(4)]
    first, last = places[0].segment, places[-1].segment
    assert first < last

    def generations() -> set[int]:
        found = set()
        for file in tmp_path.glob("*.seg"):
            with suppress(FileNotFoundError):  # renamed just now: it is being recycled
                page = decode_segment_header(file.read_bytes())
                found.add(0 if page is None else page.generation)
        return found

    before = generations()
    journal.release(first)
    for n in range(4, 10):
        put(journal, frame(n, b"y" * 6000))
    with pytest.raises(SegmentReleased):
        journal.read(places[0])
    assert max(generations()) > max(before)
    journal.close()
    assert start(tmp_path)[1][-1] == bytes_of(frame(9, b"y" * 6000))
