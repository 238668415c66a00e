"""The template: a process that has the app imported and forks workers from itself.

    python -P -m bokilog.functions.runtime.template --connect unix:SOCKET --app MODULE:APP
        --number N --folder DIR [--engine URL] [--host NAME] [--started-ns N]

Decides what is done before the first fork (import, `@app.init`, `gc.freeze()`), what a child must
not inherit, and when one is forked before it is asked for (`spare.py`). It is blocking and has one
thread, because of a thread that holds a lock while another one forks the child would get the lock
and never its end; an app that leaves threads is refused in a sentence, and `App(...,
start="spawn")` gives each worker an interpreter of its own.

Invariants: a worker never sees a socket or an open file of the template; it dies with the template,
the template ends after its host. Does not know: which workers are needed, calls.
Source: Nightcore and Catalyzer (a warm copy instead of a start), PEP 703's warnings on fork.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import logging
import os
import select
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable
from importlib import import_module
from typing import Final, NoReturn

from bokilog.call_errors import AppFailed
from bokilog.client import sync as _sync
from bokilog.errors import InvalidSettings, RemoteProtocolError
from bokilog.framing import PREAMBLE, MessageReader, encode_message
from bokilog.functions.runtime.app import App
from bokilog.functions.runtime.loading import load_app, trace_of, user_files
from bokilog.functions.runtime.messages import (
    CALLS_VERSION,
    CallMessage,
    Fork,
    Forked,
    Greeting,
    PartRows,
    TemplateFailed,
    TemplateReady,
    WorkerExited,
    decode,
    encode,
)
from bokilog.functions.runtime.output import install
from bokilog.functions.runtime.rehearsal import rehearse
from bokilog.functions.runtime.spare import Order, Spare, be_spare
from bokilog.functions.runtime.worker import WorkerSettings, run_worker
from bokilog.io import shared_memory as _shared_memory
from bokilog.io.addresses import UnixAddress, connect_unix, parse_address

STATUS_ZERO: Final = 256
"""What `WorkerExited.status` adds: numbers on the wire are never negative."""
LAST_WORKERS_S: Final = 5.0
"""How long workers may take to end after their host did, before they are killed."""
SPARE_AFTER_S: Final = 0.1
"""One worker is forked ahead once nobody has asked for one for so long: not in a burst, whose
workers need the processors."""
_PR_SET_PDEATHSIG: Final = 1
_RECEIVE_BYTES: Final = 1 << 16

# The last one by name: it stands upon this folder.
FOR_WORKERS: Final = (_sync, _shared_memory, import_module("bokilog.functions.calls.spawning"))
"""Modules that workers use and the template does not: what a worker imports itself takes it
milliseconds, and megabytes that it then shares with nobody."""


class Options(argparse.Namespace):
    """What the command line says."""

    connect: str
    app: str
    number: int
    folder: str
    engine: str
    host: str
    started_ns: int
    worker: str


def parse(arguments: list[str] | None = None) -> Options:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -P -m bokilog.functions.runtime.template",
        description="Imports an app and forks workers for its host; started by the host.",
    )
    say = parser.add_argument
    say("--connect", required=True, metavar="unix:PATH", help="where the host listens")
    say("--app", required=True, metavar="MODULE:APP", help="what to import")
    say("--number", required=True, type=int, metavar="N", help="the template's, or the worker's")
    say("--folder", default=os.getcwd(), help="of the user's modules; goes first on the path")
    say("--engine", default="", metavar="URL", help="of the node's log; none: there is no log")
    say("--host", default="", metavar="NAME", help="of the host")
    say("--started-ns", type=int, default=0, help="when it was started, by the monotonic clock")
    say("--worker", default="", metavar="FUNCTION", help="be one worker, for start='spawn'")
    return parser.parse_args(arguments, namespace=Options())


class Parts:
    """How long each part of a cold start took."""

    def __init__(self, started_ns: int) -> None:
        self._last_ns = started_ns or time.monotonic_ns()
        self.rows: PartRows = []

    def over(self, part: str) -> None:
        """A part is over."""
        now_ns = time.monotonic_ns()
        self.rows.append([part, max(0, now_ns - self._last_ns) // 1_000])
        self._last_ns = now_ns


def load(options: Options, parts: Parts) -> App:
    """The app, ready to be forked.

    Raises:
        AppFailed: it cannot be imported or initialised, or does not survive a fork.
    """
    app = load_app(options.app, options.folder)
    if not logging.root.handlers:
        form = "%(levelname)s %(name)s: %(message)s"
        logging.basicConfig(level=logging.INFO, stream=sys.stderr, format=form)
    try:
        rows = app.rows
    except InvalidSettings as error:
        raise AppFailed(options.app, str(error)) from error
    parts.over("import")
    try:
        for hook in app.inits:
            outcome = hook()
            if asyncio.iscoroutine(outcome):
                asyncio.run(outcome)
    except BaseException as error:  # whatever a user's hook raises
        raise AppFailed(options.app, trace_of(error)) from error
    parts.over("init")
    assert rows
    threads = [each.name for each in threading.enumerate() if each is not threading.main_thread()]
    if threads and app.start == "fork":
        problem = (
            f"importing and initialising it left threads running ({', '.join(threads)}): workers"
            " are forked, and threads do not come along, only the locks that they hold; start them"
            ' in the function, end them in @app.init, or declare App(..., start="spawn")'
        )
        raise AppFailed(options.app, problem)
    return app


class Template:
    """The fork server, connected to its host."""

    def __init__(self, options: Options, host: socket.socket) -> None:
        self._options = options
        self._host = host
        self._reader = MessageReader()
        self._workers: dict[int, int] = {}
        """pid -> number"""
        self._inherited: list[int] = []
        """Descriptors that are neither ours nor a worker's business."""
        self._spare: Spare | None = None
        self._spare_wanted = False
        """There is none, and somebody has needed a worker since there was one."""
        self._app: App | None = None
        self._gone = False
        """The host is; nobody is told anything any more."""
        self._wake, self._woken = os.pipe()
        os.set_blocking(self._wake, False)
        os.set_blocking(self._woken, False)

    def run(self, parts: Parts) -> int:
        """Load the app, then fork until the host goes; the exit code."""
        options = self._options
        self._send(Greeting(CALLS_VERSION, "template", options.app, "", options.number))
        try:
            self._app = app = load(options, parts)
        except AppFailed as error:
            files = user_files(options.folder, error)
            self._send(TemplateFailed(options.number, error.reason, files))
            return 1
        outlive_parent()
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._woken, warn_on_full_buffer=False)
        if app.start == "fork":
            rehearse(app)
        gc.collect()
        gc.freeze()
        parts.over("rehearsal and freeze")
        ours = {0, 1, 2, self._host.fileno(), self._wake, self._woken}
        self._inherited = [each for each in open_descriptors() if each not in ours]
        ready = TemplateReady(
            options.number, os.getpid(), app.name, app.rows, parts.rows, user_files(options.folder)
        )
        self._send(ready)
        try:
            self._serve()
        except (ConnectionError, RemoteProtocolError):
            pass  # the host is gone, one way or the other
        self._end()
        return 0

    def _serve(self) -> None:
        poll = select.poll()
        poll.register(self._host, select.POLLIN)
        poll.register(self._wake, select.POLLIN)
        self._spare_wanted = self._app is not None and self._app.start == "fork"
        while True:
            found = poll.poll(SPARE_AFTER_S * 1_000 if self._spare_wanted else None)
            if not found:
                self._have_spare()
            for descriptor, _ in found:
                if descriptor == self._wake:
                    os.read(self._wake, _RECEIVE_BYTES)
                    self._reap()
                    continue
                data = self._host.recv(_RECEIVE_BYTES)
                if not data:
                    return
                received_ns = time.monotonic_ns()
                for wire in self._reader.feed(data):
                    message = decode(wire)
                    if isinstance(message, Fork):
                        self._fork(message, received_ns)

    def _fork(self, fork: Fork, received_ns: int) -> None:
        pids: list[int] = []
        started: list[int] = []
        failed: list[int] = []
        for number in fork.workers:
            try:
                pid = self._start(number, fork.function, received_ns)
            except OSError as error:
                self._complain(f"worker {number} of {fork.function} cannot be started: {error}")
                failed.append(number)
                continue
            self._workers[pid] = number
            started.append(number)
            pids.append(pid)
        self._send(Forked(started, pids))
        for number in failed:
            self._send(WorkerExited(number, 0, STATUS_ZERO + 1))

    def _start(self, number: int, function: str, received_ns: int) -> int:
        assert self._app is not None
        if self._app.start == "spawn":
            return self._spawn(number, function)
        spare, self._spare = self._spare, None
        self._spare_wanted = True
        if spare is not None and spare.tell(Order(number, function, received_ns)):
            return spare.pid
        template = os.getpid()
        pid = os.fork()
        if pid == 0:
            forked_us = (time.monotonic_ns() - received_ns) // 1_000
            settings = _worker_settings(self._options, number=number, function=function)
            self._be_child(lambda app: run_worker(app, settings, [["fork", forked_us]]), template)
        return pid

    def _have_spare(self) -> None:
        """Nobody has asked for a worker lately: the next one need not wait for a fork."""
        self._spare_wanted = False
        template = os.getpid()
        try:
            told, order = os.pipe()
        except OSError as error:
            self._complain(f"no worker can be forked ahead: {error}")
            return
        try:
            pid = os.fork()
        except OSError as error:
            self._complain(f"no worker can be forked ahead: {error}")
            os.close(order)
        else:
            if pid == 0:
                os.close(order)
                settings = _worker_settings(self._options, number=0, function="")
                self._be_child(lambda app: be_spare(app, settings, told), template)
            self._spare = Spare(pid, order)
        os.close(told)

    def _be_child(self, live: Callable[[App], int], template: int) -> NoReturn:
        code = 1
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            die_with_parent(template)
            self._host.close()
            os.close(self._wake)
            os.close(self._woken)
            if self._spare is not None:
                self._spare.close()
            cut_off(self._inherited)
            assert self._app is not None
            code = live(self._app)
        except BaseException:  # a bug of ours: said, since nothing else would tell
            sys.excepthook(*sys.exc_info())
        finally:
            _flush_streams()
            os._exit(code)

    def _spawn(self, number: int, function: str) -> int:
        options = self._options
        said = ("connect", "app", "folder", "engine", "host")
        words = [f"--{name}={getattr(options, name)}" for name in said]
        started = f"--started-ns={time.monotonic_ns()}"
        command = [sys.executable, "-P", "-m", "bokilog.functions.runtime.template", *words]
        process = subprocess.Popen(
            [*command, f"--number={number}", f"--worker={function}", started],
            stdin=subprocess.DEVNULL,
        )
        process.returncode = 0  # reaped here, with all others
        return process.pid

    def _reap(self) -> None:
        while self._workers or self._spare is not None:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            number = self._workers.pop(pid, None)
            if self._spare is not None and pid == self._spare.pid:
                # Not forked anew before somebody needs a worker: it may end each time.
                self._spare.close()
                self._spare = None
            elif number is not None:
                code = os.waitstatus_to_exitcode(status)
                self._send(WorkerExited(number, pid, STATUS_ZERO + code))

    def _end(self) -> None:
        """Workers end with their host's links; those that do not are stuck."""
        self._host.close()
        if self._spare is not None:
            self._spare.close()
            self._spare = None
        deadline_s = time.monotonic() + LAST_WORKERS_S
        poll = select.poll()
        poll.register(self._wake, select.POLLIN)
        self._gone = True
        self._reap()
        while self._workers and (left_s := deadline_s - time.monotonic()) > 0:
            if poll.poll(left_s * 1_000):
                os.read(self._wake, _RECEIVE_BYTES)
            self._reap()
        for pid in self._workers:
            os.kill(pid, signal.SIGKILL)
        if os.getpgrp() == os.getpid():
            # What functions have started and left behind goes too, and so does this process.
            os.killpg(0, signal.SIGKILL)

    def _send(self, message: CallMessage) -> None:
        if not self._gone:
            self._host.sendall(b"".join(encode_message(*encode(message))))

    def _complain(self, line: str) -> None:
        sys.stderr.write(f"{line}\n")


# --- what a child is, and is not, left with -------------------------------------------------------


def open_descriptors() -> list[int]:
    """The descriptors of this process."""
    folder = "/proc/self/fd" if os.path.isdir("/proc/self/fd") else "/dev/fd"
    found = []
    for name in os.listdir(folder):
        try:
            os.fstat(int(name))
        except OSError:
            continue  # the one that listed them
        found.append(int(name))
    return sorted(found)


def cut_off(descriptors: Iterable[int]) -> None:
    """Have each of them lead nowhere. They are replaced, not closed: objects of the user's code
    still refer to the numbers, and would close whatever gets them next.

    Pipes stay: event loops in C keep some across forks, and know how.
    """
    nowhere = -1
    for each in descriptors:
        try:
            if stat.S_ISFIFO(os.fstat(each).st_mode):
                continue
            if nowhere < 0:
                nowhere = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
            os.dup2(nowhere, each, inheritable=False)
        except OSError:
            continue  # closed meanwhile
    if nowhere >= 0:
        os.close(nowhere)


def _prctl() -> Callable[[int, int], int] | None:
    if sys.platform != "linux":
        return None
    import ctypes

    try:
        found: Callable[[int, int], int] = ctypes.CDLL(None).prctl
    except (OSError, AttributeError):
        return None
    return found


_PRCTL: Final = _prctl()


def die_with_parent(parent: int) -> None:
    """Have the kernel kill this process when its parent ends: it may be stuck by then."""
    if _PRCTL is not None:
        _PRCTL(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)


def outlive_parent() -> None:
    """The opposite: this process has to end others first, and sees by its socket when."""
    if _PRCTL is not None:
        _PRCTL(_PR_SET_PDEATHSIG, 0)


def _flush_streams() -> None:
    for stream in (sys.__stdout__, sys.__stderr__):
        try:
            if stream is not None:
                stream.flush()
        except (OSError, ValueError):
            pass  # nobody reads it any more


def _worker_settings(options: Options, *, number: int, function: str) -> WorkerSettings:
    return WorkerSettings(
        address=options.connect,
        number=number,
        function=function,
        engine=options.engine,
        host=options.host,
    )


def _be_spawned_worker(options: Options, parts: Parts) -> int:
    die_with_parent(os.getppid())
    try:
        app = load(options, parts)
    except AppFailed as error:
        sys.stderr.write(error.reason)
        return 1
    settings = _worker_settings(options, number=options.number, function=options.worker)
    return run_worker(app, settings, parts.rows)


def main(arguments: list[str] | None = None) -> int:
    """The process."""
    options = parse(arguments)
    parts = Parts(options.started_ns)
    parts.over("interpreter and bokilog")
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # an interrupt is for the host, which ends us
    sys.argv = [options.app]
    install()
    if options.worker:
        return _be_spawned_worker(options, parts)
    address = parse_address(options.connect)
    if not isinstance(address, UnixAddress):
        raise InvalidSettings("--connect", options.connect, "is not unix:PATH")
    host = connect_unix(address.path)
    host.setblocking(True)
    host.sendall(PREAMBLE)
    die_with_parent(os.getppid())  # while it loads it does not look at its socket
    return Template(options, host).run(parts)


if __name__ == "__main__":
    # Not `sys.exit`: threads of the user's code may be there, and nobody waits for them.
    code = main()
    _flush_streams()
    os._exit(code)
