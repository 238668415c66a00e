"""The view store decides every term once, and a writer killed anywhere leaves it working."""

import os
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from bokilog.errors import CorruptJournal, FormatTooNew, InvalidSettings, NotReady, NotSupported
from bokilog.ids import LogSpaceId, NodeId, Position, Term
from bokilog.io import file_views
from bokilog.io.file_views import FileViews
from bokilog.io.view_store import check_versions, decode_view, encode_view
from bokilog.view import End, LogSpace, Node, View

ENGINE = NodeId("engine-1")


def view(term: int, *, tail: int = 1) -> View:
    storage = NodeId("storage-1")
    return View(
        cluster_id="c",
        history_id="h",
        term=Term(term),
        nodes=(
            Node(id=NodeId("sequencer-1"), role="sequencer", address="unix:run/sequencer-1.sock"),
            Node(id=storage, role="storage", address="unix:a", bulk_address="unix:b"),
        ),
        spaces=(
            LogSpace(
                id=LogSpaceId(0),
                durability="sync",
                primary=NodeId("sequencer-1"),
                replicas=(storage,),
                write_quorum=1,
            ),
        ),
        ends=(
            End(
                space=LogSpaceId(0),
                position=Position(Term(term), 7),
                tail=tail,
                timestamp_ms=1_700_000_000_000,
            ),
        ),
    )


@pytest.fixture
def views(tmp_path: Path) -> FileViews:
    store = FileViews(tmp_path / "views")
    assert store.compare_and_swap(None, view(0))
    return store


def test_an_empty_store_has_no_view(tmp_path: Path) -> None:
    store = FileViews(tmp_path / "views")
    assert (store.latest_term(), store.latest(), store.load(Term(1))) == (None, None, None)


def test_a_stored_view_is_read_as_it_was(views: FileViews) -> None:
    assert views.compare_and_swap(Term(0), view(1))
    assert views.latest() == view(1)
    assert views.load(Term(0)) == view(0)
    assert views.load(Term(2)) is None


def test_p13_a_term_is_decided_once(views: FileViews) -> None:
    other = FileViews(views.path)
    assert other.compare_and_swap(Term(0), view(1, tail=5))
    assert not views.compare_and_swap(Term(0), view(1, tail=6))
    assert not views.compare_and_swap(None, view(0, tail=6))
    assert views.latest() == other.latest() == view(1, tail=5)


def test_of_many_writers_at_once_one_wins(views: FileViews) -> None:
    won: list[int] = []

    def swap(tail: int) -> None:
        if FileViews(views.path).compare_and_swap(Term(0), view(1, tail=tail)):
            won.append(tail)

    threads = [threading.Thread(target=swap, args=(tail,)) for tail in range(1, 9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert views.latest() == view(1, tail=won[0])


def test_p15_no_term_is_left_out(views: FileViews) -> None:
    with pytest.raises(InvalidSettings, match="term=2 does not follow 0"):
        views.compare_and_swap(Term(0), view(2))


def test_a_poller_sees_terms_as_they_come(views: FileViews) -> None:
    poller = FileViews(views.path)
    assert poller.latest_term() == 0
    views.compare_and_swap(Term(0), view(1))
    views.compare_and_swap(Term(1), view(2))
    assert poller.latest_term() == 2


@pytest.mark.parametrize("content", ["", '{"format": 1, "vi'])
def test_a_writer_killed_before_the_link_left_nothing(views: FileViews, content: str) -> None:
    (views.path / "00000001.view.tmp").write_text(content)
    store = FileViews(views.path)
    assert store.latest_term() == 0
    assert store.compare_and_swap(Term(0), view(1))
    assert [name for name in os.listdir(store.path) if name.endswith(".tmp")] == []
    assert store.latest() == view(1)


def test_a_writer_killed_after_the_link_has_decided(views: FileViews) -> None:
    (views.path / "00000001.view.tmp").write_bytes(encode_view(view(1, tail=5)))
    os.link(views.path / "00000001.view.tmp", views.path / "00000001.view")
    store = FileViews(views.path)
    assert not store.compare_and_swap(Term(0), view(1, tail=6))
    assert store.latest() == view(1, tail=5)
    assert store.compare_and_swap(Term(1), view(2))


def test_p31_a_reader_syncs_what_a_killed_writer_may_not_have(
    views: FileViews, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    monkeypatch.setattr(file_views, "sync_directory", synced.append)
    reader = FileViews(views.path)
    reader.load(Term(0))
    reader.load(Term(0))
    assert synced == [str(views.path)]  # once per term


def test_a_store_locked_for_too_long_is_not_ready(
    views: FileViews, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_views, "LOCK_TIMEOUT_S", 0.0)
    with views._locked(), pytest.raises(NotReady, match="is locked by another process"):
        FileViews(views.path).compare_and_swap(Term(0), view(1))


def test_people_can_read_a_view(views: FileViews) -> None:
    text = (views.path / "00000000.view").read_text()
    assert '"write_quorum": 1' in text
    assert len(text.splitlines()) > 20


def test_p25_a_view_of_a_newer_format_is_refused(views: FileViews) -> None:
    file = views.path / "00000000.view"
    file.write_text(file.read_text().replace('"format": 1', '"format": 2'))
    with pytest.raises(FormatTooNew, match="has format 2"):
        FileViews(views.path).latest()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"tail": 1', '"tail": 9'),
        ('"role": "storage"', '"role": "stowage"'),
        ('"checksum"', '"checksun"'),
        ("}", ""),
    ],
)
def test_a_flipped_bit_is_noticed(old: str, new: str) -> None:
    damaged = encode_view(view(1)).decode().replace(old, new)
    with pytest.raises(CorruptJournal, match="'x' is damaged"):
        decode_view(damaged.encode(), "x")


def test_a_view_under_the_name_of_another_term_is_damage(views: FileViews) -> None:
    (views.path / "00000001.view").write_bytes(encode_view(view(3)))
    with pytest.raises(CorruptJournal, match="holds the view of term 3"):
        views.load(Term(1))


def test_p25_a_view_of_another_fold_is_not_taken_part_in() -> None:
    assert check_versions(view(1)) == view(1)
    with pytest.raises(FormatTooNew, match="fold has format 2"):
        check_versions(replace(view(1), fold_version=2))
    with pytest.raises(FormatTooNew, match="protocol has format 2"):
        check_versions(replace(view(1), protocol_version=2))
    with pytest.raises(NotSupported, match="fold version 0"):
        check_versions(replace(view(1), fold_version=0))


def test_p3_incarnations_are_unique_in_the_cluster_and_only_the_latest_counts(
    views: FileViews,
) -> None:
    storage = NodeId("storage-1")
    numbers = [views.register_incarnation(node) for node in (ENGINE, storage, ENGINE)]
    assert numbers == [1, 2, 3]
    other = FileViews(views.path)
    assert (other.latest_incarnation(ENGINE), other.latest_incarnation(storage)) == (3, 2)
    assert other.latest_incarnation(NodeId("engine-9")) == 0


def test_p1_a_crash_between_the_two_counters_leaves_a_number_unused(views: FileViews) -> None:
    views.register_incarnation(ENGINE)
    last = views.path / "incarnations" / "last.json"
    last.write_text('{"node": "storage-1", "incarnation": 2}\n')
    assert views.latest_incarnation(NodeId("storage-1")) == 0
    assert views.register_incarnation(ENGINE) == 3


@pytest.mark.parametrize("name", ["", "../x", ".hidden", "a/b", "last", "x" * 65])
def test_the_name_of_a_node_is_the_name_of_a_file(views: FileViews, name: str) -> None:
    with pytest.raises(InvalidSettings, match="node_id="):
        views.register_incarnation(NodeId(name))
