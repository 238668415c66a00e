"""Calls from start to end, in this process, whatever the user's code does."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

import bokilog
from bokilog import App, Context
from bokilog.codec import pack
from bokilog.errors import BokilogError
from bokilog.functions.runtime import references, streaming
from bokilog.functions.runtime.caller import HostCalls, failed
from bokilog.functions.runtime.generator_thread import AHEAD
from bokilog.functions.runtime.local import LocalApp
from bokilog.functions.runtime.messages import DEPTH_MAX, STREAM_WINDOW, Encoding, Flag, Start
from bokilog.functions.runtime.run_call import Runs
from bokilog.functions.runtime.runner import END_OF_STREAM
from bokilog.functions.runtime.streaming import Window

app = App("runs")
seen: list[Any] = []


@app.function
async def add(x: int, y: int = 1) -> int:
    return x + y


@app.function
def add_in_thread(x: int, y: int = 1) -> tuple[int, bool]:
    return x + y, threading.current_thread() is threading.main_thread()


@app.function
async def nothing() -> None: ...


@app.function
def nothing_in_thread() -> None: ...


@app.function
async def yield_nothing() -> AsyncIterator[int]:
    for _ in ():
        yield 1


@app.function
async def fail(kind: str) -> None:
    errors: dict[str, BaseException] = {
        "value": ValueError("no such thing"),
        "exit": SystemExit(3),
        "interrupt": KeyboardInterrupt(),
        "cancelled": asyncio.CancelledError(),
        "unsayable": Unsayable(),
        "local": Local("x", key=lambda: 1),
        "stop": StopIteration(),
        "void": bokilog.ConditionFailed("t", 7),
    }
    raise errors[kind]


@app.function
def fail_in_thread(kind: str) -> None:
    fail.body(kind).send(None)


class Unsayable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("not even this")


class Local(Exception):
    def __init__(self, text: str, *, key: object) -> None:
        super().__init__(text)
        self.key = key


@app.function(timeout_s=0.02)
async def sleep(delay_s: float) -> None:
    await asyncio.sleep(delay_s)


@app.function(timeout_s=0.1)
def wait_for_cancel(ctx: Context) -> str:
    while not ctx.cancelled:
        time.sleep(0.001)
    seen.append("asked to end")
    return "too late"


@app.function
async def hang(ctx: Context) -> None:
    try:
        await asyncio.Event().wait()
    finally:
        seen.append(f"ended {ctx.function} at depth {ctx.depth}")


@app.function
async def hang_below(ctx: Context) -> None:
    await hang.remote()


@app.function
def hang_below_thread(ctx: Context) -> None:
    hang.call()


@app.function
async def again(number: int) -> int:
    return await again.remote(number + 1)


@app.function
async def numbers(until: int) -> AsyncIterator[int]:
    try:
        for number in range(until):
            seen.append(number)
            yield number
    finally:
        seen.append("closed")


@app.function
async def break_off(after: int) -> AsyncIterator[int]:
    for number in range(after):
        yield number
    raise ValueError("broken off")


@app.function
def numbers_in_thread(until: int) -> Iterator[int]:
    assert threading.current_thread() is not threading.main_thread()
    try:
        for number in range(until):
            seen.append(number)
            yield number
    finally:
        seen.append("closed")


@app.function
def break_off_in_thread(after: int) -> Iterator[int]:
    yield from range(after)
    raise ValueError("broken off")


@app.function(timeout_s=0.05)
def yield_until_told(ctx: Context) -> Iterator[str]:
    try:
        yield ctx.function
        while not ctx.cancelled:
            time.sleep(0.001)
        yield "nobody takes this"
    finally:
        seen.append(threading.current_thread().name)


@app.function
def of_one_thread(count: int) -> Iterator[tuple[int, int]]:
    for _ in range(count):
        yield threading.get_ident(), ask_in_thread.call(1)


@app.function
def ask_in_thread(number: int) -> int:
    return number


@app.function
async def write(ctx: Context, text: str) -> int:
    return await ctx.book("b", type=str).append(text)


@app.function
async def write_below(ctx: Context, text: str) -> list[object]:
    await write.remote(text)
    return [each.value async for each in ctx.book("b", type=str).scan()]


@app.function
def write_in_thread(ctx: Context, text: str) -> list[object]:
    book = ctx.sync.book("b", type=str)
    book.append(text)
    write.call(f"{text} below")
    return [each.value for each in book.scan()]


@app.function
async def about(ctx: Context) -> tuple[str, int, int, float]:
    return ctx.function, ctx.attempt, ctx.depth, ctx.left_s


@app.function
async def size(data: bytes) -> bytes:
    return data * 2


def locally(claim: Callable[[LocalApp], Awaitable[None]]) -> None:
    async def main() -> None:
        seen.clear()
        async with app.local() as local:
            await claim(local)

    asyncio.run(main())


async def until(holds: Callable[[], bool]) -> None:
    while not holds():  # noqa: ASYNC110  # it holds soon
        await asyncio.sleep(0.001)


async def turns(count: int = 20) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


def test_async_functions_run_on_the_loop_and_sync_ones_in_threads() -> None:
    async def claim(local: LocalApp) -> None:
        assert await add.remote(2, y=5) == 7
        assert await add_in_thread.remote(2) == (3, False)
        assert threading.active_count() > 1

    locally(claim)


@pytest.mark.parametrize("function", [fail, fail_in_thread])
def test_an_exception_is_raised_at_the_caller_with_its_traceback(function: Any) -> None:
    async def claim(local: LocalApp) -> None:
        with pytest.raises(ValueError, match="no such thing") as caught:
            await function.remote("value")
        (note,) = caught.value.__notes__
        assert f"raised by function {function.name!r}" in note
        assert "in fail" in note
        assert "runtime/run_call.py" not in note.replace("test_run_call", "")
        with pytest.raises(bokilog.ConditionFailed) as void:
            await function.remote("void")
        assert (void.value.tag, void.value.winner) == ("t", 7)

    locally(claim)


@pytest.mark.parametrize("function", [fail, fail_in_thread])
@pytest.mark.parametrize(
    ("kind", "type_name"),
    [
        ("exit", "SystemExit"),
        ("interrupt", "KeyboardInterrupt"),
        ("cancelled", "CancelledError"),
        ("local", "Local"),
    ],
)
def test_what_would_end_a_program_ends_the_call_only(
    function: Any, kind: str, type_name: str
) -> None:
    async def claim(local: LocalApp) -> None:
        with pytest.raises(bokilog.FunctionFailed) as caught:
            await function.remote(kind)
        assert caught.value.type_name == type_name
        assert await add.remote(1) == 2

    locally(claim)


def test_exceptions_without_a_text_are_told_all_the_same() -> None:
    async def claim(local: LocalApp) -> None:
        with pytest.raises(Exception) as caught:  # noqa: PT011  # it comes as it was
            await fail.remote("unsayable")
        assert type(caught.value) is Unsayable
        trace = caught.value.__notes__[0]
        assert "raise errors[kind]" in trace
        assert "Unsayable: (its text cannot be made: RuntimeError)" in trace

    locally(claim)


def test_arguments_are_checked_before_anything_is_sent() -> None:
    async def claim(local: LocalApp) -> None:
        with pytest.raises(bokilog.InvalidArguments, match="'x' is missing"):
            await add.remote()  # type: ignore[call-arg]

    locally(claim)


def test_a_deadline_ends_an_async_call_and_asks_a_sync_one() -> None:
    async def claim(local: LocalApp) -> None:
        with pytest.raises(bokilog.CallTimeout, match=r"sleep was not over within 0\.02 s"):
            await sleep.remote(5.0)
        await local.log()  # opening it would take from the time of the call
        with pytest.raises(bokilog.CallTimeout):
            await wait_for_cancel.remote()
        assert seen == ["asked to end"]
        await sleep.with_options(timeout_s=5).remote(0.03)

    locally(claim)


@pytest.mark.parametrize("function", [hang_below, hang_below_thread])
def test_cancellation_reaches_the_calls_of_a_call(function: Any) -> None:
    async def claim(local: LocalApp) -> None:
        call = asyncio.ensure_future(function.remote())
        async with asyncio.timeout(5):
            await until(lambda: any(each.context.depth == 1 for each in local.runs.running))
            await turns()
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            await local.runs.idle.wait()
        assert seen == ["ended hang at depth 1"]

    locally(claim)


def test_a_call_that_is_cancelled_before_it_begins_is_answered() -> None:
    async def claim(local: LocalApp) -> None:
        call = asyncio.ensure_future(hang.remote())
        await asyncio.sleep(0)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await local.runs.idle.wait()
        assert local.caller.calls.open_count in (0, 1)
        await turns()
        assert local.caller.calls.open_count == 0

    locally(claim)


def test_recursion_without_end_is_found() -> None:
    async def claim(local: LocalApp) -> None:
        with pytest.raises(bokilog.CallTooDeep) as caught:
            await again.remote(0)
        assert caught.value.depth == DEPTH_MAX + 1

    locally(claim)


@pytest.mark.parametrize(("function", "ahead"), [(numbers, 0), (numbers_in_thread, AHEAD + 1)])
def test_a_stream_comes_in_order_and_never_more_than_a_window_ahead(
    function: Any, ahead: int
) -> None:
    async def claim(local: LocalApp) -> None:
        stream = function.stream(4 * STREAM_WINDOW)
        assert await anext(stream) == 0
        await turns(200)
        assert seen[-1] <= STREAM_WINDOW + ahead
        assert [each async for each in stream] == list(range(1, 4 * STREAM_WINDOW))
        assert seen[-1] == "closed"
        assert [each async for each in stream] == []

    locally(claim)


@pytest.mark.parametrize("function", [numbers, numbers_in_thread])
def test_who_leaves_a_stream_early_ends_it(function: Any) -> None:
    async def claim(local: LocalApp) -> None:
        async with function.stream(10_000) as stream:
            async for number in stream:
                if number == 3:
                    break
        await asyncio.wait_for(local.runs.idle.wait(), 5)
        assert seen[-1] == "closed"

    locally(claim)


@pytest.mark.parametrize("function", [numbers, numbers_in_thread])
def test_a_stream_that_nobody_holds_any_more_ends(function: Any) -> None:
    async def claim(local: LocalApp) -> None:
        async for number in function.stream(10_000):
            if number == 3:
                break
        await asyncio.wait_for(local.runs.idle.wait(), 5)
        assert seen[-1] == "closed"

    locally(claim)


@pytest.mark.parametrize("function", [break_off, break_off_in_thread])
def test_an_error_in_a_stream_comes_after_its_items(function: Any) -> None:
    async def claim(local: LocalApp) -> None:
        stream = function.stream(3)
        assert [await anext(stream) for _ in range(3)] == [0, 1, 2]
        with pytest.raises(ValueError, match="broken off") as caught:
            await anext(stream)
        assert "generator_thread.py" not in caught.value.__notes__[0]
        with pytest.raises(bokilog.NotSupported, match=r"break_off\w*\.stream"):
            await function.remote(3)

    locally(claim)


def test_a_generator_in_a_thread_is_told_of_its_deadline_and_ends_in_its_thread() -> None:
    async def claim(local: LocalApp) -> None:
        await local.log()
        stream = yield_until_told.stream()
        assert await anext(stream) == "yield_until_told"
        with pytest.raises(bokilog.CallTimeout):
            await anext(stream)
        assert len(seen) == 1
        assert seen[0].startswith("function")

    locally(claim)


def test_a_generator_stays_in_one_thread_and_may_block_for_calls_of_its_own() -> None:
    async def claim(local: LocalApp) -> None:
        items = [each async for each in of_one_thread.stream(20)]
        assert [number for _, number in items] == [1] * 20
        assert len({thread for thread, _ in items}) == 1

    locally(claim)


def test_map_gives_results_in_order_or_as_they_come() -> None:
    async def claim(local: LocalApp) -> None:
        assert [each async for each in add.map(range(1_000))] == list(range(1, 1_001))
        assert [each async for each in add.map([1, 2], [10, 20, 30])] == [11, 22]
        came = [each async for each in add.map(range(100), ordered=False)]
        assert sorted(came) == list(range(1, 101))
        assert [each async for each in add.map([])] == []

    locally(claim)


def test_a_map_of_iterables_without_end_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "OUTSTANDING_MAX", 64)
    monkeypatch.setattr(streaming, "SLICE_CALLS", 16)

    async def claim(local: LocalApp) -> None:
        def forever() -> Any:
            for number in range(sys.maxsize):
                seen.append(number)
                yield number

        async with add.map(forever()) as results:
            assert await anext(results) == 1
        assert len(seen) <= 64
        await asyncio.wait_for(local.runs.idle.wait(), 5)

    locally(claim)


def test_a_map_goes_as_fast_as_calls_begin_soon() -> None:
    window = Window(10, 20, timeout_s=8.0)
    for _ in range(15):
        window.over(queued_us=1_000)
    assert window.size == 20
    window.over(queued_us=1_500_000)
    assert window.size == 20
    window.over(queued_us=3_000_000)
    assert window.size == 18
    for _ in range(10):
        window.refused()
    assert window.size == 1
    window.over(queued_us=3_000_000)
    assert window.size == 1


@pytest.mark.parametrize("ordered", [True, False])
def test_calls_of_a_map_that_found_no_room_are_started_again(ordered: bool) -> None:
    async def claim(local: LocalApp) -> None:
        refused: set[bytes] = set()
        on_start = local.runs.on_start

        def sometimes(start: Start) -> None:
            if len(refused) < 60 and bytes(start.payload) not in refused:
                refused.add(bytes(start.payload))
                local._to_caller(failed(start.call, bokilog.Overloaded(0.0, "the call")))
            else:
                on_start(start)

        local.runs = Intercepted(local.runs, sometimes)  # type: ignore[assignment]
        came = [each async for each in add.map(range(100), ordered=ordered)]
        assert (came if ordered else sorted(came)) == list(range(1, 101))
        assert len(refused) == 60

    locally(claim)


class Intercepted:
    """Runs, but for what `on_start` does."""

    def __init__(self, runs: Runs, on_start: Callable[[Start], None]) -> None:
        self._runs = runs
        self.on_start = on_start

    def __getattr__(self, name: str) -> Any:
        return getattr(self._runs, name)


def test_a_map_tells_of_many_calls_in_few_messages_of_bounded_size(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    counts: list[int] = []
    start_many = HostCalls.start_many

    def counted(self: HostCalls, request: Any, payloads: Any) -> Any:
        counts.append(len(payloads))
        return start_many(self, request, payloads)

    monkeypatch.setattr(HostCalls, "start_many", counted)

    async def claim(local: LocalApp) -> None:
        assert len([each async for each in add.map(range(100))]) == 100
        assert counts == [100]
        counts.clear()
        data = bytes(200_000)
        assert len([each async for each in size.map([data] * 50)]) == 50
        assert counts == [20, 20, 10]

    locally(claim)


@pytest.mark.parametrize("ordered", [True, False])
def test_a_map_that_nobody_holds_any_more_ends_its_calls(ordered: bool) -> None:
    async def claim(local: LocalApp) -> None:
        async def all_but_the_first(number: int) -> int:
            if number:
                await asyncio.Event().wait()
            return number

        function = app.function(name="all_but_the_first")(all_but_the_first)
        try:
            async for _ in function.map(range(10), ordered=ordered):
                assert local.runs.count == 9
                break
        finally:
            del app.functions["all_but_the_first"]
        await asyncio.wait_for(local.runs.idle.wait(), 5)

    locally(claim)


def test_the_first_error_of_a_map_stands_where_its_result_would() -> None:
    async def claim(local: LocalApp) -> None:
        results = add.map([1, 2, "three", 4])
        assert [await anext(results) for _ in range(2)] == [2, 3]
        with pytest.raises(bokilog.InvalidArguments, match="'x'"):
            await anext(results)

    locally(claim)


def test_progress_is_shown_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    async def claim(local: LocalApp) -> None:
        assert len([each async for each in add.map(range(5), progress=True)]) == 5

    locally(claim)
    assert "add" in capsys.readouterr().err


def test_lambdas_and_functions_of_functions_are_sent_along() -> None:
    async def claim(local: LocalApp) -> None:
        factor = 6

        async def slowly(ctx: Context, number: int) -> str:
            return f"{number * factor} in {ctx.function}"

        assert await app.submit(lambda number: number * factor, 7) == 42
        assert await app.submit(slowly, 7) == "42 in $pickled"

    locally(claim)


def test_a_function_that_no_host_knows_is_sent_along_if_nobody_could_import_it() -> None:
    async def claim(local: LocalApp) -> None:
        other = App("runs")
        other.connection = app.connection

        @other.function
        async def here(number: int) -> int:
            return number + 1

        assert await here.remote(3) == 4

        with pytest.raises(bokilog.UnknownFunction, match="older version"):
            await other.function(name="renamed")(add.body).remote(1)

    locally(claim)


def test_what_is_sent_along_may_call_the_apps_functions() -> None:
    async def claim(local: LocalApp) -> None:
        async def above(number: int) -> int:
            return await add.with_options(timeout_s=3).remote(number, y=10)

        assert await app.submit(above, 7) == 17

    locally(claim)


def test_a_call_of_another_app_does_not_go_to_this_ones_hosts() -> None:
    other = App("others")

    @other.function(name="add")
    async def add_more(x: int) -> int:
        return x + 1_000

    async def claim(local: LocalApp) -> None:
        async def above() -> int:
            return await add_more.remote(1)

        with pytest.raises(bokilog.NotReady, match="app 'others' is not connected"):
            await app.submit(above)
        async with other.local():
            app_of_call = app.function(name="above")(above)
            try:
                assert await app_of_call.remote() == 1_001
            finally:
                del app.functions["above"]

    locally(claim)


def test_a_map_that_a_cancelled_call_has_left_open_is_cancelled_with_it() -> None:
    async def claim(local: LocalApp) -> None:
        async def start_many(ctx: Context) -> None:
            stream = numbers.stream(10_000)
            await anext(stream)
            await asyncio.Event().wait()

        call = asyncio.ensure_future(app.submit(start_many))
        await until(lambda: local.runs.count == 2)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await asyncio.wait_for(local.runs.idle.wait(), 5)

    locally(claim)


def test_a_call_reads_what_its_calls_have_written() -> None:
    async def claim(local: LocalApp) -> None:
        assert await write_below.remote("one") == ["one"]
        assert await write_in_thread.remote("two") == ["one", "two", "two below"]
        log = await local.log()
        first = await log.book("b").read_next()
        assert first is not None
        assert first.data == b"one"

    locally(claim)


def test_a_context_says_which_call_it_is_of() -> None:
    async def claim(local: LocalApp) -> None:
        function, attempt, depth, left_s = await about.remote()
        assert (function, attempt, depth) == ("about", 0, 0)
        assert 0 < left_s <= 60

    locally(claim)


def test_a_local_call_within_a_call_has_its_context() -> None:
    async def claim(local: LocalApp) -> None:
        async def outer(ctx: Context) -> str:
            return (await about())[0]

        assert await app.submit(outer) == "$pickled"

    locally(claim)


def test_large_values_are_records() -> None:
    async def claim(local: LocalApp) -> None:
        large = bytes(300_000)
        assert await size.remote(large) == large * 2
        infos = await (await local.log()).books()
        assert [(each.durability, each.retention_s) for each in infos] == [("memory", 3_600)]

    locally(claim)


def test_values_that_no_record_holds_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(references, "RECORD_BYTES_MAX", 400_000)

    async def claim(local: LocalApp) -> None:
        with pytest.raises(bokilog.RecordTooLarge, match="of 500000 bytes: the limit is 400000"):
            await size.remote(bytes(500_000))
        with pytest.raises(bokilog.ResultUnusable, match="its result is a record of 600000 bytes"):
            await size.remote(bytes(300_000))

    locally(claim)


def runs_of(local: LocalApp, answers: list[Any]) -> Runs:
    return Runs(
        app.functions,
        local.caller.place,
        send=answers.append,
        executor=ThreadPoolExecutor(1),
        before_done=lambda _: None,
    )


def test_errors_about_the_call_are_not_blamed_on_the_function() -> None:
    async def claim(local: LocalApp) -> None:
        start = Start(1, "unknown", Encoding.JSON, 0, 0, 0, 0, "id", "", "", b"")
        answers: list[Any] = []
        runs = runs_of(local, answers)
        runs.on_start(start)
        runs.on_start(start._replace(call=2, function="add"))
        runs.on_start(start._replace(call=3, function="add", payload=b'{"x": 1}'))
        await runs.idle.wait()
        codes = {done.call: done.error[:1] for done in answers}
        assert codes == {1: [101], 2: [102], 3: []}
        assert [done.payload for done in answers if done.call == 3] == [b"2"]

    locally(claim)


def test_spawned_calls_are_records_that_run_here_too() -> None:
    async def claim(local: LocalApp) -> None:
        call = await add.spawn(1, y=2)
        assert await call.result(5) == 3
        assert (await call.status()).state == "finished"
        keyed = add.with_options(key="once")
        assert await keyed.remote(5) == 6
        again = await keyed.spawn(5)
        assert (await again.result(5), again.id) == (6, (await keyed.spawn(5)).id)
        with pytest.raises(bokilog.KeyReused):
            await keyed.remote(7)
        failing = await fail.spawn("value")
        with pytest.raises(ValueError, match="no such thing"):
            await failing.result(5)

    locally(claim)


def test_every_error_of_a_call_is_one_of_ours_or_the_functions() -> None:
    async def claim(local: LocalApp) -> None:
        with pytest.raises(BokilogError):
            await add.remote(x="1")  # type: ignore[arg-type]

    locally(claim)


@pytest.mark.parametrize(
    ("encoding", "payload"), [(Encoding.MSGPACK, pack([[], {}])), (Encoding.JSON, b"[]")]
)
def test_a_result_of_none_is_not_the_end_of_a_generator(encoding: Encoding, payload: bytes) -> None:
    async def claim(local: LocalApp) -> None:
        start = Start(1, "nothing", encoding, 0, 0, 0, int(Flag.STREAM), "id", "", "", payload)
        answers: list[Any] = []
        runs = runs_of(local, answers)
        runs.on_start(start)
        runs.on_start(start._replace(call=2, function="nothing_in_thread"))
        runs.on_start(start._replace(call=3, function="yield_nothing"))
        runs.on_start(start._replace(call=4, flags=0))
        await runs.idle.wait()
        results = {done.call: (done.encoding, done.payload) for done in answers}
        null = Encoding.JSON, b"null"
        usual = null if encoding is Encoding.JSON else (Encoding.MSGPACK, pack(None))
        assert results == {1: null, 2: null, 3: END_OF_STREAM, 4: usual}

    locally(claim)
