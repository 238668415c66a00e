"""A process of the cluster from its first line to its exit code; every `__main__` is one call.

Decides how a node is started, told to stop and given up on:

- settings are read once; the loop is uvloop's where there is one;
- SIGTERM and SIGINT ask it to stop in order, and so does the end of standard input when the
  supervisor asked for that (`--stop-with-stdin`: no process outlives a supervisor that was killed);
  a second signal, or `stop_timeout_s`, ends the waiting;
- exit code 0: it stopped as asked. 2: something that an operator can mend (settings, an address in
  use, a data directory in use, a full disk), told in one line. 1: a bug, with its traceback in the
  log, or a stop that took too long.

Invariants: the process's file in the run directory says `ready` only while it is, and is gone after
an exit in order. Assertions are part of a server, so `python -O` is refused (STYLE 3.7). Does not
know what a node does.
"""

from __future__ import annotations

import argparse
import asyncio
import errno
import faulthandler
import gc
import json
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from types import CoroutineType
from typing import Final, NamedTuple, Protocol, TypeVar

from bokilog.errors import BokilogError, DataError, NotSupported, UnavailableError, UsageError
from bokilog.io import logs
from bokilog.io.settings import ClusterSettings, S, read_settings

EXIT_BUG: Final = 1
EXIT_USAGE: Final = 2
# After its cancellation a node only closes files and sockets.
CANCEL_TIMEOUT_S: Final = 2.0
GC_YOUNG_COUNT: Final = 20_000
"""So many new objects before the garbage collector looks at them. Nodes keep most of what they make
(records, facts, calls) and hardly any of it is in cycles: after 700 as usual it took a sixth of a
busy host's time, and its passes over everything held a storage node up for 130 ms.
"""
# Errors of the operating system that tell about the machine, not about our code.
_OPERATORS: Final = frozenset(
    {
        *(errno.EADDRINUSE, errno.EADDRNOTAVAIL, errno.EACCES, errno.EPERM),
        *(errno.ENOSPC, errno.EROFS, errno.EMFILE, errno.ENFILE, errno.ENAMETOOLONG, errno.EEXIST),
        *(errno.ENOTDIR, errno.EISDIR),
    }
)
_log = logging.getLogger(__name__)
S_contra = TypeVar("S_contra", contravariant=True)


class Run(Protocol[S_contra]):
    """A node's shell: it calls `ready` once it serves, and returns soon after `stop` is set."""

    def __call__(
        self, settings: S_contra, ready: Callable[[], None], stop: asyncio.Event, /
    ) -> Coroutine[object, object, None]: ...


class RunFile(NamedTuple):
    """What a live process says of itself in the run directory."""

    node: str
    pid: int
    ready: bool
    started_at_ms: int


def main(
    kind: type[S], *, section: str, run: Run[S], arguments: Sequence[str] | None = None
) -> int:
    """Run a node until it is told to stop; return the exit code of the process.

    Args:
        kind: its settings.
        section: their section, which is also the node's role.
        run: its shell.
        arguments: of the command line, without the program's name; None: of this process.
    """
    faulthandler.enable()  # the last words of a process that a native library killed
    options = _parse(section, arguments)
    try:
        if sys.flags.optimize:
            raise NotSupported("python -O", "assertions are part of a server: run it without")
        explicit = dict(pair.split("=", 1) for pair in options.set)
        settings = read_settings(
            kind,
            section=section,
            node=options.node,
            file=options.settings,
            environment=os.environ,
            explicit=explicit,
        )
        shared = read_settings(
            ClusterSettings, section="cluster", file=options.settings, environment=os.environ
        )
        handler = logs.configure(
            options.node,
            level=shared.log_level,
            directory=shared.logs_dir,
            bytes_max=shared.log_bytes_max,
            files_count=shared.log_files_count,
        )
    except (BokilogError, OSError) as error:
        print(f"{options.node}: {readable(error) or repr(error)}", file=sys.stderr)  # noqa: T201
        return EXIT_USAGE
    return _run(settings, run, options=options, shared=shared, handler=handler)


def readable(error: BaseException) -> str | None:
    """One line on a failure that an operator can mend; None if it is a bug."""
    if isinstance(error, BaseExceptionGroup):
        lines = [readable(each) for each in error.exceptions]
        return None if None in lines else lines[0]
    if isinstance(error, (UsageError, UnavailableError, DataError)):
        return str(error)
    if isinstance(error, OSError) and error.errno in _OPERATORS:
        place = f": {error.filename!r}" if error.filename else ""
        return f"{error.strerror or os.strerror(error.errno)}{place}"
    return None


def new_loop() -> asyncio.AbstractEventLoop:
    """An event loop as our processes have it: uvloop's where it is installed."""
    try:
        import uvloop
    except ImportError:  # Windows, or an interpreter that it was not built for yet
        return asyncio.new_event_loop()
    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    return loop


def run_file(run_dir: Path, node: str) -> Path:
    """Where the process of that name says that it lives."""
    return run_dir / f"{node}.json"


def read_run_file(run_dir: Path, node: str) -> RunFile | None:
    """What the process of that name said last; None if it never started or stopped in order."""
    try:
        stored: object = json.loads(run_file(run_dir, node).read_bytes())
        if not isinstance(stored, dict):
            return None
        return RunFile(
            node=str(stored["node"]),
            pid=int(stored["pid"]),
            ready=stored["ready"] is True,
            started_at_ms=int(stored["started_at_ms"]),
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None  # half of a file is never seen; another program's file says nothing


# --- pieces ---------------------------------------------------------------------------------------


class _Options(argparse.Namespace):
    settings: Path
    node: str
    set: list[str]
    stop_with_stdin: bool


def _parse(section: str, arguments: Sequence[str] | None) -> _Options:
    parser = argparse.ArgumentParser(description=f"A {section} process of a bokilog cluster.")
    parser.add_argument("--settings", type=Path, required=True, metavar="FILE", help="TOML file")
    parser.add_argument("--node", required=True, metavar="NAME", help="its table in [nodes]")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="FIELD=VALUE",
        type=_pair,
        help="a setting that wins over the file and the environment; may be repeated",
    )
    parser.add_argument(
        "--stop-with-stdin",
        action="store_true",
        help="stop when standard input ends: the supervisor holds its other end",
    )
    return parser.parse_args(arguments, namespace=_Options())


def _pair(text: str) -> str:
    if "=" not in text:
        raise argparse.ArgumentTypeError(f"{text!r} is not FIELD=VALUE")
    return text


def _run(
    settings: S,
    run: Run[S],
    *,
    options: _Options,
    shared: ClusterSettings,
    handler: logging.Handler,
) -> int:
    life = _Life(options, shared)
    gc.set_threshold(GC_YOUNG_COUNT)
    try:
        life.say(ready=False)
        with asyncio.Runner(loop_factory=new_loop) as runner:
            runner.run(life.live(run, settings))
    except Exception as error:
        line = readable(error)
        if line is None:
            _log.critical("stopped by a bug", exc_info=error)
        else:
            _log.debug("stopped", exc_info=error)
            _log.error("%s", line)
        if isinstance(handler, logs.FileHandler) and not handler.leads_to(sys.stderr.fileno()):
            print(f"{options.node}: {line or repr(error)}", file=sys.stderr)  # noqa: T201
        return EXIT_BUG if line is None else EXIT_USAGE
    finally:
        life.forget()
    _log.info("stopped")
    return 0


class _Life:
    """One start of the process: its stop event, its file in the run directory."""

    def __init__(self, options: _Options, shared: ClusterSettings) -> None:
        self._node = options.node
        self._file = run_file(shared.run_dir, options.node)
        self._stop_timeout_s = shared.stop_timeout_s
        self._stop_with_stdin = options.stop_with_stdin
        self._started_at_ms = time.time_ns() // 1_000_000
        self._stop_asked = 0

    def say(self, *, ready: bool) -> None:
        """Replace the process's file in the run directory."""
        self._file.parent.mkdir(parents=True, exist_ok=True)
        said = RunFile(self._node, os.getpid(), ready, self._started_at_ms)
        temporary = self._file.with_name(f".{self._file.name}.{os.getpid()}")
        temporary.write_text(json.dumps(said._asdict()))
        os.replace(temporary, self._file)

    def forget(self) -> None:
        """Remove the file, unless a later process of the same name wrote its own."""
        said = read_run_file(self._file.parent, self._node)
        if said is not None and said.pid == os.getpid():
            self._file.unlink(missing_ok=True)

    async def live(self, run: Run[S], settings: S) -> None:
        """Run the node to its end, which comes within the deadline once it was asked to stop."""
        stop = asyncio.Event()
        task = asyncio.create_task(run(settings, self._ready, stop), name=self._node)
        self._listen(stop, task)
        asked = asyncio.create_task(stop.wait())
        try:
            await asyncio.wait({task, asked}, return_when=asyncio.FIRST_COMPLETED)
            if task.done() and not stop.is_set():
                task.result()
                raise RuntimeError("the node ended without being asked to stop")
            self.say(ready=False)
            if (await asyncio.wait({task}, timeout=self._stop_timeout_s))[1]:
                task.cancel()
                where = _waits_in(task)
                _log.error("did not stop within %s s, in %s", self._stop_timeout_s, where)
                await asyncio.wait({task}, timeout=CANCEL_TIMEOUT_S)
        finally:
            asked.cancel()
        if not task.done() or task.cancelled():
            # Whatever still runs has had its time; threads and tasks of it would hold up the exit.
            self.forget()
            logging.shutdown()
            os._exit(EXIT_BUG)
        task.result()

    def _ready(self) -> None:
        gc.collect()
        gc.freeze()  # modules and classes stay: no later pass looks at them
        _log.info("ready")
        self.say(ready=True)

    def _listen(self, stop: asyncio.Event, task: asyncio.Task[None]) -> None:
        loop = asyncio.get_running_loop()

        def asked(why: str) -> None:
            self._stop_asked += 1
            _log.info("asked to stop by %s", why)
            stop.set()
            if self._stop_asked > 1:
                task.cancel()

        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, asked, number.name)
        if self._stop_with_stdin:
            descriptor = sys.stdin.fileno()

            def readable_input() -> None:
                if not os.read(descriptor, 4096):
                    loop.remove_reader(descriptor)
                    if not stop.is_set():
                        asked("the end of its standard input")

            loop.add_reader(descriptor, readable_input)


def _waits_in(task: asyncio.Task[None]) -> str:
    """Where a task stands: what each coroutine waits for, the outermost first."""
    names: list[str] = []
    awaited: object = task.get_coro()
    while isinstance(awaited, CoroutineType):
        line = awaited.cr_frame.f_lineno if awaited.cr_frame is not None else 0
        names.append(f"{awaited.cr_code.co_qualname}:{line}")
        awaited = awaited.cr_await
    return " > ".join(names) or "nothing that can be named"
