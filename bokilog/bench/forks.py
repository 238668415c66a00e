"""How fast workers come out of a template, seen by whoever plays its host; and how fast a fresh
interpreter comes to the same point."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from time import perf_counter
from typing import Final

from bokilog.framing import WireMessage
from bokilog.functions.runtime.messages import (
    Fork,
    TemplateFailed,
    TemplateReady,
    WorkerReady,
    decode,
    encode,
)
from bokilog.functions.runtime.processes import template_command
from bokilog.io.link import Link, LinkCallbacks
from bokilog.io.transport import listen

APP: Final = "bokilog.bench.sample_app"
TIMEOUT_S: Final = 60.0
_FRESH: Final = f"import {APP}, os; os.write(1, b'.'); os.read(0, 1)"


class Forks:
    """A host that does nothing but ask its template for workers, and wait until they are ready."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="bokilog-forks-")
        self._template: Link | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._loaded: asyncio.Future[TemplateReady] = asyncio.get_running_loop().create_future()
        self._workers: dict[int, tuple[Link, WorkerReady]] = {}
        self._wanted = 0
        self._all_ready = asyncio.Event()
        self._next = 1

    async def start(self) -> TemplateReady:
        """Start the template; what it says when it is ready."""
        address = f"unix:{self._folder.name}/host.sock"
        callbacks = LinkCallbacks(on_messages=self._on_messages)
        self._listener = await listen(address, callbacks)
        command = template_command(
            app=f"{APP}:app",
            app_dir=Path.cwd(),
            connect=address,
            host="forks",
            log_url="",
            number=1,
        )
        self._process = await asyncio.create_subprocess_exec(*command)
        async with asyncio.timeout(TIMEOUT_S):
            return await self._loaded

    async def fork(self, count: int) -> float:
        """Have so many workers at once; seconds until the last one was ready."""
        assert self._template is not None
        numbers = list(range(self._next, self._next + count))
        self._next += count
        self._wanted = len(self._workers) + count
        self._all_ready.clear()
        before_s = perf_counter()
        self._template.send(*encode(Fork("empty", numbers)))
        self._template.flush()
        async with asyncio.timeout(TIMEOUT_S):
            await self._all_ready.wait()
        return perf_counter() - before_s

    def private_bytes(self) -> list[int]:
        """What each worker has of its own, beyond what it shares with its template."""
        return [_private_bytes(ready.pid) for _, ready in self._workers.values()]

    @property
    def parts(self) -> list[list[object]]:
        """How the last worker's start went."""
        return next(reversed(self._workers.values()))[1].parts

    async def end_workers(self) -> None:
        """They end with their links."""
        links = [link for link, _ in self._workers.values()]
        self._workers.clear()
        for link in links:
            await link.aclose()

    async def aclose(self) -> None:
        """All ends."""
        await self.end_workers()
        await self._listener.aclose()
        if self._process is not None:
            with suppress(ProcessLookupError):
                self._process.send_signal(signal.SIGTERM)
            await self._process.wait()
        self._folder.cleanup()

    def _on_messages(self, link: Link, wires: list[WireMessage]) -> None:
        for wire in wires:
            message = decode(wire)
            if isinstance(message, TemplateReady):
                self._template = link
                self._loaded.set_result(message)
            elif isinstance(message, TemplateFailed):
                self._loaded.set_exception(RuntimeError(message.trace))
            elif isinstance(message, WorkerReady):
                self._workers[message.worker] = (link, message)
                if len(self._workers) >= self._wanted:
                    self._all_ready.set()


def fresh(count: int) -> float:
    """Start so many interpreters at once that import the same app; seconds until all have."""
    before_s = perf_counter()
    processes = [
        subprocess.Popen(
            [sys.executable, "-P", "-c", _FRESH], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        for _ in range(count)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.read(1) == b"."
    took_s = perf_counter() - before_s
    for process in processes:
        process.communicate()
    return took_s


def _private_bytes(pid: int) -> int:
    kib = 0
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith(("Private_Clean:", "Private_Dirty:")):
            kib += int(line.split()[1])
    return kib << 10


assert os.name == "posix"
