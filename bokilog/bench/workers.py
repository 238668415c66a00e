"""The parent's side: measuring processes, told what to do and stopped for certain.

Decides how such a process is started, how long it may take to answer, and how it is ended: its
input is closed, then it is told to stop, then killed; only processes started here are signalled.

Invariant: what is asked is answered within its deadline, or is a `BenchFailed` that says why.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Final, Self

from bokilog.bench.orders import Order, Outcome, outcome_of, to_line

ANSWER_TIMEOUT_S: Final = 60.0
_STOP_TIMEOUT_S: Final = 10.0
_KILL_TIMEOUT_S: Final = 5.0
_READ_BYTES: Final = 1 << 16


class BenchFailed(Exception):
    """What was to be measured could not be; the message is for whoever asked for it."""


class Worker:
    """One measuring process; a context manager that ends it.

    Args:
        module: run with `python -m`; its `__main__` calls `serve`.
        arguments: of its command line.
        name: for people, and of its CPU in the budget.
        path: put on its import path; None: only what is installed.
    """

    def __init__(
        self,
        module: str,
        *arguments: str,
        name: str,
        path: str | None = None,
    ) -> None:
        self.name = name
        environment = dict(os.environ)
        if path is not None:
            environment["PYTHONPATH"] = path
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", module, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
        )
        self._left = b""

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    def ask(self, order: Order, *, timeout_s: float = ANSWER_TIMEOUT_S) -> Outcome:
        """Have it do something and wait until it has.

        Raises:
            BenchFailed: it could not, it died, or it took longer than asked for plus `timeout_s`.
        """
        self.tell(order)
        return self.answer(order, timeout_s=timeout_s)

    def tell(self, order: Order) -> None:
        """Have it do something; `answer` is to follow."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(to_line(order))
            self._process.stdin.flush()
        except BrokenPipeError:
            raise BenchFailed(f"{self.name} is gone (exit {self._process.wait()})") from None

    def answer(self, order: Order, *, timeout_s: float = ANSWER_TIMEOUT_S) -> Outcome:
        """What came of an order that was told."""
        outcome = outcome_of(self._line(order, time.monotonic() + order.seconds + timeout_s))
        if outcome.error:
            raise BenchFailed(f"{self.name}, {order.do}: {outcome.error}")
        return outcome

    def _line(self, order: Order, deadline_s: float) -> bytes:
        assert self._process.stdout is not None
        descriptor = self._process.stdout.fileno()
        while b"\n" not in self._left:
            left_s = deadline_s - time.monotonic()
            if left_s <= 0 or not select.select([descriptor], [], [], left_s)[0]:
                raise BenchFailed(f"{self.name}, {order.do}: no answer in time")
            found = os.read(descriptor, _READ_BYTES)
            if not found:
                code = self._process.wait(_KILL_TIMEOUT_S)
                raise BenchFailed(f"{self.name}, {order.do}: it died (exit {code})")
            self._left += found
        line, _, self._left = self._left.partition(b"\n")
        return line

    def close(self) -> None:
        """End it; returns when it is gone."""
        if self._process.stdin is not None:
            try:
                self._process.stdin.close()
            except BrokenPipeError:
                pass
        end(self._process)
        if self._process.stdout is not None:
            self._process.stdout.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None:  # Ctrl-C, for one: nobody waits for what it is doing
            self._process.kill()
        self.close()


class Server:
    """A program of somebody else that is measured; a context manager that ends it."""

    def __init__(self, command: Sequence[str], *, name: str) -> None:
        self.name = name
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is ours; we end it
        )

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    def close(self) -> None:
        """End it; returns when it is gone."""
        if self.running:
            self._process.terminate()
        end(self._process)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def end(process: subprocess.Popen[bytes]) -> None:
    """Wait for a process that was told to stop; kill it if it does not."""
    try:
        process.wait(_STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(_KILL_TIMEOUT_S)


@contextmanager
def stopped_by_signals() -> Iterator[None]:
    """SIGTERM and SIGHUP end the measuring as Ctrl-C does, so that nothing is left running."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    numbers = (signal.SIGTERM, signal.SIGHUP)
    before: dict[signal.Signals, object] = {each: signal.getsignal(each) for each in numbers}
    for number in numbers:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number in numbers:
            signal.signal(number, before[number])  # type: ignore[arg-type]  # what it gave us
