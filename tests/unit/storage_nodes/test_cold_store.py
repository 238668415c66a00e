"""How a segment gets into a store unharmed, and what a store that is not the one means."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from bokilog.cold import (
    LIST_FILE,
    ColdJob,
    ColdOutcome,
    ColdSegment,
    ColdState,
    FetchRange,
    Remove,
    StoreList,
    Upload,
    encode_list,
)
from bokilog.effects import ColdDone, StartCold
from bokilog.errors import InvalidSettings
from bokilog.frame import ITEM_FRAME, verify_frame
from bokilog.io.journal_file import JournalFile
from bokilog.io.sync import NoSync
from bokilog.journal import Location
from bokilog.storage_nodes.cold import Cold
from bokilog.storage_nodes.cold_store import MARKER, ColdSpace, ColdStore, load_list
from tests.protocol.storage_rig import SPACE, frame

PREFIX = "cluster/storage-1/disk"
FRAMES = 4


class Node:
    """A journal of small segments, and a folder for cold ones."""

    def __init__(self, root: Path) -> None:
        self.folder = root / "cold"
        self.directory = root / "journal-1"
        self.journal = JournalFile(
            self.directory,
            sync=NoSync(),
            verify=lambda kind, data: kind == ITEM_FRAME and verify_frame(data),
            segment_bytes=8192,
        )
        self.locations: list[Location] = []
        list(self.journal.recover())
        for number in range(FRAMES):
            buffers = frame(number, b"%d" % number + bytes(1 << 20)).buffers()
            self.locations.append(self.journal.append(ITEM_FRAME, buffers))
            self.journal.commit()
            self.journal.sync_now()

    def store(self, *, known: bool = False) -> ColdStore:
        spaces: dict[int, ColdSpace] = {SPACE: ColdSpace(self.directory, self.journal)}
        return ColdStore(f"file://{self.folder}", prefix=PREFIX, spaces=spaces, known=known)

    def object_of(self, segment: ColdSegment) -> Path:
        return self.folder / PREFIX / f"journal-{SPACE}" / segment.name


def carry_out(store: ColdStore, *jobs: ColdJob) -> list[ColdOutcome]:
    """The jobs' outcomes, as the loop is told."""

    async def run() -> list[ColdOutcome]:
        found: list[ColdOutcome] = []
        for job in jobs:
            done: asyncio.Future[ColdDone] = asyncio.get_running_loop().create_future()
            store.start(StartCold(SPACE, job), done.set_result)
            found.append((await done).outcome)
        return found

    return asyncio.run(run())


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    node = Node(tmp_path)
    yield node
    node.journal.close()


FIRST = ColdSegment(1, 3, ColdState.UPLOADING)


def moved(node: Node, store: ColdStore) -> ColdSegment:
    (outcome,) = carry_out(store, Upload(FIRST))
    assert outcome.problem == ""
    return FIRST._replace(
        state=ColdState.COLD, size_bytes=outcome.size_bytes, checksum=outcome.checksum
    )


def test_an_object_is_the_segment_and_its_ranges_are_the_frames(node: Node) -> None:
    store = node.store()
    cold = moved(node, store)
    (end,) = (each.until for each in node.journal.segments() if each.number == 1)
    assert cold.size_bytes == end
    assert node.object_of(cold).stat().st_size == end
    _, offset, length = location = node.locations[0]
    (fetched,) = carry_out(store, FetchRange(cold, offset, offset + length))
    assert fetched.data == node.journal.read(location)


def test_a_store_that_is_away_is_in_the_log_once_and_that_it_is_back(
    node: Node, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="bokilog.storage_nodes.cold_store")
    store = node.store()
    cold = moved(node, store)
    asked = FetchRange(cold, 100, 200)
    carry_out(store, asked)
    away = node.folder.rename(node.folder.parent / "not mounted")
    carry_out(store, asked, asked, Upload(FIRST), StoreList((cold,)))
    away.rename(node.folder)
    carry_out(store, asked, asked)
    nothing = f"nothing of this node is in {node.folder / PREFIX} (no {MARKER}): it is another"
    nothing += " store, or is not mounted"
    assert [record.getMessage() for record in caplog.records] == [
        f"cold store: FetchRange failed: {nothing}",
        f"cold store: Upload failed: {nothing}",
        "cold store: FetchRange works again",
    ]


def test_a_disk_says_whose_its_prefix_is(node: Node) -> None:
    moved(node, node.store())
    assert PREFIX in (node.folder / PREFIX / MARKER).read_text()


def test_a_damaged_segment_stays(node: Node) -> None:
    _, offset, length = node.locations[0]
    with (node.directory / "00000001.seg").open("r+b") as file:
        file.seek(offset + length - 1)
        file.write(b"!")
    (outcome,) = carry_out(node.store(), Upload(FIRST))
    assert outcome.final
    assert "is damaged" in outcome.problem
    assert not node.object_of(FIRST).exists()


def test_an_open_segment_and_one_that_is_gone_stay(node: Node) -> None:
    (open_one,) = (each.number for each in node.journal.segments() if each.open)
    store = node.store()
    for number in (open_one, 99):
        (outcome,) = carry_out(store, Upload(FIRST._replace(segment=number)))
        assert outcome.final, number


def test_an_object_that_reads_back_otherwise_does_not_count(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    put = "bokilog.io.places.Folder.put"
    real = __import__("bokilog.io.places", fromlist=["Folder"]).Folder.put
    monkeypatch.setattr(put, lambda place, name, data: real(place, name, data[:-1] + b"?"))
    (outcome,) = carry_out(node.store(), Upload(FIRST))
    assert "something else" in outcome.problem
    assert not outcome.final, "it is tried again"


def test_an_object_that_was_removed_is_told_from_a_store_that_is_away(node: Node) -> None:
    store = node.store()
    cold = moved(node, store)
    node.object_of(cold).unlink()
    (gone,) = carry_out(store, FetchRange(cold, 0, 100))
    assert gone.final
    assert cold.name in gone.problem
    node.folder.rename(node.folder.with_name("away"))
    jobs = FetchRange(cold, 0, 100), Remove(cold), Upload(FIRST._replace(segment=2))
    for away in carry_out(store, *jobs):
        assert not away.final
        assert "is not mounted" in away.problem
    assert not node.folder.exists(), "nothing is put where the store should be"


def test_a_start_that_knows_of_objects_puts_nothing_into_another_store(node: Node) -> None:
    (outcome,) = carry_out(node.store(known=True), Upload(FIRST))
    assert "another store" in outcome.problem


def test_an_object_that_ends_too_early_is_damage(node: Node) -> None:
    store = node.store()
    cold = moved(node, store)
    with node.object_of(cold).open("r+b") as file:
        file.truncate(50)
    (outcome,) = carry_out(store, FetchRange(cold, 0, 100))
    assert outcome.final


def test_removing_is_done_once_and_twice(node: Node) -> None:
    store = node.store()
    cold = moved(node, store)
    assert carry_out(store, Remove(cold), Remove(cold)) == [ColdOutcome(), ColdOutcome()]
    assert not node.object_of(cold).exists()


def test_a_first_upload_that_a_restart_cut_off_is_made_again(node: Node) -> None:
    """The list noted it, synced (P31); the store was away, so not even the marker was put."""
    node.folder.write_text("not a folder yet")
    (away,) = carry_out(node.store(), StoreList((FIRST,)), Upload(FIRST))[1:]
    assert away.problem
    assert not away.final
    node.folder.unlink()
    found = Cold(SPACE, load_list(node.directory, f"file://{node.folder}"))
    again = node.store(known=bool(found.ends()))
    moved(node, again)
    assert node.object_of(FIRST).exists()


def test_an_object_that_counts_no_more_is_removed_after_a_start_too(node: Node) -> None:
    """Also if it was the only one, so that the start knows of none that counts."""
    cold = moved(node, node.store())
    deleting = cold._replace(state=ColdState.DELETING)
    away = node.folder.rename(node.folder.parent / "not mounted")
    (outcome,) = carry_out(node.store(), Remove(deleting))
    assert "not mounted" in outcome.problem, "it is not forgotten"
    away.rename(node.folder)
    assert carry_out(node.store(), Remove(deleting)) == [ColdOutcome()]
    assert not node.object_of(cold).exists()


def test_what_never_got_to_a_store_is_removed_without_it(node: Node) -> None:
    """Else a list that notes it would never become empty."""
    assert carry_out(node.store(), Remove(FIRST)) == [ColdOutcome()]
    assert not node.folder.exists()


def test_the_list_is_read_back_and_another_store_is_refused(node: Node) -> None:
    url = f"file://{node.folder}"
    assert load_list(node.directory, url) == ()
    carry_out(node.store(), StoreList((FIRST,)))
    assert load_list(node.directory, url) == (FIRST,)
    assert (node.directory / LIST_FILE).read_bytes() == encode_list(url, (FIRST,))
    for other in ("", "s3://bucket"):
        with pytest.raises(InvalidSettings, match=r"cold_url.*1 segments of .* lie in"):
            load_list(node.directory, other)
    carry_out(node.store(), StoreList(()))
    assert load_list(node.directory, "") == (), "nothing lies there any more"


def test_the_journal_starts_beside_its_list_and_without_the_segment(node: Node) -> None:
    carry_out(node.store(), StoreList((FIRST,)))
    node.journal.release(1)
    node.journal.close()
    again = JournalFile(node.directory, sync=NoSync(), verify=lambda *_: True, segment_bytes=8192)
    try:
        found = [location for _, location, _ in again.recover()]
    finally:
        again.close()
    assert found == node.locations[1:]


def test_nobody_waits_for_a_store_at_the_end(node: Node) -> None:
    """A call that hangs is left alone: its thread ends with the process."""
    held = threading.Event()
    store = node.store()
    store._mark = held.wait  # type: ignore[method-assign,assignment]

    async def run() -> None:
        store.start(StartCold(SPACE, Upload(FIRST)), lambda done: pytest.fail(f"told {done}"))
        store.close()

    asyncio.run(run())
    held.set()
