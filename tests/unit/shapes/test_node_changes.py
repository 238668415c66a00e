"""Other numbers of nodes for a stopped cluster: what is refused, and that nothing is stored then.

The changes themselves are made on real directories in tests/integration/test_node_changes.py.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from bokilog.errors import InvalidSettings, NotReady
from bokilog.ids import NodeId, Term
from bokilog.io.file_views import FileViews
from bokilog.sequencer.next_view import Ending
from bokilog.shapes.cluster_layout import SETTINGS, lay_out
from bokilog.shapes.node_changes import change_nodes, following_view, with_nodes
from bokilog.shapes.what_is_left import Left
from bokilog.view import View


def latest(directory: Path) -> View:
    view = FileViews(directory / "views").latest()
    assert view is not None
    return view


def in_term_1(directory: Path) -> View:
    """As after a start."""
    view = replace(latest(directory), term=Term(1))
    assert FileViews(directory / "views").compare_and_swap(Term(0), view)
    return view


def test_before_the_first_start_nothing_can_be_changed(tmp_path: Path) -> None:
    lay_out(tmp_path)
    for name, count in (("sequencers", 3), ("storage_nodes", 4)):
        with pytest.raises(InvalidSettings, match=f"{name}={count} can be changed once"):
            lay_out(tmp_path, change=change_nodes, **{name: count})  # type: ignore[arg-type]  # one of the two
    assert latest(tmp_path).term == 0


def test_the_same_numbers_store_no_view(tmp_path: Path) -> None:
    lay_out(tmp_path, storage_nodes=4, change=change_nodes)
    view = in_term_1(tmp_path)
    lay_out(tmp_path, change=change_nodes)
    assert lay_out(tmp_path, function_nodes=3, change=change_nodes).settings.function_nodes == 3
    assert latest(tmp_path) == view


@pytest.mark.parametrize(
    ("name", "count", "problem"),
    [
        ("storage_nodes", 2, r"takes storage-3 away, which holds the records of log space 0, 1, 2"),
    ],
)
def test_what_holds_something_stays(tmp_path: Path, name: str, count: int, problem: str) -> None:
    lay_out(tmp_path, sequencers=3)
    view = in_term_1(tmp_path)
    settings = (tmp_path / SETTINGS).read_bytes()
    with pytest.raises(InvalidSettings, match=f"{name}={count} {problem}"):
        lay_out(tmp_path, change=change_nodes, **{name: count})  # type: ignore[arg-type]  # one of the two
    assert latest(tmp_path) == view
    assert (tmp_path / SETTINGS).read_bytes() == settings


def test_a_layout_without_a_node_of_the_view_is_refused(tmp_path: Path) -> None:
    """A change was killed between its view and its settings."""
    lay_out(tmp_path)
    view = in_term_1(tmp_path)
    sequencers = [replace(view.nodes[0], id=NodeId(f"sequencer-{n}")) for n in (2, 3)]
    wider = replace(view, term=Term(2), nodes=(*view.nodes, *sequencers))
    assert FileViews(tmp_path / "views").compare_and_swap(Term(1), wider)
    with pytest.raises(InvalidSettings, match=r"sequencers=1 leaves out sequencer-2.*say 3"):
        lay_out(tmp_path)


class Directories:
    """Of sequencers that are stopped: what is done to them."""

    def __init__(self) -> None:
        self.synced: list[NodeId] = []
        self.made: list[NodeId] = []

    def made_anew(self, left: Left, node: NodeId) -> str:
        for space, ending in left.ends.items():
            assert left.source_of(space, node) in ending.sources
        self.made.append(node)
        return f"{node}-anew"

    def sync(self, node: NodeId) -> None:
        assert not self.made, "what is copied is synced before"
        self.synced.append(node)


def left_of(view: View, *sources: tuple[str, ...]) -> Left:
    """Three sequencers are there; by log space, who has its whole metalog."""
    nodes = [node.id for node in view.nodes if node.role == "sequencer"]
    endings = {
        space.id: Ending(end=view.end(space.id), sources=tuple(map(NodeId, names)))
        for space, names in zip(view.spaces, sources, strict=True)
    }
    return Left(view=view, alive=tuple(nodes), gone={}, storage_gone={}, ends=endings)


def shrunk(tmp_path: Path, *sources: tuple[str, ...]) -> tuple[View, Directories]:
    """The next view, once the first sequencer stays alone."""
    lay_out(tmp_path, sequencers=3)
    view = in_term_1(tmp_path)
    staying = [node for node in view.nodes if node.id not in ("sequencer-2", "sequencer-3")]
    directories = Directories()
    left = left_of(view, *sources)
    return following_view(with_nodes(view, staying), left, directories), directories


ALL = ("sequencer-1", "sequencer-2", "sequencer-3")


def test_p11_what_stays_is_synced_before_the_view_says_that_it_is_enough(tmp_path: Path) -> None:
    view, directories = shrunk(tmp_path, ALL, ALL, ALL)
    assert (directories.synced, directories.made) == ([NodeId("sequencer-1")], [])
    assert all(space.sequencers == ("sequencer-1",) for space in view.spaces)


def test_p13_who_stays_and_lacks_one_metalog_gets_all_of_them_from_others(tmp_path: Path) -> None:
    """Also if it is the first of those that have another one whole."""
    view, directories = shrunk(tmp_path, ALL, ALL[1:], ALL)
    assert directories.made == ["sequencer-1"]
    assert view.node(NodeId("sequencer-1")).disk_id == "sequencer-1-anew"
    assert all(space.primary == "sequencer-1" for space in view.spaces)


def test_p13_what_only_one_that_lacks_another_has_needs_a_start_as_it_was(tmp_path: Path) -> None:
    with pytest.raises(NotReady, match="start the cluster as it was"):
        shrunk(tmp_path, ALL[:1], ALL[1:], ALL)
