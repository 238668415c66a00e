"""What a backup consists of, and when it counts as whole and unaltered.

    manifest.json                   written last: without it there is no backup
    space-0/rows-00000001.part      the fold of a log space, as of one position
    space-0/frames-00000001.part    the frames that it names

A part is what a storage node sends to a peer that rebuilds itself (P16, P33): the preamble of the
wire and its messages, `SnapshotPart` or `StoredFrame`. So there is no second format of records,
and the frames carry their own checksums. The manifest has the size and the SHA-256 of every part,
and a checksum of itself.

Invariant: what `PartReader` gives has been compared with the manifest before.

Does not know where parts come from (`backup_source.py`), what becomes of them (`restore.py`), or
what keeps them (`io/places.py`).
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Final

from bokilog.errors import BackupUnusable, BokilogError, FormatTooNew
from bokilog.framing import PREAMBLE, MessageReader, append_message
from bokilog.io.places import Folder, Place
from bokilog.limits import MIB
from bokilog.messages import Message
from bokilog.record import Buffer, check_durability
from bokilog.wire import decode, encode

FORMAT: Final = 1
MANIFEST: Final = "manifest.json"
PART_BYTES: Final = 16 * MIB
"""A part is put at once, and read at once; one message may make it larger."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """An object of a backup."""

    name: str
    size_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SpaceManifest:
    """One log space of a backup."""

    id: int
    durability: str
    term: int
    count: int
    """The position, with `term`: the copy is of exactly this one."""
    tail: int
    """First seqnum that the restored log space gives out."""
    timestamp_ms: int
    """No later cut is earlier (P10)."""
    frames: int
    records: int
    """In the frames; trimmed ones that share a frame with live ones are counted too."""
    lost_frames: int
    """Named by the fold, and on no replica: their records are `DataLost`, as they were."""
    rows: tuple[Part, ...]
    parts: tuple[Part, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What a complete backup says of itself."""

    cluster_id: str
    history_id: str
    shape: str
    """`embedded` or `cluster`: what a restore makes of it unless told otherwise."""
    storage_nodes: int
    sequencers: int
    protocol_version: int
    fold_version: int
    created_at_ms: int
    made_by: str
    """The version of bokilog."""
    spaces: tuple[SpaceManifest, ...]

    @property
    def size_bytes(self) -> int:
        """Of all parts."""
        return sum(part.size_bytes for space in self.spaces for part in (*space.rows, *space.parts))


# --- parts ----------------------------------------------------------------------------------------


class PartWriter:
    """Messages into parts; what is put is put in a thread, one part at a time."""

    def __init__(self, place: Place, prefix: str) -> None:
        self._place = place
        self._prefix = prefix
        self._buffers: list[Buffer] = [PREAMBLE]
        self._size_bytes = 0
        self.parts: list[Part] = []

    async def add(self, message: Message) -> None:
        """The next message; its buffers must not change any more."""
        kind, head, attachments = encode(message)
        self._size_bytes += append_message(self._buffers, kind, head, attachments)
        if self._size_bytes >= PART_BYTES:
            await self.flush()

    async def flush(self) -> None:
        """Everything that was added is kept."""
        if not self._size_bytes:
            return
        data = b"".join(self._buffers)
        self._buffers, self._size_bytes = [PREAMBLE], 0
        name = f"{self._prefix}-{len(self.parts) + 1:08d}.part"
        await asyncio.to_thread(self._place.put, name, data)
        digest = hashlib.sha256(data).hexdigest()
        self.parts.append(Part(name=name, size_bytes=len(data), sha256=digest))


def read_part(place: Place, part: Part) -> Iterator[Message]:
    """The messages of a part, which is as it was written.

    Raises:
        BackupUnusable: it is missing or altered.
    """
    data = place.get(part.name)
    if data is None:
        raise BackupUnusable(place.where, f"{part.name} is missing")
    if len(data) != part.size_bytes or hashlib.sha256(data).hexdigest() != part.sha256:
        raise BackupUnusable(place.where, f"{part.name} is not as it was written")
    reader = MessageReader()
    try:
        for kind, head, attachments in reader.feed(data):
            yield decode(kind, head, attachments)
    except FormatTooNew:
        raise
    except BokilogError as error:
        raise BackupUnusable(place.where, f"{part.name} does not decode: {error}") from None


# --- the manifest ---------------------------------------------------------------------------------


def encode_manifest(manifest: Manifest) -> bytes:
    """The manifest as JSON, for programs and for people."""
    plain = asdict(manifest)
    stored = {"format": FORMAT, "checksum": _checksum(plain), "backup": plain}
    return json.dumps(stored, indent=1).encode() + b"\n"


def read_manifest(place: Place) -> Manifest:
    """The manifest of a place.

    Raises:
        BackupUnusable: there is none, or it is damaged.
        FormatTooNew: a later version made the backup.
        NodeUnreachable: the place does not answer.
    """
    data = place.get(MANIFEST)
    if data is None:
        if next(iter(place.names()), None):
            problem = f"it has no {MANIFEST}: it was not finished"
        elif isinstance(place, Folder) and not place.exists:
            problem = "no such folder"
        else:
            problem = "nothing is there"
        raise BackupUnusable(place.where, problem)
    try:
        stored = json.loads(data)
        found = stored["format"]
        if found > FORMAT:
            raise FormatTooNew(f"the backup in {place.where!r}", found, FORMAT)
        plain = stored["backup"]
        if stored["checksum"] != _checksum(plain):
            raise BackupUnusable(place.where, f"{MANIFEST} is not as it was written")
        return _manifest(plain)
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        problem = f"{MANIFEST} is no manifest: {type(error).__name__}: {error}"
        raise BackupUnusable(place.where, problem) from None


def _manifest(plain: dict[str, object]) -> Manifest:
    """The checksum vouches for what is in it; fields that are not known are of no later format."""
    listed = plain.pop("spaces")
    assert isinstance(listed, list)
    spaces = []
    for each in listed:
        rows, parts = _parts(each.pop("rows")), _parts(each.pop("parts"))
        check_durability(each["durability"])
        spaces.append(SpaceManifest(rows=rows, parts=parts, **each))
    return Manifest(spaces=tuple(spaces), **plain)  # type: ignore[arg-type]  # see above


def _parts(plain: Sequence[dict[str, object]]) -> tuple[Part, ...]:
    return tuple(Part(**each) for each in plain)  # type: ignore[arg-type]  # as `_manifest`


def _checksum(plain: object) -> str:
    text = json.dumps(plain, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
