"""The least that an embedded log could be, to know how far ours is from it.

One process, one segment file, one write and one sync for all appends that are waiting, a tag
index, a future per append. No recovery, no conditions, no checks, no readers: a ceiling, not a log.
"""

from __future__ import annotations

import asyncio
import os
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgpack
import xxhash

SEGMENT_BYTES: Final = 1 << 30
_VECTOR_MAX: Final = 1_000
_GROUP_BYTES_MAX: Final = 64 << 20  # the segment is used again before a group could cross its end

Waiting = tuple[bytes, str, "asyncio.Future[int]"]


class BareLog:
    """Appends to one file; a group takes whatever came while the last one was synced."""

    def __init__(self, path: Path, *, sync: bool) -> None:
        self._path = path
        self._file = os.open(path, os.O_CREAT | os.O_RDWR, 0o600)
        os.posix_fallocate(self._file, 0, SEGMENT_BYTES)
        self._loop = asyncio.get_running_loop()
        self._sync = sync
        self._waiting: list[Waiting] = []
        self._index: dict[str, array[int]] = {}
        self._seqnum = 1
        self._offset = 0

    def append(self, data: bytes, tag: str) -> asyncio.Future[int]:
        """The future has the seqnum once the record is on disk."""
        future: asyncio.Future[int] = self._loop.create_future()
        if not self._waiting:
            self._loop.call_soon(self._flush)
        self._waiting.append((data, tag, future))
        return future

    def close(self) -> None:
        """Delete it."""
        os.close(self._file)
        self._path.unlink()

    def _flush(self) -> None:
        group, self._waiting = self._waiting, []
        self._write([data for data, _, _ in group], [tag for _, tag, _ in group])
        if self._sync:
            os.fdatasync(self._file)
        index, seqnum = self._index, self._seqnum
        for _, tag, future in group:
            postings = index.get(tag)
            if postings is None:
                postings = index[tag] = array("Q")
            postings.append(seqnum)
            future.set_result(seqnum)
            seqnum += 1
        self._seqnum = seqnum

    def _write(self, datas: Sequence[bytes], tags: Sequence[str]) -> None:
        checksum = xxhash.xxh3_64_intdigest
        lengths = [len(data) for data in datas]
        columns = msgpack.packb((self._seqnum, tags, lengths, [checksum(data) for data in datas]))
        head = len(columns).to_bytes(4, "little") + checksum(columns).to_bytes(8, "little")
        buffers = [head, columns, *datas]
        if len(buffers) > _VECTOR_MAX:
            buffers = [b"".join(buffers)]
        if self._offset > SEGMENT_BYTES - _GROUP_BYTES_MAX:
            self._offset = 0
        self._offset += os.pwritev(self._file, buffers, self._offset)
