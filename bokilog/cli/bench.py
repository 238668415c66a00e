"""Commands that measure this machine: `bokilog bench append` and its siblings.

Decides options and what is printed; what is measured is `bokilog/bench/suites.py`. The JSON is part
of the contract (DESIGN section 8). Exit code 1: a figure that must hold everywhere, such as that no
append is acknowledged before its sync, did not.
"""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, ParamSpec, TypeVar

import click

from bokilog import __version__
from bokilog.bench.figures import Result, to_cells, to_json, to_line, without_repeats
from bokilog.bench.rounds import QUICK, Plan
from bokilog.cli.options import Directory, Duration, Milliseconds

if TYPE_CHECKING:
    from bokilog.bench.suites import Setting

P = ParamSpec("P")
T = TypeVar("T")
Shape = Literal["embedded", "cluster"]
ROUNDS: Final = 5
SECONDS: Final = 1.0
_USUAL_SIZES: Final = "128 and 1024 are usual."
_USUAL_OUTSTANDING: Final = "1, 64 and 256 are usual."
_HISTORY: Final = "bokilog.bench.history"
_PAGE_COLUMNS: Final = 160  # where there is no terminal to ask
_NAMES: Final = ("figure", "value", "against", "ratio", "")


@click.group()
def bench() -> None:
    """Measure this machine and compare.

    Medians of interleaved rounds, with the smallest and the largest. Everything runs in a directory
    of its own that is gone afterwards; what was started is stopped.
    """


def _keep_history(
    context: click.Context, option: click.Parameter, value: Path | None
) -> Path | None:
    """Where `report` will append; seen to be writable before minutes of measuring."""
    if value is not None:
        try:
            value.open("a").close()
        except OSError as error:
            raise click.BadParameter(f"{str(value)!r}: {error.strerror}") from error
        context.meta[_HISTORY] = value
    return value


_history_option = click.option(
    "--history",
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False),
    callback=_keep_history,
    expose_value=False,
    help="Also append the figures to FILE, as one JSON line per run.",
)


def shared_options(command: Callable[P, T]) -> Callable[P, T]:
    """--rounds, --seconds, --quick, --dir, --history and --json, for every benchmark."""
    for option in (
        _history_option,
        click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs."),
        click.option(
            "--dir",
            "directory",
            type=Directory(),
            help="On the disk to measure; the usual temporary directory if it is on one.",
        ),
        click.option("--quick", is_flag=True, help="Only see that it works; figures mean little."),
        click.option(
            "--seconds",
            type=Duration(min=0, min_open=True),
            default=SECONDS,
            show_default=True,
            help="Per contender and round.",
        ),
        click.option(
            "--rounds",
            type=click.IntRange(min=1),
            default=ROUNDS,
            show_default=True,
            help="Contenders take turns so often.",
        ),
    ):
        command = option(command)
    return command


def _load_options(command: Callable[P, T]) -> Callable[P, T]:
    for option in (
        click.option(
            "--outstanding",
            type=click.IntRange(min=1, max=16_384),
            default=256,
            show_default=True,
            help=f"Calls under way at any time, each in a task. {_USUAL_OUTSTANDING}",
        ),
        _size_option(1024),
        _shape_option,
    ):
        command = option(command)
    return command


def _size_option(default: int) -> Callable[[Callable[P, T]], Callable[P, T]]:
    return click.option(
        "--size",
        "size_bytes",
        type=click.IntRange(min=8, max=64 << 20),
        default=default,
        show_default=True,
        help=f"Bytes of a record. {_USUAL_SIZES}",
    )


_shape_option = click.option(
    "--shape",
    type=click.Choice(["embedded", "cluster"]),
    default="embedded",
    show_default=True,
    help="All in one process, or processes on this machine: three storage nodes, two engines.",
)
_durability_option = click.option(
    "--durability",
    type=click.Choice(["sync", "flush", "memory"]),
    default="sync",
    show_default=True,
    help="What an acknowledgement means.",
)


@bench.command()
@_load_options
@_durability_option
@click.option(
    "--batch",
    "batch_count",
    type=click.IntRange(min=1, max=1_000),
    default=1,
    show_default=True,
    help="Records per call; from 2 on as one unit.",
)
@click.option(
    "--sync-delay-ms",
    type=Milliseconds(min=0, max=10_000),
    default=0.0,
    show_default=True,
    help="Added to every sync: a slower disk. No append may then be faster than its syncs.",
)
@click.option(
    "--sequencers",
    type=click.IntRange(min=1, max=7),
    default=1,
    show_default=True,
    help="Of a cluster; more than one are compared with one, in turns.",
)
@click.option("--follower/--no-follower", default=True, help="Whether somebody reads along.")
@shared_options
def append(
    shape: Shape,
    size_bytes: int,
    outstanding: int,
    durability: str,
    batch_count: int,
    sync_delay_ms: float,
    sequencers: int,
    follower: bool,
    rounds: int,
    seconds: float,
    quick: bool,
    directory: Path | None,
    as_json: bool,
) -> None:
    """Throughput, latency and CPU of appends.

    Each append under way is a task of its own on the public call, with one of a thousand tags, and
    a follower reads along: in the embedded shape in the same process, on a cluster in another one,
    at the other engine. CPU is printed per append and process.
    """
    from bokilog.bench import suites
    from bokilog.bench.appends import Work

    if shape == "embedded" and sequencers > 1:
        raise click.UsageError("--sequencers is of --shape cluster: an embedded log has one")
    work = Work(
        size_bytes=size_bytes,
        outstanding=outstanding,
        batch_count=batch_count,
        durability=durability,
        sync_delay_ms=sync_delay_ms,
        sequencers=sequencers,
        follower=follower,
    )
    results = _measured(
        lambda setting: suites.append(shape, work, setting),
        _plan(rounds, seconds, quick=quick),
        directory,
    )
    report(results, as_json=as_json)
    for result in results:
        if result.against is not None and "delay" in result.against and not result.holds:
            raise click.ClickException(f"{result.name} is below {result.against}: {result.note}")


@bench.command()
@_load_options
@shared_options
def read(
    shape: Shape,
    size_bytes: int,
    outstanding: int,
    rounds: int,
    seconds: float,
    quick: bool,
    directory: Path | None,
    as_json: bool,
) -> None:
    """Reads: again in the same process, from the node's engine, from a storage node."""
    from bokilog.bench import suites

    results = _measured(
        lambda setting: suites.read(
            shape, size_bytes=size_bytes, outstanding=outstanding, setting=setting
        ),
        _plan(rounds, seconds, quick=quick),
        directory,
    )
    report(results, as_json=as_json)


@bench.command()
@_load_options
@_durability_option
@shared_options
def follow(
    shape: Shape,
    size_bytes: int,
    outstanding: int,
    durability: str,
    rounds: int,
    seconds: float,
    quick: bool,
    directory: Path | None,
    as_json: bool,
) -> None:
    """How fast a follower catches up, and how soon it sees what is appended."""
    from bokilog.bench import suites
    from bokilog.bench.appends import Work

    work = Work(size_bytes=size_bytes, outstanding=outstanding, durability=durability)
    results = _measured(
        lambda setting: suites.follow(shape, work, setting),
        _plan(rounds, seconds, quick=quick),
        directory,
    )
    report(results, as_json=as_json)


@bench.command()
@click.option(
    "--records",
    "records_count",
    type=click.IntRange(min=1),
    default=10_000_000,
    show_default=True,
    help="How many to append.",
)
@_size_option(128)
@click.option("--quick", is_flag=True, help="Only 20,000 records, to see that it works.")
@click.option("--dir", "directory", type=Directory())
@_history_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
def memory(
    records_count: int, size_bytes: int, quick: bool, directory: Path | None, as_json: bool
) -> None:
    """Memory of a cluster's processes as it takes many records; takes minutes.

    Afterwards the first record of a thousand old tags is read through the other engine.
    """
    from bokilog.bench import suites

    count = min(records_count, 20_000) if quick else records_count
    results = _measured(
        lambda setting: suites.memory(setting, records_count=count, size_bytes=size_bytes),
        QUICK,
        directory,
    )
    report(results, as_json=as_json)


@bench.command()
@click.option(
    "--records",
    "records_count",
    type=click.IntRange(min=1),
    default=1024,
    show_default=True,
    help="Of 1 MiB, per round.",
)
@shared_options
def large(
    records_count: int,
    rounds: int,
    seconds: float,
    quick: bool,
    directory: Path | None,
    as_json: bool,
) -> None:
    """Records of 1 MiB in an embedded log, against plain writes with a checksum."""
    from bokilog.bench import suites

    count = min(records_count, 64) if quick else records_count
    results = _measured(
        lambda setting: suites.large(setting, records_count=count),
        _plan(rounds, seconds, quick=quick),
        directory,
    )
    report(results, as_json=as_json)


@bench.command()
@shared_options
def functions(
    rounds: int, seconds: float, quick: bool, directory: Path | None, as_json: bool
) -> None:
    """Starts of workers, calls, HTTP, fan-out and durable calls, on a local cluster."""
    from bokilog.bench import function_suite

    plan = _plan(rounds, seconds, quick=quick)
    report(_measured(function_suite.functions, plan, directory), as_json=as_json)


@bench.command()
@shared_options
def start(rounds: int, seconds: float, quick: bool, directory: Path | None, as_json: bool) -> None:
    """What `import bokilog` and `bokilog.open()` take in a fresh interpreter."""
    from bokilog.bench import suites

    results = _measured(suites.start, _plan(rounds, seconds, quick=quick), directory)
    report(results, as_json=as_json)


# --- shared ---------------------------------------------------------------------------------------


def _plan(rounds: int, seconds: float, *, quick: bool) -> Plan:
    return QUICK if quick else Plan(rounds_count=rounds, seconds=seconds)


def _measured(
    suite: Callable[[Setting], list[Result]], plan: Plan, directory: Path | None
) -> list[Result]:
    from bokilog.bench.places import scratch
    from bokilog.bench.suites import Setting
    from bokilog.bench.workers import BenchFailed, stopped_by_signals

    try:
        with stopped_by_signals(), scratch(directory, tell=tell) as made:
            return suite(Setting(directory=made, plan=plan, tell=tell))
    except BenchFailed as error:
        raise click.ClickException(str(error)) from error


def tell(line: str) -> None:
    """Progress, where it does not mix with results."""
    if sys.stderr.isatty():
        click.echo(f"\r\033[K{line}", err=True, nl=False)
    else:
        click.echo(line, err=True)


def report(results: Sequence[Result], *, as_json: bool) -> None:
    """Print results, as JSON or as a table; with --history they are also appended to its file."""
    if sys.stderr.isatty():
        click.echo("\r\033[K", err=True, nl=False)
    results = without_repeats(results)
    _append_history(results)
    if as_json:
        click.echo(to_json(results))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(*_NAMES, box=None, pad_edge=False)
    for column in table.columns[:2]:
        column.no_wrap = True
    for result in results:
        table.add_row(*to_cells(result), style="red" if result.holds is False else None)
    console = Console(width=None if sys.stdout.isatty() else _PAGE_COLUMNS, highlight=False)
    console.print(table)
    for note in dict.fromkeys(result.note for result in results if result.note):
        console.print(f"note: {note}", markup=False)


def _append_history(results: Sequence[Result]) -> None:
    context = click.get_current_context(silent=True)
    if context is None or (history := context.meta.get(_HISTORY)) is None:
        return
    run = {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "version": __version__,
        "command": context.command_path,
        "options": {
            name: value if isinstance(value, int | float) else str(value)
            for name, value in context.params.items()
            if value is not None
        },
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPUs",
        "python": platform.python_version(),
    }
    with history.open("a", encoding="utf-8") as file:
        file.write(to_line(results, run=run) + "\n")
