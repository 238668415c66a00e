"""One seed is one run: else no failure could be replayed."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.sim.simulation import Report, simulate

ROOT = Path(__file__).parents[2]
SEED = 17


@functools.cache
def _report() -> Report:
    return simulate(SEED, traced=True)


@pytest.mark.slow
def test_the_same_seed_twice_is_the_same_trace() -> None:
    first, second = _report(), simulate(SEED, traced=True)
    assert first.lines == second.lines
    assert first.digest == second.digest
    assert len(first.lines) > 1_000


@pytest.mark.slow
@pytest.mark.timeout(60)
def test_another_process_with_other_hashes_runs_the_same() -> None:
    """Nothing may depend on the order of a set or on where objects lie in memory."""
    hash_seed = "2" if os.environ.get("PYTHONHASHSEED") == "1" else "1"
    code = (
        f"from tests.sim.simulation import simulate; print(hash('{SEED}'), simulate({SEED}).digest)"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    their_hash, digest = ran.stdout.split()
    assert int(their_hash) != hash(str(SEED)), "the hashes are no others"
    assert digest == _report().digest
