"""The least that a cluster's append path could be: a bare chain of processes, without safety.

    python scripts/bench/chain.py                         # 3 copies, 2 of them are waited for
    python scripts/bench/chain.py --calibrate FILE.py     # beside another chain, in turns

client -> engine -> storage nodes -> sequencer -> engine -> client, as in bokilog, with a tag index
in the engine and, as the fold of ours keeps one, on every storage node. A ceiling to hold ours
against, since both pay for the same copies and messages. `chain_roles.py` has the processes.

With `--calibrate` the chain runs without the index on its storage nodes and waits for every copy.
FILE.py has a function `run(outstanding, size, copies, "async" or "fsync", seconds)` that returns a
dict with `rps`, appends per second, and perhaps `p50_us` and `p99_us`. Ours has to reach 0.9 of it:
a slower ceiling would flatter.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Final

if __name__ == "__main__":  # run as a file: its own folder must not be where imports look
    sys.path[0] = str(Path(__file__).parents[2])

import click

from bokilog.bench.figures import Result, compare, describe, rates
from bokilog.bench.orders import Order, Outcome
from bokilog.bench.places import scratch
from bokilog.bench.rounds import QUICK, Contender, Plan, interleave
from bokilog.bench.workers import BenchFailed, Worker, stopped_by_signals
from bokilog.cli.bench import report, shared_options, tell

ROOT: Final = str(Path(__file__).parents[2])
ROLES: Final = "scripts.bench.chain_roles"
INDEX_FLAG: Final = "index"
CALIBRATION_BAR: Final = 0.9
_RUN: Final = """
import importlib.util, json, os, sys
path, outstanding, size, copies, mode, seconds = sys.argv[1:]
sys.path.insert(0, os.path.dirname(os.path.abspath(path)))
spec = importlib.util.spec_from_file_location("calibration", path)
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
found = module.run(int(outstanding), int(size), int(copies), mode, float(seconds))
print(json.dumps({key: found[key] for key in ("rps", "p50_us", "p99_us") if key in found}))
"""


class Chain:
    """The processes of one chain; a contender. Started once, then it takes turns.

    Args:
        directory: of the storage nodes' files.
        copies: storage nodes.
        quorum: how many of them have a record before it is ordered.
        sync: whether a node syncs before it says that it has a record.
        storage_index: whether storage nodes keep a tag index, as the fold of ours does.
    """

    def __init__(
        self,
        directory: Path,
        *,
        copies: int = 3,
        quorum: int = 2,
        sync: bool = False,
        storage_index: bool = True,
        size_bytes: int = 128,
        outstanding: int = 256,
    ) -> None:
        kind = "sync" if sync else "flush"
        bare = "" if storage_index else ".no-storage-index"
        self.name = f"chain.{quorum}-of-{copies}.{kind}.{size_bytes}B.{outstanding}x{bare}"
        self._order = Order(do="append", size_bytes=size_bytes, outstanding=outstanding)
        self._directory = directory / self.name
        self._stack = ExitStack()
        self._workers: dict[str, Worker] = {}
        try:
            self._start(copies, quorum, "sync" if sync else "flush", storage_index=storage_index)
        except BaseException:
            self.close()
            raise

    def _start(self, copies: int, quorum: int, durability: str, *, storage_index: bool) -> None:
        self._directory.mkdir(parents=True)
        flags = (INDEX_FLAG,) if storage_index else ()
        sequencer = self._role("sequencer", Order(do="sequencer", count=quorum, outstanding=copies))
        nodes = []
        for number in range(copies):
            order = Order(
                do="storage",
                place=f"{self._directory / f'segment-{number}'}:{sequencer}",
                count=number,
                durability=durability,
                flags=flags,
            )
            nodes.append(self._role(f"storage-{number + 1}", order))
        engine = self._role("engine", Order(do="engine", place=",".join([sequencer, *nodes])))
        self._role("client", Order(do="client", place=engine))

    def _role(self, name: str, order: Order) -> str:
        worker = self._stack.enter_context(Worker(ROLES, name=name, path=ROOT))
        self._workers[name] = worker
        return worker.ask(order).place

    def close(self) -> None:
        """End all processes."""
        self._stack.close()

    def begin(self) -> None:
        """It goes on where it was: it keeps no more than one segment."""

    def pids(self) -> Mapping[str, int]:
        """Of all processes."""
        return {name: worker.pid for name, worker in self._workers.items()}

    def run(self, seconds: float) -> Outcome:
        """Append."""
        order = self._order
        return self._workers["client"].ask(
            Order(
                do="append",
                size_bytes=order.size_bytes,
                outstanding=order.outstanding,
                seconds=seconds,
            )
        )

    def settle(self) -> Mapping[str, float]:
        """What is answered is done."""
        return {}

    def end(self) -> None:
        """It leaves nothing that another turn would notice."""


@contextmanager
def running(chain: Chain) -> Iterator[Chain]:
    """End the processes at the end."""
    try:
        yield chain
    finally:
        chain.close()


class OtherChain:
    """Somebody else's chain, in a file of its own; a contender."""

    name = "calibration"

    def __init__(self, file: Path, directory: Path, order: Order, *, copies: int) -> None:
        self._file = file.absolute()
        self._directory = directory / "calibration"
        self._directory.mkdir()
        self._order = order
        self._copies = copies

    def begin(self) -> None:
        """It starts with each run."""

    def pids(self) -> Mapping[str, int]:
        """Its processes are its own affair."""
        return {}

    def run(self, seconds: float) -> Outcome:
        """Run it once."""
        order = self._order
        mode = "fsync" if order.durability == "sync" else "async"
        arguments = (order.outstanding, order.size_bytes, self._copies, mode, seconds)
        done = subprocess.run(
            [sys.executable, "-c", _RUN, str(self._file), *map(str, arguments)],
            cwd=self._directory,
            capture_output=True,
            text=True,
            timeout=seconds + 60,
            check=False,
        )
        if done.returncode:
            raise BenchFailed(f"{self._file} failed: {done.stderr.strip()[-500:]}")
        found = json.loads(done.stdout.splitlines()[-1])
        return Outcome(
            count=round(found["rps"] * seconds),
            elapsed_s=seconds,
            p50_us=found.get("p50_us", float("nan")),
            p99_us=found.get("p99_us", float("nan")),
        )

    def settle(self) -> Mapping[str, float]:
        """It is over when it returns."""
        return {}

    def end(self) -> None:
        """It leaves nothing that another turn would notice."""


def calibrate(file: Path, directory: Path, plan: Plan, order: Order, copies: int) -> list[Result]:
    """Ours, as bare as the other one, in turns with it."""
    ours = Chain(
        directory,
        copies=copies,
        quorum=copies,
        sync=order.durability == "sync",
        storage_index=False,
        size_bytes=order.size_bytes,
        outstanding=order.outstanding,
    )
    with running(ours):
        other = OtherChain(file, directory, order, copies=copies)
        samples = interleave([ours, other], plan, tell=tell)
    return [
        *describe(ours.name, samples[ours.name], unit="appends/s"),
        compare(
            ours.name,
            rates(samples[ours.name]),
            "appends/s",
            against=file.name,
            others=rates(samples[other.name]),
            bar=CALIBRATION_BAR,
        ),
    ]


def measure(directory: Path, plan: Plan, order: Order, copies: int, quorum: int) -> list[Result]:
    """With and without the index on storage nodes."""
    with ExitStack() as stack:
        chains: list[Contender] = [
            stack.enter_context(
                running(
                    Chain(
                        directory,
                        copies=copies,
                        quorum=quorum,
                        sync=order.durability == "sync",
                        storage_index=storage_index,
                        size_bytes=order.size_bytes,
                        outstanding=order.outstanding,
                    )
                )
            )
            for storage_index in (True, False)
        ]
        samples = interleave(chains, plan, tell=tell)
    return [
        result
        for name, each in samples.items()
        for result in describe(name, each, unit="appends/s")
    ]


@click.command()
@click.option("--copies", type=click.IntRange(1, 7), default=3, show_default=True)
@click.option("--quorum", type=click.IntRange(1, 7), default=2, show_default=True)
@click.option("--size", "size_bytes", type=click.IntRange(min=1), default=128, show_default=True)
@click.option("--outstanding", type=click.IntRange(min=1), default=256, show_default=True)
@click.option("--sync", is_flag=True, help="Storage nodes sync before they count.")
@click.option(
    "--calibrate",
    "other",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="A file with another chain, see above.",
)
@shared_options
def command(
    copies: int,
    quorum: int,
    size_bytes: int,
    outstanding: int,
    sync: bool,
    other: Path | None,
    rounds: int,
    seconds: float,
    quick: bool,
    directory: Path | None,
    as_json: bool,
) -> None:
    """Measure the bare append chain, alone or in turns with another one."""
    if quorum > copies:
        raise click.BadParameter(f"{quorum} of {copies} copies", param_hint="--quorum")
    order = Order(
        do="append",
        size_bytes=size_bytes,
        outstanding=outstanding,
        durability="sync" if sync else "flush",
    )
    plan = QUICK if quick else Plan(rounds_count=rounds, seconds=seconds)
    try:
        with stopped_by_signals(), scratch(directory, tell=tell) as made:
            if other is not None:
                plan = replace(plan, warm_s=0.0)  # the other one starts anew each time
                results = calibrate(other, made, plan, order, copies)
            else:
                results = measure(made, plan, order, copies, quorum)
    except BenchFailed as error:
        raise click.ClickException(str(error)) from error
    report(results, as_json=as_json)


if __name__ == "__main__":
    command()
