"""bokilog beside other systems: the same work on the same machine, in turns.

    python scripts/bench/peers.py                    # everything, some minutes
    python scripts/bench/peers.py --only 'embedded*' --only 'sqlite3*' --quick
    python scripts/bench/peers.py --json --memory-records 10000000

Prints, for every figure that bokilog has to reach, ours, theirs, their ratio and whether it holds;
then each contender's throughput, latencies and CPU per append and process. Contenders: Redis
Streams (redis.asyncio with uvloop and hiredis, an explicit pipeline, a client that joins the
commands of a tick), NATS JetStream, sqlite3, a bare log and a bare chain without safety, and this
machine's own references. Ours carry a tag index and a follower that reads along; peers neither.

What is not installed is said, with the line that installs it, and left out. Everything that was
started is stopped, also on Ctrl-C.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Final

if __name__ == "__main__":  # run as a file: its own folder must not be where imports look
    sys.path[0] = str(Path(__file__).parents[2])

import click

from bokilog.bench import machine, suites
from bokilog.bench.appends import ClusterAppends, EmbeddedAppends, Shape, Work, log_worker
from bokilog.bench.figures import Result, Sample, describe
from bokilog.bench.orders import Order, Outcome
from bokilog.bench.places import cluster, scratch
from bokilog.bench.rounds import QUICK, Contender, Plan, interleave
from bokilog.bench.suites import Setting, cluster_clients
from bokilog.bench.workers import BenchFailed, Worker, stopped_by_signals
from bokilog.cli.bench import report, shared_options, tell
from scripts.bench import bars
from scripts.bench.chain import Chain, running
from scripts.bench.servers import Started, missing

ROOT: Final = str(Path(__file__).parents[2])
CLIENTS: Final = "scripts.bench.clients"
READ_BYTES: Final = 1024
SHAPES: Final[tuple[Shape, ...]] = ("embedded", "cluster")

Selected = Callable[[str], bool]


class Peer:
    """Appends to a system that is not ours; a contender. Every turn starts afresh.

    Args:
        name: of its figures.
        client: the process that appends.
        directory: of its data.
        open_order: how the client is told to open it; without a server, `place` is a file there.
        outstanding: calls under way.
        server: `redis`, `nats`; None: it needs none.
        appendfsync: of Redis.
    """

    def __init__(
        self,
        name: str,
        client: Worker,
        directory: Path,
        open_order: Order,
        *,
        outstanding: int,
        server: str | None = None,
        appendfsync: str = "always",
    ) -> None:
        self.name = name
        self._client = client
        self._directory = directory / name
        self._open_order = open_order
        self._outstanding = outstanding
        self._kind = server
        self._appendfsync = appendfsync
        self._server: Started | None = None

    def begin(self) -> None:
        """Start its server, open it."""
        if self._kind is None:
            self._directory.mkdir(exist_ok=True)
            place = str(self._directory / "data")
        else:
            self._server = Started(self._kind, self._directory, appendfsync=self._appendfsync)
            place = str(self._server.port)
        self._client.ask(replace(self._open_order, place=place))

    def pids(self) -> Mapping[str, int]:
        """Client, and server if there is one."""
        pids = {"client": self._client.pid}
        if self._server is not None:
            pids["server"] = self._server.pid
        return pids

    def run(self, seconds: float) -> Outcome:
        """Append."""
        return self._client.ask(Order(do="append", outstanding=self._outstanding, seconds=seconds))

    def settle(self) -> Mapping[str, float]:
        """What is answered is done."""
        return {}

    def end(self) -> None:
        """Close it, end its server, delete its data."""
        self._client.ask(Order(do="close"))
        if self._server is not None:
            server, self._server = self._server, None
            server.close()
        for file in self._directory.glob("data*"):
            file.unlink()

    def close(self) -> None:
        """End its server if a turn was cut short."""
        if self._server is not None:
            self._server.close()


# --- who takes part -------------------------------------------------------------------------------


def peers(stack: ExitStack, directory: Path, selected: Selected) -> list[Contender]:
    """The other systems, one client process for each kind."""
    names = [name for name in bars.PEERS if selected(name) and _program(name) not in missing()]
    clients: dict[str, Worker] = {}
    found: list[Contender] = []
    for name in names:
        system = name.partition(".")[0]
        if system not in clients:
            clients[system] = stack.enter_context(Worker(CLIENTS, name=system, path=ROOT))
        peer = peer_of(name, clients[system], directory)
        stack.callback(peer.close)
        found.append(peer)
    return found


def _program(name: str) -> str:
    return bars.PROGRAM_OF.get(name.partition("-")[0], "")


def peer_of(name: str, client: Worker, directory: Path) -> Peer:
    """The contender of a name: system, durability, size, then how many at a time.

    A pipeline or a commit of several counts each record, and one of them is under way at a time.
    """
    system, how, *rest = name.split(".")
    size_bytes = 1024
    if system.startswith("redis"):
        last = rest[-1]
        batch = last.removeprefix("pipeline-of-")
        do = {"redis-coalescing": "redis-coalescing", "redis-py": "redis"}[system]
        if batch != last:
            order = Order(do="redis-pipeline", size_bytes=size_bytes, batch_count=int(batch))
            return Peer(
                name, client, directory, order, outstanding=1, server="redis", appendfsync=how
            )
        order = Order(do=do, size_bytes=size_bytes)
        at_once = int(last.removesuffix("x"))
        return Peer(
            name, client, directory, order, outstanding=at_once, server="redis", appendfsync=how
        )
    if system == "nats-py":
        order = Order(do="nats", size_bytes=size_bytes)
        return Peer(name, client, directory, order, outstanding=256, server="nats")
    if system == "sqlite3":
        order = Order(do="sqlite", size_bytes=size_bytes, batch_count=int(how.partition("-")[0]))
        return Peer(name, client, directory, order, outstanding=1)
    assert name == bars.BARE, name
    return Peer(name, client, directory, Order(do="bare"), outstanding=256)


def embedded(
    stack: ExitStack, directory: Path, selected: Selected, works: Sequence[Work]
) -> list[Contender]:
    """Our embedded log, in one process for all its works."""
    chosen = [work for work in works if selected(work.name("embedded"))]
    if not chosen:
        return []
    worker = stack.enter_context(log_worker("embedded"))
    return [EmbeddedAppends(worker, directory, work) for work in chosen]


def clustered(
    stack: ExitStack, directory: Path, selected: Selected, works: Sequence[Work]
) -> list[Contender]:
    """Our cluster, the same for all works: as the first of them says."""
    chosen = [work for work in works if selected(work.name("cluster"))]
    if not chosen:
        return []
    first = chosen[0]
    up = stack.enter_context(
        cluster(directory, sequencers=first.sequencers, sync_delay_ms=first.sync_delay_ms)
    )
    client, follower = stack.enter_context(cluster_clients(up))
    return [ClusterAppends(up, work, client=client, follower=follower) for work in chosen]


# --- the run --------------------------------------------------------------------------------------


def appends(setting: Setting, selected: Selected) -> dict[str, list[Sample]]:
    """All contenders in turns; then, on a cluster of their own, those with slower syncs."""
    directory = setting.directory
    with ExitStack() as stack:
        contenders = [
            *embedded(stack, directory, selected, bars.EMBEDDED_WORKS),
            *clustered(stack, directory / "cluster", selected, bars.CLUSTER_WORKS),
            *clustered(stack, directory / "cluster-of-three", selected, bars.CLUSTER_THREE),
            *peers(stack, directory, selected),
        ]
        if selected(bars.CHAIN):
            contenders.append(stack.enter_context(running(Chain(directory))))
        known = stack.enter_context(machine.references(directory))
        contenders += [known[name] for name in (machine.ADDS, machine.SYNC, machine.TCP)]
        samples = interleave(contenders, setting.plan, tell=tell)
    with ExitStack() as stack:
        delayed = [
            *embedded(stack, directory, selected, [bars.EMBEDDED_DELAYED]),
            *clustered(stack, directory / "delayed", selected, [bars.CLUSTER_DELAYED]),
        ]
        samples |= interleave(delayed, setting.plan, tell=tell)
    return samples


def others(setting: Setting, selected: Selected, *, memory_records: int) -> Iterator[Result]:
    """What is not an append: reads, large records, the start, memory."""

    def inside(name: str) -> Setting:
        directory = setting.directory / name
        directory.mkdir()
        return replace(setting, directory=directory)

    for shape in SHAPES:
        if selected(f"{shape}.read"):
            place = inside(f"read-{shape}")
            yield from suites.read(shape, size_bytes=READ_BYTES, outstanding=1, setting=place)
    if selected("embedded.large"):
        count = 1024 if setting.plan.rounds_count >= 5 else 64
        yield from suites.large(inside("large"), records_count=count)
    if selected("start"):
        yield from suites.start(setting)
    if memory_records:
        place = inside("memory")
        yield from suites.memory(place, records_count=memory_records, size_bytes=128)


def units(name: str) -> str:
    """What a contender's rate counts."""
    if name in bars.REFERENCE_MACHINE_US:
        return "times/s"
    return "records/s" if "256-per" in name or "of-256" in name else "appends/s"


def measure(setting: Setting, selected: Selected, *, memory_records: int) -> list[Result]:
    """The whole table, then each contender by itself."""
    load_average = os.getloadavg()[0]
    samples = appends(setting, selected)
    rest = list(others(setting, selected, memory_records=memory_records))
    described = [
        result
        for name, each in samples.items()
        for result in describe(name, each, unit=units(name))
    ]
    decided = [each for each in bars.table(samples) if selected(each.name)]
    return [
        *decided,
        *(each for each in rest if each.bar is not None),
        *bars.peers(samples, load_average=load_average),
        *described,
        *(each for each in rest if each.bar is None),
    ]


@click.command(help=__doc__.partition("\n")[0] if __doc__ else None)
@click.option("--only", multiple=True, help="Only contenders of such names; may be repeated.")
@click.option(
    "--memory-records",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Also append so many records and watch memory; 10,000,000 is what has to fit.",
)
@shared_options
def command(
    only: tuple[str, ...],
    memory_records: int,
    rounds: int,
    seconds: float,
    quick: bool,
    directory: Path | None,
    as_json: bool,
) -> None:
    """See the module."""

    def selected(name: str) -> bool:
        return not only or any(fnmatch(name, f"{pattern}*") for pattern in only)

    for name, line in missing().items():
        click.echo(
            f"{name} is not installed and its rows are left out; install it: {line}", err=True
        )
    plan = QUICK if quick else Plan(rounds_count=rounds, seconds=seconds)
    try:
        with stopped_by_signals(), scratch(directory, tell=tell) as made:
            setting = Setting(directory=made, plan=plan, tell=tell)
            results = measure(setting, selected, memory_records=memory_records)
    except BenchFailed as error:
        raise click.ClickException(str(error)) from error
    report(results, as_json=as_json)


if __name__ == "__main__":
    command()
