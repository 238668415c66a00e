"""The worker processes of a run: started, watched, killed once in a while, stopped.

Decides how a worker is started and what happens to it when its starter goes. Each is a session of
its own, so Ctrl-C reaches only the starter; each has a pipe as standard input and ends when that
closes, so none outlives its starter, however that died. A dead worker is not started again: the
others take its work over. Does not know jobs.
"""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self

_STOP_TIMEOUT_S: Final = 5.0
_SHOWN_CHARACTERS: Final = 1_000


class WorkerProcess:
    """One worker, its name and the file that has its standard error."""

    def __init__(self, name: str, arguments: Sequence[str], *, logs: Path) -> None:
        self.name = name
        self.log_file = logs / f"{name}.log"
        command = [sys.executable, "-m", "scripts.flights.worker", "--name", name, *arguments]
        with self.log_file.open("wb") as errors:
            self._process = subprocess.Popen(
                [*command, "--ends-with-stdin"],
                stdin=subprocess.PIPE,
                stdout=errors,
                stderr=errors,
                start_new_session=True,
            )

    @property
    def status(self) -> int | None:
        """Its exit code, or None while it runs."""
        return self._process.poll()

    def kill(self) -> None:
        """SIGKILL: it gets no chance to say goodbye."""
        self._process.kill()
        self._process.wait()

    def ask_to_end(self) -> None:
        """Close its standard input."""
        assert self._process.stdin is not None
        self._process.stdin.close()

    def wait(self, timeout_s: float) -> None:
        """Wait for its end; kill it when it takes longer."""
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()

    def last_words(self) -> str:
        """The end of what it wrote."""
        text = self.log_file.read_text(errors="replace").strip()
        return text[-_SHOWN_CHARACTERS:] or f"exit code {self.status}, no message"


class WorkerProcesses:
    """All workers of a run; a context manager that stops them."""

    def __init__(self, *, job: str, data: Path, logs: Path) -> None:
        self._common = ["--job", job, "--data", str(data)]
        self._logs = logs
        self._workers: dict[str, WorkerProcess] = {}
        logs.mkdir(parents=True, exist_ok=True)

    def start(self, name: str, url: str, *, halts: bool = False) -> None:
        """Start one; `halts`: it claims a task and then waits to be killed."""
        arguments = [*self._common, "--url", url, *(["--halts"] if halts else [])]
        self._workers[name] = WorkerProcess(name, arguments, logs=self._logs)

    def kill(self, name: str) -> None:
        """Kill one, which must have been started."""
        self._workers[name].kill()

    def all_ended(self) -> bool:
        """Whether nobody is left to work."""
        return all(worker.status is not None for worker in self._workers.values())

    def last_words(self) -> str:
        """Of each worker, why it ended."""
        return "\n".join(f"{w.name}: {w.last_words()}" for w in self._workers.values())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for worker in self._workers.values():
            worker.ask_to_end()
        for worker in self._workers.values():
            worker.wait(_STOP_TIMEOUT_S)
