"""A data directory has one live owner, one identity and counts that never go back (P3, P6, P31)."""

import json
import os
from pathlib import Path

import pytest

from bokilog.errors import CorruptJournal, DirectoryInUse, FormatTooNew, InvalidSettings
from bokilog.io import directory
from bokilog.io.directory import claim, path_of


def test_p3_a_directory_has_one_live_owner(tmp_path: Path) -> None:
    path = tmp_path / "data" / "storage-1"
    with claim(path, "c", "storage-1"), pytest.raises(DirectoryInUse, match=str(path)):
        claim(path, "c", "storage-1")


def test_p3_the_next_owner_finds_the_same_disk(tmp_path: Path) -> None:
    with claim(tmp_path, "c", "storage-1") as first:
        disk_id = first.disk_id
    with claim(tmp_path, "c", "storage-1") as second:
        assert second.disk_id == disk_id
        assert (second.cluster_id, second.node_id) == ("c", "storage-1")


def test_a_wiped_directory_is_another_disk(tmp_path: Path) -> None:
    with claim(tmp_path, "c", "storage-1") as first:
        disk_id = first.disk_id
    (tmp_path / directory.IDENTITY).unlink()
    with claim(tmp_path, "c", "storage-1") as second:
        assert second.disk_id != disk_id


@pytest.mark.parametrize(
    ("cluster_id", "node_id", "named"),
    [("other", "storage-1", "cluster_id='other'.*'c'"), ("c", "storage-2", "storage-2.*storage-1")],
)
def test_p3_a_mismatch_names_both_values(
    tmp_path: Path, cluster_id: str, node_id: str, named: str
) -> None:
    claim(tmp_path, "c", "storage-1").close()
    with pytest.raises(InvalidSettings, match=named):
        claim(tmp_path, cluster_id, node_id)
    claim(tmp_path, "c", "storage-1").close()  # the refused one left no lock behind


def test_p3_a_newer_format_is_refused(tmp_path: Path) -> None:
    claim(tmp_path, "c", "storage-1").close()
    file = tmp_path / directory.IDENTITY
    file.write_text(json.dumps({**json.loads(file.read_text()), "format": 2}))
    with pytest.raises(FormatTooNew, match="has format 2: this version reads up to 1"):
        claim(tmp_path, "c", "storage-1")


def test_a_folder_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "letters.txt").write_text("dear")
    with pytest.raises(InvalidSettings, match=r"not empty: it holds letters\.txt"):
        claim(tmp_path, "c", "storage-1")
    assert [file.name for file in tmp_path.iterdir()] == ["letters.txt"], "not even a lock is made"


def test_a_folder_that_is_filled_before_it_is_locked_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lock_late(path: Path, *, owner_of: Path) -> int:
        (tmp_path / "letters.txt").write_text("dear")
        return lock_file(path, owner_of=owner_of)

    lock_file = directory.lock_file
    monkeypatch.setattr(directory, "lock_file", lock_late)
    with pytest.raises(InvalidSettings, match=r"not empty: it holds letters\.txt"):
        claim(tmp_path, "c", "storage-1")
    assert not (tmp_path / directory.IDENTITY).exists()


def test_a_directory_that_another_process_makes_meanwhile_is_in_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is listed with something in it, and before its identity: that is looked for last."""
    (tmp_path / "views").mkdir()
    listed = Path.iterdir

    def list_early(path: Path) -> list[Path]:
        found = list(listed(path))
        (tmp_path / directory.IDENTITY).write_text("{}")
        monkeypatch.undo()
        return found

    monkeypatch.setattr(Path, "iterdir", list_early)
    owner = directory.lock_file(tmp_path / directory.LOCK, owner_of=tmp_path)
    with pytest.raises(DirectoryInUse):
        claim(tmp_path, "c", "storage-1")
    os.close(owner)


@pytest.mark.parametrize(
    ("name", "problem"),
    [(os.fsdecode(b"bad\xff"), "is not UTF-8"), ("a\0b", "has a NUL")],
)
def test_a_path_that_no_log_can_have_is_refused(tmp_path: Path, name: str, problem: str) -> None:
    with pytest.raises(InvalidSettings, match=problem):
        claim(tmp_path / name, "c", "storage-1")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("said", "problem"),
    [
        (5, "directory=5 is neither a str nor a path"),
        (b"x", "directory=b'x' is neither a str nor a path"),
        ("a\0", "has a NUL"),
        ("", "is empty"),
        ("memory:", "is a URL"),
        ("file:shop", "is a URL"),
        ("bokilog://127.0.0.1:7300", "'bokilog://127.0.0.1:7300' is a URL, which `connect` takes"),
    ],
)
def test_what_is_no_path_is_refused(said: object, problem: str) -> None:
    with pytest.raises(InvalidSettings, match=problem):
        path_of("directory", said)
    assert path_of("directory", Path("x")) == path_of("directory", "x") == Path("x")


@pytest.mark.parametrize("content", ["", "[]", '{"format": 1}', "\x00"])
def test_a_damaged_identity_is_an_error_not_a_new_disk(tmp_path: Path, content: str) -> None:
    claim(tmp_path, "c", "storage-1").close()
    (tmp_path / directory.IDENTITY).write_text(content)
    with pytest.raises((CorruptJournal, InvalidSettings)):
        claim(tmp_path, "c", "storage-1")


def test_p31_a_crash_while_the_identity_is_written_leaves_a_directory_to_claim(
    tmp_path: Path,
) -> None:
    (tmp_path / directory.LOCK).touch()
    (tmp_path / (directory.IDENTITY + directory.TEMPORARY_SUFFIX)).write_text('{"form')
    with claim(tmp_path, "c", "storage-1") as claimed:
        assert claimed.disk_id


def test_p31_a_file_and_its_directory_are_synced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []

    def fsync(descriptor: int) -> None:
        synced.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")).name)

    monkeypatch.setattr(os, "fsync", fsync)
    directory.write_synced(tmp_path / "x.json", b"{}")
    assert synced == ["x.json.tmp", tmp_path.name]


def test_every_start_has_a_number_of_its_own(tmp_path: Path) -> None:
    with claim(tmp_path, "c", "storage-1") as first:
        assert [first.next_incarnation(), first.next_incarnation()] == [1, 2]
    with claim(tmp_path, "c", "storage-1") as second:
        assert second.next_incarnation() == 3


def test_p6_a_boot_of_the_system_is_a_new_incarnation_and_a_start_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with claim(tmp_path, "c", "storage-1") as first:
        assert first.boot_incarnation() == first.boot_incarnation() == 1
    with claim(tmp_path, "c", "storage-1") as second:
        assert second.boot_incarnation() == 1
        monkeypatch.setattr(directory, "boot_id", lambda: "the next boot")
        assert second.boot_incarnation() == 2


def test_a_damaged_count_is_not_counted_from_again(tmp_path: Path) -> None:
    with claim(tmp_path, "c", "storage-1") as claimed:
        claimed.next_incarnation()
        (tmp_path / directory.STARTS).write_text("{}")
        with pytest.raises(CorruptJournal, match="holds no count"):
            claimed.next_incarnation()


def test_the_boot_has_a_name() -> None:
    assert directory.boot_id() == directory.boot_id() != ""
