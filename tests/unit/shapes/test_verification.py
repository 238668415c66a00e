"""`bokilog verify`: what is wrong is found, named by file and place, and nothing is changed."""

import asyncio
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

import bokilog
from bokilog.cli.main import main
from bokilog.frame import HEADER_BYTES, decode_head
from bokilog.ids import Term
from bokilog.io.file_views import FileViews
from bokilog.segment import (
    GROUP_HEADER_BYTES,
    SEGMENT_HEADER_BYTES,
    WORD_BYTES,
    Group,
    decode_group,
)
from bokilog.shapes.cluster_layout import lay_out
from bokilog.shapes.verification import Verification
from bokilog.shapes.verify_report import Report
from bokilog.verify import Finding

RECORDS = 12


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An embedded log that was used and closed."""
    directory = tmp_path_factory.mktemp("verify") / "log"

    async def use() -> None:
        async with bokilog.open(directory) as log:
            for number in range(RECORDS):
                await log.book("orders").append(b"record %d " % number * 20, tags=["t"])

    asyncio.run(use())
    return directory


@pytest.fixture
def copy(stopped: Path, tmp_path: Path) -> Path:
    """Its files, to be damaged."""
    shutil.copytree(stopped, tmp_path / "log")
    return tmp_path / "log"


def verified(directory: Path) -> Report:
    return Verification(directory).run()


def findings(directory: Path) -> list[Finding]:
    return [found for part in verified(directory).parts for found in part.findings]


def flip(file: Path, offset: int) -> None:
    data = bytearray(file.read_bytes())
    data[offset] ^= 4
    file.write_bytes(data)


def segment(directory: Path) -> Path:
    return directory / "journal-0" / "00000001.seg"


def groups(directory: Path) -> list[Group]:
    data, at, found = segment(directory).read_bytes(), SEGMENT_HEADER_BYTES, []
    while (group := decode_group(data, at, len(data))) is not None:
        found.append(group)
        at = group.header.end
    return found


def files_of(directory: Path) -> dict[str, tuple[int, int, bytes]]:
    return {
        str(file): (file.stat().st_mtime_ns, file.stat().st_size, file.read_bytes())
        for file in directory.rglob("*")
        if file.is_file()
    }


def test_a_sound_log_is_clean_and_is_not_changed(copy: Path) -> None:
    before = files_of(copy)
    report = verified(copy)
    assert report.clean and report.kind == "embedded"
    assert not any(part.notes for part in report.parts)
    assert files_of(copy) == before


def in_the_middle(directory: Path) -> Group:
    return groups(directory)[RECORDS // 2]


def frame_start(group: Group) -> int:
    return group.items[0].start


def columns_at(directory: Path) -> int:
    return frame_start(in_the_middle(directory)) + HEADER_BYTES + 8


def payload_at(directory: Path) -> int:
    start = frame_start(in_the_middle(directory))
    head = decode_head(segment(directory).read_bytes()[start : start + HEADER_BYTES])
    return start + HEADER_BYTES + head.columns_bytes


@pytest.mark.parametrize(
    ("place", "offset_of", "problem", "affected"),
    [
        ("segment header", lambda d: 16, "header of group 1", "groups"),
        ("group header", lambda d: in_the_middle(d).header.offset + 20, "the header of group", ""),
        (
            "word",
            lambda d: in_the_middle(d).header.offset + GROUP_HEADER_BYTES + WORD_BYTES - 1,
            "lengths of the items",
            "group",
        ),
        ("frame header", lambda d: frame_start(in_the_middle(d)) + 20, "header or columns", "rec"),
        ("frame magic", lambda d: frame_start(in_the_middle(d)), "header is damaged", "unknown"),
        ("columns", columns_at, "columns are damaged", "record"),
        ("payload", payload_at, "record's bytes do not match", "record"),
        ("run", lambda d: in_the_middle(d).items[-1].start + 10, "metalog run", "its entries"),
    ],
)
def test_p29_a_flipped_bit_is_found_where_it_is(
    copy: Path, place: str, offset_of: Callable[[Path], int], problem: str, affected: str
) -> None:
    offset = offset_of(copy)
    flip(segment(copy), offset)
    found = findings(copy)
    here = [each for each in found if each.file == str(segment(copy)) and problem in each.problem]
    assert here, (place, found)
    assert affected in here[0].affected
    if place in ("frame magic", "frame header", "payload"):
        assert here[0].offset == frame_start(in_the_middle(copy)) or here[0].offset == offset


def test_the_index_says_which_seqnums_a_bad_place_held(copy: Path) -> None:
    flip(segment(copy), in_the_middle(copy).items[0].start)
    assert any("seqnums" in found.affected for found in findings(copy))


def test_p30_a_torn_tail_is_a_note_and_no_damage(stopped: Path, copy: Path) -> None:
    """What was written last and not yet synced, as a crash leaves it."""
    last = groups(copy)[-2]  # behind it stands the mark of the clean stop
    data = bytearray(segment(copy).read_bytes())
    data[last.header.end :] = bytes(len(data) - last.header.end)
    data[last.header.end - 3] ^= 1
    segment(copy).write_bytes(data)
    shutil.rmtree(copy / "index-0")  # the fold would know that more was synced
    report = verified(copy)
    assert report.clean
    assert any("torn tail" in note for part in report.parts for note in part.notes)


def test_p19_a_fold_that_knows_more_than_the_journal_is_damage(copy: Path) -> None:
    last = groups(copy)[-2]
    with segment(copy).open("r+b") as file:
        file.truncate(last.header.offset)
    assert any("does not hold the frame" in found.problem for found in findings(copy))


def test_a_missing_segment_is_damage(copy: Path) -> None:
    segment(copy).unlink()
    found = findings(copy)
    assert any("segment 1 is missing" in each.problem for each in found)
    assert any("LogBook" in each.affected for each in found)


def test_a_missing_journal_is_damage(copy: Path) -> None:
    shutil.rmtree(copy / "journal-0")
    assert any(found.problem == "the journal is missing" for found in findings(copy))


def test_a_damaged_index_store_is_damage(copy: Path) -> None:
    (table,) = (copy / "index-0").glob("*.sst")
    flip(table, table.stat().st_size // 8)
    (found,) = findings(copy)
    assert found.file == str(copy / "index-0") and "does not read it" in found.problem


def test_a_damaged_view_is_damage(copy: Path) -> None:
    file = copy / "views" / "00000001.view"
    file.write_text(file.read_text().replace('"tail": 1', '"tail": 2', 1))
    assert any(found.file == str(file) for found in findings(copy))


def test_a_missing_view_is_damage(copy: Path) -> None:
    (copy / "views" / "00000000.view").unlink()
    (copy / "views" / "00000001.view").unlink()
    assert any("there is no view" in found.problem for found in findings(copy))


def test_a_damaged_identity_is_damage(copy: Path) -> None:
    (copy / "identity.json").write_text("{}")
    assert any("identity" in found.problem for found in findings(copy))


def test_p03_a_foreign_directory_of_a_node_is_damage(copy: Path, tmp_path: Path) -> None:
    layout = lay_out(tmp_path / "cluster", storage_nodes=1, function_nodes=1, port=7000)
    assert verified(tmp_path / "cluster").clean
    storage = next(node for node in layout.nodes if node.role == "sequencer")
    assert storage.data_dir is not None
    shutil.copytree(copy, storage.data_dir)
    found = findings(tmp_path / "cluster")
    assert any("foreign or copied" in each.problem for each in found)


def test_a_directory_whose_identity_alone_is_gone_is_not_called_empty(tmp_path: Path) -> None:
    layout = lay_out(tmp_path / "cluster", storage_nodes=1, function_nodes=1, port=7000)
    views = FileViews(layout.directory / "views")
    first = views.latest()
    assert first is not None and views.compare_and_swap(Term(0), replace(first, term=Term(1)))
    (layout.data_dir / "storage-1" / "journal-0").mkdir(parents=True)
    told = {found.file: found.problem for found in findings(layout.directory)}
    assert told[str(layout.data_dir / "storage-1")] == "it has no identity.json"
    assert told[str(layout.data_dir / "sequencer-1")] == "the node's directory is gone or empty"


def test_p03_a_directory_in_use_cannot_be_checked(
    copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async def use() -> int:
        async with bokilog.open(copy):
            return main(["verify", str(copy)])

    assert asyncio.run(use()) == 2
    assert "is in use already" in capsys.readouterr().err


def test_a_directory_of_something_else_cannot_be_checked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["verify", str(tmp_path)]) == 2
    assert "holds nothing of bokilog's" in capsys.readouterr().err
    assert os.listdir(tmp_path) == []


def test_the_command_says_what_is_wrong(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(copy)]) == 0
    assert capsys.readouterr().out.endswith("clean\n")
    flip(segment(copy), payload_at(copy))
    assert main(["verify", str(copy)]) == 1
    assert "DAMAGED" in capsys.readouterr().out
    assert main(["verify", str(copy), "--json"]) == 1
    plain = json.loads(capsys.readouterr().out)
    assert not plain["clean"]
    damaged = next(part for part in plain["parts"] if part["findings"])
    assert {"file", "offset", "problem", "affected"} == set(damaged["findings"][0])
