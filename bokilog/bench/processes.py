"""What a process costs: CPU time and memory, by process number.

Decides where that is read. On Linux the scheduler's own nanoseconds of every thread, and the
process's status; elsewhere only this very process is known, and others are None.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Final

if sys.platform != "win32":
    import resource

_PROC: Final = Path("/proc")
_KIB: Final = 1024


def cpu_ns(pid: int) -> int | None:
    """CPU time that the live threads of a process have used; None where nobody knows."""
    tasks = _PROC / str(pid) / "task"
    try:
        return sum(_thread_ns(tasks / thread) for thread in os.listdir(tasks))
    except OSError:
        return _own_ns() if pid == os.getpid() else None


def _thread_ns(task: Path) -> int:
    try:
        return int((task / "schedstat").read_bytes().split()[0])
    except FileNotFoundError:
        if task.parent.exists():
            return 0  # the thread has ended since it was listed
        raise


def _own_ns() -> int | None:
    if sys.platform == "win32":
        return None
    used = resource.getrusage(resource.RUSAGE_SELF)
    return int((used.ru_utime + used.ru_stime) * 1e9)


def memory_bytes(pid: int) -> int | None:
    """Memory of a process that is not the page cache's: what it would miss; None if unknown."""
    try:
        status = (_PROC / str(pid) / "status").read_text()
    except OSError:
        return None
    for line in status.splitlines():
        name, _, value = line.partition(":")
        if name == "RssAnon":
            return int(value.split()[0]) * _KIB
    return None


def in_memory(path: Path) -> bool:
    """Whether a directory lies on a file system in memory, where a sync costs nothing."""
    try:
        mounts = (_PROC / "self" / "mounts").read_text().splitlines()
    except OSError:
        return False
    place, kind = "", ""
    for _, mounted, found, *_ in (line.split() for line in mounts):
        inside = path == Path(mounted) or Path(mounted) in path.parents
        if inside and len(mounted) >= len(place):
            place, kind = mounted, found
    return kind in ("tmpfs", "ramfs")
