"""A backup counts whole and unaltered or not at all; a restore makes something new or nothing."""

import asyncio
import json
import shutil
from collections.abc import Iterator
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import bokilog
from bokilog.cli.main import main
from bokilog.errors import (
    BackupUnusable,
    DataLost,
    DirectoryInUse,
    FormatTooNew,
    InvalidSettings,
    NotReady,
)
from bokilog.ids import LogSpaceId, Term
from bokilog.io.file_views import FileViews
from bokilog.io.places import Folder, open_place
from bokilog.messages import StoredFrame, StoredSent
from bokilog.shapes import backup_source
from bokilog.shapes.backup import BYTES_S, backup, copy_log
from bokilog.shapes.backup_files import (
    FORMAT,
    MANIFEST,
    PART_BYTES,
    Manifest,
    encode_manifest,
    read_manifest,
)
from bokilog.shapes.backup_source import EmbeddedSource, embedded_source
from bokilog.shapes.cluster_layout import lay_out
from bokilog.shapes.restore import restore
from bokilog.shapes.verification import Verification
from bokilog.view import View
from tests.objects import object_store

pytestmark = pytest.mark.slow
RECORDS = 40


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An embedded log that was used and closed."""
    directory = tmp_path_factory.mktemp("backup") / "log"

    async def use() -> None:
        async with bokilog.open(directory) as log:
            for number in range(RECORDS):
                await log.book("orders").append(b"record %d" % number, tags=["t"])

    asyncio.run(use())
    return directory


@pytest.fixture(scope="module")
def taken(log: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("backup") / "copy"
    asyncio.run(backup(log, Folder(folder)))
    return folder


@pytest.fixture
def copy(taken: Path, tmp_path: Path) -> Path:
    """A backup, to be damaged."""
    shutil.copytree(taken, tmp_path / "copy")
    return tmp_path / "copy"


def records(directory: Path) -> list[tuple[int, bytes]]:
    async def read() -> list[tuple[int, bytes]]:
        async with bokilog.open(directory) as log:
            return [(each.seqnum, bytes(each.data)) async for each in log.book("orders").scan()]

    return asyncio.run(read())


def assert_nothing_is_left(directory: Path) -> None:
    assert not directory.exists()
    assert [each.name for each in directory.parent.iterdir() if "restoring" in each.name] == []


def test_a_restored_log_has_the_records_and_is_clean(
    log: Path, taken: Path, tmp_path: Path
) -> None:
    made = restore(Folder(taken), tmp_path / "new")
    assert Verification(tmp_path / "new").run().clean
    assert records(tmp_path / "new") == records(log)
    assert made.history_id != read_manifest(Folder(taken)).history_id


@pytest.mark.parametrize(
    "option", [{"storage_nodes": 3}, {"port": 7300}, {"views_url": "etcd://localhost:2379"}]
)
def test_an_embedded_log_takes_no_options_of_a_cluster(
    taken: Path, tmp_path: Path, option: dict[str, Any]
) -> None:
    with pytest.raises(InvalidSettings, match="is of a cluster, and the new log is embedded"):
        restore(Folder(taken), tmp_path / "new", **option)
    assert_nothing_is_left(tmp_path / "new")


def test_an_empty_log_is_backed_up_and_restored(tmp_path: Path) -> None:
    async def use() -> None:
        async with bokilog.open(tmp_path / "log"):
            pass

    asyncio.run(use())
    asyncio.run(backup(tmp_path / "log", Folder(tmp_path / "copy")))
    restore(Folder(tmp_path / "copy"), tmp_path / "new")
    assert records(tmp_path / "new") == []


def test_a_backup_without_its_manifest_is_not_finished(copy: Path, tmp_path: Path) -> None:
    (copy / MANIFEST).unlink()
    with pytest.raises(BackupUnusable, match="not finished"):
        restore(Folder(copy), tmp_path / "new")
    assert_nothing_is_left(tmp_path / "new")


def test_an_empty_place_holds_no_backup(tmp_path: Path) -> None:
    with pytest.raises(BackupUnusable, match="no such folder"):
        restore(Folder(tmp_path / "nowhere"), tmp_path / "new")
    (tmp_path / "nowhere").mkdir()
    with pytest.raises(BackupUnusable, match="nothing is there"):
        restore(Folder(tmp_path / "nowhere"), tmp_path / "new")
    (tmp_path / "nowhere" / "letters.txt").touch()
    with pytest.raises(BackupUnusable, match="not finished"):
        restore(Folder(tmp_path / "nowhere"), tmp_path / "new")


@pytest.mark.parametrize("shape", ["embedded", "cluster"])
@pytest.mark.parametrize("part", ["space-0/rows-00000001.part", "space-0/frames-00000001.part"])
def test_an_altered_part_is_named_and_nothing_is_left(
    copy: Path, tmp_path: Path, part: str, shape: str
) -> None:
    data = bytearray((copy / part).read_bytes())
    data[len(data) // 2] ^= 1
    (copy / part).write_bytes(data)
    with pytest.raises(BackupUnusable, match=part):
        restore(Folder(copy), tmp_path / "new", shape=shape)
    assert_nothing_is_left(tmp_path / "new")


def test_a_missing_part_is_named(copy: Path, tmp_path: Path) -> None:
    (copy / "space-0" / "frames-00000001.part").unlink()
    with pytest.raises(BackupUnusable, match=r"frames-00000001\.part is missing"):
        restore(Folder(copy), tmp_path / "new")
    assert_nothing_is_left(tmp_path / "new")


def test_an_altered_manifest_is_refused(copy: Path, tmp_path: Path) -> None:
    text = (copy / MANIFEST).read_text().replace('"tail": 4', '"tail": 5')
    (copy / MANIFEST).write_text(text)
    with pytest.raises(BackupUnusable, match=MANIFEST):
        restore(Folder(copy), tmp_path / "new")


def _altered(copy: Path, **fields: object) -> Manifest:
    manifest = replace(read_manifest(Folder(copy)), **fields)  # type: ignore[arg-type]  # a test's
    (copy / MANIFEST).write_bytes(encode_manifest(manifest))
    return manifest


@pytest.mark.parametrize("name", ["protocol_version", "fold_version"])
def test_a_backup_of_a_later_version_is_refused_by_name(
    copy: Path, tmp_path: Path, name: str
) -> None:
    _altered(copy, **{name: 99})
    with pytest.raises(FormatTooNew, match="99"):
        restore(Folder(copy), tmp_path / "new")


def test_a_manifest_of_a_later_format_is_refused_by_name(copy: Path, tmp_path: Path) -> None:
    stored = json.loads((copy / MANIFEST).read_text())
    (copy / MANIFEST).write_text(json.dumps({**stored, "format": FORMAT + 1}))
    with pytest.raises(FormatTooNew):
        restore(Folder(copy), tmp_path / "new")


def test_a_folder_that_is_not_empty_is_refused(taken: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("keep")
    with pytest.raises(InvalidSettings, match="mine"):
        restore(Folder(taken), tmp_path)
    assert [each.name for each in tmp_path.iterdir()] == ["mine"]


@pytest.mark.parametrize("option", ["--storage-nodes", "--sequencers"])
def test_a_cluster_of_no_nodes_is_refused(
    taken: Path, tmp_path: Path, option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    new = tmp_path / "new"
    code = main(["restore", str(taken), "--dir", str(new), "--shape", "cluster", option, "0"])
    assert code == 2 and "=0 " in capsys.readouterr().err
    assert not new.exists()


def test_an_empty_folder_is_as_good_as_none(log: Path, taken: Path, tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    restore(Folder(taken), tmp_path / "new")
    assert records(tmp_path / "new") == records(log)


def test_a_destination_that_is_not_empty_is_refused(log: Path, taken: Path) -> None:
    with pytest.raises(InvalidSettings, match=r"is not empty.*a place of its own$"):
        asyncio.run(backup(log, Folder(taken)))


def test_a_destination_that_holds_what_is_left_of_a_killed_backup_is_told_from_others(
    log: Path, copy: Path
) -> None:
    (copy / MANIFEST).unlink()
    with pytest.raises(InvalidSettings, match="was not finished: delete it first"):
        asyncio.run(backup(log, Folder(copy)))


def test_an_embedded_log_that_is_open_is_in_use(tmp_path: Path) -> None:
    async def use() -> None:
        async with bokilog.open(tmp_path / "log"):
            with pytest.raises(DirectoryInUse):
                await backup(tmp_path / "log", Folder(tmp_path / "copy"))

    asyncio.run(use())


class Lacking:
    """An embedded log that has no bytes of one frame; another replica may have them."""

    def __init__(self, source: EmbeddedSource, *, elsewhere: bool) -> None:
        self.view, self.shape, self.spaces = source.view, source.shape, source.spaces
        self.begin, self.rows = source.begin, source.rows
        self._source = source
        self._elsewhere = elsewhere
        self._lacking: list[StoredFrame] = []

    async def frames(
        self, space: LogSpaceId, first: int, until: int
    ) -> tuple[list[StoredFrame], StoredSent]:
        found, sent = await self._source.frames(space, first, until)
        if len(found) < 10:
            return found, sent
        self._lacking.append(found.pop(5))
        return found, sent._replace(lacking=[self._lacking[0].first_seqnum])

    async def frames_elsewhere(self, space: LogSpaceId, first: int) -> list[StoredFrame]:
        return self._lacking if self._elsewhere else []


async def back_up_lacking(log: Path, folder: Path, *, elsewhere: bool) -> Manifest:
    async with embedded_source(log) as source:
        lacking = Lacking(source, elsewhere=elsewhere)
        return await copy_log(lacking, Folder(folder), bytes_s=BYTES_S)


def test_a_frame_that_the_giver_lacks_comes_from_another_replica(log: Path, tmp_path: Path) -> None:
    manifest = asyncio.run(back_up_lacking(log, tmp_path / "copy", elsewhere=True))
    assert [space.lost_frames for space in manifest.spaces] == [0, 0, 0]
    restore(Folder(tmp_path / "copy"), tmp_path / "new")
    assert records(tmp_path / "new") == records(log)
    assert Verification(tmp_path / "new").run().clean


def test_what_no_replica_has_is_told_and_stays_lost(
    log: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = asyncio.run(back_up_lacking(log, tmp_path / "copy", elsewhere=False))
    assert manifest.spaces[0].lost_frames == 1
    assert main(["restore", str(tmp_path / "copy"), "--dir", str(tmp_path / "new")]) == 0
    assert "1 frames are on no replica any more" in capsys.readouterr().out

    async def read() -> list[int]:
        lost = []
        async with bokilog.open(tmp_path / "new") as new:
            for seqnum, data in expected:
                try:
                    record = await new.book("orders").read(seqnum)
                except DataLost as error:
                    lost.append(error.seqnum)
                else:
                    assert record is not None
                    assert bytes(record.data) == data
        return lost

    expected = records(log)
    assert len(asyncio.run(read())) == 1


def test_a_record_larger_than_a_part_is_copied(tmp_path: Path) -> None:
    data = bytes(PART_BYTES + 1)

    async def use() -> None:
        async with bokilog.open(tmp_path / "log") as log:
            await log.book("orders").append(data)

    asyncio.run(use())
    asyncio.run(backup(tmp_path / "log", Folder(tmp_path / "copy"), bytes_s=1 << 40))
    restore(Folder(tmp_path / "copy"), tmp_path / "new")
    assert [found for _, found in records(tmp_path / "new")] == [data]


def test_a_cluster_that_was_never_started_has_nothing_to_back_up(tmp_path: Path) -> None:
    lay_out(tmp_path / "d")
    with pytest.raises(NotReady, match="never started"):
        asyncio.run(backup(tmp_path / "d", Folder(tmp_path / "copy")))
    assert not (tmp_path / "copy").exists()


def test_a_cluster_whose_views_are_lost_is_not_called_one_that_was_never_started(
    tmp_path: Path,
) -> None:
    lay_out(tmp_path / "d")
    for view in (tmp_path / "d" / "views").glob("*.view"):
        view.unlink()
    with pytest.raises(NotReady, match=r"no view is stored in .*: bring its views back$"):
        asyncio.run(backup(tmp_path / "d", Folder(tmp_path / "copy")))


def test_a_backup_that_begins_in_a_change_of_view_waits_for_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout = lay_out(tmp_path / "d", sequencers=3)
    views = FileViews(layout.directory / "views")
    first = views.latest()
    assert first is not None
    in_term = replace(first, term=Term(1))
    assert views.compare_and_swap(Term(0), in_term)
    said = {"published": [1, 7], "tail": 9, "position": [1, 7]}
    facts: dict[str, object] = {"spaces": {space.id: said for space in in_term.spaces}}
    asked: list[Term] = []

    async def connect(view: View, _: AsyncExitStack) -> backup_source.Nodes:
        """Only the primary of the next term knows that it is one."""
        asked.append(view.term)
        answers = {
            node.id: (backup_source.NodeLink(node.id, node.address), facts)
            for node in view.nodes
            if node.role == "storage" or view.term == 2
        }
        if view.term == 1:
            assert views.compare_and_swap(Term(1), replace(view, term=Term(2)))
        return answers

    monkeypatch.setattr(backup_source, "_connect", connect)
    monkeypatch.setattr(backup_source, "RETRY_S", 0)

    async def begin() -> list[int]:
        async with backup_source.cluster_source(layout) as source:
            return [space.tail for space in source.spaces]

    assert asyncio.run(begin()) == [9, 9, 9]
    assert asked == [1, 2]


def test_a_cluster_that_is_stopped_says_that_it_has_to_run(tmp_path: Path) -> None:
    layout = lay_out(tmp_path / "d")
    views = FileViews(layout.directory / "views")
    first = views.latest()
    assert first is not None and views.compare_and_swap(Term(0), replace(first, term=Term(1)))
    with pytest.raises(NotReady, match=rf"start it with bokilog up --dir {layout.directory}$"):
        asyncio.run(backup(tmp_path / "d", Folder(tmp_path / "copy")))


@pytest.fixture
def store() -> Iterator[str]:
    with object_store() as url:
        yield url


@pytest.mark.slow
def test_a_bucket_is_as_good_as_a_folder(
    log: Path, tmp_path: Path, store: str, capsys: pytest.CaptureFixture[str]
) -> None:
    url = f"{store}/nightly/1"
    assert main(["backup", url, "--dir", str(log), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["destination"], told["log_spaces"][0]["id"]) == (url, 0)
    assert main(["restore", url, "--dir", str(tmp_path / "new"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["shape"] == "embedded"
    assert records(tmp_path / "new") == records(log)
    assert main(["backup", url, "--dir", str(log)]) == 2
    assert "is not empty" in capsys.readouterr().err
    assert sorted(open_place(url).names())[0] == MANIFEST
