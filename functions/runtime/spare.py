"""A worker that is forked before anybody asks for one, and told later whose calls it gets.

Decides what the template writes to it, and what it does before and after. A fork costs milliseconds
that no care takes away: the kernel copies the template's page tables, and then each page that the
child writes. A spare has that behind it when it is asked for, and its loop and its link as well.

Invariants: it is used once; none of the user's code runs in it, and its host hears nothing of it,
before it knows its function; it ends with its template, and with its host's link.
Does not know: when there is one (`template.py`), what a worker does.
Source: Android's pool of unspecialised app processes; SOCK (Oakes et al., 2018).
"""

from __future__ import annotations

import asyncio
import os
import time
from dataclasses import replace
from typing import Final, NamedTuple

from bokilog.errors import RemoteProtocolError
from bokilog.framing import WireMessage
from bokilog.functions.runtime.app import App
from bokilog.functions.runtime.worker import Worker, WorkerSettings, live
from bokilog.io.link import Link, LinkCallbacks, LinkSettings
from bokilog.io.transport import dial

HOST_SILENT_S: Final = 60.0
"""Nobody waits for a spare, so its host may take so long to answer it."""
_ORDER_BYTES_MAX: Final = 4_096
"""What a pipe takes in one piece; a function's name has 64 characters at most."""


class Order(NamedTuple):
    """What a spare is for."""

    number: int
    """The worker's."""
    function: str
    received_ns: int
    """When the template heard of it, by the monotonic clock."""


class Spare:
    """The template's side: a child that waits.

    Args:
        pipe: where it reads what it is for; closed here.
    """

    __slots__ = ("_pipe", "pid")

    def __init__(self, pid: int, pipe: int) -> None:
        self.pid = pid
        self._pipe = pipe

    def tell(self, order: Order) -> bool:
        """Have it be that worker; False if it is gone. There is no second time."""
        line = f"{order.number} {order.received_ns} {order.function}"
        try:
            os.write(self._pipe, line.encode())
        except BrokenPipeError:
            return False
        finally:
            self.close()
        return True

    def close(self) -> None:
        """It ends, unless it was told; in another child of the template, that it is none of its
        business."""
        os.close(self._pipe)


def be_spare(app: App, settings: WorkerSettings, pipe: int) -> int:
    """Be a worker once it is known of which function; the exit code, as `run_worker`.

    Args:
        settings: of the worker, but for its number and its function.
        pipe: where that is written; closed here.
    """
    return live(app, _wait_and_run(app, settings, pipe), "a worker forked ahead")


async def _wait_and_run(app: App, settings: WorkerSettings, pipe: int) -> None:
    orders = _Orders(pipe)
    callbacks = LinkCallbacks(on_messages=_refuse, on_lost=lambda *_: orders.close())
    patient = LinkSettings(greeting_timeout_s=HOST_SILENT_S)
    link = await dial(settings.address, callbacks, settings=patient, timeout_s=HOST_SILENT_S)
    Worker(app, settings, [])  # to nobody's use but that its pages are written by now
    order = await orders.first
    if order is None:
        return
    told_us = max(0, time.monotonic_ns() - order.received_ns) // 1_000
    settings = replace(settings, number=order.number, function=order.function)
    await app.run_worker_inits()
    await Worker(app, settings, [["told", told_us]]).run(link)


def _refuse(link: Link, messages: list[WireMessage]) -> None:
    raise RemoteProtocolError("a host says something to a worker that it does not know")


class _Orders:
    """The one order of a spare, on the running loop."""

    __slots__ = ("_loop", "_pipe", "first")

    def __init__(self, pipe: int) -> None:
        self._loop = asyncio.get_running_loop()
        self._pipe = pipe
        self.first: asyncio.Future[Order | None] = self._loop.create_future()
        """None if there is none: the template is gone, or the host."""
        self._loop.add_reader(pipe, self._read)

    def close(self) -> None:
        """There is none any more."""
        self._settle(None)

    def _read(self) -> None:
        line = os.read(self._pipe, _ORDER_BYTES_MAX).decode()
        if not line:
            self._settle(None)
            return
        number, received_ns, function = line.split(" ", 2)
        self._settle(Order(int(number), function, int(received_ns)))

    def _settle(self, order: Order | None) -> None:
        if not self.first.done():
            self._loop.remove_reader(self._pipe)
            os.close(self._pipe)
            self.first.set_result(order)
