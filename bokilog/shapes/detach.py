"""Runs work in a process of its own that outlives the one that asked for it.

Decides how the two talk while the work starts: over a pipe, in lines, until the work says that it
has started or failed; from then on nobody listens. The process is forked twice, so that it belongs
to no terminal and is nobody's child.

Invariants: the caller returns within its deadline, and knows whether the work has started. Forks
without threads only: call it before anything has started one. Does not know what the work is.
"""

from __future__ import annotations

import json
import os
import select
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, NoReturn

from bokilog.errors import BokilogError, NotReady, from_wire, to_wire
from bokilog.io.process import readable

_LINE, _STARTED, _FAILED, _REFUSED = b" ", b"+", b"-", b"!"
_READ_BYTES: Final = 4096


class Starting:
    """The work's side of the pipe."""

    __slots__ = ("_pipe",)

    def __init__(self, pipe: int) -> None:
        self._pipe: int | None = pipe

    def say(self, line: str) -> None:
        """Show a line to whoever asked for the work; nobody sees it once the work has started."""
        self._send(_LINE + line.replace("\n", "\0").encode())

    def started(self) -> None:
        """The work has started: the asking process returns."""
        self._send(_STARTED)
        self._close()

    def failed(self, error: BokilogError | OSError) -> None:
        """The work did not start: `detach` raises this error in the asking process."""
        if isinstance(error, BokilogError):
            self._send(_FAILED + json.dumps(to_wire(error)).encode())
        else:
            place = None if error.filename is None else str(error.filename)
            told = [error.errno, error.strerror or str(error), place]
            self._send(_REFUSED + json.dumps(told).encode())
        self._close()

    def redirect(self, log: Path) -> None:
        """Send standard output and error of this process to a file; before, nobody sees them."""
        output = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.close(output)

    def _send(self, line: bytes) -> None:
        if self._pipe is None:
            return
        try:
            os.write(self._pipe, line + b"\n")
        except OSError:  # whoever asked is gone; the work goes on
            self._close()

    def _close(self) -> None:
        if self._pipe is not None:
            os.close(self._pipe)
            self._pipe = None


def detach(
    work: Callable[[Starting], int], *, say: Callable[[str], None], timeout_s: float
) -> None:
    """Run `work` in another process and return once it says that it has started.

    Args:
        work: gets its side of the pipe and returns the exit code of its process.
        say: gets the lines that the work says while it starts.
        timeout_s: for the start.

    Raises:
        BokilogError, OSError: what the work failed with.
        NotReady: it ended without a word, or took too long.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    reading, writing = os.pipe()
    first = os.fork()
    if first == 0:
        os.close(reading)
        _become_daemon(work, Starting(writing))
    os.close(writing)
    os.waitpid(first, 0)  # it ends at once
    try:
        _listen(reading, say=say, deadline_s=time.monotonic() + timeout_s)
    finally:
        os.close(reading)


def _become_daemon(work: Callable[[Starting], int], starting: Starting) -> NoReturn:
    """In the forked process; never returns into the caller's code."""
    code = 1
    try:
        os.setsid()
        if os.fork() > 0:
            os._exit(0)
        empty = os.open(os.devnull, os.O_RDWR)
        for descriptor in (0, 1, 2):
            os.dup2(empty, descriptor)
        code = work(starting)
    except (BokilogError, OSError) as error:
        starting.failed(error)
        if isinstance(error, OSError) and readable(error) is None:
            sys.excepthook(type(error), error, error.__traceback__)
    except BaseException as error:
        starting.failed(NotReady(readable(error) or f"{type(error).__name__}: {error}"))
        sys.excepthook(type(error), error, error.__traceback__)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _listen(pipe: int, *, say: Callable[[str], None], deadline_s: float) -> None:
    unread = b""
    while True:
        left_s = deadline_s - time.monotonic()
        if left_s <= 0 or not select.select([pipe], [], [], left_s)[0]:
            raise NotReady("it did not start in time")
        data = os.read(pipe, _READ_BYTES)
        *lines, unread = (unread + data).split(b"\n")
        for line in lines:
            if line[:1] == _STARTED:
                return
            if line[:1] == _FAILED:
                raise from_wire(json.loads(line[1:]))
            if line[:1] == _REFUSED:
                number, reason, place = json.loads(line[1:])
                raise OSError(number, reason, place)
            say(line[1:].decode(errors="replace").replace("\0", "\n"))
        if not data:
            raise NotReady("it ended before it had started")
