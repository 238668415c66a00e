"""The benchmarks run from one end to the other, print what they promise, and leave nothing behind.

What they find means nothing here: other tests share the machine.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
KEYS = {"name", "value", "unit", "against", "ratio", "bar", "holds"}

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]


def results_of(command: Sequence[str], directory: Path) -> dict[str, dict[str, object]]:
    """What a benchmark prints as JSON, by name; its directory must be empty afterwards."""
    done = subprocess.run(
        [sys.executable, *command, "--json", "--dir", str(directory)],
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert list(directory.iterdir()) == []
    results = json.loads(done.stdout)["results"]
    assert all(result.keys() >= KEYS for result in results)
    return {result["name"]: result for result in results}


def bench(*arguments: str) -> list[str]:
    return ["-P", "-m", "bokilog.cli.main", "bench", *arguments]


def script(name: str, *arguments: str) -> list[str]:
    return [str(ROOT / "scripts" / "bench" / name), *arguments]


@pytest.mark.parametrize("shape", ["embedded", "cluster"])
def test_appends_are_measured_on_both_shapes(shape: str, tmp_path: Path) -> None:
    results = results_of(bench("append", "--shape", shape, "--quick"), tmp_path)
    name = f"{shape}.append.sync.1024B.256x"
    assert results[name]["unit"] == "appends/s"
    value = results[name]["value"]
    assert isinstance(value, float)
    assert value > 0
    budget = {each.rpartition(".")[2] for each in results if each.startswith(f"{name}.cpu.")}
    nodes = {"sequencer-1", "storage-1", "storage-2", "storage-3", "engine-1", "engine-2"}
    if sys.platform == "linux":
        ours = {"embedded"} if shape == "embedded" else {"client", "follower", *nodes}
        assert budget == ours


@pytest.mark.parametrize("shape", ["embedded", "cluster"])
def test_no_append_is_faster_than_its_syncs(shape: str, tmp_path: Path) -> None:
    command = ("--outstanding", "1", "--sync-delay-ms", "1", "--size", "128", "--quick")
    results = results_of(bench("append", "--shape", shape, *command), tmp_path)
    (delayed,) = (each for each in results.values() if each["bar"] is not None)
    assert delayed["holds"] is True
    value = delayed["value"]
    assert isinstance(value, float)
    assert value >= {"embedded": 1_000, "cluster": 2_000}[shape]


def test_what_was_read_once_is_read_again_without_a_message(tmp_path: Path) -> None:
    command = ("read", "--shape", "cluster", "--outstanding", "1", "--quick")
    results = results_of(bench(*command), tmp_path)
    assert results["cluster.read-again.1024B.1x.messages"]["value"] == 0
    assert results["cluster.read-from-engine.1024B.1x.p50"]["against"] == "machine.unix-round-trip"
    assert "cluster.read-from-storage.1024B.1x" in results


@pytest.mark.parametrize(
    ("command", "name"),
    [
        (("follow",), "embedded.follow.sync.1024B.256x.catching-up"),
        (("large", "--records", "8"), "embedded.append.flush.1048576B.16x.bandwidth"),
        (("start",), "start.open"),
        (("functions",), "call.function-to-function.p50"),
    ],
)
def test_the_other_benchmarks_run(command: tuple[str, ...], name: str, tmp_path: Path) -> None:
    assert name in results_of(bench(*command, "--quick"), tmp_path)


def test_memory_is_watched_and_old_tags_are_found(tmp_path: Path) -> None:
    results = results_of(bench("memory", "--records", "3000"), tmp_path)
    assert "memory.3000-records.read-next-of-old-tags" in results
    if sys.platform == "linux":
        assert results["memory.3000-records.storage-1"]["unit"] == "MiB"


def test_the_bare_chain_runs(tmp_path: Path) -> None:
    assert "chain.2-of-3.flush.128B.256x" in results_of(script("chain.py", "--quick"), tmp_path)


@pytest.mark.service("redis-server")
@pytest.mark.service("nats-server")
def test_peers_take_turns_with_ours(tmp_path: Path) -> None:
    pytest.importorskip("redis")
    pytest.importorskip("nats")
    names = ("embedded.append.sync.1024B.256x", "redis-py.always.1024B.256x", "nats", "sqlite3")
    only = [word for name in names for word in ("--only", name)]
    results = results_of(script("peers.py", "--quick", *only), tmp_path)
    assert "nats-py.jetstream.1024B.256x" in results
    ours = results["embedded.append.sync.1024B.256x"]
    assert ours["against"] is not None
    assert ours["bar"] is not None


@pytest.mark.skipif(sys.platform != "linux", reason="finds processes by /proc")
def test_an_interrupted_benchmark_leaves_nothing_running(tmp_path: Path) -> None:
    command = bench("append", "--shape", "cluster", "--rounds", "100", "--dir", str(tmp_path))
    process = subprocess.Popen(
        [sys.executable, *command], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL
    )
    assert process.stderr is not None
    try:
        assert b"round 1" in process.stderr.readline()
        assert len(children(process.pid)) >= 8
        started = children(process.pid)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 130
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        process.stderr.close()
    deadline_s = time.monotonic() + 10
    while any(alive(pid) for pid in started) and time.monotonic() < deadline_s:
        os.sched_yield()
    assert [pid for pid in started if alive(pid)] == []
    assert list(tmp_path.iterdir()) == []


def children(pid: int) -> list[int]:
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        found += [int(child) for child in (task / "children").read_text().split()]
    return found


def alive(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()
