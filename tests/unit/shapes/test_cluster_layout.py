"""What a local cluster's directory holds, and what may change between two starts."""

import os
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bokilog.errors import InvalidSettings
from bokilog.functions.node import FunctionNodeSettings
from bokilog.ids import START, Term
from bokilog.io.file_views import FileViews
from bokilog.io.open_views import open_views
from bokilog.io.settings import nodes_in, read_settings
from bokilog.sequencer.settings import SequencerSettings
from bokilog.shapes.cluster_layout import MARKER, Layout, first_view, lay_out, read_layout
from bokilog.storage_nodes.settings import StorageSettings
from bokilog.view import View
from tests.etcd import EtcdServer


def stored_view(layout: Layout) -> View:
    view = FileViews(layout.directory / "views").latest()
    assert view is not None
    return view


def test_the_first_view_names_all_nodes_and_one_log_space_per_class(tmp_path: Path) -> None:
    view = stored_view(lay_out(tmp_path / "d"))
    assert view.term == 0
    assert [node.id for node in view.nodes] == [
        "sequencer-1",
        *("storage-1", "storage-2", "storage-3"),
        *("engine-1", "engine-2"),
    ]
    assert [(space.id, space.durability) for space in view.spaces] == [
        (0, "sync"),
        (1, "flush"),
        (2, "memory"),
    ]
    assert {space.primary for space in view.spaces} == {"sequencer-1"}
    assert [(end.position, end.tail) for end in view.ends] == [(START, 1)] * 3
    storage = view.node(view.nodes[1].id)
    assert storage.address == f"unix:{tmp_path}/d/run/storage-1.sock"
    assert storage.bulk_address == f"unix:{tmp_path}/d/run/storage-1.bulk.sock"


@pytest.mark.parametrize(
    ("storage_nodes", "replicas", "write_quorum"), [(1, 1, 1), (2, 2, 2), (3, 3, 2), (5, 3, 2)]
)
def test_a_log_space_has_up_to_three_replicas_and_a_majority_as_write_quorum(
    tmp_path: Path, storage_nodes: int, replicas: int, write_quorum: int
) -> None:
    view = stored_view(lay_out(tmp_path, storage_nodes=storage_nodes))
    assert {(len(set(space.replicas)), space.write_quorum) for space in view.spaces} == {
        (replicas, write_quorum)
    }


def test_every_node_reads_its_settings_from_the_file(tmp_path: Path) -> None:
    layout = lay_out(tmp_path, sync="none", sync_delay_ms=2, storage_nodes=1, function_nodes=1)
    assert nodes_in(layout.settings_file) == {
        "sequencer-1": "sequencer",
        "storage-1": "storage",
        "engine-1": "engine",
    }
    storage = read_settings(
        StorageSettings, section="storage", node="storage-1", file=layout.settings_file
    )
    assert storage == StorageSettings(
        node_id="storage-1",
        views_dir=tmp_path / "views",
        data_dir=tmp_path / "data/storage-1",
        address=f"unix:{tmp_path}/run/storage-1.sock",
        bulk_address=f"unix:{tmp_path}/run/storage-1.bulk.sock",
        sync="none",
        sync_delay_ms=2.0,
    )
    sequencer = read_settings(
        SequencerSettings, section="sequencer", node="sequencer-1", file=layout.settings_file
    )
    assert sequencer.data_dir == tmp_path / "data/sequencer-1"


def test_engines_listen_for_clients_on_a_port_each(tmp_path: Path) -> None:
    layout = lay_out(tmp_path, port=7400)
    engines = [node for node in layout.nodes if node.role == "engine"]
    assert [node.addresses for node in engines] == [
        (f"unix:{tmp_path}/run/engine-1.sock", "tcp:127.0.0.1:7400"),
        (f"unix:{tmp_path}/run/engine-2.sock", "tcp:127.0.0.1:7401"),
    ]
    assert layout.url == "bokilog://127.0.0.1:7400,127.0.0.1:7401"


def test_the_next_start_finds_what_there_is(tmp_path: Path) -> None:
    first = lay_out(tmp_path, storage_nodes=1, port=7400)
    view = stored_view(first)
    second = lay_out(tmp_path)
    assert second == first == read_layout(tmp_path)
    assert stored_view(second) == view


@pytest.mark.parametrize("other", ["http_port", "metrics_port"])
def test_two_ranges_of_ports_may_not_meet(tmp_path: Path, other: str) -> None:
    said: dict[str, Any] = {"port": 9120, other: 9115, "app": "shop:app", "function_nodes": 6}
    with pytest.raises(InvalidSettings, match=f"{other}=9115 reaches 9120, which port has"):
        lay_out(tmp_path / "d", **said)
    assert not (tmp_path / "d").exists(), "nothing of it is kept for the next start"


def test_the_next_start_may_have_other_engines_and_another_port(tmp_path: Path) -> None:
    lay_out(tmp_path)
    layout = lay_out(tmp_path, function_nodes=1, port=7500, sync="none")
    assert layout == read_layout(tmp_path)
    assert list(layout.ports) == [7500]
    assert layout.settings.sync == "none"


def test_the_operators_part_of_the_settings_is_kept(tmp_path: Path) -> None:
    file = lay_out(tmp_path).settings_file
    mine = '# mine\n[storage]\nmemory_bytes = "64 MiB"\n'
    text = file.read_text().replace(MARKER, mine + MARKER)
    file.write_text(text.replace('log_level = "info"', 'log_level = "debug"'))
    layout = lay_out(tmp_path, port=7500)
    assert mine in file.read_text()
    assert layout.settings.log_level == "debug"
    settings = read_settings(StorageSettings, section="storage", node="storage-2", file=file)
    assert settings.memory_bytes == 64 << 20


def test_a_file_without_the_marker_is_not_overwritten(tmp_path: Path) -> None:
    file = lay_out(tmp_path).settings_file
    file.write_text(file.read_text().replace(MARKER, ""))
    with pytest.raises(InvalidSettings, match="has lost the line"):
        lay_out(tmp_path)


def test_storage_nodes_cannot_change_any_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lay_out(tmp_path, storage_nodes=1)
    with pytest.raises(InvalidSettings, match=r"storage_nodes=3 cannot change.*made with 1"):
        lay_out(tmp_path, storage_nodes=3)
    monkeypatch.setenv("BOKILOG_CLUSTER_STORAGE_NODES", "2")
    with pytest.raises(InvalidSettings, match="storage_nodes=2 cannot change"):
        lay_out(tmp_path)


def test_an_even_number_of_sequencers_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidSettings, match=r"sequencers=2 is even: .* no more failures than"):
        lay_out(tmp_path / "d", sequencers=2)
    assert not (tmp_path / "d").exists()


def test_of_three_sequencers_one_is_primary_first_and_the_others_its_backups(
    tmp_path: Path,
) -> None:
    view = first_view(lay_out(tmp_path, sequencers=3))
    assert view.term == 0
    for space in view.spaces:
        assert space.sequencers == ("sequencer-1", "sequencer-2", "sequencer-3")
        assert space.metalog_quorum == 2
    assert {node.incarnation for node in view.nodes} == {0}, "nobody orders in term 0"


def test_somebodys_folder_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "letters.txt").write_text("dear")
    with pytest.raises(InvalidSettings, match=r"is not empty: it holds 'letters\.txt'"):
        lay_out(tmp_path)


def test_a_directory_that_is_not_utf8_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    with pytest.raises(InvalidSettings, match=r"dir='.*bad\\udcff' is not UTF-8"):
        lay_out(tmp_path / os.fsdecode(b"bad\xff"))
    assert not list(tmp_path.iterdir())


def test_a_start_that_was_killed_early_is_no_obstacle(tmp_path: Path) -> None:
    for folder in ("run", "views"):
        (tmp_path / folder).mkdir()
    assert stored_view(lay_out(tmp_path)).term == Term(0)


def test_a_moved_directory_is_named(tmp_path: Path) -> None:
    lay_out(tmp_path / "old")
    (tmp_path / "old").rename(tmp_path / "new")
    with pytest.raises(InvalidSettings, match=r"is not where the cluster was made.*old/run"):
        lay_out(tmp_path / "new")


def test_a_directory_is_the_same_through_a_symbolic_link(tmp_path: Path) -> None:
    layout = lay_out(tmp_path / "old")
    (tmp_path / "link").symlink_to(tmp_path / "old", target_is_directory=True)
    assert lay_out(tmp_path / "link") == layout == read_layout(tmp_path / "link")


def test_a_view_that_was_stored_through_a_symbolic_link_is_this_directorys(tmp_path: Path) -> None:
    # As versions before this one did, which kept the link in the addresses.
    view = stored_view(lay_out(tmp_path / "old"))
    (tmp_path / "link").symlink_to(tmp_path / "old", target_is_directory=True)
    nodes = tuple(
        replace(node, address=node.address.replace("/old/", "/link/")) for node in view.nodes
    )
    with closing(open_views(tmp_path / "old" / "views")) as views:
        assert views.compare_and_swap(view.term, replace(view, term=Term(1), nodes=nodes))
    assert lay_out(tmp_path / "old") == lay_out(tmp_path / "link")


def test_a_directory_without_a_cluster_says_how_to_start_one(tmp_path: Path) -> None:
    with pytest.raises(InvalidSettings, match=f"`bokilog up --dir {tmp_path}`"):
        read_layout(tmp_path)
    with pytest.raises(InvalidSettings, match=r"`bokilog up --dir '.*/not here'`"):
        read_layout(tmp_path / "not here")


@pytest.fixture
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdServer]:
    with EtcdServer(tmp_path_factory.mktemp("etcd") / "data") as server:
        yield server


@pytest.mark.service("etcd")
@pytest.mark.slow
def test_views_in_etcd_belong_to_one_directory(tmp_path: Path, etcd: EtcdServer) -> None:
    url = etcd.url("one")
    layout = lay_out(tmp_path / "a", views_url=url)
    assert layout.views == url
    assert list((tmp_path / "a" / "views").iterdir()) == []
    assert lay_out(tmp_path / "a") == layout == read_layout(tmp_path / "a")
    with pytest.raises(InvalidSettings, match=r"holds the views of another cluster .*own prefix"):
        lay_out(tmp_path / "b", views_url=url)

    with closing(open_views(url)) as views:
        view = views.latest()
        assert view is not None
        assert views.compare_and_swap(view.term, replace(view, term=Term(1)))
    with pytest.raises(InvalidSettings, match=r"is of a cluster in term 1, and .* holds no data"):
        lay_out(tmp_path / "a")
    (tmp_path / "a" / "data" / "storage-1").mkdir()
    assert lay_out(tmp_path / "a") == layout


def test_data_without_views_does_not_begin_anew(tmp_path: Path) -> None:
    layout = lay_out(tmp_path)
    (layout.data_dir / "storage-1").mkdir()
    (tmp_path / "views" / "00000000.view").unlink()
    with pytest.raises(InvalidSettings, match=r"views=.* holds no view, and .* bring its views"):
        lay_out(tmp_path)


def test_where_views_are_is_fixed_by_the_first_start(tmp_path: Path) -> None:
    lay_out(tmp_path)
    with pytest.raises(InvalidSettings, match=r"views_url=etcd://h:1 cannot change any more"):
        lay_out(tmp_path, views_url="etcd://h:1")
    with pytest.raises(InvalidSettings, match="does not start with etcd://"):
        lay_out(tmp_path / "other", views_url="views")


def test_with_an_app_every_engine_has_a_host_which_is_no_node_of_the_view(tmp_path: Path) -> None:
    layout = lay_out(tmp_path, app="shop:app", app_dir=tmp_path / "code", http_port=7500)
    hosts = [node for node in layout.nodes if node.role == "host"]
    assert [(node.id, node.data_dir) for node in hosts] == [("host-1", None), ("host-2", None)]
    assert "host-1" not in {node.id for node in stored_view(layout).nodes}
    assert list(layout.http_ports) == [7500, 7501]
    assert layout.http_url == "http://127.0.0.1:7500"
    settings = read_settings(
        FunctionNodeSettings, section="host", node="host-2", file=layout.settings_file
    )
    assert settings.host.node_id == "host-2" and settings.host.app == "shop:app"
    assert settings.host.app_dir == tmp_path / "code"
    assert settings.host.log_url == f"bokilog+unix://{tmp_path}/run/engine-2.sock"
    assert settings.gateway.http_port == 7501


def test_each_node_has_a_port_for_its_metrics_if_there_is_one_for_the_first(tmp_path: Path) -> None:
    layout = lay_out(tmp_path, metrics_port=7400)
    ports = list(layout.metrics_ports.values())
    assert ports == list(range(7400, 7400 + len(layout.nodes)))
    settings = read_settings(
        SequencerSettings,
        section="sequencer",
        node="sequencer-1",
        file=layout.settings_file,
        environment={},
    )
    assert settings.metrics_address == "tcp:127.0.0.1:7400"
    assert lay_out(tmp_path, metrics_port=0).metrics_ports == {}


def test_the_next_start_may_have_another_app_or_none(tmp_path: Path) -> None:
    first = lay_out(tmp_path, app="shop:app", app_dir=tmp_path)
    assert lay_out(tmp_path) == first
    without = lay_out(tmp_path, app="")
    assert all(node.role != "host" for node in without.nodes) and without.http_url == ""
    assert "host-1" in {node.id for node in lay_out(tmp_path, app="other:app").nodes}


def test_what_names_no_app_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    with pytest.raises(InvalidSettings, match="app='shop' is not MODULE:NAME, as in shop:app"):
        lay_out(tmp_path / "d", app="shop")
    assert not (tmp_path / "d").exists()
