"""A worker reads what its engine has in its cache without a message, and never what is gone."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import bokilog
from bokilog.client.admin import ClientLog
from bokilog.io.free_ports import free_ports
from bokilog.shapes.local_cluster import LocalCluster

pytestmark = [pytest.mark.asyncio, pytest.mark.slow]


def engine_url(cluster: LocalCluster) -> str:
    (engine,) = (node for node in cluster.layout.nodes if node.role == "engine")
    return "bokilog+unix://" + engine.addresses[0].removeprefix("unix:")


def hits(log: ClientLog) -> int:
    shared = log.client.core.shared
    assert shared is not None, "the engine shares its memory"
    return shared.hit_count


async def test_records_are_read_without_messages_until_they_are_gone(tmp_path: Path) -> None:
    with LocalCluster(tmp_path, storage_nodes=1, function_nodes=1, port=free_ports(2)) as cluster:
        url = engine_url(cluster)
        async with bokilog.connect(url) as writer, bokilog.connect(url) as reader:
            book = writer.book("b")
            seqnums = [await book.append(b"x%d" % each, "t") for each in range(20)]
            seen = reader.book("b", session=reader.session(writer.session().token))
            first = await seen.read(seqnums[0])
            assert first is not None
            again = await writer.book("b").read(seqnums[0])
            assert again == first
            # From here on the LogBook takes part: what is appended next needs no message.
            later = [await book.append(b"y%d" % each, "t") for each in range(20)]
            await seen.read_prev(tag="t", consistency="linearizable")
            before = hits(reader)
            for each, seqnum in enumerate(later[:-1]):
                record = await seen.read(seqnum)
                assert record is not None
                assert (record.data, record.tags) == (b"y%d" % each, ("t",))
                assert record.timestamp_ms > 0
            assert hits(reader) - before == len(later) - 1
            await book.set_aux(later[3], b"beside")
            with_aux = await seen.read(later[3], consistency="linearizable")
            assert with_aux is not None
            assert with_aux.aux == b"beside"
            await book.trim(later[5])
            assert await seen.read(later[5], consistency="linearizable") is not None
            with pytest.raises(bokilog.Trimmed):
                await seen.read(later[4])
            await writer.delete_book("b")
            assert await seen.read(later[6], consistency="linearizable") is None
            assert await seen.read(later[7]) is None
        shared_file = url.removeprefix("bokilog+unix://") + ".records"
        assert os.path.exists(shared_file)  # noqa: ASYNC240 - nothing else runs here
    assert not os.path.exists(shared_file)  # noqa: ASYNC240
