"""What a run yields, until it is in the log or the call is somebody else's."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import cast

import pytest

from bokilog.errors import AppendUnknown, BokilogError, ConditionFailed, Overloaded
from bokilog.functions.calls import yielded
from bokilog.functions.calls.records import ItemYielded, decode
from bokilog.functions.calls.yielded import ItemRecords, Yielded
from bokilog.functions.runtime.messages import Encoding, Item
from bokilog.functions.runtime.runner import RunningCall
from bokilog.logbook import LogBook
from bokilog.record import Entry

pytestmark = pytest.mark.asyncio


def item(place: int, size_bytes: int = 1) -> Item:
    return Item(1, place, Encoding.RAW, b"x" * size_bytes)


@dataclass
class Book:
    """Answers appends with these errors, then takes them."""

    errors: list[BokilogError] = field(default_factory=list)
    appends: list[tuple[list[int], int]] = field(default_factory=list)
    """(places of the values, seqnum of the condition)"""

    async def append_batch(self, entries: Sequence[Entry], *, unless: dict[str, int]) -> None:
        steps = [decode(bytes(entry.data)) for entry in entries]
        places = [step.place for step in steps if isinstance(step, ItemYielded)]
        self.appends += [(places, after) for after in unless.values()]
        if self.errors:
            raise self.errors.pop(0)


@dataclass
class Run:
    """What a run was told."""

    credits: int = 0
    cancelled: str = ""

    def credit(self, count: int) -> None:
        self.credits += count

    def cancel(self, reason: str) -> None:
        self.cancelled = reason


class Rig:
    def __init__(self, *errors: BokilogError) -> None:
        self.book = Book(list(errors))
        self.run = Run()
        self.held_at: int | None = 5
        self.folded_until = 6
        self.items = Yielded()
        self.records = ItemRecords(
            cast("LogBook", self.book),
            held_at=lambda call_id, attempt: self.held_at,
            folded_until=lambda: self.folded_until,
        )

    async def record(self) -> None:
        await self.records.record("call", 0, self.items, cast("RunningCall", self.run))


async def test_what_is_there_is_one_append_up_to_some_bytes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(yielded, "ITEM_BATCH_BYTES", 10)
    rig = Rig()
    for place in range(5):
        rig.items.put(item(place, size_bytes=4))
    rig.items.close()
    await rig.record()
    assert rig.book.appends == [([0, 1, 2], 5), ([3, 4], 5)]
    assert (rig.run.credits, rig.run.cancelled) == (5, "")


async def test_an_append_whose_answer_is_lost_is_made_again() -> None:
    rig = Rig(AppendUnknown("no answer"))
    rig.items.put(item(0))
    rig.items.close()
    await rig.record()
    assert rig.book.appends == [([0], 5)] * 2
    assert rig.run.credits == 1


async def test_a_newer_step_of_the_call_is_waited_for() -> None:
    rig = Rig(ConditionFailed("call:call", 8))
    rig.items.put(item(0))
    rig.items.close()
    recording = asyncio.create_task(rig.record())
    await asyncio.sleep(0)
    rig.records.on_folded()
    await asyncio.sleep(0)
    assert rig.book.appends == [([0], 5)], "the step is not folded here"
    rig.held_at, rig.folded_until = 8, 9
    rig.records.on_folded()
    await recording
    assert rig.book.appends == [([0], 5), ([0], 8)]
    assert rig.run.credits == 1


async def test_a_run_whose_call_is_somebody_elses_is_cancelled() -> None:
    rig = Rig()
    rig.held_at = None
    rig.items.put(item(0))
    await rig.record()
    assert rig.book.appends == []
    assert (rig.run.credits, rig.run.cancelled) == (
        0,
        "its lease is over: another host may run it",
    )


async def test_a_run_whose_values_cannot_be_recorded_is_cancelled() -> None:
    rig = Rig(Overloaded(1.0))
    rig.items.put(item(0))
    with pytest.raises(Overloaded):
        await rig.record()
    assert rig.run.cancelled == "what it yields cannot be recorded"
