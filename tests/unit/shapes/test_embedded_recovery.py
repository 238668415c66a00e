"""A start after a kill folds everything that was acknowledged, however much that is."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import bokilog
from bokilog.storage_nodes.folding import FOLD_RECORDS


@pytest.mark.slow
@pytest.mark.asyncio
async def test_p12_a_start_ends_the_last_term_behind_all_that_was_acknowledged(
    tmp_path: Path,
) -> None:
    """More records than one turn of the fold takes, none of them in a checkpoint: a fold that stops
    half-way would fix the end of the term there, and drop what was acknowledged behind it."""
    units = 2 * FOLD_RECORDS // 1000 + 5
    async with bokilog.open(tmp_path / "log") as log:
        book, last = log.book("orders"), 0
        for number in range(units):
            entries = [bokilog.Entry(b"%d" % number, "t")] * 1000
            last = (await book.append_batch(entries))[-1]
        unfinished = shutil.ignore_patterns("*.tmp")  # they may be gone before they are copied
        shutil.copytree(tmp_path / "log", tmp_path / "killed", ignore=unfinished)
    async with bokilog.open(tmp_path / "killed") as log:
        book = log.book("orders")
        newest = await book.read_prev(tag="t")
        assert newest is not None and newest.seqnum == last
        assert await book.append(b"next", "t") > last
