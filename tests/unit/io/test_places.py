"""What every place for objects promises: one suite, for a folder and for an object store."""

import os
from collections.abc import Callable, Iterator
from errno import ENOSPC
from pathlib import Path

import pytest

from bokilog.errors import InvalidSettings, NodeUnreachable
from bokilog.io.places import Folder, Place, open_place
from tests.objects import object_store

MakePlace = Callable[[str], Place]


@pytest.fixture(scope="module")
def store() -> Iterator[str]:
    with object_store() as url:
        yield url


@pytest.fixture(params=["folder", pytest.param("s3", marks=pytest.mark.slow)])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> MakePlace:
    if request.param == "folder":
        return lambda name: open_place(str(tmp_path / name))
    url: str = request.getfixturevalue("store")
    return lambda name: open_place(f"{url}/{name}")


def test_what_was_put_is_there_under_its_name(make: MakePlace) -> None:
    place = make("kept")
    assert list(place.names()) == []
    place.put("space-0/rows-1.part", b"rows")
    place.put("manifest.json", b"{}")
    assert sorted(make("kept").names()) == ["manifest.json", "space-0/rows-1.part"]
    assert place.get("space-0/rows-1.part") == b"rows"


def test_what_is_put_again_takes_the_place_of_the_first(make: MakePlace) -> None:
    place = make("again")
    place.put("one", b"first")
    place.put("one", b"second")
    assert place.get("one") == b"second"


def test_there_is_nothing_under_a_name_that_was_not_put(make: MakePlace) -> None:
    place = make("other")
    assert place.get("nothing") is None
    make("neighbour").put("one", b"theirs")
    assert list(place.names()) == []


@pytest.mark.parametrize("where", ["ftp://host/path", "s3://", "etcd://host:1"])
def test_a_url_of_another_kind_is_refused_by_name(where: str) -> None:
    with pytest.raises(InvalidSettings, match=where):
        open_place(where)


def test_a_folder_has_a_url_too(tmp_path: Path) -> None:
    open_place(f"file://{tmp_path}/there").put("one", b"1")
    assert (tmp_path / "there" / "one").read_bytes() == b"1"
    with pytest.raises(InvalidSettings, match="file://there"):
        open_place("file://there")


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(InvalidSettings, match="is a file"):
        list(Folder(tmp_path / "file").names())


def test_ranges_are_read_and_objects_removed(make: MakePlace) -> None:
    place = make("ranges")
    place.put("one", b"0123456789")
    assert place.get_range("one", 3, 6) == b"345"
    assert place.get_range("one", 8, 12) == b"89"
    assert place.get_range("nothing", 3, 6) is None
    place.delete("one")
    place.delete("one")
    assert place.get("one") is None


def test_a_folder_that_is_full_names_the_file_that_did_not_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> int:
        raise OSError(ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError, match=str(tmp_path / "kept" / "one")):
        Folder(tmp_path / "kept").put("one", b"1")


@pytest.mark.parametrize(
    "value",
    ["", "127.0.0.1:9000", "localhost", "ftp://host", "http://", "http://host:x", "http://a b"],
)
def test_an_endpoint_that_is_no_url_is_refused_by_the_name_of_its_variable(
    value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client library would end the process."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", value)
    with pytest.raises(InvalidSettings, match=f"AWS_ENDPOINT_URL='{value}' is no URL http"):
        open_place("s3://bucket/x")


def test_a_store_that_nobody_runs_is_unreachable_and_never_empty(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from bokilog.io.object_store import ObjectStore

    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "nobody")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "nothing")
    place = ObjectStore("s3://bucket/x", retries_max=0)
    with pytest.raises(NodeUnreachable, match="s3://bucket/x"):
        place.get("one")
    with pytest.raises(NodeUnreachable):
        list(place.names())
    with pytest.raises(NodeUnreachable):
        place.put("one", b"")
