"""How records and positions are printed: lines for people, JSON lines for programs.

Decides the form only. JSON lines are part of the contract: one object per record with `seqnum`,
`tags`, `timestamp_ms` and `data`, which is text where the bytes are UTF-8 and base64 with
`"encoding": "base64"` where they are not.
"""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Mapping
from typing import Final

import click

from bokilog.record import Record

SHOWN_CHARACTERS: Final = 160  # of data, on a line for people; --json and `read` have all of it


def record_as_json(record: Record) -> str:
    """One JSON line."""
    plain: dict[str, object] = {
        "seqnum": record.seqnum,
        "tags": list(record.tags),
        "timestamp_ms": record.timestamp_ms,
        **_data("data", record.data),
    }
    if record.aux is not None:
        plain["aux"] = base64.b64encode(record.aux).decode()
    return json.dumps(plain, ensure_ascii=False)


def record_as_line(record: Record, *, whole: bool = False) -> str:
    """One line (several with `whole`, if the data has them): seqnum, time, tags, data."""
    tags = " ".join(f"#{tag}" for tag in record.tags)
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
    click.echo(json.dumps(plain, ensure_ascii=False))


def _data(name: str, data: bytes) -> dict[str, object]:
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
        return text
    shown = "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode()
        for character in text[:SHOWN_CHARACTERS]
    )
    return shown if len(text) <= SHOWN_CHARACTERS else f"{shown}... ({len(data)} bytes)"
