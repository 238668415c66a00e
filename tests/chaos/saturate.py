"""Saturating load without faults: nobody may be taken for dead only because the machine is busy.

Three sequencers, three storage nodes and two engines with default settings, without a proxy, and
one client per engine that keeps `OUTSTANDING` appends under way; each in a LogBook that keeps its
last 64 MiB, so that the disk does not fill. Counted are the views that were stored since the load
began, processes that died, and appends that did not end well: a change of view, a restart or a
failed append is a miss.

The child (`python -m tests.chaos.saturate SPEC`) appends and says every few seconds how much.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import bokilog
from bokilog.errors import BokilogError
from bokilog.io.file_views import FileViews
from bokilog.io.free_ports import free_ports
from bokilog.logbook import LogBook
from bokilog.shapes.cluster_layout import HOST
from bokilog.shapes.local_cluster import LocalCluster

ROOT = Path(__file__).parents[2]
OUTSTANDING = 128
DATA = b"x" * 100
KEPT_BYTES = 64 << 20
TELL_S = 10.0
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """What one client does."""

    url: str
    book: str
    seconds: float


@dataclass(slots=True)
class Saturated:
    """What came of it."""

    seconds: float = 0.0
    view_changes: int = 0
    restarts: int = 0
    acked: int = 0
    failed: int = 0
    longest_s: float = 0.0
    """The longest time between two acknowledgements of one client."""
    slowest_rate_s: float = 0.0
    """Fewest appends per second in any `TELL_S` of one client."""
    errors: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return not (self.view_changes or self.restarts or self.failed or self.errors)

    def line(self) -> str:
        """The last line of a run."""
        return (
            f"{self.seconds / 60:.1f} minutes of saturating load, {self.view_changes} view changes,"
            f" {self.restarts} restarts; appends: {self.acked:,} acked"
            f" ({self.acked / max(self.seconds, 1e-9):,.0f}/s), {self.failed:,} failed; longest"
            f" silence {self.longest_s * 1000:,.0f} ms: {'ok' if self.ok else 'MISSED'}"
        )

    def plain(self) -> dict[str, object]:
        """The same for programs."""
        return {"ok": self.ok, **asdict(self)}


def saturate(directory: Path, *, minutes: float, say: Say) -> Saturated:
    """The whole run, on a new cluster."""
    found = Saturated()
    with LocalCluster(directory, sequencers=3, function_nodes=2, port=free_ports(2)) as cluster:
        asyncio.run(_Run(cluster, found, say).run(minutes * 60))
    return found


class _Run:
    def __init__(self, cluster: LocalCluster, found: Saturated, say: Say) -> None:
        self._cluster = cluster
        self._found = found
        self._say = say
        self._rates: list[float] = []

    async def run(self, seconds: float) -> None:
        cluster, found = self._cluster, self._found
        nodes = [node.id for node in cluster.layout.nodes]
        specs = [
            Spec(url=f"bokilog://{HOST}:{port}", book=f"saturated {number}", seconds=seconds)
            for number, port in enumerate(cluster.layout.ports, 1)
        ]
        for spec in specs:
            async with bokilog.connect(spec.url, timeout_s=30, connect_timeout_s=30) as log:
                await log.create_book(spec.book, retention_bytes=KEPT_BYTES)
        first_term = self._term()
        started_s = time.monotonic()
        await asyncio.gather(*(self._client(number, spec) for number, spec in enumerate(specs, 1)))
        found.seconds = time.monotonic() - started_s
        found.view_changes = self._term() - first_term
        found.restarts = sum(cluster.restarts(node) for node in nodes)
        found.slowest_rate_s = min(self._rates, default=0.0)

    def _term(self) -> int:
        term = FileViews(self._cluster.layout.settings.views_dir).latest_term()
        assert term is not None, "a cluster that runs has stored a view"
        return term

    async def _client(self, number: int, spec: Spec) -> None:
        words = [sys.executable, "-m", "tests.chaos.saturate", json.dumps(asdict(spec))]
        process = await asyncio.create_subprocess_exec(*words, cwd=ROOT, stdout=subprocess.PIPE)
        assert process.stdout is not None
        found, last = self._found, {"acked": 0, "failed": 0, "longest_s": 0.0, "passed_s": 0.0}
        try:
            async for line in process.stdout:
                told = json.loads(line)
                if "error" in told:
                    found.errors.append(f"client {number}: {told['error']}")
                    continue
                passed_s = told["passed_s"] - last["passed_s"]
                rate_s = (told["acked"] - last["acked"]) / max(passed_s, 1e-9)
                if passed_s > TELL_S / 2:
                    self._rates.append(rate_s)
                last = told
                self._say(
                    f"  {told['passed_s']:7.1f} client {number}: {told['acked']:,} acked,"
                    f" {rate_s:,.0f}/s, {self._term()} terms"
                )
            await process.wait()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        found.acked += int(last["acked"])
        found.failed += int(last["failed"])
        found.longest_s = max(found.longest_s, last["longest_s"])
        if process.returncode:
            found.errors.append(f"client {number} ended with {process.returncode}")


# --- the child ------------------------------------------------------------------------------------


class _Client:
    def __init__(self, spec: Spec) -> None:
        self._spec = spec
        self._acked = self._failed = 0
        self._started_s = self._last_s = time.monotonic()
        self._longest_s = 0.0

    async def run(self) -> None:
        async with bokilog.connect(self._spec.url, timeout_s=60, connect_timeout_s=30) as log:
            book = log.book(self._spec.book)
            telling = asyncio.create_task(self._tell_on())
            await asyncio.gather(*(self._append(book) for _ in range(OUTSTANDING)))
            telling.cancel()
        self._tell()

    async def _append(self, book: LogBook) -> None:
        end_s = self._started_s + self._spec.seconds
        while time.monotonic() < end_s:
            try:
                await book.append(DATA, "t")
            except BokilogError as error:
                self._failed += 1
                if self._failed == 1:
                    print(json.dumps({"error": repr(error)}), flush=True)
                continue
            now_s = time.monotonic()
            self._acked += 1
            self._longest_s = max(self._longest_s, now_s - self._last_s)
            self._last_s = now_s

    async def _tell_on(self) -> None:
        while True:
            await asyncio.sleep(TELL_S)
            self._tell()

    def _tell(self) -> None:
        said = {
            "acked": self._acked,
            "failed": self._failed,
            "longest_s": self._longest_s,
            "passed_s": time.monotonic() - self._started_s,
        }
        print(json.dumps(said), flush=True)


if __name__ == "__main__":
    asyncio.run(_Client(Spec(**json.loads(sys.argv[1]))).run())
