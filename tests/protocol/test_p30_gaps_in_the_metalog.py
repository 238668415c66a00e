"""P30: what an embedded journal has lost is reported with its place, never skipped.

1. A group in the middle of the journal is gone, and whole ones stand on both sides of it: a
   directory put together from two copies, say. No checksum is wrong.
2. The log is opened.

Were the entries behind the gap held back as if they were early, the term would end before them, and
records that were acknowledged would be gone without a word.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import bokilog
from bokilog.errors import CorruptJournal
from bokilog.ids import Term
from bokilog.io.journal_file import JournalFile
from bokilog.io.journal_memory import MemoryJournal
from bokilog.io.sync import NoSync
from bokilog.metalog import ITEM_METALOG, ForgetKeys, Run, encode_run
from bokilog.shapes.recovery import end_of, replay, verify_item
from bokilog.storage_nodes.arrivals import Identity
from bokilog.storage_nodes.fold import Fold
from bokilog.storage_nodes.index import Index
from bokilog.storage_nodes.memory_store import MemoryStore
from bokilog.storage_nodes.replica import Replica
from bokilog.view import End, View
from tests.protocol.storage_rig import NODE, SPACE, at, view


def replica_over(journal: MemoryJournal) -> Replica:
    return Replica(
        node=NODE,
        space=view().space(SPACE),
        identity=Identity("d", 0),
        journal=journal,
        fold=Fold(Index(SPACE, MemoryStore())),
        cache_bytes_max=1 << 20,
        pending_bytes_max=1 << 20,
        report_written=True,
    )


def journal_of(*runs: tuple[int, int, int]) -> MemoryJournal:
    """Runs of (term, first, until), a group each."""
    journal = MemoryJournal()
    for term, first, until in runs:
        entries = tuple(map(ForgetKeys, range(first, until)))
        journal.append(ITEM_METALOG, [encode_run(Run(SPACE, Term(term), first, entries))])
        journal.commit()
        journal.sync_now()
    return journal


def folded(journal: MemoryJournal, *views: View) -> End:
    replica = replica_over(journal)
    replay(replica, journal, views)
    return end_of(replica, ceiling=1)


def test_p30_a_gap_between_runs_refuses_the_start_and_says_where() -> None:
    journal = journal_of((1, 0, 2), (1, 3, 4), (1, 4, 6))
    with pytest.raises(CorruptJournal) as caught:
        folded(journal, view(1))
    error = caught.value
    assert error.path == f"segment 1 of log space {SPACE}"
    assert error.offset == [place.offset for _, place, _ in journal.recover()][1]
    assert "entries 3..4 of the metalog, of term 1, do not follow Position(term=1, count=2)" in (
        error.problem
    )


def test_p30_a_gap_between_terms_is_one_too() -> None:
    journal = journal_of((1, 0, 2), (2, 3, 4))
    with pytest.raises(CorruptJournal, match=r"entries 3\.\.4"):
        folded(journal, view(1), view(2, end=at(3)))


def test_p30_runs_that_follow_each_other_over_terms_are_no_gap() -> None:
    journal = journal_of((1, 0, 2), (3, 2, 4))
    views = (view(1), view(2, end=at(2)), view(3, end=at(2, 1)))
    assert folded(journal, *views).position == at(4, 3)


def test_p11_a_term_that_lost_its_end_with_the_power_is_followed_by_the_next() -> None:
    """1. Term 1 ended at 5; so says the view of term 2. 2. The machine lost power, and of this
    `flush` log space three entries are left; so says the view of term 3. 3. It goes on from there.
    """
    journal = journal_of((1, 0, 3), (3, 3, 4))
    views = (view(1), view(2, end=at(5), tail=50), view(3, end=at(3), tail=60))
    assert folded(journal, *views).position == at(4, 3)


@pytest.mark.asyncio
async def test_p30_an_embedded_log_with_a_gap_is_not_opened(tmp_path: Path) -> None:
    async with bokilog.open(tmp_path / "log") as log:
        for number in range(4):
            await log.book("orders").append(b"%d" % number)
        unfinished = shutil.ignore_patterns("*.tmp")  # they may be gone before they are copied
        shutil.copytree(tmp_path / "log", tmp_path / "killed", ignore=unfinished)
    where = tmp_path / "killed" / "journal-0"
    _leave_out_a_group(where, tmp_path / "rest")
    with pytest.raises(CorruptJournal, match=r"of log space 0.* do not follow"):
        await bokilog.open(tmp_path / "killed")


def _leave_out_a_group(where: Path, rest: Path) -> None:
    """Writes the journal anew without the last group but one."""
    journal = JournalFile(where, sync=NoSync(), verify=verify_item)
    items = [(kind, bytes(data)) for kind, _, data in journal.recover()]
    journal.close(clean=False)
    ends = [place + 1 for place, (kind, _) in enumerate(items) if kind == ITEM_METALOG]
    assert len(ends) >= 3
    copy = JournalFile(rest, sync=NoSync(), verify=verify_item)
    list(copy.recover())
    start = 0
    for number, end in enumerate(ends):
        for kind, data in items[start:end]:
            if number != len(ends) - 2:
                copy.append(kind, [data])
        copy.commit()
        copy.sync_now()
        start = end
    copy.close()
    shutil.rmtree(where)
    rest.rename(where)
