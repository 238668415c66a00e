"""A local cluster with an app: hosts beside engines, killed while calls run."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from urllib.request import Request, urlopen

import pytest

from bokilog.call_errors import WorkerLost
from bokilog.errors import NodeUnreachable
from bokilog.functions.runtime.app import App
from bokilog.io.free_ports import free_ports
from bokilog.shapes.local_cluster import LocalCluster
from tests.integration.apps import small_app
from tests.integration.hosting import APPS, descendants, is_there

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]


def with_app(directory: Path) -> LocalCluster:
    return LocalCluster(
        directory, port=free_ports(2), app="small_app:app", app_dir=APPS, http_port=free_ports()
    )


def gone(pids: set[int], timeout_s: float = 10.0) -> bool:
    deadline_s = time.monotonic() + timeout_s
    while any(is_there(pid) for pid in pids) and time.monotonic() < deadline_s:
        time.sleep(0.02)
    return not any(is_there(pid) for pid in pids)


@pytest.mark.kill
def test_hosts_and_engines_are_killed_while_calls_run(tmp_path: Path) -> None:
    async def work(cluster: LocalCluster) -> None:
        async with small_app.app.connect(cluster.url) as connected:
            assert await small_app.twice.remote(4) == 16
            assert await small_app.read_back.remote("before") == "before"
            first = connected.host
            below = descendants_of(cluster.pid(first))
            assert below, "a template and workers"
            running = asyncio.create_task(small_app.naps.remote(30.0))
            await asyncio.sleep(0.3)
            cluster.kill(first)
            with pytest.raises((WorkerLost, NodeUnreachable)):
                await running
            assert gone(below), "templates and workers end with their host"
            assert await small_app.twice.remote(5) == 20, "the other host serves meanwhile"
            engine = connected.host.replace("host", "engine")
            cluster.kill(engine)
            cluster.wait_ready(engine, restarts=1)
            text = await small_app.read_back.with_options(timeout_s=30).remote("after")
            assert text == "after"
            cluster.wait_ready(first, restarts=1)

    before = descendants()
    with with_app(tmp_path) as cluster:
        asyncio.run(work(cluster))
    assert gone(descendants() - before)


def test_callers_see_no_errors_while_hosts_are_restarted_one_after_the_other(
    tmp_path: Path,
) -> None:
    async def work(cluster: LocalCluster) -> int:
        answered = 0
        async with small_app.app.connect(cluster.url):
            words = ["restart", "host-1", "host-2", "--dir", str(tmp_path)]
            restart = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "bokilog.cli.main", *words), stdout=subprocess.DEVNULL
            )
            over = asyncio.create_task(restart.wait())
            while not over.done():
                assert await small_app.twice.remote(3) == 12
                answered += 1
                await asyncio.sleep(0.005)
            assert over.result() == 0
        return answered

    with with_app(tmp_path) as cluster:
        assert asyncio.run(work(cluster)) > 20
        assert [cluster.restarts(f"host-{number}") for number in (1, 2)] == [1, 1]


def test_calls_come_in_over_http_and_by_the_command_line(tmp_path: Path) -> None:
    with with_app(tmp_path) as cluster:
        request = Request(f"{cluster.layout.http_url}/f/double", data=b"[21]", method="POST")
        request.add_header("Content-Type", "application/json")
        with urlopen(request, timeout=20) as answer:
            assert json.load(answer) == 42

        def bokilog(*words: str) -> subprocess.CompletedProcess[str]:
            command = [sys.executable, "-m", "bokilog.cli.main", *words, "--url", cluster.url]
            return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

        called = bokilog("call", "small.double", "x=4", "--json")
        assert called.returncode == 0, called.stderr
        plain = json.loads(called.stdout)
        assert plain["result"] == 8
        written = bokilog("logs", plain["call"])
        assert written.stdout == "doubling 4\n"
        large = bokilog("call", "small.repeat", "text=ab", "count=200000")  # by reference
        assert large.stdout == json.dumps("ab" * 200_000) + "\n", large.stderr
        failed = bokilog("call", "small.fails")
        assert failed.returncode == 1
        assert "ValueError: as asked" in failed.stderr and "small_app.py" in failed.stderr
        status = subprocess.run(
            [sys.executable, "-m", "bokilog.cli.main", "status", "--dir", str(tmp_path), "--json"],
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        hosts = [p for p in json.loads(status.stdout)["processes"] if p["role"] == "host"]
        assert [(p["id"], p["state"], p["problem"]) for p in hosts] == [
            ("host-1", "running", None),
            ("host-2", "running", None),
        ]


@pytest.mark.parametrize("embedded", [True, False], ids=["embedded", "cluster"])
def test_dev_is_one_command(tmp_path: Path, embedded: bool) -> None:
    (tmp_path / "code").mkdir()
    app = tmp_path / "code" / "small_app.py"
    app.write_text((APPS / "small_app.py").read_text())
    port = free_ports(2)
    words = [
        *("dev", "small_app:app", "--app-dir", str(app.parent), "--dir", str(tmp_path / "data")),
        *("--port", str(port), "--http-port", str(free_ports())),
        *(["--embedded"] if embedded else []),
    ]
    url = f"bokilog://127.0.0.1:{port}"
    shown = tmp_path / "shown"
    with shown.open("w") as out:
        dev = subprocess.Popen(
            [sys.executable, "-m", "bokilog.cli.main", *words],
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

        async def work() -> None:
            async with small_app.app.connect(url, connect_timeout_s=30):
                assert await small_app.double.remote(4) == 8

        try:
            until_shown(shown, "log at")
            asyncio.run(work())
            app.write_text(app.read_text() + "\n# changed\n")
            until_shown(shown, "version 2")
            below = descendants_of(dev.pid)
        finally:
            dev.send_signal(signal.SIGINT)
            code = dev.wait(30)
    text = shown.read_text()
    assert code == 0, text
    assert "| doubling 4" in text and "ok     double" in text
    assert gone(below), "nothing is left running"


OTHER = """
import bokilog
app = bokilog.App({name!r})
@app.function
async def {function}(number: int) -> str:
    return f"{function} {{number}}"
"""


def test_apps_are_served_beside_a_log_and_those_of_one_name_are_warned_of(tmp_path: Path) -> None:
    apps = {"first": ("one", "alpha"), "second": ("two", "beta"), "third": ("one", "gamma")}
    for module, (name, function) in apps.items():
        (tmp_path / f"{module}.py").write_text(OTHER.format(name=name, function=function))
    ports = free_ports(4)
    url = f"bokilog://127.0.0.1:{ports}"
    shown = {module: tmp_path / module for module in apps}

    def started(module: str, *words: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "bokilog.cli.main", *words]
        with shown[module].open("w") as out:
            return subprocess.Popen(command, cwd=tmp_path, stdout=out, stderr=subprocess.STDOUT)

    async def called() -> list[object]:
        return [
            await asked(url, "one", "alpha"),
            await asked(url, "two", "beta"),
        ]

    log = ["--embedded", "--memory", "--port", str(ports), "--http-port", str(ports + 1)]
    processes = [started("first", "dev", "first:app", *log)]
    try:
        until_shown(shown["first"], "log at")
        for offset, module in enumerate(("second", "third"), 2):
            port = str(ports + offset)
            words = ("serve", f"{module}:app", "--connect", url, "--http-port", port)
            processes.append(started(module, *words))
            if module == "second":
                until_shown(shown[module], "log at")
                assert asyncio.run(called()) == ["alpha 1", "beta 1"]
        until_shown(shown["third"], "it lacks gamma, and has alpha besides")
        until_shown(shown["first"], "it lacks alpha, and has gamma besides")
        assert "warning" not in shown["second"].read_text()
    finally:
        for process in reversed(processes):
            process.send_signal(signal.SIGINT)
        codes = [process.wait(30) for process in reversed(processes)]
    assert codes == [0, 0, 0]


async def asked(url: str, name: str, function: str) -> object:
    """What a function of an app gives for 1."""
    app = App(name)

    async def body(number: int) -> str:
        raise AssertionError("it runs elsewhere")

    declared = app.function(name=function)(body)
    async with app.connect(url):
        return await declared.remote(1)


def until_shown(file: Path, text: str, timeout_s: float = 40.0) -> None:
    deadline_s = time.monotonic() + timeout_s
    while text not in file.read_text():
        assert time.monotonic() < deadline_s, file.read_text()
        time.sleep(0.05)


def descendants_of(pid: int | None) -> set[int]:
    """All live processes below another one."""
    assert pid is not None
    found = set[int]()
    for each in descendants():
        parent = each
        while parent > 1 and parent != pid:
            try:
                fields = Path(f"/proc/{parent}/stat").read_text().rpartition(")")[2].split()
            except OSError:
                break
            parent = int(fields[1])
        if parent == pid and each != pid:
            found.add(each)
    return found
