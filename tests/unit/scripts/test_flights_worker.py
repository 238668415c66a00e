"""Workers on one job: together, after a dead one, with outputs that are gone, with errors."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from bokilog import NodeUnreachable
from scripts.flights import exchange
from scripts.flights.control import EXCHANGE_BOOK, JobControl, create_books
from scripts.flights.exchange import Exchange
from scripts.flights.job import Claim, JobState, Phase
from scripts.flights.plan import TaskId, flights_plan
from scripts.flights.records import Committed
from scripts.flights.tables import answer_of
from scripts.flights.worker import Worker
from tests.contract.reference_log import AsyncReferenceLog
from tests.unit.scripts.flights_sample import Sample, make_sample

JOB = "j"
PLAN = flights_plan(partitions=2, claim_ttl_ms=40)


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Sample:
    return make_sample(tmp_path_factory.mktemp("sample"))


@asynccontextmanager
async def submitted(log: AsyncReferenceLog) -> AsyncIterator[JobControl]:
    """The job, followed by the test itself."""
    await create_books(log)
    control = JobControl(log, JOB)
    async with asyncio.TaskGroup() as group:
        following = group.create_task(control.follow())
        assert await control.submit(PLAN)
        yield control
        following.cancel()


async def work(log: AsyncReferenceLog, data: Path, *, workers: int = 2) -> None:
    async with asyncio.TaskGroup() as group:
        for number in range(workers):
            group.create_task(Worker(log, JOB, data=data, name=f"w{number}").run())


async def folded(log: AsyncReferenceLog) -> JobState:
    """The job as one sees it who comes later."""
    control = JobControl(log, JOB)
    async with asyncio.TaskGroup() as group:
        following = group.create_task(control.follow())
        await control.moved(1.0)
        following.cancel()
    return control.state


async def check_answer(log: AsyncReferenceLog, state: JobState, sample: Sample) -> None:
    (output,) = state.outputs("sort")
    outputs = Exchange(log.book(EXCHANGE_BOOK))
    tables = [await outputs.read(output.output, number, partitions=2) for number in range(2)]
    answer = answer_of(*tables)
    assert ([*answer.by_weather], [*answer.by_carrier]) == sample.answer


@pytest.mark.asyncio
async def test_workers_agree_on_an_answer_that_duckdb_agrees_with(sample: Sample) -> None:
    log = AsyncReferenceLog()
    async with submitted(log):
        await work(log, sample.folder, workers=3)
    state = await folded(log)
    assert state.phase is Phase.DONE
    await check_answer(log, state, sample)


@pytest.mark.asyncio
async def test_each_task_writes_one_record_tagged_by_job_stage_and_task(sample: Sample) -> None:
    log = AsyncReferenceLog()
    async with submitted(log):
        await work(log, sample.folder, workers=1)
    records = [record async for record in log.book(EXCHANGE_BOOK).scan()]
    tasks = [str(task) for stage in PLAN.stages for task in stage.task_ids()]
    assert sorted(record.tags for record in records) == sorted(
        ("job:j", f"stage:j/{task.partition('/')[0]}", f"task:j/{task}") for task in tasks
    )


@pytest.mark.asyncio
async def test_worker_that_dies_with_a_claim_changes_nothing_in_the_answer(sample: Sample) -> None:
    log = AsyncReferenceLog()
    async with submitted(log) as control:
        assert await control.claim(Claim(TaskId("scan_flights", 3), 0), "dead")
        await work(log, sample.folder)
    state = await folded(log)
    assert state.repeated_claims >= 1
    await check_answer(log, state, sample)


@pytest.mark.asyncio
async def test_job_goes_on_after_all_workers_stopped_in_the_middle(sample: Sample) -> None:
    log = AsyncReferenceLog()
    async with submitted(log) as control:
        working = asyncio.create_task(work(log, sample.folder))
        while not control.state.outputs("scan_weather"):
            await control.moved(1.0)
        working.cancel()
        with pytest.raises(asyncio.CancelledError):
            await working
    assert not (await folded(log)).over
    await work(log, sample.folder)
    await check_answer(log, await folded(log), sample)


@pytest.mark.asyncio
async def test_output_that_is_gone_is_computed_again(sample: Sample) -> None:
    log = AsyncReferenceLog()
    gone = TaskId("scan_flights", 0)
    async with submitted(log) as control:
        commit = Committed(
            task=gone, worker="dead", output=1_000, rows=0, part_bytes=(), seconds=0.0
        )
        assert await control.commit(commit, after=0)
        await work(log, sample.folder)
    state = await folded(log)
    assert state.outputs("scan_flights")[0].worker != "dead"
    await check_answer(log, state, sample)


@pytest.mark.asyncio
async def test_error_of_a_stage_ends_the_job_and_says_which(tmp_path: Path) -> None:
    log = AsyncReferenceLog()
    async with submitted(log) as control:
        await work(log, tmp_path)  # an empty folder
    assert control.state.phase is Phase.FAILED
    assert control.state.failure is not None
    assert "FileNotFoundError" in control.state.failure.error


@pytest.mark.asyncio
async def test_job_that_exists_is_not_submitted_again(sample: Sample) -> None:
    log = AsyncReferenceLog()
    async with submitted(log) as control:
        assert not await control.submit(flights_plan(partitions=9))
        assert control.state.plan == PLAN


@pytest.mark.asyncio
async def test_claim_of_a_task_that_somebody_has_is_refused_and_seen() -> None:
    log = AsyncReferenceLog()
    claim = Claim(TaskId("join", 1), 0)
    async with submitted(log) as control:
        assert await control.claim(claim, "a")
        assert not await control.claim(claim, "b")
        assert control.state.tasks[claim.task].claimed_by == "a"


@pytest.mark.asyncio
async def test_one_beat_of_several_is_enough() -> None:
    log = AsyncReferenceLog()
    async with submitted(log) as control:
        assert [bool(b) for b in await asyncio.gather(*[control.beat() for _ in range(3)])] == [
            True,
            False,
            False,
        ]


@pytest.mark.asyncio
async def test_output_that_no_record_holds_ends_the_job(
    sample: Sample, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exchange, "RECORD_BYTES_MAX", 1_000)
    log = AsyncReferenceLog()
    async with submitted(log) as control:
        await work(log, sample.folder)
        assert control.state.failure is not None
        assert "the limit is 1000 bytes" in control.state.failure.error


@pytest.mark.asyncio
async def test_trouble_with_the_log_ends_the_worker_and_not_the_job(
    sample: Sample, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def unreadable(*_: object, **__: object) -> None:
        raise NodeUnreachable("engine-1", "gone")

    log = AsyncReferenceLog()
    async with submitted(log) as control:
        monkeypatch.setattr(exchange.Exchange, "read", unreadable)
        with pytest.raises(ExceptionGroup):
            await work(log, sample.folder, workers=1)
        assert control.state.phase is Phase.RUNNING
        monkeypatch.undo()
        await work(log, sample.folder)
    await check_answer(log, await folded(log), sample)
