"""A host with real templates and workers, and functions that do what they should not."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from pathlib import Path

import pytest

import bokilog
from bokilog.call_errors import (
    AppFailed,
    CallCancelled,
    CallTimeout,
    FunctionFailed,
    UnknownFunction,
    WorkerLost,
)
from bokilog.codec import unpack
from bokilog.errors import InvalidSettings, from_wire
from bokilog.functions.runtime.call_outputs import CallOutputs
from bokilog.functions.runtime.messages import Flag
from bokilog.shapes.served import serve_log
from tests.integration.hosting import Hosting, hosting, is_there, run, until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(60)]
linux_only = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def test_a_call_runs_in_a_worker_and_so_does_the_call_within_it() -> None:
    async def work(at: Hosting) -> None:
        assert await at.call("double", 4) == 8
        assert await at.call("twice", 5) == 20
        assert at.stats.outcomes == {("double", "ok"): 3, ("twice", "ok"): 1}
        assert at.stats.workers["double"] == 1

    run(work)


def test_a_chain_of_calls_reads_its_own_writes() -> None:
    async def work(at: Hosting) -> None:
        assert await at.call("read_back", "hello") == "hello"
        async with bokilog.connect(at.log.url) as log:
            record = await log.book("notes").read_prev()
            assert record is not None and bytes(record.data) == b"hello"

    run(work)


def test_what_a_call_prints_is_kept_for_its_id() -> None:
    async def work(at: Hosting) -> None:
        await at.start("double", 21, call_id="c0ffee").done
        await until(lambda: at.seen.written)
        assert at.seen.written == [("c0ffee", 1, "doubling 21\n")]
        await at.start("fails", call_id="bad").done
        await until(lambda: len(at.seen.written) > 1)
        assert at.host.outputs.of("bad") == [[2, "about to fail\n"]]
        assert at.host.outputs.recent() == [
            ["c0ffee", "double", "ok"],
            ["bad", "fails", "FunctionFailed"],
        ]

    run(work)


def test_a_stream_comes_in_order_and_waits_for_credit() -> None:
    async def work(at: Hosting) -> None:
        got: list[object] = []
        call = at.start(
            "count", 200, flags=int(Flag.STREAM), on_item=lambda item: got.append(unpack(item[3]))
        )
        await until(lambda: len(got) >= 64)
        await asyncio.sleep(0.05)
        assert len(got) == 64 and not call.done.done()
        for _ in range(10):
            call.credit(64)
        assert not (await call.done).error
        assert got == list(range(200))

    run(work)


@pytest.mark.kill
def test_calls_of_a_killed_worker_are_told_or_start_again_by_their_policy() -> None:
    async def work(at: Hosting) -> None:
        slow, again = at.start("slow", 30.0), at.start("pid_after", 0.5)
        await until(lambda: len(at.seen.begun) == 2)
        killed = at.host.worker_pids()
        for pid in killed:
            os.kill(pid, signal.SIGKILL)
        error = from_wire((await slow.done).error)
        assert isinstance(error, WorkerLost) and "SIGKILL" in str(error)
        done = await again.done
        assert not done.error and unpack(done.payload) not in killed
        assert at.stats.retries == 1

    run(work)


@pytest.mark.kill
def test_new_calls_do_not_go_to_a_worker_that_stands_still() -> None:
    async def work(at: Hosting) -> None:
        stopped = await at.call("naps", 0.0)
        assert isinstance(stopped, int)
        held = at.start("naps", 60.0)
        await until(lambda: len(at.seen.begun) == 2)
        os.kill(stopped, signal.SIGSTOP)
        await until(lambda: at.stats.workers["naps"] == 0)
        assert await at.call("naps", 0.0) != stopped
        os.kill(stopped, signal.SIGCONT)
        held.cancel("it was well")
        assert isinstance(from_wire((await held.done).error), CallCancelled)

    run(work, worker_silent_s=0.2)


@pytest.mark.kill
def test_a_killed_template_is_started_again_and_serves() -> None:
    async def work(at: Hosting) -> None:
        running = at.start("pid_after", 0.3)
        await until(lambda: at.seen.begun)
        for pid in at.host.template_pids():
            os.kill(pid, signal.SIGKILL)
        await until(lambda: len(at.seen.versions) == 2)
        assert not (await running.done).error, "its workers died with it: started again"
        assert await at.call("double", 1) == 2

    run(work)


@pytest.mark.parametrize("function", ["forever", "forever_async"])
def test_an_endless_loop_is_ended_at_its_deadline(function: str) -> None:
    async def work(at: Hosting) -> None:
        with pytest.raises(CallTimeout):
            await at.call(function)
        await until(lambda: not at.host.worker_pids())
        assert at.stats.workers_lost == 1
        assert await at.call("double", 1) == 2

    run(work)


def test_every_call_of_a_fresh_function_has_a_process_of_its_own() -> None:
    async def work(at: Hosting) -> None:
        calls = [at.start("fresh_pid") for _ in range(8)]
        pids = [unpack((await call.done).payload) for call in calls]
        assert len(set(pids)) == 8
        await until(lambda: not at.host.worker_pids())

    run(work)


@linux_only
def test_what_a_function_starts_and_leaves_behind_ends_with_its_host() -> None:
    async def work(at: Hosting) -> int:
        pid = await at.call("leave_behind")
        assert isinstance(pid, int) and is_there(pid)
        return pid

    pid = run(work)
    deadline_s = time.monotonic() + 5.0
    while is_there(pid) and time.monotonic() < deadline_s:
        time.sleep(0.01)
    assert not is_there(pid)


@linux_only
def test_a_memory_hog_is_ended_and_says_so() -> None:
    async def work(at: Hosting) -> None:
        with pytest.raises(WorkerLost, match=r"MiB of memory of its own, the limit is 64.0 MiB"):
            await at.call("hog", 0.02)

    run(work)


def test_a_function_that_exits_loses_its_call_and_nothing_else() -> None:
    async def work(at: Hosting) -> None:
        with pytest.raises(WorkerLost, match="exit code 3"):
            await at.call("leave", 3)
        with pytest.raises(WorkerLost, match="exit code 0"):
            await at.call("leave", 0)
        assert await at.call("double", 1) == 2

    run(work)


def test_recursion_without_end_is_told() -> None:
    async def work(at: Hosting) -> None:
        with pytest.raises(FunctionFailed, match="depth 65"):
            await at.call("deeper", 0)
        assert at.stats.workers["deeper"] <= 2

    run(work)


def test_ten_thousand_calls_at_once_are_all_answered() -> None:
    async def work(at: Hosting) -> None:
        calls = [at.start("queued_many", number) for number in range(10_000)]
        done = await asyncio.gather(*(call.done for call in calls))
        assert [unpack(each.payload) for each in done] == list(range(10_000))
        calls = [at.start("queued", number) for number in range(2_000)]
        done = await asyncio.gather(*(call.done for call in calls))
        outcomes = {bool(each.error) for each in done[:1_001]}
        assert outcomes == {False} and all(each.error for each in done[1_001:])

    run(work)


def test_a_cancelled_call_ends_and_so_do_its_children() -> None:
    async def work(at: Hosting) -> None:
        call = at.start("naps", 30.0)
        await until(lambda: at.seen.begun)
        call.cancel("not needed")
        assert isinstance(from_wire((await call.done).error), CallCancelled)
        assert at.stats.calls == 0

    run(work)


def test_unknown_functions_and_wrong_arguments_are_named() -> None:
    async def work(at: Hosting) -> None:
        with pytest.raises(UnknownFunction, match="did you mean 'double'"):
            await at.call("doubel", 4)
        with pytest.raises(bokilog.BokilogError, match="'x'"):
            await at.call("double")

    run(work)


GOOD = """
import asyncio
from bokilog.functions.runtime.app import App
app = App("changing")

@app.function
async def version() -> int:
    return {number}

@app.function
async def nap(s: float) -> int:
    await asyncio.sleep(s)
    return {number}
"""


def test_a_change_of_a_file_loads_the_app_again_while_running_calls_finish(tmp_path: Path) -> None:
    file = tmp_path / "changing.py"
    file.write_text(GOOD.format(number=1))

    async def work(at: Hosting) -> None:
        assert await at.call("version") == 1
        nap = at.start("nap", 1.0)
        await until(lambda: at.seen.begun[1:])
        file.write_text(GOOD.format(number=22))
        await until(lambda: len(at.seen.versions) == 2)
        assert await at.call("version") == 22
        assert unpack((await nap.done).payload) == 1
        file.write_text("import nothing_of_that_name\n")
        await until(lambda: at.seen.failures)
        assert "nothing_of_that_name" in at.seen.failures[0].trace and at.seen.failures[0].serving
        assert await at.call("version") == 22
        file.write_text(GOOD.format(number=333))
        await until(lambda: len(at.seen.versions) == 3)
        assert await at.call("version") == 333

    run(work, app="changing:app", app_dir=tmp_path, watch=True)


def test_an_app_that_cannot_be_imported_ends_the_start(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("import nothing_of_that_name\n")

    async def work(at: Hosting) -> None:
        raise AssertionError("it began")

    with pytest.raises(InvalidSettings, match="app=broken:app cannot be loaded"):
        run(work, app="broken:app", app_dir=tmp_path)


def test_with_somebody_watching_it_waits_for_the_mending(tmp_path: Path) -> None:
    file = tmp_path / "mended.py"
    file.write_text("import nothing_of_that_name\n")

    async def work(at: Hosting) -> None:
        with pytest.raises(AppFailed, match="nothing_of_that_name"):
            await at.call("version")
        file.write_text(GOOD.format(number=1))
        await until(lambda: at.seen.versions)
        assert await at.call("version") == 1

    run(work, app="mended:app", app_dir=tmp_path, watch=True)


def test_hosts_of_an_app_find_each_other_and_share_a_fan_out() -> None:
    async def both() -> None:
        log = await serve_log(None, "tcp:127.0.0.1:0")
        async with hosting(log=log) as one, hosting(log=log, name="host-2") as other:
            await until(lambda: one.host.peers() == {"host-2": True})
            await until(lambda: other.host.peers() == {"host-1": True})
            from tests.integration.apps import small_app

            async with small_app.app.connect(log.url):
                got = [value async for value in small_app.double.map(range(200))]
            assert got == [2 * number for number in range(200)]
            shares = [at.stats.outcomes.get(("double", "ok"), 0) for at in (one, other)]
            assert min(shares) >= 16, shares
        await log.aclose()

    asyncio.run(both())


def test_output_is_bounded_per_call_and_in_calls() -> None:
    outputs = CallOutputs(calls_max=2, bytes_max=10)
    for number in range(5):
        outputs.wrote("a", 1, f"line {number}\n")
    assert outputs.of("a")[1:] == [[1, "line 4\n"]]
    outputs.wrote("a", 1, "x" * 100)
    assert outputs.of("a")[1:] == [[1, "x" * 10]]
    outputs.began("b", "f")
    outputs.began("c", "f")
    assert outputs.of("a") == [] and len(outputs.recent()) == 2
