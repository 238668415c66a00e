"""The machine's references as contenders, so that they are taken in turns with what they bound.

Decides what each is called. The three that say how fast a machine is as a whole, for figures that
were taken on another one, are `adds`, `sync` and `tcp`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Final

from bokilog.bench.orders import Order, Outcome
from bokilog.bench.workers import Worker

ADDS: Final = "machine.10M-adds"
SYNC: Final = "machine.write-and-sync.1024B"
TCP: Final = "machine.tcp-round-trip.100B"
UNIX: Final = "machine.unix-round-trip"
WRITE: Final = "machine.write-with-checksum.1MiB"
_LARGE_BYTES: Final = 1 << 20


class Reference:
    """One thing that the machine does; a contender."""

    def __init__(self, name: str, worker: Worker, order: Order) -> None:
        self.name = name
        self._worker = worker
        self._order = order

    def begin(self) -> None:
        """It keeps nothing."""

    def pids(self) -> Mapping[str, int]:
        """Nobody asks what it uses."""
        return {}

    def run(self, seconds: float) -> Outcome:
        """Take it."""
        return self._worker.ask(replace(self._order, seconds=seconds))

    def settle(self) -> Mapping[str, float]:
        """It leaves nothing to wait for."""
        return {}

    def end(self) -> None:
        """It leaves nothing."""


@contextmanager
def references(
    directory: Path, *, answer_bytes: int = 1024, large_count: int = 1024
) -> Iterator[Mapping[str, Reference]]:
    """All of them by name, with the processes that they need."""
    with (
        Worker("bokilog.bench.machine_worker", name="machine") as worker,
        Worker("bokilog.bench.echo", name="echo") as echo,
    ):
        port = echo.ask(Order(do="tcp")).place
        socket_path = str(directory / "echo.sock")
        echo.ask(Order(do="unix", place=socket_path, size_bytes=answer_bytes))
        file = str(directory / "reference")
        orders = {
            ADDS: Order(do="adds"),
            SYNC: Order(do="sync", place=file, size_bytes=1024),
            TCP: Order(do="tcp", place=port),
            UNIX: Order(do="unix", place=socket_path, size_bytes=answer_bytes),
            WRITE: Order(do="write", place=file, size_bytes=_LARGE_BYTES, count=large_count),
        }
        yield {name: Reference(name, worker, order) for name, order in orders.items()}
