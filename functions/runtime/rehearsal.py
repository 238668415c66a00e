"""A worker's start and one call, played through in the template before it forks.

Decides nothing. It is there because of what the first run of code costs and every child would pay
anew: symbols that are looked up when first called, bytecode that is specialised in place (a page
that a child writes is a page copied). Measured: 5.2 instead of 5.9 ms of CPU for a worker's start
on a busy virtual machine, where each fault of a page costs some microseconds.

Invariants: it leaves no task, no thread, and no descriptor but a pipe that libuv keeps for itself.
"""

from __future__ import annotations

import asyncio
import shutil
import sys
import tempfile
from typing import Final

import cloudpickle

from bokilog.framing import WireMessage
from bokilog.functions.runtime.app import App
from bokilog.functions.runtime.function import PICKLED
from bokilog.functions.runtime.messages import (
    Done,
    Encoding,
    Start,
    WorkerReady,
    decode,
    encode,
)
from bokilog.functions.runtime.output import Stream
from bokilog.functions.runtime.worker import Worker, WorkerSettings, new_loop
from bokilog.io.link import Link, LinkCallbacks
from bokilog.io.transport import listen

TIMES: Final = 9
"""Bytecode is specialised once it has run eight times."""
TIMEOUT_S: Final = 2.0


def rehearse(app: App) -> None:
    """Play it through; where it cannot be, workers only start more slowly."""
    try:
        folder = tempfile.mkdtemp(prefix="bokilog-")
    except OSError:
        return
    loop = new_loop()
    try:
        loop.run_until_complete(_rehearse(app, f"unix:{folder}/host.sock"))
    except (OSError, TimeoutError):
        pass
    finally:
        loop.close()
        shutil.rmtree(folder, ignore_errors=True)
        app.connection = None
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, Stream):
                stream.captured = None


async def _rehearse(app: App, address: str) -> None:
    arguments = cloudpickle.dumps(([asyncio.sleep, 0], {}))

    def on_messages(link: Link, messages: list[WireMessage]) -> None:
        for wire in messages:
            message = decode(wire)
            if isinstance(message, WorkerReady):
                start = Start(1, PICKLED, Encoding.PICKLE, 0, 0, 0, 0, "", "", "", arguments)
                link.send(*encode(start))
            elif isinstance(message, Done):
                link.abort()

    listener = await listen(address, LinkCallbacks(on_messages=on_messages))
    settings = WorkerSettings(address=address, number=0, function=PICKLED, engine="", host="")
    try:
        async with asyncio.timeout(TIMEOUT_S):
            for _ in range(TIMES):
                await Worker(app, settings, []).run()
    finally:
        await listener.aclose()
