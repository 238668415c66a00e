"""Many seeds, or one with its trace.

    python -m tests.sim --seeds 1000 --minutes 10 --jobs 2
    python -m tests.sim --seed 49
    python -m tests.sim --seeds 100 --losses

The last line reads `N seeds, M violations`. The same seed is the same run, in every process and
whatever `PYTHONHASHSEED` is (tests/sim/test_determinism.py).
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

from tests.sim.outcomes import Outcome, outcomes
from tests.sim.simulation import Report, simulate
from tests.sim.swarm import draw

VIOLATION_CHARACTERS_MAX = 4_000


def main() -> int:
    """Exit code 1 if any rule was broken."""
    parser = argparse.ArgumentParser(prog="python -m tests.sim", description=__doc__)
    parser.add_argument("--seeds", type=int, default=100, help="how many to run (default: 100)")
    parser.add_argument("--first", type=int, default=0, help="the first of them (default: 0)")
    parser.add_argument("--minutes", type=float, default=0.0, help="stop after so long (0: never)")
    parser.add_argument("--jobs", type=int, default=1, help="processes (default: 1)")
    parser.add_argument("--seed", type=int, help="only this one, with its trace")
    parser.add_argument(
        "--losses", action="store_true", help="only worlds in which a person accepts a loss"
    )
    options = parser.parse_args()
    if options.seed is not None:
        return _replay(options.seed, losses=options.losses)
    seeds = range(options.first, options.first + options.seeds)
    return _many(seeds, options.minutes, options.jobs, losses=options.losses)


def _replay(seed: int, *, losses: bool) -> int:
    report = simulate(seed, draw(seed, losses=losses), traced=True)
    for line in report.lines:
        print(line)
    print(f"knobs {report.knobs.described()}")
    print(f"digest {report.digest}")
    _tell(report, losses=losses)
    print(f"1 seeds, {len(report.violations)} violations")
    return 1 if report.violations else 0


def _many(seeds: range, minutes: float, jobs: int, *, losses: bool) -> int:
    start_s = time.monotonic()
    done = violations = appends = reads = faults = 0
    reached: dict[str, list[int]] = {}
    for outcome in outcomes(seeds, jobs, losses=losses):
        done += 1
        violations += len(outcome.violations)
        appends += outcome.appends
        reads += outcome.reads
        faults += outcome.faults
        for path, often in outcome.reached:
            reached.setdefault(path, []).append(often)
        _tell(outcome, losses=losses)
        passed_s = time.monotonic() - start_s
        if done % 100 == 0:
            print(f"{done} seeds in {passed_s:.0f} s, {violations} violations", flush=True)
        if minutes and passed_s > minutes * 60:
            break
    for path, counts in sorted(reached.items()):
        print(f"in {len(counts)} seeds, {sum(counts)} times: {path}")
    print(f"{appends} appends acknowledged, {reads} other calls answered, {faults} faults")
    print(f"{done} seeds, {violations} violations")
    return 1 if violations else 0


def _tell(report: Report | Outcome, *, losses: bool) -> None:
    for violation in report.violations:
        print(f"seed {report.seed}: {violation[:VIOLATION_CHARACTERS_MAX]}")
    if report.violations:
        print(how_to_replay(report.seed, losses=losses), flush=True)


def how_to_replay(seed: int, *, losses: bool = False) -> str:
    """For whoever sees it fail."""
    world = " --losses" if losses else ""
    return f"seed {seed}, commit {commit()}; replay: python -m tests.sim --seed {seed}{world}"


def commit() -> str:
    """What was simulated."""
    here = Path(__file__).parent
    try:
        ran = subprocess.run(
            ["git", "-C", str(here), "describe", "--always", "--dirty"],
            capture_output=True,
            text=True,
            check=False,
        )
    except OSError:
        return "unknown"
    return ran.stdout.strip() or "unknown"


if __name__ == "__main__":
    sys.exit(main())
