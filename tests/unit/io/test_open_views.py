"""A setting of views means a directory or an etcd; what is neither is refused by name."""

import sys
from pathlib import Path

import pytest

from bokilog.errors import InvalidSettings, NotSupported
from bokilog.io.file_views import FileViews
from bokilog.io.open_views import check_views, open_views, parse_views_url


@pytest.mark.parametrize(
    ("url", "endpoints", "prefix"),
    [
        ("etcd://h:2379", ("h:2379",), "/bokilog"),
        ("etcd://h:2379/", ("h:2379",), "/bokilog"),
        ("etcd://h:2379/mine", ("h:2379",), "/mine"),
        ("etcd://10.0.0.1:1,h-2.x:65535/a/b.c/", ("10.0.0.1:1", "h-2.x:65535"), "/a/b.c"),
        ("etcd://[::1]:2379/x", ("[::1]:2379",), "/x"),
    ],
)
def test_a_url_names_endpoints_and_a_prefix(
    url: str, endpoints: tuple[str, ...], prefix: str
) -> None:
    assert parse_views_url(url) == (endpoints, prefix)


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("", "does not start with etcd://"),
        ("http://h:1", "does not start with etcd://"),
        ("etcd://", "has '' where HOST:PORT belongs"),
        ("etcd://h", "has 'h' where"),
        ("etcd://h:0", "has 'h:0' where"),
        ("etcd://h:65536", "has 'h:65536' where"),
        ("etcd://h:1,/x", "has '' where"),
        ("etcd://h:1/a b", "has the prefix '/a b'"),
        ("etcd://h:1//a", "has the prefix '//a'"),
        ("etcd://me:secret@h:1", "names a user"),
    ],
)
def test_what_is_no_url_of_views_is_refused(url: str, problem: str) -> None:
    with pytest.raises(InvalidSettings, match=problem) as caught:
        parse_views_url(url)
    assert "secret" not in str(caught.value)


def test_a_path_opens_a_store_in_files(tmp_path: Path) -> None:
    for where in (tmp_path / "v", str(tmp_path / "v")):
        store = open_views(where)
        assert isinstance(store, FileViews)
        assert (store.where, store.remote) == (str(tmp_path / "v"), False)


def test_a_url_opens_a_store_in_etcd_that_connects_when_it_is_asked() -> None:
    store = open_views("etcd://h:1")
    assert (store.where, store.remote) == ("etcd://h:1/bokilog", True)
    store.close()


def test_an_unknown_scheme_is_no_path() -> None:
    with pytest.raises(InvalidSettings, match="does not start with etcd://"):
        open_views("zookeeper://h:1")


def test_one_of_url_and_directory_is_needed(tmp_path: Path) -> None:
    check_views("", tmp_path)
    check_views("etcd://h:1", None)
    for call in (lambda: check_views("", None), lambda: open_views(None)):
        with pytest.raises(InvalidSettings, match=r"views_dir=\(nothing\) has no default"):
            call()
    with pytest.raises(InvalidSettings, match="views_url="):
        check_views("views", tmp_path)


def test_without_the_client_library_the_error_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delitem(sys.modules, "bokilog.io.etcd_views", raising=False)
    monkeypatch.setitem(sys.modules, "aetcd", None)
    with pytest.raises(NotSupported, match=r"checkout of bokilog: pip install '\.\[cluster\]'"):
        open_views("etcd://h:1")
