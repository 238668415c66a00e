"""Commands on records: append, read, scan, follow."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from typing import Final

import click

from bokilog.cli.connection import log_options, run
from bokilog.cli.options import Duration
from bokilog.cli.output import print_json, record_as_json, record_as_line, standard_input
from bokilog.limits import SEQNUM_MAX
from bokilog.logbook import Log
from bokilog.record import Record, Unless

SEQNUM = click.IntRange(min=0, max=SEQNUM_MAX + 1)
DIGITS_MAX: Final = 19  # of a seqnum, zeros before it included: `int` refuses thousands of them


@click.command()
@click.argument("book")
@click.argument("data")
@click.option("--tag", "tags", multiple=True, help="A tag of the record; may be repeated.")
@click.option(
    "--unless",
    "conditions",
    multiple=True,
    metavar="TAG=AFTER",
    help="Only if no visible record of TAG has a seqnum above AFTER; may be repeated. AFTER alone "
    "is about every record of the LogBook.",
)
@click.option("--key", help="Makes a repeated append return the first one's seqnum.")
@log_options
def append(
    book: str,
    data: str,
    tags: tuple[str, ...],
    conditions: tuple[str, ...],
    key: str | None,
    url: str | None,
    timeout_s: float,
    as_json: bool,
) -> None:
    """Append one record and print its seqnum.

    DATA is text, or - for the bytes of standard input. The LogBook is created by its first record.
    """
    content = standard_input() if data == "-" else data.encode(errors="surrogateescape")
    unless = _unless(conditions)

    async def work(log: Log) -> int:
        return await log.book(book).append(
            content, tags, unless=unless, key=key, timeout_s=timeout_s
        )

    seqnum = run(url, work, timeout_s=timeout_s, makes_log=True)
    if as_json:
        print_json({"seqnum": seqnum})
    else:
        click.echo(seqnum)


@click.command()
@click.argument("book")
@click.argument("seqnum", required=False, type=click.IntRange(min=1, max=SEQNUM_MAX))
@click.option("--tag", help="Only records of this tag.")
@click.option("--min-seqnum", type=SEQNUM, help="The first record at or after this one.")
@click.option("--last", is_flag=True, help="The last record instead of the first.")
@click.option("--max-seqnum", type=SEQNUM, help="The last record at or before this one.")
@click.option(
    "--wait-s",
    type=Duration(min=0),
    default=0.0,
    help="Wait that long for a record; inf: until there is one.",
)
@click.option("--raw", is_flag=True, help="Print the bytes of the record and nothing else.")
@log_options
def read(
    book: str,
    seqnum: int | None,
    tag: str | None,
    min_seqnum: int | None,
    last: bool,
    max_seqnum: int | None,
    wait_s: float,
    raw: bool,
    url: str | None,
    timeout_s: float,
    as_json: bool,
) -> None:
    """Print one record: by seqnum, the next or the last.

    Without SEQNUM it is the first record of the LogBook, or of --tag. No record is no error: then
    nothing is printed but a line on standard error.
    """
    backward = last or max_seqnum is not None
    if seqnum is not None and (tag is not None or min_seqnum is not None or backward):
        raise click.UsageError("SEQNUM names one record: it goes with no other choice")
    if backward and min_seqnum is not None:
        raise click.UsageError("--min-seqnum looks forward, --last and --max-seqnum look back")
    if raw and as_json:
        raise click.UsageError("--raw and --json exclude each other")

    async def work(log: Log) -> Record | None:
        found = log.book(book)
        if seqnum is not None:
            return await found.read(
                seqnum, wait_s=wait_s, timeout_s=timeout_s, consistency="linearizable"
            )
        if backward:
            return await found.read_prev(
                tag=tag,
                max_seqnum=max_seqnum,
                wait_s=wait_s,
                timeout_s=timeout_s,
                consistency="linearizable",
            )
        return await found.read_next(
            tag=tag,
            min_seqnum=min_seqnum or 0,
            wait_s=wait_s,
            timeout_s=timeout_s,
            consistency="linearizable",
        )

    record = run(url, work, timeout_s=timeout_s)
    if record is None:
        click.echo("(no such record)", err=True)
    elif raw:
        sys.stdout.buffer.write(record.data)
    else:
        click.echo(record_as_json(record) if as_json else record_as_line(record, whole=True))


@click.command()
@click.argument("book")
@click.option("--tag", help="Only records of this tag.")
@click.option(
    "--min-seqnum", type=SEQNUM, default=0, help="From this one on; 0: from the first kept record."
)
@click.option("--until", type=SEQNUM, help="Up to this one, which is not printed.")
@click.option("--reverse", is_flag=True, help="The newest first.")
@click.option("--limit", type=click.IntRange(min=1), help="At most that many records.")
@log_options
def scan(
    book: str,
    tag: str | None,
    min_seqnum: int,
    until: int | None,
    reverse: bool,
    limit: int | None,
    url: str | None,
    timeout_s: float,
    as_json: bool,
) -> None:
    """Print the records there are, then end.

    It ends at the tail that the LogBook had when it began, however much is appended meanwhile.
    """

    async def work(log: Log) -> None:
        records = log.book(book).scan(
            tag=tag,
            min_seqnum=min_seqnum,
            until=until,
            reverse=reverse,
            timeout_s=timeout_s,
            consistency="linearizable",
        )
        try:
            await _print(records, limit=limit, as_json=as_json)
        finally:
            await records.aclose()

    run(url, work, timeout_s=timeout_s)


@click.command()
@click.argument("book")
@click.option("--tag", help="Only records of this tag.")
@click.option(
    "--min-seqnum", type=SEQNUM, default=0, help="From this one on; 0: from the first kept record."
)
@click.option("--new", is_flag=True, help="Only records that are appended from now on.")
@click.option("--limit", type=click.IntRange(min=1), help="End after that many records.")
@log_options
def follow(
    book: str,
    tag: str | None,
    min_seqnum: int,
    new: bool,
    limit: int | None,
    url: str | None,
    timeout_s: float,
    as_json: bool,
) -> None:
    """Print records as they come.

    Ends with Ctrl-C. Starts with what is there already, unless --new is given.
    """
    if new and min_seqnum:
        raise click.UsageError("--new and --min-seqnum exclude each other")

    async def work(log: Log) -> None:
        found = log.book(book)
        # Also moves the session on, so that everything acknowledged before now is seen.
        tail = await found.tail(timeout_s=timeout_s)
        records = found.follow(tag=tag, min_seqnum=tail if new else min_seqnum)
        try:
            await _print(records, limit=limit, as_json=as_json)
        finally:
            await records.aclose()

    run(url, work, timeout_s=timeout_s)


async def _print(records: AsyncIterator[Record], *, limit: int | None, as_json: bool) -> None:
    line = record_as_json if as_json else record_as_line
    printed = 0
    async for record in records:
        click.echo(line(record))
        printed += 1
        if printed == limit:
            break


def _unless(conditions: tuple[str, ...]) -> Unless | None:
    found: dict[str | None, int] = {}
    for condition in conditions:
        tag, separator, after = condition.rpartition("=")
        if not after.isdecimal() or len(after) > DIGITS_MAX or (separator and not tag):
            problem = f"{condition!r} is neither TAG=AFTER nor AFTER, where AFTER is a seqnum"
            raise click.BadParameter(problem, param_hint="--unless")
        subject = tag if separator else None
        if subject in found:
            of = "the whole LogBook" if subject is None else repr(subject)
            raise click.BadParameter(f"{of} is said twice", param_hint="--unless")
        found[subject] = int(after)
    return found or None
