"""How written bytes are made durable, and the one place that writes vectors at an offset.

Decides what "synced" costs and means on this machine; the journal decides when. A policy is given
to it, so that tests and benchmarks put another disk under the same journal.

Source: P7, P31; LIMITS point 9 (a sync here may be suspiciously cheap, hence `DelayedSync`).
"""

from __future__ import annotations

import errno
import os
import sys
import time
from collections.abc import Callable, Sequence
from typing import Protocol

from bokilog.errors import InvalidSettings
from bokilog.record import Buffer

if sys.platform == "darwin":
    import fcntl

Write = Callable[[int, Sequence[Buffer], int], int]
"""`(fd, buffers, offset)` to the number of bytes taken, which may be fewer than offered."""

# What one call takes at most; Linux and macOS refuse more. Asked once, it is a system call.
IOV_MAX: int = max(16, os.sysconf("SC_IOV_MAX"))


# Buffers that are smaller on average are joined first. Measured here: 1000 buffers of 100 bytes
# take 65 us as a vector and 25 us joined; from 1 KiB on the vector is as fast, then faster.
JOIN_BELOW_BYTES = 1 << 10


class SyncPolicy(Protocol):
    """What a journal does to make a group durable."""

    @property
    def durable(self) -> bool:
        """Whether what was synced survives a power loss; if not, P7 has nothing to copy."""

    def sync(self, fd: int) -> None:
        """Make all bytes of the file durable. Raises OSError, which is final for the file (P7)."""


class DataSync:
    """Class `sync`: the disk has the bytes. `fdatasync`, or on macOS a full flush."""

    __slots__ = ()
    durable = True

    def sync(self, fd: int) -> None:
        """Return once the disk says that it has them."""
        if sys.platform == "darwin":
            fcntl.fcntl(fd, fcntl.F_FULLFSYNC)
        else:
            os.fdatasync(fd)


class NoSync:
    """Class `flush`: the bytes are with the operating system, which outlives this process."""

    __slots__ = ()
    durable = False

    def sync(self, fd: int) -> None:
        """Nothing: the write was enough."""


class DelayedSync:
    """Another policy, slower by a fixed time: what a real disk would add, for benchmarks."""

    __slots__ = ("_delay_s", "_inner")

    def __init__(self, delay_ms: float, inner: SyncPolicy) -> None:
        if delay_ms < 0:
            raise InvalidSettings("sync delay_ms", str(delay_ms), "is negative")
        self._delay_s = delay_ms / 1000
        self._inner = inner

    @property
    def durable(self) -> bool:
        """As of the policy inside."""
        return self._inner.durable

    def sync(self, fd: int) -> None:
        """Sync, then sleep in the calling thread."""
        self._inner.sync(fd)
        time.sleep(self._delay_s)


def policy(name: str, *, delay_ms: float = 0.0) -> SyncPolicy:
    """The policy of a setting: `fdatasync` or `none`, slower by `delay_ms` if that is not 0."""
    known: dict[str, SyncPolicy] = {"fdatasync": DataSync(), "none": NoSync()}
    if name not in known:
        raise InvalidSettings("sync", repr(name), f"is none of {', '.join(sorted(known))}")
    return DelayedSync(delay_ms, known[name]) if delay_ms else known[name]


def sync_directory(path: str) -> None:
    """Make the names in a directory durable, after files were created or renamed in it (P31)."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


if hasattr(os, "pwritev"):

    def write_at(fd: int, buffers: Sequence[Buffer], offset: int) -> int:
        """Write the join of at most `IOV_MAX` buffers at an offset; may take only a part."""
        return os.pwritev(fd, buffers, offset)

else:  # macOS before 11: nothing else moves the file's position, so two calls do as well

    def write_at(fd: int, buffers: Sequence[Buffer], offset: int) -> int:
        """Write the join of at most `IOV_MAX` buffers at an offset; may take only a part."""
        os.lseek(fd, offset, os.SEEK_SET)
        return os.writev(fd, buffers)


def write_all(
    write: Write, fd: int, buffers: Sequence[Buffer], *, offset: int, byte_count: int
) -> None:
    """Write all of `buffers`, `byte_count` bytes, in as many calls as it takes.

    Raises OSError with a part of them written.
    """
    if byte_count < JOIN_BELOW_BYTES * len(buffers):
        buffers = [b"".join(buffers)]
    taken = 0
    if len(buffers) <= IOV_MAX:
        taken = write(fd, buffers, offset)
        if taken == byte_count:
            return
    offset += taken
    for first in range(0, len(buffers), IOV_MAX):
        left = _rest(buffers[first : first + IOV_MAX], taken)
        while left:
            taken = write(fd, left, offset)
            if taken == 0:
                raise OSError(errno.EIO, "the disk takes no bytes and gives no reason")
            offset += taken
            left = _rest(left, taken)
        taken = 0


def _rest(buffers: Sequence[Buffer], taken: int) -> list[Buffer]:
    """What is left of `buffers` after their first `taken` bytes."""
    for index, buffer in enumerate(buffers):
        if taken < len(buffer):
            return [memoryview(buffer)[taken:], *buffers[index + 1 :]]
        taken -= len(buffer)
    return []
