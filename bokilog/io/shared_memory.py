"""The file behind shared records: made by an engine beside its socket, mapped by its workers.

Decides its name, who may read it, and when it is gone. Nobody locks it: it belongs to whoever made
it last, and says in its header which start of the engine that was; a reader that holds an older one
reads what no one writes any more, until its link to the engine is lost, and then lets go of it.
Does not know its layout (`bokilog/shared_records.py`).
"""

from __future__ import annotations

import contextlib
import mmap
import os
import tempfile
from pathlib import Path
from typing import Final

from bokilog.shared_records import BYTES_MIN, SharedReader, SharedWriter

SUFFIX: Final = ".records"


def file_of(socket_path: str) -> Path:
    """The file that belongs to an engine's unix socket."""
    return Path(f"{socket_path}{SUFFIX}")


class SharedMemory:
    """An engine's memory for shared records, until `close`.

    Args:
        socket_path: of the engine.
        size_bytes: taken from the disk's cache as it fills; at least `BYTES_MIN`.
        incarnation: of the engine.
    """

    def __init__(self, socket_path: str, size_bytes: int, incarnation: int) -> None:
        self._file = file_of(socket_path)
        # Under another name first: nobody maps a file that is not whole.
        descriptor, made = tempfile.mkstemp(dir=self._file.parent, prefix=f".{self._file.name}.")
        try:
            # Written, not truncated to its size: a hole that a full disk cannot fill later would
            # end the process that stores into it.
            with open(descriptor, "wb", closefd=False) as file:
                file.write(bytes(size_bytes))
            self.writer = SharedWriter(mmap.mmap(descriptor, size_bytes), incarnation)
            os.replace(made, self._file)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(made)
            raise
        finally:
            os.close(descriptor)
        self._identity = os.stat(self._file)

    def close(self) -> None:
        """The file is gone; who has mapped it may go on reading what is there."""
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.stat(self._file), self._identity):
                self._file.unlink()


def open_shared(socket_path: str, incarnation: int) -> SharedReader | None:
    """The memory of that start of the engine; None where there is none, as on other machines."""
    try:
        with file_of(socket_path).open("r+b") as file:
            if os.fstat(file.fileno()).st_size < BYTES_MIN:
                return None
            reader = SharedReader(mmap.mmap(file.fileno(), 0))
    except (OSError, ValueError):
        return None
    return reader if reader.is_of(incarnation) else None
