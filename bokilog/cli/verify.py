"""`bokilog verify`: checks the files of something that is stopped, and says what is wrong.

Decides how a report looks and which exit code it has; what is wrong is decided below
(`shapes/verification.py`). The JSON form is part of the contract: `directory`, `kind`, `clean` and
`parts`, each with `name`, `checked`, `notes`, `findings` (`file`, `offset`, `problem`, `affected`)
and `more`, the number of findings that are not listed.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Final

import click

from bokilog.cli.options import Directory
from bokilog.cli.output import print_json
from bokilog.errors import DirectoryInUse, UnavailableError
from bokilog.shapes.verification import Verification
from bokilog.shapes.verify_report import Report
from bokilog.verify import Part, bytes_text

SHOWN_FINDINGS: Final = 20  # of a part, on the screen; --json has up to a thousand
_SAY_EVERY_S: Final = 0.2


@click.command()
@click.argument(
    "directory",
    metavar="DIR",
    type=Directory(exists=True),
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, for programs.")
def verify(directory: Path, as_json: bool) -> int:
    """Check the files of a stopped log, and say what is wrong.

    DIR is the directory of an embedded log, of a cluster, or of one node of it (DIR/data/NODE).
    Nothing is changed. Exit codes: 0 clean, 1 damage was found, 2 it cannot be checked (in use by
    a live process, a file that may not be read, its view store does not answer, or nothing of
    bokilog's).
    """
    progress = _Progress(shown=sys.stderr.isatty() and not as_json)

    def part_done(part: Part) -> None:
        progress.clear()
        if not as_json:
            _show(part)

    try:
        report = Verification(directory, part_done=part_done, progress=progress.read).run()
    except DirectoryInUse as error:
        raise _CannotCheck(f"{error}: stop it first, or check a copy") from None
    except (UnavailableError, OSError) as error:
        raise _CannotCheck(str(error)) from None
    finally:
        progress.clear()
    if as_json:
        print_json(_plain(report))
    else:
        count = sum(len(part.findings) + part.more_count for part in report.parts)
        click.echo("clean" if report.clean else f"damage: {count} findings")
    return 0 if report.clean else 1


class _CannotCheck(click.ClickException):
    """Not a finding: nothing was checked."""

    exit_code = 2


def _show(part: Part) -> None:
    state = click.style("ok", fg="green")
    if part.findings:
        state = click.style("DAMAGED", fg="red", bold=True)
    click.echo(f"{part.name:<24} {state:<7}  {part.checked}")
    for note in part.notes:
        click.echo(f"    note: {note}")
    for found in part.findings[:SHOWN_FINDINGS]:
        place = "" if found.offset is None else f" at offset {found.offset}"
        click.echo(f"    {found.file}{place}: {found.problem}; affected: {found.affected}")
    hidden = len(part.findings) - SHOWN_FINDINGS + part.more_count
    if hidden > 0:
        click.echo(f"    and {hidden} more")


def _plain(report: Report) -> dict[str, object]:
    return {
        "directory": str(report.directory),
        "kind": report.kind,
        "clean": report.clean,
        "parts": [
            {
                "name": part.name,
                "checked": part.checked,
                "notes": list(part.notes),
                "findings": [found._asdict() for found in part.findings],
                "more": part.more_count,
            }
            for part in report.parts
        ],
    }


class _Progress:
    """How much was read, on a line of its own that goes away."""

    def __init__(self, *, shown: bool) -> None:
        self._shown = shown
        self._bytes = 0
        self._said_s = time.monotonic()
        self._there = False

    def read(self, byte_count: int) -> None:
        self._bytes += byte_count
        now_s = time.monotonic()
        if self._shown and now_s - self._said_s >= _SAY_EVERY_S:
            self._said_s, self._there = now_s, True
            click.echo(f"\r{bytes_text(self._bytes)} read", nl=False, err=True)

    def clear(self) -> None:
        if self._there:
            self._there = False
            click.echo("\r\x1b[K", nl=False, err=True)
