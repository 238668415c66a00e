"""bokilog as a contender: one work on one shape, through processes of their own.

Decides what surrounds a measured turn. An embedded log is opened in a fresh directory for each
turn; a cluster stays up and gets a fresh LogBook. A follower reads along unless it is told not to:
in the embedded shape in the same process; on a cluster in a process of its own, at the other
engine. A turn is over once the follower has read the last record that was acknowledged.
"""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from bokilog.bench.orders import Order, Outcome
from bokilog.bench.places import Cluster
from bokilog.bench.workers import Worker

LOG_WORKER: Final = "bokilog.bench.log_worker"
Shape = Literal["embedded", "cluster"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What is appended, how."""

    size_bytes: int = 1024
    outstanding: int = 256
    batch_count: int = 1
    durability: str = "sync"
    sync_delay_ms: float = 0.0
    follower: bool = True
    sequencers: int = 1
    """Of a cluster."""
    flags: tuple[str, ...] = ()
    count: int = 0
    """So many records per turn; 0: as many as there is time for."""

    def name(self, shape: str) -> str:
        """Of its figures."""
        parts = [shape, "append", self.durability, f"{self.size_bytes}B", f"{self.outstanding}x"]
        if self.batch_count > 1:
            parts.append(f"units-of-{self.batch_count}")
        if self.sequencers > 1:
            parts.append(f"{self.sequencers}-sequencers")
        if self.sync_delay_ms:
            parts.append(f"delay-{self.sync_delay_ms:g}ms")
        return ".".join(parts)

    def order(self, book: str, seconds: float) -> Order:
        """To append."""
        return Order(
            do="append",
            book=book,
            size_bytes=self.size_bytes,
            outstanding=self.outstanding,
            batch_count=self.batch_count,
            seconds=seconds if not self.count else 600.0,
            count=self.count // self.batch_count,
            flags=self.flags,
        )


class EmbeddedAppends:
    """Appends to an embedded log; a contender."""

    def __init__(self, worker: Worker, directory: Path, work: Work) -> None:
        self.name = work.name("embedded")
        self._worker = worker
        self._directory = directory / self.name
        self._work = work
        self._last_seqnum = 0

    def begin(self) -> None:
        """Open a log in a fresh directory."""
        work = self._work
        self._worker.ask(
            Order(do="open", place=str(self._directory), sync_delay_ms=work.sync_delay_ms)
        )
        self._worker.ask(Order(do="create", durability=work.durability))
        if work.follower:
            self._worker.ask(Order(do="follow", flags=work.flags))

    def pids(self) -> Mapping[str, int]:
        """It is one process."""
        return {"embedded": self._worker.pid}

    def run(self, seconds: float) -> Outcome:
        """Append."""
        outcome = self._worker.ask(self._work.order("bench", seconds))
        self._last_seqnum = outcome.seqnum
        return outcome

    def settle(self) -> Mapping[str, float]:
        """Let the follower read the last record."""
        return _settled(self._worker, "bench", self._last_seqnum, self._work)

    def end(self) -> None:
        """Close the log and delete it."""
        self._worker.ask(Order(do="close"))
        shutil.rmtree(self._directory, ignore_errors=True)


class ClusterAppends:
    """Appends to a cluster; a contender."""

    def __init__(self, running: Cluster, work: Work, *, client: Worker, follower: Worker) -> None:
        self.name = work.name("cluster")
        self._running = running
        self._work = work
        self._client = client
        self._follower = follower
        self._book = ""
        self._last_seqnum = 0
        self._restarts_count = 0

    def begin(self) -> None:
        """Make a fresh LogBook, and follow it at the other engine."""
        self._book = f"{self.name}-{next(_NUMBERS)}"
        self._restarts_count = self._running.restarts_count()
        self._client.ask(Order(do="create", book=self._book, durability=self._work.durability))
        if self._work.follower:
            self._follower.ask(Order(do="follow", book=self._book, flags=self._work.flags))

    def pids(self) -> Mapping[str, int]:
        """Of all processes that take part."""
        pids = {"client": self._client.pid, **self._running.pids()}
        if self._work.follower:
            pids["follower"] = self._follower.pid
        return pids

    def run(self, seconds: float) -> Outcome:
        """Append."""
        outcome = self._client.ask(self._work.order(self._book, seconds))
        self._last_seqnum = outcome.seqnum
        return outcome

    def settle(self) -> Mapping[str, float]:
        """Let the follower read the last record."""
        if not self._work.follower:
            return {}
        return _settled(self._follower, self._book, self._last_seqnum, self._work)

    def end(self) -> None:
        """Follow no more; the LogBook's records go, so that turns do not add up."""
        self._follower.ask(Order(do="unfollow", book=self._book))
        self._client.ask(Order(do="drop", book=self._book))
        restarts = self._running.restarts_count() - self._restarts_count
        assert not restarts, f"{restarts} processes died in a turn of {self.name}"


_NUMBERS: Final = itertools.count(1)


def _settled(worker: Worker, book: str, seqnum: int, work: Work) -> Mapping[str, float]:
    if not work.follower:
        return {}
    seen = worker.ask(Order(do="reach", book=book, seqnum=seqnum))
    values = {"follower_behind_s": seen.elapsed_s}
    if work.flags:
        values |= {"delay_p50_us": seen.p50_us, "delay_p99_us": seen.p99_us}
    return values


@contextmanager
def log_worker(name: str, place: str = "") -> Iterator[Worker]:
    """A process that uses logs; with `place`, connected there."""
    with Worker(LOG_WORKER, name=name) as worker:
        if place:
            worker.ask(Order(do="open", place=place))
        yield worker
