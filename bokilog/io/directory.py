"""A node's data directory: who owns it, which disk it is, and how often it was started.

Decides when a directory may be used: by one live process at a time (file lock), by the node it was
made for, in a format that this version reads (P3). A file here is written beside its place, synced,
renamed and its directory synced, so that a crash leaves the old content or the new one (P31).

Invariants: a disk id is made once and is never given again, so a wiped directory is another disk;
the counts only grow, and a number is on disk before anybody sees it. Two of them tell reports of an
earlier life from later ones (P6): starts of the process for `memory`, boots of the operating system
for `flush`. For `sync` the disk id does.

Does not know what a node keeps in it.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Final, NamedTuple, Self

from bokilog.errors import CorruptJournal, DirectoryInUse, FormatTooNew, InvalidSettings
from bokilog.io.sync import sync_directory

FORMAT: Final = 1
IDENTITY: Final = "identity.json"
LOCK: Final = "lock"
STARTS: Final = "starts.json"
BOOTS: Final = "boots.json"
# Told from data by its ending: whoever finds one knows that a crash left it.
TEMPORARY_SUFFIX: Final = ".tmp"
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_COMMAND_TIMEOUT_S: Final = 5.0
# Made once: where the system does not tell its boot, each process counts as a boot of its own. That
# is the safe direction: what was written before is sent again, never counted without being there.
_PROCESS_ID = secrets.token_hex(16)


class Directory:
    """A claimed directory; the lock is held until `close` or the end of the process."""

    __slots__ = ("_lock", "cluster_id", "disk_id", "node_id", "path")

    def __init__(
        self, path: Path, *, cluster_id: str, node_id: str, disk_id: str, lock: int
    ) -> None:
        self.path = path
        self.cluster_id = cluster_id
        self.node_id = node_id
        self.disk_id = disk_id
        """Random, made with the directory: names this copy of the data for ever (P6, P14)."""
        self._lock: int | None = lock

    def next_incarnation(self) -> int:
        """The number of this start, from 1; no earlier start of this directory had it."""
        number = _read_count(self.path / STARTS)[0] + 1
        write_synced(self.path / STARTS, _to_json({"count": number}))
        return number

    def boot_incarnation(self) -> int:
        """The number of this boot of the operating system, as this directory counts them, from 1.

        What was handed to the operating system survives the process but not the boot, so this is
        the incarnation that the `flush` class reports with (P6).
        """
        number, seen = _read_count(self.path / BOOTS)
        current = boot_id()
        if current != seen:
            number += 1
            write_synced(self.path / BOOTS, _to_json({"count": number, "boot_id": current}))
        return number

    @property
    def closed(self) -> bool:
        """Whether another process may have the directory."""
        return self._lock is None

    def close(self) -> None:
        """Let another process have the directory; closing twice changes nothing."""
        lock, self._lock = self._lock, None
        if lock is not None:
            os.close(lock)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def claim(path: Path | str, cluster_id: str, node_id: str) -> Directory:
    """Own the directory at `path`, made and given a disk id if there is none yet.

    Raises:
        DirectoryInUse: another live process owns it.
        InvalidSettings: it belongs to another cluster or node, or holds something else altogether.
        FormatTooNew: a later version wrote it.
        CorruptJournal: its identity cannot be read.
        OSError: the operating system does not allow it.
    """
    path = Path(path).absolute()
    check_path("data_dir", path)
    make_directory(path)
    _check_ours(path)  # before anything is made in somebody else's folder
    lock = lock_file(path / LOCK, owner_of=path)
    try:
        identity = _identity(path, cluster_id=cluster_id, node_id=node_id)
    except BaseException:
        os.close(lock)
        raise
    return Directory(
        path,
        cluster_id=cluster_id,
        node_id=node_id,
        disk_id=identity["disk_id"],
        lock=lock,
    )


def check_path(name: str, path: Path) -> None:
    """Refuse a path that files of a log cannot lie under; `name` is of what holds it.

    Settings name it in TOML and the index stores in C++, both as UTF-8.

    Raises:
        InvalidSettings: it has bytes that are none, or a NUL.
    """
    text = str(path)
    if "\0" in text:
        raise InvalidSettings(name, repr(text), "has a NUL, which no path can have")
    try:
        text.encode()
    except UnicodeEncodeError:
        problem = "is not UTF-8, as the path of a log has to be"
        raise InvalidSettings(name, repr(text), problem) from None


def path_of(name: str, said: object) -> Path:
    """What a caller says a log is in, as a path.

    Raises:
        InvalidSettings: it is no path, or not one of a log.
    """
    text: object = os.fspath(said) if isinstance(said, os.PathLike) else said
    if not isinstance(text, str):
        raise InvalidSettings(name, repr(said), "is neither a str nor a path of text")
    if not text:
        raise InvalidSettings(name, repr(text), "is empty: '.' is the current folder")
    if text == "memory:" or text.startswith(("bokilog://", "bokilog+unix://", "file:")):
        raise InvalidSettings(
            name, repr(text), "is a URL, which `connect` takes: open takes a path"
        )
    check_path(name, Path(text))
    return Path(text)


class StoredIdentity(NamedTuple):
    """What a data directory says of itself."""

    cluster_id: str
    node_id: str
    disk_id: str


def read_identity(path: Path) -> StoredIdentity:
    """The identity of an existing data directory; changes nothing.

    Raises:
        InvalidSettings: there is none.
        FormatTooNew: a later version wrote it.
        CorruptJournal: it cannot be read.
    """
    file = path / IDENTITY
    if not file.exists():
        raise InvalidSettings("dir", repr(str(path)), f"is no data directory (no {IDENTITY})")
    stored = _read_json(file)
    found = stored.get("format")
    if isinstance(found, int) and found > FORMAT:
        raise FormatTooNew(f"data directory {str(path)!r}", found, FORMAT)
    values = [stored.get(name) for name in StoredIdentity._fields]
    texts = [value for value in values if isinstance(value, str) and value]
    if found != FORMAT or len(texts) != len(values):
        raise CorruptJournal(str(file), 0, "it is not the identity of a data directory")
    return StoredIdentity(*texts)


def check_counts(path: Path) -> None:
    """Raises `CorruptJournal` if the counts of starts or boots of a directory cannot be read."""
    for name in (STARTS, BOOTS):
        _read_count(path / name)


def lock_to_read(path: Path) -> int | None:
    """Keep an existing directory's owner away while it is read; nothing is made or changed.

    Returns:
        The descriptor to close; None if nobody ever owned the directory.

    Raises:
        DirectoryInUse: a live process owns it.
    """
    try:
        descriptor = os.open(path / LOCK, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise DirectoryInUse(str(path)) from None
    return descriptor


def boot_id() -> str:
    """What names this boot of the operating system, differing from every other boot."""
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        pass
    if sys.platform == "darwin":
        try:
            return subprocess.run(
                ["/usr/sbin/sysctl", "-n", "kern.bootsessionuuid"],
                capture_output=True,
                check=True,
                text=True,
                timeout=_COMMAND_TIMEOUT_S,
            ).stdout.strip()
        except (OSError, subprocess.SubprocessError):
            pass
    return f"process-{_PROCESS_ID}"


# --- files that survive a crash -------------------------------------------------------------------


def make_directory(path: Path) -> None:
    """Make `path` and what leads there, each synced into the directory above it (P31)."""
    missing = [path, *path.parents]
    missing = [folder for folder in missing if not folder.exists()]
    for folder in reversed(missing):
        folder.mkdir(exist_ok=True)
        sync_directory(str(folder.parent))


def write_synced(path: Path, data: bytes) -> None:
    """Replace the file at `path` by one that holds `data`: wholly or not at all, and for good."""
    temporary = path.with_name(path.name + TEMPORARY_SUFFIX)
    write_new(temporary, data)
    os.replace(temporary, path)
    sync_directory(str(path.parent))


def write_new(path: Path, data: bytes) -> None:
    """Write and sync a file, whatever was there before; its directory is not synced."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
    try:
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(descriptor, rest) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def lock_file(path: Path, *, owner_of: Path) -> int:
    """The descriptor of a file locked for this process, until it is closed.

    Raises:
        DirectoryInUse: another process holds it; names `owner_of`.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        if isinstance(error, BlockingIOError):
            raise DirectoryInUse(str(owner_of)) from None
        raise
    return descriptor


# --- pieces ---------------------------------------------------------------------------------------


def _identity(path: Path, *, cluster_id: str, node_id: str) -> dict[str, str]:
    file = path / IDENTITY
    if not file.exists():
        _check_ours(path)  # again: now that it is locked, nobody of ours changes it
        fresh = {"cluster_id": cluster_id, "node_id": node_id, "disk_id": secrets.token_hex(16)}
        write_synced(file, _to_json({"format": FORMAT, **fresh}))
        return fresh
    stored = _read_json(file)
    found = stored.get("format")
    if isinstance(found, int) and found > FORMAT:
        raise FormatTooNew(f"data directory {str(path)!r}", found, FORMAT)
    for name, wanted in (("cluster_id", cluster_id), ("node_id", node_id)):
        if stored.get(name) != wanted:
            problem = f"is not that of data directory {str(path)!r}: it is of {stored.get(name)!r}"
            raise InvalidSettings(name, repr(wanted), problem)
    disk_id = stored.get("disk_id")
    if found != FORMAT or not isinstance(disk_id, str) or not disk_id:
        raise CorruptJournal(str(file), 0, "it is not the identity of a data directory")
    return {"cluster_id": cluster_id, "node_id": node_id, "disk_id": disk_id}


def _check_ours(path: Path) -> None:
    """Refuse what was never ours: a wrong path in the settings must not fill somebody's folder.

    Another process may be making it ours meanwhile: it writes the identity before anything else, so
    that is looked for last.
    """
    strange = [
        entry.name
        for entry in path.iterdir()
        if entry.name != LOCK and not entry.name.endswith(TEMPORARY_SUFFIX)
    ]
    if strange and not (path / IDENTITY).exists():
        problem = f"is no data directory (no {IDENTITY}) and is not empty: it holds {min(strange)}"
        raise InvalidSettings("data_dir", repr(str(path)), problem)


def _read_count(path: Path) -> tuple[int, str | None]:
    """The number stored at `path` and the boot it is of; 0 where there is none yet."""
    if not path.exists():
        return 0, None
    stored = _read_json(path)
    count, boot = stored.get("count"), stored.get("boot_id")
    if not isinstance(count, int) or isinstance(count, bool) or count < 1:
        raise CorruptJournal(str(path), 0, "it holds no count")
    return count, boot if isinstance(boot, str) else None


def _read_json(path: Path) -> dict[str, object]:
    try:
        value: object = json.loads(path.read_bytes())
    except ValueError as error:
        raise CorruptJournal(str(path), 0, f"it is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise CorruptJournal(str(path), 0, "it is not a JSON object")
    return value


def _to_json(value: dict[str, object]) -> bytes:
    return json.dumps(value, indent=2).encode() + b"\n"
