"""A whole cluster on this machine, in real processes that talk over loopback.

Decides nothing of its own: it lays a directory out (`cluster_layout.py`), starts the supervisor
(`supervisor.py`) and keeps it going, in a thread for programs and tests, in the foreground or
detached for `bokilog up`. Stopping the one that watches stops the cluster.

    with LocalCluster(tmp_path) as cluster:
        log = await bokilog.connect(cluster.url)

Source: DESIGN section 8.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from bokilog.errors import NotReady
from bokilog.shapes.cluster_layout import Layout, lay_out
from bokilog.shapes.node_changes import change_nodes
from bokilog.shapes.supervisor import (
    POLL_S,
    START_TIMEOUT_S,
    Command,
    Say,
    Supervisor,
    node_command,
)
from bokilog.shapes.supervisor_state import is_alive, read_state

_log = logging.getLogger(__name__)
_READY_POLL_S: Final = 0.01


class LocalCluster:
    """The processes of one directory; a context manager that starts and stops them.

    Args:
        directory: of the cluster; what it holds is kept and used.
        storage_nodes, sequencers, function_nodes, port, sync, sync_delay_ms, views_url, app,
            app_dir, http_port, metrics_port: as in `lay_out`.
        command: how a process is started; for tests.
        say: gets a line per event, for people; None: they are only logged.

    Raises as `lay_out`; `DirectoryInUse` when another supervisor has the directory.
    """

    def __init__(
        self,
        directory: Path | str,
        *,
        storage_nodes: int | None = None,
        sequencers: int | None = None,
        function_nodes: int | None = None,
        port: int | None = None,
        sync: str | None = None,
        sync_delay_ms: float | None = None,
        views_url: str | None = None,
        app: str | None = None,
        app_dir: Path | str | None = None,
        http_port: int | None = None,
        metrics_port: int | None = None,
        command: Command = node_command,
        say: Say | None = None,
    ) -> None:
        self.layout: Layout = lay_out(
            directory,
            storage_nodes=storage_nodes,
            sequencers=sequencers,
            function_nodes=function_nodes,
            port=port,
            sync=sync,
            sync_delay_ms=sync_delay_ms,
            views_url=views_url,
            app=app,
            app_dir=app_dir,
            http_port=http_port,
            metrics_port=metrics_port,
            change=change_nodes,
        )
        self._say = say
        self._supervisor = Supervisor(self.layout, command=command, say=self._tell)
        self._turn = threading.Lock()  # the supervisor is used from one thread at a time
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        """For `bokilog.connect`."""
        return self.layout.url

    def start(
        self,
        timeout_s: float = START_TIMEOUT_S,
        *,
        interrupted: Callable[[], bool] = lambda: False,
    ) -> None:
        """Start everything and return once it serves; as `Supervisor.start`."""
        with self._turn:
            self._supervisor.start(timeout_s, interrupted=interrupted)

    def watch(self, told_to_stop: Callable[[], bool]) -> None:
        """Restart what dies until told to stop; then it is the caller's to `stop()`.

        Raises:
            NotReady: the directory is gone; everything is stopped.
        """
        while not told_to_stop():
            with self._turn:
                self._supervisor.step()
            time.sleep(POLL_S)

    def stop(self) -> None:
        """Stop everything in order; returns when nothing runs any more."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        with self._turn:
            self._supervisor.stop()

    def pid(self, node: str) -> int | None:
        """The process of that node, such as `storage-1`; None while it is dead."""
        with self._turn:
            return self._supervisor.pid(node)

    def restarts(self, node: str) -> int:
        """How often that node was started again."""
        with self._turn:
            return self._supervisor.restarts(node)

    def kill(self, node: str, number: signal.Signals = signal.SIGKILL) -> None:
        """Send a signal to a node's process: SIGKILL, or SIGSTOP and SIGCONT to pause it."""
        with self._turn:
            self._supervisor.signal(node, number)

    def is_ready(self, node: str, *, restarts: int = 0) -> bool:
        """Whether a node serves and was started again at least `restarts` times."""
        with self._turn:
            return (
                self._supervisor.is_ready(node)
                and self._supervisor.restarts(node) >= restarts
                and self._supervisor.pid(node) is not None
            )

    def wait_ready(self, node: str, *, restarts: int = 0, timeout_s: float = 20.0) -> None:
        """Wait until a node serves and was started again at least `restarts` times.

        Raises:
            NotReady: not within `timeout_s`.
        """
        deadline_s = time.monotonic() + timeout_s
        while time.monotonic() < deadline_s:
            if self.is_ready(node, restarts=restarts):
                return
            time.sleep(_READY_POLL_S)
        raise NotReady(f"{node} did not serve again within {timeout_s} s")

    def __enter__(self) -> Self:
        self.start()
        self._thread = threading.Thread(
            target=self._watch_in_thread, name="bokilog-supervisor", daemon=True
        )
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def _watch_in_thread(self) -> None:
        try:
            self.watch(self._stopping.is_set)
        except NotReady as error:  # everything is stopped: whoever uses the cluster finds out
            self._tell(str(error))

    def _tell(self, line: str) -> None:
        _log.info("%s", line)
        if self._say is not None:
            self._say(line)


def stop_cluster(layout: Layout, *, timeout_s: float, say: Say) -> bool:
    """Stop the cluster of a directory from outside; return whether anything ran.

    The supervisor is told to stop; if it is gone, what it left running is.

    Raises:
        NotReady: something still runs after `timeout_s`; it is named and left as it is.
    """
    state = read_state(layout.run_dir)
    if state is None:
        return False
    running = [(each.id, each.pid, each.birth) for each in state.processes if each.pid is not None]
    if state.alive:
        targets = [("the supervisor", state.pid, state.birth)]
    else:
        targets = [each for each in running if is_alive(each[1], each[2])]
    for name, pid, born in targets:
        if is_alive(pid, born):
            say(f"stopping {name} (pid {pid})")
            _terminate(pid)
    left = [*targets, *running]
    deadline_s = time.monotonic() + timeout_s
    while left := [each for each in left if is_alive(each[1], each[2])]:
        if time.monotonic() > deadline_s:
            names = ", ".join(f"{name} (pid {pid})" for name, pid, _ in left)
            raise NotReady(f"after {timeout_s:.0f} s there still run: {names}")
        time.sleep(POLL_S)
    return bool(targets)


def _terminate(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGTERM)
    except ProcessLookupError:
        pass
