"""The command on durable calls: which are open, which were given up, and to drive one again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import click

from bokilog.cli.connection import log_options, run
from bokilog.cli.output import print_json, print_table, printable, time_of
from bokilog.client.admin import ClientLog
from bokilog.functions.calls.finding import list_calls
from bokilog.functions.calls.spawning import redrive as drive_again
from bokilog.functions.calls.status import CallStatus
from bokilog.logbook import Log


@click.command()
@click.argument("app")
@click.option("--dead", is_flag=True, help="Those that failed as often as they may.")
@click.option("--redrive", metavar="ID", help="Run that dead call again.")
@log_options
def calls(
    app: str, dead: bool, redrive: str | None, url: str | None, timeout_s: float, as_json: bool
) -> None:
    """List an app's durable calls that are not over.

    With --dead those that were given up, and why; --redrive ID runs one of them again, with the
    same arguments. A call that is over is not listed: GET /calls/ID of the gateway has its result.
    """
    if redrive is not None:
        call_id = redrive

        async def again(log: Log) -> str:
            return (await drive_again(cast(ClientLog, log), app, call_id)).id

        driven = run(url, again, timeout_s=timeout_s)
        if as_json:
            print_json({"redriven": driven})
        else:
            click.echo(f"call {driven} waits to be run again")
        return

    async def work(log: Log) -> Sequence[CallStatus]:
        return await list_calls(cast(ClientLog, log), app, dead=dead)

    found = run(url, work, timeout_s=timeout_s)
    if as_json:
        for each in found:
            print_json(each._asdict())
    elif found:
        _print_table(found)
    else:
        click.echo("(no dead calls)" if dead else "(no open calls)", err=True)


def _print_table(found: Sequence[CallStatus]) -> None:
    from rich.markup import escape  # here: rich takes longer to import than most commands to run
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for name in ("id", "function", "state"):
        table.add_column(name, no_wrap=name == "id")
    table.add_column("attempt", justify="right")
    table.add_column("host")
    table.add_column("since", no_wrap=True)
    if any(each.error for each in found):
        table.add_column("error")
    for each in found:
        table.add_row(
            each.id,
            escape(printable(each.function)),
            each.state,
            str(each.attempt),
            escape(printable(each.host)) or "-",
            time_of(each.changed_ms),
            *([escape(printable(each.error))] if each.error else []),
        )
    print_table(table)
