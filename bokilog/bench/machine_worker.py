"""What this machine can do without bokilog: the references that figures are held against.

Decides how each reference is taken: additions of the interpreter, a write with its sync, round
trips between two processes, plain writes with a checksum, and the start of a fresh interpreter.
"""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import Mapping
from contextlib import AsyncExitStack
from time import perf_counter
from typing import Final

import xxhash

from bokilog.bench.echo import REQUEST_BYTES
from bokilog.bench.load import summary
from bokilog.bench.orders import Order, Outcome
from bokilog.bench.serve import Handler, serve

ADDS_COUNT: Final = 10_000_000
_IMPORT: Final = """
import time
before_s = time.perf_counter()
import bokilog
imported_s = time.perf_counter()
import asyncio
async def main():
    before_s = time.perf_counter()
    async with bokilog.open():
        return time.perf_counter() - before_s
print(imported_s - before_s, asyncio.run(main()))
"""


def handlers(stack: AsyncExitStack) -> Mapping[str, Handler]:
    """By the name of the reference."""
    return {"adds": adds, "sync": sync, "tcp": tcp, "unix": unix, "write": write, "start": start}


async def adds(order: Order) -> Outcome:
    """A `for` loop of ten million additions."""
    before_s = perf_counter()
    total = 0
    for number in range(ADDS_COUNT):
        total += number
    took_s = perf_counter() - before_s
    return Outcome(count=ADDS_COUNT, elapsed_s=took_s, p50_us=took_s * 1e6)


async def sync(order: Order) -> Outcome:
    """Append so many bytes to the file at `place` and sync them, again and again."""
    data = os.urandom(order.size_bytes)
    latencies_s = []
    descriptor = os.open(order.place, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600)
    try:
        started_s = perf_counter()
        while (before_s := perf_counter()) < started_s + order.seconds:
            os.write(descriptor, data)
            _sync(descriptor)
            latencies_s.append(perf_counter() - before_s)
        return _outcome(latencies_s, perf_counter() - started_s)
    finally:
        os.close(descriptor)
        os.unlink(order.place)


def _sync(descriptor: int) -> None:
    if sys.platform == "darwin":
        os.fsync(descriptor)
    else:
        os.fdatasync(descriptor)


async def tcp(order: Order) -> Outcome:
    """Round trips of 100 bytes over loopback, with blocking sockets; `place` is the port."""
    data = os.urandom(REQUEST_BYTES)
    latencies_s = []
    with socket.create_connection(("127.0.0.1", int(order.place))) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        started_s = perf_counter()
        while (before_s := perf_counter()) < started_s + order.seconds:
            connection.sendall(data)
            missing = REQUEST_BYTES
            while missing:
                missing -= len(connection.recv(missing))
            latencies_s.append(perf_counter() - before_s)
    return _outcome(latencies_s, perf_counter() - started_s)


class Asker(asyncio.Protocol):
    """Sends a request when the last one was answered in full."""

    def __init__(self, size_bytes: int) -> None:
        self._size_bytes = size_bytes
        self._missing = 0
        self._transport: asyncio.Transport | None = None
        self._waiter: asyncio.Future[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Remember where requests go."""
        # uvloop's transports have the methods of `asyncio.Transport` without deriving from it.
        self._transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        """Wake the task once all is here."""
        self._missing -= len(data)
        if not self._missing and self._waiter is not None:
            self._waiter.set_result(None)

    def ask(self, request: bytes) -> asyncio.Future[None]:
        """Send; the future is done with the answer."""
        assert self._transport is not None
        self._missing = self._size_bytes
        self._waiter = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return self._waiter


async def unix(order: Order) -> Outcome:
    """Round trips over a unix socket, an event loop at both ends; answers of `size_bytes`."""
    loop = asyncio.get_running_loop()
    request = os.urandom(REQUEST_BYTES)
    transport, asker = await loop.create_unix_connection(
        lambda: Asker(order.size_bytes), order.place
    )
    latencies_s = []
    started_s = perf_counter()
    while (before_s := perf_counter()) < started_s + order.seconds:
        await asker.ask(request)
        latencies_s.append(perf_counter() - before_s)
    transport.close()
    return _outcome(latencies_s, perf_counter() - started_s)


async def write(order: Order) -> Outcome:
    """Write `count` times so many bytes to a new file, with a checksum of each."""
    data = os.urandom(order.size_bytes)
    descriptor = os.open(order.place, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600)
    try:
        before_s = perf_counter()
        for _ in range(order.count):
            os.writev(descriptor, [xxhash.xxh3_64_digest(data), data])
        return Outcome(count=order.count, elapsed_s=perf_counter() - before_s)
    finally:
        os.close(descriptor)
        os.unlink(order.place)


def _first_log() -> str:
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": ""}
    done = subprocess.run(
        [sys.executable, "-P", "-c", _IMPORT],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )
    assert done.returncode == 0, done.stderr[-500:]
    return done.stdout


async def start(order: Order) -> Outcome:
    """`import bokilog`, then `bokilog.open()`, in a fresh interpreter.

    The second of two, and with bytecode kept whatever the environment says: what a user's second
    start takes, not the compiler.
    """
    _first_log()
    imported_s, opened_s = map(float, _first_log().split())
    return Outcome(values={"import_ms": imported_s * 1e3, "open_ms": opened_s * 1e3})


def _outcome(latencies_s: list[float], elapsed_s: float) -> Outcome:
    load = summary(latencies_s, elapsed_s)
    return Outcome(
        count=load.count, elapsed_s=load.elapsed_s, p50_us=load.p50_us, p99_us=load.p99_us
    )


if __name__ == "__main__":
    sys.exit(serve(handlers))
