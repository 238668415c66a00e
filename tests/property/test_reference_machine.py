"""The machine against the reference itself, and against the reference broken on purpose.

The first shows that the machine asks nothing unfair; the others that it would notice.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from bokilog.errors import UnknownLogBook
from bokilog.record import Unit
from bokilog.reference import ReferenceBook, ReferenceLog
from tests.contract import test_conditions
from tests.contract.reference_log import AsyncReferenceLog
from tests.property.logbook_machine import OnALoop, logbook_machine

SMALL = settings(
    max_examples=15,
    stateful_step_count=30,
    deadline=None,
    database=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
SEARCH = settings(SMALL, max_examples=200, phases=[Phase.generate], print_blob=False)


def opened(reference: ReferenceLog) -> Callable[[], AsyncReferenceLog]:
    """A restart opens the same reference again, as a data directory would be."""
    return lambda: AsyncReferenceLog(reference)


def test_the_reference_keeps_up_with_itself() -> None:
    run_state_machine_as_test(
        logbook_machine(lambda: OnALoop(opened(ReferenceLog()))), settings=SMALL
    )


def test_a_session_may_lag_behind_others() -> None:
    run_state_machine_as_test(
        logbook_machine(lambda: OnALoop(lambda: AsyncReferenceLog(lagging=True)), restarts=False),
        settings=SMALL,
    )


class Faulty(ReferenceLog):
    """A reference that gets one thing wrong: which, the classes below say."""

    def existing(self, name: str) -> ReferenceBook:
        if name not in self.books:
            raise UnknownLogBook(name)
        return ReferenceLog.book(self, name)


class ForgetsConditions(Faulty):
    def append(self, name: str, unit: Unit, **how: Any) -> range:
        return super().append(name, unit, **{**how, "conditions": ()})


class AllowsOneSeqnumMore(Faulty):
    def append(self, name: str, unit: Unit, **how: Any) -> range:
        conditions = tuple((tag, after + 1) for tag, after in how["conditions"])
        return super().append(name, unit, **{**how, "conditions": conditions})


class ForgetsKeys(Faulty):
    def append(self, name: str, unit: Unit, **how: Any) -> range:
        return super().append(name, unit, **{**how, "key": None})


class ReversesUnits(Faulty):
    def append(self, name: str, unit: Unit, **how: Any) -> range:
        turned = Unit(unit.datas[::-1], unit.tags[::-1], unit.size_bytes)
        return super().append(name, turned, **how)


class ForgetsHolds(Faulty):
    def existing(self, name: str) -> ReferenceBook:
        book = super().existing(name)
        book.holds.clear()
        return book


class ForgetsWhatTagsHadOnceTrimmed(Faulty):
    def append(self, name: str, unit: Unit, **how: Any) -> range:
        book = ReferenceLog.book(self, name)
        book.last = {tag: n for tag, n in book.last.items() if n >= book.trim_until(tag)}
        return super().append(name, unit, **how)


class HidesGaps(Faulty):
    def book(self, name: str) -> ReferenceBook:
        book = super().book(name)
        vars(book)["_refuse_trimmed"] = lambda *_: None
        return book


class ReadsWhatIsTrimmed(Faulty):
    def book(self, name: str) -> ReferenceBook:
        book = super().book(name).copy()
        book.trims = {}
        return book


class ReadsWhatWasBefore(Faulty):
    """Answers from the state before the newest record, whatever the session has seen."""

    def book(self, name: str) -> ReferenceBook:
        book = super().book(name).copy()
        book.records = book.records[:-1]
        return book


class KeepsDeletedRecords(Faulty):
    def delete_book(self, name: str) -> None:
        kept = self.existing(name)
        super().delete_book(name)
        self.books[name] = kept


# Its three steps in a row are rare in a walk: a test of the contract takes them, see below.
FAULTS = [each for each in Faulty.__subclasses__() if each is not ForgetsWhatTagsHadOnceTrimmed]


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS)
def test_the_machine_notices(fault: type[Faulty]) -> None:
    machine = logbook_machine(lambda: OnALoop(opened(fault())))
    with pytest.raises(AssertionError):
        run_state_machine_as_test(machine, settings=SEARCH)


@pytest.mark.slow
def test_the_machine_notices_what_a_restart_lost() -> None:
    machine = logbook_machine(lambda: OnALoop(lambda: AsyncReferenceLog()))
    with pytest.raises(AssertionError):
        run_state_machine_as_test(machine, settings=SEARCH)


def test_the_contract_notices_what_tags_had_once_trimmed() -> None:
    log = AsyncReferenceLog(ForgetsWhatTagsHadOnceTrimmed())
    with pytest.raises(pytest.fail.Exception, match="DID NOT RAISE"):
        asyncio.run(test_conditions.test_what_a_tag_had_last_survives_every_trim(log.book("book")))
