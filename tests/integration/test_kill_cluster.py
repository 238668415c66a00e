"""kill -9 of the processes of a local cluster, alone and together, while writers go on.

Per round two writers append through both engines; once 1,000 appends were acknowledged, processes
are killed at one instant, then the supervisor's restarts heal the cluster, and both writers have to
get further. Everything acknowledged is then read back linearizably, through each of the engines.
`BOKILOG_KILL_ROUNDS=50` for more rounds, `BOKILOG_KILL_ACKED=25000` for longer ones,
`BOKILOG_KILL_SEED` for those of a failure.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest

import bokilog
from bokilog.shapes.local_cluster import LocalCluster
from tests.integration.cluster import small_cluster
from tests.integration.history import History
from tests.integration.reading import everything, trim_some, verify
from tests.integration.writer import Spec, Writer, repeats_of

ROUNDS = int(os.environ.get("BOKILOG_KILL_ROUNDS", "5"))
SEED = int(os.environ.get("BOKILOG_KILL_SEED", str(time.time_ns() % 1_000_000)))
ACKED_MIN = int(os.environ.get("BOKILOG_KILL_ACKED", "1000"))
ACKED_MAX = ACKED_MIN * 3 // 2
ACKED_AFTER = 150
"""Per writer, once everything has healed."""
HEAL_TIMEOUT_S = 30.0
ROUNDS_PER_START = 8
"""Then all stop in order and start again: the supervisor waits longer after each death."""

SEQUENCERS = ("sequencer-1",)
STORAGE = ("storage-1", "storage-2", "storage-3")
ENGINES = ("engine-1", "engine-2")
ALL = (*SEQUENCERS, *STORAGE, *ENGINES)
VICTIMS: Sequence[Sequence[str]] = (
    ALL,
    SEQUENCERS,
    ("storage-1",),
    ("engine-2",),
    ("storage-2", "storage-3"),
    ENGINES,
    (*SEQUENCERS, *STORAGE),
    ("storage-3", "engine-1"),
)
"""Of the first rounds; later ones choose at random."""
pytestmark = [
    pytest.mark.kill,
    pytest.mark.slow,
    pytest.mark.timeout(60 + (40 + ACKED_MIN / 50) * ROUNDS),
]


class Rounds:
    """One directory, its cluster, and what is known of it."""

    def __init__(self, directory: Path) -> None:
        self.history = History()
        self.rng = random.Random(SEED)
        self.directory = directory
        self.run = 0
        self.killed: list[tuple[Sequence[str], int]] = []
        """Who was killed at once, and how many appends were under way then."""

    def writer(self, cluster: LocalCluster, *, turned: bool) -> Writer:
        self.run += 1
        ports = list(cluster.layout.ports)
        seeds = [f"127.0.0.1:{port}" for port in (ports[::-1] if turned else ports)]
        spec = Spec(
            run=self.run,
            seed=SEED,
            url=f"bokilog://{','.join(seeds)}",
            sessions=self.rng.choice((3, 6)),
            pause_s=0.04,
            repeats=repeats_of(self.history, self.rng),
        )
        return Writer(spec, self.history, errors=self.directory / "errors")

    def play(self, cluster: LocalCluster, victims: Sequence[str]) -> None:
        with ExitStack() as stack:
            writers = [
                stack.enter_context(self.writer(cluster, turned=turned)) for turned in (False, True)
            ]
            wanted = self.rng.randrange(ACKED_MIN, ACKED_MAX)
            hear_all(writers, lambda: sum(each.acked_count for each in writers) >= wanted)
            before = {node: cluster.restarts(node) for node in victims}
            killed_ns = time.monotonic_ns()
            for node in victims:
                cluster.kill(node)
            hear_all(
                writers,
                lambda: all(cluster.is_ready(node, restarts=before[node] + 1) for node in victims),
            )
            goals = [each.acked_count + ACKED_AFTER for each in writers]
            hear_all(
                writers,
                lambda: all(
                    each.acked_count >= goal for each, goal in zip(writers, goals, strict=True)
                ),
            )
            if self.rng.random() < 0.3:
                writers.pop().kill()
            for writer in writers:
                writer.stop(timeout_s=HEAL_TIMEOUT_S)
        under_way = self.history.under_way(killed_ns)
        if under_way:  # by chance all may have paused just then
            self.killed.append((victims, under_way))

    async def read_back(self, cluster: LocalCluster, *, trim: bool) -> None:
        """Everything through one engine, in every way; the other one shows the same."""
        ports = self.rng.sample(cluster.layout.ports, len(ENGINES))
        one, other = (bokilog.connect(f"bokilog://127.0.0.1:{port}") for port in ports)
        async with one as log, other as other_log:
            found = await verify(log, self.history, self.rng)
            assert await everything(other_log) == found, "engines serve different records"
            if trim:
                await trim_some(log, self.history, self.rng)

    def victims(self, number: int) -> Sequence[str]:
        if number < len(VICTIMS):
            return VICTIMS[number]
        count = self.rng.choice((1, 1, 1, 2, 2, 3, 4, len(ALL)))
        return self.rng.sample(ALL, count)


def hear_all(writers: Sequence[Writer], done: Callable[[], bool]) -> None:
    """Take what they say until something has happened."""
    deadline_s = time.monotonic() + HEAL_TIMEOUT_S
    while not done():
        for writer in writers:
            writer.hear(time.monotonic() + 0.01)
        said = [each.acked_count for each in writers]
        assert time.monotonic() < deadline_s, f"not within {HEAL_TIMEOUT_S} s; acked: {said}"


def test_killed_processes_lose_double_and_alter_nothing(tmp_path: Path) -> None:
    print(f"BOKILOG_KILL_SEED={SEED}")
    rounds = Rounds(tmp_path)
    for _ in range(0, 2 * ROUNDS, ROUNDS_PER_START):
        with small_cluster(tmp_path / "cluster") as cluster:
            for _ in range(ROUNDS_PER_START):
                if len(rounds.killed) == ROUNDS:
                    break
                victims = rounds.victims(len(rounds.killed))
                print(f"round {len(rounds.killed)}: {', '.join(victims)}")
                rounds.play(cluster, victims)
                asyncio.run(rounds.read_back(cluster, trim=rounds.rng.random() < 0.6))
        if len(rounds.killed) == ROUNDS:
            break
    print(f"{rounds.history.acked_count} acknowledged; killed, and under way: {rounds.killed}")
    assert len(rounds.killed) == ROUNDS
