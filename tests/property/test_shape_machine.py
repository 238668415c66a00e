"""The machine of rules against the shapes: embedded in memory and on a disk, and a local cluster.

A restart of the cluster's client is a new connection, to the other engine. One of an embedded log
is a clean close, or a crash: the directory is copied while the log is open and nothing is under
way, and the copy is opened. What the log had only in its memory is missing there, as it would be
after kill -9; with frequent checkpoints the copy's fold stands somewhere in the middle of the
journal, without any it is folded from the start.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import stat
import tempfile
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from functools import partial
from itertools import count, cycle
from pathlib import Path
from typing import TypeVar, cast

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

import bokilog
from bokilog.errors import UnknownLogBook
from bokilog.logbook import Log, LogBook, Session
from bokilog.shapes.embedded import EmbeddedSettings
from bokilog.shapes.local_cluster import LocalCluster
from tests.property.logbook_machine import OnALoop, logbook_machine

T = TypeVar("T")
MACHINE = settings(
    max_examples=12,
    stateful_step_count=30,
    deadline=None,
    database=None,
    derandomize=True,
    phases=[Phase.generate],  # time is part of it: what shrinks may be another failure
    suppress_health_check=list(HealthCheck),
)
CHECKPOINT_S = 0.02  # about one in two steps
COPIES_MAX = 50

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]


class OnADisk(OnALoop):
    """An embedded log in a directory of its own, which is restarted by closing it."""

    def __init__(self, *, checkpoint_s: float) -> None:
        self._root = tempfile.TemporaryDirectory(prefix="bokilog-machine-")
        self._numbers = count()
        self._directory = self._next_directory()
        self._settings = EmbeddedSettings(checkpoint_s=checkpoint_s)
        super().__init__(self._opened)

    def close(self) -> None:
        try:
            super().close()
        finally:
            self._root.cleanup()

    def _opened(self) -> AbstractAsyncContextManager[Log]:
        return bokilog.open(self._directory, settings=self._settings)

    def _next_directory(self) -> Path:
        return Path(self._root.name) / f"life-{next(self._numbers)}"


class Crashing(OnADisk):
    """The next life begins with what was on the disk in the middle of the one before."""

    def restart(self) -> None:
        before, self._directory = self._directory, self._next_directory()
        self.run(self._copied(before))
        super().restart()
        shutil.rmtree(before)

    async def _copied(self, before: Path) -> None:
        """A copy during which nothing was written: as if all of it was made at one instant."""
        for _ in range(COPIES_MAX):
            shown = _shown(before)
            try:
                _copy(before, self._directory)
            except shutil.Error:
                pass  # the index store replaced a file
            else:
                if _shown(before) == shown:
                    return
            shutil.rmtree(self._directory, ignore_errors=True)
            await asyncio.sleep(0.01)
        raise AssertionError(f"{before} is never quiet")


def _shown(directory: Path) -> list[tuple[str, int, int]]:
    found = []
    for path in directory.rglob("*"):
        try:
            facts = path.stat()
        except FileNotFoundError:
            continue
        found.append((str(path), facts.st_size, facts.st_mtime_ns))
    return sorted(found)


def _copy(source: Path, target: Path) -> None:
    shutil.copytree(source, target, copy_function=_copy_data)


def _copy_data(source: str, target: str) -> None:
    """Without the holes: a segment is allocated whole, and hardly filled here."""
    with open(source, "rb") as read, open(target, "wb") as written:
        size, at = os.fstat(read.fileno()).st_size, 0
        while at < size:
            try:
                start = os.lseek(read.fileno(), at, os.SEEK_DATA)
            except OSError:  # nothing but a hole is left
                break
            at = os.lseek(read.fileno(), start, os.SEEK_HOLE)
            os.lseek(written.fileno(), start, os.SEEK_SET)
            os.sendfile(written.fileno(), read.fileno(), start, at - start)
        os.ftruncate(written.fileno(), size)
    os.chmod(target, stat.S_IMODE(os.stat(source).st_mode))


class Named:
    """A log whose LogBooks have other names: each example starts with none on a shared cluster."""

    def __init__(self, log: Log, prefix: str) -> None:
        self._log = log
        self._prefix = prefix

    def book(self, name: str, *, session: Session | None = None) -> LogBook:
        return self._log.book(self._prefix + name, session=session)

    def session(self, token: str | None = None) -> Session:
        return self._log.session(token)

    async def delete_book(self, name: str) -> None:
        await self._log.delete_book(self._prefix + name)


class OnACluster(OnALoop):
    """A connection to one engine, and after a restart to the other one."""

    _examples = count()

    def __init__(self, cluster: LocalCluster) -> None:
        self._seeds = cycle(f"bokilog://127.0.0.1:{port}" for port in cluster.layout.ports)
        self._prefix = f"machine {next(self._examples)} "
        super().__init__(lambda: bokilog.connect(next(self._seeds)))

    def run(self, call: Awaitable[T]) -> T:
        try:
            return super().run(call)
        except UnknownLogBook as error:
            raise UnknownLogBook(error.book.removeprefix(self._prefix)) from None

    @property
    def log(self) -> Log:
        return cast("Log", Named(self._log, self._prefix))

    @log.setter
    def log(self, log: Log) -> None:
        self._log = log


def in_memory() -> OnALoop:
    return OnALoop(bokilog.open)


@pytest.mark.parametrize(
    ("make", "restarts"),
    [
        pytest.param(in_memory, False, id="in memory"),
        pytest.param(partial(OnADisk, checkpoint_s=CHECKPOINT_S), True, id="closed, checkpoints"),
        pytest.param(partial(Crashing, checkpoint_s=CHECKPOINT_S), True, id="crashed, checkpoints"),
        pytest.param(partial(Crashing, checkpoint_s=600), True, id="crashed, no checkpoint"),
    ],
)
def test_embedded_does_what_the_reference_does(make: Callable[[], OnALoop], restarts: bool) -> None:
    run_state_machine_as_test(logbook_machine(make, restarts=restarts), settings=MACHINE)


def test_cluster_does_what_the_reference_does(shared_cluster: LocalCluster) -> None:
    run_state_machine_as_test(logbook_machine(lambda: OnACluster(shared_cluster)), settings=MACHINE)
