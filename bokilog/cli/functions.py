"""Commands that run and call functions: dev, serve, call, logs.

Decides what each starts and in which order it ends; a host is the same in all of them
(`functions/node.py`). Arguments of `call` are JSON, and text where they are none.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import tempfile
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from bokilog.cli.connection import log_options
from bokilog.cli.output import print_json
from bokilog.errors import BokilogError, InvalidSettings, NotReady, from_wire

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import Console

    from bokilog.cli.screen import Screen
    from bokilog.client.admin import ClientLog
    from bokilog.functions.gateway.settings import GatewaySettings
    from bokilog.functions.node import FunctionNodeSettings
    from bokilog.functions.runtime.process_caller import ProcessCaller

DEV_DIRECTORY: Final = "bokilog-dev"
HTTP_PORT: Final = 7380
PORT: Final = 7300
ASK_TIMEOUT_S: Final = 3.0
_BY_NAME: Final = re.compile(r"([A-Za-z_]\w*)=(.*)", re.DOTALL)

_app_argument = click.argument("app", metavar="MODULE:APP")
_app_dir_option = click.option(
    "--app-dir",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
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
    type=click.Path(path_type=Path, file_okay=False),
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

    screen = Screen(_console(), calls=show_calls)
    with tempfile.TemporaryDirectory(prefix="bokilog-") as sockets:
        settings = _settings(
            app,
            app_dir=app_dir,
            name=name or f"{socket.gethostname()}-{os.getpid()}",
            addresses=(f"unix:{sockets}/host.sock", *listen),
            log_url=url,
            gateway=_gateway(http_port, show_traces=watch),
            watch=watch,
        )
        _run(_live(settings, screen))


@click.command()
@click.argument("function", metavar="APP.FUNCTION")
@click.argument("arguments", metavar="[ARGUMENT]...", nargs=-1)
@click.option(
    "--timeout", "call_timeout_s", type=float, help="How long the call may take (its own timeout)."
)
@log_options
def call(
    function: str,
    arguments: tuple[str, ...],
    call_timeout_s: float | None,
    url: str | None,
    timeout_s: float,
    as_json: bool,
) -> None:
    """Call a function and print what it returns.

    An ARGUMENT is JSON, or text where it is none; or all of them are NAME=ARGUMENT. The app is
    looked up in the log at --url.
    """
    app, dot, name = function.partition(".")
    if not dot or not name:
        raise InvalidSettings("function", repr(function), "is not APP.FUNCTION, as in shop.price")
    payload = json.dumps(parse_arguments(arguments)).encode()
    asyncio.run(_call(app, name, payload, url, timeout_s, call_timeout_s, as_json=as_json))


@click.command()
@click.argument("call_id", metavar="[CALL]", default="")
@click.option("--app", help="Whose call it is (any that the log knows).")
@log_options
def logs(call_id: str, app: str | None, url: str | None, timeout_s: float, as_json: bool) -> None:
    """Print what a call wrote to stdout and stderr.

    Hosts remember the last calls that ran there; without CALL they are listed.
    """
    asyncio.run(_logs(call_id, app, url, timeout_s, as_json=as_json))


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
    """A host until a signal."""
    from bokilog.functions.node import serve as serve_host

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, stop.set)

    def ready() -> None:
        http = f"http://127.0.0.1:{settings.gateway.http_port}" if settings.http else "no HTTP"
        where = f"at {http}" if screen.has_loaded else f"will be at {http} once it can be loaded"
        screen.say(f"{settings.host.app} {where}; log at {settings.host.log_url}")

    await serve_host(settings, ready, stop, watcher=screen)


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

    if directory is not None:
        directory.parent.mkdir(parents=True, exist_ok=True)
    log = await serve_log(directory, address)
    try:
        yield log.url
    finally:
        await log.aclose()


@asynccontextmanager
async def _given_log(url: str) -> AsyncIterator[str]:
    yield url


def _run(work: Coroutine[object, object, None]) -> None:
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(work)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop]:
    try:
        import uvloop
    except ImportError:  # not built for this system
        return asyncio.new_event_loop
    return uvloop.new_event_loop


def _console() -> Console:
    from rich.console import Console

    return Console()


# --- calls ----------------------------------------------------------------------------------------


def parse_arguments(said: tuple[str, ...]) -> list[object] | dict[str, object]:
    """What the words of a command line mean as arguments.

    >>> parse_arguments(("4", "hello", '{"a": [1]}'))
    [4, 'hello', {'a': [1]}]
    >>> parse_arguments(("x=4", "text=hello"))
    {'x': 4, 'text': 'hello'}

    Raises:
        InvalidSettings: some have a name and others have none.
    """
    named = [match for match in map(_BY_NAME.fullmatch, said) if match is not None]
    if named and len(named) == len(said):
        return {match[1]: _value(match[2]) for match in named}
    if named:
        bare = next(each for each in said if _BY_NAME.fullmatch(each) is None)
        problem = "has no name and others have: say all as NAME=ARGUMENT, or none"
        raise InvalidSettings("argument", repr(bare), problem)
    return [_value(each) for each in said]


def _value(said: str) -> object:
    try:
        value: object = json.loads(said)
    except ValueError:
        return said
    return value


class _Named:
    """As much of an app as a connection to its hosts needs."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.connection: ProcessCaller | None = None


async def _call(
    app: str,
    function: str,
    payload: bytes,
    url: str | None,
    timeout_s: float,
    call_timeout_s: float | None,
    *,
    as_json: bool,
) -> None:
    from bokilog.call_errors import FunctionFailed
    from bokilog.functions.runtime.caller import Request
    from bokilog.functions.runtime.messages import Encoding
    from bokilog.functions.runtime.outside import AppConnection

    named = _Named(app)
    async with AppConnection(named, url=url, host=None, connect_timeout_s=timeout_s):
        assert named.connection is not None
        calls = named.connection.calls
        call_id = os.urandom(8).hex()
        limit_s = call_timeout_s if call_timeout_s is not None else timeout_s
        request = Request(function, Encoding.JSON, limit_s, call_id=call_id)
        done = await calls.wait(calls.start(request, payload))
    if done.error:
        error = from_wire(done.error)  # not the exception itself: that is the app's code
        if isinstance(error, FunctionFailed):
            click.echo(error.trace.rstrip(), err=True)
        raise error
    text = bytes(done.payload).decode(errors="replace")
    if as_json:
        print_json({"call": call_id, "result": _value(text), "ran_us": done.ran_us})
    else:
        click.echo(text)


async def _logs(
    call_id: str, app: str | None, url: str | None, timeout_s: float, *, as_json: bool
) -> None:
    from bokilog.client.connect import connect
    from bokilog.functions.runtime.membership import hosts_of, reachable

    async with connect(url or None, connect_timeout_s=timeout_s) as log:
        found: list[list[object]] = []
        asked = 0
        for name in [app] if app else await _apps(log):
            for host in await hosts_of(log, name):
                address = reachable(host)
                try:
                    found += await _ask(address, name, call_id) if address else []
                    asked += bool(address)
                except BokilogError as error:
                    click.echo(f"{host.name} does not answer: {error}", err=True)
    if not asked:
        raise NotReady("no host answers: start one with bokilog serve, dev or up --app")
    _print_logs(call_id, found, as_json=as_json)


def _print_logs(call_id: str, found: list[list[object]], *, as_json: bool) -> None:
    for row in found:
        if not call_id:
            shown, function, outcome = row
            if as_json:
                print_json({"call": shown, "function": function, "outcome": outcome})
            else:
                click.echo(f"{shown}  {function}  {outcome}")
        elif as_json:
            print_json({"stream": "stderr" if row[0] == 2 else "stdout", "text": row[1]})
        else:
            click.echo(str(row[1]), nl=False, err=row[0] == 2)
    if call_id and not found:
        click.echo(f"nothing is remembered of call {call_id}", err=True)


async def _apps(log: ClientLog) -> list[str]:
    names = [info.book for info in await log.books() if info.book.startswith("functions/")]
    return [name.split("/")[1] for name in names if name.count("/") == 1]


async def _ask(address: str, app: str, call_id: str) -> list[list[object]]:
    """What one host remembers."""
    from bokilog.framing import WireMessage
    from bokilog.functions.runtime.messages import (
        CALLS_VERSION,
        Greeting,
        Outputs,
        OutputsRequest,
        decode,
        encode,
    )
    from bokilog.io.link import Link, LinkCallbacks
    from bokilog.io.transport import dial

    answered: asyncio.Future[list[list[object]]] = asyncio.get_running_loop().create_future()

    def on_messages(link: Link, wires: list[WireMessage]) -> None:
        for wire in wires:
            message = decode(wire)
            if isinstance(message, Outputs) and not answered.done():
                rows = [list(each) for each in message.pieces if isinstance(each, list)]
                answered.set_result(rows)

    def on_lost(link: Link, error: Exception | None) -> None:
        if not answered.done():
            answered.set_exception(NotReady(f"{address} closed the connection"))

    callbacks = LinkCallbacks(on_messages=on_messages, on_lost=on_lost)
    link = await dial(address, callbacks, timeout_s=ASK_TIMEOUT_S)
    try:
        link.send(*encode(Greeting(CALLS_VERSION, "caller", "bokilog logs", app, 0)))
        link.send(*encode(OutputsRequest(call_id)))
        async with asyncio.timeout(ASK_TIMEOUT_S):
            return await answered
    except TimeoutError:
        raise NotReady(f"{address} did not answer within {ASK_TIMEOUT_S} s") from None
    finally:
        answered.cancel()
        await link.aclose()
