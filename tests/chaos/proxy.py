"""What stands between the processes of a cluster, and may cut, delay and reset what it forwards.

The child (`python -m tests.chaos.proxy PLAN`) listens in place of every process and forwards each
connection to where that process really listens. Who dialled is told by the operating system: the
command line of the process at the other end names its node; or the plan says it, for a listener of
one client. A *lane* is one direction between two of them.

As with TCP, a cut loses nothing while a connection stands: what was sent waits, the end of a
connection too, and arrives once the lane is mended. It ends with its standard input.
"""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

import uvloop

from bokilog.io.addresses import UnixAddress, connect_unix, listen_unix, parse_address

ROOT = Path(__file__).parents[2]
CHUNK_BYTES = 1 << 18
CHUNKS_WAITING_MAX = 256
BACKLOG = 256
START_TIMEOUT_S = 20.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """One listener: who is behind it, where it is, where what it stands for listens."""

    acceptor: str
    listen: str
    target: str
    """`{dialler}` in it stands for the name of who dials."""
    dialler: str = ""
    """Who dials here; empty: whoever the operating system says."""


# --- the parent's side ----------------------------------------------------------------------------


class Proxy:
    """The proxy process. A context manager that ends it."""

    def __init__(self, gates: Sequence[Gate], *, inside: Sequence[str] = ()) -> None:
        """`inside`: what runs a command somewhere else, such as in a network namespace."""
        plan = json.dumps([asdict(gate) for gate in gates])
        self._process = subprocess.Popen(
            [*inside, sys.executable, "-m", "tests.chaos.proxy", plan],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the proxy did not start"
        self.addresses: list[str] = json.loads(line)
        """Where each gate listens, in their order."""

    def cut(self, source: str, target: str) -> None:
        """Nothing arrives any more in this direction, until it is mended."""
        self._say("cut", source, target)

    def mend(self, source: str, target: str) -> None:
        self._say("mend", source, target)

    def delay(self, source: str, target: str, delay_s: float) -> None:
        """Whatever is sent arrives so much later; 0: no more."""
        self._say("delay", source, target, delay_s)

    def reset(self, one: str, other: str) -> None:
        """All connections between two break; what was on its way is lost."""
        self._say("reset", one, other)

    def heal(self) -> None:
        """No cut and no delay is left."""
        self._say("heal")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()

    def _say(self, *what: object) -> None:
        """Returns once it holds."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(what).encode() + b"\n")
        self._process.stdin.flush()
        assert self._process.stdout.readline(), "the proxy ended"


# --- the child ------------------------------------------------------------------------------------


class Lane:
    """One direction between two names."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.open.set()
        self.delay_s = 0.0


class Forwarder:
    """All gates and the connections through them."""

    def __init__(self) -> None:
        self._lanes: defaultdict[tuple[str, str], Lane] = defaultdict(Lane)
        self._connections: dict[asyncio.Task[None], frozenset[str]] = {}

    async def serve(self, gate: Gate, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            accepted, _ = await loop.sock_accept(listening)
            accepted.setblocking(False)
            dialler = gate.dialler or _dialler(accepted)
            task = loop.create_task(self._forward(accepted, gate, dialler))
            self._connections[task] = frozenset((dialler, gate.acceptor))
            task.add_done_callback(self._connections.pop)

    def command(self, verb: str, *what: object) -> None:
        names = str(what[0]) if what else "", str(what[1]) if what else ""
        if verb == "cut":
            self._lanes[names].open.clear()
        elif verb == "mend":
            self._lanes[names].open.set()
        elif verb == "delay":
            self._lanes[names].delay_s = float(str(what[2]))
        elif verb == "reset":
            for task, ends in list(self._connections.items()):
                if ends == frozenset(names):
                    task.cancel()
        else:
            assert verb == "heal", verb
            for lane in self._lanes.values():
                lane.delay_s = 0.0
                lane.open.set()

    async def _forward(self, accepted: socket.socket, gate: Gate, dialler: str) -> None:
        with accepted:
            try:
                connected = await _connect(gate.target.replace("{dialler}", dialler))
            except OSError:
                return
            with connected:
                there, back = (dialler, gate.acceptor), (gate.acceptor, dialler)
                try:
                    async with asyncio.TaskGroup() as group:
                        group.create_task(_pump(accepted, connected, self._lanes[there]))
                        group.create_task(_pump(connected, accepted, self._lanes[back]))
                except* OSError:
                    pass  # one end is gone: so is the connection


async def _pump(source: socket.socket, target: socket.socket, lane: Lane) -> None:
    """Bytes of one direction, in order, until the source has no more."""
    loop = asyncio.get_running_loop()
    waiting: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(CHUNKS_WAITING_MAX)

    async def read() -> None:
        data = b"more"
        while data:
            data = await loop.sock_recv(source, CHUNK_BYTES)
            await waiting.put((time.monotonic() + lane.delay_s, data))

    async with asyncio.TaskGroup() as group:
        group.create_task(read())
        while True:
            due_s, data = await waiting.get()
            if due_s > time.monotonic():
                # A loop's own clock is of whole milliseconds: never too early.
                await asyncio.sleep(due_s - time.monotonic() + 0.001)
            await lane.open.wait()
            if not data:
                break
            await loop.sock_sendall(target, data)
    # Nobody here closes one direction only: whoever ends a connection is done with it.
    raise ConnectionResetError


async def _connect(address: str) -> socket.socket:
    parsed = parse_address(address)
    if isinstance(parsed, UnixAddress):
        return connect_unix(parsed.path)
    connected = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    connected.setblocking(False)
    connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    try:
        await asyncio.get_running_loop().sock_connect(connected, (parsed.host, parsed.port))
    except BaseException:
        connected.close()
        raise
    return connected


def _listen(address: str) -> tuple[socket.socket, str]:
    parsed = parse_address(address)
    if isinstance(parsed, UnixAddress):
        return listen_unix(parsed.path, backlog=BACKLOG), address
    listening = socket.create_server((parsed.host, parsed.port), backlog=BACKLOG)
    listening.setblocking(False)
    return listening, f"tcp:{parsed.host}:{listening.getsockname()[1]}"


def _dialler(accepted: socket.socket) -> str:
    """The node that the process at the other end of a unix socket was started as."""
    credentials = accepted.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    pid = struct.unpack("iII", credentials)[0]
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
    except OSError:
        return "nobody"
    return words[words.index("--node") + 1] if "--node" in words else "nobody"


async def main(plan: str) -> None:
    gates = [Gate(**each) for each in json.loads(plan)]
    listening = [_listen(gate.listen) for gate in gates]
    forwarder = Forwarder()
    loop = asyncio.get_running_loop()
    commands = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(commands), sys.stdin)
    serving = [
        loop.create_task(forwarder.serve(gate, sock))
        for gate, (sock, _) in zip(gates, listening, strict=True)
    ]
    print(json.dumps([address for _, address in listening]), flush=True)
    while line := await commands.readline():
        forwarder.command(*json.loads(line))
        print(flush=True)
    for task in serving:
        task.cancel()


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1]))
