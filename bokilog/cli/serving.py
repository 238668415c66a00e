"""Commands that run an app's functions in this process: dev, serve.

Decides what each starts and in which order it ends; the host is the same in both
(`functions/node.py`). Does not know how functions are called (`calling.py`).
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import tempfile
from collections.abc import AsyncIterator, Coroutine
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from bokilog.cli.options import Directory
from bokilog.errors import InvalidSettings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import Console

    from bokilog.cli.screen import Screen
    from bokilog.functions.gateway.settings import GatewaySettings
    from bokilog.functions.node import FunctionNodeSettings

DEV_DIRECTORY: Final = "bokilog-dev"
HTTP_PORT: Final = 7380
PORT: Final = 7300

_app_argument = click.argument("app", metavar="MODULE:APP")
_app_dir_option = click.option(
    "--app-dir",
    type=Directory(exists=True),
    default=".",
    show_default=True,
    help="The folder that the app is imported from.",
)
_http_port_option = click.option(
    "--http-port",
    type=int,
    default=HTTP_PORT,
    show_default=True,
    help="The HTTP gateway listens there, on this machine only; 0: there is none.",
)


@click.command()
@_app_argument
@_app_dir_option
@click.option("--embedded", is_flag=True, help="The log lives in this process: no cluster.")
@click.option(
    "--dir",
    "directory",
    type=Directory(),
    default=DEV_DIRECTORY,
    show_default=True,
    help="What is logged is kept there.",
)
@click.option(
    "--memory", "in_memory", is_flag=True, help="With --embedded: nothing is kept on a disk."
)
@click.option("--port", type=int, default=PORT, show_default=True, help="Of the log.")
@_http_port_option
def dev(
    app: str,
    app_dir: Path,
    embedded: bool,
    directory: Path,
    in_memory: bool,
    port: int,
    http_port: int,
) -> None:
    """Run an app on this machine while you write it.

    Starts a small cluster (or, with --embedded, a log in this process), loads the app, and shows
    its calls and what they print. A change of one of its files loads it again; calls that run
    finish as they began. Ctrl-C stops everything.
    """
    from bokilog.cli.screen import Screen

    if in_memory and not embedded:
        raise InvalidSettings("--memory", "given", "goes with --embedded")
    if http_port == port:
        raise InvalidSettings(
            "--http-port", str(http_port), "is the log's --port too: take another"
        )
    gateway = _gateway(http_port, show_traces=True)
    screen = Screen(_console(), calls=True)
    with tempfile.TemporaryDirectory(prefix="bokilog-") as sockets:
        around: AbstractContextManager[None]
        if embedded:
            where = None if in_memory else directory / "embedded"
            log = _embedded_log(where, f"tcp:127.0.0.1:{port}")
            around = nullcontext()
        else:
            around = _cluster(directory / "cluster", port=port, screen=screen)
            log = _given_log(f"bokilog://127.0.0.1:{port}")
        with around:

            async def live() -> None:
                async with log as url:
                    settings = _settings(
                        app,
                        app_dir=app_dir,
                        name="dev",
                        addresses=(f"unix:{sockets}/host.sock",),
                        log_url=url,
                        gateway=gateway,
                        watch=True,
                    )
                    await _live(settings, screen)

            _run(live())


@click.command()
@_app_argument
@_app_dir_option
@click.option(
    "--connect",
    "url",
    envvar="BOKILOG_URL",
    default=f"bokilog://127.0.0.1:{PORT}",
    show_default=True,
    help="The log: bokilog://HOST:PORT[,HOST:PORT...], or bokilog+unix:///PATH; best the engine of"
    " this machine.",
)
@click.option("--name", help="Of this host, different from others of the app (machine and pid).")
@click.option(
    "--listen",
    metavar="tcp:HOST:PORT",
    multiple=True,
    help="Where callers and hosts on other machines reach it; may be repeated.",
)
@_http_port_option
@click.option("--watch", is_flag=True, help="Load the app again when one of its files changes.")
@click.option("--show-calls", is_flag=True, help="Show calls and what they print.")
def serve(
    app: str,
    app_dir: Path,
    url: str,
    name: str | None,
    listen: tuple[str, ...],
    http_port: int,
    watch: bool,
    show_calls: bool,
) -> None:
    """Run an app's functions beside a log that runs already.

    It is one more host of the app: they find each other in the log, and share the calls. Ctrl-C
    lets running calls finish, then stops it.
    """
    from bokilog.cli.screen import Screen
    from bokilog.client.connect import addresses_of

    if not url.startswith(("bokilog://", "bokilog+unix://")):
        problem = "is neither bokilog://HOST:PORT nor bokilog+unix:///PATH, which workers reach too"
        hint = "`bokilog dev --embedded` runs an app beside a log of its own"
        raise InvalidSettings("--connect", repr(url), f"{problem}; {hint}")
    addresses_of(url)
    screen = Screen(_console(), calls=show_calls)
    with tempfile.TemporaryDirectory(prefix="bokilog-") as sockets:
        settings = _settings(
            app,
            app_dir=app_dir,
            name=name if name is not None else f"{socket.gethostname()}-{os.getpid()}",
            addresses=(f"unix:{sockets}/host.sock", *listen),
            log_url=url,
            gateway=_gateway(http_port, show_traces=watch),
            watch=watch,
        )
        _run(_live(settings, screen))


# --- hosts in this process ------------------------------------------------------------------------


def _gateway(http_port: int, *, show_traces: bool) -> GatewaySettings | None:
    """Settings of an HTTP gateway at a port that is free now; None: there is to be none.

    Raises:
        InvalidSettings: the port is in use, which is better known before anything is started.
    """
    from bokilog.functions.gateway.server import reserve
    from bokilog.functions.gateway.settings import GatewaySettings

    if not http_port:
        return None
    settings = GatewaySettings(http_port=http_port, show_traces=show_traces)
    for reserved in reserve(settings):
        reserved.close()
    return settings


def _settings(
    app: str,
    *,
    app_dir: Path,
    name: str,
    addresses: tuple[str, ...],
    log_url: str,
    gateway: GatewaySettings | None,
    watch: bool,
) -> FunctionNodeSettings:
    from bokilog.functions.gateway.settings import GatewaySettings
    from bokilog.functions.node import FunctionNodeSettings
    from bokilog.functions.runtime.process_settings import HostSettings

    host = HostSettings(
        node_id=name,
        app=app,
        app_dir=app_dir.absolute(),
        addresses=addresses,
        log_url=log_url,
        watch=watch,
    )
    if gateway is None:
        return FunctionNodeSettings(host=host, gateway=GatewaySettings(), http=False)
    return FunctionNodeSettings(host=host, gateway=gateway)


async def _live(settings: FunctionNodeSettings, screen: Screen) -> None:
    """A host until a signal; another signal ends it without waiting for anything that runs.

    Raises:
        Abort: it was ended so.
    """
    from bokilog.functions.node import serve as serve_host

    stop = asyncio.Event()

    def ready() -> None:
        screen.say(_where(settings, loaded=screen.has_loaded))

    living = asyncio.create_task(serve_host(settings, ready, stop, watcher=screen))

    def signalled() -> None:
        if stop.is_set():
            living.cancel()
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, signalled)
    await asyncio.wait([living])
    try:
        living.result()
    except asyncio.CancelledError as cancelled:
        raise click.Abort from cancelled


def _where(settings: FunctionNodeSettings, *, loaded: bool) -> str:
    """Where the app is found, or will be."""
    http = f"at http://127.0.0.1:{settings.gateway.http_port}" if settings.http else "without HTTP"
    state = f"is served {http}" if loaded else f"will be served {http} once it can be loaded"
    return f"{settings.host.app} {state}; log at {settings.host.log_url}"


@contextmanager
def _cluster(directory: Path, *, port: int, screen: Screen) -> Iterator[None]:
    from bokilog.shapes.local_cluster import LocalCluster

    cluster = LocalCluster(directory, function_nodes=1, port=port)
    screen.say(f"starting a cluster of {len(cluster.layout.nodes)} processes in {directory}")
    with cluster:
        yield


@asynccontextmanager
async def _embedded_log(directory: Path | None, address: str) -> AsyncIterator[str]:
    from bokilog.shapes.served import serve_log

    log = await serve_log(directory, address)
    try:
        yield log.url
    finally:
        await log.aclose()


@asynccontextmanager
async def _given_log(url: str) -> AsyncIterator[str]:
    yield url


def _run(work: Coroutine[object, object, None]) -> None:
    from bokilog.io.process import new_loop

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(work)


def _console() -> Console:
    from rich.console import Console

    return Console()
