"""How records and positions are printed: lines for people, JSON lines for programs; and how a
person, or standard input, is asked for what a command still lacks.

Decides the form only. JSON lines are part of the contract: one object per record with `seqnum`,
`tags`, `timestamp_ms` and `data`, which is text where the bytes are UTF-8 and base64 with
`"encoding": "base64"` where they are not.
"""

from __future__ import annotations

import base64
import json
import sys
import time
from codecs import lookup
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

import click

from bokilog.record import Record

if TYPE_CHECKING:
    from rich.table import Table

FILE_WIDTH: Final = 10_000  # of a table that goes to no terminal, in characters
SHOWN_CHARACTERS: Final = 160  # of data, on a line for people; --json and `read` have all of it


def record_as_json(record: Record) -> str:
    """One JSON line."""
    plain: dict[str, object] = {
        "seqnum": record.seqnum,
        "tags": list(record.tags),
        "timestamp_ms": record.timestamp_ms,
        **data_as_json("data", record.data),
    }
    if record.aux is not None:
        plain["aux"] = base64.b64encode(record.aux).decode()
    return as_json(plain)


def record_as_line(record: Record, *, whole: bool = False) -> str:
    """One line (several with `whole`, if the data has them): seqnum, time, tags, data."""
    tags = " ".join(f"#{printable(tag)}" for tag in record.tags)
    parts = [
        click.style(f"{record.seqnum:>8}", bold=True),
        click.style(time_of(record.timestamp_ms), dim=True),
        *([click.style(tags, fg="cyan")] if tags else []),
        _text(record.data, whole=whole),
    ]
    return "  ".join(parts)


def time_of(timestamp_ms: int) -> str:
    """Local time with milliseconds."""
    seconds = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(timestamp_ms // 1000))
    return f"{seconds}.{timestamp_ms % 1000:03d}"


def print_json(plain: Mapping[str, object]) -> None:
    """One JSON object on one line."""
    click.echo(as_json(plain))


def as_json(plain: Mapping[str, object]) -> str:
    """On one line; escaped where the output is not UTF-8, whose own escapes are no JSON."""
    return json.dumps(plain, ensure_ascii=lookup(sys.stdout.encoding).name != "utf-8")


def print_table(table: Table) -> None:
    """As wide as the terminal; elsewhere as wide as what is in it, so that nothing is cut off."""
    from rich.console import Console  # here: rich takes longer to import than most commands to run

    console = Console()
    if not console.is_terminal:
        console.width = FILE_WIDTH
    console.print(table)


def confirmed(question: str) -> bool:
    """Whether a person says yes.

    Raises:
        UsageError: of click: nobody can be asked.
    """
    if sys.stdin is None:
        raise click.UsageError("nobody can be asked, as standard input is closed: say --yes")
    return click.confirm(question, err=True)


def standard_input() -> bytes:
    """All of it.

    Raises:
        UsageError: of click: there is none.
    """
    if sys.stdin is None:  # closed by whoever started us, as `<&-` does
        raise click.UsageError("- is the bytes of standard input, which is closed")
    return sys.stdin.buffer.read()


def printable(text: str) -> str:
    """On one line, and without what steers a terminal: names are anybody's, as data is."""
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode()
        for character in text
    )


def printable_lines(text: str) -> str:
    """Lines as they are, tabs included, and what else steers a terminal escaped: what code printed
    or raised may hold what somebody sent it."""
    return "\n".join(
        "\t".join(printable(part) for part in line.removesuffix("\r").split("\t"))
        for line in text.split("\n")
    )


def data_as_json(name: str, data: bytes) -> dict[str, object]:
    """Bytes as fields of a JSON object: text, or base64 where they are none."""
    try:
        return {name: data.decode()}
    except UnicodeDecodeError:
        return {name: base64.b64encode(data).decode(), "encoding": "base64"}


def _text(data: bytes, *, whole: bool) -> str:
    try:
        text = data.decode()
    except UnicodeDecodeError:
        text = repr(data)[2:-1]
    if whole:
        return printable_lines(text) if sys.stdout.isatty() else text
    shown = printable(text[:SHOWN_CHARACTERS])
    return shown if len(text) <= SHOWN_CHARACTERS else f"{shown}... ({len(data)} bytes)"
