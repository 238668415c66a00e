"""A real template and its workers, with a host whose part the test speaks."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from bokilog.call_errors import CallCancelled, CallTimeout, FunctionFailed, InvalidArguments
from bokilog.codec import pack, unpack
from bokilog.errors import from_wire
from bokilog.functions.runtime.messages import (
    Cancel,
    Credit,
    Done,
    Encoding,
    Flag,
    Item,
    Output,
    Retire,
    Start,
    TemplateFailed,
)
from tests.integration.function_host import (
    FakeHost,
    Peer,
    descriptors,
    kill,
    ready,
    wait_gone,
)

pytestmark = pytest.mark.slow

APP = """
    import asyncio, os, random, socket, sys, threading, time, functions
    from bokilog import App, Context  # and `functions` is the user's own, beside this file

    app = App("shop")
    left, right = socket.socketpair()
    kept = open(__file__)
    loaded = {}

    @app.init
    def first():
        loaded["sync"] = functions.ANSWER

    @app.init
    async def second():
        await asyncio.sleep(0)
        loaded["async"] = await asyncio.to_thread(lambda: 2)

    @app.function
    async def add(x: int, y: int = 1) -> int:
        return x + y

    @app.function(max_concurrency=4)
    def say(text: str) -> dict[str, int]:
        "Says it."
        print(text)
        print("to stderr", file=sys.stderr)
        return loaded

    @app.function
    async def about() -> list[object]:
        return [threading.active_count(), len(os.listdir("/proc/self/task")), random.random()]

    @app.function
    async def end(code: int) -> None:
        os._exit(code)

    @app.function
    async def fail() -> None:
        raise ValueError("no such thing")

    @app.function
    async def wait() -> None:
        await asyncio.Event().wait()

    @app.function
    def stuck() -> None:
        while True:
            pass

    @app.function
    async def stuck_loop() -> None:
        while True:
            pass

    @app.function
    async def count(until: int):
        for number in range(until):
            yield number

    @app.function
    async def below(ctx: Context, x: int) -> int:
        return await add.remote(x, y=ctx.depth)

    @app.function
    async def stop_loop() -> None:
        asyncio.get_running_loop().stop()

    @app.function
    async def careless() -> None:
        async def leave():
            raise SystemExit(7)
        loop = asyncio.get_running_loop()
        loop.left = loop.create_task(leave())
"""
PLAIN_FUNCTIONS = ["about", "add", "below", "careless", "count", "end", "fail", "say"]


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[FakeHost, Peer]]:
    """A template whose user calls their modules `client` and `functions`, as ours are called."""
    folder = tmp_path_factory.mktemp("shop")
    write(folder, "client", APP)
    write(folder, "functions", "ANSWER = 42")
    with FakeHost(folder) as host:
        yield host, host.launch("client:app", folder)


@pytest.fixture(scope="module")
def told(shop: tuple[FakeHost, Peer]) -> dict[str, object]:
    """What the template said when it was ready."""
    said = ready(shop[1])
    return said._asdict()


@pytest.fixture
def worker(shop: tuple[FakeHost, Peer], told: dict[str, object]) -> Peer:
    host, template = shop
    return host.fork(template, "say")[0]


def write(folder: Path, module: str, text: str) -> None:
    (folder / f"{module}.py").write_text(textwrap.dedent(text))


def test_the_template_says_what_it_has(
    shop: tuple[FakeHost, Peer], told: dict[str, object]
) -> None:
    folder = shop[0].folder
    assert told["app"] == "shop"
    assert told["files"] == [str(folder / "client.py"), str(folder / "functions.py")]
    rows = told["functions"]
    assert isinstance(rows, list)
    assert set(PLAIN_FUNCTIONS) < {row[0] for row in rows}
    assert [row[2:] for row in rows if row[0] == "say"] == [
        ["(text: str) -> dict[str, int]", "Says it."]
    ]
    parts = told["parts"]
    assert isinstance(parts, list)
    assert [row[0] for row in parts] == [
        "interpreter and bokilog",
        "import",
        "init",
        "rehearsal and freeze",
    ]


def test_a_worker_has_what_init_left_and_its_output_comes_before_its_end(worker: Peer) -> None:
    done = worker.run("say", "hello")
    assert unpack(done.payload) == {"sync": 42, "async": 2}
    assert worker.waiting(Output) == [
        Output(done.call, 1, "hello\n"),
        Output(done.call, 2, "to stderr\n"),
    ]


def test_one_worker_is_forked_ahead_and_all_are_alike(
    shop: tuple[FakeHost, Peer], told: dict[str, object]
) -> None:
    """It inherits no socket, no file and no thread, and draws other random numbers."""
    host, template = shop
    assert host.process is not None
    inherited = {each for each in descriptors(host.process.pid) if not each.startswith("pipe:")}
    assert any(each.startswith("socket:") for each in inherited), "the app has opened some"
    ahead = host.forked_ahead(template, "say")
    workers = host.fork_many(template, "about", 3)
    assert [said.parts[0][0] for _, said in workers] == ["told", "fork", "fork"]
    assert workers[0][1].pid == ahead
    kinds, drawn = [], []
    for worker, said in workers:
        leads_to = descriptors(said.pid)
        assert not inherited.intersection(leads_to) - {os.devnull}
        kinds.append(sorted(each.partition(":")[0] for each in leads_to))
        python_threads, threads, number = unpack(worker.run("about").payload)
        assert (python_threads, threads) == (1, 1)
        drawn.append(number)
    assert kinds[0] == kinds[1] == kinds[2]
    assert kinds[0].count("socket") <= 3, "the host's link, and the loop's own pair"
    assert len(set(drawn)) == 3


def test_without_the_worker_that_was_forked_ahead_one_is_forked(
    shop: tuple[FakeHost, Peer], told: dict[str, object]
) -> None:
    host, template = shop
    ahead = host.forked_ahead(template, "say")
    kill(ahead)
    wait_gone(ahead)
    [(worker, said)] = host.fork_many(template, "add", 1)
    assert said.parts[0][0] == "fork"
    assert unpack(worker.run("add", 1).payload) == 2


def test_many_calls_run_at_once_in_one_worker(worker: Peer) -> None:
    for call in range(1, 4):
        worker.start(call, "wait")
    assert unpack(worker.run("add", 4).payload) == 5
    worker.send(*(Cancel(call, "not wanted") for call in range(1, 4)))
    ended = [worker.receive(Done) for _ in range(3)]
    assert [done.call for done in ended] == [1, 2, 3]
    assert all(isinstance(from_wire(done.error), CallCancelled) for done in ended)


def test_a_deadline_is_kept_by_the_worker(worker: Peer) -> None:
    worker.start(1, "wait", deadline_ms=20)
    error = from_wire(worker.receive(Done).error)
    assert isinstance(error, CallTimeout)
    assert error.timeout_s == 0.02


def test_failures_of_all_kinds_end_the_call_only(worker: Peer) -> None:
    failed = worker.run("fail")
    error = from_wire(failed.error)
    assert isinstance(error, FunctionFailed)
    assert (error.type_name, error.problem) == ("ValueError", "no such thing")
    assert 'client.py", line' in error.trace
    assert failed.encoding == Encoding.PICKLE
    assert isinstance(from_wire(worker.run("add", "x").error), InvalidArguments)
    assert worker.run("careless").error == []
    assert worker.run("stop_loop").error == []
    assert unpack(worker.run("add", 1).payload) == 2


def test_a_stream_waits_for_credit(worker: Peer) -> None:
    worker.start(1, "count", 100, flags=int(Flag.STREAM))
    first = [worker.receive(Item) for _ in range(64)]
    assert [unpack(each.payload) for each in first] == list(range(64))
    assert unpack(worker.run("add", 1).payload) == 2
    assert worker.waiting(Item) == []
    worker.send(Credit(1, 64))
    rest = [worker.receive(Item) for _ in range(36)]
    assert [each.place for each in rest] == list(range(64, 100))
    assert worker.receive(Done).error == []


def test_a_call_within_a_call_goes_by_the_host(worker: Peer) -> None:
    worker.start(1, "below", 5, depth=3, deadline_ms=5_000)
    child = worker.receive(Start)
    assert (child.function, child.depth) == ("add", 4)
    assert 0 < child.deadline_ms <= 5_000
    assert unpack(child.payload) == [[5], {"y": 3}]
    worker.send(Done(child.call, Encoding.MSGPACK, "", [], 0, 0, False, pack(8)))
    assert unpack(worker.receive(Done).payload) == 8


def test_cancelling_a_call_cancels_the_calls_it_made(worker: Peer) -> None:
    worker.start(1, "below", 5)
    child = worker.receive(Start)
    worker.send(Cancel(1, "not wanted"))
    assert worker.receive(Cancel).call == child.call
    assert isinstance(from_wire(worker.receive(Done).error), CallCancelled)


@pytest.mark.kill
def test_how_a_worker_ended_is_told(shop: tuple[FakeHost, Peer], told: dict[str, object]) -> None:
    host, template = shop
    worker, pid = host.fork(template, "end")
    worker.start(1, "end", 7)
    assert host.exited(template, pid) == 7
    _, pid = host.fork(template, "add")
    kill(pid)
    assert host.exited(template, pid) == -9
    worker, pid = host.fork(template, "add")
    worker.connection.close()
    assert host.exited(template, pid) == 0


def test_a_retired_worker_finishes_what_runs(
    shop: tuple[FakeHost, Peer], told: dict[str, object]
) -> None:
    host, template = shop
    worker, pid = host.fork(template, "below")
    worker.start(1, "below", 5)
    child = worker.receive(Start)
    worker.send(Retire(worker.greeting.number))
    assert unpack(worker.run("add", 1).payload) == 2
    worker.send(Done(child.call, Encoding.MSGPACK, "", [], 0, 0, False, pack(8)))
    assert unpack(worker.receive(Done).payload) == 8
    assert worker.ended()
    assert host.exited(template, pid) == 0


@pytest.mark.kill
def test_with_their_host_everything_ends_even_what_is_stuck(tmp_path: Path) -> None:
    write(tmp_path, "client", APP)
    write(tmp_path, "functions", "ANSWER = 42")
    with FakeHost(tmp_path) as host:
        template = host.launch("client", tmp_path)  # the only app of its module
        ready(template)
        workers = [host.fork(template, name) for name in ("add", "stuck", "stuck_loop")]
        for (worker, _), name in zip(workers, ("wait", "stuck", "stuck_loop"), strict=True):
            worker.start(1, name)
        ahead = host.forked_ahead(template, "add")
        assert host.process is not None
        kill(host.process.pid)
        for pid in (ahead, *(pid for _, pid in workers)):
            wait_gone(pid)


BROKEN = [
    ("import nothing_like_this", "ModuleNotFoundError: No module named 'nothing_like_this'"),
    ("def (", "SyntaxError"),
    ("import sys; sys.exit(3)", "SystemExit: 3"),
    ("from bokilog import App", "has 0 apps"),
    ("import bokilog\na = bokilog.App('a'); b = bokilog.App('b')", "has 2 apps: say broken:NAME"),
    (
        "import bokilog\napp = bokilog.App('a')\n@app.init\ndef start(): 1 / 0",
        "ZeroDivisionError",
    ),
    (
        "import bokilog, threading, time\napp = bokilog.App('a')\n"
        "threading.Thread(target=time.sleep, args=(30,), name='mine', daemon=True).start()",
        'left threads running (mine)',
    ),
]  # fmt: skip


@pytest.mark.parametrize(("text", "said"), BROKEN)
def test_an_app_that_cannot_be_loaded_is_told_with_its_traceback(
    text: str, said: str, tmp_path: Path
) -> None:
    write(tmp_path, "broken", text)
    with FakeHost(tmp_path) as host:
        template = host.launch("broken", tmp_path)
        failed = template.receive(TemplateFailed)
        assert said in failed.trace
        assert "importlib" not in failed.trace
        assert failed.files == [str(tmp_path / "broken.py")], "a change of it means another try"


def test_spawned_workers_are_for_what_does_not_survive_a_fork(tmp_path: Path) -> None:
    text = """
        import bokilog, threading, time
        app = bokilog.App("threads", start="spawn")
        threading.Thread(target=time.sleep, args=(60,), daemon=True).start()

        @app.function
        def alive() -> int:
            return threading.active_count()
    """
    write(tmp_path, "threads", text)
    with FakeHost(tmp_path) as host:
        template = host.launch("threads:app", tmp_path)
        ready(template)
        worker, pid = host.fork(template, "alive")
        assert unpack(worker.run("alive").payload) >= 3
        worker.connection.close()
        assert host.exited(template, pid) == 0
