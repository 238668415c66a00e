"""A host with a log in memory, for tests: real templates and workers, the host in this process."""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

from bokilog.codec import pack, unpack
from bokilog.errors import from_wire
from bokilog.functions.runtime.effects import (
    AppLoaded,
    AppNotLoaded,
    CallBegan,
    CallOver,
    WorkerEnded,
)
from bokilog.functions.runtime.host import Host
from bokilog.functions.runtime.local_calls import LocalCall
from bokilog.functions.runtime.messages import Encoding, Item, Start
from bokilog.functions.runtime.process_settings import HostSettings
from bokilog.functions.runtime.scheduler import SchedulerStats
from bokilog.functions.runtime.settings import SchedulerSettings
from bokilog.shapes.served import ServedLog, serve_log

T = TypeVar("T")
APPS = Path(__file__).parent / "apps"


class Seen:
    """A watcher that remembers."""

    def __init__(self) -> None:
        self.versions: list[AppLoaded] = []
        self.failures: list[AppNotLoaded] = []
        self.written: list[tuple[str, int, str]] = []
        self.lost: list[WorkerEnded] = []
        self.begun: list[CallBegan] = []
        self.calls: list[CallOver] = []
        self.warnings: list[str] = []
        self.news: list[str] = []
        self.stops: list[int] = []

    def loaded(self, loaded: AppLoaded) -> None:
        self.versions.append(loaded)

    def not_loaded(self, failed: AppNotLoaded) -> None:
        self.failures.append(failed)

    def began(self, began: CallBegan) -> None:
        self.begun.append(began)

    def over(self, over: CallOver) -> None:
        self.calls.append(over)

    def wrote(self, call_id: str, stream: int, text: str) -> None:
        self.written.append((call_id, stream, text))

    def worker_ended(self, ended: WorkerEnded) -> None:
        self.lost.append(ended)

    def warned(self, problem: str) -> None:
        self.warnings.append(problem)

    def said(self, news: str) -> None:
        self.news.append(news)

    def stopping(self, calls_count: int) -> None:
        self.stops.append(calls_count)


class Hosting:
    """A running host and what it has been seen to do."""

    def __init__(self, host: Host, seen: Seen, log: ServedLog) -> None:
        self.host = host
        self.seen = seen
        self.log = log

    def start(
        self,
        function: str,
        *args: object,
        flags: int = 0,
        timeout_s: float = 0.0,
        on_item: Callable[[Item], None] | None = None,
        call_id: str = "",
    ) -> LocalCall:
        call_id = call_id or os.urandom(8).hex()
        start = Start(
            *(0, function, int(Encoding.MSGPACK), round(timeout_s * 1e3), 0, 0, flags),
            *(call_id, "", "", pack([list(args), {}])),
        )
        return self.host.calls.start(start, on_item=on_item)

    async def call(self, function: str, *args: object, timeout_s: float = 0.0) -> object:
        """The result, or the error, raised."""
        done = await self.start(function, *args, timeout_s=timeout_s).done
        if done.error:
            raise from_wire(done.error)
        return unpack(done.payload)

    @property
    def stats(self) -> SchedulerStats:
        return self.host.stats()


@asynccontextmanager
async def hosting(
    app: str = "small_app:app",
    *,
    app_dir: Path = APPS,
    watch: bool = False,
    name: str = "host-1",
    log: ServedLog | None = None,
    scheduler: SchedulerSettings | None = None,
    worker_silent_s: float = 5.0,
) -> AsyncIterator[Hosting]:
    # Paths of unix sockets are short.
    with tempfile.TemporaryDirectory(prefix="bokilog-") as folder:
        own = log or await serve_log(None, f"unix:{folder}/log.sock")
        settings = HostSettings(
            node_id=name,
            app=app,
            app_dir=app_dir,
            addresses=(f"unix:{folder}/host.sock",),
            log_url=own.url,
            watch=watch,
            watch_s=0.02,
            memory_poll_s=0.05,
            worker_silent_s=worker_silent_s,
            drain_calls_s=0.2,
            scheduler=scheduler or SchedulerSettings(),
        )
        seen = Seen()
        host = Host(settings, watcher=seen)
        try:
            await host.begin()
            yield Hosting(host, seen, own)
        finally:
            await host.aclose()
            if log is None:
                await own.aclose()


def run(work: Callable[[Hosting], Awaitable[T]], **options: object) -> T:
    """Do `work` with a host; nothing that was started for it may be left."""

    async def within() -> T:
        async with hosting(**options) as at:  # type: ignore[arg-type]
            return await work(at)

    before = descendants()
    outcome = asyncio.run(within())
    left = descendants() - before
    deadline_s = time.monotonic() + 10.0
    while left and time.monotonic() < deadline_s:
        time.sleep(0.01)
        left = {pid for pid in left if is_there(pid)}
    assert not left, f"processes are left: {left}"
    return outcome


async def until(condition: Callable[[], object], timeout_s: float = 20.0) -> None:
    """Waits until something holds."""
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


def is_there(pid: int) -> bool:
    """Whether a process lives; one that only waits to be reaped does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def descendants() -> set[int]:
    """All live processes below this one."""
    parents: dict[int, int] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and is_there(int(folder.name)):
            try:
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            parents[int(folder.name)] = int(fields[1])
    found, wave = set[int](), {os.getpid()}
    while wave:
        wave = {pid for pid, parent in parents.items() if parent in wave} - found
        found |= wave
    return found
