"""Which view store a setting means: a directory, or a URL of an etcd.

Decides what a URL of views may look like: `etcd://HOST:PORT[,HOST:PORT...][/PREFIX]`. Everything
else is a path. Nothing is connected to here.

Does not know how either store works; the one in etcd is imported by those who use it, since its
client library is an extra of the package (`cluster`).
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final, NamedTuple

from bokilog.errors import InvalidSettings, NotSupported
from bokilog.io.file_views import FileViews
from bokilog.io.view_store import ViewStore

SCHEME: Final = "etcd://"
PREFIX: Final = "/bokilog"
_HOST_PORT = re.compile(r"(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+):(\d{1,5})")
_PREFIX = re.compile(r"(/[A-Za-z0-9._-]+)+")
_PORT_MAX: Final = 65_535


class EtcdPlace(NamedTuple):
    """Where views are in an etcd."""

    endpoints: tuple[str, ...]
    """`host:port` each."""
    prefix: str
    """Of all keys, with a slash before and none behind."""


def parse_views_url(url: str) -> EtcdPlace:
    """The parts of an `etcd://` URL.

    Raises:
        InvalidSettings: it is none.
    """
    if not url.startswith(SCHEME):
        raise InvalidSettings("views_url", repr(url), f"does not start with {SCHEME}")
    places, slash, prefix = url.removeprefix(SCHEME).partition("/")
    if "@" in places:
        problem = "names a user: views in etcd are kept without one"
        raise InvalidSettings("views_url", repr(SCHEME + "..."), problem)
    endpoints = tuple(places.split(","))
    for endpoint in endpoints:
        match = _HOST_PORT.fullmatch(endpoint)
        if match is None or not 1 <= int(match[2]) <= _PORT_MAX:
            problem = f"has {endpoint!r} where HOST:PORT belongs (as in etcd://10.0.0.1:2379/mine)"
            raise InvalidSettings("views_url", repr(url), problem)
    path = f"{slash}{prefix}".rstrip("/")
    if path and not _PREFIX.fullmatch(path):
        problem = f"has the prefix {path!r}: letters, digits, dots, hyphens, underscores, slashes"
        raise InvalidSettings("views_url", repr(url), problem)
    return EtcdPlace(endpoints, path or PREFIX)


def check_views(views_url: str, views_dir: Path | None) -> None:
    """Refuse settings that name no view store; a URL wins over a directory."""
    if views_url:
        parse_views_url(views_url)
    elif views_dir is None:
        raise InvalidSettings("views_dir", "(nothing)", "has no default: set it, or views_url")


def open_views(where: str | Path | None, *, timeout_s: float | None = None) -> ViewStore:
    """The view store of a URL or a path.

    Args:
        where: as `views_url`, or a directory; None is refused.
        timeout_s: how long a call on a store in etcd may take; None: its default.

    Raises:
        InvalidSettings: it is neither.
        NotSupported: the client library for etcd is not installed.
    """
    if where is None:
        raise InvalidSettings("views_dir", "(nothing)", "has no default: set it, or views_url")
    if not isinstance(where, str) or "://" not in where:
        return FileViews(where)
    place = parse_views_url(where)
    try:
        from bokilog.io.etcd_views import CALL_TIMEOUT_S, EtcdViews
    except ImportError as error:
        problem = f"in a checkout of bokilog: pip install '.[cluster]' ({error})"
        raise NotSupported(f"a view store in etcd ({where})", problem) from None
    return EtcdViews(
        place.endpoints,
        place.prefix,
        call_timeout_s=CALL_TIMEOUT_S if timeout_s is None else timeout_s,
    )
