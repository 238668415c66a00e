"""Where whole objects are kept: a folder, or a bucket of an object store. For backups, and for
journal segments that nobody appends to any more.

Decides what a place promises, how its URL looks, and how a folder keeps objects. An object has a
name of plain parts divided by slashes, is written once as a whole, and is durable when `put`
returns; a crash leaves all of it or nothing under its name.

Does not know what objects hold, nor how an object store is spoken to (`object_store.py`, imported
only by those who name one, since its client library is an extra of the package).
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Final, Protocol

from bokilog.errors import InvalidSettings, NotSupported
from bokilog.io.directory import TEMPORARY_SUFFIX, make_directory, write_synced
from bokilog.io.sync import sync_directory

SCHEME: Final = "s3://"
FOLDER_SCHEME: Final = "file://"


class Place(Protocol):
    """Objects by name. Calls block, and may be made from any thread, also at once."""

    @property
    def where(self) -> str:
        """The place for people: a path or a URL."""
        ...

    def names(self) -> Iterable[str]:
        """The names of all objects, in no order.

        Raises:
            NodeUnreachable: the store does not answer, or refuses.
        """
        ...

    def put(self, name: str, data: bytes) -> None:
        """Keep an object; it is durable when this returns.

        Raises:
            NodeUnreachable: as `names`; whether it is kept is unknown.
        """
        ...

    def get(self, name: str) -> bytes | None:
        """All of an object, or None if there is none of that name.

        Raises:
            NodeUnreachable: as `names`.
        """
        ...

    def get_range(self, name: str, start: int, until: int) -> bytes | None:
        """Bytes `[start, until)` of an object, fewer if it ends before; None if there is none of
        that name.

        Raises:
            NodeUnreachable: as `names`.
        """
        ...

    def delete(self, name: str) -> None:
        """Remove an object; one that is not there is no error.

        Raises:
            NodeUnreachable: as `names`; whether it is kept is unknown.
        """
        ...


class Folder:
    """Objects as files; made with its first object."""

    def __init__(self, path: Path) -> None:
        self._path = path.expanduser().absolute()

    @property
    def where(self) -> str:
        return str(self._path)

    @property
    def exists(self) -> bool:
        """Whether there is such a folder, or something else of its name."""
        return self._path.exists()

    def names(self) -> Iterable[str]:
        if self._path.exists() and not self._path.is_dir():
            raise InvalidSettings("folder", repr(self.where), "is a file")
        for file in self._path.rglob("*"):
            if file.is_file():
                yield file.relative_to(self._path).as_posix()

    def put(self, name: str, data: bytes) -> None:
        file = self._path / name
        make_directory(file.parent)
        try:
            write_synced(file, data)
        except OSError as error:
            if error.filename is None:  # as of a full disk: `write` knows no names
                error.filename = str(file)
            raise

    def get(self, name: str) -> bytes | None:
        assert not name.endswith(TEMPORARY_SUFFIX), name
        try:
            return (self._path / name).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None

    def get_range(self, name: str, start: int, until: int) -> bytes | None:
        try:
            with (self._path / name).open("rb") as file:
                file.seek(start)
                return file.read(until - start)
        except (FileNotFoundError, NotADirectoryError):
            return None

    def delete(self, name: str) -> None:
        file = self._path / name
        file.unlink(missing_ok=True)
        if file.parent.exists():
            sync_directory(str(file.parent))


def open_place(where: str, *, patience_s: float | None = None) -> Place:
    """The place of a path or `file:///PATH`, or of a URL `s3://BUCKET[/PREFIX]`.

    Args:
        where: its name.
        patience_s: about how long a call may take in all; None: what a backup may wait.

    Raises:
        InvalidSettings: a URL of another kind.
        NotSupported: the client library for object stores is not installed.
    """
    check_place(where)
    if "://" not in where:
        return Folder(Path(where))
    if where.startswith(FOLDER_SCHEME):
        return Folder(Path(where.removeprefix(FOLDER_SCHEME)))
    try:
        from bokilog.io.object_store import ObjectStore
    except ImportError as error:
        problem = f"in a checkout of bokilog: pip install '.[cluster]' ({error})"
        raise NotSupported(f"an object store ({where})", problem) from None
    return ObjectStore(where, patience_s=patience_s)


def check_place(where: str) -> None:
    """Refuse what is no place, without a look at it.

    Raises:
        InvalidSettings: a URL of another kind.
    """
    if "://" not in where or where.startswith(f"{FOLDER_SCHEME}/"):
        return
    if not where.startswith(SCHEME) or not where.removeprefix(SCHEME).strip("/"):
        raise InvalidSettings("place", repr(where), f"is no path and no {SCHEME}BUCKET/PREFIX")
