"""A process ends with the exit code that says why, and within its deadline."""

import errno
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bokilog.errors import DirectoryInUse, NotReady, RemoteProtocolError
from bokilog.io.process import GC_YOUNG_COUNT, RunFile, read_run_file, readable

# A node whose settings say how it behaves.
PROGRAM = """
import asyncio, gc, os, sys
from dataclasses import dataclass
from bokilog.errors import DirectoryInUse
from bokilog.io.process import main

@dataclass(frozen=True, kw_only=True)
class Settings:
    node_id: str
    way: str = "serve"

async def run(settings, ready, stop):
    match settings.way:
        case "in use":
            async with asyncio.TaskGroup() as group:
                async def claim():
                    raise DirectoryInUse("/data")
                group.create_task(claim())
        case "bug":
            raise ZeroDivisionError("a bug")
        case "end":
            return
    ready()
    if settings.way == "collector":
        print(gc.get_threshold()[0], gc.get_freeze_count() > 1_000, flush=True)
        return
    await stop.wait()
    if settings.way == "stubborn":
        while True:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                print("no", flush=True)

sys.exit(main(Settings, section="engine", run=run))
"""
TOML = """
[cluster]
run_dir = "run"
logs_dir = "logs"
stop_timeout_s = 0.1
[nodes.engine-1]
role = "engine"
"""
pytestmark = pytest.mark.slow  # each starts an interpreter


class Node:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "program.py").write_text(PROGRAM)
        (folder / "cluster.toml").write_text(TOML)

    def start(self, way: str, *options: str, flags: tuple[str, ...] = ()) -> subprocess.Popen[str]:
        command = [sys.executable, *flags, "program.py", "--settings", "cluster.toml"]
        return subprocess.Popen(
            [*command, "--node", "engine-1", "--set", f"way={way}", *options],
            cwd=self.folder,
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def until_ready(self) -> RunFile:
        deadline_s = time.monotonic() + 10
        while time.monotonic() < deadline_s:
            said = read_run_file(self.folder / "run", "engine-1")
            if said is not None and said.ready:
                return said
            time.sleep(0.005)
        raise AssertionError("it did not get ready")

    @property
    def log(self) -> str:
        return (self.folder / "logs" / "engine-1.log").read_text()


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)


def test_a_stop_in_order_is_exit_code_0_and_leaves_no_file(node: Node) -> None:
    with node.start("serve") as process:
        assert node.until_ready().pid == process.pid
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
    assert read_run_file(node.folder / "run", "engine-1") is None
    assert "asked to stop by SIGTERM" in node.log


def test_the_end_of_standard_input_stops_it_when_the_supervisor_asked_for_that(node: Node) -> None:
    with node.start("serve", "--stop-with-stdin") as process:
        node.until_ready()
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(10) == 0


def test_what_an_operator_can_mend_is_one_line_and_exit_code_2(node: Node) -> None:
    with node.start("in use") as process:
        _, errors = process.communicate(timeout=10)
    assert process.returncode == 2
    assert (
        errors
        == "engine-1: data directory '/data' is in use already, by another process or by this one\n"
    )
    assert "ERROR engine-1 data directory '/data' is in use" in node.log
    assert "Traceback" not in node.log


def test_a_mistake_in_the_settings_is_one_line_and_exit_code_2(node: Node) -> None:
    with node.start("serve", "--set", "wey=1") as process:
        _, errors = process.communicate(timeout=10)
    assert process.returncode == 2
    assert errors.splitlines() == [
        "engine-1: setting=wey is unknown (in the explicit settings): did you mean way?"
    ]


@pytest.mark.parametrize(
    ("way", "reason"), [("bug", "ZeroDivisionError: a bug"), ("end", "without being asked to stop")]
)
def test_a_bug_is_exit_code_1_with_its_traceback_in_the_log(
    node: Node, way: str, reason: str
) -> None:
    with node.start(way) as process:
        _, errors = process.communicate(timeout=10)
    assert process.returncode == 1
    assert len(errors.splitlines()) == 1
    assert "Traceback" in node.log
    assert reason in node.log


def test_one_that_does_not_stop_is_ended_by_its_deadline(node: Node) -> None:
    with node.start("stubborn") as process:
        node.until_ready()
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 1
    assert "did not stop within 0.1 s, in " in node.log


def test_garbage_is_looked_for_seldom_and_never_in_what_the_process_started_with(
    node: Node,
) -> None:
    with node.start("collector") as process:
        assert process.communicate(timeout=10)[0].split() == [str(GC_YOUNG_COUNT), "True"]


def test_python_without_assertions_is_refused(node: Node) -> None:
    with node.start("serve", flags=("-O",)) as process:
        _, errors = process.communicate(timeout=10)
    assert process.returncode == 2
    assert "python -O is not supported" in errors


def test_what_a_person_can_mend_is_told_from_a_bug() -> None:
    in_use = OSError(errno.EADDRINUSE, "Address already in use", "run/x.sock")
    assert readable(in_use) == "Address already in use: 'run/x.sock'"
    assert readable(OSError(errno.EIO, "Input/output error")) is None
    assert readable(NotReady("no view")) == "not ready: no view"
    assert readable(RemoteProtocolError("garbage")) is None
    both = [DirectoryInUse("/data"), ValueError("a bug")]
    assert readable(ExceptionGroup("tasks", both)) is None
    assert readable(ExceptionGroup("tasks", both[:1])) == str(both[0])


@pytest.mark.parametrize("content", ["", "[]", "{}", json.dumps({"node": 1, "pid": "x"})])
def test_another_programs_run_file_says_nothing(tmp_path: Path, content: str) -> None:
    (tmp_path / "engine-1.json").write_text(content)
    assert read_run_file(tmp_path, "engine-1") is None
