"""The processes of a host: its templates, and what the system tells of workers.

Decides how a template is started and ended, and what counts as a worker's own memory: anonymous
pages beyond those that it had when it got ready, which it shares with its template.

Invariants: a template that was started here is ended here, by force if it does not listen. Does not
know versions, calls.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from bokilog.functions.runtime.fleet import describe_exit

END_TIMEOUT_S: Final = 2.0
_PAGE_BYTES: Final = os.sysconf("SC_PAGESIZE")
logger = logging.getLogger(__name__)


class Templates:
    """The template processes of one host.

    Args:
        command: of a template, by its number.
        ended: told when one is gone, and why.
    """

    def __init__(
        self, command: Callable[[int], list[str]], *, ended: Callable[[int, str], None]
    ) -> None:
        self._command = command
        self._ended = ended
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._processes: dict[int, asyncio.subprocess.Process] = {}

    def start(self, number: int) -> None:
        """Start one; its end is told whatever becomes of it."""
        self._tasks[number] = asyncio.create_task(self._live(number), name=f"template-{number}")

    def end(self, number: int) -> None:
        """Have one end soon, and with it whatever its workers have started and left behind."""
        process = self._processes.get(number)
        if process is not None:
            _signal_group(process.pid, signal.SIGTERM)
            loop = asyncio.get_running_loop()
            loop.call_later(END_TIMEOUT_S, self._kill, number, process.pid)

    def pid(self, number: int) -> int | None:
        """Of a live one."""
        process = self._processes.get(number)
        return None if process is None else process.pid

    @property
    def pids(self) -> list[int]:
        """Of all live ones."""
        return [process.pid for process in self._processes.values()]

    async def aclose(self) -> None:
        """Ends all, and waits for that."""
        for number in list(self._processes):
            self.end(number)
        tasks = list(self._tasks.values())
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=END_TIMEOUT_S)
            for number in list(self._processes) if late else ():
                self._kill(number, self._processes[number].pid)
            if late:
                await asyncio.wait(late, timeout=END_TIMEOUT_S)

    async def _live(self, number: int) -> None:
        try:
            process = await asyncio.create_subprocess_exec(
                *self._command(number),
                stdin=asyncio.subprocess.DEVNULL,
                start_new_session=True,  # a Ctrl-C in the terminal is for the host alone
            )
        except OSError as error:
            self._tasks.pop(number, None)
            self._ended(number, error.strerror or str(error))
            return
        self._processes[number] = process
        try:
            code = await process.wait()
        finally:
            self._processes.pop(number, None)
            self._tasks.pop(number, None)
        self._ended(number, describe_exit(code))

    def _kill(self, number: int, pid: int) -> None:
        process = self._processes.get(number)
        if process is not None and process.pid == pid:
            _signal_group(pid, signal.SIGKILL)


def template_command(
    *, app: str, app_dir: Path, connect: str, host: str, log_url: str, number: int
) -> list[str]:
    """How a template is started. `-P`: only what it says itself is on its import path."""
    return [
        *(sys.executable, "-P", "-m", "bokilog.functions.runtime.template"),
        *("--connect", connect, "--app", app, "--number", str(number)),
        *("--folder", str(app_dir), "--engine", log_url, "--host", host),
        *("--started-ns", str(time.monotonic_ns())),
    ]


def kill(pid: int) -> None:
    """End a process at once; one that is gone is no error."""
    if pid > 0:
        _signal(pid, signal.SIGKILL)


def anonymous_bytes(pid: int) -> int | None:
    """Memory of a process that is backed by no file; None if it is gone, or not on Linux."""
    try:
        _, resident, shared, *_ = Path(f"/proc/{pid}/statm").read_bytes().split()
    except (OSError, ValueError):
        return None
    return (int(resident) - int(shared)) * _PAGE_BYTES


def _signal_group(leader: int, number: signal.Signals) -> None:
    """To a template and its workers' own children; it has not been waited for, so that its number
    is still the group's."""
    try:
        os.killpg(leader, number)
    except (ProcessLookupError, PermissionError):
        _signal(leader, number)


def _signal(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass
