"""`bokilog backup` and `bokilog restore`: a copy of a log, and a new log of a copy.

Decides how both look to people and to programs. The JSON form is part of the contract: `backup`
prints `destination`, `size_bytes`, `took_s`, `log_spaces` with `id`, `durability`, `position`,
`tail`, `frames`, `records` and `lost_frames`; `restore` prints `directory`, `shape`, `history_id`,
`made_at_ms` and the same `log_spaces`.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from shlex import quote
from threading import Timer
from typing import Final

import click

from bokilog.cli.cluster import directory_option
from bokilog.cli.options import Directory
from bokilog.cli.output import print_json, time_of
from bokilog.io.places import Folder, Place, open_place
from bokilog.limits import MIB
from bokilog.shapes.backup import BYTES_S, Progress, backup as take_backup
from bokilog.shapes.backup_files import Manifest
from bokilog.shapes.restore import restore as make_log
from bokilog.verify import bytes_text

_SAY_EVERY_S: Final = 0.2
QUIET_S: Final = 5.0
"""A call to a place takes so long without a word: a part of a backup is up to 16 MiB."""
_AS_FAST_AS_IT_GOES: Final = 1 << 50


@click.command()
@click.argument("destination", metavar="DESTINATION")
@directory_option
@click.option(
    "--rate-mib",
    type=click.IntRange(min=0),
    default=BYTES_S // MIB,
    show_default=True,
    help="MiB copied per second at most, so that appends come first; 0: as fast as it goes.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, for programs.")
def backup(destination: str, directory: Path, rate_mib: int, as_json: bool) -> None:
    """Copy a log, while it runs, to a folder or an object store.

    DESTINATION is a folder that is empty or not there yet, or s3://BUCKET/PREFIX (credentials and
    AWS_ENDPOINT_URL from the environment). The copy is of one position of each log space, not
    before what was acknowledged when the command began. --dir may also name an embedded log that
    no process has open. Records of class memory are not copied.
    """
    line = _Line(shown=sys.stderr.isatty() and not as_json)

    def tell(at: Progress) -> None:
        line.show(
            f"log space {at.space}: seqnum {at.seqnum:,} of {at.until_seqnum:,},"
            f" {bytes_text(at.copied_bytes)} copied"
        )

    began_s = time.monotonic()
    directory = directory.expanduser().absolute()
    bytes_s = rate_mib * MIB or _AS_FAST_AS_IT_GOES
    try:
        place = _open(destination, line)
        manifest = asyncio.run(take_backup(directory, place, bytes_s=bytes_s, tell=tell))
    finally:
        line.clear()
    took_s = round(time.monotonic() - began_s, 3)
    if as_json:
        print_json(
            {
                "destination": place.where,
                "size_bytes": manifest.size_bytes,
                "took_s": took_s,
                "log_spaces": _spaces(manifest),
            }
        )
        return
    _show(manifest)
    click.echo(f"{place.where}: {bytes_text(manifest.size_bytes)} in {took_s:.1f} s")


@click.command()
@click.argument("source", metavar="SOURCE")
@click.option(
    "--dir",
    "directory",
    type=Directory(),
    required=True,
    help="Where the new log is to be: empty, or not there yet.",
)
@click.option(
    "--shape",
    type=click.Choice(["cluster", "embedded"]),
    help="What to make of it (default: as the log that was backed up).",
)
@click.option("--storage-nodes", type=int, help="Of the new cluster (default: as it was).")
@click.option("--sequencers", type=int, help="Of the new cluster (default: as it was).")
@click.option("--function-nodes", type=int, help="Of the new cluster (default: 2).")
@click.option("--port", type=int, help="Of its first function node (default: 7300).")
@click.option(
    "--views",
    "views_url",
    metavar="URL",
    help="Keep its views in an etcd: etcd://HOST:PORT[,HOST:PORT...][/PREFIX].",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, for programs.")
def restore(
    source: str,
    directory: Path,
    shape: str | None,
    storage_nodes: int | None,
    sequencers: int | None,
    function_nodes: int | None,
    port: int | None,
    views_url: str | None,
    as_json: bool,
) -> None:
    """Make a new log of a backup.

    SOURCE is what `bokilog backup` was given. The new log has a history of its own: session tokens
    of the old one are refused as HistoryChanged. It is not started: `bokilog up --dir DIR` does. A
    backup that is not complete, or was altered, is refused.
    """
    line = _Line(shown=sys.stderr.isatty() and not as_json)
    read_bytes = 0

    def tell(byte_count: int) -> None:
        nonlocal read_bytes
        read_bytes += byte_count
        line.show(f"{bytes_text(read_bytes)} read")

    try:
        made = make_log(
            _open(source, line),
            directory,
            shape=shape,
            storage_nodes=storage_nodes,
            sequencers=sequencers,
            function_nodes=function_nodes,
            port=port,
            views_url=views_url,
            tell=tell,
        )
    finally:
        line.clear()
    if as_json:
        print_json(
            {
                "directory": str(directory.expanduser().absolute()),
                "shape": made.shape,
                "history_id": made.history_id,
                "made_at_ms": made.manifest.created_at_ms,
                "log_spaces": _spaces(made.manifest),
            }
        )
        return
    _show(made.manifest)
    click.echo(
        f"{directory}: {made.shape} of a backup of {time_of(made.manifest.created_at_ms)},"
        f" with the new history {made.history_id}"
    )
    if made.shape == "cluster":
        click.echo(f"start it with: bokilog up --dir {quote(str(directory))}")


def _spaces(manifest: Manifest) -> list[dict[str, object]]:
    return [
        {
            "id": space.id,
            "durability": space.durability,
            "position": [space.term, space.count],
            "tail": space.tail,
            "frames": space.frames,
            "records": space.records,
            "lost_frames": space.lost_frames,
        }
        for space in manifest.spaces
    ]


def _show(manifest: Manifest) -> None:
    for space in manifest.spaces:
        told = f"{space.records:,} records in {space.frames:,} frames"
        if space.durability == "memory":
            told = "not copied: that class is kept in RAM only"
        if space.lost_frames:
            told += f"; {space.lost_frames:,} frames are on no replica any more"
        click.echo(f"log space {space.id} ({space.durability}), entry {space.count:,}: {told}")


def _open(where: str, line: _Line) -> Place:
    place = open_place(where)
    return place if isinstance(place, Folder) else AudiblePlace(place, line.say)


class AudiblePlace:
    """A place whose calls say so when they keep somebody waiting: a store that hangs is called
    unreachable a minute later only."""

    def __init__(
        self, place: Place, say: Callable[[str], None], *, quiet_s: float = QUIET_S
    ) -> None:
        self._place = place
        self._say = say
        self._quiet_s = quiet_s

    @property
    def where(self) -> str:
        return self._place.where

    def names(self) -> Iterable[str]:
        names = iter(self._place.names())
        while True:
            with self._heard():
                name = next(names, None)
            if name is None:
                return
            yield name

    def put(self, name: str, data: bytes) -> None:
        with self._heard():
            self._place.put(name, data)

    def get(self, name: str) -> bytes | None:
        with self._heard():
            return self._place.get(name)

    def get_range(self, name: str, start: int, until: int) -> bytes | None:
        with self._heard():
            return self._place.get_range(name, start, until)

    def delete(self, name: str) -> None:
        with self._heard():
            self._place.delete(name)

    @contextmanager
    def _heard(self) -> Iterator[None]:
        line = f"{self.where} has not answered for {self._quiet_s:g} s: still waiting"
        timer = Timer(self._quiet_s, self._say, (line,))
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()


class _Line:
    """A line that is written over, and goes away at the end."""

    def __init__(self, *, shown: bool) -> None:
        self._shown = shown
        self._said_s = 0.0
        self._there = False

    def show(self, text: str) -> None:
        now_s = time.monotonic()
        if self._shown and now_s - self._said_s >= _SAY_EVERY_S:
            self._said_s, self._there = now_s, True
            click.echo(f"\r\x1b[K{text}", nl=False, err=True)

    def say(self, text: str) -> None:
        """A line that stays."""
        self.clear()
        click.echo(text, err=True)

    def clear(self) -> None:
        if self._there:
            self._there = False
            click.echo("\r\x1b[K", nl=False, err=True)
