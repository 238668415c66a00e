"""The file in which a supervisor says what it runs, and whether a process is still the one named.

Decides the form of `D/run/supervisor.json`, which `status` and `down` read, and how a process is
told from another that the operating system gave its number to later: by its birth.

Invariants: a reader sees a whole file or none; a file of another version is an error, not a guess.
Does not know who starts or stops what (`supervisor.py`).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Final, NamedTuple

from bokilog.errors import NotReady

FORMAT: Final = 1
STATE: Final = "supervisor.json"
RUNNING: Final = "its cluster, which runs"  # the owner of a directory, for people
_PS_TIMEOUT_S: Final = 5.0


class ProcessFacts(NamedTuple):
    """What the supervisor's file says of one process."""

    id: str
    role: str
    pid: int | None
    birth: str | None
    state: str
    restarts: int
    exit: str | None
    """How it ended last."""
    address: str


class SupervisorFacts(NamedTuple):
    """What the supervisor's file says."""

    pid: int
    birth: str | None
    state: str
    started_at_ms: int
    url: str
    processes: tuple[ProcessFacts, ...]

    @property
    def alive(self) -> bool:
        """Whether that supervisor still runs."""
        return is_alive(self.pid, self.birth)


def write_state(run_dir: Path, facts: SupervisorFacts, *, written: str | None) -> str:
    """Replace the file unless it would stay as it was `written`; return what it holds now."""
    plain = {"format": FORMAT, **facts._asdict()}
    plain["processes"] = [each._asdict() for each in facts.processes]
    text = json.dumps(plain, indent=1)
    if text != written:
        run_dir.mkdir(exist_ok=True)  # somebody may have deleted it under what runs
        temporary = run_dir / f".{STATE}.{os.getpid()}"
        temporary.write_text(text)
        os.replace(temporary, run_dir / STATE)
    return text


def read_state(run_dir: Path) -> SupervisorFacts | None:
    """What the last supervisor of a directory wrote; None if there never was one."""
    try:
        stored: object = json.loads((run_dir / STATE).read_bytes())
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise NotReady(f"{run_dir / STATE} cannot be read: {error}") from None
    try:
        if not isinstance(stored, dict) or stored.pop("format") != FORMAT:
            raise TypeError("another format")
        processes = tuple(ProcessFacts(**each) for each in stored.pop("processes"))
        return SupervisorFacts(processes=processes, **stored)
    except (TypeError, KeyError) as error:
        raise NotReady(f"{run_dir / STATE} was written by another version: {error}") from None


def birth(pid: int) -> str | None:
    """What tells this process from another that got its number later; None if there is none."""
    if sys.platform != "linux":
        return _birth_by_ps(pid)
    try:
        # Behind the name, which may hold anything: the state first, the start time 20th.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in ("Z", "X") else fields[19]


def _birth_by_ps(pid: int) -> str | None:
    try:
        asked = subprocess.run(
            ["/bin/ps", "-o", "lstart=", "-p", str(pid)],
            capture_output=True,
            check=False,
            text=True,
            timeout=_PS_TIMEOUT_S,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return asked.stdout.strip() or None


def is_alive(pid: int, born: str | None) -> bool:
    """Whether the process of that number is still the one that was born then."""
    return born is not None and birth(pid) == born
