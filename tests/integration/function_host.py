"""A host of functions that does nothing by itself: tests speak its part, message by message."""

from __future__ import annotations

import os
import select
import signal
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from bokilog.codec import pack
from bokilog.framing import PREAMBLE, MessageReader, encode_message
from bokilog.functions.runtime.messages import (
    CallMessage,
    Done,
    Encoding,
    Fork,
    Forked,
    Greeting,
    Start,
    TemplateReady,
    WorkerExited,
    WorkerReady,
    decode,
    encode,
)

M = TypeVar("M")
PATIENCE_S = 15.0
OWN_CALLS = 900_000
"""Numbers of calls that `Peer.run` makes itself."""


class Peer:
    """One connection to the host: a template's, or a worker's."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        connection.settimeout(PATIENCE_S)
        self._reader = MessageReader()
        self._inbox: list[CallMessage] = []
        self._calls = OWN_CALLS
        self.greeting = Greeting(0, "nobody yet", "", "", 0)
        connection.sendall(PREAMBLE)

    def greeted(self) -> bool:
        """Whether the other side has said who it is: looks at what has come, or comes next."""
        self._inbox += self._arrived()
        if not self.waiting(Greeting):
            return False
        self.greeting = self.receive(Greeting)
        return True

    @property
    def pid(self) -> int:
        """Of the other side."""
        said = self.connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        pid: int = struct.unpack("3i", said)[0]
        return pid

    def send(self, *messages: CallMessage) -> None:
        """All in one write."""
        for message in messages:
            self.connection.sendall(b"".join(encode_message(*encode(message))))

    def receive(self, kind: type[M]) -> M:
        """The next message of a kind; others stay for later."""
        while True:
            for place, message in enumerate(self._inbox):
                if isinstance(message, kind):
                    del self._inbox[place]
                    return message
            self._inbox += self._arrived()

    def _arrived(self) -> list[CallMessage]:
        data = self.connection.recv(1 << 16)
        if not data:
            raise EOFError(f"it ended; it had said {self._inbox}")
        return [decode(wire) for wire in self._reader.feed(data)]

    def waiting(self, kind: type[M]) -> list[M]:
        """Those of a kind that have come and were not asked for."""
        return [each for each in self._inbox if isinstance(each, kind)]

    def ended(self) -> bool:
        """Wait for the other side to end the connection."""
        try:
            while data := self.connection.recv(1 << 16):
                self._inbox += [decode(wire) for wire in self._reader.feed(data)]
        except ConnectionError:
            pass
        return True

    def start(self, call: int, function: str, *args: object, **fields: Any) -> None:
        """Start a call with plain arguments; other fields of `Start` by name."""
        start = Start(
            *(call, function, Encoding.MSGPACK, 0, 0, 0, 0, f"{call:016x}", "", ""),
            pack([list(args), {}]),
        )
        self.send(start._replace(**fields))

    def run(self, function: str, *args: object) -> Done:
        """A call from its start to its end."""
        self._calls += 1
        self.start(self._calls, function, *args)
        done = self.receive(Done)
        assert done.call == self._calls
        return done


class FakeHost:
    """A socket to dial, and a template that has dialled it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.address = f"unix:{folder}/host.sock"
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(f"{folder}/host.sock")
        self._listener.listen(64)
        self._listener.settimeout(PATIENCE_S)
        self._numbers = 0
        self.process: subprocess.Popen[str] | None = None
        self.peers: list[Peer] = []
        self._silent: dict[socket.socket, Peer] = {}
        """Who has not said who it is: workers that were forked ahead, while nobody needs them."""

    def accept(self) -> Peer:
        """The next connection whose other side says who it is."""
        while True:
            for peer in self._look():
                try:
                    if not peer.greeted():
                        continue
                except (EOFError, ConnectionError):
                    pass  # it has ended without being needed
                else:
                    self.peers.append(peer)
                    return self._silent.pop(peer.connection)
                del self._silent[peer.connection]
                peer.connection.close()

    def forked_ahead(self, template: Peer, function: str) -> int:
        """Wait for a worker that is forked ahead; its pid.

        One that was there already is used up first: it may have ended since, unaccepted for long.
        """
        self.fork(template, function)
        while not (alive := [each.pid for each in self._silent.values() if is_alive(each.pid)]):
            self._look()
        return alive[0]

    def _look(self) -> list[Peer]:
        """Those of whom something has come; accepts whoever has dialled."""
        came, _, _ = select.select([self._listener, *self._silent], [], [], PATIENCE_S)
        assert came, "nobody came"
        if self._listener in came:
            came.remove(self._listener)
            connection = self._listener.accept()[0]
            try:
                self._silent[connection] = Peer(connection)
            except ConnectionError:
                connection.close()
        return [self._silent[each] for each in came]

    def launch(self, app: str, folder: Path, *more: str) -> Peer:
        """Start a template, as hosts do."""
        command = [sys.executable, "-P", "-m", "bokilog.functions.runtime.template"]
        command += ["--connect", self.address, "--app", app, "--number", "1"]
        command += ["--folder", str(folder), "--started-ns", str(time.monotonic_ns()), *more]
        self.process = subprocess.Popen(
            command,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        template = self.accept()
        assert template.greeting.role == "template"
        return template

    def fork(self, template: Peer, function: str) -> tuple[Peer, int]:
        """A new worker, and its pid."""
        [(worker, ready)] = self.fork_many(template, function, 1)
        return worker, ready.pid

    def fork_many(
        self, template: Peer, function: str, count: int
    ) -> list[tuple[Peer, WorkerReady]]:
        """So many new workers, asked for at once, by their numbers."""
        numbers = list(range(self._numbers + 1, self._numbers + 1 + count))
        self._numbers += count
        template.send(Fork(function, numbers))
        accepted = [self.accept() for _ in numbers]
        workers = sorted(accepted, key=lambda worker: worker.greeting.number)
        found = [(worker, worker.receive(WorkerReady)) for worker in workers]
        greeted = [(worker.greeting.role, worker.greeting.number) for worker in workers]
        assert greeted == [("worker", number) for number in numbers]
        pids = [ready.pid for _, ready in found]
        assert template.receive(Forked) == Forked(numbers, pids)
        return found

    def exited(self, template: Peer, pid: int) -> int:
        """How a worker has ended."""
        while True:
            exited = template.receive(WorkerExited)
            if exited.pid == pid:
                return exited.status - 256

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for peer in (*self.peers, *self._silent.values()):
            peer.connection.close()
        self._listener.close()
        if self.process is not None:
            try:
                self.process.wait(PATIENCE_S)
            finally:
                self.process.kill()
                self.process.communicate()


def ready(template: Peer) -> TemplateReady:
    """What the template says once it can fork."""
    return template.receive(TemplateReady)


def descriptors(pid: int) -> list[str]:
    """What the descriptors of a process lead to, but for the standard ones."""
    folder = f"/proc/{pid}/fd"
    numbers = [name for name in os.listdir(folder) if int(name) > 2]
    return sorted(os.readlink(f"{folder}/{name}") for name in numbers)


def is_alive(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    return status.rpartition(")")[2].split()[0] != "Z"


def wait_gone(pid: int) -> None:
    """Wait for the end of a process that is no child of ours."""
    deadline_s = time.monotonic() + PATIENCE_S
    while is_alive(pid):
        assert time.monotonic() < deadline_s, f"process {pid} is still there"
        time.sleep(0.005)


def kill(pid: int) -> None:
    """By SIGKILL."""
    os.kill(pid, signal.SIGKILL)
