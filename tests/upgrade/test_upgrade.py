"""Directories of the format before this one open, and hold what they held (issue 3, point 9).

The archives in `kept/` were written by the version at commit ceb7048, as `content.py` says: before
views had backups, incarnations and disks, before retention, and before folds kept closed shards.
"""

from __future__ import annotations

import asyncio
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest
import xxhash

import bokilog
from bokilog.errors import DataLost, FormatTooNew
from bokilog.io.free_ports import free_ports
from bokilog.logbook import Log
from bokilog.shapes.local_cluster import LocalCluster
from bokilog.shapes.verification import Verification
from tests.upgrade.content import ARCHIVES, WRITERS_DIRECTORY, Picture, read_back, write

KEPT = Path(__file__).parent / "kept"
EMBEDDED = [end for shape, end in ARCHIVES if shape == "embedded"]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(90)]


class Kept:
    """A kept log, unpacked."""

    def __init__(self, name: str, folder: Path) -> None:
        with tarfile.open(KEPT / f"{name}.tar.xz") as archive:
            archive.extractall(folder, filter="data")
        self.path = folder / "log"
        told: dict[str, Any] = json.loads((folder / "picture.json").read_text())
        self.tokens: list[str] = told["tokens"]
        self.picture: Picture = told["picture"]

    def move_views_here(self) -> None:
        """A cluster's views name the sockets, which cannot be where they were written."""
        for file in sorted((self.path / "views").glob("*.view")):
            text = file.read_text().replace(str(WRITERS_DIRECTORY), str(self.path))
            stored = json.loads(text)
            plain = json.dumps(stored["view"], sort_keys=True, separators=(",", ":"))
            stored["checksum"] = xxhash.xxh3_64_hexdigest(plain.encode())
            file.write_text(json.dumps(stored, indent=1))


@pytest.fixture(params=EMBEDDED)
def embedded(request: pytest.FixtureRequest, tmp_path: Path) -> Kept:
    return Kept(f"embedded-{request.param}", tmp_path)


@pytest.fixture
def cluster(tmp_path: Path) -> Kept:
    kept = Kept("cluster-killed", tmp_path)
    kept.move_views_here()
    return kept


async def check_all(log: Log, kept: Kept) -> None:
    """Everything is as it was; records of class `memory` went with their process, and say so."""
    found = json.loads(json.dumps(await read_back(log)))
    assert sorted(found) == sorted(kept.picture)
    for name, was in kept.picture.items():
        assert found[name] == was, name
    for token in kept.tokens:
        book = log.book("plain", session=log.session(token))
        assert await book.read_prev() is not None
    ram = log.book("ram")
    first = await ram.append(b"after the upgrade")
    with pytest.raises(DataLost):
        await ram.read(first - 1)
    assert [record.seqnum async for record in ram.scan(min_seqnum=first)] == [first]


async def go_on(log: Log) -> None:
    """A whole life more, by this version."""
    before = await log.book("plain").tail()
    await write(log, life=3)
    assert await log.book("plain").tail() > before


# --- embedded -------------------------------------------------------------------------------------


def test_an_embedded_log_of_the_last_format_holds_what_it_held(embedded: Kept) -> None:
    async def main() -> None:
        for _ in range(2):  # the second start reads what the first one stored
            async with bokilog.open(embedded.path) as log:
                await check_all(log, embedded)
        async with bokilog.open(embedded.path) as log:
            await go_on(log)
        async with bokilog.open(embedded.path) as log:
            records = [record.data async for record in log.book("plain").scan()]
            assert records.count(b"seen by the token") == 3

    asyncio.run(main())


def test_verify_finds_an_embedded_log_of_the_last_format_clean(embedded: Kept) -> None:
    def check() -> None:
        report = Verification(embedded.path).run()
        assert report.clean, [part.findings for part in report.parts]

    async def main() -> None:
        async with bokilog.open(embedded.path) as log:
            await go_on(log)

    check()
    asyncio.run(main())
    check()


def test_an_embedded_log_of_a_later_format_is_refused_with_a_reason(embedded: Kept) -> None:
    file = embedded.path / "identity.json"
    stored = json.loads(file.read_text())
    file.write_text(json.dumps({**stored, "format": stored["format"] + 1}))

    async def main() -> None:
        with pytest.raises(FormatTooNew) as refused:
            await bokilog.open(embedded.path)
        assert str(embedded.path) in str(refused.value)

    asyncio.run(main())


# --- a cluster ------------------------------------------------------------------------------------


def test_a_cluster_of_the_last_format_holds_what_it_held(cluster: Kept) -> None:
    report = Verification(cluster.path).run()
    assert report.clean, [part.findings for part in report.parts]

    async def main() -> None:
        async with bokilog.connect(running.url) as log:
            await check_all(log, cluster)
            await go_on(log)

    with LocalCluster(cluster.path, port=free_ports(2)) as running:
        asyncio.run(main())
    report = Verification(cluster.path).run()
    assert report.clean, [part.findings for part in report.parts if part.findings]
