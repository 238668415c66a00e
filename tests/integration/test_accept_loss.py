"""A majority of sequencers is lost for good, and `bokilog recover` goes on without it (P15)."""

from __future__ import annotations

import asyncio
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

import bokilog
from bokilog.cli.main import cli, main
from bokilog.cli.status import _remark, ask_status, collect
from bokilog.errors import DataLost, DirectoryInUse, HistoryChanged
from bokilog.io.file_views import FileViews
from bokilog.shapes.accept_loss import AcceptLoss
from bokilog.shapes.local_cluster import LocalCluster
from bokilog.shapes.verification import Verification
from bokilog.view import View
from tests.integration.cluster import new_cluster

pytestmark = [pytest.mark.kill, pytest.mark.slow, pytest.mark.timeout(120)]

COUNT = 200


def latest(directory: Path) -> View:
    view = FileViews(directory / "views").latest()
    assert view is not None
    return view


def recover(directory: Path, *options: str, answer: str = "") -> Result:
    return CliRunner().invoke(
        cli, ["recover", "--dir", str(directory), *options], input=answer, standalone_mode=False
    )


def made(directory: Path, *, sequencers: int) -> tuple[dict[bytes, int], str]:
    """A stopped cluster with records; what they are, and a token that has seen them."""

    async def write() -> tuple[dict[bytes, int], str]:
        async with bokilog.connect(cluster.url) as log:
            book = log.book("orders")
            datas = [b"%d" % number for number in range(COUNT)]
            seqnums = await asyncio.gather(
                *(book.append(data, "t", key=data.decode()) for data in datas)
            )
            flushed = await log.create_book("flushed", durability="flush")
            assert await log.book(flushed.book).append(b"flushed") > 0
            return dict(zip(datas, seqnums, strict=True)), log.session().token

    with new_cluster(directory, sequencers=sequencers) as cluster:
        return asyncio.run(write())


def check(directory: Path, acked: dict[bytes, int], token: str) -> None:
    """Whatever is left is as it was, nothing stands twice, and the old token is refused."""

    async def look() -> None:
        async with bokilog.connect(cluster.url) as log:
            book = log.book("orders")
            found = {record.data: record.seqnum async for record in book.scan(tag="t")}
            assert found.items() <= acked.items()
            assert len(found) >= COUNT // 2, "the survivor held nearly all of it"
            fresh = await book.append(b"fresh", "t")
            assert fresh > max(acked.values())
            for data, seqnum in list(found.items())[:5]:
                assert await book.append(data, "t", key=data.decode()) == seqnum
            with pytest.raises(HistoryChanged, match="the token is of"):
                await log.book("orders", session=log.session(token)).read_prev()

    with LocalCluster(directory) as cluster:
        asyncio.run(look())


async def held_up(cluster: LocalCluster) -> str:
    """What `bokilog status` says of a log space that does not go on."""
    async with asyncio.timeout(60):
        while True:
            for process in (await collect(cluster.layout))["processes"]:  # type: ignore[attr-defined]
                if "accept-loss" in (remark := _remark(process)):
                    return remark
            await asyncio.sleep(0.2)


def test_two_of_three_sequencers_are_lost_and_the_rest_goes_on(tmp_path: Path) -> None:
    directory = tmp_path / "d"
    acked, token = made(directory, sequencers=3)
    before = latest(directory)
    lost = before.space(before.spaces[0].id).sequencers[:2]  # the primary among them
    for node in lost:
        shutil.rmtree(directory / "data" / node)

    asked = recover(directory)
    assert asked.return_value == 1
    assert all(f"sequencer {node} is gone" in asked.output for node in lost)
    assert "nothing was changed" in asked.output
    refused = recover(directory, "--accept-loss", answer="n\n")
    assert refused.return_value == 1
    assert latest(directory) == before

    accepted = recover(directory, "--accept-loss", "--yes")
    assert accepted.exception is None, accepted.output
    after = latest(directory)
    assert after.term == before.term + 1
    assert after.history_id != before.history_id
    assert f"new history, {after.history_id}" in accepted.output
    check(directory, acked, token)
    report = Verification(directory).run()
    assert report.clean, [part.findings for part in report.parts if part.findings]
    assert "nothing that it needs is lost" in recover(directory, "--accept-loss", "--yes").output


def test_disks_that_came_back_empty_count_as_lost_and_are_moved_aside(tmp_path: Path) -> None:
    directory = tmp_path / "d"
    acked, token = made(directory, sequencers=3)
    view = latest(directory)
    wiped = view.spaces[0].sequencers[1:]
    for node in wiped:
        shutil.rmtree(directory / "data" / node)
    cluster = LocalCluster(directory)
    cluster.start()  # their processes make new directories, which have no vote
    cluster.stop()
    assert latest(directory).term == view.term
    assert "its disk is another one" in recover(directory).output
    assert recover(directory, "--accept-loss", "--yes").return_value == 0
    assert all(
        (directory / "data" / f"{node}.before-term-{view.term + 1}.1").is_dir() for node in wiped
    )
    check(directory, acked, token)


@pytest.mark.parametrize("sequencers", [1, 3])
def test_p15_without_any_sequencer_it_goes_on_where_the_furthest_index_stands(
    tmp_path: Path, sequencers: int
) -> None:
    """Storage nodes that stop in order have stored all that they folded."""
    directory = tmp_path / "d"
    acked, token = made(directory, sequencers=sequencers)
    shutil.rmtree(directory / "data" / "storage-2")
    for path in (directory / "data").glob("sequencer-*"):
        shutil.rmtree(path)
    asked = recover(directory)
    assert asked.return_value == 1
    assert "left, with a vote: no sequencer" in asked.output
    assert "no sequencer is left that knows its order" in asked.output
    accepted = recover(directory, "--accept-loss", "--yes")
    assert accepted.exception is None, accepted.output
    check(directory, acked, token)
    report = Verification(directory).run()
    assert report.clean, [part.findings for part in report.parts if part.findings]
    with LocalCluster(directory) as cluster:
        assert asyncio.run(kept_by(cluster)) == len(acked) + 1


async def kept_by(cluster: LocalCluster) -> int:
    async with bokilog.connect(cluster.url) as log:
        return len([record async for record in log.book("orders").scan(tag="t")])


def test_without_any_sequencer_and_index_there_is_nothing_to_go_on_from(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = tmp_path / "d"
    made(directory, sequencers=1)
    shutil.rmtree(directory / "data" / "sequencer-1")
    for index in (directory / "data").glob("storage-*/index-*"):
        shutil.rmtree(index)
    assert main(["recover", "--dir", str(directory), "--accept-loss", "--yes"]) == 1
    said = capsys.readouterr().err
    assert "no sequencer is left that has a say (sequencer-1: " in said
    assert "has stored an index" in said


def test_a_cluster_that_runs_is_left_alone(tmp_path: Path) -> None:
    with new_cluster(tmp_path / "d") as cluster, pytest.raises(DirectoryInUse):
        AcceptLoss(cluster.layout).__enter__()


def test_two_of_three_storage_nodes_are_lost_and_the_rest_goes_on(tmp_path: Path) -> None:
    """More disks than the write quorum allows: what the third one holds is served."""
    directory = tmp_path / "d"
    acked, token = made(directory, sequencers=1)
    for node in ("storage-1", "storage-2"):
        shutil.rmtree(directory / "data" / node)
    before = latest(directory)
    asked = recover(directory)
    assert asked.return_value == 1
    assert "records that only storage-1, storage-2 held are lost" in asked.output
    assert recover(directory, "--accept-loss", "--yes").return_value == 0
    assert latest(directory).history_id != before.history_id
    check(directory, acked, token)


def test_p24_a_log_whose_disks_are_all_empty_waits_until_that_is_accepted(tmp_path: Path) -> None:
    """Its storage nodes start, and nothing is given up; once accepted, the log goes on."""
    directory, aside = tmp_path / "d", tmp_path / "aside"
    acked, _ = made(directory, sequencers=1)
    before = latest(directory)
    for node in ("storage-1", "storage-2", "storage-3"):
        shutil.move(directory / "data" / node, aside / node)
    cluster = LocalCluster(directory)
    cluster.start()
    try:
        assert "bokilog recover --accept-loss" in asyncio.run(held_up(cluster))
    finally:
        cluster.stop()
    asked = recover(directory)
    assert asked.return_value == 1
    assert "log space 0: none of its storage nodes holds anything of it" in asked.output
    assert recover(directory, "--accept-loss", "--yes").return_value == 0
    assert latest(directory).history_id != before.history_id

    async def look() -> None:
        async with bokilog.connect(again.url) as log:
            assert await log.book("orders").append(b"fresh", "t") > max(acked.values())
            assert [each.data async for each in log.book("orders").scan(tag="t")] == [b"fresh"]

    with LocalCluster(directory) as again:
        asyncio.run(look())
    assert "nothing that it needs is lost" in recover(directory, "--accept-loss", "--yes").output


def test_p15_p16_a_sequencer_that_was_away_is_left_and_nothing_that_is_stored_is_lost(
    tmp_path: Path,
) -> None:
    """1. A backup hangs while records are appended. 2. All others go on, and store their folds.
    3. Only what the backup had is left of all sequencers: the log goes on at the furthest fold.
    4. A lost directory that is put back afterwards adds nothing, and its sequencer takes part."""
    directory, aside, late = tmp_path / "d", tmp_path / "aside", tmp_path / "late"
    acked, token = made(directory, sequencers=3)

    async def more() -> dict[bytes, int]:
        async with bokilog.connect(cluster.url) as log:
            book, datas = log.book("orders"), [b"more %d" % number for number in range(COUNT)]
            return {data: await book.append(data, "t", key=data.decode()) for data in datas}

    with LocalCluster(directory) as cluster:
        backup = latest(directory).spaces[0].backups[0]
        cluster.kill(backup, signal.SIGSTOP)
        shutil.copytree(directory / "data" / backup, aside)
        acked |= asyncio.run(more())
        cluster.kill(backup, signal.SIGCONT)
    before = latest(directory)
    for node in before.spaces[0].sequencers:
        if node != backup:
            shutil.copytree(directory / "data" / node, late / node)
        shutil.rmtree(directory / "data" / node)
    shutil.move(aside, directory / "data" / backup)

    asked = recover(directory)
    assert "it goes on at entry" in asked.output, asked.output
    assert recover(directory, "--accept-loss", "--yes").return_value == 0
    after = latest(directory)
    assert after.history_id != before.history_id
    assert after.spaces[0].begun == after.term

    async def look(start: int) -> None:
        async with bokilog.connect(cluster.url) as log:
            book = log.book("orders")
            assert await book.append(b"fresh %d" % start, "t") > max(acked.values())
            found = {record.data: record.seqnum async for record in book.scan(tag="t")}
            assert {data: found[data] for data in acked} == acked
            assert len(found) - len(acked) == start
            with pytest.raises(DataLost):
                await book.read(max(acked.values()) + 1000)
            with pytest.raises(HistoryChanged):
                await log.book("orders", session=log.session(token)).read_prev()

    with LocalCluster(directory) as cluster:
        asyncio.run(look(1))
    put_back = next(node for node in before.spaces[0].sequencers if node != backup)
    shutil.rmtree(directory / "data" / put_back)
    shutil.move(late / put_back, directory / "data" / put_back)
    with LocalCluster(directory) as cluster:
        asyncio.run(look(2))
    report = Verification(directory).run()
    assert report.clean, [part.findings for part in report.parts if part.findings]


async def holds_all(cluster: LocalCluster, node: str) -> None:
    """Until the node has folded what the others have: an append waits for two of three only."""
    tails: dict[str, list[int]] = {}
    for _ in range(600):
        for plan in cluster.layout.nodes:
            if plan.id.startswith("storage"):
                facts: Any = await ask_status(plan.addresses[0])
                spaces = facts["spaces"]
                tails[plan.id] = [spaces[number]["tail"] for number in sorted(spaces)]
        if tails[node] == [max(each) for each in zip(*tails.values(), strict=True)]:
            return
        await asyncio.sleep(0.05)
    raise AssertionError(f"{node} does not catch up: {tails}")


def test_p24_records_that_only_lost_disks_held_are_gone_and_hold_nothing_up(
    tmp_path: Path,
) -> None:
    """1. A storage node hangs while records are appended. 2. Both other disks are lost. 3. No
    replica can fold what they alone held: all three say so, and the log goes on without it."""
    directory, aside = tmp_path / "d", tmp_path / "aside"
    first, second = [b"a%d" % n for n in range(20)], [b"b%d" % n for n in range(20)]

    async def append(datas: list[bytes]) -> list[int]:
        async with bokilog.connect(cluster.url) as log:
            return [await log.book("orders").append(data, "t") for data in datas]

    async def look() -> None:
        async with bokilog.connect(cluster.url) as log:
            book = log.book("orders")
            fresh = await book.append(b"fresh", "t", unless={"t": lost[-1]})
            assert fresh > lost[-1]
            found = [record.data async for record in book.scan(tag="t")]
            assert found == [*first, b"fresh"]
            with pytest.raises(DataLost, match=str(lost[3])):
                await log.book("orders").read(lost[3])

    with new_cluster(directory) as cluster:
        asyncio.run(append(first))
        asyncio.run(holds_all(cluster, "storage-3"))
        cluster.kill("storage-3", signal.SIGSTOP)
        shutil.copytree(directory / "data" / "storage-3", aside)
        lost = asyncio.run(append(second))
        cluster.kill("storage-3", signal.SIGCONT)
    for node in ("storage-1", "storage-2", "storage-3"):
        shutil.rmtree(directory / "data" / node)
    shutil.move(aside, directory / "data" / "storage-3")
    assert recover(directory, "--accept-loss", "--yes").return_value == 0
    with LocalCluster(directory) as cluster:
        asyncio.run(look())
    report = Verification(directory).run()
    assert report.clean, [part.findings for part in report.parts if part.findings]
