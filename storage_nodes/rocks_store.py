"""The fold's store on disk: RocksDB, and the only import of rocksdict.

Settings with reasons:
- No write-ahead log: between flushes the journal is the log (P19), and one column family keeps a
  batch in one memtable, so any crash leaves the state of exactly one flush.
- Block cache, with index and filter blocks inside, plus two write buffers make up the memory
  bound.
- Bloom filters: most keys asked for are not there (a new idempotency key, a tag's first record).
- LZ4: postings and locations are numbers that differ in their low bytes.

What rocksdict makes us mind: values must be `bytes`; an iterator shows the store as it was when
made, so one that is kept for seeks is thrown away after each write; a write holds the
interpreter's lock, a flush does not; a batch is used up by the attempt to write it; closing while a
thread flushes is an error, so a stop in the middle of a checkpoint waits for it here. A forked
process has the library's state and none of its threads: there a store would hang in its first
flush, and is refused; taking an inherited one apart, or the library at the end of the process,
hangs or crashes, so a child keeps both for good.

Invariant: `_seeker` is only used while `_version` is the one it was made at; `write` moves the
version last.
"""

from __future__ import annotations

import logging
import os
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path

from rocksdict import (
    AccessType,
    BlockBasedOptions,
    Cache,
    ChecksumType,
    DBCompressionType,
    Options,
    Rdict,
    RdictIter,
    WriteBatch,
    WriteOptions,
)

from bokilog.errors import CorruptJournal, DirectoryInUse, NotSupported, ReadOnly
from bokilog.storage_nodes.index_store import Batch

MEMORY_BYTES = 64 << 20
"""Default bound on cache and write buffers together."""
BLOCK_SIZE_BYTES = 16 << 10
"""A whole chunk of postings is 32 KiB; smaller blocks would only add index."""
_log = logging.getLogger(__name__)


class RocksBatch:
    """A `WriteBatch` in raw mode."""

    __slots__ = ("delete", "delete_range", "put", "write_batch")

    def __init__(self) -> None:
        self.write_batch = WriteBatch(raw_mode=True)
        # Bound once: a checkpoint makes up to some 100k of these calls.
        self.put = self.write_batch.put
        self.delete = self.write_batch.delete
        self.delete_range = self.write_batch.delete_range


class RocksStore:
    """A directory with one RocksDB.

    Args:
        path: the directory; made if missing.
        memory_bytes: bound on block cache and write buffers together.
        read_only: an existing store is only looked at, also while it is damaged.

    Raises:
        DirectoryInUse: another process, or another object in this one, has it open.
        CorruptJournal: it cannot be opened to be read.
        NotSupported: this process was forked from one that had a store open.
    """

    def __init__(
        self, path: Path | str, *, memory_bytes: int = MEMORY_BYTES, read_only: bool = False
    ) -> None:
        global _used
        if _inherited:
            problem = "it was forked from one that had a log on disk open, and lacks its threads"
            raise NotSupported("a log on disk in this process", f"{problem}: start it by spawn")
        self._path = str(path)
        options = _options(memory_bytes)
        access = AccessType.read_write()
        if read_only:
            options.create_if_missing(False)
            access = AccessType.read_only()
        try:
            self._db = Rdict(self._path, options, access_type=access)
        except Exception as error:  # rocksdict raises nothing narrower
            if "lock" in str(error).lower():
                raise DirectoryInUse(str(path)) from error
            if read_only:
                raise self._damaged(error) from error
            raise
        write_options = WriteOptions()
        write_options.disable_wal = True  # type: ignore[method-assign,assignment]  # a property, whatever the stub says
        self._write_options = write_options
        self._version = 0
        self._seeker: tuple[int, RdictIter] | None = None
        self._writing = threading.Lock()
        """Held by whoever writes, flushes or closes."""
        _used = True
        _OPEN.add(self)

    def get(self, key: bytes) -> bytes | None:
        try:
            value: bytes | None = self._db.get(key)
        except Exception as error:  # rocksdict raises nothing narrower
            raise self._damaged(error) from error
        return value

    def seek_prev(self, key: bytes, prefix: bytes) -> tuple[bytes, bytes] | None:
        seeker = self._fresh_seeker()
        seeker.seek_for_prev(key)
        return self._found(seeker, prefix)

    def seek_next(self, key: bytes, prefix: bytes) -> tuple[bytes, bytes] | None:
        seeker = self._fresh_seeker()
        seeker.seek(key)
        return self._found(seeker, prefix)

    def scan(self, start: bytes, until: bytes) -> Iterator[tuple[bytes, bytes]]:
        found = self._db.iter()
        found.seek(start)
        while found.valid():
            key: bytes = found.key()
            if key >= until:
                return
            value: bytes = found.value()
            yield key, value
            found.next()
        self._check(found)

    def keys(self, start: bytes, until: bytes) -> Iterator[bytes]:
        found = self._db.iter()
        found.seek(start)
        while found.valid():
            key: bytes = found.key()
            if key >= until:
                return
            yield key
            found.next()
        self._check(found)

    def batch(self) -> RocksBatch:
        return RocksBatch()

    def write(self, batch: Batch) -> None:
        assert isinstance(batch, RocksBatch), "a batch is written by the store that made it"
        try:
            with self._writing:
                self._db.write(batch.write_batch, self._write_options)
        except Exception as error:  # rocksdict raises nothing narrower
            raise ReadOnly(f"the index store does not take a checkpoint: {error}") from error
        self._version += 1

    def flush(self) -> None:
        try:
            with self._writing:
                self._db.flush(wait=True)
        except Exception as error:  # rocksdict raises nothing narrower
            raise ReadOnly(f"the index store does not flush: {error}") from error

    def close(self) -> None:
        _OPEN.discard(self)
        self._seeker = None  # a live iterator would keep the directory's lock
        with self._writing:
            try:
                self._db.close()
            except Exception as error:  # rocksdict raises nothing narrower
                # A full disk, or somebody deleted the directory: the journal is the log.
                _log.warning("the index store in %s does not close: %s", self._path, error)
                del self._db  # which gives back what it holds

    def forked(self) -> None:
        """We are the child of a fork: what is open is never taken apart here."""
        from ctypes import py_object, pythonapi  # here, since hardly any process ever does this

        for kept in (self._db, self._seeker):
            pythonapi.Py_IncRef(py_object(kept))

    def _fresh_seeker(self) -> RdictIter:
        kept = self._seeker
        version = self._version  # read before the iterator is made: a write in between outdates it
        if kept is not None and kept[0] == version:
            return kept[1]
        seeker = self._db.iter()
        self._seeker = (version, seeker)
        return seeker

    def _found(self, seeker: RdictIter, prefix: bytes) -> tuple[bytes, bytes] | None:
        if not seeker.valid():
            self._check(seeker)
            return None
        key: bytes = seeker.key()
        if not key.startswith(prefix):
            return None
        value: bytes = seeker.value()
        return key, value

    def _check(self, ended: RdictIter) -> None:
        """An iterator ends at a damaged block as it does behind the last key: absent is not the
        answer then."""
        try:
            ended.status()
        except Exception as error:  # rocksdict raises nothing narrower
            raise self._damaged(error) from error

    def _damaged(self, error: Exception) -> CorruptJournal:
        return CorruptJournal(self._path, 0, f"the index store does not read it: {error}")


_OPEN: weakref.WeakSet[RocksStore] = weakref.WeakSet()
_used = False
_inherited = False


def _after_fork() -> None:
    global _inherited
    if not _used:
        return
    _inherited = True
    for store in list(_OPEN):
        store.forked()
    from ctypes import CDLL

    libc = CDLL(None)
    if hasattr(libc, "on_exit"):  # of glibc: called first, so that no destructor of the library is
        libc.on_exit(libc._exit, None)


os.register_at_fork(after_in_child=_after_fork)


def _options(memory_bytes: int) -> Options:
    table = BlockBasedOptions()
    table.set_block_cache(Cache(memory_bytes // 2))
    table.set_cache_index_and_filter_blocks(True)
    table.set_pin_l0_filter_and_index_blocks_in_cache(True)
    table.set_bloom_filter(10, False)
    table.set_block_size(BLOCK_SIZE_BYTES)
    table.set_format_version(5)
    table.set_checksum_type(ChecksumType.xxh3())
    options = Options(raw_mode=True)
    options.create_if_missing(True)
    options.set_block_based_table_factory(table)
    options.set_compression_type(DBCompressionType.lz4())
    options.set_write_buffer_size(memory_bytes // 4)
    options.set_max_write_buffer_number(2)
    options.set_max_background_jobs(2)
    options.set_bytes_per_sync(1 << 20)  # a flush's sync then finds little left to write
    options.set_keep_log_file_num(2)
    options.set_max_log_file_size(1 << 20)
    options.set_stats_dump_period_sec(0)
    return options
