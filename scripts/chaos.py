#!/usr/bin/env python3
"""Real processes under real faults; and how long a fault keeps an appending client waiting.

    scripts/chaos.py --minutes 30           # rounds of faults under load, each followed by a check
    scripts/chaos.py --rounds 3 --seed 7    # the same faults at about the same moments
    scripts/chaos.py --measure --kills 20   # silence per kind of kill, and a slow storage node
    scripts/chaos.py --saturate 30          # minutes of load without faults: no view may change

Each round starts three sequencers, three storage nodes, two engines and three clients, with a proxy
between all of them, and kills (-9), pauses, cuts, delays and stops them at random, and empties the
disk of a storage node. Where the machine allows network namespaces (as root) a third of the rounds
has one per node, and loses packets between them. Then it heals them, demands that everything comes
to an end within a bound, stops them, and holds what clients were told to the order in the files,
with the simulator's checkers. Everything that was started is ended. The exit code is 0 only without
a violation; what failed is kept, and named.

Decides what is printed, when it is enough, and what is kept. Needs the checkout's environment
(`scripts/test` makes it) and Linux.
"""

from __future__ import annotations

import json
import secrets
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

import click

ROOT: Final = Path(__file__).parents[1]
sys.path[:0] = [] if str(ROOT) in sys.path else [str(ROOT)]

from tests.chaos.namespaces import missing  # noqa: E402
from tests.chaos.rounds import Say, Summary, play_round  # noqa: E402
from tests.chaos.saturate import saturate  # noqa: E402
from tests.chaos.silence import measure, table  # noqa: E402

ROUNDS_PER_DIRECTORY: Final = 10
"""Then a new one: the check reads the whole history of a directory."""
_INTERRUPTED: Final = 130


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option("--minutes", type=click.FloatRange(min=0.0), help="Begin rounds for so long.")
@click.option("--rounds", type=click.IntRange(min=1), help="At most so many. Default: 5, or any.")
@click.option("--seed", type=int, help="Of the faults and calls. Default: a new one, printed.")
@click.option(
    "--load-s",
    type=click.FloatRange(0.5, 600),
    default=12.0,
    show_default=True,
    help="How long faults strike in each round.",
)
@click.option(
    "--dir",
    "directory",
    type=click.Path(path_type=Path, file_okay=False),
    help="Where clusters are kept. Default: a temporary folder, removed unless something failed.",
)
@click.option("--measure", "measures", is_flag=True, help="Measure silences instead.")
@click.option(
    "--kills",
    type=click.IntRange(1, 1_000),
    default=20,
    show_default=True,
    help="Of each kind, with --measure.",
)
@click.option(
    "--slow-s",
    type=click.FloatRange(0.5, 600),
    default=5.0,
    show_default=True,
    help="With --measure: seconds of appends per turn, with and without a slow storage node.",
)
@click.option(
    "--saturate",
    "saturate_minutes",
    type=click.FloatRange(min=0.0, min_open=True),
    help="Minutes of as much load as there can be, without faults, instead.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON object.")
@click.option("-q", "--quiet", is_flag=True, help="Only a line per round.")
def main(
    minutes: float | None,
    rounds: int | None,
    seed: int | None,
    load_s: float,
    directory: Path | None,
    measures: bool,
    kills: int,
    slow_s: float,
    saturate_minutes: float | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Kill, pause, cut and restart the processes of a cluster under load, and check everything."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # it too ends what was started
    seed = secrets.randbelow(1_000_000) if seed is None else seed
    base = directory or Path(tempfile.mkdtemp(prefix="bokilog-chaos-"))
    base.mkdir(parents=True, exist_ok=True)

    def say(text: str) -> None:
        if not (quiet and text.startswith(" ")):
            print(text, file=sys.stderr if as_json else sys.stdout, flush=True)

    ok = False
    try:
        if measures:
            found = measure(base / "measure", kills=kills, slow_s=slow_s, say=say)
            print(json.dumps(found.plain()) if as_json else table(found))
            ok = found.ok
        elif saturate_minutes is not None:
            busy = saturate(base / "saturate", minutes=saturate_minutes, say=say)
            for text in busy.errors:
                say(f"ERROR {text}")
            print(json.dumps(busy.plain()) if as_json else busy.line())
            ok = busy.ok
        else:
            say(f"seed {seed}, in {base}")
            end_s = None if minutes is None else time.monotonic() + 60 * minutes
            limit = rounds or (5 if end_s is None else None)
            summary = play(base, seed=seed, load_s=load_s, limit=limit, end_s=end_s, say=say)
            if as_json:
                print(json.dumps({"seed": seed, **summary.plain()}))
            else:
                print(summary.line())
            ok = not summary.violations
    except KeyboardInterrupt:
        print("interrupted: everything was ended", file=sys.stderr)
        sys.exit(_INTERRUPTED)
    finally:
        if ok and directory is None:
            shutil.rmtree(base, ignore_errors=True)
    sys.exit(0 if ok else 1)


def play(
    base: Path, *, seed: int, load_s: float, limit: int | None, end_s: float | None, say: Say
) -> Summary:
    """Rounds until it is enough, or a rule was broken."""
    total = Summary()
    home = base
    why_not = missing()
    if why_not:
        say(f"without network namespaces, the proxy cuts alone: {why_not}")
    while not total.violations and (limit is None or total.rounds < limit):
        if end_s is not None and time.monotonic() >= end_s:
            break
        home = base / f"cluster-{total.rounds // ROUNDS_PER_DIRECTORY + 1}"
        play_round(home, total, seed=seed, load_s=load_s, say=say, namespaces=not why_not)
    for text in total.violations:
        say(f"VIOLATION {text}")
    if total.violations:
        say(f"kept: {home}; again: scripts/chaos.py --seed {seed} --rounds {total.rounds}")
    return total


if __name__ == "__main__":
    main(prog_name="scripts/chaos.py")
