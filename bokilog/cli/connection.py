"""How commands reach a log, and the options that all of them share.

Decides nothing but names and defaults of those options. Does not know what a command does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, ParamSpec, TypeVar

import click

from bokilog.logbook import Log

T = TypeVar("T")
P = ParamSpec("P")
TIMEOUT_S: Final = 30.0  # a person waits longer than a program, but not for ever


def log_options(command: Callable[P, None]) -> Callable[P, None]:
    """--url, --timeout-s and --json, for every command that talks to a log."""
    for option in (
        click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs."),
        click.option(
            "--timeout-s",
            type=click.FloatRange(min=0, min_open=True),
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


def run(url: str | None, work: Callable[[Log], Awaitable[T]], *, timeout_s: float) -> T:
    """Connect within `timeout_s`, do `work`, close; for one command."""
    return asyncio.run(_connected(url, work, timeout_s))


async def _connected(url: str | None, work: Callable[[Log], Awaitable[T]], timeout_s: float) -> T:
    from bokilog.client.connect import connect  # here, so that help and usage errors stay fast

    # Seeds take turns until the time is over; then NodeUnreachable names the URL and the time.
    async with connect(url or None, connect_timeout_s=timeout_s) as log:
        return await work(log)
