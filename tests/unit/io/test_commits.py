"""When the node is told that a disk is full or has room again (P32), and where a sync runs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable

import pytest

from bokilog.errors import ReadOnly
from bokilog.io import commits
from bokilog.io.commits import DEEP_BYTES_MAX, SHALLOW_BYTES_MAX, SHALLOW_ITEMS_MAX, Committer
from bokilog.io.journal_memory import MemoryJournal
from bokilog.journal import SyncResult

FULL = "no space left"


class Told:
    """What a committer says, in order."""

    def __init__(
        self,
        journal: MemoryJournal,
        *,
        inline_deep: bool = False,
        now: Callable[[], float] = lambda: 0.0,
    ) -> None:
        self.lines: list[str] = []
        self.now = now
        self.journal = journal
        self.inline_deep = inline_deep
        self.committer = self.new()

    def new(self) -> Committer:
        return Committer(
            self.journal,
            persisted=self._persisted,
            failed=lambda tokens, reason: self.lines.append(f"failed {tokens}: {reason}"),
            read_only=lambda reason: self.lines.append(reason or "room"),
            inline=True,
            inline_deep=self.inline_deep,
            now=self.now,
            use_headroom=True,
            watch_room=True,
        )

    def _persisted(self, tokens: list[Hashable]) -> None:
        self.lines += [f"persisted {token}" for token in tokens]

    def frame(self) -> None:
        try:
            self.journal.append(1, [b"frame"], keep_headroom=True)
        except ReadOnly:
            self.lines.append("refused")
        else:
            self.commit("frame")

    def commit(self, token: str) -> None:
        self.committer.request(token)

    def entry(self) -> None:
        self.journal.append(2, [b"entry"])
        self.commit("entry")


@pytest.fixture(autouse=True)
def retry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commits, "RETRY_S", 0.0)


async def turns(committer: Committer) -> None:
    for _ in range(4):
        await asyncio.sleep(0)
        committer.flush()


@pytest.mark.asyncio
async def test_a_refused_frame_is_told_behind_what_was_staged_before_it() -> None:
    told = Told(MemoryJournal())
    told.frame()
    told.journal.full = FULL
    told.frame()
    told.entry()
    told.committer.flush()
    assert told.lines == ["refused", "persisted frame", "persisted entry", FULL]
    await turns(told.committer)
    assert told.lines[4:] == []
    told.journal.full = None
    await turns(told.committer)
    assert told.lines[4:] == ["room"]
    told.committer.close()


@pytest.mark.asyncio
async def test_entries_go_on_meanwhile_and_do_not_say_that_there_is_room() -> None:
    told = Told(MemoryJournal())
    told.journal.full = FULL
    told.frame()
    told.committer.flush()
    told.entry()
    told.committer.flush()
    assert told.lines == ["refused", FULL, "persisted entry"]
    told.committer.close()


@pytest.mark.asyncio
async def test_room_is_noticed_without_any_batch() -> None:
    told = Told(MemoryJournal())
    told.journal.full = FULL
    told.frame()
    told.committer.flush()
    told.journal.full = None
    for _ in range(4):
        await asyncio.sleep(0)
    assert told.lines == ["refused", FULL, "room"]
    told.committer.close()


@pytest.mark.asyncio
async def test_a_disk_that_has_room_by_then_is_told_both_ways() -> None:
    """The replica that was refused takes nothing until it is told."""
    told = Told(MemoryJournal())
    told.journal.full = FULL
    told.frame()
    told.journal.full = None
    told.committer.flush()
    await turns(told.committer)
    assert told.lines == ["refused", FULL, "room"]
    told.committer.close()


@pytest.mark.asyncio
async def test_after_a_slow_sync_the_next_ones_leave_the_loop_to_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now_s, journal = [100.0], MemoryJournal()
    here, elsewhere = journal.sync_now, journal.sync_in_thread
    lines: list[str] = []

    def slow() -> SyncResult:
        lines.append("here")
        now_s[0] += 1.0
        return here()

    def in_thread(on_done: Callable[[SyncResult], None]) -> None:
        lines.append("elsewhere")
        monkeypatch.setattr(journal, "sync_now", here)
        elsewhere(on_done)

    monkeypatch.setattr(journal, "sync_now", slow)
    monkeypatch.setattr(journal, "sync_in_thread", in_thread)
    told = Told(journal, now=lambda: now_s[0])
    for _ in range(2):
        told.frame()
        told.committer.flush()
        await told.committer.drained()
    assert lines == ["here", "elsewhere"]
    assert told.lines == ["persisted frame", "persisted frame"]
    told.committer.close()


@pytest.mark.asyncio
@pytest.mark.parametrize("inline_deep", [False, True])
@pytest.mark.parametrize(
    ("item_bytes", "deep", "deepest"),
    [
        ([1] * SHALLOW_ITEMS_MAX, False, False),
        ([1] * (SHALLOW_ITEMS_MAX + 1), True, False),
        ([SHALLOW_BYTES_MAX + 1], True, False),
        ([DEEP_BYTES_MAX + 1], True, True),
    ],
)
async def test_deep_groups_hold_only_loops_of_nodes(
    item_bytes: list[int],
    deep: bool,
    deepest: bool,
    inline_deep: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told, elsewhere = Told(MemoryJournal(), inline_deep=inline_deep), list[str]()
    in_thread = told.journal.sync_in_thread

    def sync_in_thread(on_done: Callable[[SyncResult], None]) -> None:
        elsewhere.append("sync")
        in_thread(on_done)

    monkeypatch.setattr(told.journal, "sync_in_thread", sync_in_thread)
    for length in item_bytes:
        told.journal.append(1, [bytes(length)])
    told.commit("frame")
    told.committer.flush()
    await told.committer.drained()
    assert told.lines == ["persisted frame"]
    assert bool(elsewhere) == (deepest or (deep and not inline_deep))
    told.committer.close()
