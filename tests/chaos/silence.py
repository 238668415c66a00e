"""How long a fault keeps an appending client waiting: silences, as medians over many kills.

One client appends one record after another, each as soon as the one before is acknowledged; a
silence is the longest time between two acknowledgements around a kill. Nothing is killed before
everything serves again and appends go on evenly. The bars are those of the issue this was made for.

The last figure is of one storage node whose messages all take 200 ms more, each way, by the proxy;
with and without it in turns, through the same proxy.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import bokilog
from bokilog.errors import AppendUnknown
from bokilog.logbook import Log, LogBook
from tests.chaos.cluster import ProxiedCluster

CLIENT = "client-1"
STEADY_S = 1.0
SERVED_S = 10.5
"""Who has lived so long is started again at once (`bokilog/shapes/supervisor.py`)."""
AFTER_S = 4.0
READY_TIMEOUT_S = 60.0
SLOW_TURNS = 3
SLOW_DELAY_S = 0.2
OUTSTANDING = 16
RATIO_BAR = 2.0
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Silence:
    """Of one kind of kill."""

    name: str
    bar_s: float
    found_s: list[float]

    @property
    def median_s(self) -> float:
        return median(self.found_s)

    @property
    def ok(self) -> bool:
        return self.median_s <= self.bar_s


@dataclass(slots=True)
class Measured:
    """Everything that `--measure` finds."""

    silences: list[Silence] = field(default_factory=list)
    undisturbed_p99_s: list[float] = field(default_factory=list)
    slow_p99_s: list[float] = field(default_factory=list)
    steady_s: float = 0.0
    """Median of the longest silences without any kill, for comparison."""

    @property
    def ratio(self) -> float:
        return median(self.slow_p99_s) / median(self.undisturbed_p99_s)

    @property
    def ok(self) -> bool:
        return all(each.ok for each in self.silences) and self.ratio <= RATIO_BAR

    def plain(self) -> dict[str, object]:
        """For programs."""
        return {
            "ok": self.ok,
            "steady_s": self.steady_s,
            "silences": [
                {
                    "what": each.name,
                    "bar_s": each.bar_s,
                    "median_s": each.median_s,
                    "found_s": each.found_s,
                    "ok": each.ok,
                }
                for each in self.silences
            ],
            "slow_storage_node": {
                "delay_s": SLOW_DELAY_S,
                "undisturbed_p99_s": self.undisturbed_p99_s,
                "slow_p99_s": self.slow_p99_s,
                "ratio": self.ratio,
                "bar": RATIO_BAR,
                "ok": self.ratio <= RATIO_BAR,
            },
        }


def table(found: Measured) -> str:
    """For people, as it may stand in a page."""
    lines = [
        "| killed (-9) | kills | silence: median | least | most | bar | |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for each in found.silences:
        shown = [each.median_s, min(each.found_s), max(each.found_s), each.bar_s]
        texts = " | ".join(f"{value * 1000:,.0f} ms" for value in shown)
        lines.append(f"| {each.name} | {len(each.found_s)} | {texts} | {_verdict(each.ok)} |")
    slow, calm = median(found.slow_p99_s), median(found.undisturbed_p99_s)
    lines += [
        "",
        f"Without a kill the longest silence in {STEADY_S:.0f} s was "
        f"{found.steady_s * 1000:,.0f} ms (median).",
        f"Append p99, {OUTSTANDING} outstanding: {slow * 1000:,.1f} ms with one of three storage"
        f" nodes {SLOW_DELAY_S * 1000:.0f} ms slow each way, {calm * 1000:,.1f} ms without: "
        f"{found.ratio:.2f} x (bar {RATIO_BAR:.0f} x): {_verdict(found.ratio <= RATIO_BAR)}",
    ]
    return "\n".join(lines)


def _verdict(ok: bool) -> str:
    return "ok" if ok else "MISSED"


def measure(directory: Path, *, kills: int, slow_s: float, say: Say) -> Measured:
    """Everything, on one cluster."""
    with ProxiedCluster(directory, clients=(CLIENT,)) as cluster:
        return asyncio.run(_Measuring(cluster, say).run(kills, slow_s))


class _Measuring:
    def __init__(self, cluster: ProxiedCluster, say: Say) -> None:
        self._cluster = cluster
        self._say = say
        self._rng = random.Random(1)
        self._started_s: dict[str, float] = {}
        self._steady: list[float] = []

    async def run(self, kills: int, slow_s: float) -> Measured:
        found = Measured()
        # Kills go straight to the engines' own ports: a proxy in between would be measured too.
        url = self._cluster.local.url
        kinds: list[tuple[str, float, Callable[[Log], str]]] = [
            ("primary", 1.5, lambda log: self._cluster.primary()),
            ("one storage node", 0.05, lambda log: self._rng.choice(self._cluster.storage)),
            ("the client's engine", 1.0, _engine_of),
        ]
        for name, bar_s, victim in kinds:
            silences = []
            for number in range(kills):
                async with bokilog.connect(url, timeout_s=30, connect_timeout_s=30) as log:
                    silences.append(await self._kill(log, victim))
                self._say(f"  {name} {number + 1}/{kills}: {silences[-1] * 1000:,.0f} ms")
            found.silences.append(Silence(name, bar_s, silences))
        found.steady_s = median(self._steady)
        for turn in range(SLOW_TURNS):
            for delay_s, kept in ((0.0, found.undisturbed_p99_s), (SLOW_DELAY_S, found.slow_p99_s)):
                kept.append(await self._p99(delay_s, slow_s))
                self._say(f"  turn {turn + 1}, {delay_s} s slow: p99 {kept[-1] * 1000:,.1f} ms")
        return found

    # --- kills ------------------------------------------------------------------------------------

    async def _kill(self, log: Log, victim: Callable[[Log], str]) -> float:
        """The longest silence around one kill."""
        await self._all_ready()
        book, acks = log.book("silence"), list[float]()
        stopping = asyncio.Event()
        appending = asyncio.create_task(_append(book, acks, stopping))
        node = victim(log)
        while time.monotonic() - self._started_s.get(node, -SERVED_S) < SERVED_S:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        await asyncio.sleep(STEADY_S)
        node = victim(log)
        killed_s = time.monotonic()
        self._cluster.local.kill(node)
        while acks[-1] < killed_s + AFTER_S:  # noqa: ASYNC110  # the bound is the append's own
            await asyncio.sleep(0.05)
        stopping.set()
        await appending
        self._steady.append(_longest(acks, killed_s - STEADY_S, killed_s - 0.01))
        await self._all_ready()
        self._started_s[node] = time.monotonic()
        return _longest(acks, killed_s, killed_s + AFTER_S)

    async def _all_ready(self) -> None:
        async with asyncio.timeout(READY_TIMEOUT_S):
            while not self._cluster.all_ready():  # noqa: ASYNC110  # nobody tells
                await asyncio.sleep(0.05)

    # --- a slow storage node ----------------------------------------------------------------------

    async def _p99(self, delay_s: float, seconds: float) -> float:
        cluster, slow = self._cluster, self._cluster.storage[-1]
        await self._all_ready()
        for peer in cluster.peers(slow):
            cluster.proxy.delay(slow, peer, delay_s)
            cluster.proxy.delay(peer, slow, delay_s)
        url = cluster.url(CLIENT)
        try:
            async with bokilog.connect(url, timeout_s=30, connect_timeout_s=30) as log:
                book, latencies_s = log.book("slow"), list[float]()
                await book.append(b"first")
                end_s = time.monotonic() + seconds
                await asyncio.gather(
                    *(_timed(book, latencies_s, end_s) for _ in range(OUTSTANDING))
                )
        finally:
            cluster.proxy.heal()
        return sorted(latencies_s)[int(len(latencies_s) * 0.99)]


def _engine_of(log: Log) -> str:
    assert isinstance(log, bokilog.client.admin.ClientLog)
    welcome = log.client.core.welcome
    assert welcome is not None
    return welcome.node


async def _append(book: LogBook, acks: list[float], stopping: asyncio.Event) -> None:
    """One after another; one whose outcome is unknown is no acknowledgement."""
    while not stopping.is_set():
        try:
            await book.append(b"x" * 100, "t")
        except AppendUnknown:
            continue
        acks.append(time.monotonic())


async def _timed(book: LogBook, latencies_s: list[float], end_s: float) -> None:
    while (started_s := time.monotonic()) < end_s:
        await book.append(b"x" * 100, "t")
        latencies_s.append(time.monotonic() - started_s)


def _longest(acks: list[float], start_s: float, until_s: float) -> float:
    """Between two acknowledgements, of which the second is in `[start_s, until_s]` or is the first
    one after."""
    longest_s, last_s = 0.0, start_s
    for ack_s in acks:
        if ack_s >= start_s:
            longest_s = max(longest_s, ack_s - last_s)
            if ack_s > until_s:
                break
        last_s = ack_s
    return longest_s
