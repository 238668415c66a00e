"""Starts the processes of a local cluster, watches them, restarts the dead, stops them in order.

Decides when a dead process is started again and when that has become pointless. Restarts back off
from 0.1 s, doubling to 5 s, and start over once a process has lived for 10 s; one that was told to
stop, and did, starts again at once (`bokilog restart`). One that dies five
times in a row within its first 2 s is given up: while the cluster starts this ends the start, later
it leaves that process down (`status` shows it) and the others running. A process that cannot start
for a reason that an operator can mend (exit code 2), a full disk perhaps, ends the start at once;
later it is tried until somebody has mended it.

Invariants: every process started here is ended here: told to stop, given `stop_timeout_s`, then
killed; if the supervisor itself is killed they see the end of their standard input and stop by
themselves. Only processes started by a supervisor of this directory are ever signalled, and a
number that the operating system has given to another process since is told by its birth. Every wait
has a deadline. Nothing runs on without the cluster's data: processes would go on appending, and
acknowledging, to files that nobody can open any more.

Does not know what the processes do, nor who watches (`local_cluster.py`).
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from enum import StrEnum
from pathlib import Path
from shlex import quote
from typing import Final

from bokilog.errors import DirectoryInUse, InvalidSettings, NotReady
from bokilog.io import logs
from bokilog.io.directory import lock_file
from bokilog.io.process import CANCEL_TIMEOUT_S, EXIT_USAGE, read_run_file, run_file
from bokilog.shapes.cluster_layout import HOST, Layout, NodePlan
from bokilog.shapes.supervisor_state import (
    RUNNING,
    ProcessFacts,
    SupervisorFacts,
    birth,
    is_alive,
    read_state,
    write_state,
)

LOCK: Final = "supervisor.lock"
START_TIMEOUT_S: Final = 20.0
POLL_S: Final = 0.05
_POLL_FAST_S: Final = 0.01  # while somebody waits for a start or an end
BACK_OFF_S_MIN: Final = 0.1
BACK_OFF_S_MAX: Final = 5.0
STEADY_S: Final = 10.0  # who lived this long was healthy: the back-off starts over
EARLY_S: Final = 2.0
EARLY_DEATHS_MAX: Final = 5
_KILL_TIMEOUT_S: Final = 5.0
_TAIL_LINES: Final = 12
_WORDS_LINES: Final = 40  # of an app that cannot be loaded, with the traceback
# Whoever uses others stops first, so that what it still owes them arrives.
_STOP_ORDER: Final = (("host",), ("engine",), ("storage",), ("sequencer",))
_MODULES: Final = {
    "sequencer": "bokilog.sequencer",
    "storage": "bokilog.storage_nodes",
    "engine": "bokilog.functions.engine",
    "host": "bokilog.functions",
}

Command = Callable[[NodePlan, Path], Sequence[str]]
"""The command line of a process, from its plan and the settings file."""
Say = Callable[[str], None]
"""Where lines for people go."""
_log = logging.getLogger(__name__)


def node_command(node: NodePlan, settings_file: Path) -> Sequence[str]:
    """How a process of bokilog is started. `-P`: the current folder is not on its import path."""
    return (
        *(sys.executable, "-P", "-m", _MODULES[node.role]),
        *("--settings", str(settings_file), "--node", node.id, "--stop-with-stdin"),
    )


class ProcessState(StrEnum):
    """Where a process of the cluster stands."""

    STARTING = "starting"
    RUNNING = "running"
    WAITING = "waiting"  # dead, to be started again after its back-off
    FAILED = "failed"  # given up
    STOPPED = "stopped"


class Restarts:
    """When a dead process is started again. Pure: told how long it lived."""

    __slots__ = ("_delay_s", "count", "early_deaths")

    def __init__(self) -> None:
        self.count = 0
        self.early_deaths = 0
        """In a row."""
        self._delay_s = BACK_OFF_S_MIN

    def delay_s(
        self, lived_s: float, *, in_order: bool = False, mendable: bool = False
    ) -> float | None:
        """How long to wait before the next start; None: give up.

        Args:
            lived_s: since the start.
            in_order: it served, and stopped because somebody told it to: it starts again at once.
            mendable: it named a reason that somebody may mend at any time: it is not given up.
        """
        if in_order:
            self.count, self.early_deaths = self.count + 1, 0
            return 0.0
        early = lived_s < EARLY_S and not mendable
        self.early_deaths = self.early_deaths + 1 if early else 0
        if self.early_deaths >= EARLY_DEATHS_MAX:
            return None
        if lived_s >= STEADY_S:
            self._delay_s = BACK_OFF_S_MIN
        delay_s, self._delay_s = self._delay_s, min(2 * self._delay_s, BACK_OFF_S_MAX)
        self.count += 1
        return delay_s


class _Child:
    """One process and what became of its starts."""

    def __init__(self, plan: NodePlan) -> None:
        self.plan = plan
        self.state = ProcessState.STOPPED
        self.restarts = Restarts()
        self.process: subprocess.Popen[bytes] | None = None
        self.birth: str | None = None
        self.was_ready = False  # in any of its lives
        self.started_s = 0.0
        self.start_at_s = 0.0
        self.exit: str | None = None

    def facts(self) -> ProcessFacts:
        return ProcessFacts(
            id=self.plan.id,
            role=self.plan.role,
            pid=self.process.pid if self.process is not None else None,
            birth=self.birth,
            state=self.state,
            restarts=self.restarts.count,
            exit=self.exit,
            address=self.plan.addresses[0],
        )


def lock_cluster(layout: Layout) -> int:
    """The descriptor of the lock of a cluster's directory, until it is closed.

    Raises:
        DirectoryInUse: its supervisor lives.
    """
    try:
        return lock_file(layout.run_dir / LOCK, owner_of=layout.directory)
    except DirectoryInUse as error:
        raise DirectoryInUse(error.path, RUNNING) from None


class Supervisor:
    """Owner of a directory's processes, one at a time (file lock). Used from one thread.

    Args:
        layout: of `lay_out`.
        command: how a process is started.
        say: gets a line per event, for people.

    Raises:
        DirectoryInUse: another supervisor has the directory.
    """

    def __init__(self, layout: Layout, *, command: Command = node_command, say: Say) -> None:
        self.layout = layout
        self._command = command
        self._say = say
        self._children = {node.id: _Child(node) for node in layout.nodes}
        self._birth = birth(os.getpid())
        self._written: str | None = None
        self._state_lags = False
        self._owns_state = False  # until then the file tells of an earlier supervisor's processes
        self._state = "starting"
        self._started_at_ms = time.time_ns() // 1_000_000
        self._data: tuple[int, int] | None = None  # None: there was none, or not all have started
        self._lock: int | None = lock_cluster(layout)

    # --- for its owner ----------------------------------------------------------------------------

    def start(
        self,
        timeout_s: float = START_TIMEOUT_S,
        *,
        interrupted: Callable[[], bool] = lambda: False,
    ) -> None:
        """Start every process and return once all are ready; on failure none is left running.

        Returns early when `interrupted` says so: then it is the caller's to `stop()`.

        Raises:
            InvalidSettings: a port is taken.
            NotReady: a process of an earlier supervisor is still there, one keeps dying, or not
                all were ready in time.
        """
        try:
            self._await_orphans(timeout_s)
            self._owns_state = True
            metrics = self.layout.metrics_ports.values()
            check_ports((*self.layout.ports, *self.layout.http_ports, *metrics))
            deadline_s = time.monotonic() + timeout_s
            for child in self._children.values():
                self._spawn(child)
            while self._not_ready():
                if interrupted():
                    return
                self.step()
                self._check_start(deadline_s)
                time.sleep(_POLL_FAST_S)
        except BaseException:
            self.stop()
            raise
        self._state = "running"
        self._write_state()
        self._data = _identity(self.layout.data_dir)

    def step(self) -> None:
        """Look after every process once; never waits.

        Raises:
            NotReady: the data is not there any more; nothing is left running.
        """
        if not self._has_data():
            self._owns_state = False  # nor is there a place to write it to
            self.stop()
            raise NotReady(
                f"{str(self.layout.data_dir)!r} was deleted or moved while its cluster ran:"
                " everything is stopped, since what is appended to deleted files is lost"
            )
        now_s = time.monotonic()
        for child in self._children.values():
            if child.process is None:
                if child.state is ProcessState.WAITING and now_s >= child.start_at_s:
                    self._spawn_again(child, now_s)
                continue
            code = child.process.poll()
            if code is not None:
                self._bury(child, code, now_s)
            elif child.state is ProcessState.STARTING:
                self._look_whether_ready(child, now_s)
        self._write_state()

    def stop(self) -> None:
        """Stop every process in order, kill what does not; then give the directory back."""
        if self._lock is None:
            return
        self._state = "stopping"
        self._write_state()
        for roles in _STOP_ORDER:
            self._stop_group([c for c in self._children.values() if c.plan.role in roles])
        self._state = "stopped"
        self._write_state()
        os.close(self._lock)
        self._lock = None

    def pid(self, node: str) -> int | None:
        """The process of that name, while it lives."""
        process = self._child(node).process
        return None if process is None or process.poll() is not None else process.pid

    def signal(self, node: str, number: signal.Signals) -> None:
        """Send a signal to a live process: for tests that kill, pause and continue."""
        process = self._child(node).process
        if process is not None:
            process.send_signal(number)

    def is_ready(self, node: str) -> bool:
        """Whether the process of that name serves now."""
        return self._child(node).state is ProcessState.RUNNING

    def restarts(self, node: str) -> int:
        """How often the process of that name was started again."""
        return self._child(node).restarts.count

    # --- lives ------------------------------------------------------------------------------------

    def _has_data(self) -> bool:
        """Whether the data is where it was when all had started."""
        try:
            return self._data is None or _identity(self.layout.data_dir) == self._data
        except OSError:
            return True  # it cannot be told: no reason to end what runs

    def _child(self, node: str) -> _Child:
        for name, child in self._children.items():
            if name == node:
                return child
        raise InvalidSettings("node", repr(node), f"is none of {', '.join(self._children)}")

    def _spawn(self, child: _Child) -> None:
        run_file(self.layout.run_dir, child.plan.id).unlink(missing_ok=True)
        settings = self.layout.settings
        log = logs.log_file(self.layout.logs_dir, child.plan.id)
        if log.exists() and log.stat().st_size > settings.log_bytes_max:
            logs.rotate(log, files_count=settings.log_files_count)
        command = self._command(child.plan, self.layout.settings_file)
        with log.open("ab") as output:
            child.process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,  # its end tells the process that we are gone
                stdout=output,
                stderr=output,
                start_new_session=True,  # a Ctrl-C in the terminal is for the supervisor alone
            )
        child.birth = birth(child.process.pid)
        child.started_s = time.monotonic()
        child.state = ProcessState.STARTING
        _log.info("%s started (pid %s)", child.plan.id, child.process.pid)

    def _spawn_again(self, child: _Child, now_s: float) -> None:
        try:
            self._spawn(child)
        except OSError as error:  # a full disk, too many processes: the others run on
            child.start_at_s = now_s + BACK_OFF_S_MAX
            before, child.exit = child.exit, f"could not be started: {error}"
            if child.exit != before:
                self._say(f"{child.plan.id} {child.exit}; it is tried again")

    def _look_whether_ready(self, child: _Child, now_s: float) -> None:
        assert child.process is not None
        said = read_run_file(self.layout.run_dir, child.plan.id)
        if said is None or not said.ready or said.pid != child.process.pid:
            return
        child.state = ProcessState.RUNNING
        child.was_ready = True
        took_s = now_s - child.started_s
        self._say(f"{child.plan.id} ready after {took_s:.2f} s (pid {child.process.pid})")

    def _bury(self, child: _Child, code: int, now_s: float) -> None:
        """Take note of a death and decide on the next life."""
        lived_s = now_s - child.started_s
        child.exit = describe_exit(code)
        self._drop_process(child)
        mendable = code == EXIT_USAGE
        in_order = code == 0 and child.state is ProcessState.RUNNING
        delay_s = None
        if child.was_ready or not mendable:
            delay_s = child.restarts.delay_s(lived_s, in_order=in_order, mendable=mendable)
        if delay_s is None:
            child.state = ProcessState.FAILED
            self._say(f"{child.plan.id} {child.exit} after {lived_s:.1f} s and is given up")
            if self._state == "running":
                for line in self._last_lines(child):
                    self._say(f"    {line}")
        else:
            child.state = ProcessState.WAITING
            child.start_at_s = now_s + delay_s
            text = f"{child.plan.id} {child.exit} after {lived_s:.1f} s: starting it again"
            self._say(f"{text} in {delay_s:.1f} s")

    def _check_start(self, deadline_s: float) -> None:
        """Raise if the start has failed."""
        for child in self._children.values():
            if child.state is ProcessState.FAILED:
                lines = "".join(f"\n    {line}" for line in self._last_lines(child))
                log = logs.log_file(self.layout.logs_dir, child.plan.id)
                raise NotReady(f"{child.plan.id} {child.exit}; the last lines of {log}:{lines}")
        late = self._not_ready()
        if late and time.monotonic() > deadline_s:
            raise NotReady(
                f"{', '.join(late)} did not get ready in time; see {self.layout.logs_dir}"
            )

    def _not_ready(self) -> list[str]:
        """Processes that do not serve now: one that was ready and died meanwhile is no good."""
        children = self._children.values()
        return [child.plan.id for child in children if child.state is not ProcessState.RUNNING]

    def _last_lines(self, child: _Child) -> list[str]:
        log = logs.log_file(self.layout.logs_dir, child.plan.id)
        if child.exit == describe_exit(EXIT_USAGE):
            lines = logs.last_words(log, child.plan.id, _WORDS_LINES)
        else:
            lines = logs.last_lines(log, _TAIL_LINES)
        return lines or ["(it wrote nothing)"]

    def _stop_group(self, children: list[_Child]) -> None:
        live = [child for child in children if child.process is not None]
        for child in live:
            assert child.process is not None
            child.process.send_signal(signal.SIGTERM)
            child.process.send_signal(signal.SIGCONT)  # a paused one could not hear us
        grace_s = self.layout.settings.stop_timeout_s + CANCEL_TIMEOUT_S + 1.0
        late = _wait_for(live, time.monotonic() + grace_s)
        for child in late:
            assert child.process is not None
            self._say(f"{child.plan.id} did not stop within {grace_s:.0f} s and is killed")
            child.process.kill()
        _wait_for(late, time.monotonic() + _KILL_TIMEOUT_S)
        for child in children:
            if child.process is not None and child.process.returncode is not None:
                child.exit = describe_exit(child.process.returncode)
                self._drop_process(child)
            if child.state is not ProcessState.FAILED:
                child.state = ProcessState.STOPPED

    def _drop_process(self, child: _Child) -> None:
        if child.process is not None and child.process.stdin is not None:
            child.process.stdin.close()
        child.process = child.birth = None

    def _await_orphans(self, timeout_s: float) -> None:
        """A supervisor that was killed leaves processes that are about to stop by themselves."""
        before = read_state(self.layout.run_dir)
        deadline_s = time.monotonic() + timeout_s
        for each in before.processes if before is not None else ():
            while each.pid is not None and is_alive(each.pid, each.birth):
                if time.monotonic() > deadline_s:
                    raise NotReady(
                        f"{each.id} (pid {each.pid}) of an earlier start still runs: "
                        f"bokilog down --dir {quote(str(self.layout.directory))}"
                    )
                time.sleep(POLL_S)

    # --- the file for status and down -------------------------------------------------------------

    def facts(self) -> SupervisorFacts:
        """What `status` and `down` need to know."""
        return SupervisorFacts(
            pid=os.getpid(),
            birth=self._birth,
            state=self._state,
            started_at_ms=self._started_at_ms,
            url=self.layout.url,
            processes=tuple(child.facts() for child in self._children.values()),
        )

    def _write_state(self) -> None:
        if not self._owns_state:
            return
        try:
            self._written = write_state(self.layout.run_dir, self.facts(), written=self._written)
        except OSError as error:
            if self._state == "starting":
                raise
            # A full disk, say: no reason to end what runs; it is written once there is room.
            if not self._state_lags:
                self._say(f"what runs cannot be written down for `bokilog status`: {error}")
            self._state_lags = True
        else:
            self._state_lags = False


# --- the operating system -------------------------------------------------------------------------


def check_ports(ports: Iterable[int], host: str = HOST) -> None:
    """Refuse a port that another program listens on, before anything is started.

    Raises:
        InvalidSettings: names the port.
    """
    for port in ports:
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
                probe.listen(1)
            except OSError as error:
                problem = f"cannot be listened on ({error.strerror}): choose another one"
                raise InvalidSettings("port", str(port), problem) from None


def _identity(path: Path) -> tuple[int, int] | None:
    """What tells a directory from another one of that name; None if there is none."""
    try:
        found = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return found.st_dev, found.st_ino


def describe_exit(code: int) -> str:
    """How a process ended, for people."""
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        return f"was killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"was killed by signal {-code}"


def _wait_for(children: list[_Child], deadline_s: float) -> list[_Child]:
    """Those that still live at the deadline."""
    live = children
    while live:
        live = [each for each in live if each.process is not None and each.process.poll() is None]
        if time.monotonic() > deadline_s:
            break
        if live:
            time.sleep(_POLL_FAST_S)
    return live
