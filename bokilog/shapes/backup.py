"""Taking a backup: a copy of a log as of one position per log space, while it is written to.

Decides the order in which things are asked for, what makes the copy consistent, and how fast it is
taken.

1. Of every log space a snapshot of the fold is begun, that of the system LogBook last: so whatever
   a LogBook in another log space holds, its creation is in the copy, and so is the record of a
   deletion (P5).
2. The rows of the folds, then the frames that they name. The node that gives them lets go of
   nothing meanwhile, so what was live at the position is there, trimmed since or not.
3. The manifest. Without it there is no backup.

Records of class `memory` are not copied: that class keeps them in RAM, to be computed again.

Does not know who is asked (`backup_source.py`), what parts look like (`backup_files.py`).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

from bokilog import __version__
from bokilog.errors import InvalidSettings
from bokilog.ids import START, LogSpaceId
from bokilog.io.directory import IDENTITY, read_identity
from bokilog.io.places import Place
from bokilog.limits import MIB
from bokilog.messages import SnapshotPart
from bokilog.shapes.backup_files import (
    MANIFEST,
    Manifest,
    PartWriter,
    SpaceManifest,
    encode_manifest,
)
from bokilog.shapes.backup_source import Source, SourceSpace, cluster_source, embedded_source
from bokilog.shapes.cluster_layout import read_layout
from bokilog.storage_nodes import keys

PARTS: Final = "space-"
"""How the names of all objects begin but for the manifest."""
BYTES_S: Final = 64 * MIB
"""Appends and reads come first; over loopback as fast as it goes is several times that."""


class Progress(NamedTuple):
    """How far a backup is."""

    space: int
    seqnum: int
    """Frames before it are copied..."""
    until_seqnum: int
    """... of these."""
    copied_bytes: int


Tell = Callable[[Progress], None]


def _tell_nobody(_: Progress) -> None:
    pass


async def backup(
    directory: Path, place: Place, *, bytes_s: int = BYTES_S, tell: Tell = _tell_nobody
) -> Manifest:
    """Copy the log of a directory to a place.

    Args:
        directory: of a cluster that runs, or of an embedded log that no process has open;
            absolute.
        place: holds nothing yet.
        bytes_s: how fast at most.
        tell: told as it goes on.

    Raises:
        InvalidSettings: the place is not empty, or the directory holds no log.
        NotReady: a part of the cluster is not there; what was written so far is no backup.
        DirectoryInUse: a live process has the embedded log open.
        NodeUnreachable: the place does not answer.
    """
    strange = await asyncio.to_thread(lambda: next(iter(place.names()), None))
    if strange is not None:
        problem = f"is not empty: it holds {strange!r}; a backup needs a place of its own"
        if strange.startswith(PARTS) and await asyncio.to_thread(place.get, MANIFEST) is None:
            problem += f" (what is there has no {MANIFEST}: it was not finished: delete it first)"
        raise InvalidSettings("destination", repr(place.where), problem)
    if (directory / IDENTITY).exists() and read_identity(directory).cluster_id == "embedded":
        async with embedded_source(directory) as stopped:
            return await copy_log(stopped, place, bytes_s=bytes_s, tell=tell)
    async with cluster_source(read_layout(directory)) as running:
        return await copy_log(running, place, bytes_s=bytes_s, tell=tell)


async def copy_log(
    source: Source, place: Place, *, bytes_s: int, tell: Tell = _tell_nobody
) -> Manifest:
    """Copy a log from whoever gives it to an empty place."""
    return await _Backup(source, place, bytes_s=bytes_s, tell=tell).run()


class _Backup:
    """One of them."""

    def __init__(self, source: Source, place: Place, *, bytes_s: int, tell: Tell) -> None:
        self._source = source
        self._place = place
        self._bytes_s = bytes_s
        self._tell = tell
        self._copied_bytes = 0
        self._began_s = time.monotonic()

    async def run(self) -> Manifest:
        spaces = sorted(self._source.spaces, key=lambda each: each.id, reverse=True)
        created_at_ms = int(time.time() * 1000)
        begun = {
            space.id: await self._source.begin(space.id)
            for space in spaces
            if space.durability != "memory"
        }
        copied = [
            await self._space(space, begun[space.id]) if space.id in begun else _in_memory(space)
            for space in spaces
        ]
        view = self._source.view
        manifest = Manifest(
            cluster_id=view.cluster_id,
            history_id=view.history_id,
            shape=self._source.shape,
            storage_nodes=sum(node.role == "storage" for node in view.nodes),
            sequencers=sum(node.role == "sequencer" for node in view.nodes),
            protocol_version=view.protocol_version,
            fold_version=view.fold_version,
            created_at_ms=created_at_ms,
            made_by=__version__,
            spaces=tuple(reversed(copied)),
        )
        await asyncio.to_thread(self._place.put, MANIFEST, encode_manifest(manifest))
        return manifest

    async def _space(self, space: SourceSpace, first: SnapshotPart) -> SpaceManifest:
        rows = PartWriter(self._place, f"{PARTS}{space.id}/rows")
        part, meta = first, None
        while True:
            meta = next((row[1] for row in part.rows if row[0] == keys.META), meta)
            await rows.add(part)
            await self._pace(sum(len(key) + len(value) for key, value in part.rows))
            if part.last:
                break
            part = await self._source.rows(space.id, part.part + 1)
        await rows.flush()
        stored = keys.decode_meta(meta) if meta is not None else None
        assert stored is None or stored.position == first.position != START
        tail = stored.tail if stored is not None else 1
        frames = PartWriter(self._place, f"{PARTS}{space.id}/frames")
        counts = await self._frames(space.id, frames, tail)
        return SpaceManifest(
            id=space.id,
            durability=space.durability,
            term=first.position.term,
            count=first.position.count,
            tail=tail,
            timestamp_ms=stored.timestamp_ms if stored is not None else 0,
            frames=counts.frames,
            records=counts.records,
            lost_frames=counts.lost,
            rows=tuple(rows.parts),
            parts=tuple(frames.parts),
        )

    async def _frames(self, space: LogSpaceId, writer: PartWriter, tail: int) -> _Counts:
        at, frames, records, lost = 0, 0, 0, 0
        while at < tail:
            found, sent = await self._source.frames(space, at, tail)
            for first in sent.lacking:
                elsewhere = await self._source.frames_elsewhere(space, first)
                lost += not elsewhere
                found += elsewhere
            for each in found:
                await writer.add(each)
                frames += 1
                records += each.frame.records
            await self._pace(sum(each.frame.size_bytes for each in found))
            at = sent.until_seqnum
            self._tell(Progress(space, at, tail, self._copied_bytes))
        await writer.flush()
        return _Counts(frames, records, lost)

    async def _pace(self, copied_bytes: int) -> None:
        """Not faster than asked for, over the whole of it."""
        self._copied_bytes += copied_bytes
        due_s = self._copied_bytes / self._bytes_s - (time.monotonic() - self._began_s)
        await asyncio.sleep(max(0.0, due_s))


class _Counts(NamedTuple):
    frames: int
    records: int
    lost: int


def _in_memory(space: SourceSpace) -> SpaceManifest:
    """Where a log space stands whose records are not copied."""
    return SpaceManifest(
        id=space.id,
        durability=space.durability,
        term=0,
        count=max(1, space.count),
        tail=space.tail,
        timestamp_ms=0,
        frames=0,
        records=0,
        lost_frames=0,
        rows=(),
        parts=(),
    )
