"""Sealed segments of storage nodes move to an object store, and are read from there by range.

One suite for a folder and for an S3-compatible store (moto's server): real processes, little local
space, and everything that was acknowledged read back after it moved, after kills in between, and
as errors that may be tried again while the store is away.
"""

from __future__ import annotations

import asyncio
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import bokilog
from bokilog.cold import LIST_FILE, ColdState, decode_list
from bokilog.errors import NotReady, Trimmed
from bokilog.io.free_ports import free_ports
from bokilog.io.places import Folder, open_place
from bokilog.logbook import LogBook
from bokilog.shapes.backup import backup
from bokilog.shapes.local_cluster import LocalCluster
from bokilog.shapes.restore import restore
from bokilog.shapes.verification import Verification
from tests.integration.cluster import FUNCTION_NODES
from tests.objects import object_store, store_process

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

RECORDS = 1_600
DATA = b"." * 4_000
NODES = ("storage-1", "storage-2", "storage-3")
SETTINGS = """\
[storage]
segment_bytes = "1 MiB"
checkpoint_s = 0.3
cache_bytes = 0
cold_url = "{url}"
hot_bytes = "2 MiB"
cold_cache_bytes = "256 KiB"
[engine]
cache_bytes = 0
[sequencer]
segment_bytes = "1 MiB"
"""


@pytest.fixture(params=["folder", "s3"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "folder":
        yield f"file://{tmp_path}/cold"
        return
    with object_store() as store:
        yield f"{store}/cold"


@contextmanager
def cold_cluster(directory: Path, url: str) -> Iterator[LocalCluster]:
    cluster = LocalCluster(directory, function_nodes=FUNCTION_NODES, port=free_ports(2))
    file = cluster.layout.settings_file
    if "cold_url" not in file.read_text():
        file.write_text(SETTINGS.format(url=url) + file.read_text())
    with cluster:
        yield cluster


def journal(cluster: LocalCluster, node: str) -> Path:
    return cluster.layout.data_dir / node / "journal-0"


def cold_segments(cluster: LocalCluster, node: str) -> list[int]:
    file = journal(cluster, node) / LIST_FILE
    if not file.exists():
        return []
    _, found = decode_list(file.read_bytes(), str(file))
    return [each.segment for each in found if each.state is ColdState.COLD]


def local_segments(cluster: LocalCluster, node: str) -> list[int]:
    return sorted(int(file.stem) for file in journal(cluster, node).glob("*.seg"))


def until(is_so: Callable[[], bool], what: str, timeout_s: float = 40.0) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not is_so():
        assert time.monotonic() < deadline_s, what
        time.sleep(0.05)


def moved(cluster: LocalCluster, *, least: int = 4) -> Callable[[], bool]:
    """Every node has sent segments away, and has let their files go."""

    def is_so() -> bool:
        return all(
            len(cold_segments(cluster, node)) >= least
            and not set(cold_segments(cluster, node)) & set(local_segments(cluster, node))
            for node in NODES
        )

    return is_so


async def write(book: LogBook, count: int = RECORDS) -> dict[int, bytes]:
    written: dict[int, bytes] = {}
    for start in range(0, count, 100):
        data = [b"%d" % number + DATA for number in range(start, start + 100)]
        seqnums = await asyncio.gather(
            *(book.append(each, tags=[f"t{n % 5}"]) for n, each in enumerate(data))
        )
        written.update(zip(seqnums, data, strict=True))
    return written


async def read_all(book: LogBook) -> dict[int, bytes]:
    return {record.seqnum: record.data async for record in book.scan()}


def test_what_moved_is_read_back_and_a_trim_deletes_it(tmp_path: Path, url: str) -> None:
    async def fill(cluster: LocalCluster) -> dict[int, bytes]:
        async with bokilog.connect(cluster.url) as log:
            return await write(log.book("orders"))

    async def check(cluster: LocalCluster, written: dict[int, bytes]) -> None:
        async with bokilog.connect(cluster.url) as log:
            orders = log.book("orders")
            assert await read_all(orders) == written
            first = min(written)
            record = await orders.read(first)
            assert record is not None
            assert record.data == written[first]
            assert [r.seqnum async for r in orders.scan(tag="t3", reverse=True)] == [
                seqnum
                for seqnum in sorted(written, reverse=True)
                if int(written[seqnum].partition(b".")[0]) % 5 == 3
            ]
            assert await orders.append(b"more") > max(written)
            await orders.trim(until=max(written))
            with pytest.raises(Trimmed):
                await orders.read(first)

    with cold_cluster(tmp_path / "c", url) as cluster:
        written = asyncio.run(fill(cluster))
        until(moved(cluster), "segments move to the store")
    report = Verification(tmp_path / "c").run()
    assert report.clean, report.parts
    assert any("lie in" in note for part in report.parts for note in part.notes)
    with damaged_list(tmp_path / "c"):
        report = Verification(tmp_path / "c").run()
        assert not report.clean
    with cold_cluster(tmp_path / "c", url) as cluster:
        asyncio.run(check(cluster, written))
        until(
            lambda: not any(cold_segments(cluster, node) for node in NODES),
            "objects whose records are gone are forgotten",
        )
        until(lambda: not objects(url), "and deleted")


@contextmanager
def damaged_list(directory: Path) -> Iterator[None]:
    file = directory / "data" / "storage-1" / "journal-0" / LIST_FILE
    data = file.read_bytes()
    file.write_bytes(data[: len(data) // 2])
    yield
    file.write_bytes(data)


async def fill(cluster: LocalCluster) -> dict[int, bytes]:
    async with bokilog.connect(cluster.url) as log:
        return await write(log.book("orders"))


async def compare(cluster: LocalCluster, written: dict[int, bytes]) -> None:
    async with bokilog.connect(cluster.url) as log:
        assert await read_all(log.book("orders")) == written


def test_a_store_that_stands_still_or_is_gone_is_a_clear_error_in_time(tmp_path: Path) -> None:
    """What is here is read and appended all the while."""

    async def use(cluster: LocalCluster, written: dict[int, bytes]) -> None:
        first, last = min(written), max(written)
        async with bokilog.connect(cluster.url) as log:
            orders = log.book("orders")
            for timeout_s in (15.0, 6.0):  # three nodes wait for 3 s each; then they know at once
                began_s = time.monotonic()
                with pytest.raises(NotReady, match=r"cold store s3://"):
                    await orders.read(first, timeout_s=timeout_s)
                assert time.monotonic() - began_s < timeout_s + 3.0
                record = await orders.read(last)
                assert record is not None
                assert record.data == written[last]
                written[await orders.append(b"new")] = b"new"
                server.kill()  # as it stands: let go, it could answer what was asked meanwhile
                server.wait()

    with store_process() as (url, server), cold_cluster(tmp_path / "c", url) as cluster:
        written = asyncio.run(fill(cluster))
        until(moved(cluster), "segments move to the store")
        server.send_signal(signal.SIGSTOP)
        asyncio.run(use(cluster, written))


def test_a_folder_that_is_not_mounted_is_no_empty_store(tmp_path: Path) -> None:
    async def use(cluster: LocalCluster, written: dict[int, bytes]) -> None:
        first = min(written)
        async with bokilog.connect(cluster.url) as log:
            orders = log.book("orders")
            with pytest.raises(NotReady, match="is not mounted"):
                await orders.read(first, timeout_s=1.0)
            (tmp_path / "away").rename(tmp_path / "cold")
            record = await orders.read(first, timeout_s=10.0)
            assert record is not None
            assert record.data == written[first]

    with cold_cluster(tmp_path / "c", f"file://{tmp_path}/cold") as cluster:
        written = asyncio.run(fill(cluster))
        until(moved(cluster), "segments move to the store")
        (tmp_path / "cold").rename(tmp_path / "away")
        asyncio.run(use(cluster, written))
        asyncio.run(compare(cluster, written))


def test_nodes_killed_while_segments_move_lose_and_double_nothing(tmp_path: Path) -> None:
    """One is killed as soon as an object of it is there, wherever the move is by then."""
    url = f"file://{tmp_path}/cold"

    def an_object_of(node: str, known: set[Path]) -> Callable[[], bool]:
        return lambda: bool(set((tmp_path / "cold").glob(f"*/{node}/*/*/*.seg")) - known)

    with cold_cluster(tmp_path / "c", url) as cluster:
        written: dict[int, bytes] = {}
        for turn, node in enumerate((*NODES, *NODES)):
            known = set((tmp_path / "cold").glob(f"*/{node}/*/*/*.seg"))
            restarts = cluster.restarts(node)

            async def more() -> dict[int, bytes]:
                async with bokilog.connect(cluster.url) as log:
                    return await write(log.book("orders"), 600)

            written.update(asyncio.run(more()))
            until(an_object_of(node, known), f"a segment of {node} moves in turn {turn}")
            cluster.kill(node)
            cluster.wait_ready(node, restarts=restarts + 1)
        until(moved(cluster), "the moves go on after the kills")
        asyncio.run(compare(cluster, written))
    report = Verification(tmp_path / "c").run()
    assert report.clean, report.parts
    with cold_cluster(tmp_path / "c", url) as cluster:
        asyncio.run(compare(cluster, written))
        until(moved(cluster), "nothing lies twice")
        listed = sum(len(cold_segments(cluster, node)) for node in NODES)
        assert len(objects(url)) == listed, "no object is forgotten"


def test_a_wiped_node_gets_frames_that_lie_cold_at_its_peers(tmp_path: Path) -> None:
    url = f"file://{tmp_path}/cold"
    with cold_cluster(tmp_path / "c", url) as cluster:
        written = asyncio.run(fill(cluster))
        until(moved(cluster), "segments move to the store")
    shutil.rmtree(tmp_path / "c" / "data" / "storage-3")
    with cold_cluster(tmp_path / "c", url) as cluster:
        # How many segments its copies fill depends on who sends them, and when.
        copied = moved(cluster, least=1)
        until(copied, "the wiped node has its copy, and sends it away too", timeout_s=100.0)
        disks = {path.name for path in (tmp_path / "cold").glob("*/storage-3/*")}
        assert len(disks) == 2, "another disk has another prefix"
        asyncio.run(compare(cluster, written))
    report = Verification(tmp_path / "c").run()
    assert report.clean, report.parts


def test_a_backup_has_what_lies_cold(tmp_path: Path) -> None:
    url = f"file://{tmp_path}/cold"
    with cold_cluster(tmp_path / "c", url) as cluster:
        written = asyncio.run(fill(cluster))
        until(moved(cluster), "segments move to the store")
        asyncio.run(backup(cluster.layout.directory, Folder(tmp_path / "copy")))
        (tmp_path / "cold").rename(tmp_path / "away")
        with pytest.raises(NotReady, match="is not mounted"):
            asyncio.run(backup(cluster.layout.directory, Folder(tmp_path / "second")))
    restore(Folder(tmp_path / "copy"), tmp_path / "new", port=free_ports(2))
    with LocalCluster(tmp_path / "new") as cluster:
        asyncio.run(compare(cluster, written))


def objects(url: str) -> list[str]:
    return [name for name in open_place(url).names() if name.endswith(".seg")]
