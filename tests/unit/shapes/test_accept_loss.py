"""Directories of sequencers that are made anew: what is copied whence, what a killed run leaves.

What is decided of them is tested in test_what_is_left.py; with processes in
tests/integration/test_accept_loss.py.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from bokilog.cli.main import main
from bokilog.ids import LogSpaceId, NodeId, Position, Term
from bokilog.io.directory import claim, read_identity
from bokilog.io.file_views import FileViews
from bokilog.sequencer.next_view import Ending
from bokilog.shapes.accept_loss import AcceptLoss
from bokilog.shapes.cluster_layout import Layout, lay_out
from bokilog.shapes.what_is_left import Left, StoredFold
from bokilog.view import End, View

S1, S2, S3 = (NodeId(f"sequencer-{number}") for number in (1, 2, 3))
LATE, WHOLE, MEMORY = (LogSpaceId(number) for number in (0, 1, 2))
NOTE = "note"
"""A file in every metalog, which says whose it was."""


@pytest.fixture
def recovery(tmp_path: Path) -> Iterator[AcceptLoss]:
    """Of three sequencers in term 1, whose disks the view names."""
    with AcceptLoss(in_term_1(tmp_path)) as made:
        yield made


def in_term_1(tmp_path: Path) -> Layout:
    layout = lay_out(tmp_path / "d", sequencers=3)
    view = view_of(tmp_path)
    disks = {}
    for node in (S1, S2, S3):
        with claim(layout.data_dir / node, view.cluster_id, node) as directory:
            disks[node] = directory.disk_id
        for space in view.spaces:
            (layout.data_dir / node / f"metalog-{space.id}").mkdir()
    nodes = tuple(replace(node, disk_id=disks.get(node.id, "")) for node in view.nodes)
    in_term = replace(view, term=Term(1), nodes=nodes)
    assert FileViews(layout.directory / "views").compare_and_swap(Term(0), in_term)
    return layout


def view_of(tmp_path: Path) -> View:
    view = FileViews(tmp_path / "d" / "views").latest()
    assert view is not None
    return view


def note(tmp_path: Path, folder: str, space: LogSpaceId) -> str:
    return (tmp_path / "d" / "data" / folder / f"metalog-{space}" / NOTE).read_text()


def late_in_one(tmp_path: Path) -> Left:
    """S2 let go of what the index of log space 0 needs, and it alone reaches the end of the
    others."""
    view = view_of(tmp_path)
    for node in (S2, S3):
        for space in view.spaces:
            path = tmp_path / "d" / "data" / node / f"metalog-{space.id}"
            (path / NOTE).write_text(f"of {node}")
    sources = {LATE: (S2, S3), WHOLE: (S2,), MEMORY: (S2,)}
    ends = {
        space: Ending(
            end=End(space=space, position=Position(Term(1), 100), tail=1001, timestamp_ms=0),
            sources=nodes,
        )
        for space, nodes in sources.items()
    }
    replica = view.spaces[0].replicas[0]
    fold = StoredFold(Position(Term(1), 90), 901, 0)
    return Left(
        view=view,
        alive=(S2, S3),
        gone={S1: "no such directory"},
        storage_gone={},
        ends=ends,
        begins_at={LATE: {S2: 95, S3: 50}},
        folds={LATE: {replica: fold}, WHOLE: {replica: fold}},
    )


def test_p16_a_sequencer_made_anew_keeps_the_metalogs_that_it_alone_has(
    tmp_path: Path, recovery: AcceptLoss
) -> None:
    left = late_in_one(tmp_path)
    assert left.late() == (S2,)
    disk_id = recovery.made_anew(left, S2)
    data = tmp_path / "d" / "data"
    assert read_identity(data / S2).disk_id == disk_id
    aside = f"{S2}.before-term-2.1"
    assert read_identity(data / aside).disk_id == left.view.node(S2).disk_id != disk_id
    found = {space: note(tmp_path, S2, space) for space in (LATE, WHOLE, MEMORY)}
    assert found == {LATE: f"of {S3}", WHOLE: f"of {S2}", MEMORY: f"of {S2}"}
    assert note(tmp_path, aside, LATE) == f"of {S2}"
    assert sorted(path.name for path in data.iterdir() if S2 in path.name) == [S2, aside]


def test_p14_what_a_killed_run_moved_aside_is_put_back_by_the_next(
    tmp_path: Path, recovery: AcceptLoss
) -> None:
    """The view names the disk that is aside: it has a vote, and the one in its place has none."""
    left = late_in_one(tmp_path)
    recovery.made_anew(left, S2)
    for path in (tmp_path / "d" / "data").glob(f"sequencer-*/metalog-*/{NOTE}"):
        path.unlink()
    for path in (tmp_path / "d" / "data").glob(f"{S2}.before-*/metalog-*/{NOTE}"):
        path.unlink()
    found = recovery.look()
    assert (found.alive, dict(found.gone)) == ((S1, S2, S3), {})
    data = tmp_path / "d" / "data"
    assert read_identity(data / S2).disk_id == left.view.node(S2).disk_id
    names = sorted(path.name for path in data.iterdir() if S2 in path.name)
    assert names == [S2, f"{S2}.before-term-2.2"]
    assert recovery.look() == found


def test_a_run_that_was_killed_while_it_copied_has_changed_nothing(
    tmp_path: Path, recovery: AcceptLoss
) -> None:
    left = late_in_one(tmp_path)
    data = tmp_path / "d" / "data"
    half = data / f"{S2}.unfinished"
    (half / "metalog-0").mkdir(parents=True)
    (half / "metalog-0" / "half").write_text("half")
    disk_id = recovery.made_anew(left, S2)
    assert read_identity(data / S2).disk_id == disk_id
    assert not half.exists()
    assert not (data / S2 / "metalog-0" / "half").exists()


def test_a_copy_that_fails_leaves_the_directory_in_its_place(
    tmp_path: Path, recovery: AcceptLoss
) -> None:
    left = late_in_one(tmp_path)
    data = tmp_path / "d" / "data"
    (data / S3 / "metalog-0").rename(data / "elsewhere")
    with pytest.raises(FileNotFoundError):
        recovery.made_anew(left, S2)
    assert read_identity(data / S2).disk_id == left.view.node(S2).disk_id
    assert not list(data.glob(f"{S2}.before-*"))


def test_what_to_do_next_is_a_command_line_for_that_directory(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without its --dir it would be one for the cluster of the current folder."""
    layout = in_term_1(tmp_path)
    for node in ("storage-1", "storage-2", "storage-3"):
        claim(layout.data_dir / node, view_of(tmp_path).cluster_id, NodeId(node)).close()
    there = f"--dir {layout.directory}"
    assert main(["recover", "--dir", str(layout.directory)]) == 0
    assert f"bokilog up {there}\n" in capsys.readouterr().out
    for node in (S1, S2):
        shutil.rmtree(layout.data_dir / node)
    assert main(["recover", "--dir", str(layout.directory)]) == 1
    assert f"bokilog recover {there} --accept-loss\n" in capsys.readouterr().out
