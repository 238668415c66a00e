"""Rounds of chaos on one directory: start, load and faults, heal, settle, stop, check.

Decides what a round demands: once nothing is wrong any more every process serves, every call gets
an answer, an append goes through to each LogBook and every follow comes to it, each within a bound.
Then the cluster stops, its files are checked as `bokilog verify` does, the order is read from them,
and everything that clients were told is held to it (`order.py`, `told.py`).
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from bokilog.errors import BokilogError
from bokilog.ids import LogSpaceId
from bokilog.shapes.cluster_layout import Layout
from bokilog.shapes.verification import Verification
from tests.chaos.client import ClientProcess, Line, Spec
from tests.chaos.cluster import ProxiedCluster
from tests.chaos.faults import Nemesis
from tests.chaos.order import read_order
from tests.chaos.told import Told, judged
from tests.sim.loop import World

SPACE = LogSpaceId(0)
CLIENTS = ("client-1", "client-2", "client-3")
READY_TIMEOUT_S = 60.0
SETTLE_TIMEOUT_S = 60.0
"""Calls have up to 20 s themselves."""
POLL_S = 0.05
NAMESPACES_SHARE = 0.34
ERRORS_MAX = 5
Say = Callable[[str], None]


@dataclass(slots=True)
class Summary:
    """Of all rounds so far."""

    rounds: int = 0
    violations: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    """Of calls: acked, unknown, failed (appends), read, read failed."""
    done: Counter[str] = field(default_factory=Counter)
    """Faults."""
    view_changes: int = 0

    def line(self) -> str:
        """The last line of a run."""
        counts = self.counts
        faults = ", ".join(f"{count} {name}" for name, count in sorted(self.done.items()))
        return (
            f"{self.rounds} rounds, {len(self.violations)} violations; appends: "
            f"{counts['acked']:,} acked, {counts['unknown']:,} unknown, {counts['failed']:,} "
            f"failed; reads: {counts['read']:,} answered, {counts['read failed']:,} failed; "
            f"{self.view_changes} view changes; faults: {faults or 'none'}"
        )

    def plain(self) -> dict[str, object]:
        """The same for programs."""
        return {
            "rounds": self.rounds,
            "violations": self.violations,
            "calls": dict(self.counts),
            "faults": dict(self.done),
            "view_changes": self.view_changes,
        }


def play_round(
    directory: Path,
    total: Summary,
    *,
    seed: int,
    load_s: float,
    say: Say,
    namespaces: bool = False,
) -> None:
    """One more round on a directory, whose cluster goes on where it stood; added to the summary.

    `namespaces`: there can be any; a third of the rounds, drawn from the seed, has them.
    """
    number = total.rounds + 1
    started_s = time.monotonic()
    drawn = namespaces and Random(f"{seed} {number} network").random() < NAMESPACES_SHARE
    one = Round(directory, number, f"{seed} {number}", say=say, namespaces=drawn)
    asyncio.run(one.run(load_s))
    one.check()
    total.rounds += 1
    total.violations += [f"round {number}: {text}" for text in one.violations]
    total.counts += one.told.counts
    total.done += one.done
    total.view_changes += one.view_changes
    counts, took_s = one.told.counts, time.monotonic() - started_s
    say(
        f"round {number}: {len(one.violations)} violations; {counts['acked']:,} appends acked,"
        f" {counts['unknown']:,} unknown; {sum(one.done.values())} faults,"
        f" {one.view_changes} view changes; {took_s:.0f} s"
        f"{', with network namespaces' if drawn else ''}"
    )


class Round:
    """One start of the cluster, and what became of it."""

    def __init__(
        self, directory: Path, number: int, seed: str, *, say: Say, namespaces: bool = False
    ) -> None:
        self.namespaces = namespaces
        self.told = Told()
        self.violations: list[str] = []
        self.done: Counter[str] = Counter()
        self.view_changes = 0
        self._directory = directory
        self._number = number
        self._rng = Random(seed)
        self._seed = seed
        self._say = say
        self._books = [f"round {number} book {letter}" for letter in "abc"]
        self._clients: dict[str, ClientProcess] = {}
        self._lives: Counter[str] = Counter()
        self._started_s = time.monotonic()
        self.layout: Layout
        self._settled = False
        self._logged: dict[Path, int] = {}
        """Sizes of the processes' logs when the round began."""

    # --- running ----------------------------------------------------------------------------------

    async def run(self, load_s: float) -> None:
        """Up to and including the stop of everything that was started."""
        cluster = ProxiedCluster(self._directory, clients=CLIENTS, namespaces=self.namespaces)
        self.layout = cluster.local.layout
        try:
            await asyncio.to_thread(cluster.__enter__)
        except BokilogError as error:
            self.violations.append(f"the cluster does not start: {error}")
            return
        self._logged = {log: log.stat().st_size for log in self._logs()}
        first_term = cluster.view().term
        try:
            for client in CLIENTS:
                await self._start_client(cluster, client)
            nemesis = Nemesis(
                cluster,
                self._rng,
                kill_client=lambda client: self._kill_client(cluster, client),
                signal_client=lambda client, number: self._clients[client].signal(number),
                say=self._note,
            )
            await self._demand("every client is at work", self._all_call, READY_TIMEOUT_S)
            try:
                await asyncio.sleep(min(2.0, load_s / 4))
                await nemesis.strike_for(load_s)
            finally:
                await nemesis.heal()
                self.done = nemesis.done
            self._note("healed")
            await self._settle(cluster)
            self.view_changes = cluster.view().term - first_term
            self._settled = True
        finally:
            for process in self._clients.values():
                await process.end()
            await asyncio.to_thread(cluster.__exit__)
        self._note("stopped")

    async def _start_client(self, cluster: ProxiedCluster, client: str) -> None:
        self._lives[client] += 1
        spec = Spec(
            life=f"{client}.{self._number}.{self._lives[client]}",
            seed=f"{self._seed} {client} {self._lives[client]}",
            urls=[cluster.url(client)],
            books=self._books,
        )
        self._clients[client] = await ClientProcess.start(spec, heard=self._heard)

    def _all_call(self) -> bool:
        """Whether each has made a call: on a busy machine processes take long to start."""
        return all(client.spec.life in self.told.waiting for client in self._clients.values())

    def _heard(self, client: ClientProcess, line: Line) -> None:
        self.told.heard(client.spec.life, line)
        if line.kind in ("token", "keyed"):
            for other in self._clients.values():
                if other is not client:
                    other.say(line.kind, *line.what)

    async def _kill_client(self, cluster: ProxiedCluster, client: str) -> None:
        dead = self._clients[client]
        dead.signal(signal.SIGKILL)
        await dead.end()
        self.told.died(dead.spec.life)
        await self._start_client(cluster, client)

    # --- the end of a round -----------------------------------------------------------------------

    async def _settle(self, cluster: ProxiedCluster) -> None:
        """Nothing is wrong any more: everything has to come to an end, within bounds."""
        await self._demand("every process serves", cluster.all_ready, READY_TIMEOUT_S)
        for client in self._clients.values():
            client.say("stop")
        told = self.told
        await self._demand("every call is answered", lambda: not any(told.waiting.values()))
        spec = Spec(
            life=f"audit.{self._number}",
            seed=self._seed,
            urls=cluster.direct_urls(),
            books=self._books,
            audits=True,
        )
        audit = await ClientProcess.start(spec, heard=self._heard)
        await self._demand("an audit goes through", lambda: audit.ended)
        await audit.end()
        if len(told.audited) < len(self._books):
            self.violations.append(f"the audit ended after {sorted(told.audited)}")
        await self._demand("every follow is at the end", lambda: not told.behind())
        await self._demand_whole(cluster)
        for text in told.behind():
            self.violations.append(text)

    async def _demand(
        self, what: str, holds: Callable[[], bool], timeout_s: float = SETTLE_TIMEOUT_S
    ) -> None:
        deadline_s = time.monotonic() + timeout_s
        while not holds():
            if time.monotonic() > deadline_s:
                self.violations.append(f"within {timeout_s:.0f} s not: {what}")
                self._note(self.violations[-1])
                return
            await asyncio.sleep(POLL_S)
        self._note(what)

    async def _demand_whole(self, cluster: ProxiedCluster) -> None:
        """A wiped disk has everything again: only then may the next one be lost."""
        deadline_s = time.monotonic() + SETTLE_TIMEOUT_S
        while not await cluster.whole():
            if time.monotonic() > deadline_s:
                self.violations.append(f"within {SETTLE_TIMEOUT_S:.0f} s not: every disk is whole")
                return
            await asyncio.sleep(POLL_S)
        self._note("every disk is whole")

    # --- the check --------------------------------------------------------------------------------

    def check(self) -> None:
        """What processes logged, the files, the order in them, and what clients were told."""
        self.violations += self.told.bugs
        self.violations += self._errors()
        if not self._settled:
            return
        report = Verification(self._directory).run()
        self.violations += [
            f"verify: {part.name}: {finding}" for part in report.parts for finding in part.findings
        ]
        world = World(0)
        oracle = read_order(self.layout, SPACE, world)
        self.violations += judged(self.told, oracle, world)
        self.violations += world.violations

    def _logs(self) -> list[Path]:
        return sorted(self.layout.logs_dir.glob("*.log"))

    def _errors(self) -> list[str]:
        """Errors that processes logged: no fault from outside is one."""
        found = []
        for log in self._logs():
            with log.open(encoding="utf-8", errors="replace") as lines:
                lines.seek(self._logged.get(log, 0))
                found += [line.strip() for line in lines if " ERROR " in line]
        return [f"logged: {text[:500]}" for text in found[:ERRORS_MAX]]

    def _note(self, text: str) -> None:
        self._say(f"  {time.monotonic() - self._started_s:6.2f} {text}")
