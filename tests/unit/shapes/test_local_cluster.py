"""Processes are started, watched, restarted and stopped; here small shell scripts stand in."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from bokilog.errors import DirectoryInUse, InvalidSettings, NotReady
from bokilog.io.free_ports import free_ports
from bokilog.shapes import local_cluster, supervisor
from bokilog.shapes.cluster_layout import NodePlan, lay_out
from bokilog.shapes.local_cluster import LocalCluster, stop_cluster
from bokilog.shapes.supervisor import (
    ProcessState,
    Restarts,
    check_ports,
    describe_exit,
    node_command,
)
from bokilog.shapes.supervisor_state import STATE, SupervisorFacts, birth, is_alive, read_state

# Says that it is ready, as io/process.py does, then lives until its standard input ends.
READY = """printf '{"node": "%s", "pid": %s, "ready": true, "started_at_ms": 1}' "$0" $$ >"$1/.$0"
mv "$1/.$0" "$1/$0.json"
"""
SERVE = READY + "exec cat >/dev/null"
Stand = Callable[..., LocalCluster]


def shell(scripts: dict[str, str]) -> Callable[[NodePlan, Path], Sequence[str]]:
    """A command that runs one script per node: its own, or the one that serves."""

    def command(node: NodePlan, settings: Path) -> Sequence[str]:
        script = scripts.get(node.id, SERVE)
        return ("/bin/sh", "-c", script, node.id, str(settings.parent / "run"))

    return command


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def make(
    tmp_path: Path, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., LocalCluster]]:
    monkeypatch.setattr(supervisor, "BACK_OFF_S_MIN", 0.001)
    monkeypatch.setattr(supervisor, "BACK_OFF_S_MAX", 0.002)
    monkeypatch.setattr(local_cluster, "POLL_S", 0.005)
    made: list[LocalCluster] = []

    def cluster(**scripts: str) -> LocalCluster:
        by_node = {name.replace("_", "-"): script for name, script in scripts.items()}
        made.append(
            LocalCluster(
                tmp_path / "d",
                storage_nodes=1,
                function_nodes=1,
                port=free_ports(),
                command=shell(by_node),
                say=said.append,
            )
        )
        return made[-1]

    yield cluster
    for each in made:
        each.stop()


def test_a_cluster_is_up_once_every_process_is_ready(make: Stand, said: list[str]) -> None:
    with make() as cluster:
        pids = [cluster.pid(node) for node in ("sequencer-1", "storage-1", "engine-1")]
        assert all(pid is not None and birth(pid) is not None for pid in pids)
        assert sorted(line.split(" after")[0] for line in said) == [
            *("engine-1 ready", "sequencer-1 ready", "storage-1 ready")
        ]
    assert all(pid is None or birth(pid) is None for pid in pids)


def test_a_dead_process_is_started_again(make: Stand, said: list[str]) -> None:
    with make() as cluster:
        before = cluster.pid("storage-1")
        cluster.kill("storage-1")
        cluster.wait_ready("storage-1", restarts=1)
        assert cluster.pid("storage-1") != before
        assert (cluster.restarts("storage-1"), cluster.restarts("engine-1")) == (1, 0)
    assert any(line.startswith("storage-1 was killed by SIGKILL after") for line in said)


def test_a_full_disk_ends_nothing_that_runs(
    make: Stand, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(run_dir: Path, facts: SupervisorFacts, *, written: str | None) -> str:
        raise OSError(28, "No space left on device")

    with make() as cluster:
        before = cluster.pid("engine-1")
        with monkeypatch.context() as patched:
            patched.setattr(supervisor, "write_state", full)
            cluster.kill("storage-1")
            cluster.wait_ready("storage-1", restarts=1)
        assert cluster.pid("engine-1") == before
    assert sum("cannot be written down" in line for line in said) == 1
    state = read_state(cluster.layout.run_dir)
    assert state is not None and state.state == "stopped"


def test_a_process_that_cannot_be_started_now_is_tried_again(
    make: Stand, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with make() as cluster:
        command = cluster._supervisor._command
        monkeypatch.setattr(cluster._supervisor, "_command", lambda *_: ["/not/there"])
        cluster.kill("storage-1")
        deadline_s = time.monotonic() + 20
        while not any("not be started" in line for line in said) and time.monotonic() < deadline_s:
            time.sleep(0.005)
        monkeypatch.setattr(cluster._supervisor, "_command", command)
        cluster.wait_ready("storage-1", restarts=1)
    (told,) = [line for line in said if "not be started" in line]
    assert "storage-1 could not be started: [Errno 2]" in told


def test_a_deleted_run_folder_is_made_again(make: Stand) -> None:
    with make() as cluster:
        shutil.rmtree(cluster.layout.run_dir)
        cluster.kill("storage-1")
        cluster.wait_ready("storage-1", restarts=1)
        state = read_state(cluster.layout.run_dir)
        assert state is not None and state.alive


@pytest.mark.parametrize("replaced", [False, True])
def test_nothing_runs_on_without_the_clusters_data(
    make: Stand, said: list[str], tmp_path: Path, replaced: bool
) -> None:
    data = tmp_path / "d" / "data"
    data.mkdir(parents=True)
    cluster = make()
    cluster.start()
    pids = [cluster.pid(node) for node in ("sequencer-1", "storage-1", "engine-1")]
    data.parent.rename(tmp_path / "moved")
    if replaced:
        data.mkdir(parents=True)
    with pytest.raises(NotReady, match="d/data' was deleted or moved while its cluster ran"):
        cluster.watch(lambda: False)
    assert all(pid is not None and birth(pid) is None for pid in pids)
    assert not (tmp_path / "d" / "run").exists(), "nothing is made in its place"


def test_a_process_that_keeps_dying_ends_the_start_with_its_last_words(make: Stand) -> None:
    cluster = make(storage_1="echo it hurts >&2; exit 3")
    with pytest.raises(NotReady, match=r"storage-1 ended with exit code 3; .*\n +it hurts") as died:
        cluster.start()
    assert str(died.value).count("it hurts") == supervisor.EARLY_DEATHS_MAX
    assert cluster.pid("engine-1") is None


def test_a_mistake_of_the_operator_ends_the_start_at_once(make: Stand) -> None:
    cluster = make(engine_1="echo booting; echo engine-1: address in use >&2; exit 2")
    with pytest.raises(NotReady, match=r"exit code 2; [^\n]*\n    engine-1: address in use$"):
        cluster.start()
    assert cluster.restarts("engine-1") == 0


def test_an_app_that_cannot_be_loaded_ends_the_start_with_its_traceback(make: Stand) -> None:
    begins = "2026-11-22T16:51:00.093Z ERROR engine-1 app=shop:app cannot be loaded:"
    cluster = make(engine_1=f"echo booting; printf '{begins}\nNo shop\n\n' >&2; exit 2")
    with pytest.raises(NotReady, match=rf"exit code 2; [^\n]*\n    {begins}\n    No shop$"):
        cluster.start()


def test_one_that_keeps_dying_later_is_given_up_and_the_others_run_on(
    make: Stand, said: list[str], tmp_path: Path
) -> None:
    once = f"test -e {tmp_path}/again && exit 1; touch {tmp_path}/again; {SERVE}"
    with make(storage_1=once) as cluster:
        cluster.kill("storage-1")
        deadline_s = time.monotonic() + 5
        while not any("given up" in line for line in said) and time.monotonic() < deadline_s:
            time.sleep(0.01)
        assert cluster.pid("storage-1") is None
        assert cluster.pid("engine-1") is not None
        state = read_state(cluster.layout.run_dir)
        assert state is not None
        states = {each.id: each.state for each in state.processes}
        assert states["storage-1"] == ProcessState.FAILED
        assert states["engine-1"] == ProcessState.RUNNING


def test_one_that_never_gets_ready_is_named(make: Stand) -> None:
    with pytest.raises(NotReady, match="sequencer-1 did not get ready in time"):
        make(sequencer_1="exec cat").start(0.05)


def test_one_that_dies_once_it_was_ready_is_started_again(make: Stand, tmp_path: Path) -> None:
    once = f"{READY} test -e {tmp_path}/again || {{ touch {tmp_path}/again; exit 1; }}; exec cat"
    cluster = make(sequencer_1=SERVE, storage_1=once)
    with cluster:
        cluster.wait_ready("storage-1", restarts=1)
        assert cluster.restarts("storage-1") == 1


def test_a_ready_file_of_an_earlier_process_does_not_count(make: Stand) -> None:
    cluster = make(storage_1="exec cat")
    old = {"node": "storage-1", "pid": 1, "ready": True, "started_at_ms": 1}
    (cluster.layout.run_dir / "storage-1.json").write_text(json.dumps(old))
    with pytest.raises(NotReady, match="storage-1 did not get ready in time"):
        cluster.start(0.05)


def test_a_taken_port_is_named_before_anything_is_started(make: Stand, said: list[str]) -> None:
    cluster = make()
    with socket.create_server(("127.0.0.1", cluster.layout.settings.port)):
        port = cluster.layout.settings.port
        with pytest.raises(InvalidSettings, match=f"port={port} cannot be listened on.*in use"):
            cluster.start()
    assert said == []


def test_a_free_port_is_fine() -> None:
    check_ports([free_ports()])


def test_a_directory_has_one_supervisor(make: Stand) -> None:
    make()
    with pytest.raises(DirectoryInUse, match="in use already, by its cluster, which runs"):
        make()


def test_the_supervisors_file_tells_who_runs(make: Stand) -> None:
    with make() as cluster:
        state = read_state(cluster.layout.run_dir)
        assert state is not None
        assert state.alive
        assert (state.pid, state.state, state.url) == (os.getpid(), "running", cluster.url)
        assert [(each.id, each.role, each.restarts) for each in state.processes] == [
            ("sequencer-1", "sequencer", 0),
            ("storage-1", "storage", 0),
            ("engine-1", "engine", 0),
        ]
        assert state.processes[1].pid == cluster.pid("storage-1")
    after = read_state(cluster.layout.run_dir)
    assert after is not None
    assert (after.state, [each.pid for each in after.processes]) == ("stopped", [None] * 3)


def test_one_that_does_not_stop_is_killed(
    make: Stand, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "CANCEL_TIMEOUT_S", -10.9)
    with make(engine_1="trap '' TERM\n" + READY + "while :; do sleep 0.01; done"):
        pass
    assert any(line.startswith("engine-1 did not stop within") for line in said)


def test_a_paused_process_is_stopped_too(make: Stand) -> None:
    with make() as cluster:
        cluster.kill("storage-1", signal.SIGSTOP)
    assert cluster.pid("storage-1") is None


def test_a_log_over_its_size_is_put_aside_before_the_next_start(make: Stand) -> None:
    cluster = make()
    log = cluster.layout.logs_dir / "storage-1.log"
    log.write_bytes(b"x" * (cluster.layout.settings.log_bytes_max + 1))
    with cluster:
        assert log.stat().st_size == 0
        assert log.with_name("storage-1.log.1").exists()


# --- down -----------------------------------------------------------------------------------------


def write_state(run_dir: Path, *, pid: int, born: str | None) -> None:
    """As a supervisor that was killed left it, with one process."""
    process = {"id": "storage-1", "role": "storage", "pid": pid, "birth": born}
    process |= {"state": "running", "restarts": 0, "exit": None, "address": "unix:x"}
    state = {"format": 1, "pid": pid, "birth": "another", "state": "running", "started_at_ms": 1}
    text = json.dumps({**state, "url": "bokilog://x", "processes": [process]})
    (run_dir / STATE).write_text(text)


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(["sleep", "60"])
    yield process
    process.kill()
    process.wait()


def test_down_stops_what_a_killed_supervisor_left(
    tmp_path: Path, sleeper: subprocess.Popen[bytes]
) -> None:
    layout = lay_out(tmp_path)
    write_state(layout.run_dir, pid=sleeper.pid, born=birth(sleeper.pid))
    lines: list[str] = []
    assert stop_cluster(layout, timeout_s=5, say=lines.append)
    assert lines == [f"stopping storage-1 (pid {sleeper.pid})"]
    assert sleeper.wait(5) == -signal.SIGTERM


def test_down_leaves_alone_who_got_the_number_of_a_dead_process(
    tmp_path: Path, sleeper: subprocess.Popen[bytes]
) -> None:
    layout = lay_out(tmp_path)
    write_state(layout.run_dir, pid=sleeper.pid, born="long ago")
    assert not stop_cluster(layout, timeout_s=5, say=print)
    assert sleeper.poll() is None


def test_down_of_what_never_ran_has_nothing_to_do(tmp_path: Path) -> None:
    assert not stop_cluster(lay_out(tmp_path), timeout_s=5, say=print)


def test_up_waits_for_what_a_killed_supervisor_left_and_names_it(
    make: Stand, sleeper: subprocess.Popen[bytes]
) -> None:
    cluster = make()
    write_state(cluster.layout.run_dir, pid=sleeper.pid, born=birth(sleeper.pid))
    with pytest.raises(NotReady, match=r"storage-1 \(pid \d+\) of an earlier start still runs"):
        cluster.start(0.01)
    state = read_state(cluster.layout.run_dir)
    assert state is not None
    assert state.processes[0].pid == sleeper.pid  # so that `down` still finds it


@pytest.mark.slow
@pytest.mark.kill
def test_no_process_outlives_a_supervisor_that_was_killed(tmp_path: Path) -> None:
    program = f"""
import time
from tests.unit.shapes.test_local_cluster import LocalCluster, free_ports, shell
with LocalCluster({str(tmp_path / "d")!r}, port=free_ports(), command=shell({{}})):
    print("up", flush=True)
    time.sleep(60)
"""
    root = Path(__file__).parents[3]
    process = subprocess.Popen(
        [sys.executable, "-c", program], cwd=root, stdout=subprocess.PIPE, text=True
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        state = read_state(tmp_path / "d" / "run")
        process.kill()
    assert state is not None
    deadline_s = time.monotonic() + 5
    while any(is_alive(each.pid or 0, each.birth) for each in state.processes):
        assert time.monotonic() < deadline_s
        time.sleep(0.01)


@pytest.mark.parametrize("content", ["{", "[]", '{"format": 2}', '{"format": 1}'])
def test_a_file_of_another_version_is_an_error(tmp_path: Path, content: str) -> None:
    (tmp_path / STATE).write_text(content)
    with pytest.raises(NotReady, match=r"supervisor\.json"):
        read_state(tmp_path)


# --- pieces ---------------------------------------------------------------------------------------


def test_back_off_doubles_and_starts_over_after_a_good_life() -> None:
    restarts = Restarts()
    lives_s = (3.0, 3.0, 3.0, 3.0, 3.0, 3.0, 3.0, 12.0, 3.0)
    delays = [restarts.delay_s(lived_s) for lived_s in lives_s]
    assert delays == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 0.1, 0.2]
    assert restarts.count == 9


def test_who_was_told_to_stop_starts_again_at_once() -> None:
    restarts = Restarts()
    assert [restarts.delay_s(0.1) for _ in range(4)][-1] is not None
    assert restarts.delay_s(0.1, in_order=True) == 0.0
    assert restarts.delay_s(0.1) is not None  # counting starts over
    assert restarts.count == 6


def test_what_somebody_may_mend_is_tried_for_ever() -> None:
    restarts = Restarts()
    delays = [restarts.delay_s(0.1, mendable=True) for _ in range(20)]
    assert delays[-1] == supervisor.BACK_OFF_S_MAX
    assert None not in delays


def test_five_early_deaths_in_a_row_are_enough() -> None:
    restarts = Restarts()
    assert None not in [restarts.delay_s(0.1) for _ in range(4)]
    assert restarts.delay_s(3.0) is not None  # not early: counting starts over
    assert None not in [restarts.delay_s(0.1) for _ in range(4)]
    assert restarts.delay_s(0.1) is None


def test_the_command_line_of_a_node_names_module_settings_and_node(tmp_path: Path) -> None:
    plan = lay_out(tmp_path).nodes[1]
    assert node_command(plan, tmp_path / "cluster.toml") == (
        *(sys.executable, "-P", "-m", "bokilog.storage_nodes"),
        *("--settings", str(tmp_path / "cluster.toml"), "--node", "storage-1"),
        "--stop-with-stdin",
    )


@pytest.mark.parametrize(
    ("code", "text"),
    [
        (1, "ended with exit code 1"),
        (-9, "was killed by SIGKILL"),
        (-99, "was killed by signal 99"),
    ],
)
def test_an_exit_is_told_in_words(code: int, text: str) -> None:
    assert describe_exit(code) == text


def test_an_unknown_node_is_named(make: Stand) -> None:
    with pytest.raises(InvalidSettings, match="node='x' is none of sequencer-1, storage-1"):
        make().pid("x")
