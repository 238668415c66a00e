"""When the node is told that a disk is full, and when that it has room again (P32)."""

from __future__ import annotations

import asyncio
from collections.abc import Hashable

import pytest

from bokilog.errors import ReadOnly
from bokilog.io import commits
from bokilog.io.commits import Committer
from bokilog.io.journal_memory import MemoryJournal

FULL = "no space left"


class Told:
    """What a committer says, in order."""

    def __init__(self, journal: MemoryJournal) -> None:
        self.lines: list[str] = []
        self.journal = journal
        self.committer = Committer(
            journal,
            persisted=self._persisted,
            failed=lambda tokens, reason: self.lines.append(f"failed {tokens}: {reason}"),
            read_only=lambda reason: self.lines.append(reason or "room"),
            inline=True,
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
