"""Settings come from three places, have their types, and a mistyped one is named with the right."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest

from bokilog.errors import InvalidSettings
from bokilog.io.settings import ClusterSettings, check_setting, nodes_in, read_settings
from bokilog.sequencer.settings import SequencerSettings
from bokilog.storage_nodes.settings import StorageSettings

TEXT = """
[cluster]
views_dir = "views"
sync_delay_ms = 1
storage_nodes = 1

[storage]
memory_bytes = "64 MiB"

[nodes.storage-1]
role = "storage"
address = "unix:run/storage-1.sock"
data_dir = "data/storage-1"

[nodes.sequencer-1]
role = "sequencer"
address = "tcp:127.0.0.1:7200"
data_dir = "/elsewhere"
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    count: int = 1
    ratio: float = 0.5
    enabled: bool = False
    name: str = "x"
    mode: Literal["a", "b"] = "a"
    place: Path | None = None
    limit_bytes: int | None = 10
    addresses: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    node_id: str
    core: Sample = Sample()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "cluster.toml"
    path.write_text(TEXT)
    return path


def storage(file: Path, **environment: str) -> StorageSettings:
    return read_settings(
        StorageSettings, section="storage", node="storage-1", file=file, environment=environment
    )


def sample(environment: dict[str, str] | None = None, **explicit: object) -> Sample:
    return read_settings(Sample, section="storage", environment=environment, explicit=explicit)


def test_a_node_gets_its_table_its_section_and_what_the_cluster_shares(file: Path) -> None:
    assert storage(file) == StorageSettings(
        node_id="storage-1",
        views_dir=file.parent / "views",
        data_dir=file.parent / "data/storage-1",
        address="unix:run/storage-1.sock",
        memory_bytes=64 << 20,
        sync_delay_ms=1.0,
    )


def test_an_absolute_path_stays_as_it_is(file: Path) -> None:
    settings = read_settings(SequencerSettings, section="sequencer", node="sequencer-1", file=file)
    assert settings.data_dir == Path("/elsewhere")


def test_the_environment_wins_over_the_file_and_the_caller_over_both(file: Path) -> None:
    environment = {"BOKILOG_STORAGE_SYNC": "none", "BOKILOG_STORAGE_SYNC_DELAY_MS": "7"}
    assert storage(file, **environment).sync == "none"
    assert storage(file, BOKILOG_CLUSTER_SYNC_DELAY_MS="6").sync_delay_ms == 6.0
    settings = read_settings(
        StorageSettings,
        section="storage",
        node="storage-1",
        file=file,
        environment={**environment, "BOKILOG_URL": "bokilog://x", "BOKILOG_ENGINE_X": "y"},
        explicit={"sync_delay_ms": "8.5"},
    )
    assert (settings.sync, settings.sync_delay_ms) == ("none", 8.5)


def test_texts_are_read_by_the_type_of_the_field() -> None:
    environment = {
        "BOKILOG_STORAGE_COUNT": "7",
        "BOKILOG_STORAGE_RATIO": "2",
        "BOKILOG_STORAGE_ENABLED": "yes",
        "BOKILOG_STORAGE_MODE": "b",
        "BOKILOG_STORAGE_PLACE": "somewhere",
        "BOKILOG_STORAGE_LIMIT_BYTES": "2KiB",
        "BOKILOG_STORAGE_ADDRESSES": "unix:a, unix:b",
    }
    assert sample(environment) == Sample(
        count=7,
        ratio=2.0,
        enabled=True,
        mode="b",
        place=Path("somewhere"),
        limit_bytes=2048,
        addresses=("unix:a", "unix:b"),
    )
    assert sample(limit_bytes=None).limit_bytes is None


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("count", "seven", "count='seven' is not a whole number"),
        ("count", 1.5, "count=1.5 is not a whole number"),
        ("count", True, "count=True is not a whole number"),
        ("ratio", "x", "ratio='x' is not a number"),
        ("enabled", "perhaps", "is not true or false"),
        ("mode", "c", "mode='c' is none of a, b"),
        ("name", 1, "name=1 is not a text"),
        ("addresses", 1, "addresses=1 is not a list"),
        ("limit_bytes", "2 parsecs", "limit_bytes='2 parsecs' is not a whole number"),
    ],
)
def test_a_value_of_another_type_is_named(key: str, value: object, message: str) -> None:
    with pytest.raises(InvalidSettings, match=message):
        read_settings(Sample, section="storage", explicit={key: value})


def test_in_a_file_a_number_is_no_text(file: Path) -> None:
    file.write_text(TEXT.replace('"64 MiB"', '"64"'))
    with pytest.raises(InvalidSettings, match="memory_bytes='64' is not a whole number"):
        storage(file)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("memory_bytes", "memory_byte", r"memory_byte is unknown \(in \[storage\].*memory_bytes"),
        ("views_dir", "view_dir", r"view_dir is unknown \(in \[cluster\].*did you mean views_dir"),
        ("data_dir", "data_dri", r"in \[nodes.storage-1\].*did you mean data_dir"),
        ("[storage]", "[storag]", "storag is unknown .*did you mean storage"),
        ('role = "storage"', "", "node='storage-1' has the role None"),
        ('address = "unix:run/storage-1.sock"', "", r"address=\(nothing\) has no default"),
        ("nodes.storage-1", "nodes.storage-2", "'storage-1' is not in .*it has storage-2, seq"),
        ("[cluster]", "[cluster", "is no TOML"),
    ],
)
def test_a_mistake_in_the_file_names_the_nearest_right_one(
    file: Path, old: str, new: str, message: str
) -> None:
    file.write_text(TEXT.replace(old, new, 1))
    with pytest.raises(InvalidSettings, match=message):
        storage(file)


def test_a_mistake_in_the_environment_names_the_nearest_right_one(file: Path) -> None:
    with pytest.raises(InvalidSettings, match="did you mean BOKILOG_STORAGE_SYNC"):
        storage(file, BOKILOG_STORAGE_SINC="none")


def test_the_settings_of_a_core_stand_beside_those_of_its_process() -> None:
    settings = read_settings(
        Process, section="engine", node="engine-1", environment={"BOKILOG_ENGINE_COUNT": "3"}
    )
    assert settings == Process(node_id="engine-1", core=Sample(count=3))
    with pytest.raises(InvalidSettings, match="did you mean count"):
        read_settings(Process, section="engine", node="engine-1", explicit={"cout": 1})


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidSettings, match=r"nothing\.toml cannot be read: No such file"):
        storage(tmp_path / "nothing.toml")


def test_the_processes_of_a_file_have_roles(file: Path) -> None:
    assert nodes_in(file) == {"storage-1": "storage", "sequencer-1": "sequencer"}


@pytest.mark.parametrize("value", [0, 11, float("nan")])
def test_a_number_out_of_range_is_named_with_the_range(value: float) -> None:
    with pytest.raises(InvalidSettings, match=r"level=.* is outside 1\.\.10: it hurts"):
        check_setting("level", value, least=1, most=10, why="it hurts")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"port": 65_535}, r"port=65535 is outside 1\.\.65534"),
        ({"storage_nodes": 0}, r"storage_nodes=0 is outside 1\.\.64"),
        ({"sync_delay_ms": -1}, "sync_delay_ms"),
        ({"log_bytes_max": 1}, "log_bytes_max=1 is not at least 4096"),
    ],
)
def test_a_cluster_has_ranges(changed: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidSettings, match=message):
        read_settings(ClusterSettings, section="cluster", explicit=changed)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"address": "storage"}, "is neither tcp:HOST:PORT nor unix:PATH"),
        ({"bulk_address": "unix:a"}, "is `address` too"),
        ({"pending_bytes": 1}, "the largest unit must fit"),
        ({"checkpoint_s": 0.0}, r"checkpoint_s=0.0 is outside 0\.1\.\.3600"),
    ],
)
def test_a_storage_node_has_ranges(changed: dict[str, object], message: str) -> None:
    explicit = {"views_dir": "v", "data_dir": "d", "address": "unix:a", **changed}
    with pytest.raises(InvalidSettings, match=message):
        read_settings(StorageSettings, section="storage", node="s", explicit=explicit)
