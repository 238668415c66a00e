"""What the kept logs hold: written and read back by the same code, in the old version and in this.

Run as a program, under the code that shall write, it makes the archives of `kept/`:

    git archive COMMIT | tar x -C OLD
    PYTHONPATH=OLD python tests/upgrade/content.py tests/upgrade/kept

Each log has two lives. The first is stopped in order; the second ends with kill -9 in the archives
called `killed`, so that the next start has a tail to fold, and in order in those called `stopped`.
`picture.json` beside a log is what it showed of itself at the end.
The wall clock of the writers stands in the year 2100: a log's time never goes back, so keys and
holds have not run out whenever the tests run.

Decides nothing about formats. Uses only what is public, since two versions run it.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from typing import Any, Final

import bokilog
from bokilog import ConditionFailed, Entry, KeyReused, Log

WRITERS_DIRECTORY: Final = Path("/tmp/bokilog-kept")  # stands in the views of a cluster
PORT: Final = 17_300
YEAR_2100_S: Final = 4_102_444_800
TTL_S: Final = 300 * 24 * 3600.0
LARGE: Final = b"one record of several blocks " * 6_000

Picture = dict[str, Any]  # JSON: what a log shows of itself


# --- what is written ------------------------------------------------------------------------------


async def write(log: Log, life: int) -> list[str]:
    """One life's records, keys, conditions, trims and holds; the tokens to come back with."""
    first = life == 1
    if first:
        await log.create_book("flushed", durability="flush")
        await log.create_book("ram", durability="memory")
    plain, tagged, keyed = log.book("plain"), log.book("tagged"), log.book("keyed")
    held, flushed = log.book("held"), log.book("flushed")
    await asyncio.gather(*(plain.append(f"{life}:{n}".encode()) for n in range(100)))
    for n in range(60):
        await tagged.append(f"{life}:{n}".encode(), [f"t{n % 7}", "all"] if n % 3 else "lone")
    await tagged.append_batch([Entry(f"{life}:unit {n}".encode(), f"u{n % 2}") for n in range(9)])
    at = await tagged.append(LARGE, f"large-{life}")
    await tagged.append(b"the only one", f"once-{life}", unless={f"once-{life}": 0})
    await _fails(tagged.append(b"void", f"once-{life}", unless={f"once-{life}": 0}))
    await tagged.trim(at - 4, f"t{life}")
    for n in range(20):
        await keyed.append(f"{life}:{n}".encode(), "order", key=f"{life}/{n}")
    await keyed.append_batch([Entry(b"a", "x"), Entry(b"b")], key=f"{life}/unit")
    await _fails(keyed.append(b"void", key=f"{life}/void", unless={"order": 0}))
    await keyed.trim(await keyed.append(b"below it is trimmed") - 3)
    seqnums = [await held.append(f"{life}:{n}".encode(), "h") for n in range(30)]
    await held.hold(f"reader-{life}", seqnums[10], TTL_S)
    if first:
        await held.trim(seqnums[5])
        await plain.set_aux(await plain.append(b"with aux", "aux"), b"derived")
    else:
        await held.release("reader-1")
        await held.trim(seqnums[25])
    for n in range(40):
        await flushed.append(f"{life}:{n}".encode(), f"f{n % 3}")
        await log.book("ram").append(f"{life}:{n}".encode())
    await log.book("gone").append(b"nobody sees this", "g")
    await log.delete_book("gone")
    if not first:
        await log.book("gone").append(b"of the next incarnation", "g")
    session = log.session()
    await log.book("plain", session=session).append(b"seen by the token")
    return [session.token]


async def _fails(append: Any) -> None:
    try:
        await append
    except ConditionFailed:
        return
    raise AssertionError("the condition held")


# --- what is read ---------------------------------------------------------------------------------

BOOKS: Final = ("plain", "tagged", "keyed", "held", "flushed", "gone")
TAGS: Final = {
    "plain": ("aux",),
    "tagged": (*(f"t{n}" for n in range(7)), "all", "lone", "u0", "u1", "once-1", "once-2"),
    "keyed": ("order", "x"),
    "held": ("h",),
    "flushed": ("f0", "f1", "f2"),
    "gone": ("g",),
}


async def read_back(log: Log) -> Picture:
    """Everything the log shows: records, seqnums by tag, outcomes of conditions, of keys and of
    trims. What it asks for changes no record, so it may be asked again."""
    infos = {info.book: info for info in await log.books()}
    picture: Picture = {"books": sorted(set(infos) - {"ram"})}
    for name in BOOKS:
        book, info = log.book(name), infos[name]
        # Trimming past the end shows where the hold stands; without a hold it would let all go.
        trimmed = await book.trim(info.tail) if name == "held" else None
        picture[name] = {
            "number": info.number,
            "durability": info.durability,
            "key_horizon_s": info.key_horizon_s,
            "trim_until": (await book.info()).trim_until,
            "held": None if trimmed is None else list(trimmed),
            "records": [_plain(record) async for record in book.scan()],
            "by_tag": {tag: await _seqnums(book, tag) for tag in TAGS[name]},
            "last": {tag: await _winner(book, tag) for tag in TAGS[name]},
        }
    picture["keys"] = await _keys(log)
    return picture


async def _seqnums(book: bokilog.LogBook, tag: str) -> list[int]:
    return [record.seqnum async for record in book.scan(tag=tag)]


async def _winner(book: bokilog.LogBook, tag: str) -> int:
    """The last visible seqnum of the tag as conditions see it, which trims do not change."""
    try:
        await book.append(b"never visible", unless={tag: 0})
    except ConditionFailed as failed:
        return failed.winner
    raise AssertionError(f"{tag} has no record as conditions see it")


async def _keys(log: Log) -> dict[str, list[int]]:
    """Where each key's unit stands, and that other bytes are refused."""
    keyed, found = log.book("keyed"), {}
    for life in (1, 2):
        for n in range(20):
            key = f"{life}/{n}"
            at = await keyed.append(f"{life}:{n}".encode(), "order", key=key, unless={"order": 0})
            try:
                await keyed.append(b"other bytes", "order", key=key)
                raise AssertionError(f"key {key} is free")
            except KeyReused as reused:
                found[key] = [at, reused.seqnum]
        span = await keyed.append_batch([Entry(b"a", "x"), Entry(b"b")], key=f"{life}/unit")
        found[f"{life}/unit"] = [span.start, span.stop]
    return found


def _plain(record: bokilog.Record) -> list[Any]:
    data = (
        hashlib.sha256(record.data).hexdigest() if len(record.data) > 99 else record.data.decode()
    )
    aux = None if record.aux is None else base64.b64encode(record.aux).decode()
    return [record.seqnum, record.timestamp_ms, list(record.tags), data, aux]


# --- making the archives --------------------------------------------------------------------------

ARCHIVES: Final = (("embedded", "stopped"), ("embedded", "killed"), ("cluster", "killed"))
_SETTINGS: Final = """\
[storage]
segment_bytes = "1 MiB"
checkpoint_s = 0.3
[sequencer]
segment_bytes = "1 MiB"
"""
_CLOCK: Final = f"""\
import time
_real = time.time_ns
_offset = {YEAR_2100_S} * 10**9 - _real()
time.time_ns = lambda: _real() + _offset
"""


def make(kept: Path) -> None:
    """All archives, each with what its log showed; run with the old version on the path."""
    clock = WRITERS_DIRECTORY.with_name("bokilog-kept-clock")
    clock.mkdir(exist_ok=True)
    (clock / "sitecustomize.py").write_text(_CLOCK)
    os.environ["PYTHONPATH"] = f"{clock}:{os.environ['PYTHONPATH']}"
    kept.mkdir(exist_ok=True)
    picture = clock / "picture.json"
    for shape, end in ARCHIVES:
        shutil.rmtree(WRITERS_DIRECTORY, ignore_errors=True)
        picture.write_text(json.dumps(_lives(shape, end)))
        with tarfile.open(kept / f"{shape}-{end}.tar.xz", "w:xz", preset=9) as archive:
            archive.add(WRITERS_DIRECTORY, arcname="log", filter=_kept)
            archive.add(picture, arcname="picture.json", filter=_kept)
    shutil.rmtree(WRITERS_DIRECTORY)
    shutil.rmtree(clock)


def _kept(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
    """No sockets, no logs (those of RocksDB included), nobody's name."""
    parts = Path(entry.name).parts
    if parts[1:2] in (("logs",), ("run",)) or parts[-1].startswith("LOG"):
        return None
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = ""
    return entry


def _lives(shape: str, end: str) -> Picture:
    """Each life in a process of its own, which is asked for what it saw."""
    tokens: list[str] = []
    picture: Picture = {}
    for life in (1, 2):
        command = [sys.executable, "-P", __file__, "--life", shape, str(life)]
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdin is not None and process.stdout is not None
            told = json.loads(process.stdout.readline())
            tokens += told["tokens"]
            picture = told["picture"]
            if life == 2 and end == "killed":
                for pid in told["pids"]:
                    os.kill(pid, signal.SIGKILL)
            else:
                process.stdin.close()
    return {"tokens": tokens, "version": bokilog.__version__, "picture": picture}


def _live(shape: str, life: int) -> None:
    """One life, in its own process: writes, tells, waits for its end."""
    if shape == "embedded":
        asyncio.run(_tell(str(WRITERS_DIRECTORY), life, [os.getpid()]))
        return
    from bokilog.shapes.local_cluster import LocalCluster

    cluster = LocalCluster(WRITERS_DIRECTORY, port=PORT)
    file = cluster.layout.settings_file
    if _SETTINGS not in file.read_text():
        file.write_text(_SETTINGS + file.read_text())
    with cluster:
        pids = [os.getpid(), *(cluster.pid(node.id) or 0 for node in cluster.layout.nodes)]
        asyncio.run(_tell(cluster.url, life, pids))


async def _tell(url: str, life: int, pids: list[int]) -> None:
    opened = bokilog.connect(url) if "://" in url else bokilog.open(url)
    async with opened as log:
        told: Picture = {"tokens": await write(log, life), "pids": pids, "picture": {}}
        if life == 2:
            told["picture"] = await read_back(log)
        print(json.dumps(told), flush=True)
        await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    if sys.argv[1] == "--life":
        _live(sys.argv[2], int(sys.argv[3]))
    else:
        started_s = time.monotonic()
        make(Path(sys.argv[1]))
        print(f"{time.monotonic() - started_s:.1f} s")
