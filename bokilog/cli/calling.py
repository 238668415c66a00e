"""Commands that ask the hosts of an app: call, logs.

Decides what the words of a command line mean as arguments (JSON, and text where they are none), how
a result is printed, and whom to ask for what a call wrote: the hosts are found in the log. Does not
know what they run.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
from typing import TYPE_CHECKING, Final

import click

from bokilog.cli.connection import check_there, log_options, open_log, say_if_it_lasts
from bokilog.cli.output import data_as_json, print_json, printable, printable_lines
from bokilog.errors import BokilogError, InvalidSettings, NotReady, from_wire

if TYPE_CHECKING:
    from bokilog.client.admin import ClientLog
    from bokilog.functions.runtime.process_caller import ProcessCaller

ASK_TIMEOUT_S: Final = 3.0
_BY_NAME: Final = re.compile(r"([A-Za-z_]\w*)=(.*)", re.DOTALL)


@click.command()
@click.argument("function", metavar="APP.FUNCTION")
@click.argument("arguments", metavar="[ARGUMENT]...", nargs=-1)
@click.option(
    "--timeout",
    "call_timeout_s",
    type=float,
    help="How long the call may take, in seconds; without it as long as the function says"
    " (`timeout_s` in its declaration, 60 unless it says otherwise).",
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
    from bokilog.functions.runtime.options import TIMEOUT_S_MAX
    from bokilog.io.settings import check_setting

    app, dot, name = function.partition(".")
    if not app or not dot or not name:
        raise InvalidSettings("function", repr(function), "is not APP.FUNCTION, as in shop.price")
    if call_timeout_s is not None:
        check_setting("timeout", call_timeout_s, least=0.001, most=TIMEOUT_S_MAX)
    payload = json.dumps(parse_arguments(arguments)).encode()
    check_there(url)
    asyncio.run(_call(app, name, payload, url, timeout_s, call_timeout_s, as_json=as_json))


@click.command()
@click.argument("call_id", metavar="[CALL]", default="")
@click.option("--app", help="Whose call it is (any that the log knows).")
@log_options
def logs(call_id: str, app: str | None, url: str | None, timeout_s: float, as_json: bool) -> None:
    """Print what a call wrote to stdout and stderr.

    Hosts remember the last calls that ran there; without CALL they are listed. What steers a
    terminal is escaped there, and printed as it is elsewhere.
    """
    check_there(url)
    asyncio.run(_logs(call_id, app, url, timeout_s, as_json=as_json))


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
        names = [match[1] for match in named]
        if twice := [name for name in names if names.count(name) > 1]:
            raise InvalidSettings("argument", repr(twice[0]), "is said twice")
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
    except RecursionError:
        raise InvalidSettings("argument", repr(said[:20] + "..."), "is nested too deeply") from None
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
    from bokilog.functions.runtime.options import FunctionOptions
    from bokilog.functions.runtime.outside import AppConnection
    from bokilog.functions.runtime.references import fetch

    named = _Named(app)
    wait_s = timeout_s if call_timeout_s is None else min(timeout_s, call_timeout_s)
    waits = say_if_it_lasts(f"a host of {app!r}, or the log that names it", wait_s)
    async with AppConnection(named, url=url, host=None, connect_timeout_s=wait_s) as connection:
        waits.cancel()
        assert named.connection is not None
        calls = named.connection.calls
        call_id = os.urandom(8).hex()
        if call_timeout_s is None:
            # A function that the host does not know is refused at once, whatever is said here.
            call_timeout_s = connection.timeout_s_of(function) or FunctionOptions().timeout_s
        request = Request(function, Encoding.JSON, call_timeout_s, call_id=call_id)
        done = await calls.wait(calls.start(request, payload))
        if done.error:
            error = from_wire(done.error)  # not the exception itself: that is the app's code
            if isinstance(error, FunctionFailed):
                click.echo(printable_lines(error.trace.rstrip()), err=True)
            raise error
        encoding, result = done.encoding, bytes(done.payload)
        if encoding == Encoding.REFERENCE:
            session = connection.log.session(done.token or None)
            encoding, result = await fetch(connection.log, result, session)
    raw = encoding == Encoding.RAW  # bytes, which go out as they are
    if as_json:
        shown = data_as_json("result", result) if raw else {"result": json.loads(result)}
        print_json({"call": call_id, **shown, "ran_us": done.ran_us})
    else:
        click.echo(result, nl=not raw or sys.stdout.isatty())


# --- what calls wrote -----------------------------------------------------------------------------


async def _logs(
    call_id: str, app: str | None, url: str | None, timeout_s: float, *, as_json: bool
) -> None:
    from bokilog.functions.runtime.membership import hosts_of, reachable

    async with open_log(url, timeout_s) as log:
        found: list[list[object]] = []
        silent: list[list[object]] = []
        asked = 0
        for name in [app] if app else await _apps(log):
            for host in await hosts_of(log, name):
                address = reachable(host)
                try:
                    pieces = await _ask(address, name, call_id) if address else []
                    if call_id and address and not pieces:
                        silent += [
                            row for row in await _ask(address, name, "") if row[0] == call_id
                        ]
                    found += pieces
                    asked += bool(address)
                except BokilogError as error:
                    click.echo(f"{host.name} does not answer: {error}", err=True)
    if not asked:
        whose = f" of app {app!r}" if app else ""
        start = "start one with bokilog serve, dev or up --app"
        raise NotReady(f"no host{whose} answers: {start}")
    if call_id and not found:
        click.echo(_why_nothing(call_id, silent), err=True)
    _print_logs(call_id, found, as_json=as_json)


def _why_nothing(call_id: str, silent: list[list[object]]) -> str:
    """Nothing is printed of a call: it wrote nothing, or no host knows it."""
    if not silent:
        return f"no host remembers a call {printable(call_id)}"
    _, function, outcome = silent[0]
    return f"call {printable(call_id)} ({function}, {outcome}) wrote nothing"


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
            is_error = row[0] == 2
            at_terminal = (sys.stderr if is_error else sys.stdout).isatty()
            text = printable_lines(str(row[1])) if at_terminal else str(row[1])
            click.echo(text, nl=False, err=is_error, color=True)


async def _apps(log: ClientLog) -> list[str]:
    from bokilog.functions.books import app_of

    apps = [app_of(info.book) for info in await log.books()]
    return [app for app in apps if app is not None]


async def _ask(address: str, app: str, call_id: str) -> list[list[object]]:
    """What one host remembers."""
    from bokilog.cli.asking import ask
    from bokilog.framing import WireMessage
    from bokilog.functions.runtime.messages import (
        CALLS_VERSION,
        Greeting,
        Outputs,
        OutputsRequest,
        decode,
        encode,
    )

    def answer(wire: WireMessage) -> list[list[object]] | None:
        message = decode(wire)
        if not isinstance(message, Outputs):
            return None
        return [list(each) for each in message.pieces if isinstance(each, list)]

    greeting = Greeting(CALLS_VERSION, "caller", "bokilog logs", app, 0)
    said = [encode(greeting), encode(OutputsRequest(call_id))]
    return await ask(address, said, answer, timeout_s=ASK_TIMEOUT_S)
