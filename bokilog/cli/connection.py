"""How commands reach a log, and the options that all of them share.

Decides names and defaults of those options, and that only a command that makes LogBooks makes the
directory of a `file:` URL: any other one would answer a misspelt name with a new, empty log; and
when a person hears what is waited for. Does not know what a command does.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Final, ParamSpec, TypeVar

import click

from bokilog.cli.options import Duration
from bokilog.errors import InvalidSettings
from bokilog.logbook import Log

if TYPE_CHECKING:
    from bokilog.client.admin import ClientLog

T = TypeVar("T")
P = ParamSpec("P")
TIMEOUT_S: Final = 30.0  # a person waits longer than a program, but not for ever
QUIET_S: Final = 1.0
"""So long a command waits without a word."""


def log_options(command: Callable[P, None]) -> Callable[P, None]:
    """--url, --timeout-s and --json, for every command that talks to a log."""
    for option in (
        click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs."),
        click.option(
            "--timeout-s",
            type=Duration(min=0, min_open=True),
            default=TIMEOUT_S,
            show_default=True,
            help="Give up connecting after that many seconds, and so each call.",
        ),
        click.option(
            "--url",
            envvar="BOKILOG_URL",
            help="Where the log is: bokilog://HOST:PORT[,HOST:PORT...] or file:DIRECTORY.",
        ),
    ):
        command = option(command)
    return command


def run(
    url: str | None,
    work: Callable[[Log], Awaitable[T]],
    *,
    timeout_s: float,
    makes_log: bool = False,
) -> T:
    """Connect within `timeout_s`, do `work`, close; for one command.

    Args:
        url: as `--url`.
        work: what the command does.
        timeout_s: for connecting.
        makes_log: whether the directory of a `file:` URL is made if it is not there.
    """
    check_there(url, makes_log=makes_log)
    return asyncio.run(_connected(url, work, timeout_s))


def check_there(url: str | None, *, makes_log: bool = False) -> None:
    """Refuse a `file:` URL whose directory is not there or empty, as opening it would make a log
    that nobody meant; and to write to a log in memory.

    Raises:
        InvalidSettings: it holds no log, or will not hold it.
    """
    scheme, _, rest = (url or "").partition(":")
    if scheme == "memory" and makes_log:
        raise InvalidSettings("url", repr(url), "is a log that ends with the command: use file:DIR")
    directory = rest.removeprefix("//")
    if scheme != "file" or not directory or makes_log:
        return
    problem = ""
    if not os.path.lexists(directory):
        problem = "does not exist"
    elif _is_empty(directory):
        problem = "is empty"
    if problem:
        hint = "`bokilog append` or `create-book` makes a log there"
        raise InvalidSettings("url", repr(url), f"names a directory that {problem}: {hint}")


def _is_empty(directory: str) -> bool:
    """What cannot be listed is not; opening it says why."""
    try:
        return not os.listdir(directory)
    except OSError:
        return False


async def _connected(url: str | None, work: Callable[[Log], Awaitable[T]], timeout_s: float) -> T:
    async with open_log(url, timeout_s) as log:
        return await work(log)


@asynccontextmanager
async def open_log(url: str | None, timeout_s: float) -> AsyncIterator[ClientLog]:
    """The log at `url`, connected within `timeout_s`; a person hears if it takes a while."""
    from bokilog.client.connect import URL_DEFAULT, connect  # so that usage errors stay fast

    # Seeds take turns until the time is over; then NodeUnreachable names the URL and the time.
    waits = say_if_it_lasts(f"the log at {url or URL_DEFAULT}", timeout_s)
    try:
        async with connect(url or None, connect_timeout_s=timeout_s) as log:
            waits.cancel()
            yield log
    finally:
        waits.cancel()


def say_if_it_lasts(what: str, timeout_s: float) -> asyncio.TimerHandle:
    """After a second without it, a person is told what is waited for; once it is there, cancel."""
    line = f"waiting up to {timeout_s:g} s for {what}"
    return asyncio.get_running_loop().call_later(QUIET_S, partial(click.echo, line, err=True))
