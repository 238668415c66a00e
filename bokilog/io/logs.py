"""Where a process's log lines go: one file that is rotated by size, or standard error.

Decides the form of a line and when a file has had enough. A process that writes its own file also
rotates it, so no line is lost to somebody who truncates it meanwhile; standard output and error,
where an interpreter or a native library says its last words, move along if they led to that file.

Invariants: a full disk never stops a process here: lines that cannot be written are counted.
Nothing is logged per record, and cores do not log (A1).
"""

from __future__ import annotations

import logging
import os
import re
import sys
import time
from pathlib import Path
from typing import Final

_STANDARD: Final = (1, 2)  # descriptors of standard output and error
_BEGINNING: Final = re.compile(r"[0-9T:.-]{23}Z [A-Z]+ ")  # of what `LineFormatter` makes


class LineFormatter(logging.Formatter):
    """`2026-11-22T01:02:03.456Z INFO storage-1 text`, a traceback on the lines that follow."""

    def __init__(self, name: str) -> None:
        super().__init__(f"%(asctime)s %(levelname)s {name} %(message)s")

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:
        """UTC, so that the logs of several machines can be merged."""
        seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        return f"{seconds}.{int(record.msecs):03d}Z"


class FileHandler(logging.Handler):
    """Appends lines to `path` and keeps `files_count` files: `path`, `path.1`, the older ones."""

    def __init__(self, path: Path, *, bytes_max: int, files_count: int) -> None:
        super().__init__()
        self.path = path
        self._bytes_max = bytes_max
        self._files_count = files_count
        self._descriptor = _open(path)
        self.lost_count = 0
        """Lines that the disk did not take."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line, in a file with room for it."""
        line = (self.format(record) + "\n").encode(errors="backslashreplace")
        try:
            if os.fstat(self._descriptor).st_size + len(line) > self._bytes_max:
                self._rotate()
            os.write(self._descriptor, line)
        except OSError:
            self.lost_count += 1

    def leads_to(self, descriptor: int) -> bool:
        """Whether what is written to `descriptor` lands in this file."""
        try:
            return os.path.samestat(os.fstat(descriptor), os.fstat(self._descriptor))
        except OSError:
            return False

    def close(self) -> None:
        """Close the file; lines of later records are lost and counted."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
        super().close()

    def _rotate(self) -> None:
        moving = [descriptor for descriptor in _STANDARD if self.leads_to(descriptor)]
        rotate(self.path, files_count=self._files_count)
        fresh = _open(self.path)
        for descriptor in moving:
            os.dup2(fresh, descriptor)
        os.close(self._descriptor)
        self._descriptor = fresh


def configure(
    name: str,
    *,
    level: str = "info",
    directory: Path | None = None,
    bytes_max: int = 16 << 20,
    files_count: int = 4,
) -> logging.Handler:
    """Send all log lines of this process to one place and return the handler that writes them.

    Args:
        name: of the process; stands in every line, and names the file.
        level: the least one that is written: debug, info, warning or error.
        directory: of the file; None: standard error.
        bytes_max: a file of that size is put aside.
        files_count: files kept, the current one included.
    """
    handler: logging.Handler
    if directory is None:
        handler = logging.StreamHandler(sys.stderr)
    else:
        directory.mkdir(parents=True, exist_ok=True)
        path = log_file(directory, name)
        handler = FileHandler(path, bytes_max=bytes_max, files_count=files_count)
    handler.setFormatter(LineFormatter(name))
    root = logging.getLogger()
    for old in tuple(root.handlers):
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level.upper())
    logging.captureWarnings(True)
    return handler


def log_file(directory: Path, name: str) -> Path:
    """The current log file of the process called `name`."""
    return directory / f"{name}.log"


def rotate(path: Path, *, files_count: int) -> None:
    """Put `path` aside as `path.1`, that one as `path.2`, and drop the oldest."""
    for number in range(files_count - 1, 0, -1):
        newer = path.with_name(f"{path.name}.{number - 1}") if number > 1 else path
        if newer.exists():
            os.replace(newer, path.with_name(f"{path.name}.{number}"))
    if files_count == 1:
        path.unlink(missing_ok=True)


def last_lines(path: Path, count: int = 12, *, bytes_max: int = 16 << 10) -> list[str]:
    """The last lines of a log file, for people; none if there is no file."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - bytes_max))
            return file.read().decode(errors="replace").splitlines()[-count:]
    except OSError:
        return []


def last_words(path: Path, name: str, count: int = 12) -> list[str]:
    """The last entry of the process called `name`, with the traceback if it has one: the end of
    it, if it is longer than `count` lines."""
    lines = last_lines(path, count)
    while lines and not lines[-1].strip():
        lines.pop()
    for number in range(len(lines) - 1, -1, -1):
        # Before its log is set up, a process speaks to standard error, under its name.
        if _BEGINNING.match(lines[number]) or lines[number].startswith(f"{name}: "):
            return lines[number:]
    return lines


def _open(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
