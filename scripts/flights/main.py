"""scripts/demo: departure delays of 2013 by weather and by carrier, computed through the log.

    scripts/demo                    # a local cluster: two function nodes, two workers on each
    scripts/demo --kill-worker      # the same answer, although a worker is killed in the middle
    scripts/demo --chaos            # the same, although the primary and a storage node die as well
    scripts/demo --embedded         # everything in this process

Decides what is started where and what is shown. The job itself needs nobody: this program submits
it and watches. Everything that was started is stopped again, whatever happens.
"""

import asyncio
import json
import secrets
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, closing, contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Final

import click
from rich.console import Console

import bokilog
from bokilog.io.free_ports import free_ports
from bokilog.io.open_views import open_views
from bokilog.logbook import Log
from bokilog.shapes.local_cluster import LocalCluster
from scripts.flights.control import EXCHANGE_BOOK, JobControl, create_books
from scripts.flights.exchange import Exchange
from scripts.flights.failures import CAUGHT, DemoError, explain
from scripts.flights.fetch import fetch
from scripts.flights.job import JobState
from scripts.flights.plan import CLAIM_TTL_MS, Plan, flights_plan
from scripts.flights.processes import WorkerProcesses
from scripts.flights.progress import Display, display
from scripts.flights.tables import Answer, Report, answer_of, as_json, print_report
from scripts.flights.worker import Worker

FUNCTION_NODES: Final = 2
SEQUENCERS_OF_CHAOS: Final = 3  # so that one may die
_LOOK_S: Final = 0.2  # how often it is looked whether any worker is left
_PLAIN_COLUMNS: Final = 110  # of a page where there is no terminal to ask
_INTERRUPTED: Final = 130


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What was asked for on the command line."""

    embedded: bool
    directory: Path | None
    keep: bool
    port: int | None
    workers: int
    partitions: int
    job: str
    kill_worker: bool
    chaos: bool = False
    """The primary, a storage node and a worker are killed; there are three sequencers then."""
    claim_ttl_ms: int = CLAIM_TTL_MS

    @property
    def victim(self) -> str | None:
        """The worker that is killed while it holds a task."""
        return "worker-1-1" if self.kill_worker or self.chaos else None


# --- a run ----------------------------------------------------------------------------------------


def run(options: Options, console: Console, *, data: Path) -> Report:
    """Start everything, run the job, stop everything."""
    started_s = time.perf_counter()
    plan = flights_plan(partitions=options.partitions, claim_ttl_ms=options.claim_ttl_ms)
    with _directory(options, console) as directory, display(console) as shown:
        if options.embedded:
            return asyncio.run(_embedded(options, plan, shown, data=data, directory=directory))
        cluster = LocalCluster(
            directory / "cluster",
            sequencers=SEQUENCERS_OF_CHAOS if options.chaos else None,
            function_nodes=FUNCTION_NODES,
            port=options.port or free_ports(FUNCTION_NODES),
        )
        shown.say(f"starting a local cluster of {len(cluster.layout.nodes)} processes")
        with cluster:
            took_s = time.perf_counter() - started_s
            workers_text = f"{options.workers} workers on each of {FUNCTION_NODES} function nodes"
            shown.say(f"up after {took_s:.1f} s; now {workers_text}")
            logs = directory / "workers"
            with WorkerProcesses(job=options.job, data=data, logs=logs) as workers:
                _start_workers(workers, options, [*cluster.layout.ports])
                return asyncio.run(
                    _watched(options, plan, shown, workers, cluster, started_s=started_s)
                )


def _start_workers(workers: WorkerProcesses, options: Options, ports: list[int]) -> None:
    """Each worker asks its own function node first."""
    for node, port in enumerate(ports, 1):
        others = [each for each in ports if each != port]
        url = "bokilog://" + ",".join(f"127.0.0.1:{each}" for each in (port, *others))
        for number in range(1, options.workers + 1):
            name = f"worker-{node}-{number}"
            workers.start(name, url, halts=name == options.victim)


async def _watched(
    options: Options,
    plan: Plan,
    shown: Display,
    workers: WorkerProcesses,
    cluster: LocalCluster,
    *,
    started_s: float,
) -> Report:
    victim = options.victim
    blows = _blows(cluster) if options.chaos else iter(())

    def look(state: JobState) -> None:
        nonlocal victim
        if workers.all_ended() and not state.over:
            raise DemoError(f"every worker has ended\n{workers.last_words()}")
        claimed = [str(task) for task, each in state.tasks.items() if each.claimed_by == victim]
        if victim is not None and claimed:
            workers.kill(victim)
            shown.say(f"killed {victim}, which had claimed {claimed[0]}")
            victim = None
        if claimed or victim is None:  # from the first claim on, one at each look
            for said in islice(blows, 1):
                shown.say(said)

    async with bokilog.connect(cluster.url) as log:
        report = await _job(log, options, plan, shown, look=look, started_s=started_s)
    for said in blows:  # the job was faster than we looked
        shown.say(said)
    return report


def _blows(cluster: LocalCluster) -> Iterator[str]:
    """Kills the primary, then a storage node; says each."""
    for node, whose in ((_primary(cluster), "the primary"), ("storage-1", "a storage node")):
        pid = cluster.pid(node)
        cluster.kill(node)
        yield f"killed {node}, {whose} (pid {pid}): the cluster goes on, and starts it again"


def _primary(cluster: LocalCluster) -> str:
    with closing(open_views(cluster.layout.views)) as views:
        view = views.latest()
    assert view is not None, "a cluster that runs has a view"
    return view.spaces[0].primary


async def _embedded(
    options: Options, plan: Plan, shown: Display, *, data: Path, directory: Path
) -> Report:
    started_s = time.perf_counter()
    async with AsyncExitStack() as stack:
        log: Log = await stack.enter_async_context(bokilog.open(directory / "embedded"))
        group = await stack.enter_async_context(asyncio.TaskGroup())
        for number in range(1, options.workers + 1):
            worker = Worker(log, options.job, data=data, name=f"worker-{number}")
            group.create_task(worker.run())
        return await _job(log, options, plan, shown, look=lambda state: None, started_s=started_s)


async def _job(
    log: Log,
    options: Options,
    plan: Plan,
    shown: Display,
    *,
    look: Callable[[JobState], None],
    started_s: float,
) -> Report:
    """Submit the job, or join it where it stands, and watch it to its end."""
    await create_books(log)
    submitted_s = time.perf_counter()
    async with _following(log, options.job) as control:
        state = control.state
        if not await control.submit(plan):
            shown.say(f"job {options.job} is there already: {state.phase.value}")
        while not state.over:
            await control.moved(_LOOK_S)
            shown.show(state)
            look(state)
    if state.failure is not None:
        raise DemoError(f"{state.failure.task} failed: {state.failure.error}")
    answer = await _answer(log, state)
    now_s = time.perf_counter()
    return Report(
        job=options.job,
        shape="embedded" if options.embedded else "local cluster",
        answer=answer,
        stages=tuple(state.stats()),
        repeated_claims=state.repeated_claims,
        job_s=now_s - submitted_s,
        total_s=now_s - started_s,
    )


@asynccontextmanager
async def _following(log: Log, job: str) -> AsyncIterator[JobControl]:
    control = JobControl(log, job)
    async with asyncio.TaskGroup() as group:
        following = group.create_task(control.follow())
        try:
            yield control
        finally:
            following.cancel()


async def _answer(log: Log, state: JobState) -> Answer:
    """The partitions of the last stage's only output."""
    assert state.plan is not None
    stage = state.plan.stages[-1]
    (output,) = state.outputs(stage.name)
    exchange = Exchange(log.book(EXCHANGE_BOOK))
    by_weather, by_carrier = [
        await exchange.read(output.output, number, partitions=stage.partitions)
        for number in range(stage.partitions)
    ]
    return answer_of(by_weather, by_carrier)


# --- the machine ----------------------------------------------------------------------------------


@contextmanager
def _directory(options: Options, console: Console) -> Iterator[Path]:
    """Where everything is kept: given and kept, or temporary and removed unless it is wanted."""
    if options.directory is not None:
        options.directory.mkdir(parents=True, exist_ok=True)
        yield options.directory
    elif options.keep:
        kept = Path(tempfile.mkdtemp(prefix="bokilog-flights-"))
        console.print(f"everything is kept in {kept}", highlight=False, soft_wrap=True)
        yield kept
    else:
        with tempfile.TemporaryDirectory(prefix="bokilog-flights-") as scratch:
            yield Path(scratch)


# --- the command ----------------------------------------------------------------------------------


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option("--embedded", is_flag=True, help="Everything in this process, without a cluster.")
@click.option(
    "--dir",
    "directory",
    type=click.Path(path_type=Path, file_okay=False),
    help="Keep everything there. Default: a temporary directory, removed at the end.",
)
@click.option("--keep", is_flag=True, help="Do not remove the temporary directory.")
@click.option(
    "--port",
    type=click.IntRange(1, 65534),
    help="Of the first function node; the second has the next one. Default: free ones.",
)
@click.option(
    "--workers",
    type=click.IntRange(1, 64),
    default=2,
    show_default=True,
    help="Worker processes per function node; with --embedded, tasks in all.",
)
@click.option(
    "--partitions",
    type=click.IntRange(1, 256),
    default=4,
    show_default=True,
    help="Of the exchange by airport and hour, and so tasks of the join.",
)
@click.option(
    "--job", help="Its id; one that is in --dir already goes on where it stood. Default: a new one."
)
@click.option("--kill-worker", is_flag=True, help="Kill a worker while it holds a task.")
@click.option(
    "--chaos",
    is_flag=True,
    help="Kill the primary, a storage node and a worker while the job runs: the same answer.",
)
@click.option(
    "--json",
    "json_path",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write the answer and what it took there too.",
)
def main(
    embedded: bool,
    directory: Path | None,
    keep: bool,
    port: int | None,
    workers: int,
    partitions: int,
    job: str | None,
    kill_worker: bool,
    chaos: bool,
    json_path: Path | None,
) -> None:
    """Departure delays of New York City in 2013 by weather and by carrier, through the log."""
    if (kill_worker or chaos) and embedded:
        name = "--chaos" if chaos else "--kill-worker"
        raise click.UsageError(f"{name} needs a cluster, where another worker goes on")
    options = Options(
        embedded=embedded,
        directory=directory,
        keep=keep,
        port=port,
        workers=workers,
        partitions=partitions,
        job=job or secrets.token_hex(4),
        kill_worker=kill_worker,
        chaos=chaos,
    )
    console = Console(width=None if sys.stdout.isatty() else _PLAIN_COLUMNS)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # it too stops what was started
    try:
        report = run(options, console, data=fetch())
    except (KeyboardInterrupt, asyncio.CancelledError):
        print("interrupted: everything was stopped", file=sys.stderr)
        sys.exit(_INTERRUPTED)
    except CAUGHT as error:
        hint = "" if keep or directory else "\nthe logs are gone: --keep keeps them"
        sys.exit(f"demo: {explain(error)}{hint}")
    print_report(console, report)
    if json_path is not None:
        json_path.write_text(json.dumps(as_json(report), indent=2) + "\n")


if __name__ == "__main__":
    main(prog_name="scripts/demo")
