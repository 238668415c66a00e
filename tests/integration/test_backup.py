"""A backup of a running cluster is a copy of one position of each log space; a restore makes a new
log of it that says, decides and keeps what the old one did there.

One cluster is written to and trimmed while the backup is taken; the restored logs are compared with
what the writers were told.
"""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

import bokilog
from bokilog import Entry
from bokilog.cli.main import main
from bokilog.errors import BackupUnusable, ConditionFailed, DataLost, HistoryChanged, NotReady
from bokilog.io.free_ports import free_ports
from bokilog.io.places import Folder
from bokilog.logbook import Log, LogBook
from bokilog.record import Record
from bokilog.shapes.backup import Progress, backup
from bokilog.shapes.backup_files import Manifest
from bokilog.shapes.local_cluster import LocalCluster
from bokilog.shapes.restore import restore
from bokilog.shapes.verification import Verification
from tests.integration.cluster import small_cluster

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

WRITTEN = ("orders", "queue", "flushed")
RECORDS = 400
PAYLOAD = b"." * 3_000


@dataclass
class Taken:
    """What was done to a cluster, and the copy of it."""

    folder: Path
    cluster: LocalCluster
    manifest: Manifest
    acknowledged: dict[str, dict[int, tuple[bytes, tuple[str, ...]]]] = field(default_factory=dict)
    before: dict[str, int] = field(default_factory=dict)
    """Per LogBook the last seqnum that was acknowledged before the backup began."""
    token: str = ""
    trimmed: int = 0
    lost: int = 0
    winner: int = 0
    aux: tuple[int, bytes] = (0, b"")

    def tail(self, book: str) -> int:
        return self.manifest.spaces[{"flushed": 1, "scratch": 2}.get(book, 0)].tail


class Writers:
    """Appends that go on until told; `queue` is trimmed right behind them."""

    def __init__(self, log: Log, taken: Taken) -> None:
        self._log = log
        self._taken = taken
        self._stop = asyncio.Event()

    async def append(self, book: str, number: int) -> None:
        data, tags = b"%s %d" % (book.encode(), number) + PAYLOAD, [f"{book}:{number % 7}", "all"]
        seqnum = await self._log.book(book).append(data, tags=tags)
        self._taken.acknowledged.setdefault(book, {})[seqnum] = data, tuple(tags)

    async def go_on(self, book: str) -> None:
        number = RECORDS
        while not self._stop.is_set():
            await asyncio.gather(*(self.append(book, number + each) for each in range(8)))
            number += 8
            if book == "queue":
                await self._log.book(book).trim(until=max(self._taken.acknowledged[book]) - 20)

    @asynccontextmanager
    async def going_on(self) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(self.go_on(book)) for book in WRITTEN]
        try:
            yield
        finally:
            self._stop.set()
            await asyncio.gather(*tasks)


@pytest.fixture(scope="module")
def taken(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Taken]:
    root = tmp_path_factory.mktemp("backup")

    async def use(cluster: LocalCluster) -> Taken:
        taken = Taken(root / "copy", cluster, None)  # type: ignore[arg-type]  # set below
        async with bokilog.connect(cluster.url) as log:
            await log.create_book("flushed", durability="flush")
            await log.create_book("scratch", durability="memory")
            taken.lost = await log.book("scratch").append(b"in RAM")
            writers = Writers(log, taken)
            for book in WRITTEN:
                await asyncio.gather(*(writers.append(book, n) for n in range(RECORDS)))
            orders = log.book("orders")
            seqnums = sorted(taken.acknowledged["orders"])
            await orders.append_batch([Entry(b"a"), Entry(b"b")], key="once")
            taken.winner = await orders.append(b"wins", tags=["lock"], unless={"lock": 0})
            with pytest.raises(ConditionFailed):
                await orders.append(b"void", tags=["lock", "all"], unless={"lock": 0})
            await orders.append(b"x", tags=["rare"])
            taken.trimmed = seqnums[100]
            await orders.hold("report", seqnums[200], ttl_s=3600)
            await orders.trim(until=taken.trimmed)
            await orders.trim(until=seqnums[-1] + 100, tag="rare")
            taken.aux = seqnums[150], b"derived"
            await orders.set_aux(*taken.aux)
            await log.book("gone").append(b"never more")
            await log.delete_book("gone")
            taken.before = {book: max(taken.acknowledged[book]) for book in WRITTEN}
            taken.token = log.session().token
            written = len(taken.acknowledged["queue"])
            async with writers.going_on():
                taken.manifest = await backup(
                    cluster.layout.directory, Folder(taken.folder), bytes_s=2 << 20
                )
            assert len(taken.acknowledged["queue"]) > written + 100, "nothing was going on"
        return taken

    with small_cluster(root / "cluster") as cluster:
        yield asyncio.run(use(cluster))


async def compare(log: Log, taken: Taken) -> None:
    """Everything that the copy must have, must decide, and must keep."""
    assert {info.book for info in await log.books()} == {*WRITTEN, "scratch"}
    for book in WRITTEN:
        await compare_records(log.book(book), book, taken)
    orders = log.book("orders")
    assert (await orders.info()).trim_until == taken.trimmed
    seqnum, aux = taken.aux
    record = await orders.read(seqnum)
    assert record is not None
    assert record.aux == aux
    tail = await orders.tail()
    assert tail >= taken.tail("orders")
    with pytest.raises(ConditionFailed) as failed:
        await orders.append(b"late", unless={"lock": 0})
    assert failed.value.winner == taken.winner
    with pytest.raises(ConditionFailed):
        await orders.append(b"late", unless={"rare": 0})  # what a tag had last survives its trim
    span = await orders.append_batch([Entry(b"a"), Entry(b"b")], key="once")
    assert span.start < tail
    done = await orders.trim(until=tail)
    assert (done.until, done.held_by) == (sorted(taken.acknowledged["orders"])[200], "report")
    with pytest.raises(DataLost):
        await log.book("scratch").read(taken.lost)
    with pytest.raises(HistoryChanged):
        log.session(token=taken.token)
    for book in (*WRITTEN, "scratch"):
        assert await log.book(book).append(b"goes on", tags=["all"]) >= taken.tail(book)


async def compare_records(book: LogBook, name: str, taken: Taken) -> None:
    found = {record.seqnum: record async for record in book.scan()}
    trim_until = (await book.info()).trim_until
    tail = taken.tail(name)
    assert taken.before[name] < tail
    told = {seqnum: each for seqnum, each in taken.acknowledged[name].items() if seqnum < tail}
    if name != "orders":
        assert set(found) == {seqnum for seqnum in told if seqnum >= trim_until}
    for seqnum, (data, tags) in told.items():
        if seqnum >= trim_until:
            assert (bytes(found[seqnum].data), found[seqnum].tags) == (data, tags)
    in_tags: dict[int, Record] = {}
    for number in range(7):
        async for record in book.scan(tag=f"{name}:{number}"):
            in_tags[record.seqnum] = record
    assert set(in_tags) == {seqnum for seqnum in told if seqnum >= trim_until}
    times = [record.timestamp_ms for record in found.values()]
    assert times == sorted(times)


def test_a_restored_cluster_has_every_record_condition_key_trim_and_hold(
    taken: Taken, tmp_path: Path
) -> None:
    made = restore(Folder(taken.folder), tmp_path / "new", port=free_ports(2))
    assert made.history_id != taken.manifest.history_id

    async def use(cluster: LocalCluster) -> None:
        async with bokilog.connect(cluster.url) as log:
            await compare(log, taken)

    async def still(cluster: LocalCluster) -> None:
        async with bokilog.connect(cluster.url) as log:
            assert await log.book("orders").read_prev(tag="all") is not None

    with LocalCluster(tmp_path / "new") as cluster:
        asyncio.run(use(cluster))
        # A storage node that loses its disk gets the restored records from the others (P33).
        cluster.kill("storage-2")
        shutil.rmtree(cluster.layout.data_dir / "storage-2")
        cluster.wait_ready("storage-2", restarts=1)
    with LocalCluster(tmp_path / "new") as cluster:
        asyncio.run(still(cluster))
    report = Verification(tmp_path / "new").run()
    assert report.clean, [part.findings for part in report.parts if part.findings]


def test_three_sequencers_and_one_storage_node_can_be_made_of_it(
    taken: Taken, tmp_path: Path
) -> None:
    restore(
        Folder(taken.folder), tmp_path / "new", port=free_ports(2), storage_nodes=1, sequencers=3
    )

    async def use(cluster: LocalCluster) -> None:
        async with bokilog.connect(cluster.url) as log:
            await compare(log, taken)

    with LocalCluster(tmp_path / "new") as cluster:
        asyncio.run(use(cluster))


def test_an_embedded_log_can_be_made_of_it_and_backed_up_again(
    taken: Taken, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    new, again = tmp_path / "new", tmp_path / "again"
    assert main(["restore", str(taken.folder), "--dir", str(new), "--shape", "embedded"]) == 0
    assert main(["backup", str(again), "--dir", str(new), "--json"]) == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    tails = [space["tail"] for space in told["log_spaces"]]
    assert tails[:2] == [space.tail for space in taken.manifest.spaces[:2]]
    restore(Folder(again), tmp_path / "twice")

    async def use(directory: Path) -> None:
        async with bokilog.open(directory) as log:
            await compare(log, taken)

    asyncio.run(use(new))
    asyncio.run(use(tmp_path / "twice"))


def test_a_backup_whose_storage_nodes_die_is_none(taken: Taken, tmp_path: Path) -> None:
    directory, folder = taken.cluster.layout.directory, Folder(tmp_path / "copy")

    async def kill_meanwhile() -> None:
        begun = asyncio.Event()

        def tell(_: Progress) -> None:
            begun.set()

        copying = asyncio.create_task(backup(directory, folder, bytes_s=300_000, tell=tell))
        await begun.wait()
        for number in (1, 2, 3):
            taken.cluster.kill(f"storage-{number}")
        await copying

    with pytest.raises(NotReady, match=r"storage-\d is gone"):
        asyncio.run(kill_meanwhile())
    with pytest.raises(BackupUnusable, match=r"nothing is there|not finished"):
        restore(folder, tmp_path / "new")
    for number in (1, 2, 3):
        taken.cluster.wait_ready(f"storage-{number}", restarts=1)
