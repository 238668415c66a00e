"""kill -9 of a process with an embedded log, again and again on one directory.

Nothing acknowledged is lost, doubled or altered, whatever the process was doing: appending, syncing
in its thread, storing its fold, recycling segments, or reading all that back at its start.
`BOKILOG_KILL_ROUNDS=50` for more rounds, `BOKILOG_KILL_ACKED=25000` for longer ones,
`BOKILOG_KILL_SEED` for those of a failure.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from pathlib import Path

import pytest

import bokilog
from tests.integration.history import History
from tests.integration.reading import trim_some, verify
from tests.integration.writer import Spec, Writer, repeats_of, small_segments

ROUNDS = int(os.environ.get("BOKILOG_KILL_ROUNDS", "8"))
SEED = int(os.environ.get("BOKILOG_KILL_SEED", str(time.time_ns() % 1_000_000)))
ACKED_MIN = int(os.environ.get("BOKILOG_KILL_ACKED", "1000"))
ACKED_MAX = 2 * ACKED_MIN
ROUND_TIMEOUT_S = 60.0 + ACKED_MIN / 200

pytestmark = [
    pytest.mark.kill,
    pytest.mark.slow,
    pytest.mark.timeout(60 + (20 + ACKED_MIN / 100) * ROUNDS),
]


class Rounds:
    """One directory, and what is known of it."""

    def __init__(self, directory: Path) -> None:
        self.history = History()
        self.rng = random.Random(SEED)
        self.directory = directory
        self.run = 0
        self.in_flight: list[int] = []
        """How many appends were under way at each kill that counts."""

    def writer(self) -> Writer:
        self.run += 1
        rng = self.rng
        spec = Spec(
            run=self.run,
            seed=SEED,
            directory=str(self.directory / "log"),
            sessions=rng.choice((4, 8, 12)),
            repeats=repeats_of(self.history, rng),
            sync_delay_ms=rng.choice((0.0, 0.0, 1.5)),
            checkpoint_s=rng.choice((0.15, 0.15, 10.0)),
        )
        return Writer(spec, self.history, errors=self.directory / "errors")

    def kill_early(self) -> None:
        """While it starts, or soon after; there may be nothing that it was told yet."""
        with self.writer() as writer:
            deadline_s = time.monotonic() + self.rng.uniform(0.2, 0.7)
            while time.monotonic() < deadline_s:
                writer.hear(deadline_s)
            writer.kill()

    def kill_late(self) -> None:
        """After at least 1,000 appends were acknowledged, with others under way."""
        with self.writer() as writer:
            wanted = self.rng.randrange(ACKED_MIN, ACKED_MAX)
            writer.wait_acked(wanted, timeout_s=ROUND_TIMEOUT_S)
            counts = writer.kill()
        assert counts.acked >= ACKED_MIN
        if counts.open:  # by chance it may have been told everything just before
            self.in_flight.append(counts.open)

    async def reopen(self, *, trim: bool) -> None:
        async with bokilog.open(self.directory / "log") as log:
            await verify(log, self.history, self.rng)
            if trim:
                await trim_some(log, self.history, self.rng)


def test_killed_process_loses_doubles_and_alters_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    print(f"BOKILOG_KILL_SEED={SEED}")
    small_segments(monkeypatch.setattr)
    rounds = Rounds(tmp_path)
    for _ in range(2 * ROUNDS):
        if rounds.rng.random() < 0.3:
            rounds.kill_early()
        rounds.kill_late()
        last = len(rounds.in_flight) == ROUNDS
        if last or rounds.rng.random() < 0.7:  # else the next writer is the first to open it
            asyncio.run(rounds.reopen(trim=not last and rounds.rng.random() < 0.4))
        if last:
            break
    acked = rounds.history.acked_count
    print(f"{ROUNDS} rounds, {acked} acknowledged, in flight at the kills: {rounds.in_flight}")
    assert len(rounds.in_flight) == ROUNDS
