"""A backup counts whole and unaltered or not at all; a restore makes something new or nothing."""

import asyncio
import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

import bokilog
from bokilog.cli.main import main
from bokilog.errors import BackupUnusable, DirectoryInUse, FormatTooNew, InvalidSettings
from bokilog.io.places import Folder, open_place
from bokilog.shapes.backup import backup
from bokilog.shapes.backup_files import FORMAT, MANIFEST, Manifest, encode_manifest, read_manifest
from bokilog.shapes.restore import restore
from bokilog.shapes.verification import Verification
from tests.objects import object_store

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
    with pytest.raises(BackupUnusable, match="nothing is there"):
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


def test_an_empty_folder_is_as_good_as_none(log: Path, taken: Path, tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    restore(Folder(taken), tmp_path / "new")
    assert records(tmp_path / "new") == records(log)


def test_a_destination_that_is_not_empty_is_refused(log: Path, taken: Path) -> None:
    with pytest.raises(InvalidSettings, match="is not empty"):
        asyncio.run(backup(log, Folder(taken)))


def test_an_embedded_log_that_is_open_is_in_use(tmp_path: Path) -> None:
    async def use() -> None:
        async with bokilog.open(tmp_path / "log"):
            with pytest.raises(DirectoryInUse):
                await backup(tmp_path / "log", Folder(tmp_path / "copy"))

    asyncio.run(use())


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
