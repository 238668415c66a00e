"""Commands on LogBooks: list, show, create, delete, trim and hold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import cast

import click

from bokilog.cli.connection import log_options, run
from bokilog.cli.options import Duration
from bokilog.cli.output import confirmed, print_json, print_table, printable
from bokilog.limits import SEQNUM_MAX
from bokilog.logbook import Log
from bokilog.record import DURABILITIES, BookInfo, Durability, Trim

SEQNUM = click.IntRange(min=0, max=SEQNUM_MAX + 1)


@click.command()
@log_options
def books(url: str | None, timeout_s: float, as_json: bool) -> None:
    """List all LogBooks."""

    async def work(log: Log) -> Sequence[BookInfo]:
        return await log.books(timeout_s=timeout_s)

    found = run(url, work, timeout_s=timeout_s)
    if as_json:
        for each in found:
            print_json(asdict(each))
    elif found:
        _print_table(found)
    else:
        click.echo("(no LogBooks yet)", err=True)


@click.command()
@click.argument("book")
@log_options
def info(book: str, url: str | None, timeout_s: float, as_json: bool) -> None:
    """Show what is known of a LogBook."""

    async def work(log: Log) -> BookInfo:
        return await log.book(book).info(timeout_s=timeout_s)

    _print_info(run(url, work, timeout_s=timeout_s), as_json=as_json)


@click.command()
@click.argument("book")
@click.option(
    "--durability",
    type=click.Choice(DURABILITIES),
    default="sync",
    show_default=True,
    help="Before an append is acknowledged, a write quorum has synced it, has written it to the "
    "operating system, or has it in memory.",
)
@click.option("--retention-s", type=Duration(min=0), help="Let go of what is older.")
@click.option("--retention-bytes", type=click.IntRange(min=0), help="Let go of the oldest beyond.")
@log_options
def create_book(
    book: str,
    durability: str,
    retention_s: float | None,
    retention_bytes: int | None,
    url: str | None,
    timeout_s: float,
    as_json: bool,
) -> None:
    """Create a LogBook with properties of its own.

    A LogBook that exists with the same properties is no error. Without this command, the first
    append creates a LogBook with the defaults.
    """

    async def work(log: Log) -> BookInfo:
        return await log.create_book(
            book,
            durability=cast(Durability, durability),
            retention_s=retention_s,
            retention_bytes=retention_bytes,
            timeout_s=timeout_s,
        )

    _print_info(run(url, work, timeout_s=timeout_s, makes_log=True), as_json=as_json)


@click.command()
@click.argument("book")
@click.option("--yes", is_flag=True, help="Do not ask.")
@log_options
def delete_book(book: str, yes: bool, url: str | None, timeout_s: float, as_json: bool) -> None:
    """Delete a LogBook with all it holds.

    There is no way back. The name may be used again, by a new and empty LogBook.
    """
    if not yes and not confirmed(f"Delete LogBook {book!r} with all its records?"):
        click.echo("nothing was changed", err=True)
        raise click.exceptions.Exit(1)

    async def work(log: Log) -> None:
        await log.delete_book(book, timeout_s=timeout_s)

    run(url, work, timeout_s=timeout_s)
    if as_json:
        print_json({"deleted": book})
    else:
        click.echo(f"deleted {printable(book)}")


@click.command()
@click.argument("book")
@click.argument("until", type=SEQNUM)
@click.option("--tag", help="Trim only this tag: a record goes once all its tags are trimmed.")
@log_options
def trim(
    book: str, until: int, tag: str | None, url: str | None, timeout_s: float, as_json: bool
) -> None:
    """Let go of what lies below a seqnum.

    UNTIL is the first seqnum to keep. A trim stops at the lowest hold, which is no error.
    """

    async def work(log: Log) -> Trim:
        return await log.book(book).trim(until, tag, timeout_s=timeout_s)

    done = run(url, work, timeout_s=timeout_s)
    if as_json:
        print_json({"until": done.until, "held_by": done.held_by})
    else:
        held = "" if done.held_by is None else f", held back by {done.held_by!r}"
        of_tag = "" if tag is None else f" of tag {tag!r}"
        click.echo(f"the first kept seqnum{of_tag} is {done.until}{held}")


@click.command()
@click.argument("book")
@click.argument("name")
@click.argument("seqnum", type=SEQNUM)
@click.option(
    "--ttl-s",
    type=Duration(min=0, min_open=True),
    default=3600.0,
    show_default=True,
    help="How long, by the log's own time.",
)
@log_options
def hold(
    book: str,
    name: str,
    seqnum: int,
    ttl_s: float,
    url: str | None,
    timeout_s: float,
    as_json: bool,
) -> None:
    """Keep trims back for some time.

    No trim passes SEQNUM while the hold lives. The same NAME again moves and renews it.
    """

    async def work(log: Log) -> None:
        await log.book(book).hold(name, seqnum, ttl_s, timeout_s=timeout_s)

    run(url, work, timeout_s=timeout_s)
    if as_json:
        print_json({"hold": name, "seqnum": seqnum, "ttl_s": ttl_s})
    else:
        click.echo(f"held at {seqnum} for {ttl_s:g} s by {name!r}")


@click.command()
@click.argument("book")
@click.argument("name")
@log_options
def release(book: str, name: str, url: str | None, timeout_s: float, as_json: bool) -> None:
    """End a hold.

    One that does not exist is no error.
    """

    async def work(log: Log) -> None:
        await log.book(book).release(name, timeout_s=timeout_s)

    run(url, work, timeout_s=timeout_s)
    if as_json:
        print_json({"released": name})
    else:
        click.echo(f"released {name!r}")


def _print_info(found: BookInfo, *, as_json: bool) -> None:
    plain = asdict(found)
    if as_json:
        print_json(plain)
        return
    width = max(map(len, plain))
    for name, value in plain.items():
        click.echo(f"{name:<{width}}  {'-' if value is None else printable(str(value))}")


def _print_table(found: Sequence[BookInfo]) -> None:
    from rich.markup import escape  # here: rich takes longer to import than most commands to run
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for name in ("book", "durability", "retention"):
        table.add_column(name)
    for name in ("first kept", "tail", "number"):
        table.add_column(name, justify="right")
    for each in found:
        table.add_row(
            escape(printable(each.book)),
            each.durability,
            _retention(each),
            str(each.trim_until),
            str(each.tail),
            str(each.number),
        )
    print_table(table)


def _retention(found: BookInfo) -> str:
    parts = []
    if found.retention_s is not None:
        parts.append(f"{found.retention_s:g} s")
    if found.retention_bytes is not None:
        parts.append(f"{found.retention_bytes} bytes")
    return ", ".join(parts) or "-"
