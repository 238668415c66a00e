"""A closed loop keeps so many operations under way and issues nothing after its end."""

import asyncio

import pytest

from bokilog.bench.load import closed_loop, summary, tag_of


@pytest.mark.asyncio
async def test_a_count_is_issued_once_each() -> None:
    seen: list[int] = []

    async def operation(turn: int) -> None:
        await asyncio.sleep(0)
        seen.append(turn)

    load = await closed_loop(operation, outstanding=4, count=10)
    assert sorted(seen) == list(range(10))
    assert load.count == 10


@pytest.mark.asyncio
async def test_no_more_than_asked_for_are_under_way() -> None:
    under_way = most = 0

    async def operation(turn: int) -> None:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0)
        under_way -= 1

    await closed_loop(operation, outstanding=8, count=100)
    assert (most, under_way) == (8, 0)


@pytest.mark.asyncio
async def test_operations_that_never_wait_end_in_time() -> None:
    async def operation(turn: int) -> None:
        pass

    load = await closed_loop(operation, outstanding=2, seconds=0.01)
    assert load.count > 2
    assert load.elapsed_s < 5


@pytest.mark.asyncio
async def test_an_error_ends_the_loop() -> None:
    async def operation(turn: int) -> None:
        raise OSError("gone")

    with pytest.raises(ExceptionGroup):
        await closed_loop(operation, outstanding=2, seconds=60)


def test_a_summary_has_rate_and_percentiles() -> None:
    load = summary([n / 1e6 for n in range(100, 0, -1)], 2.0)
    assert (load.count, load.rate) == (100, 50.0)
    assert (round(load.p50_us), round(load.p99_us)) == (50, 99)


def test_there_are_a_thousand_tags() -> None:
    assert len({tag_of(turn) for turn in range(5_000)}) == 1_000
