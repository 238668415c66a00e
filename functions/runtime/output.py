"""What functions print: stdout and stderr, told apart by call.

Decides which call a piece of output belongs to (the one whose context it was written in, also from
its threads), when it is sent (once per turn of the loop, and before the call's `Done`), and how
much of it. Until a worker starts, and after it ends, everything goes where it always went.

Invariants: nothing is kept beyond `KEPT_CHARACTERS_MAX` per call; what is dropped is said once; a
program that prints in a tight loop takes no memory. Does not know: links, what a call is.
"""

from __future__ import annotations

import io
import sys
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, TextIO

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

KEPT_CHARACTERS_MAX: Final = 1 << 20
"""Of one call; the rest of what it prints is dropped."""
PIECE_CHARACTERS_MAX: Final = 1 << 16
"""Of one message."""
NO_CALL: Final = 0
STDOUT: Final = 1
STDERR: Final = 2

Send = Callable[[int, int, str], None]
"""(call, stream, what was written)"""


class Captured:
    """What the calls of one process have written and nobody was told yet.

    Args:
        call_of: the number of the call that this code runs for, or `NO_CALL`.
        send: takes a piece; called on the loop's thread only.
        wake: has `flush` called soon on the loop's thread; itself called from any.
    """

    __slots__ = ("_call_of", "_lock", "_pending", "_room", "_send", "_wake", "_woken")

    def __init__(
        self,
        call_of: Callable[[], int],
        send: Send,
        wake: Callable[[Callable[[], None]], object],
    ) -> None:
        self._call_of = call_of
        self._send = send
        self._wake = wake
        self._lock = threading.Lock()
        self._pending: dict[tuple[int, int], list[str]] = {}
        self._room: dict[int, int] = {}
        self._woken = False

    def write(self, stream: int, written: str) -> None:
        """Take what the current call writes."""
        call = self._call_of()
        with self._lock:
            room = self._room.get(call, KEPT_CHARACTERS_MAX)
            if room <= 0 or not written:
                return
            pieces = self._pending.setdefault((call, stream), [])
            pieces.append(written[:room])
            if len(written) >= room:
                pieces.append(f"\n(more than {KEPT_CHARACTERS_MAX} characters: dropped)\n")
            self._room[call] = room - len(written)
            woken, self._woken = self._woken, True
        if not woken:
            self._wake(self.flush)

    def flush(self) -> None:
        """Send everything that waits."""
        with self._lock:
            pending, self._pending, self._woken = self._pending, {}, False
            # What no call writes has no end: there each turn has its own share.
            self._room.pop(NO_CALL, None)
        for (call, stream), pieces in pending.items():
            text = "".join(pieces)
            if not text.isascii():
                # Names of files that are no UTF-8 have halves of surrogate pairs; messages cannot.
                text = text.encode(errors="backslashreplace").decode()
            for start in range(0, len(text), PIECE_CHARACTERS_MAX):
                self._send(call, stream, text[start : start + PIECE_CHARACTERS_MAX])

    def forget(self, call: int) -> None:
        """The call is over: send what it wrote; more of it belongs to no call."""
        if call in self._room:
            self.flush()
            with self._lock:
                self._room.pop(call, None)


class Stream(io.TextIOBase):
    """Stands in for `sys.stdout` or `sys.stderr`.

    It is put there before the user's code is imported: whoever keeps it, as loggers do, keeps one
    that knows about calls.
    """

    def __init__(self, number: int, original: TextIO) -> None:
        self.number = number
        self.original = original
        self.captured: Captured | None = None
        self.buffer = Bytes(self)

    def write(self, text: str, /) -> int:
        """As `TextIO.write`."""
        if self.captured is not None:
            self.captured.write(self.number, text)
        else:
            self.original.write(text)
        return len(text)

    def reconfigure(self, **options: object) -> None:
        """As `TextIOWrapper.reconfigure`, of the original: what is captured is UTF-8."""
        change = getattr(self.original, "reconfigure", None)
        if change is not None:
            change(**options)

    def flush(self) -> None:
        """As `TextIO.flush`; what is captured needs none."""
        if self.captured is None:
            self.original.flush()

    def fileno(self) -> int:
        """Of the original: what subprocesses write is not told apart by call."""
        return self.original.fileno()

    def isatty(self) -> bool:
        """Never, for functions."""
        return False

    def writable(self) -> bool:
        """Always."""
        return True

    @property
    def encoding(self) -> str:  # type: ignore[override]  # a property where typeshed has a field
        """Of the original."""
        return self.original.encoding

    @property
    def errors(self) -> str | None:  # type: ignore[override]  # the same
        """Of the original."""
        return self.original.errors


class Bytes(io.BufferedIOBase):
    """Stands in for `sys.stdout.buffer`: output is text, and bytes that are none escaped."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream

    def write(self, data: ReadableBuffer, /) -> int:
        """As `BinaryIO.write`."""
        written = bytes(data)
        original = getattr(self._stream.original, "buffer", None)
        if self._stream.captured is None and original is not None:
            self._stream.original.flush()
            original.write(written)
        else:
            self._stream.write(written.decode(errors="backslashreplace"))
        return len(written)

    def flush(self) -> None:
        """As `BinaryIO.flush`."""
        self._stream.flush()

    def fileno(self) -> int:
        """Of the original, as the stream's."""
        return self._stream.fileno()

    def writable(self) -> bool:
        """Always."""
        return True


def install() -> tuple[Stream, Stream]:
    """Put streams of ours into `sys`; once per process, again it gives the same."""
    out, err = sys.stdout, sys.stderr
    if not isinstance(out, Stream):
        sys.stdout = out = Stream(STDOUT, out)
    if not isinstance(err, Stream):
        sys.stderr = err = Stream(STDERR, err)
    return out, err
