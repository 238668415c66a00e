"""Commands on the cluster of a directory: up and down (`status.py` shows it).

Decides when a person is told that it is up, and that it cannot be used all the same.
"""

from __future__ import annotations

import asyncio
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from shlex import quote
from typing import Final

import click

from bokilog.cli.asking import ask
from bokilog.cli.options import Directory, Duration
from bokilog.errors import BokilogError
from bokilog.framing import WireMessage
from bokilog.io import logs
from bokilog.messages import KINDS, Hello, Welcome
from bokilog.shapes.cluster_layout import HOST, read_layout
from bokilog.shapes.detach import Starting, detach
from bokilog.shapes.local_cluster import LocalCluster, stop_cluster
from bokilog.shapes.supervisor import START_TIMEOUT_S
from bokilog.wire import decode, encode

DIRECTORY: Final = "bokilog-data"
# Two groups of processes may each take their time to stop before they are killed.
_STOP_TIMEOUT_S: Final = 40.0
_DETACH_MARGIN_S: Final = 45.0
GREETING_TIMEOUT_S: Final = 3.0
"""How long a log may take to greet once its processes are ready, before a person is told."""

directory_option = click.option(
    "--dir",
    "directory",
    type=Directory(),
    default=DIRECTORY,
    show_default=True,
    envvar="BOKILOG_DIR",
    help="Directory of the cluster.",
)


@click.command()
@directory_option
@click.option("--storage-nodes", type=int, help="Processes that hold records (new: 3).")
@click.option(
    "--sequencers", type=int, help="Processes that order them (new: 1; with 3, one may fail)."
)
@click.option("--function-nodes", type=int, help="Processes that clients connect to (new: 2).")
@click.option("--port", type=int, help="Of the first function node (new: 7300).")
@click.option(
    "--sync",
    type=click.Choice(["fdatasync", "none"]),
    help="What makes a record durable: the disk, or only the operating system (for tests).",
)
@click.option("--sync-delay-ms", type=float, help="Added to every sync, to try a slower disk.")
@click.option(
    "--views",
    "views_url",
    metavar="URL",
    help="Keep views in an etcd: etcd://HOST:PORT[,HOST:PORT...][/PREFIX] (new: in the directory).",
)
@click.option(
    "--app",
    metavar="MODULE:APP",
    help="Run the functions of an app on every function node; '' to stop that (new: none).",
)
@click.option(
    "--app-dir",
    type=Directory(exists=True),
    help="The folder that the app is imported from, with --app (the current one).",
)
@click.option("--http-port", type=int, help="Of the first HTTP gateway, with an app (new: 7380).")
@click.option(
    "--metrics-port",
    type=int,
    help="Serve metrics for Prometheus from there on, a port per node; 0: not (new: 0).",
)
@click.option("--detach", "in_background", is_flag=True, help="Return once it is up.")
@click.option(
    "--timeout-s",
    type=Duration(min=0, min_open=True),
    default=START_TIMEOUT_S,
    show_default=True,
    help="How long all processes may take to be ready.",
)
def up(
    directory: Path,
    storage_nodes: int | None,
    sequencers: int | None,
    function_nodes: int | None,
    port: int | None,
    sync: str | None,
    sync_delay_ms: float | None,
    views_url: str | None,
    app: str | None,
    app_dir: Path | None,
    http_port: int | None,
    metrics_port: int | None,
    in_background: bool,
    timeout_s: float,
) -> None:
    """Start a cluster on this machine.

    Its processes are watched and restarted; Ctrl-C stops it, or `bokilog down`. A directory that
    holds a cluster already goes on where it was, with the options that it had; more
    sequencers, and storage nodes as spares, may be added.
    """

    def made(say: Callable[[str], None]) -> LocalCluster:
        cluster = LocalCluster(
            directory,
            storage_nodes=storage_nodes,
            sequencers=sequencers,
            function_nodes=function_nodes,
            port=port,
            sync=sync,
            sync_delay_ms=sync_delay_ms,
            views_url=views_url,
            app=app,
            app_dir=app_dir,
            http_port=http_port,
            metrics_port=metrics_port,
            say=say,
        )
        settings = cluster.layout.settings
        logs.configure(
            "supervisor",
            level=settings.log_level,
            directory=cluster.layout.logs_dir,
            bytes_max=settings.log_bytes_max,
            files_count=settings.log_files_count,
        )
        return cluster

    if not in_background:
        _live(made(click.echo), timeout_s, up_and_ready=_hint_foreground)
        return

    def work(starting: Starting) -> int:
        cluster = made(starting.say)
        starting.redirect(logs.log_file(cluster.layout.logs_dir, "supervisor"))

        def up_and_ready(cluster: LocalCluster, took_s: float) -> None:
            starting.say(f"up after {took_s:.1f} s at {_where(cluster)}")
            starting.say(f"stop it with: bokilog down --dir {quote(str(cluster.layout.directory))}")
            _say_if_silent(cluster, starting.say)
            starting.started()

        _live(cluster, timeout_s, up_and_ready=up_and_ready)
        return 0

    detach(work, say=click.echo, timeout_s=timeout_s + _DETACH_MARGIN_S)


@click.command()
@directory_option
@click.option(
    "--timeout-s",
    type=Duration(min=0, min_open=True),
    default=_STOP_TIMEOUT_S,
    show_default=True,
    help="How long it may take.",
)
def down(directory: Path, timeout_s: float) -> None:
    """Stop the cluster of a directory.

    Its data stays; `bokilog up` goes on with it. Only processes that its supervisor started are
    stopped.
    """
    layout = read_layout(directory)
    started_s = time.monotonic()
    if stop_cluster(layout, timeout_s=timeout_s, say=click.echo):
        click.echo(f"down after {time.monotonic() - started_s:.1f} s")
    else:
        click.echo("nothing is running")


def _live(
    cluster: LocalCluster,
    timeout_s: float,
    *,
    up_and_ready: Callable[[LocalCluster, float], None],
) -> None:
    """Start, watch until told to stop, stop."""
    # A list, since a handler may take no lock: it runs in the thread that waits, which would hold
    # that of an event when the signal comes, and wait for itself for ever.
    heard: list[int] = []

    def told_to_stop() -> bool:
        return bool(heard)

    # A signal ends the start or the watching; none cuts the stop short, which has its own deadline.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda signal_number, _: heard.append(signal_number))
    started_s = time.monotonic()
    cluster.start(timeout_s, interrupted=told_to_stop)
    try:
        if not told_to_stop():
            up_and_ready(cluster, time.monotonic() - started_s)
            cluster.watch(told_to_stop)
    finally:
        cluster.stop()


def _hint_foreground(cluster: LocalCluster, took_s: float) -> None:
    click.echo(f"up after {took_s:.1f} s at {_where(cluster)}; Ctrl-C stops it")
    _say_if_silent(cluster, click.echo)


def _say_if_silent(cluster: LocalCluster, say: Callable[[str], None]) -> None:
    """That all processes run does not mean that the log can be used: most sequencers may have lost
    their disks."""
    try:
        asyncio.run(greeting(f"tcp:{HOST}:{cluster.layout.ports[0]}"))
    except BokilogError as error:
        place = quote(str(cluster.layout.directory))
        say(f"the log does not answer yet: {error}")
        say(f"what it waits for: bokilog status --dir {place}")


async def greeting(address: str, *, timeout_s: float = GREETING_TIMEOUT_S) -> Welcome:
    """What the engine at `address` greets a client with; from then on the log can be used.

    Raises:
        NodeUnreachable: nobody answered there.
        NotReady: it accepted the connection and does not greet.
    """

    def welcome(wire: WireMessage) -> Welcome | None:
        message = decode(*wire) if wire[0] == KINDS[Welcome] else None
        return message if isinstance(message, Welcome) else None

    hello = Hello("client", "", random.getrandbits(63), "", 0, False)
    return await ask(address, [encode(hello)], welcome, timeout_s=timeout_s)


def _where(cluster: LocalCluster) -> str:
    http_url = cluster.layout.http_url
    return f"{cluster.url} and {http_url}" if http_url else cluster.url
