"""Many seeds, or one with its trace.

    python -m tests.sim --seeds 1000 --minutes 10
    python -m tests.sim --seed 49

The last line reads `N seeds, M violations`. The same seed is the same run, in every process and
whatever `PYTHONHASHSEED` is (tests/sim/test_determinism.py).
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
import traceback
from pathlib import Path

from tests.sim.simulation import Report, simulate

VIOLATION_CHARACTERS_MAX = 4_000


def main() -> int:
    """Exit code 1 if any rule was broken."""
    parser = argparse.ArgumentParser(prog="python -m tests.sim", description=__doc__)
    parser.add_argument("--seeds", type=int, default=100, help="how many to run (default: 100)")
    parser.add_argument("--first", type=int, default=0, help="the first of them (default: 0)")
    parser.add_argument("--minutes", type=float, default=0.0, help="stop after so long (0: never)")
    parser.add_argument("--seed", type=int, help="only this one, with its trace")
    options = parser.parse_args()
    if options.seed is not None:
        return _replay(options.seed)
    return _many(options.first, options.seeds, options.minutes)


def _replay(seed: int) -> int:
    report = simulate(seed, traced=True)
    for line in report.lines:
        print(line)
    print(f"knobs {report.knobs.described()}")
    print(f"digest {report.digest}")
    _tell(report)
    print(f"1 seeds, {len(report.violations)} violations")
    return 1 if report.violations else 0


def _many(first: int, count: int, minutes: float) -> int:
    start_s = time.monotonic()
    done = violations = appends = reads = faults = 0
    reached: dict[str, list[int]] = {}
    for seed in range(first, first + count):
        if minutes and time.monotonic() - start_s > minutes * 60:
            break
        done += 1
        try:
            report = simulate(seed)
        except Exception:
            violations += 1
            traceback.print_exc()
            print(how_to_replay(seed), flush=True)
            continue
        violations += len(report.violations)
        appends += report.appends
        reads += report.reads
        faults += sum(report.faults.values())
        for path, often in report.reached.items():
            reached.setdefault(path, []).append(often)
        _tell(report)
        if done % 100 == 0:
            passed_s = time.monotonic() - start_s
            print(f"{done} seeds in {passed_s:.0f} s, {violations} violations", flush=True)
    for path, counts in sorted(reached.items()):
        print(f"in {len(counts)} seeds, {sum(counts)} times: {path}")
    print(f"{appends} appends acknowledged, {reads} other calls answered, {faults} faults")
    print(f"{done} seeds, {violations} violations")
    return 1 if violations else 0


def _tell(report: Report) -> None:
    for violation in report.violations:
        print(f"seed {report.seed}: {violation[:VIOLATION_CHARACTERS_MAX]}")
    if report.violations:
        print(how_to_replay(report.seed), flush=True)


def how_to_replay(seed: int) -> str:
    """For whoever sees it fail."""
    return f"seed {seed}, commit {commit()}; replay: python -m tests.sim --seed {seed}"


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
