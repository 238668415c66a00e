"""up, status and down: over a cluster of stand-ins that answer like nodes."""

import asyncio
import json
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from bokilog.cli.cluster import greeting
from bokilog.cli.restart import what_is_wrong
from bokilog.cli.status import ask_status, collect, show
from bokilog.errors import NodeUnreachable, NotReady
from bokilog.framing import WireMessage
from bokilog.io.free_ports import free_ports
from bokilog.io.transport import Link, LinkCallbacks, listen
from bokilog.messages import Hello, Status, StatusRequest, Welcome
from bokilog.shapes.cluster_layout import lay_out
from bokilog.shapes.local_cluster import LocalCluster
from bokilog.wire import decode, encode
from tests.unit.shapes.test_local_cluster import shell

Run = Callable[..., tuple[int, str, str]]
ROOT = Path(__file__).parents[3]
# Starts stand-ins in place of nodes, else the real command line.
PROGRAM = """
import sys
from bokilog.cli import cluster
from bokilog.cli.main import main
from bokilog.shapes.local_cluster import LocalCluster
from tests.unit.shapes.test_local_cluster import shell
def stand_ins(*arguments, **options):
    return LocalCluster(*arguments, **options, command=shell({scripts!r}))
cluster.LocalCluster = stand_ins
sys.exit(main(sys.argv[1:]))
"""


def bokilog(*arguments: str, scripts: dict[str, str] | None = None) -> subprocess.Popen[str]:
    program = PROGRAM.format(scripts=scripts or {})
    return subprocess.Popen(
        [sys.executable, "-c", program, *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def up(directory: Path, *options: str, scripts: dict[str, str] | None = None) -> list[str]:
    """The command line of a small cluster on a free port."""
    size = ["--storage-nodes", "1", "--function-nodes", "1", "--port", str(free_ports(2))]
    return ["up", "--dir", str(directory), *size, *options]


# --- up and down ----------------------------------------------------------------------------------


@pytest.mark.slow
def test_up_in_the_foreground_ends_in_order_by_a_signal(tmp_path: Path) -> None:
    with bokilog(*up(tmp_path / "d")) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(4)]
        assert lines[-1].startswith("up after")
        process.send_signal(signal.SIGINT)
        assert process.wait(15) == 0
    state = json.loads((tmp_path / "d" / "run" / "supervisor.json").read_text())
    assert state["state"] == "stopped"


@pytest.mark.slow
def test_up_detached_returns_once_all_is_ready_and_down_ends_it(tmp_path: Path, run: Run) -> None:
    directory = str(tmp_path / "my d")
    with bokilog(*up(tmp_path / "my d", "--detach")) as process:
        output, errors = process.communicate(timeout=15)
    assert (process.returncode, errors) == (0, "")
    assert f"stop it with: bokilog down --dir '{directory}'" in output
    # Stand-ins are ready and serve nothing: that they run is not all there is to say.
    assert output.splitlines()[-2].startswith("the log does not answer yet: cannot reach tcp:")
    assert output.splitlines()[-1] == f"what it waits for: bokilog status --dir '{directory}'"
    try:
        second = bokilog(*up(tmp_path / "my d"))
        _, errors = second.communicate(timeout=15)
        assert second.returncode == 1
        assert errors.startswith("error: DirectoryInUse: ")
        assert errors.endswith("is in use already, by its cluster, which runs\n")
        assert run("recover", "--dir", directory) == (1, "", errors)
    finally:
        code, output, _ = run("down", "--dir", directory)
    assert code == 0
    assert output.splitlines()[-1].startswith("down after")
    assert run("down", "--dir", directory)[1] == "nothing is running\n"
    assert "ready" in (tmp_path / "my d" / "logs" / "supervisor.log").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("options", [(), ("--detach",)])
def test_a_directory_that_cannot_be_made_is_one_line(
    tmp_path: Path, options: tuple[str, ...]
) -> None:
    (tmp_path / "file").touch()
    with bokilog(*up(tmp_path / "file" / "d", *options)) as process:
        _, errors = process.communicate(timeout=15)
    assert process.returncode == 1
    assert re.fullmatch(r"error: Not a directory: /\S+/file/d\S*\n", errors)


@pytest.mark.slow
@pytest.mark.parametrize("options", [(), ("--detach",)])
def test_up_fails_in_words_when_a_process_cannot_start(
    tmp_path: Path, options: tuple[str, ...]
) -> None:
    scripts = {"storage-1": "echo the disk is on fire >&2; exit 2"}
    with bokilog(*up(tmp_path / "d", *options), scripts=scripts) as process:
        _, errors = process.communicate(timeout=15)
    assert process.returncode == 1
    assert errors.splitlines()[-1] == "    the disk is on fire"
    assert errors.startswith("error: NotReady: ")


def test_an_even_number_of_sequencers_is_refused_in_one_line(tmp_path: Path, run: Run) -> None:
    code, _, errors = run("up", "--dir", str(tmp_path / "d"), "--sequencers", "2")
    assert code == 2
    assert errors.startswith("error: InvalidSettings: sequencers=2 is even")
    assert not (tmp_path / "d").exists()


@pytest.mark.parametrize("command", ["status", "down"])
def test_a_directory_without_a_cluster_is_named(tmp_path: Path, run: Run, command: str) -> None:
    code, _, errors = run(command, "--dir", str(tmp_path))
    assert code == 2
    assert "holds no cluster" in errors


# --- status ---------------------------------------------------------------------------------------


def answering(facts: dict[str, object]) -> LinkCallbacks:
    """A node that knows nothing but its status."""

    def on_messages(link: Link, messages: list[WireMessage]) -> None:
        for each in messages:
            match decode(*each):
                case Hello(role=role):
                    assert role == "control"
                case StatusRequest(request=request):
                    link.send(*encode(Status(request, facts)))
                case other:
                    raise AssertionError(other)

    return LinkCallbacks(on_messages=on_messages)


def test_a_log_can_be_used_once_its_engine_greets_a_client(tmp_path: Path) -> None:
    address = f"unix:{tmp_path}/x.sock"
    welcome = Welcome("engine-1", 1, "c", "h", 1, [], [])

    def on_messages(link: Link, messages: list[WireMessage]) -> None:
        (hello,) = [decode(*each) for each in messages]
        assert isinstance(hello, Hello)
        assert (hello.role, hello.node) == ("client", "")
        link.send(*encode(StatusRequest(1)))  # whatever else is said
        link.send(*encode(welcome))

    async def scenario() -> Welcome:
        listener = await listen(address, LinkCallbacks(on_messages=on_messages))
        try:
            return await greeting(address)
        finally:
            await listener.aclose()

    assert asyncio.run(scenario()) == welcome


def silent() -> LinkCallbacks:
    return LinkCallbacks(on_messages=lambda link, messages: None)


def test_a_process_is_asked_over_its_socket(tmp_path: Path) -> None:
    address = f"unix:{tmp_path}/x.sock"

    async def scenario() -> dict[str, object]:
        listener = await listen(address, answering({"role": "storage", "spaces": {0: {}}}))
        try:
            return await ask_status(address)
        finally:
            await listener.aclose()

    assert asyncio.run(scenario()) == {"role": "storage", "spaces": {0: {}}}


def test_a_process_that_does_not_answer_is_given_up(tmp_path: Path) -> None:
    address = f"unix:{tmp_path}/x.sock"

    async def scenario() -> None:
        listener = await listen(address, silent())
        try:
            with pytest.raises(NotReady, match=r"did not answer within 0\.25 s"):
                await ask_status(address, timeout_s=0.25)
            with pytest.raises(NotReady, match=r"did not answer within 0\.125 s"):
                await greeting(address, timeout_s=0.125)
        finally:
            await listener.aclose()
        with pytest.raises(NodeUnreachable):
            await ask_status(address, timeout_s=0.02)

    asyncio.run(scenario())


def test_status_joins_supervisor_views_and_nodes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster = LocalCluster(
        tmp_path / "d", storage_nodes=2, function_nodes=1, port=free_ports(2), command=shell({})
    )
    primary = {"position": [1, 12], "published": [1, 12], "tail": 40}
    replica = {"position": [1, 9], "stored": [1, 8], "read_only": "disk full"}

    async def scenario() -> dict[str, object]:
        addresses = [node.addresses[0] for node in cluster.layout.nodes]
        listeners = [
            await listen(addresses[0], answering({"role": "sequencer", "spaces": {0: primary}})),
            await listen(addresses[1], answering({"role": "storage", "spaces": {0: replica}})),
        ]
        try:
            return await collect(cluster.layout)
        finally:
            for listener in listeners:
                await listener.aclose()

    with cluster:
        facts = asyncio.run(scenario())
    json.dumps(facts)  # plain values only
    show(facts)
    shown = capsys.readouterr().out
    assert re.search(r"storage-1 +running .* read-only: disk full", shown)
    assert re.search(r"storage-2 +running .* does not answer", shown)
    assert re.search(r"0 +sync +2 of 2 +12 +40 +storage-1 3, storage-2 -", shown)
    assert isinstance(facts["processes"], list)
    processes = [
        {name: process[name] for name in ("id", "role", "state", "primary", "restarts")}
        for process in facts["processes"]
    ]
    assert processes[:2] == [
        {
            "id": "sequencer-1",
            "role": "sequencer",
            "state": "running",
            "primary": True,
            "restarts": 0,
        },
        {
            "id": "storage-1",
            "role": "storage",
            "state": "running",
            "primary": False,
            "restarts": 0,
        },
    ]
    assert facts["processes"][0]["facts"]["role"] == "sequencer"
    assert "cannot reach" in facts["processes"][2]["problem"]
    assert isinstance(facts["log_spaces"], list)
    sync = facts["log_spaces"][0]
    assert (sync["durability"], sync["write_quorum"], sync["tail"]) == ("sync", 2, 40)
    assert sync["lag"] == {"storage-1": 3, "storage-2": None}
    assert facts["log_spaces"][1]["lag"] == {"storage-2": None, "storage-1": None}


def test_status_shows_names_whole_and_a_line_between_words_and_table(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    row = {"state": "running", "pid": 4_194_304, "restarts": 0, "primary": False, "exit": None}
    row |= {"role": "storage", "facts": None, "problem": "it stands still since it was paused"}
    control = {"last_change": None, "active": True, "missing": "", "blocked": "", "reason": ""}
    show(
        {
            "directory": "d",
            "url": "bokilog://127.0.0.1:7300",
            "supervisor": {"state": "running"},
            "views": {"store": "d/views"},
            "view": None,
            "control": control | {"nodes": {"storage-2": {"why": "it is silent"}}},
            "processes": [row | {"id": f"storage-{number}"} for number in (1, 2)],
            "log_spaces": [],
            "disk": {},
        }
    )
    lines = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    assert lines[2:5] == ["views in d/views", "storage-2 is suspected: it is silent", ""]
    table = lines[5:]
    assert table[0].startswith("process")
    for name in ("storage-1", "storage-2"):
        assert sum(line.startswith(f"{name} ") for line in table) == 1


def test_nobody_is_restarted_while_no_view_can_be_read(tmp_path: Path, run: Run) -> None:
    """A process that starts without one ends at once; `status` names the problem, too."""
    layout = lay_out(tmp_path / "d")
    facts = asyncio.run(collect(layout))
    assert what_is_wrong(facts) == "storage-1 does not say how far it is in log space 0"
    for view in (layout.directory / "views").glob("*.view"):
        view.unlink()
    facts = asyncio.run(collect(layout))
    assert what_is_wrong(facts).startswith("no view is stored in ")
    _, out, _ = run("status", "--dir", str(layout.directory))
    assert "the present one holds: no view is stored in " in out


def test_status_of_a_stopped_cluster_shows_what_is_known(tmp_path: Path, run: Run) -> None:
    lay_out(tmp_path / "[odd] d", storage_nodes=1)
    code, output, _ = run("status", "--dir", str(tmp_path / "[odd] d"))
    assert code == 0
    assert "[odd] d: never started, term 0\n" in output
    code, output, _ = run("status", "--dir", str(tmp_path / "[odd] d"), "--json")
    facts = json.loads(output)
    assert facts["view"]["term"] == 0
    assert facts["supervisor"] == {"state": "never started", "pid": None}
